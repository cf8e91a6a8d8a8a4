# SPDX-License-Identifier: Apache-2.0
"""System calls: which ones functions may make on this host, and where the agent notes which ones a function makes.

Notes are a file of a byte for each number, which the agents of its instances share. The last byte says that it is over:
from then on they keep to the function's own list, as they do when the time in their plan has come.
"""

import os
from collections.abc import Collection
from pathlib import Path

from boesfsd import plan
from boesfsd.errors import BoesError
from boesfsd.policy.operations import like

KNOWN = Path("/usr/lib/boesfs/system-calls")
SIZE = 512
"""Of the notes, in bytes; agent/sandbox.h has it too."""


def known() -> dict[str, int]:
    """Those that functions may make on this host, with their numbers."""
    lines = (line.split() for line in KNOWN.read_text().splitlines())
    return {name: int(number) for name, number in lines}


def check(names: Collection[str]) -> None:
    """InvalidArgs: a name is none of those."""
    there = known() if names else {}
    for name in names:
        if name not in there:
            problem = f"system_calls: {name} is no system call that functions may make"
            raise BoesError("InvalidArgs", problem, hint=like(name, there, f"they are in {KNOWN}"))


def begin(function_id: str) -> None:
    """Nothing is noted yet."""
    file = plan.trace(function_id)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    forget(function_id)
    file.write_bytes(bytes(SIZE))


def end(function_id: str) -> None:
    """Whoever takes notes of the function stops at once."""
    try:
        notes = os.open(plan.trace(function_id), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(notes, b"\1", SIZE - 1)
    finally:
        os.close(notes)


def forget(function_id: str) -> list[str]:
    """End it, and remove the notes: the names of what was made."""
    end(function_id)
    file = plan.trace(function_id)
    try:
        seen = file.read_bytes()
    except FileNotFoundError:
        return []
    file.unlink()
    return sorted(name for name, number in known().items() if seen[number : number + 1] == b"\1")
