# SPDX-License-Identifier: Apache-2.0
"""The numbers of both headers, and a packed table as the kernel would have it."""

import re
from collections.abc import Iterator
from pathlib import Path

from boesfsd.policy.image import FORMATS, ROW, SHORT_KEY, Image
from boesfsd.policy.judge import KEY, Judge

ROOT = Path(__file__).resolve().parents[2]
HEADERS = [(ROOT / name).read_text() for name in ("kmod/boesfs_abi.h", "bpf/boesfs_maps.h")]
NUMBERS = {
    name: 1 << int(value) if shift else int(value, 0)
    for header in HEADERS
    for name, shift, value in re.findall(r"\b(BOESFS_\w+) = (1 << )?(0x[0-9a-f]+|\d+)\b", header)
}


class Maps:
    """Those of an image."""

    def __init__(self, image: Image) -> None:
        self.rows = list(_cut(image.rows, ROW))
        size = FORMATS["boesfs_step"].size
        self.steps = dict(zip(_cut(image.short_keys, SHORT_KEY.size), _cut(image.short_steps, size), strict=True))
        self.steps |= dict(zip(_cut(image.long_keys, KEY.size), _cut(image.long_steps, size), strict=True))

    def row(self, number: int) -> bytes:
        return self.rows[number]

    def step(self, key: bytes) -> bytes | None:
        return self.steps.get(key)


def judge(image: Image) -> Judge:
    """What would judge."""
    return Judge(Maps(image), NUMBERS, image.programs)


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))
