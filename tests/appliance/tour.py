# SPDX-License-Identifier: Apache-2.0
"""For walks that people watch: every command is printed before its output."""

import sys

from machine import Machine

MANAGER = "busctl call org.boesfs.Faas1 /org/boesfs/Faas1 org.boesfs.Faas1.Manager"
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text: str) -> None:
    """A sentence between the commands."""
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def show(machine: Machine, command: str, *, check: bool = True) -> str:
    """Print COMMAND, run it inside, print and return its output."""
    print(f"{DIM}{machine.name}#{PLAIN} {command}", flush=True)
    output = machine.shell(f"{command} 2>&1", check=check)
    print(output.rstrip("\n"), flush=True)
    return output


def leftovers(machine: Machine, unit: str, digest: str) -> list[str]:
    """What an ended instance left behind: processes, its control group, mounts of its code, which has this DIGEST."""
    found = []
    for what, command in (
        ("process", f"cat /proc/[0-9]*/cgroup 2>/dev/null | grep -F '{unit}'"),
        ("cgroup", f"find /sys/fs/cgroup -name '{unit}'"),
        ("mount", f"cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -F /boesfsd/code/{digest}"),
    ):
        print(f"{DIM}{machine.name}#{PLAIN} {command}", flush=True)
        found += [f"{what}: {line}" for line in machine.shell(command, check=False).splitlines()]
    print("(nothing)" if not found else "\n".join(found), flush=True)
    return found
