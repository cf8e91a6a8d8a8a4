# SPDX-License-Identifier: Apache-2.0
"""What the program in the kernel makes of a table's maps, step by step: bpf/boesfs_policy.bpf.c in Python. So a loaded
table can be asked as the kernel asks it, wherever its maps are."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from boesfsd.policy import operations
from boesfsd.policy.image import CHUNK, FORMATS, SHORT_KEY, SHORT_NAME, SPELLED
from boesfsd.policy.table import Request

KEY = FORMATS["boesfs_key"]


class Maps(Protocol):
    """The maps of one table."""

    def row(self, number: int) -> bytes:
        """A row. KeyError: there is none."""

    def step(self, key: bytes) -> bytes | None:
        """Where a name leads; a KEY is short or long, as its size says."""


class Judge:
    """One table. NUMBERS are the enumerators of both headers, PROGRAMS the paths behind the bits of program tests."""

    def __init__(self, maps: Maps, numbers: Mapping[str, int], programs: Sequence[str]) -> None:
        self._maps = maps
        self._numbers = numbers
        self._programs = programs

    def allows(self, request: Request) -> bool:
        """Whether it is allowed. KeyError: the maps are no table; so is what label() and check() disagree about."""
        label, at_once = self._label(request.path)
        name, kind = request.operation, "RULE" if request.operation in SPELLED else "OP"
        bit = 1 << self._numbers[f"BOESFS_{kind}_{name.upper().replace('-', '_')}"]
        allowed = self._decide(label, bit, request)
        abi = operations.TABLE[name].abi or name
        if at_once >> self._numbers[f"BOESFS_OP_{abi.upper()}"] & 1 and not allowed and abi not in ("link", "rename"):
            raise KeyError(f"{name} is denied by the class and allowed by the label")
        return allowed

    # --- label

    def _label(self, path: Sequence[bytes]) -> tuple[int, int]:
        """The label of a path, and what is said beforehand to be allowed there."""
        label, allow = 0, self._unpack("boesfs_state", 0)[0]
        for name in path:
            step = self._step(label, name)
            if step:
                label, _, allow = FORMATS["boesfs_step"].unpack(step)
                continue
            _, _, otherwise, machine = self._unpack("boesfs_state", label)
            label = self._run(machine, name) if machine else otherwise
            allow = self._unpack("boesfs_state", label)[0]
        return label, allow

    def _step(self, label: int, name: bytes) -> bytes | None:
        if len(name) <= SHORT_NAME:
            return self._maps.step(SHORT_KEY.pack(label, 0, len(name), name))
        step = None
        for chunk in range((len(name) + CHUNK - 1) // CHUNK):
            piece = name[chunk * CHUNK : (chunk + 1) * CHUNK]
            step = self._maps.step(KEY.pack(label, chunk, len(name), piece))
            if step is None:
                return None
            label = FORMATS["boesfs_step"].unpack(step)[0]
        return step

    def _run(self, machine: int, text: bytes) -> int:
        """What the end of TEXT means to an automaton."""
        for byte in text:
            step = self._maps.step(SHORT_KEY.pack(machine, 0, 1, bytes([byte])))
            machine = FORMATS["boesfs_step"].unpack(step)[0] if step else self._unpack("boesfs_machine", machine)[0]
        return self._unpack("boesfs_machine", machine)[1]

    def _unpack(self, kind: str, number: int) -> tuple[int, ...]:
        return FORMATS[kind].unpack(self._maps.row(number))

    # --- check

    def _class(self, label: int) -> tuple[int, ...]:
        return self._unpack("boesfs_class", self._unpack("boesfs_state", label)[1])

    def _decide(self, label: int, bit: int, request: Request) -> bool:
        allow, asked, first, count, *_ = self._class(label)
        for number in range(first, first + count) if asked & bit else ():
            ops, begin, tests, flags, *_ = self._unpack("boesfs_condition", number)
            if ops & bit and all(self._holds(test, request) for test in range(begin, begin + tests)):
                return bool(flags & self._numbers["BOESFS_CONDITION_ALLOW"])
        return bool(allow & bit)

    def _holds(self, number: int, request: Request) -> bool:  # noqa: PLR0911 (a switch)
        kind, which, row, low, high, mask = self._unpack("boesfs_test", number)
        names = (name for name, value in self._numbers.items() if name.startswith("BOESFS_TEST_") and value == kind)
        match next(names, "").removeprefix("BOESFS_TEST_"):
            case "NUMBER":
                value = _argument(request, which)
                return value is not None and low <= _signed(value & mask) <= high
            case "XATTR":
                return bool(self._run(row, request.texts.get("attribute", b"")))
            case "TARGET":
                return bool(self._run(row, request.texts.get("target", b"")))
            case "OTHER":
                *_, marks, rows = self._class(self._label(request.other)[0])
                bits = self._unpack("boesfs_marks", marks + row // 256) if row // 256 < rows else (0,) * 4
                return bool(bits[row // 64 % 4] >> row % 64 & 1)
            case "PROGRAM":
                slots = [slot for slot, path in enumerate(self._programs) if path in request.programs]
                return any(mask >> slot & 1 for slot in slots)
            case "UID":
                return low <= request.uid <= high
            case "ACCESS":
                return low <= self._access(request) & mask <= high
        raise KeyError(kind)

    def _access(self, request: Request) -> int:
        """boesfs_ctx.access of a chown."""
        given = (name for name in ("uid", "gid") if name in request.arguments)
        return sum(self._numbers[f"BOESFS_ATTR_{name.upper()}"] for name in given)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _argument(request: Request, which: int) -> int | None:
    """boesfs_ctx.arg[WHICH]; None: it is not told."""
    row = operations.TABLE[request.operation]
    return request.arguments.get(row.arguments[which - row.first])
