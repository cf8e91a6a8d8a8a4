# SPDX-License-Identifier: Apache-2.0
"""From rules to a table: all places together are one automaton over the components of a path, made deterministic by
subset construction; what names with stars match is one over bytes."""

from collections.abc import Callable, Iterable
from itertools import compress, groupby
from operator import not_
from typing import NamedTuple

from boesfsd.policy import operations
from boesfsd.policy.places import DEPTH, STAR, Component, Glob, Rank, exactness
from boesfsd.policy.rules import WALK, Other, Policy, Text, Verdict
from boesfsd.policy.table import Class, Condition, Machine, State, Table, TooLargeError

MAX_OVERLAPS, MAX_NAMES, MAX_STEPS, MAX_WORK = 1 << 15, 1 << 19, 1 << 15, 1 << 19
"""States that several places share, names that lead on from these, rows for names with stars, and the sizes of all
these sets together. More come of nothing but many places with `**` and stars that overlap."""


class _Node:
    """What begins with the same components: a place, and those below it. LONE: names that one rule is about and nothing
    is below, as most are: they become nodes when somebody looks at them."""

    __slots__ = (
        "closes",
        "component",
        "depth",
        "globs",
        "lone",
        "marks",
        "names",
        "number",
        "parent",
        "reach",
        "rules",
        "state",
        "walk",
    )

    def __init__(self, number: int, parent: "_Node | None", component: Component) -> None:
        self.number, self.parent, self.component = number, parent, component
        self.names: dict[bytes, _Node] = {}
        self.lone: dict[bytes, int] = {}
        self.globs: dict[Glob, _Node] = {}
        self.depth: _Node | None = None
        self.rules: list[int] = []
        self.marks: tuple[int, ...] = ()
        self.walk = False
        self.reach: frozenset[int] = frozenset()
        self.state = -1

    @property
    def is_plain(self) -> bool:
        """Whether only names lead on."""
        return self.depth is None and not self.globs and self.component is not DEPTH

    @property
    def is_leaf(self) -> bool:
        """Whether nothing is below it."""
        return self.is_plain and not self.names and not self.lone

    @property
    def rank(self) -> Rank:
        """As Place.rank."""
        names: list[tuple[int, int]] = []
        node = self.parent if self.component is DEPTH else self
        while node and node.parent:
            names.append(exactness(node.component))
            node = node.parent
        return (self.component is not DEPTH, tuple(reversed(names)))


Signature = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""Of each place that an object is at, the most specific first: its verdicts' numbers in their order, and its marks."""


MOST_COMPARED = 100
"""Verdicts on one object; where there are more, none is said to be without effect."""
LEAST = (-(1 << 30), 0, False)
_NOWHERE: Rank = (False, ())


class _Below(NamedTuple):
    """What can be decided at a place and below it: by ranks of place and verdict the first, which verdicts, about which
    operations, and whether some close and places are marked."""

    best: tuple[Rank, tuple[int, int, bool]]
    verdicts: frozenset[int]
    operations: int
    closes: bool
    marks: bool


def _united(masks: Iterable[int]) -> int:
    united = 0
    for mask in masks:
        united |= mask
    return united


