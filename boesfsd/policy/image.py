# SPDX-License-Identifier: Apache-2.0
"""A table as the bytes of its maps, laid out as bpf/boesfs_maps.h says; a test compares the formats with the header."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct

from boesfsd.policy import operations
from boesfsd.policy.rules import Number, Other, Program, Test, Text, Uid, Verdict
from boesfsd.policy.table import Class, Condition, Table, TooLargeError

FORMATS = {
    "boesfs_key": Struct("<IBB58s"),
    "boesfs_step": Struct("<II Q"),
    "boesfs_state": Struct("<Q III 12x"),
    "boesfs_class": Struct("<QQ II II"),
    "boesfs_condition": Struct("<Q I HH II 8x"),
    "boesfs_test": Struct("<HHI qq Q"),
    "boesfs_machine": Struct("<II 24x"),
    "boesfs_marks": Struct("<4Q"),
}
SHORT_KEY = Struct("<IBB26s")
ROW, SHORT_NAME, CHUNK, MARKS_PER_ROW = 32, 26, 58, 256
MOST_CONDITIONS, MOST_TESTS, MOST_PROGRAMS = 65536, 16, 64
BITS = (1 << 64) - 1
SPELLED = {"chmod", "chown", "truncate", "utimes", "chattr", "link-to", "rename-to"}
ALWAYS_ASKED = {"link", "rename"}  # by the module, whatever the program says


@dataclass(frozen=True, slots=True)
class Image:
    """Keys and values of the maps, one behind the other. PROGRAMS: the paths behind the bits of program tests."""

    rows: bytes
    short_keys: bytes
    short_steps: bytes
    long_keys: bytes
    long_steps: bytes
    programs: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return sum(map(len, (self.rows, self.short_keys, self.short_steps, self.long_keys, self.long_steps)))


class _Packer:
    """Rows are numbered: states first, as labels are, then pieces of long names, automata, classes and their parts."""

    def __init__(self, table: Table, numbers: Mapping[str, int]) -> None:
        self.table, self.numbers = table, numbers
        self.rows: list[bytes] = []
        self.programs: dict[str, int] = {}
        self.masks: dict[int, int] = {}
        self.pieces: dict[bytes, int] = {}
        self.short: tuple[list[bytes], list[bytes]] = ([], [])
        self.long: tuple[list[bytes], list[bytes]] = ([], [])
        pieces = sum((len(name) - 1) // CHUNK for _, name, _ in table.edges if len(name) > CHUNK)
        self.first_piece = len(table.states)
        self.first_machine = self.first_piece + pieces
        self.first_class = self.first_machine + len(table.machines)

    def run(self) -> Image:
        parts: list[bytes] = []
        classes = []
        at = self.first_class + len(self.table.classes)
        for klass in self.table.classes:
            packed, rows = self._class(klass, at)
            classes.append(packed)
            parts += rows
            at += len(rows)
        allow = [self._everybodys(klass) for klass in self.table.classes]
        state = FORMATS["boesfs_state"].pack
        first_class, first_machine = self.first_class, self.first_machine
        states = [
            state(allow[klass], first_class + klass, otherwise, first_machine + machine if machine >= 0 else 0)
            for klass, otherwise, machine in self.table.states
        ]
        self._names(allow)
        machines = [
            FORMATS["boesfs_machine"].pack(first_machine + otherwise, end) for otherwise, end in self.table.machines
        ]
        unused = bytes(ROW) * (self.first_machine - self.first_piece)
        rows = [*states, unused, *machines, *classes, *parts]
        short_keys, short_steps = map(b"".join, self.short)
        long_keys, long_steps = map(b"".join, self.long)
        return Image(b"".join(rows), short_keys, short_steps, long_keys, long_steps, tuple(self.programs))

    # --- masks

    def _bit(self, operation: str) -> int:
        kind = "RULE" if operation in SPELLED else "OP"
        return 1 << self.numbers[f"BOESFS_{kind}_{operation.upper().replace('-', '_')}"]

    def _mask(self, wanted: int) -> int:
        """These operations in the kernel's numbers."""
        if wanted not in self.masks:
            self.masks[wanted] = sum(self._bit(name) for name in operations.names(wanted))
        return self.masks[wanted]

    def _everybodys(self, klass: Class) -> int:
        """What needs no second look: for boesfs_ctx.allow, which has the module's operations."""
        plain = klass.allow & ~klass.asked
        names = [name for name in operations.names(plain) if name not in SPELLED and name not in ALWAYS_ASKED]
        whole = operations.WHOLE["setattr"]
        setattr_bit = 1 << self.numbers["BOESFS_OP_SETATTR"] if plain & whole == whole else 0
        return sum(self._bit(name) for name in names) | setattr_bit

    # --- names

    def _names(self, allow: list[int]) -> None:
        step, key, long_key = FORMATS["boesfs_step"].pack, SHORT_KEY.pack, FORMATS["boesfs_key"].pack
        to = [step(state, 0, allow[klass]) for state, (klass, _, _) in enumerate(self.table.states)]
        keys, steps = self.short
        long = []
        for edge in self.table.edges:
            label, name, target = edge
            length = len(name)
            if length > SHORT_NAME:
                long.append(edge)
                continue
            keys.append(key(label, 0, length, name))
            steps.append(to[target])
        keys, steps = self.long
        for label, name, target in long:
            pieces = [name[at : at + CHUNK] for at in range(0, len(name), CHUNK)]
            here = label
            for chunk, piece in enumerate(pieces[:-1]):
                begun = long_key(here, chunk, len(name), piece)
                here = self.pieces.get(begun, -1)
                if here < 0:  # no other name begins so
                    here = self.pieces[begun] = self.first_piece + len(self.pieces)
                    keys.append(begun)
                    steps.append(step(here, 0, 0))
            keys.append(long_key(here, len(pieces) - 1, len(name), pieces[-1]))
            steps.append(to[target])
        keys, steps = self.short
        for (machine, byte), target in self.table.steps.items():
            keys.append(key(self.first_machine + machine, 0, 1, bytes([byte])))
            steps.append(step(self.first_machine + target, 0, 0))

    # --- classes

    def _class(self, klass: Class, at: int) -> tuple[bytes, list[bytes]]:
        """A class's row, and those of its marks, conditions and tests, which begin at row AT."""
        marks = list(_mark_rows(klass.marks))
        split = [piece for condition in klass.conditions for piece in self._split(condition)]
        if len(split) > MOST_CONDITIONS:
            raise TooLargeError(f"over {MOST_CONDITIONS} conditions at one place")
        first = at + len(marks)
        tests: list[bytes] = []
        conditions = []
        for mask, verdict, rows in split:
            if len(rows) > MOST_TESTS:
                raise TooLargeError(f"over {MOST_TESTS} tests in one rule")
            begin = first + len(split) + len(tests)
            flags = verdict.allow | verdict.audit << 1
            conditions.append(
                FORMATS["boesfs_condition"].pack(mask, begin, len(rows), flags, verdict.kill, self._rule(verdict))
            )
            tests += rows
        row = FORMATS["boesfs_class"].pack(
            self._mask(klass.allow), self._mask(klass.asked), first, len(split), at, len(marks)
        )
        return row, [*marks, *conditions, *tests]

    def _rule(self, verdict: Verdict) -> int:
        return self.table.verdicts[verdict]

    def _split(self, condition: Condition) -> Iterator[tuple[int, Verdict, list[bytes]]]:
        """Arguments stand in different places, so what the kernel tests differs from operation to operation."""
        by_tests: dict[tuple[bytes, ...], int] = {}
        for name in operations.names(condition.operations):
            rows = tuple(row for test in condition.verdict.tests for row in self._test(test, name))
            by_tests[rows] = by_tests.get(rows, 0) | operations.BIT[name]
        for rows, mask in by_tests.items():
            yield self._mask(mask), condition.verdict, list(rows)

    def _test(self, test: Test, operation: str) -> Iterator[bytes]:
        pack, kind = FORMATS["boesfs_test"].pack, self.numbers
        match test:
            case Number(argument, low, high, mask):
                row = operations.TABLE[operation]
                if row.name == "chown":  # it may be about one of them only
                    access = self.numbers[f"BOESFS_ATTR_{argument.upper()}"]
                    yield pack(kind["BOESFS_TEST_ACCESS"], 0, 0, 1, BITS >> 1, access)
                which = row.first + row.arguments.index(argument)
                yield pack(kind["BOESFS_TEST_NUMBER"], which, 0, low, high, mask)
            case Text(argument, glob):
                machine = self.first_machine + self.table.globs[glob]
                name = "BOESFS_TEST_TARGET" if argument == "target" else "BOESFS_TEST_XATTR"
                yield pack(kind[name], 0, machine, 0, 0, 0)
            case Other(place):
                yield pack(kind["BOESFS_TEST_OTHER"], 0, self.table.marks[place], 0, 0, 0)
            case Program(path):
                slot = self.programs.setdefault(path, len(self.programs))
                if slot == MOST_PROGRAMS:
                    raise TooLargeError(f"over {MOST_PROGRAMS} programs in one policy")
                yield pack(kind["BOESFS_TEST_PROGRAM"], 0, 0, 0, 0, 1 << slot)
            case Uid(low, high):
                yield pack(kind["BOESFS_TEST_UID"], 0, 0, low, high, 0)


def _mark_rows(marks: tuple[int, ...]) -> Iterator[bytes]:
    for first in range(0, max(marks, default=-1) + 1, MARKS_PER_ROW):
        bits = sum(1 << mark - first for mark in marks if first <= mark < first + MARKS_PER_ROW)
        yield FORMATS["boesfs_marks"].pack(*(bits >> shift & BITS for shift in range(0, MARKS_PER_ROW, 64)))


def pack(table: Table, numbers: Mapping[str, int]) -> Image:
    """The maps of a table. NUMBERS are the enumerators of both headers. TooLargeError names the limit."""
    return _Packer(table, numbers).run()
