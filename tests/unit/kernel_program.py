# SPDX-License-Identifier: Apache-2.0
"""What bpf/boesfs_policy.bpf.c does with a table's maps, step by step, in Python: packed tables are judged by it."""

import re
from collections.abc import Iterator
from pathlib import Path

from boesfsd.policy import operations
from boesfsd.policy.image import CHUNK, FORMATS, ROW, SHORT_KEY, SHORT_NAME, SPELLED, Image
from boesfsd.policy.table import Request

ROOT = Path(__file__).resolve().parents[2]
HEADERS = [(ROOT / name).read_text() for name in ("kmod/boesfs_abi.h", "bpf/boesfs_maps.h")]
NUMBERS = {
    name: 1 << int(value) if shift else int(value, 0)
    for header in HEADERS
    for name, shift, value in re.findall(r"\b(BOESFS_\w+) = (1 << )?(0x[0-9a-f]+|\d+)\b", header)
}
KEY = FORMATS["boesfs_key"]


class Kernel:
    """The maps of one table."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.rows = [image.rows[at : at + ROW] for at in range(0, len(image.rows), ROW)]
        self.short = dict(zip(_cut(image.short_keys, SHORT_KEY.size), _cut(image.short_steps, 16), strict=True))
        self.long = dict(zip(_cut(image.long_keys, KEY.size), _cut(image.long_steps, 16), strict=True))
        self.allow = 0

    def _machine(self, machine: int, text: bytes) -> int:
        for byte in text:
            step = self.short.get(SHORT_KEY.pack(machine, 0, 1, bytes([byte])))
            row = FORMATS["boesfs_machine"].unpack(self.rows[machine])
            machine = FORMATS["boesfs_step"].unpack(step)[0] if step else row[0]
        return int(FORMATS["boesfs_machine"].unpack(self.rows[machine])[1])

    def _step(self, label: int, name: bytes) -> bytes | None:
        if len(name) <= SHORT_NAME:
            return self.short.get(SHORT_KEY.pack(label, 0, len(name), name))
        step = None
        for chunk in range((len(name) + CHUNK - 1) // CHUNK):
            step = self.long.get(KEY.pack(label, chunk, len(name), name[chunk * CHUNK : (chunk + 1) * CHUNK]))
            if step is None:
                return None
            label = FORMATS["boesfs_step"].unpack(step)[0]
        return step

    def label(self, path: tuple[bytes, ...]) -> int:
        """The label of a path; `allow` is what label() says of it."""
        label, self.allow = 0, FORMATS["boesfs_state"].unpack(self.rows[0])[0]
        for name in path:
            step = self._step(label, name)
            if step:
                label, _, self.allow = FORMATS["boesfs_step"].unpack(step)
                continue
            _, _, otherwise, machine = FORMATS["boesfs_state"].unpack(self.rows[label])
            label = self._machine(machine, name) if machine else otherwise
            self.allow = FORMATS["boesfs_state"].unpack(self.rows[label])[0]
        return label

    def check(self, request: Request) -> bool:
        """Whether it is allowed; label() has to agree."""
        label = self.label(request.path)
        bit, abi = kernel_bit(request.operation)
        allowed = self._decide(label, bit, request)
        if self.allow & abi:
            assert allowed, "what the label says beforehand is what check() would say"
        return allowed

    def _class(self, label: int) -> tuple[int, ...]:
        return FORMATS["boesfs_class"].unpack(self.rows[FORMATS["boesfs_state"].unpack(self.rows[label])[1]])

    def _decide(self, label: int, bit: int, request: Request) -> bool:
        allow, asked, first, count, *_ = self._class(label)
        for row in self.rows[first : first + count] if asked & bit else []:
            ops, begin, tests, flags, *_ = FORMATS["boesfs_condition"].unpack(row)
            if ops & bit and all(self._holds(test, request) for test in self.rows[begin : begin + tests]):
                return bool(flags & NUMBERS["BOESFS_CONDITION_ALLOW"])
        return bool(allow & bit)

    def _holds(self, test: bytes, request: Request) -> bool:  # noqa: PLR0911 (a switch)
        kind, which, row, low, high, mask = FORMATS["boesfs_test"].unpack(test)
        name = next(name for name in NUMBERS if name.startswith("BOESFS_TEST_") and NUMBERS[name] == kind)
        match name.removeprefix("BOESFS_TEST_"):
            case "NUMBER":
                return low <= _signed(arguments(request)[which] & mask) <= high
            case "XATTR":
                return bool(self._machine(row, request.texts["attribute"]))
            case "TARGET":
                return bool(self._machine(row, request.texts["target"]))
            case "OTHER":
                *_, marks, rows = self._class(self.label(request.other))
                bits = FORMATS["boesfs_marks"].unpack(self.rows[marks + row // 256]) if row // 256 < rows else (0,) * 4
                return bool(bits[row // 64 % 4] >> row % 64 & 1)
            case "PROGRAM":
                return any(
                    mask >> slot & 1 and path in request.programs for slot, path in enumerate(self.image.programs)
                )
            case "UID":
                return bool(low <= request.uid <= high)
            case "ACCESS":
                return bool(low <= access(request) & mask <= high)
        raise ValueError(name)


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def kernel_bit(operation: str) -> tuple[int, int]:
    """An operation's bit in the tables, and that of the module's operation that asks it (0: it is always asked)."""
    spelled = operation.upper().replace("-", "_")
    abi = operations.TABLE[operation].abi or operation
    asked = 0 if abi in ("link", "rename") else 1 << NUMBERS[f"BOESFS_OP_{abi.upper()}"]
    return 1 << NUMBERS[f"BOESFS_{'RULE' if operation in SPELLED else 'OP'}_{spelled}"], asked


def arguments(request: Request) -> list[int]:
    """boesfs_ctx.arg[]. What this operation has not, is 0."""
    row = operations.TABLE[request.operation]
    values = [0] * row.first + [request.arguments.get(name, 0) for name in row.arguments]
    return [*values, 0, 0, 0, 0][:4]


def access(request: Request) -> int:
    """boesfs_ctx.access of a chown."""
    return sum(NUMBERS[f"BOESFS_ATTR_{name.upper()}"] for name in ("uid", "gid") if name in request.arguments)
