# SPDX-License-Identifier: Apache-2.0
"""The policies of functions, in force: read, compiled, and made the tables that judge in the kernel.

A function's policy has the number of its uid. What judges it is a table, whose digest tells what it was made from: one
that fits is found again after a restart and not made again.
"""

import dataclasses
import hashlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boesfsd import host
from boesfsd.config import CONF
from boesfsd.errors import BoesError
from boesfsd.layout import ORIGIN, VARIABLES, Layout, confined, distinct, tree, tree_at
from boesfsd.model import Function, Learn, PolicyBlock, PolicyFiles, PolicyProgram, PolicySource
from boesfsd.policy import findings, landlock, sources
from boesfsd.policy.image import Image, pack
from boesfsd.policy.judge import Judge
from boesfsd.policy.landlock import Confined, Kept
from boesfsd.policy.places import split
from boesfsd.policy.rules import Finding
from boesfsd.policy.sources import Compiled, Sandbox
from boesfsd.policy.table import Request, TooLargeError

if TYPE_CHECKING:
    from boesfsd import kernel

log = logging.getLogger(__name__)

DEFAULT = CONF / "policy.yaml"
GRACE = 1.0  # seconds in which an operation that began with a table has ended
NOWHERE = Path("/proc/self/nowhere")
CACHED = 64  # compiled policies
_code = hashlib.blake2b(
    b"".join(file.read_bytes() for file in sorted(Path(sources.__file__).parent.glob("*.py")))
).digest()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The policy that a function has: its app's, its own or the host's, and what it is read for."""

    app: PolicySource | None
    function: PolicySource | None
    sandbox: Sandbox
    made: Layout

    @property
    def digest(self) -> bytes:
        """Of all that its table comes from."""
        subjects, rest = sorted(self.sandbox.subjects), self.sandbox._replace(subjects=frozenset())
        text = repr((self.app, self.function, subjects, rest))
        return hashlib.blake2b(_code + text.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    @property
    def names_programs(self) -> bool:
        """Whether a rule may go by the program."""
        return any(
            "sub" in source.model if isinstance(source, PolicyFiles) else "program" in repr(source)
            for source in (self.app, self.function)
            if source
        )

    def compile(self) -> Compiled:
        """InvalidPolicy."""
        return sources.compile_sources(self.app, self.function, self.sandbox)


def host_default(file: Path = DEFAULT) -> PolicyBlock:
    """What holds for functions without a policy. InvalidPolicy: without one, they do not start."""
    try:
        found = sources.open_block(file.read_text(encoding="utf-8"), str(file))
        if isinstance(found, PolicyBlock):
            return found
        raise BoesError("InvalidPolicy", f"{file}: program: what holds for all are rules", hint="see boesfs-policy(5)")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{file}, the policy of functions that have none, cannot be read: {error}"
        raise BoesError("InvalidPolicy", problem, hint="write one; boesfs-policy(5) has examples") from error


@dataclass(frozen=True, slots=True)
class InForce:
    """What judges a function now: its table's number and bytes, what it was made from, the files of its programs, and
    their paths in the order of the table's slots."""

    table: int
    size: int
    wanted: Wanted
    compiled: Compiled
    programs: Mapping["kernel.Executable", frozenset[str]]
    slots: tuple[str, ...]


class _Named(NamedTuple):
    """Programs that the rules of a table name: their files, and which they were."""

    table: int
    files: list[Path]
    were: list[tuple[int, ...]]

    @classmethod
    def of(cls, table: int, files: list[Path]) -> "_Named":
        """As they are now; asked before they are put into the kernel, so that what changes meanwhile is seen later."""
        return cls(table, files, list(map(host.identity, files)))


