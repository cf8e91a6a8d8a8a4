# SPDX-License-Identifier: Apache-2.0
"""A policy without BoesFS: what of the host is in the sandbox at all, what is read-only, and Landlock's rights.

Landlock gives rights to a directory and all below, and takes none back. What a policy hides is not put into the
sandbox; what is put there has its attributes readable, for nothing on a stock kernel forbids that. So a policy is kept
as it is, or more strictly, or not at all, and each rule is told which.

GOVERNED operations are those that can be told apart. The others FOLLOW: who may do anything with an object may do
these, unless a rule denies them, which hides it.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from boesfsd.policy import operations, oracle
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.operations import ALL, mask
from boesfsd.policy.places import Place
from boesfsd.policy.rules import PLATFORM, Finding, Policy, Rule
from boesfsd.policy.table import Table

FOLLOW = mask((
    *("open", "llseek", "mmap", "fsync", "lock", "ioctl", "link", "lookup", "probe", "readlink", "getattr", "access"),
    *("statfs", "getxattr", "listxattr", "tmpfile"),
))  # fmt: skip
META = mask(("chmod", "chown", "utimes", "chattr", "setxattr", "removexattr"))
"""Not Landlock's: whoever owns a file may do this where the mount is not read-only."""
RIGHTS = {
    "r": mask(("read",)),
    "l": mask(("iterate",)),
    "x": mask(("exec",)),
    "w": mask(("write", "fallocate")),
    "t": mask(("truncate",)),
    "f": mask(("create", "link-to", "rename-to")),
    "d": mask(("mkdir", "rename-to")),
    "s": mask(("symlink", "link-to", "rename-to")),
    "n": mask(("mknod", "link-to", "rename-to")),
    "u": mask(("unlink", "rename")),
    "e": mask(("rmdir", "rename")),
    "m": mask(("rename", "rename-to", "link-to")),
}
"""Those of the agent's plan (`allow`), and what each lets one do: all of it has to be allowed."""
READS = "rlx"
OF_FILES, OF_DIRECTORIES = RIGHTS["r"] | RIGHTS["x"], RIGHTS["r"] | RIGHTS["l"] | RIGHTS["x"]
"""What there is to lose where nothing can be changed."""
GETATTR = mask(("getattr",))
SEEN = ALL + 1
"""Beside what is allowed, if that is anything for which the object has to be there."""
HIDDEN, LESS = "it is hidden", "what is denied to something below is denied to all"
MOST_PIECES, MOST_GRANTS, MOST_VISITS, MOST_STATES = 1024, 2048, 20_000, 20_000
MOST_BESIDE, MOST_BYTES, MOST_LOST = 2000, 400_000, 1000
ABI = 3
"""Landlock's, from which truncating is its too."""
Path = tuple[bytes, ...]
Look = Callable[[Path], "list[bytes] | bytes | int"]


class Kept(enum.Enum):
    """How a rule is kept."""

    EXACT = "exact"
    STRICTER = "stricter"
    IMPOSSIBLE = "impossible"


class Told(NamedTuple):
    """How a rule (None: what stands beside the rules) is kept, and, if not exactly, why."""

    rule: Rule | None
    kept: Kept
    why: str = ""

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.kept.value}: {self.why}"
        place = f"{self.rule.origin}: {self.rule.origin.text} [{self.rule.place}]"
        return f"{self.kept.value}: {place}" + (f": {self.why}" if self.why else "")

    @property
    def finding(self) -> Finding:
        """For who deploys it."""
        assert self.rule
        message = f"it is kept {self.kept.value}: {self.rule.origin.text} [{self.rule.place}]: {self.why}"
        return Finding(self.rule.origin, message, "enforcement = boesfs keeps it as it is")


@dataclass(frozen=True, slots=True)
class Tree:
    """What a sandbox could have. LOOK tells the names in a directory, where a symlink leads, or how many names anything
    else has; FileNotFoundError: there is nothing. READ_ONLY: where trees of the host are; FREE: what is empty at first
    and the function's own; FILES and LINKS: the root's own. FIXED: read-only ones that never change. WRITTEN:
    trees of the host that are the sandbox's to change."""

    look: Look
    read_only: tuple[Path, ...]
    free: tuple[Path, ...]
    files: tuple[Path, ...] = ()
    links: Mapping[Path, bytes] = field(default_factory=dict)
    fixed: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()


