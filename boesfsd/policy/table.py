# SPDX-License-Identifier: Apache-2.0
"""A policy as the kernel's program reads it: states, names that lead from one to the next, and a verdict for each.

A name has one label, the number of its state, whatever the number of rules, and no path is compared in the kernel.
States with the same verdicts share a class. `compiler` makes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from boesfsd.policy import operations
from boesfsd.policy.places import Glob, Place
from boesfsd.policy.rules import Number, Other, Program, Rule, Text, Uid, Verdict


class TooLargeError(ValueError):
    """The places have more states together than a table may have."""


class Condition(NamedTuple):
    """What is asked each time: if VERDICT's tests hold, it decides these OPERATIONS."""

    operations: int
    verdict: Verdict


class Class(NamedTuple):
    """ALLOW: what is allowed if no condition decides; the first one that holds does. MARKS: numbers of the places (see
    Table.marks) that the object is at."""

    allow: int
    conditions: tuple[Condition, ...]
    marks: tuple[int, ...]

    @property
    def asked(self) -> int:
        """Operations for which there are conditions."""
        asked = 0
        for condition in self.conditions:
            asked |= condition.operations
        return asked


class State(NamedTuple):
    """Where a name leads that Table.edges does not have: to OTHERWISE, or where the MACHINE (a row; -1: none) says."""

    klass: int
    otherwise: int
    machine: int


class Machine(NamedTuple):
    """A state of an automaton over bytes: where a byte leads that Table.steps does not have, and what the end means."""

    otherwise: int
    end: int


class Request(NamedTuple):
    """What the kernel is asked. PATH and OTHER are components; SUBJECTS are the rules' programs that the caller is."""

    operation: str
    path: tuple[bytes, ...]
    other: tuple[bytes, ...] = ()
    arguments: dict[str, int] = {}  # noqa: RUF012 (never written)
    texts: dict[str, bytes] = {}  # noqa: RUF012
    programs: frozenset[str] = frozenset()
    uid: int = 0


@dataclass
class Table:
    """A compiled policy; what EDGES and STEPS do not have is told by the state and by the machine's row."""

    default: int
    states: list[State] = field(default_factory=list)
    edges: list[tuple[int, bytes, int]] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    steps: dict[tuple[int, int], int] = field(default_factory=dict)
    marks: dict[Place, int] = field(default_factory=dict)
    globs: dict[Glob, int] = field(default_factory=dict)
    """The machine for a text."""
    verdicts: dict[Verdict, int] = field(default_factory=dict)
    """Numbers of what rules say, for the kernel's records."""
    idle: list[Rule] = field(default_factory=list)
    """Rules without which it would be the same."""

    @cached_property
    def _next(self) -> dict[tuple[int, bytes], int]:
        return {(state, name): target for state, name, target in self.edges}

    def run(self, machine: int, text: bytes) -> int:
        """What the end of TEXT means to a machine."""
        for byte in text:
            machine = self.steps.get((machine, byte), self.machines[machine].otherwise)
        return self.machines[machine].end

    @cached_property
    def bytes_of(self) -> dict[int, list[int]]:
        """Which bytes lead on from a machine by a step of their own."""
        found: dict[int, list[int]] = {}
        for machine, byte in self.steps:
            found.setdefault(machine, []).append(byte)
        return found

    def next(self, label: int, name: bytes) -> int:
        """Where a name leads."""
        found = self._next.get((label, name))
        if found is None:
            state = self.states[label]
            found = self.run(state.machine, name) if state.machine >= 0 else state.otherwise
        return found

    def label(self, path: Iterable[bytes]) -> int:
        """The state of an object."""
        label = 0
        for name in path:
            label = self.next(label, name)
        return label

    def class_of(self, path: Iterable[bytes]) -> Class:
        """The verdicts on an object."""
        return self.classes[self.states[self.label(path)].klass]

    def decide(self, request: Request) -> tuple[bool, Verdict | None]:
        """Whether it is allowed, and the condition that says so."""
        klass = self.class_of(request.path)
        bit = operations.BIT[request.operation]
        for condition in klass.conditions:
            if condition.operations & bit and all(self._holds(test, request) for test in condition.verdict.tests):
                return condition.verdict.allow, condition.verdict
        return bool(klass.allow & bit), None

    def _holds(self, test: object, request: Request) -> bool:
        match test:
            case Number(argument, low, high, mask):
                if argument not in request.arguments:
                    return False
                value = request.arguments[argument] & mask
                return low <= (value - (1 << 64) if value >> 63 else value) <= high
            case Text(argument, glob):
                return bool(self.run(self.globs[glob], request.texts.get(argument, b"")))
            case Other(place):
                return self.marks[place] in self.class_of(request.other).marks
            case Program(path):
                return path in request.programs
            case Uid(low, high):
                return low <= request.uid <= high
        raise TypeError(test)
