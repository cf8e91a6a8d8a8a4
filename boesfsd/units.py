# SPDX-License-Identifier: Apache-2.0
"""A function as systemd sees it: names of its units, the drop-ins that are written before they are first loaded, and
the properties that may change while they run. Pure text; systemd.py does."""

import re
from pathlib import Path

from boesfsd.model import STANDARD, Command, Function, Settings
from boesfsd.options import MIB, parse_cpuset

RUN = Path("/run/boesfs")
SOCKETS = RUN / "fn"
BY_NAME = RUN / "by-name"
STOPPED = RUN / "stopped"
COMMANDS = "boesfs-run-"
COMMAND_SLICE = "boesfs-run.slice"
COMMAND_PATTERN = "boesfs-run-*.service"
AGENT = "/usr/lib/boesfs/boesfs-agent"
UNIT_DIR = Path("/run/systemd/system")
CONTROL_DIR = Path("/run/systemd/system.control")
DROP_IN = "10-boesfsd.conf"
PATTERN = "boesfs-fn@*"
SUPERVISOR_TASKS = 2  # the agent and the sandbox's init
START_SLACK = 5  # seconds; the agent gives up first, and says why
USEC = 1_000_000

Property = tuple[str, str, object]
"""Name, D-Bus signature and value, as SetUnitProperties takes them."""


def escape_label(text: str) -> str:
    """TEXT as one element of an object path, as sd_bus_path_encode(3) writes it."""
    if not text:
        return "_"
    plain = [c.isascii() and (c.isalpha() or (c.isdigit() and index > 0)) for index, c in enumerate(text)]
    return "".join(
        c if keep else "".join(f"_{byte:02x}" for byte in c.encode()) for c, keep in zip(text, plain, strict=True)
    )


def unescape_label(label: str) -> str:
    """The reverse of escape_label."""
    parts = ("" if label == "_" else label).split("_")
    data = parts[0].encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts[1:])
    text = data.decode()
    if escape_label(text) != label:
        raise ValueError(f"{label!r} is no label")
    return text


def instance(function_id: str, slot: int) -> str:
    """FUNCTION-ID:SLOT."""
    return f"{function_id}:{slot}"


def socket_unit(function_id: str, slot: int) -> str:
    """Name of the slot's socket unit."""
    return f"boesfs-fn@{instance(function_id, slot)}.socket"


def service_unit(function_id: str, slot: int) -> str:
    """Name of the slot's service unit."""
    return f"boesfs-fn@{instance(function_id, slot)}.service"


def net_unit(function_id: str) -> str:
    """Name of the unit that holds the function's private network."""
    return f"boesfs-net@{function_id}.service"


def parse_unit(name: str) -> tuple[str, int, str] | None:
    """(function id, slot, "socket" or "service") of a unit of ours, else None."""
    stem, _, kind = name.rpartition(".")
    prefix, _, rest = stem.partition("@")
    function_id, colon, slot = rest.partition(":")
    if prefix != "boesfs-fn" or kind not in ("socket", "service") or not colon or not re.fullmatch("[0-9]{1,5}", slot):
        return None
    return function_id, int(slot), kind


def listening(states: dict[str, str]) -> dict[str, set[int]]:
    """Slots whose sockets are active, by function id, from the active states of units."""
    found: dict[str, set[int]] = {}
    for name, active in states.items():
        parsed = parse_unit(name)
        if parsed and parsed[2] == "socket" and active == "active":
            found.setdefault(parsed[0], set()).add(parsed[1])
    return found


def socket_path(function_id: str, slot: int) -> Path:
    """Where the slot listens."""
    return SOCKETS / f"{instance(function_id, slot)}.sock"


