# SPDX-License-Identifier: Apache-2.0
"""Tables in words: what is allowed where, and what another policy would change.

Paths that are at the same places, of those that rules name or that lead there, are judged alike. So each such set of
paths is told once, by the narrowest of its places. A path is meant by the lines whose places it all is at, and of these
by the narrowest.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from boesfsd.policy import operations
from boesfsd.policy.places import DEPTH, STAR, Component, Glob, Place
from boesfsd.policy.rules import EVERY_BIT, HIGH, LOW, Number, Other, Program, Test, Text, Uid, Verdict
from boesfsd.policy.sources import Compiled
from boesfsd.policy.table import Class, Table, TooLargeError

MOST_TRIED = 64  # names that are tried before a pattern is taken for one that others cover
MOST_VISITED = 1 << 18  # sets of paths, and states of automata
SLASH = ord("/")  # no name has one
OTHERS = (*b"xyzqjkw", *range(1, 256))  # of these one that no pattern has
Pair = tuple[int, int]
Nodes = frozenset["_Node"]


class Row(NamedTuple):
    """A state: what everybody may do there, and what depends, the first condition that holds first."""

    state: int
    place: str
    allowed: int
    conditions: tuple[str, ...]


class Difference(NamedTuple):
    """What changes about operations at a place: allow, deny, depend (on what, or on something else), told (audit or a
    threshold, not who may), or same, where a wider place changes. kill stands alone."""

    place: str
    change: str
    what: str


class _Node:
    """A place that a rule names, or that leads there."""

    __slots__ = ("depth", "globs", "names", "place")

    def __init__(self, components: tuple[Component, ...]) -> None:
        self.place = Place(components)
        self.names: dict[bytes, _Node] = {}
        self.globs: dict[Glob, _Node] = {}
        self.depth: _Node | None = None

    def child(self, component: Component) -> "_Node":
        components = (*self.place.components, component)
        if isinstance(component, bytes):
            return self.names.setdefault(component, _Node(components))
        if isinstance(component, Glob):
            return self.globs.setdefault(component, _Node(components))
        self.depth = self.depth or _Node(components)
        return self.depth


def _tree(policies: Sequence[Compiled]) -> _Node:
    root = _Node(())
    for compiled in policies:
        for rule in compiled.policy.rules:
            node = root
            for component in rule.place.components:
                node = node.child(component)
    return root


def _closed(nodes: set[_Node]) -> Nodes:
    """With those that any number of components leads to, none too."""
    return frozenset(nodes | {node.depth for node in nodes if node.depth})


def _step(nodes: Nodes, name: bytes) -> Nodes:
    """At which places what has this name is."""
    reached = set()
    for node in nodes:
        if node.place.covers:
            reached.add(node)
        if name in node.names:
            reached.add(node.names[name])
        reached.update(child for glob, child in node.globs.items() if glob.matches(name))
    return _closed(reached)


def _covers(wide: tuple[Component, ...], narrow: tuple[Component, ...]) -> bool:
    """Whether all that is at NARROW is at WIDE; not always seen where both have patterns."""
    if not wide:
        return not narrow
    if wide[0] is DEPTH:
        return _covers(wide[1:], narrow) or (bool(narrow) and _covers(wide, narrow[1:]))
    return bool(narrow) and _alike(wide[0], narrow[0]) and _covers(wide[1:], narrow[1:])


def _alike(wide: Component, narrow: Component) -> bool:
    if narrow is DEPTH or wide == narrow:
        return wide == narrow
    if isinstance(wide, Glob):
        return wide == STAR or (isinstance(narrow, bytes) and wide.matches(narrow))
    return False


@dataclass(frozen=True, slots=True)
class _Visit:
    """A set of paths: the states of both tables, the places that they are at, and the narrowest of these."""

    pair: Pair
    nodes: Nodes
    narrowest: tuple[_Node, ...]

    @property
    def place(self) -> str:
        told = " and ".join(str(node.place) for node in self.narrowest) or "/**"
        return told.encode("utf-8", "backslashreplace").decode()


def _visit(pair: Pair, nodes: Nodes) -> _Visit:
    ranked = sorted(nodes, key=lambda node: (node.place.rank, str(node.place)), reverse=True)
    narrowest: list[_Node] = []
    for node in ranked:
        covered = (_covers(node.place.components, other.place.components) for other in ranked if other is not node)
        if not any(covered):
            narrowest.append(node)
    return _Visit(pair, nodes, tuple(narrowest))


class _Walk:
    """Two tables side by side, over all sets of paths that their rules tell apart."""

    def __init__(self, old: Compiled, new: Compiled) -> None:
        self._tables = (old.table, new.table)
        self._root = _tree((old, new))
        self._edges: list[dict[int, list[bytes]]] = [{}, {}]
        for edges, table in zip(self._edges, self._tables, strict=True):
            for state, name, _ in table.edges:
                edges.setdefault(state, []).append(name)
        used = {byte for table in self._tables for _, byte in table.steps} | {SLASH}
        self._other = next((byte for byte in OTHERS if byte not in used), SLASH)
        self._work = 0

    def run(self) -> list[_Visit]:
        """The nearest first; the states may tell more apart than the rules."""
        begin = ((0, 0), _closed({self._root}))
        known, waiting = {begin: None}, deque([begin])
        while waiting:
            (old, new), nodes = waiting.popleft()
            for name in self._names((old, new)):
                pair = (self._tables[0].next(old, name), self._tables[1].next(new, name))
                following = (pair, _step(nodes, name))
                if following not in known:
                    known[following] = None
                    waiting.append(following)
                    self._count()
        return [_visit(pair, nodes) for pair, nodes in known]

    def _count(self) -> None:
        self._work += 1
        if self._work > MOST_VISITED:
            raise TooLargeError(f"over {MOST_VISITED} places and patterns")

    def _names(self, pair: Pair) -> list[bytes]:
        """Names that lead to all that any name leads to."""
        edges = {name for side, state in enumerate(pair) for name in self._edges[side].get(state, ())}
        return [*self._examples(pair, edges), *sorted(edges)]

    def _examples(self, pair: Pair, names: set[bytes]) -> list[bytes]:
        """One that no pattern matches, and one for each pair of states that patterns lead to. NAMES have edges."""
        begin = tuple(table.states[state].machine for table, state in zip(self._tables, pair, strict=True))
        plain = next(
            text for length in range(1, len(names) + 2) if (text := bytes([self._other]) * length) not in names
        )
        if begin == (-1, -1):
            return [plain]
        ends: dict[Pair, bytes] = {}
        tried: dict[tuple[int, ...], int] = {}
        waiting = deque([(begin, b"")])
        while waiting:
            machines, text = waiting.popleft()
            if text and text not in names:
                ends.setdefault(self._end(machines), text)
            for byte in sorted({self._other, *self._bytes(machines)}):
                sides = zip(self._tables, machines, strict=True)
                following = tuple(_machine_step(table, machine, byte) for table, machine in sides)
                if tried.get(following, 0) <= min(len(names), MOST_TRIED):
                    tried[following] = tried.get(following, 0) + 1
                    waiting.append((following, text + bytes([byte])))
                    self._count()
        return list(ends.values())

    def _bytes(self, machines: tuple[int, ...]) -> Iterator[int]:
        for table, machine in zip(self._tables, machines, strict=True):
            yield from table.bytes_of.get(machine, ())

    def _end(self, machines: tuple[int, ...]) -> Pair:
        """What the end of a name means; a table without a machine here says nothing."""
        first, second = (
            -1 if machine < 0 else table.machines[machine].end
            for table, machine in zip(self._tables, machines, strict=True)
        )
        return first, second


def _machine_step(table: Table, machine: int, byte: int) -> int:
    return machine if machine < 0 else table.steps.get((machine, byte), table.machines[machine].otherwise)


def rows(compiled: Compiled) -> Iterator[Row]:
    """All of a table. TooLargeError."""
    table = compiled.table
    for visit in _Walk(compiled, compiled).run():
        state = visit.pair[0]
        klass = _class(table, state)
        told = tuple(_condition(mask, verdict) for mask, verdict in klass.conditions)
        yield Row(state, visit.place, klass.allow, told)


def differences(old: Compiled, new: Compiled) -> list[Difference]:
    """What NEW would change of OLD. TooLargeError."""
    kills = (old.policy.kill, new.policy.kill)
    told = [Difference("", "kill", f"{kills[1]}, was {kills[0]}")] if kills[0] != kills[1] else []
    return told + list(_changed(old, new))


def _changed(old: Compiled, new: Compiled) -> Iterator[Difference]:
    visits = list({visit.nodes: visit for visit in _Walk(old, new).run()}.values())
    changes = [_changes(_class(old.table, visit.pair[0]), _class(new.table, visit.pair[1])) for visit in visits]
    by_node: dict[_Node, list[int]] = {}
    for number, visit in enumerate(visits):
        for node in visit.narrowest[:1]:
            by_node.setdefault(node, []).append(number)
    nowhere = [number for number, visit in enumerate(visits) if not visit.narrowest]
    for number, visit in enumerate(visits):
        wider = [other for node in visit.nodes for other in by_node.get(node, ())] + nowhere
        wider = [other for other in wider if other != number and set(visits[other].narrowest) <= visit.nodes]
        nearest = [
            other
            for other in wider
            if not any(between != other and set(visits[other].narrowest) <= visits[between].nodes for between in wider)
        ]
        expected = {changes[other] for other in nearest} or {()}
        if expected != {changes[number]}:
            for change, mask in changes[number] or (("same", operations.ALL),):
                yield Difference(visit.place, change, spell(mask))


def _class(table: Table, state: int) -> Class:
    return table.classes[table.states[state].klass]


_Changes = tuple[tuple[str, int], ...]


def _changes(old: Class, new: Class) -> _Changes:
    """Kinds of changes, and of which operations."""
    found: dict[str, int] = {}
    for bit in operations.BIT.values():
        before, after = _effect(old, bit), _effect(new, bit)
        if before != after:
            change = "depend" if len(after) > 1 else "allow" if after[0].allow else "deny"
            if list(map(_access, before)) == list(map(_access, after)):
                change = "told"
            found[change] = found.get(change, 0) | bit
    return tuple(sorted(found.items()))


def _effect(klass: Class, bit: int) -> tuple[Verdict, ...]:
    """What is decided about one operation: by the first that holds, the last always does."""
    found = []
    for mask, verdict in klass.conditions:
        if mask & bit:
            found.append(Verdict(verdict.allow, 0, verdict.tests, audit=verdict.audit, kill=verdict.kill))
            if not verdict.tests:
                return tuple(found)
    return (*found, Verdict(bool(klass.allow & bit), 0))


def _access(verdict: Verdict) -> tuple[bool, tuple[Test, ...]]:
    """Who may, whatever is told of it."""
    return verdict.allow, verdict.tests


# --- words


def spell(mask: int) -> str:
    """Operations."""
    if mask == operations.ALL:
        return "all"
    names, others = operations.names(mask), operations.names(operations.ALL & ~mask)
    return ", ".join(names) if len(names) <= len(others) else f"all but {', '.join(others)}"


def _condition(mask: int, verdict: Verdict) -> str:
    tests = " and ".join(map(_test, verdict.tests))
    more = [*(["audited"] if verdict.audit else []), *([f"kill: {verdict.kill}"] if verdict.kill else [])]
    words = f"{'allow' if verdict.allow else 'deny'} {spell(mask)}{f' if {tests}' if tests else ''}"
    return f"{words} ({', '.join(more)})" if more else words


def _test(test: Test) -> str:
    match test:
        case Number(argument, low, high, mask):
            name = argument if mask == EVERY_BIT else f"{argument} & {mask:#o}"
            return f"{name} is {_range(low, high)}"
        case Text(argument, glob):
            return f"{argument} is {glob if glob != STAR else '*'}"
        case Other(place):
            return f"other is {place}"
        case Program(path):
            return f"program is {path}"
        case Uid(low, high):
            return f"uid is {_range(low, high)}"
    raise TypeError(test)


def _range(low: int, high: int) -> str:
    if low == high:
        return str(low)
    if low == LOW:
        return "any" if high == HIGH else f"at most {high}"
    return f"at least {low}" if high == HIGH else f"{low} to {high}"
