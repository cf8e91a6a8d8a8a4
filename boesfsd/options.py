# SPDX-License-Identifier: Apache-2.0
"""The one table of what may be set for a function: the same key in func.yaml and in the options of Deploy."""

import re
from dataclasses import dataclass
from typing import Any

from boesfsd.model import Json

CPUSET = r"^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$(?!\n)"
CPU_HIGHEST = 8191
RUNTIME = r"^[a-z][a-z0-9.+-]*$(?!\n)"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)"  # $ alone would let a last newline pass
MIB = 1 << 20

STRING_MAP: Json = {
    "type": "object",
    "propertyNames": {"type": "string", "pattern": VARIABLE, "maxLength": 128},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
    "maxProperties": 200,
}
PORT_LIST: Json = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 65535}, "maxItems": 256}


@dataclass(frozen=True, slots=True)
class Option:
    """One row: key, JSON schema of its value, default as text, unit, where it takes effect, meaning.

    `where` is `unit` (a property of the systemd unit), `agent` (a line of the plan), `router` (kept by boesfsd),
    `policy` (what judges its files; func.yaml has it as a map) or `deploy` (says how this one Deploy call acts, is not
    stored and is no key of func.yaml).
    """

    key: str
    schema: Json
    default: str
    unit: str
    where: str
    meaning: str

    @property
    def field(self) -> str:
        """Its name in model.Settings."""
        return self.key.replace("-", "_")


def _integer(low: int, high: int) -> Json:
    return {"type": "integer", "minimum": low, "maximum": high}


TABLE = {
    option.key: option
    for option in (
        Option("memory", _integer(0, 8192), "128", "MiB", "unit", "memory of an instance; 0 is the default"),
        Option(
            "cpu",
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1024},
            "no limit",
            "CPUs",
            "unit",
            "processor time of an instance; 0.5 is half a CPU",
        ),
        Option(
            "cpuset",
            {"type": "string", "pattern": CPUSET},
            "all",
            "CPU numbers",
            "unit",
            "the CPUs an instance may run on, as 0-3,6",
        ),
        Option("tasks", _integer(4, 32768), "128", "", "unit", "processes and threads of an instance"),
        Option("files", _integer(16, 1 << 20), "1024", "", "agent", "open files of a process"),
        Option("tmp_size", _integer(1, 65536), "64", "MiB", "agent", "size of the private /tmp"),
        Option("log_rate", _integer(1, 100000), "1000", "lines/s", "agent", "output above it is dropped and counted"),
        Option("timeout", _integer(0, 300), "30", "s", "agent", "longest call; 0 is the default"),
        Option(
            "idle_timeout", _integer(0, 3600), "30", "s", "agent", "an instance unused so long ends; 0 is the default"
        ),
        Option("concurrency", _integer(1, 1000), "4", "instances", "router", "calls served at the same time"),
        Option(
            "network",
            {"enum": ["none", "host", "private"]},
            "none",
            "",
            "agent",
            "none: loopback only; host: the host's; private: a veth of its own",
        ),
        Option(
            "ports",
            {"type": "object", "properties": {"connect": PORT_LIST, "bind": PORT_LIST}, "additionalProperties": False},
            "all",
            "TCP ports",
            "agent",
            "the only ports that may be connected to or bound",
        ),
        Option(
            "system_calls",
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 512},
            "all that any may",
            "names",
            "agent",
            "the only system calls it may make; see boesfsctl learn",
        ),
        Option(
            "runtime",
            {"type": "string", "pattern": RUNTIME},
            "func.yaml's",
            "",
            "agent",
            "name of a file in /usr/lib/boesfs/runtimes",
        ),
        Option("config", STRING_MAP, "empty", "", "agent", "environment of the function, over that of its app"),
        Option("environment", STRING_MAP, "empty", "", "agent", "variables of the bundle; config wins over them"),
        Option("policy", {"type": "string"}, "its app's", "YAML", "policy", "a policy block, see boesfs-policy(5)"),
        Option("replace", {"type": "boolean"}, "false", "", "deploy", "deploy over a function of the same name"),
        Option("dry-run", {"type": "boolean"}, "false", "", "deploy", "check and list the changes, do nothing"),
    )
}

STORED = {key: option for key, option in TABLE.items() if option.where not in ("policy", "deploy")}
"""The fields of model.Settings."""


def schema(keys: dict[str, Option]) -> Json:
    """JSON schema of an object with just these keys."""
    return {
        "type": "object",
        "properties": {key: option.schema for key, option in keys.items()},
        "additionalProperties": False,
    }


def parse_cpuset(text: str) -> set[int]:
    """The CPUs that TEXT names; "" gives none."""
    cpus: set[int] = set()
    for first, last in re.findall(r"([0-9]+)(?:-([0-9]+))?", text):
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def text_values(values: dict[str, Any]) -> dict[str, str]:
    """A map of variables as strings: YAML writes 8080 and true without quotes, a process sees text."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