@dataclass
class Confined:
    """What it comes to. PIECES of the trees (True: a directory) are put in as a whole, beside directories and LINKS
    that are MADE for them; FREE ones may be used, FILES are there; RIGHTS by path, of that and all below."""

    pieces: dict[Path, bool] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)
    links: dict[Path, bytes] = field(default_factory=dict)
    free: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    rights: dict[Path, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)

    def sees(self, path: Path) -> bool:
        """Whether the object is there, and its attributes can be read."""
        above = {path[:depth] for depth in range(len(path) + 1)}
        alone = path in self.made or path in self.links
        return alone or not above.isdisjoint((*self.pieces, *self.free, *self.files))

    def allows(self, operation: str, path: Path) -> bool:
        """Whether a governed operation is."""
        bit = operations.BIT[operation]
        above = [path[:depth] for depth in range(len(path) + 1)]
        if bit & META:
            return any(place in self.free or place in self.written for place in above)
        letters = "".join(self.rights.get(place, "") for place in above)
        return any(RIGHTS[letter] & bit for letter in letters)


def confine(policy: Policy, tree: Tree) -> Confined:
    """Nothing is allowed that POLICY denies, of what is governed; where a rule cannot be kept so, that is told and the
    rest is of no use. TooLargeError."""
    worker = _Worker(policy, tree)
    worker.work()
    worker.found.told[:0] = worker.classes()
    return worker.found


class _Impossible(Exception):  # noqa: N818 (it is no error)
    """With the sentence that tells why."""


@dataclass
class _Below:
    """Of a state and all that are reached from it: whether each of them is VISIBLE, or NONE; what ALL of the visible
    ones allow, what EVERY one does, and what ANY does."""

    visible: bool
    none: bool
    all: int
    every: int
    any: int


