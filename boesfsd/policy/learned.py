# SPDX-License-Identifier: Apache-2.0
"""From what a function did to the policy that allows it, as a block for people to read.

What was seen is operations at paths. It is made general in three ways, each of which is told beside the place it makes:
a name that looks made up (it has a process's number, a time, something random) gets stars; several names that were made
in one directory, begin alike and have one extension are one; and of a directory below which much was read, all may be
read. What makes, changes or removes something is allowed as it was seen, but for directories that the function made.
"""

import json
import posixpath
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from boesfsd.policy import block, operations
from boesfsd.policy.places import DEPTH, STAR, Component, Glob, Place, split

Path = tuple[bytes, ...]
Seen = Mapping[Path, int]
"""Operations, as a mask, at paths."""

MANY = 8  # things of a directory that are read, for all of it to be
SEVERAL = 3  # names that are made, for what they have in common to be a pattern
SHALLOW = 2  # components of the least deep directory of which all is read, but those that variables name
COMMON = 3  # bytes
LONGEST = 255  # bytes of a name, as a block has it
GROUPS = {"read": "read", "write": "write", "list": "iterate", "exec": "exec"}
"""Groups that stand for one system call, and the operation that is it."""
LOOKUP, TMPFILE = operations.BIT["lookup"], operations.BIT["tmpfile"]
MAKES = operations.mask(("create", "mkdir", "mknod", "symlink", "link-to", "rename-to"))
USES = operations.mask(("read", "iterate", "getxattr"))
READS = operations.GROUPS["read"].does | operations.GROUPS["read"].needs
READS |= operations.GROUPS["list"].does | operations.GROUPS["list"].needs
TRIED = re.compile(rb"(?=.*[0-9_])[a-z0-9_]{8}")
TRIES = operations.mask(("create", "write", "unlink"))
"""Python's tempfile makes a file with such a name, and removes it, to see whether a directory can be used."""
MADE_UP = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{18,}"  # a UUID
    rb"|(?=[a-f]*[0-9])[0-9a-f]{8,}"
    rb"|(?<=tmp)[a-z0-9_]{8}"  # Python's tempfile
    rb"|(?<=[._-])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{6}$"  # mkstemp(3)
    rb"|[0-9]{4,}"
)
INVENTED = "a name that looks made up"


class Learned(NamedTuple):
    """Operations at a place, why it is not as it was seen, and at how many paths that was."""

    place: Place
    operations: int
    why: str
    used: int = 1


@dataclass
class _Node:
    """A name of the tree that was seen. MADE: the function made it; KEPT: why it is told as it was seen; HOLDS: it, or
    something below, is kept."""

    operations: int = 0
    made: bool = False
    kept: str = ""
    holds: bool = False
    why: str = ""
    below: dict[Component, "_Node"] = field(default_factory=dict)


def learn(seen: Seen, roots: Mapping[str, str], *, exact: bool = False, kept: Mapping[Path, str]) -> list[Learned]:
    """Places that have all of SEEN. ROOTS are paths by the names of variables, as CODE; EXACT: nothing is made
    general; KEPT: nor are these, and why."""
    patterns = {} if exact else _patterns(seen, kept)
    tree = _Node()
    for path, mask in seen.items():
        node, why = tree, ""
        node.holds = node.holds or path in kept
        for depth, name in enumerate(path, 1):
            component, reason = patterns.get(path[:depth]) or _writable(name)
            why = reason or why
            node = node.below.setdefault(component, _Node())
            node.why = node.why or why
            node.holds = node.holds or path in kept
        node.operations |= mask
        node.made = node.made or bool(mask & MAKES)
        node.kept = node.kept or kept.get(path, "")
    tops = {split(path.encode("utf-8", "surrogateescape")) for path in roots.values()}
    found = _leave(tree, (), tops, exact=exact)
    ways = {learned.place.components[:depth] for learned in found for depth in range(len(learned.place.components))}
    return [learned for learned in found if learned.operations != LOOKUP or learned.place.components not in ways]


# --- names


def _writable(name: bytes) -> tuple[Component, str]:
    """A name, if a block can have it."""
    return (name, "") if _is_writable(name) else (STAR, "a name that cannot be written")


def _is_writable(name: bytes) -> bool:
    told = name.decode("utf-8", "backslashreplace")
    escaped = len(name) + name.count(b"*") + name.count(b"\\")
    return told.isprintable() and told.encode() == name and "${" not in told and escaped <= LONGEST