class _Compiler:
    """Places become a tree, sets of the tree's nodes become states."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.table = Table(policy.default)
        self.nodes: list[_Node] = []
        self.root = self._node(None, b"")
        self.verdicts: list[Verdict] = []
        self.numbers: dict[Verdict, int] = {}
        self.verdict_of: list[int] = []
        self.walk = self._number(WALK)
        self.classes: dict[Signature, tuple[int, tuple[int, ...]]] = {}
        self.states: dict[frozenset[int], int] = {}
        self.found: list[_Node | frozenset[int]] = []
        self.leaves: dict[int, tuple[int, list[int]]] = {}
        self.below: dict[int, _Below] = {}
        self.overlapping = self.work = 0
        self.used = bytearray(len(policy.rules))

    def _node(self, parent: _Node | None, component: Component) -> _Node:
        node = _Node(len(self.nodes), parent, component)
        self.nodes.append(node)
        return node

    def run(self) -> Table:
        self._plant()
        self._state(self._reach(self.root))
        for number, found in enumerate(self.found):  # grows while it is walked over
            if isinstance(found, _Node):
                self._expand_plain(number, found)
            else:
                self._expand(number, [self.nodes[node] for node in found])
        for _, alike in self.leaves.values():
            if self.used[alike[0]]:
                for rule in alike:
                    self.used[rule] = 1
        self.table.verdicts = self.numbers
        self.table.idle = list(compress(self.policy.rules, map(not_, self.used)))
        return self.table

    # --- the tree

    def _plant(self) -> None:
        known: dict[int, int] = {}  # a verdict is compared once, not for each rule that has it
        parents: dict[bool, dict[tuple[Component, ...], _Node]] = {False: {}, True: {}}  # many places share theirs
        for index, (verdict, place, _) in enumerate(self.policy.rules):
            number = known.get(id(verdict))
            if number is None:
                number = known[id(verdict)] = self._number(verdict)
                for test in verdict.tests:
                    self._prepare(test)
            self.verdict_of.append(number)
            components = place.components
            if not components or not isinstance(components[-1], bytes):
                self._find(components, len(components) - place.covers if verdict.opens else 0).rules.append(index)
                continue
            name, above, of = components[-1], components[:-1], parents[verdict.opens]
            parent = of.get(above)
            if parent is None:
                parent = of[above] = self._find(above, len(components) if verdict.opens else 0)
                parent.walk = parent.walk or verdict.opens
            lone = parent.lone
            if name in lone or name in parent.names:
                self._named(parent, name).rules.append(index)
            else:
                lone[name] = index

    def _named(self, parent: _Node, name: bytes) -> _Node:
        """The node of a name."""
        child = parent.names.get(name)
        if child is None:
            child = parent.names[name] = self._node(parent, name)
            if name in parent.lone:
                child.rules.append(parent.lone.pop(name))
        return child

    def _look(self, node: _Node) -> _Node:
        """NODE, with a node for each of its names."""
        for name in list(node.lone):
            self._named(node, name)
        return node

    def _number(self, verdict: Verdict) -> int:
        number = self.numbers.setdefault(verdict, len(self.verdicts))
        if number == len(self.verdicts):
            self.verdicts.append(verdict)
        return number

    def _prepare(self, test: object) -> None:
        if isinstance(test, Text) and test.glob not in self.table.globs:
            self.table.globs[test.glob] = self._machine(((test.glob, 1),), len, {})
        if isinstance(test, Other) and test.place not in self.table.marks:
            mark = self.table.marks[test.place] = len(self.table.marks)
            node = self._find(test.place.components, 0)
            node.marks = (*node.marks, mark)

    def _find(self, components: tuple[Component, ...], open_until: int) -> _Node:
        """The node of a place; those before OPEN_UNTIL may be walked over."""
        node = self.root
        child: _Node | None
        for depth, component in enumerate(components):
            if depth < open_until:
                node.walk = True
            if isinstance(component, bytes):
                child = self._named(node, component)
            elif component is DEPTH:
                child = node.depth = node.depth or self._node(node, component)
            else:
                child = node.globs.get(component)
                if child is None:
                    child = node.globs[component] = self._node(node, component)
            node = child
        return node

    def _reach(self, node: _Node) -> frozenset[int]:
        """Where one is too when one is at NODE: `**` may be no component at all."""
        if not node.reach:
            node.reach = frozenset((node.number,)) | (self._reach(node.depth) if node.depth else frozenset())
        return node.reach

    # --- states

    def _state(self, nodes: frozenset[int]) -> int:
        number = self.states.get(nodes)
        if number is None:
            only = self.nodes[next(iter(nodes))] if len(nodes) == 1 else None
            if only and only.is_plain:
                return self._plain_state(only)
            thin = self._thin(nodes) if len(nodes) > 1 else nodes
            if thin != nodes:
                number = self.states[nodes] = self._state(thin)
                return number
            self.work += len(nodes)
            if len(self.states) == MAX_OVERLAPS or self.work > MAX_WORK:
                raise TooLargeError(f"over {MAX_OVERLAPS} states, or as much work")
            number = self.states[nodes] = self._new(nodes)
        return number

    def _plain_state(self, node: _Node) -> int:
        """That of a node alone, from which only names lead on: as most are, so no set is made for it."""
        if node.state < 0:
            node.state = self._new(node)
        return node.state

    def _thin(self, nodes: frozenset[int]) -> frozenset[int]:
        """Without those that decide nothing any more, because something that covers all below comes before them: else
        the states would be as many as the ways in which such places can have been passed."""
        here = [self.nodes[number] for number in nodes]
        moot = set()
        for first in here:
            decided = self._decided(first) if first.component is DEPTH else None
            for other in here if decided else ():
                if other is not first and other.number not in moot and self._is_moot(other, first, decided):
                    moot.add(other.number)
                    self._use(first, decided, self._below(other))
        return nodes - moot

    def _use(self, first: _Node, decided: Verdict | None, moot: _Below) -> None:
        """FIRST's rules for what is DECIDED are not idle when something MOOT would have decided otherwise."""
        if decided and any(self.verdicts[number].allow != decided.allow for number in moot.verdicts):
            for rule in first.rules:
                if self.verdicts[self.verdict_of[rule]] == decided:
                    self.used[rule] = 1

    def _decided(self, node: _Node) -> Verdict | None:
        """What NODE's own place decides, whatever the arguments."""
        plain = [self.verdicts[self.verdict_of[rule]] for rule in node.rules]
        return max((v for v in plain if not v.tests), key=lambda v: v.rank, default=None)

    def _is_moot(self, node: _Node, first: _Node, decided: Verdict | None) -> bool:
        """Whether nothing at or below NODE comes before what is DECIDED by FIRST."""
        below = self._below(node)
        if decided is None or below.marks or below.operations & ~decided.operations:
            return False
        if below.closes and decided.operations != operations.ALL:
            return False
        alike = below.verdicts == {self.numbers[decided]} and node.number > first.number
        return below.best < (first.rank, decided.rank) or (alike and below.best == (first.rank, decided.rank))

    def _below(self, node: _Node) -> "_Below":
        found = self.below.get(node.number)
        if found is None:
            parts = [self._below(child) for child in (*self._look(node).names.values(), *node.globs.values())]
            if node.depth:
                parts.append(self._below(node.depth))
            mine = [self.verdicts[self.verdict_of[rule]] for rule in node.rules]
            keys = [(node.rank, verdict.rank) for verdict in mine]
            if node.walk:
                mine.append(WALK)
                keys.append((node.rank, LEAST))
            found = self.below[node.number] = _Below(
                max([*keys, *(part.best for part in parts)], default=(_NOWHERE, LEAST)),
                frozenset(self.numbers[verdict] for verdict in mine).union(*(part.verdicts for part in parts)),
                _united([*(verdict.operations for verdict in mine), *(part.operations for part in parts)]),
                any(verdict.closes for verdict in mine) or any(part.closes for part in parts),
                bool(node.marks) or any(part.marks for part in parts),
            )
        return found

    def _new(self, what: "_Node | frozenset[int]") -> int:
        self.found.append(what)
        return len(self.found) - 1

    def _expand_plain(self, number: int, node: _Node) -> None:
        edges, leaves, verdict_of = self.table.edges, self.leaves, self.verdict_of
        for name, rule in node.lone.items():  # those of the same verdict are alike
            known = leaves.get(verdict_of[rule])
            if known is None:
                child = self._node(node, name)
                child.rules.append(rule)
                known = leaves[verdict_of[rule]] = (self._plain_state(child), [])
            state, alike = known
            alike.append(rule)
            edges.append((number, name, state))
        for name, child in node.names.items():
            edges.append(
                (number, name, self._plain_state(child) if child.is_plain else self._state(self._reach(child)))
            )
        self.table.states.append(State(self._class([node]), self._state(frozenset()), -1))

    def _expand(self, number: int, nodes: list[_Node]) -> None:
        base: frozenset[int] = frozenset()
        named: list[_Node] = []
        globs: list[tuple[Glob, _Node]] = []
        for node in nodes:
            if node.component is DEPTH:
                base |= self._reach(node)
            if self._look(node).names:
                named.append(node)
            for glob, child in node.globs.items():
                if glob == STAR:
                    base |= self._reach(child)
                else:
                    globs.append((glob, child))
        for name, reached in self._names(named, globs, base).items():
            self.table.edges.append((number, name, self._state(reached)))
        otherwise = self._state(base)
        machine = self._machine_of(globs, base) if globs else -1
        self.table.states.append(State(self._class(nodes), otherwise, machine))

    def _names(
        self, nodes: list[_Node], globs: list[tuple[Glob, _Node]], base: frozenset[int]
    ) -> dict[bytes, frozenset[int]]:
        """Where the names lead that some of NODES have."""
        names: dict[bytes, frozenset[int]] = {}
        for node in nodes:
            for name, child in node.names.items():
                names[name] = (
                    names.get(name, base) | self._reach(child) if base or name in names else self._reach(child)
                )
        for name in names if globs else ():
            for glob, child in globs:
                if glob.matches(name):
                    names[name] |= self._reach(child)
        self.overlapping += len(names)
        if self.overlapping > MAX_NAMES:
            raise TooLargeError(f"over {MAX_NAMES} names that lead on from places that overlap")
        return names

    # --- verdicts

    def _class(self, nodes: list[_Node]) -> int:
        at = [node for node in nodes if node.rules or node.walk or node.marks]
        if len(at) > 1:
            at.sort(key=lambda node: node.rank, reverse=True)
        rules: list[int] = []
        signature: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for _, same in groupby(at, key=lambda node: node.rank) if len(at) > 1 else [(None, at)]:
            ranked, marks, walk = self._ranked(list(same))
            verdicts = tuple([self.verdict_of[rule] for rule in ranked])
            rules += ranked
            if walk:
                verdicts += (self.walk,)
                rules.append(-1)
            signature.append((verdicts, marks))
        key = tuple(signature)
        found = self.classes.get(key)
        if found is None:
            places = [[self.verdicts[verdict] for verdict in verdicts] for verdicts, _ in key]
            marks = tuple(sorted(mark for _, marks in key for mark in marks))
            allow, conditions = _resolve(places, self.policy.default)
            found = self.classes[key] = (len(self.table.classes), _needed(places, self.policy.default))
            self.table.classes.append(Class(allow, conditions, marks))
        for position in found[1]:
            if rules[position] >= 0:
                self.used[rules[position]] = 1
        return found[0]

    def _ranked(self, nodes: list[_Node]) -> tuple[list[int], tuple[int, ...], bool]:
        """Of places that are equally specific: the rules in their order, the marks, and whether one may walk on."""
        if len(nodes) == 1:
            (node,) = nodes
            rules, marks, walk = node.rules, node.marks, node.walk
        else:
            rules = sorted(rule for node in nodes for rule in node.rules)
            marks = tuple(mark for node in nodes for mark in node.marks)
            walk = any(node.walk for node in nodes)
        if len(rules) > 1:
            rules.sort(key=lambda rule: self.policy.rules[rule].verdict.rank, reverse=True)
        return rules, marks, walk

    # --- names with stars

    def _machine_of(self, globs: list[tuple[Glob, _Node]], base: frozenset[int]) -> int:
        def end(matched: tuple[int, ...]) -> int:
            return self._state(base.union(*(self._reach(self.nodes[child]) for child in matched)))

        moot = {}
        for number, (_, first) in enumerate(globs):
            decided = self._decided(first) if first.is_leaf else None
            moot[number] = {
                other
                for other, (_, node) in enumerate(globs)
                if other != number and node.is_leaf and self._is_moot(node, first, decided)
            }
            for other in moot[number]:
                self._use(first, decided, self._below(globs[other][1]))
        return self._machine(tuple((glob, child.number) for glob, child in globs), end, moot)

    def _machine(
        self, globs: tuple[tuple[Glob, int], ...], end: Callable[[tuple[int, ...]], int], moot: dict[int, set[int]]
    ) -> int:
        """An automaton over bytes. END makes of the numbers of those GLOBS that match what is told for them.
        MOOT: which need not be looked at when one matches whatever comes."""
        patterns = [_flat(glob) for glob, _ in globs]
        first = len(self.table.machines)
        seen: dict[frozenset[tuple[int, int]], int] = {}
        queue: list[frozenset[tuple[int, int]]] = []

        def row(positions: Iterable[tuple[int, int]]) -> int:
            key = _closed(patterns, positions, moot)
            if key not in seen:
                seen[key] = first + len(queue)
                self.work += len(key)
                if seen[key] >= MAX_STEPS or self.work > MAX_WORK:
                    raise TooLargeError(f"over {MAX_STEPS} states for names with stars, or as much work")
                queue.append(key)
            return seen[key]

        row((pattern, 0) for pattern in range(len(patterns)))
        for here in queue:
            number = seen[here]
            stars = [(p, i) for p, i in here if i < len(patterns[p]) and patterns[p][i] is None]
            bytes_here = {patterns[p][i] for p, i in here if i < len(patterns[p])} - {None}
            for byte in sorted(byte for byte in bytes_here if byte is not None):
                ahead = ((p, i + 1) for p, i in here if i < len(patterns[p]) and patterns[p][i] == byte)
                self.table.steps[number, byte] = row([*stars, *ahead])
            otherwise = row(stars)
            matched = tuple(sorted(globs[p][1] for p, i in here if i == len(patterns[p])))
            self.table.machines.append(Machine(otherwise, end(matched)))
        return first