class _Worker:
    def __init__(self, policy: Policy, tree: Tree) -> None:
        self.policy, self.tree, self.found = policy, tree, Confined()
        self.table: Table = compile_policy(policy)
        free = compile_policy(dataclasses.replace(policy, default=policy.default | FOLLOW))
        assert free.edges == self.table.edges, "states are told by places"
        self.allow = [_together(*pair) for pair in zip(_allowed(self.table), _allowed(free), strict=True)]
        self.lost: list[tuple[Path, int, str]] = []
        self.visits = 0
        self._names: dict[int, list[tuple[bytes, int]]] = {}
        for state, name, target in self.table.edges:
            self._names.setdefault(state, []).append((name, target))
        self.below = self._reach() if len(self.table.states) <= MOST_STATES else []

    # --- states

    def _next(self, state: int) -> list[int]:
        row = self.table.states[state]
        others = self._ends(row.machine) if row.machine >= 0 else [row.otherwise]
        return [*(target for _, target in self._names.get(state, ())), *others]

    def _ends(self, machine: int) -> list[int]:
        seen, waiting = {machine}, [machine]
        while waiting:
            at = waiting.pop()
            steps = (self.table.steps[at, byte] for byte in self.table.bytes_of.get(at, ()))
            for target in (*steps, self.table.machines[at].otherwise):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return sorted({self.table.machines[at].end for at in seen})

    def _reach(self) -> list[_Below]:
        count = len(self.table.states)
        following = [self._next(state) for state in range(count)]
        below = []
        for state in range(count):
            allow = self.allow[state]
            sees = _visible(allow)
            below.append(_Below(sees, not sees, allow if sees else ALL, allow, allow))
        self._settle(below, following)
        for one, allow in zip(below, self.allow, strict=True):
            if not one.visible and not one.none:  # a directory may be made for what is below it, and then listed
                one.all &= ~(RIGHTS["l"] & ~allow)
        self._settle(below, following)
        return below

    @staticmethod
    def _settle(below: list[_Below], following: list[list[int]]) -> None:
        changed = True
        while changed:
            changed = False
            for state in reversed(range(len(below))):
                one = below[state]
                for child in (below[target] for target in following[state]):
                    new = _Below(
                        one.visible and child.visible,
                        one.none and child.none,
                        one.all & child.all,
                        one.every & child.every,
                        one.any | child.any,
                    )
                    if new != one:
                        below[state] = one = new
                        changed = True

    # --- the tree

    def work(self) -> None:
        try:
            if not self.below:
                raise _Impossible(f"it has over {MOST_STATES} states")
            for piece in self.tree.free:
                self._free(piece)
            for piece in self.tree.written:
                self._written(piece)
            for piece in self.tree.read_only:
                self._visit(piece, self.table.label(piece), there=False)
            for file in self.tree.files:
                self._file(file)
            for link, target in self.tree.links.items():
                if _visible(self.allow[self.table.label(link)]):
                    self.found.links[link] = target
                else:
                    self._lose(link, self.allow[self.table.label(link)] & GETATTR, HIDDEN)
            self._check_size()
        except _Impossible as reason:
            self.found.told.append(Told(None, Kept.IMPOSSIBLE, str(reason)))

    def _check_size(self) -> None:
        found = self.found
        paths = (*found.pieces, *found.pieces, *found.rights, *found.made, *found.links)
        names = sum(len(name) + 1 for path in paths for name in path) + sum(map(len, found.links.values()))
        beside = len(found.made) + len(found.links) - len(self.tree.links)
        for count, most in (
            (len(found.pieces), MOST_PIECES),
            (len(found.rights), MOST_GRANTS),
            (beside, MOST_BESIDE),
            (names, MOST_BYTES),
            (len(self.lost), MOST_LOST),
        ):
            if count > most:
                raise _Impossible("it would take too many pieces; hide whole directories, or less")

    def _free(self, piece: Path) -> None:
        below = self.below[self.table.label(piece)]
        granted = self._grant(piece, below.every, "".join(RIGHTS))
        if not self.found.rights.get(piece, "").strip(READS):
            self.found.rights.pop(piece, None)  # nothing can be made there, so there is nothing
            self._lose(piece, below.any & ~FOLLOW & ~OF_DIRECTORIES, LESS)
            return
        if not below.visible:
            raise _Impossible(f"nothing can be hidden in {Place(piece)}, where a function makes what it likes")
        self._check_meta(piece, below, "where writing is allowed")
        self.found.free.append(piece)
        self._lose(piece, below.any & ~granted & ~FOLLOW & ~META, LESS)

    @staticmethod
    def _check_meta(piece: Path, below: _Below, why: str) -> None:
        if META & ~below.every:
            names = ", ".join(operations.names(META & ~below.every))
            raise _Impossible(f"{names} cannot be denied in {Place(piece)}, {why}")

    def _written(self, piece: Path) -> None:
        """A tree of the host that may be changed: all of it is there, or nothing."""
        below = self.below[self.table.label(piece)]
        if below.none:
            self._lose(piece, below.any, HIDDEN)
            return
        if not below.visible:
            raise _Impossible(f"nothing can be hidden in {Place(piece)}, which is there to be written")
        granted = self._grant(piece, below.every, "".join(RIGHTS))
        self.found.pieces[piece] = True
        if not self.found.rights.get(piece, "").strip(READS):  # nothing can be changed, so it is read-only
            self._lose(piece, below.any & ~granted & ~FOLLOW, LESS)
            return
        self._check_meta(piece, below, "which is there to be written")
        self.found.written.append(piece)
        self._lose(piece, below.any & ~granted & ~FOLLOW & ~META, LESS)

    def _file(self, path: Path) -> None:
        allow = self.allow[self.table.label(path)]
        if _visible(allow):
            self.found.files.append(path)
            self._grant(path, allow, "r")
        else:
            self._lose(path, _lost(allow, RIGHTS["r"]), HIDDEN)

    def _visit(self, path: Path, state: int, *, there: bool) -> None:
        """What of PATH is in the sandbox; THERE: it is, by what is above it."""
        self.visits += 1
        if self.visits > MOST_VISITS:
            raise _Impossible(f"it tells over {MOST_VISITS} files apart; say it with fewer places that have *")
        allow = self.allow[state]
        try:
            inside = self.tree.look(path)
        except FileNotFoundError:
            return
        if isinstance(inside, list):
            self._visit_directory(path, state, inside, there=there)
        elif not _visible(allow):
            self._lose(path, _lost(allow, 0 if isinstance(inside, bytes) else OF_FILES), HIDDEN)
        elif isinstance(inside, int):
            if not there:
                self.found.pieces[path] = False
            if inside == 1:
                self._grant(path, allow, "rx")
            else:  # rights of a file are of all its names
                self._lose(path, allow & OF_FILES & ~self._granted(path), "it has another name, which may be denied")
        elif not there:
            self.found.links[path] = inside  # what it leads to is judged where that is

    def _visit_directory(self, path: Path, state: int, names: list[bytes], *, there: bool) -> None:
        below, allow = self.below[state], self.allow[state]
        if below.none:
            self._lose(path, _lost(allow, OF_DIRECTORIES) | below.any & OF_DIRECTORIES, HIDDEN)
            return
        granted = self._grant(path, below.all, READS)
        if not there and below.visible:
            self.found.pieces[path] = there = True
        elif not there:
            self.found.made.append(path)
            self._lose(path, allow & RIGHTS["l"], "what is hidden in it is not listed")
        self._lose(path, allow & RIGHTS["l"] & ~granted, "what is in directories below could be listed too")
        if below.visible and not below.any & ~granted & OF_DIRECTORIES:
            return
        row, known = self.table.states[state], dict(self._names.get(state, ()))
        others = [self.below[target] for target in (self._ends(row.machine) if row.machine >= 0 else [row.otherwise])]
        if all(other.none for other in others):
            names = [name for name in names if name in known]
        elif not any(path[: len(piece)] == piece for piece in self.tree.fixed):
            later = 0
            for other in others:
                later |= other.any
            self._lose(path, later & ~(granted if there else 0) & OF_DIRECTORIES, "what is put there later is not seen")
        for name in names:
            self._visit((*path, name), self.table.next(state, name), there=there)

    # --- rights

    def _granted(self, path: Path) -> int:
        letters = {letter for depth in range(len(path) + 1) for letter in self.found.rights.get(path[:depth], "")}
        return sum_of(letters)

    def _grant(self, path: Path, allowed: int, letters: str) -> int:
        """Those of LETTERS all of which is ALLOWED; what that and what is above lets one do."""
        have = self._granted(path)
        more = "".join(letter for letter in letters if not RIGHTS[letter] & ~allowed and RIGHTS[letter] & ~have)
        if more:
            self.found.rights[path] = more
        return have | sum_of(more)

    def _lose(self, path: Path, lost: int, why: str) -> None:
        if lost & ALL:
            self.lost.append((path, lost & ALL, why))

    # --- rules

    def classes(self) -> Iterator[Told]:
        if any(told.kept is Kept.IMPOSSIBLE for told in self.found.told):
            return
        if self.policy.kill:
            yield Told(None, Kept.IMPOSSIBLE, "kill: nobody counts denials")
        for rule in self.policy.rules:
            if rule.verdict.layer != PLATFORM:
                yield self._class(rule)

    def _class(self, rule: Rule) -> Told:
        verdict = rule.verdict
        for is_so, why in (
            (verdict.tests, "arguments, programs and users are not looked at"),
            (verdict.audit, "nobody tells of what is allowed"),
            (verdict.kill, "nobody counts denials"),
        ):
            if is_so:
                return Told(rule, Kept.IMPOSSIBLE, why)
        hides = not verdict.allow and verdict.operations & FOLLOW
        at: list[tuple[Path, int, str]] = []
        above: list[tuple[Path, int, str]] = []
        for path, lost, why in self.lost:
            if about := lost if hides else lost & verdict.operations:
                (at if oracle.matches(rule.place, path) else above).append((path, about, why))
        for path, about, why in (*at, *above):
            if _concerns(rule.place, path):
                names = ", ".join(operations.names(about))
                return Told(rule, Kept.STRICTER, f"{Place(path)}: {names} is denied: {why}")
        return Told(rule, Kept.EXACT)


def sum_of(letters: Iterable[str]) -> int:
    """What rights let one do together."""
    found = 0
    for letter in letters:
        found |= RIGHTS[letter]
    return found


def _visible(allow: int) -> bool:
    return not (FOLLOW | SEEN) & ~allow


def _allowed(table: Table) -> list[int]:
    return [table.classes[state.klass].allow for state in table.states]


def _together(allow: int, free: int) -> int:
    """Of what is governed what is allowed, of the rest what no rule denies."""
    return allow & ~FOLLOW | free & FOLLOW | (SEEN if allow & (~FOLLOW | GETATTR) else 0)


def _lost(allow: int, able: int) -> int:
    """Of what is hidden: what could be done with it."""
    return allow & (able | (GETATTR if allow & SEEN else 0))


def _concerns(place: Place, path: Path) -> bool:
    """Whether PATH is at PLACE, or something below it may be."""
    if oracle.matches(place, path):
        return True
    return any(oracle.matches(Place(place.components[:depth]), path) for depth in range(len(place.components)))
