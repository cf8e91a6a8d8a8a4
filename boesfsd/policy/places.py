# SPDX-License-Identifier: Apache-2.0
"""Places: which paths a rule is about, and which of two places is the more specific. Paths are bytes."""

from enum import Enum
from functools import lru_cache
from typing import NamedTuple

NAME_MAX, PATH_MAX = 255, 4096  # bytes; of a path with its final NUL, as in limits.h


made = tuple.__new__
"""made(Type, (...)) for a NamedTuple of which there are as many as rules: in half the time."""


class Wild(Enum):
    """A component of a place that is no name."""

    DEPTH = "**"  # any number of components, none too


class Glob(NamedTuple):
    """A component with stars: PARTS are what stands between them."""

    parts: tuple[bytes, ...]

    def matches(self, name: bytes) -> bool:
        """Whether NAME is the parts with anything between them."""
        first, *middle = self.parts
        if not middle:
            return name == first
        last = middle.pop()
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for part in middle:
            at = name.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    def __str__(self) -> str:
        return "*".join(map(_escaped, self.parts))


Component = bytes | Glob | Wild
DEPTH = Wild.DEPTH
STAR = Glob((b"", b""))
Rank = tuple[bool, tuple[tuple[int, int], ...]]


class Place(NamedTuple):
    """Which paths a rule is about. The root has no components."""

    components: tuple[Component, ...]

    @property
    def covers(self) -> bool:
        """Whether it means an object and all below it, rather than names objects."""
        return bool(self.components) and self.components[-1] is DEPTH

    @property
    def rank(self) -> Rank:
        """How specific it is: greater is more. What names its object is before what covers it; then the one whose
        components, from the root on, are the more exact; then the longer one."""
        covers = self.covers
        names = self.components[:-1] if covers else self.components
        return (not covers, tuple(map(exactness, names)))

    def __str__(self) -> str:
        return "/" + "/".join(_spelled(component) for component in self.components)


def exactness(component: Component) -> tuple[int, int]:
    """Of a name, of a name with stars by what else it has, of `**`; greater is more."""
    if isinstance(component, bytes):
        return (2, 0)
    return (0, 0) if component is DEPTH else (1, sum(map(len, component.parts)))


def _spelled(component: Component) -> str:
    if isinstance(component, bytes):
        return _escaped(component)
    return component.value if isinstance(component, Wild) else str(component)


def _escaped(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").replace("\\", "\\\\").replace("*", "\\*")


def literal(path: str) -> Place:
    """The place of one object, whatever characters its name has. ValueError says what a path is not."""
    directory, _, name = path.rpartition("/")
    names, last = _directory(directory), name.encode("utf-8", "surrogateescape")
    if not names or len(path) > NAME_MAX or last in _WRONG or b"\0" in last:
        return Place(_names(path))
    return made(Place, ((*names, last),))


@lru_cache(maxsize=1 << 14)
def _directory(path: str) -> tuple[bytes, ...]:
    """The components of what many objects have in common; none of the root, and of what is none."""
    try:
        return () if path[-1:] == "/" else _names(path)
    except ValueError:
        return ()


def below(place: Place) -> Place:
    """All that is strictly below."""
    return Place((*place.components, STAR, DEPTH))


def parse(text: str) -> Place:
    """A place with `*` in a component, `**` for any number of components, `\\` before a character that means itself.
    ValueError says what is wrong."""
    components: list[Component] = []
    for name in _names(text):
        component = _component(name)
        if component is not DEPTH or components[-1:] != [DEPTH]:
            components.append(component)
    return Place(tuple(components))


def glob(text: str) -> Glob:
    """Text with `*`, for arguments. ValueError says what is wrong."""
    component = _component(text.encode("utf-8", "surrogateescape"))
    if isinstance(component, Wild):
        return STAR
    return Glob((component,)) if isinstance(component, bytes) else component


def split(path: bytes) -> tuple[bytes, ...]:
    """The components of an absolute path without `.`, `..` and final slash."""
    return tuple(path[1:].split(b"/")) if len(path) > 1 else ()


_WRONG = {b"", b".", b".."}


def _names(path: str) -> tuple[bytes, ...]:
    if path[:1] != "/":
        raise ValueError("a path is absolute: it begins with /")
    whole = path.encode("utf-8", "surrogateescape")
    if len(whole) >= PATH_MAX:
        raise ValueError(f"a path has at most {PATH_MAX - 1} bytes")
    names = split(whole.removesuffix(b"/") or b"/")
    if not _WRONG.isdisjoint(names) or whole == b"//":
        wrong = next((name for name in names if name in _WRONG), b"")
        raise ValueError(f"a path has no {wrong.decode() or 'empty'} component")
    if b"\0" in whole:
        raise ValueError("a path has no NUL")
    if len(whole) > NAME_MAX and max(map(len, names)) > NAME_MAX:
        raise ValueError(f"a component has at most {NAME_MAX} bytes")
    return names


def _component(name: bytes) -> Component:
    if name == b"**":
        return DEPTH
    if b"*" not in name and b"\\" not in name:
        return name
    parts, escaped = [bytearray()], False
    for byte in name:
        if escaped or byte not in b"\\*":
            parts[-1].append(byte)
            escaped = False
        elif byte == ord("\\"):
            escaped = True
        else:
            parts.append(bytearray())
    if escaped:
        raise ValueError("\\ stands before the character that it makes mean itself")
    if any(not part for part in parts[1:-1]):
        raise ValueError("** is a component of its own; within a name write *")
    return Glob(tuple(map(bytes, parts))) if len(parts) > 1 else bytes(parts[0])