def _patterns(seen: Seen, kept: Container[Path]) -> dict[Path, tuple[Component, str]]:
    """What stands for the last names of paths that were made, and why."""
    found: dict[Path, tuple[Component, str]] = {}
    made = sorted(path for path, mask in seen.items() if path and mask & (MAKES | TMPFILE) and path not in kept)
    for path in made:
        first, *rest = (bytes(part) for part in MADE_UP.split(path[-1]))
        glob = Glob((first, *(part for part in rest[:-1] if part), rest[-1])) if rest else None
        if seen[path] & TMPFILE and path[-1][:1] == b"#":
            found[path] = Glob((b"#", b"")), "a file that had no name"
        elif glob is None and seen[path] & TRIES == TRIES and TRIED.fullmatch(path[-1]):
            found[path] = STAR, INVENTED
        elif glob and all(map(_is_writable, glob.parts)):
            found[path] = glob, INVENTED
    plain = [path for path in made if path not in found]
    ends = sorted(plain, key=_directory_and_extension)
    for (_, end), group in groupby(ends, key=_directory_and_extension):
        paths = list(group)
        begin = posixpath.commonprefix([path[-1].removesuffix(end) for path in paths]) or b""
        if len(paths) >= SEVERAL and len(begin) >= COMMON and _is_writable(begin) and _is_writable(end):
            for path in paths:
                found[path] = Glob((begin, end)), f"{len(paths)} names that it made"
    return found


def _directory_and_extension(path: Path) -> tuple[Path, bytes]:
    return path[:-1], posixpath.splitext(path[-1])[1]


# --- directories


def _leave(node: _Node, at: tuple[Component, ...], tops: set[Path], *, exact: bool) -> list[Learned]:
    """What is to be told of a name and of what is below it."""
    found = [learned for name, child in node.below.items() for learned in _leave(child, (*at, name), tops, exact=exact)]
    why = ": ".join(filter(None, (node.why, node.kept)))
    own = [Learned(Place(at), node.operations, why)] if node.operations else []
    if exact or not found or node.holds:
        return own + found
    if node.made:
        every = 0
        for learned in found:
            every |= learned.operations
        reason = ", ".join(filter(None, ("in a directory that it made", node.why)))
        return [*own, Learned(Place((*at, STAR, DEPTH)), every, reason, len(found))]
    if len(at) < SHALLOW and at not in tops:
        return own + found
    read = [learned for learned in own + found if learned.operations & USES]
    if len(read) < MANY:
        return own + found
    every, used = 0, 0
    for learned in read:
        every |= learned.operations & READS
        used += learned.used
    told = _told(words(every))
    rest = [learned._replace(operations=learned.operations & ~told) for learned in own + found]
    reason = ", ".join(filter(None, (f"{used} paths of it were used", node.why)))
    whole = Learned(Place((*at, DEPTH)), every, reason, used)
    return [whole, *(learned for learned in rest if learned.operations)]


# --- words


def words(mask: int, *, exact: bool = False) -> list[str]:
    """The words of a rule that allows these operations, and what their system calls need; or, if EXACT, these alone."""
    groups = [] if exact else [name for name, operation in GROUPS.items() if mask & operations.BIT[operation]]
    rest = operations.names(mask & ~_told(groups))
    return groups + [block.ALONE + name if block.ALONE + name in block.NAMES else name for name in rest]


def _told(names: list[str]) -> int:
    found = 0
    for name in names:
        if name in GROUPS:
            found |= operations.GROUPS[name].does | operations.GROUPS[name].needs
        else:
            found |= operations.BIT[name.removeprefix(block.ALONE)]
    return found


def spelled(place: Place, roots: Mapping[str, str]) -> str:
    """A place as a rule names it, with the variable for where it begins."""
    told = str(place)
    for name, path in roots.items():
        if told == path or told.startswith(f"{path}/"):
            told = f"${{{name}}}{told.removeprefix(path)}"
            break
    return json.dumps(told, ensure_ascii=False)


def text(found: list[Learned], roots: Mapping[str, str], *, kill: int | None = None, exact: bool = False) -> str:
    """A block with these rules."""
    return "".join(f"{line}\n" for line in _lines(found, roots, kill, exact=exact))


def _lines(found: list[Learned], roots: Mapping[str, str], kill: int | None, *, exact: bool) -> Iterator[str]:
    yield "default: deny"
    if kill is not None:
        yield f"kill: {kill}"
    yield "rules:" if found else "rules: []"
    rules: dict[str, dict[str, None]] = {}
    for learned in sorted(found, key=lambda learned: spelled(learned.place, roots)):
        place = spelled(learned.place, roots) + (f"  # {learned.why}" if learned.why else "")
        rules.setdefault(", ".join(words(learned.operations, exact=exact)), {})[place] = None
    for allowed, places in rules.items():
        yield f"  - allow: [{allowed}]"
        yield "    on:"
        yield from (f"      - {place}" for place in places)