def drop_ins(function: Function, slot: int, init_timeout: int) -> dict[str, str]:
    """Drop-in text by unit name: what only a file can say, and the first value of what may change later."""
    settings = function.settings
    lines = [
        "# Rendered by boesfsd from its store; a change here is lost.",
        "[Unit]",
        f"Description=Function {function.label} (slot {slot})",
        "[Service]",
        f"Slice={function.app.slice}",
        f"LogExtraFields=BOESFS_APP={function.app.name}",
        f"LogExtraFields=BOESFS_FUNCTION={function.name}",
        f"LogExtraFields=BOESFS_FUNCTION_ID={function.id}",
        f"TimeoutStartSec={init_timeout + START_SLACK}",
        f"MemoryMax={settings.memory}M",
        "MemorySwapMax=0",
        f"TasksMax={settings.tasks + SUPERVISOR_TASKS}",
    ]
    if settings.cpu is not None:
        lines.append(f"CPUQuota={max(1, settings.cpu * 100):.10g}%")
    if settings.cpuset:
        lines.append(f"AllowedCPUs={settings.cpuset}")
    socket = ["[Unit]", f"Description=Socket of function {function.label} (slot {slot})"]
    return {
        service_unit(function.id, slot): "\n".join(lines) + "\n",
        socket_unit(function.id, slot): "\n".join(socket) + "\n",
    }


def command_unit(number: int) -> str:
    """Name of the unit of the command that the policy NUMBER judges."""
    return f"{COMMANDS}{number}.service"


def command_number(unit: str) -> int | None:
    """The reverse of command_unit."""
    found = re.fullmatch(rf"{COMMANDS}([0-9]+)\.service", unit)
    return int(found[1]) if found else None


def command_properties(command: Command, descriptors: dict[str, int]) -> list[Property]:
    """The transient unit of a command. DESCRIPTORS: which of those that go with the call are stdin, stdout and stderr;
    all others are the agent's, by name."""
    settings = command.judged.settings
    words = " ".join(command.judged.command)
    found: list[Property] = [
        ("Description", "s", f"{command.owner.name} runs {_printable(words)[:200]}"),
        ("Documentation", "as", ["man:boesfsctl(1)"]),
        ("Type", "s", "exec"),
        ("SyslogIdentifier", "s", command.judged.label),
        ("ExecStart", "a(sasb)", [(AGENT, [AGENT, "--run"], False)]),
        ("Slice", "s", COMMAND_SLICE),
        ("CollectMode", "s", "inactive-or-failed"),
        ("KillMode", "s", "mixed"),
        ("TimeoutStopUSec", "t", 10 * USEC),
        ("OOMPolicy", "s", "continue"),
        ("SuccessExitStatus", "(aiai)", (list(range(1, 256)), [])),  # it is the command's, and no failure of the unit
        ("ExtraFileDescriptors", "a(hs)", [(fd, name) for name, fd in descriptors.items() if name not in STANDARD]),
    ]
    names = dict(zip(STANDARD, ("StandardInput", "StandardOutput", "StandardError"), strict=True))
    found += [(f"{names[name]}FileDescriptor", "h", descriptors[name]) for name in STANDARD if name in descriptors]
    if settings.memory:
        found += [("MemoryMax", "t", settings.memory * MIB), ("MemorySwapMax", "t", 0)]
    if settings.tasks:
        found.append(("TasksMax", "t", settings.tasks + SUPERVISOR_TASKS))
    cpu = [row for row in live_properties(settings) if row[0] in ("CPUQuotaPerSecUSec", "AllowedCPUs")]
    return found + [row for row in cpu if (settings.cpu if row[0].startswith("CPU") else settings.cpuset)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def live_properties(settings: Settings) -> list[Property]:
    """The limits of a service unit that is loaded already."""
    quota = (1 << 64) - 1 if settings.cpu is None else max(10_000, round(settings.cpu * USEC))
    cpus = sum(1 << cpu for cpu in parse_cpuset(settings.cpuset))
    return [
        ("MemoryMax", "t", settings.memory * MIB),
        ("TasksMax", "t", settings.tasks + SUPERVISOR_TASKS),
        ("CPUQuotaPerSecUSec", "t", quota),
        ("AllowedCPUs", "ay", list(cpus.to_bytes((cpus.bit_length() + 7) // 8, "little"))),
    ]