def _closed(
    patterns: list[list[int | None]], positions: Iterable[tuple[int, int]], moot: dict[int, set[int]]
) -> frozenset[tuple[int, int]]:
    """Where in the PATTERNS one is too: behind a star, which may be nothing. Without those that are MOOT."""
    closed = set()
    for pattern, position in positions:
        closed.add((pattern, position))
        if position < len(patterns[pattern]) and patterns[pattern][position] is None:
            closed.add((pattern, position + 1))
    sure = {p for p, i in closed if i == len(patterns[p]) - 1 and patterns[p][i] is None}
    left_out = {other for p in sure for other in moot.get(p, ())}
    return frozenset(place for place in closed if place[0] not in left_out)


def _flat(glob: Glob) -> list[int | None]:
    """Its bytes, None for a star."""
    flat: list[int | None] = list(glob.parts[0])
    for part in glob.parts[1:]:
        flat += [None, *part]
    return flat


def _resolve(places: list[list[Verdict]], default: int) -> tuple[int, tuple[Condition, ...]]:
    """What verdicts, the most specific place's first, say together."""
    left, allow = operations.ALL, 0
    conditions = []
    for verdicts in places:
        for verdict in verdicts:
            mine = verdict.operations & left
            if not mine:
                continue
            if verdict.tests or verdict.audit or verdict.kill:
                conditions.append(Condition(mine, verdict))
            if not verdict.tests:
                left &= ~mine
                allow |= mine if verdict.allow else 0
        if any(verdict.closes for verdict in verdicts):
            break
    return allow | left & default, tuple(conditions)


def _needed(places: list[list[Verdict]], default: int) -> tuple[int, ...]:
    """Which of the verdicts decide something, by their positions over all places: without the others, of which the
    more specific are left out first, it would be the same."""
    whole = _resolve(places, default)
    left = [list(enumerate(verdicts, first)) for verdicts, first in zip(places, _firsts(places), strict=True)]
    count = sum(map(len, left))
    if count > MOST_COMPARED:
        return tuple(range(count))
    for verdicts in left:
        for numbered in list(verdicts):
            at = verdicts.index(numbered)
            del verdicts[at]
            if _resolve([[verdict for _, verdict in kept] for kept in left], default) != whole:
                verdicts.insert(at, numbered)
    return tuple(position for verdicts in left for position, _ in verdicts)


def _firsts(places: list[list[Verdict]]) -> list[int]:
    return [sum(map(len, places[:number])) for number in range(len(places))]


def compile_policy(policy: Policy) -> Table:
    """The table of a policy. TooLargeError: its places overlap too much."""
    return _Compiler(policy).run()