class Policies:
    """Which table judges which policy. Without BoesFS (enforcement = landlock) there are none."""

    def __init__(self) -> None:
        self._kernel: kernel.Policies | None = None
        self._numbers: Mapping[str, int] = {}
        self._tables: dict[int, kernel.Loaded] = {}
        self._spare: dict[int, list[kernel.Loaded]] = {}
        self._free: deque[int] = deque()
        self._retired: deque[tuple[float, int]] = deque()
        self._lock = threading.RLock()  # deploys, removals and the audit ask in threads of their own
        self._compiled: dict[bytes, Compiled] = {}
        self._in_force: dict[int, InForce] = {}
        self._named: dict[int, _Named] = {}
        self._leaving: dict[int, float] = {}
        self._learning: set[int] = set()
        self.enforcement, self.stricter = "", False
        self.fault: BoesError | None = None
        """Why there is no BoesFS though it is wanted."""

    def configure(self, enforcement: str, *, stricter: bool = False) -> None:
        """Take the settings, and find what is loaded already. STRICTER: without BoesFS a policy may be kept so."""
        self.stricter = stricter
        if self._kernel and enforcement == self.enforcement:
            return
        self.enforcement, self.fault = enforcement, None
        self.close()
        self._tables, self._spare = {}, {}
        self._in_force.clear()
        self._named.clear()
        self._retired.clear()
        self._leaving.clear()
        self._learning.clear()
        if enforcement != "boesfs":
            return
        try:
            from boesfsd import kernel  # noqa: PLC0415 (libbpf is there only where BoesFS is)

            self._kernel = kernel.Policies()
        except (BoesError, ImportError) as error:
            told = error if isinstance(error, BoesError) else BoesError("Unsupported", f"libbpf: {error}")
            log.error("No function can start: %s", told)
            self.fault = told
            return
        self._numbers = kernel.NUMBERS
        self._find(self._kernel)

    def _find(self, loaded: "kernel.Policies") -> None:
        tables = loaded.tables()
        used = {table.number for table in tables}
        self._free = deque(number for number in range(1, self._numbers["BOESFS_TABLES"]) if number not in used)
        for table in tables:  # two of one policy: we ended in between; which of them judges is not known
            self._spare.setdefault(table.policy, []).append(table)

    def close(self) -> None:
        """Let go of the kernel's maps; what is loaded stays and judges."""
        with self._lock:
            if self._kernel:
                self._kernel.close()
            self._kernel = None

    def check_alone(self, policy: PolicySource | None) -> None:
        """An app's policy, before there is a function. InvalidPolicy, Unsupported."""
        if policy is None:
            return
        if isinstance(policy, PolicyProgram):
            self._check_program("The app", policy.program)
            return
        sources.compile_sources(policy, None, Sandbox(VARIABLES))

    def wanted(self, function: Function, made: Layout, read_for: Sandbox) -> Wanted | None:
        """None: it has none, and the host has none for it; or a program. Unsupported, InvalidPolicy."""
        named = function.app.policy or function.policy
        _check_alone(function)
        if function.program:
            self._check_program(function.label, function.program)
            return None
        if self.enforcement != "boesfs" and not named:
            return None
        own = function.policy if named else host_default()
        return Wanted(function.app.policy, own, read_for, made)

    def _check_program(self, whose: str, program: str) -> None:
        """InvalidPolicy: it is not there."""
        if self.fault:
            raise self.fault
        if self.enforcement != "boesfs":
            problem = f"{whose} has the policy program {program}, and enforcement = {self.enforcement} has none"
            raise BoesError("Unsupported", problem, hint="set enforcement = boesfs in boesfsd.conf")
        from boesfsd import kernel  # noqa: PLC0415 (libbpf is there only where BoesFS is)

        if program not in kernel.own_programs():
            problem = f"{whose}: there is no policy program {program}"
            raise BoesError("InvalidPolicy", problem, hint="boesfsctl program set NAME FILE, then reload boesfsd")

    def compile(self, wanted: Wanted) -> Compiled:
        """What WANTED comes to, from a small cache. InvalidPolicy."""
        with self._lock:
            digest = wanted.digest
            compiled = self._compiled.pop(digest, None) or wanted.compile()
            self._compiled[digest] = compiled  # the last to be dropped
            if len(self._compiled) > CACHED:
                del self._compiled[next(iter(self._compiled))]
            return compiled

    def check(self, wanted: Wanted) -> Compiled:
        """What WANTED comes to, and what of its programs is not there; all is refused here that enforce would refuse.
        InvalidPolicy, Unsupported."""
        if self.fault:
            raise self.fault
        compiled = self.compile(wanted)
        if self.enforcement != "boesfs":
            kept = self._kept(wanted)
            confined(distinct(wanted.made), kept)
            told = [told.finding for told in kept.told if told.rule and told.kept is not Kept.EXACT]
            programs = sorted(name for name in wanted.sandbox.subjects if name.startswith("/"))
            if programs and not any(kept.sees(split(path.encode())) for path in programs):
                remedy = "allow [read, exec] on it, and on what it is linked with"
                told.append(Finding(ORIGIN, f"{programs[-1]} is not in the sandbox, so no instance will start", remedy))
            return dataclasses.replace(compiled, findings=(*compiled.findings, *told))
        from boesfsd import kernel  # noqa: PLC0415 (as above)

        image = self._pack(compiled)
        found = zip(image.programs, map(kernel.executable, _files(image.programs, wanted.made)), strict=True)
        missing = {path for path, executable in found if executable is None}
        return dataclasses.replace(compiled, findings=(*compiled.findings, *findings.missing(compiled.policy, missing)))

    def layout(self, wanted: Wanted | None, made: Layout) -> Layout:
        """The sandbox MADE, as WANTED has it: without BoesFS, a policy is kept by what is there at all, and by
        Landlock. InvalidPolicy: it cannot be kept."""
        if wanted is None or self.enforcement == "boesfs":
            return made
        return confined(distinct(made), self._kept(wanted))

    def _kept(self, wanted: Wanted) -> Confined:
        """InvalidPolicy: not at all, or more strictly than the administrator wants."""
        made = distinct(wanted.made)
        try:
            look = host.looking(made.trees, made.hidden)
            kept = landlock.confine(self.compile(wanted).policy, tree(made, look))
        except TooLargeError as error:
            hint = "use fewer places with ** and *"
            raise BoesError("InvalidPolicy", f"The policy cannot be kept: {error}", hint=hint) from error
        for kind, hint in (
            (Kept.IMPOSSIBLE, "set enforcement = boesfs in boesfsd.conf, or change the policy"),
            (Kept.STRICTER, "set stricter = yes in boesfsd.conf to have it so, or enforcement = boesfs"),
        ):
            found = [told for told in kept.told if told.kept is kind]
            if found and not (kind is Kept.STRICTER and self.stricter):
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                problem = f"Without BoesFS a policy cannot be kept as it is: {found[0]}{more}"
                raise BoesError("InvalidPolicy", problem, hint=hint)
        return kept

    def enforce(self, function: Function, wanted: Wanted | None) -> None:
        """From now on WANTED judges the function's instances, those that run too. What is loaded already stays, but for
        the files of its programs, which may be others by now."""
        if wanted is None:
            with self._lock:
                if function.program and function.uid in {*self._tables, *self._spare}:  # instances that run end first
                    self._leaving.setdefault(function.uid, time.monotonic() + function.settings.timeout + GRACE)
            return
        if self.fault:
            raise self.fault
        if self.enforcement != "boesfs":
            return
        with self._lock:
            assert self._kernel
            self._leaving.pop(function.uid, None)
            number, digest = function.uid, wanted.digest
            known = [self._tables.get(number), *self._spare.get(number, ())]
            current = next((table for table in known if table and table.digest == digest), None)
            if current is None:
                current = self._load(function, wanted, digest)
            else:
                if number not in self._tables:
                    self._kernel.replace(number, current.number)
                if wanted.names_programs:
                    programs = self._pack(self.compile(wanted)).programs
                    self._put_programs(number, current.number, _files(programs, wanted.made))
            self._tables[number] = current
            self._spare.pop(number, None)
            for table in known:
                if table and table != current:
                    self._retired.append((time.monotonic() + GRACE, table.number))
        self.sweep()

    def learn(self, function: Function, wanted: Wanted, seconds: int) -> int:
        """Deny nothing of WANTED for so long, or until it is enforced again, and tell of what rules do not allow; the
        table's number. Unsupported, InvalidPolicy."""
        if self.fault:
            raise self.fault
        with self._lock:
            before = self._tables.get(function.uid)
            learn = Learn(secrets.randbelow((1 << 32) - 1) + 1, int(time.clock_gettime(time.CLOCK_BOOTTIME)) + seconds)
            current = self._load(function, wanted, secrets.token_bytes(len(wanted.digest)), learn)
            self._tables[function.uid] = current
            self._learning.add(current.number)
            if before:
                self._retired.append((time.monotonic() + GRACE, before.number))
        return current.number

    def unlearn(self, number: int, table: int) -> None:
        """From now on TABLE, if it is still one that the policy NUMBER learns with, denies like any other."""
        with self._lock:
            if table in self._learning and self._kernel:  # one that is freed is not
                self._learning.discard(table)
                self._kernel.unlearn(table, number)

    def learns(self, function: Function) -> bool:
        """Whether nothing is denied to it now."""
        return self.table_of(function) in self._learning

    def _put_programs(self, number: int, table: int, files: list[Path], *, keep: bool = False) -> None:
        from boesfsd import kernel  # noqa: PLC0415 (as above)

        assert self._kernel
        named = _Named.of(table, files)
        self._kernel.put_programs(table, list(map(kernel.executable, files)), keep=keep)
        self._named[number] = named
        self._in_force.pop(number, None)  # it has the files from before

    def follow_programs(self) -> None:
        """Programs that rules name and that are other files by now, as after an upgrade, count from now on. Who runs as
        the one from before goes on."""
        with self._lock:
            for number, named in list(self._named.items()):
                judging = self._tables.get(number)
                if judging is None or judging.number != named.table:
                    del self._named[number]
                elif _Named.of(named.table, named.files) != named:
                    log.info("A program that rules of policy %d name is another file now", number)
                    try:
                        self._put_programs(number, named.table, named.files, keep=True)
                    except BoesError as error:  # tried again the next time
                        log.warning("It cannot be told to the kernel: %s", error)

    def _load(self, function: Function, wanted: Wanted, digest: bytes, learn: Learn | None = None) -> "kernel.Loaded":
        from boesfsd import kernel  # noqa: PLC0415 (as above)

        compiled = self.compile(wanted)
        image = self._pack(compiled)
        files = _files(image.programs, wanted.made)
        if not self._free:
            raise BoesError("NoSpace", f"All {self._numbers['BOESFS_TABLES']} tables of policies are taken")
        assert self._kernel
        table = self._free.popleft()
        named = _Named.of(table, files)
        try:
            self._kernel.put(
                table,
                image,
                policy=function.uid,
                kill=compiled.policy.kill,
                learn=learn,
                digest=digest,
                programs=list(map(kernel.executable, files)),
            )
            self._kernel.replace(function.uid, table)
        except BaseException:
            self._release(table)
            raise
        self._named[function.uid] = named
        return kernel.Loaded(table, function.uid, digest)

    def _pack(self, compiled: Compiled) -> Image:
        try:
            return pack(compiled.table, self._numbers)
        except TooLargeError as error:
            raise BoesError("InvalidPolicy", f"The policy cannot be loaded: {error}", hint="use fewer rules") from error

    def _release(self, table: int) -> None:
        assert self._kernel
        self._learning.discard(table)
        self._kernel.take_away(table)
        self._free.append(table)  # the last to be used again: counts of rules go by tables

    # --- what they tell

    def in_force(self, function: Function, table: int, find: Callable[[], Wanted | None]) -> InForce | None:
        """What judges the function now, if that is TABLE; FIND is asked once a table for what it was made from. None
        too: what would be read now is another text."""
        with self._lock:
            loaded, known = self._tables.get(function.uid), self._in_force.get(function.uid)
            if loaded is None or loaded.number != table:
                return None
            if known and known.table == table:
                return known
            wanted = find()
            if wanted is None or wanted.digest != loaded.digest:
                return None
            from boesfsd import kernel  # noqa: PLC0415 (as above)

            compiled, programs = self.compile(wanted), dict[kernel.Executable, frozenset[str]]()
            image = self._pack(compiled)
            for path, file in zip(image.programs, _files(image.programs, wanted.made), strict=True):
                if program := kernel.executable(file):
                    programs[program] = programs.get(program, frozenset()) | {path}
            found = InForce(table, image.size, wanted, compiled, programs, image.programs)
            self._in_force[function.uid] = found
            while len(self._in_force) > CACHED:
                del self._in_force[next(iter(self._in_force))]
            return found

    def programs(self, force: InForce, path: str) -> frozenset[str]:
        """What rules call the program at a PATH of the sandbox: whatever leads to the same file. Failed: the kernel
        knows another file by that name."""
        from boesfsd import kernel  # noqa: PLC0415 (as above)

        (file,) = _files([path], force.wanted.made)
        executable = kernel.executable(file)
        if executable is None:
            return frozenset()
        called = force.programs.get(executable, frozenset())
        with self._lock:
            mask = self._kernel.program_mask(force.table, executable) if self._kernel else 0
        if called != {name for slot, name in enumerate(force.slots) if mask >> slot & 1}:
            problem = f"{path} is another file than when the policy was loaded"
            raise BoesError("Failed", problem, hint="systemctl reload boesfsd")
        return called

    def allows(self, function: Function, force: InForce, asked: Iterable[Request]) -> bool | None:
        """What the kernel's table says of all of ASKED together; None: FORCE is no longer what judges."""
        with self._lock:  # meanwhile no table is freed
            judging = self._tables.get(function.uid)
            if self._kernel is None or judging is None or judging.number != force.table:
                return None
            if judging.digest != force.wanted.digest:
                return None
            judge = Judge(self._kernel.maps(force.table), self._numbers, force.slots)
            return all(judge.allows(request) for request in asked)

    def table_of(self, function: Function) -> int:
        """The number of what judges the function, 0 for nothing."""
        table = None if function.program else self._tables.get(function.uid)
        return table.number if table else 0

    def listen(self, hear: Callable[["kernel.Record"], None]) -> int | None:
        """A descriptor that is readable when read() has something for HEAR; None without BoesFS."""
        return self._kernel.listen(hear) if self._kernel else None

    def read(self) -> int:
        """Hand on some of what the kernel has told; how many records."""
        return self._kernel.read() if self._kernel else 0

    def untold(self, instance: int) -> int:
        """How many denials of an instance the kernel had no room to tell."""
        return self._kernel.untold(instance) if self._kernel else 0

    @property
    def numbers(self) -> Mapping[str, int]:
        """The enumerators of both headers."""
        return self._numbers

    # --- ends

    def sweep(self) -> None:
        """Free the tables that judge no more, and that nobody can be reading any longer."""
        with self._lock:
            while self._kernel and self._retired and self._retired[0][0] <= time.monotonic():
                self._release(self._retired.popleft()[1])
            for number in [number for number, when in self._leaving.items() if when <= time.monotonic()]:
                self.forget(number)

    def keep(self, numbers: set[int]) -> None:
        """Forget the policies of all others."""
        for number in {*self._tables, *self._spare} - numbers:
            self.forget(number)

    def forget(self, number: int) -> None:
        """Whoever the policy was for is gone; to what is left of its mounts everything is denied."""
        with self._lock:
            self._leaving.pop(number, None)
            self._in_force.pop(number, None)
            tables = [self._tables.pop(number, None), *self._spare.pop(number, [])]
            if not self._kernel or tables == [None]:
                return
            try:
                self._kernel.forget(number)
            except BoesError as error:  # it was loaded, but never judged
                log.debug("Policy %d: %s", number, error)
            self._retired += [(time.monotonic() + GRACE, table.number) for table in tables if table]


def _check_alone(function: Function) -> None:
    """A program and rules: nobody would keep the rules. InvalidPolicy."""
    both = [policy for policy in (function.app.policy, function.policy) if policy]
    names = {policy.program if isinstance(policy, PolicyProgram) else "" for policy in both}
    if len(names) > 1:
        problem = f"{function.label}: the program {max(names)} decides alone, and app and function have a policy each"
        raise BoesError("InvalidPolicy", problem, hint="move the function to another app, or leave one of them out")


def _files(paths: Iterable[str], made: Layout) -> list[Path]:
    """What paths of the sandbox are on the host; what is in none of its trees is nowhere."""
    found = []
    for path in paths:
        link = next((link for link in made.links if path.startswith(f"{link}/")), "")
        inside = f"/{made.links[link]}/{path.removeprefix(f'{link}/')}" if link else path
        target = tree_at(made.trees, inside)
        known = target and (target not in made.handed or inside.startswith("/usr/"))  # others are not ours to look into
        found.append(Path(made.trees[target], inside.removeprefix(f"{target}/")) if known else NOWHERE)
    return found
