# SPDX-License-Identifier: Apache-2.0
"""What the checks inside the VM begin with: the machine they run on, two functions, and the list of them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import PROBE, Answer, Deployed, Lab
from machine import Machine

PATIENCE = 60.0  # seconds; QEMU without KVM is slow
PATIENT: dict[str, Any] = {"concurrency": 1, "timeout": 120, "idle_timeout": 600}
PROBE_LIMITS: dict[str, Any] = {"memory": 64, "tmp_size": 512, "tasks": 20, "cpu": 0.9, "cpuset": "1"}
Check = Callable[["Bench"], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """A check; its name is its sentence."""
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


def names(module: str) -> list[str]:
    """Of the checks that MODULE has."""
    return [name for name, function in CHECKS.items() if function.__module__ == module]


class Here(Machine):
    """The machine that this runs on, in the words of the appliance's tests."""

    def enter(self, *command: str) -> list[str]:
        return list(command)

    @property
    def root(self) -> Path:
        return Path("/")


class Bench:
    """The lab, and two functions that live as long as all checks: `probe` is asked to misbehave, `neighbour` is not."""

    def __init__(self) -> None:
        self.lab = Lab(Here("vm"), "vm")
        self.app = self.lab.app()
        self.neighbour = self.deploy(PROBE, name="neighbour")
        self.probe = self.deploy(PROBE, name="probe", **PROBE_LIMITS)

    def deploy(self, code: str, /, **options: Any) -> Deployed:
        """One slot, and time."""
        return self.lab.deploy(self.app, code, **{**PATIENT, **options})

    def group(self, function: Deployed) -> Path:
        """The control group of its first instance."""
        return Path("/sys/fs/cgroup" + self.lab.show(function.unit(), "ControlGroup")["ControlGroup"])

    def limits(self, function: Deployed, *files: str) -> list[str]:
        """The kernel's own values."""
        return [(self.group(function) / file).read_text().strip() for file in files]


def ask(function: Deployed, code: str) -> Answer:
    """Call it, with patience."""
    return function.call(code, "--max-time", "130", timeout=140)


def answer_of(function: Deployed, code: str = "result = 1") -> Any:
    """What the code found; it must be answered with 200."""
    answer = ask(function, code)
    assert answer.status == 200, f"{answer.status} {answer.text}"
    return answer.json
