# SPDX-License-Identifier: Apache-2.0
"""A function as the agent sees it: a flat list of operations, executed in order (agent/plan.h has their fields).

The order is the wall: mounts while we may, then the pivot, then a user namespace without capabilities, Landlock,
seccomp, exec. The agent refuses to exec when one of them is missing.
"""

from pathlib import Path, PurePosixPath

from boesfsd.layout import CERTIFICATES, CODE, LISTENER, PROC, PTS, SHM, TMP, Host, Layout
from boesfsd.model import Command, Function
from boesfsd.options import MIB
from boesfsd.runtimes import Runtime
from boesfsd.units import RUN

PLANS = RUN / "plan"
NETNS = Path("/run/netns")
FILTER = "/usr/lib/boesfs/function.bpf"
BOESFSD = "boesfsd"  # the program of all policies of rules
SKELETON_BYTES = 4 * MIB
SHM_BYTES = 16 * MIB

COMMAND_TMP = 1024  # MiB
FROZEN = (
    *("acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "latency_stats", "lock_stat", "scsi", "sys"),
    *("sysrq-trigger", "timer_list"),
)
"""In /proc, what uid 0 could write without any capability."""

READ, WRITE = "rl", "wtfdsnuemi"  # Landlock's rights, see agent/plan.h

Step = tuple[str, ...]


def path(function_id: str) -> Path:
    """Where the agent finds the plan of a function."""
    return PLANS / f"{function_id}.plan"


def governs(file: Path) -> bool:
    """Whether the plan in FILE, if there is one, puts the sandbox behind BoesFS."""
    try:
        return "\npolicy\t" in file.read_text()
    except OSError:
        return True


def netns(function_id: str) -> Path:
    """The network namespace of a function with network: private."""
    return NETNS / f"boesfs-{function_id}"


def trace(function_id: str) -> Path:
    """Where the agent notes which system calls a function makes: a byte for each."""
    return RUN / "trace" / function_id


def render(function: Function, runtime: Runtime, layout: Layout, host: Host, *, traced: int = 0) -> str:
    """The plan's text; TRACED: until when, in seconds since boot, system calls are noted, 0 if they are not."""
    return _text(
        [
            *_identity(function),
            ("limit", "timeout", str(function.settings.timeout * 1000)),
            ("limit", "idle-timeout", str(function.settings.idle_timeout * 1000)),
            ("limit", "init-timeout", str(host.init_timeout * 1000)),
            ("user", str(function.uid)),
            *_pieces(function, layout, host),
            *([("trace", str(trace(function.id)), str(traced))] if traced else []),
            *_confinement(function, layout, host),
            *_program(function, runtime),
        ]
    )


def of_command(command: Command, layout: Layout, host: Host) -> str:
    """The plan's text."""
    return _text(
        [
            *_identity(command.judged),
            *([("limit", "time", str(command.time * 1000))] if command.time else []),
            ("limit", "umask", str(command.umask)),
            ("user", *map(str, (command.owner.uid, command.owner.gid, *command.owner.groups))),
            *_pieces(command.judged, layout, host),
            *([("terminal", str(command.rows), str(command.columns))] if command.terminal else []),
            *_confinement(command.judged, layout, host),
            *(("env", f"{name}={value}") for name, value in command.environment.items()),
            ("cwd", command.cwd),
            *([("reaper",)] if command.reaper else []),
            ("exec", *command.judged.command),
        ]
    )


def _text(steps: list[Step]) -> str:
    return "boesfs-plan\t6\n" + "".join("\t".join(map(_escape, step)) + "\n" for step in steps)


def _escape(field: str) -> str:
    return field.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _identity(function: Function) -> list[Step]:
    settings = function.settings
    network = str(netns(function.id)) if settings.network == "private" else settings.network
    return [
        ("label", "id", function.id),
        ("label", "app", function.app.name),
        ("label", "function", function.name),
        ("label", "digest", function.digest),
        ("limit", "log-rate", str(settings.log_rate)),
        ("network", network),
        ("hostname", "".join(c if c.isalnum() else "-" for c in function.name)[:63]),
    ]


def _pieces(function: Function, layout: Layout, host: Host) -> list[Step]:
    return _governed(function, layout) if host.enforcement == "boesfs" else _bound(function, layout)


def _skeleton(layout: Layout) -> list[Step]:
    """Directories, links and files of its own, and what the mounts need to be upon."""
    return [
        ("root", str(SKELETON_BYTES)),
        *(("mkdir", directory, "0755") for directory in layout.directories),
        *(("link", target, link) for link, target in layout.links.items()),
        *(("file", file, "0444", text) for file, text in layout.texts.items()),
        *(("copy", source, file) for file, source in layout.copies.items()),
        *(("file", file, "0444", "") for file in layout.files),
        *(("file", f"/dev/{name}", "0444", "") for name in layout.devices),
    ]


def _bound(function: Function, layout: Layout) -> list[Step]:
    """All pieces as they are; what a policy chose is what it was then, and no link to something else."""
    alone = () if layout.rights is None else ("nofollow",)
    return [
        *_skeleton(layout),
        *(("bind", source, target, *alone) for target, source in (*_trees(layout), *layout.files.items())),
        *_mounts(function, layout),
        *(("mkdir", path, "0755") for path in _below_tmp(layout)),
        *(("tree", name, path, "ro" if path in layout.unwritten else "rw") for path, name in layout.handed.items()),
        ("pivot",),
    ]


def _governed(function: Function, layout: Layout) -> list[Step]:
    """All pieces through BoesFS, under the function's policy; but /proc, devices and the listener, which are not the
    host's files."""
    return [
        ("policy", function.program) if function.program else ("policy", BOESFSD, str(function.uid)),
        *_skeleton(layout),
        ("govern", "/", "ro"),
        *(("govern", target, "ro", source) for target, source in _trees(layout)),
        *_mounts(function, layout),
        *(("mkdir", path, "0755") for path in _below_tmp(layout)),
        ("govern", SHM, "rw"),
        *([("govern", TMP, "rw")] if TMP not in layout.handed else []),
        *(
            step
            for path, name in layout.handed.items()
            for step in (("tree", name, path, "rw"), ("govern", path, "rw"))
        ),
        ("pivot",),
    ]


def _trees(layout: Layout) -> list[tuple[str, str]]:
    return [(target, source) for target, source in layout.trees.items() if target not in layout.handed]


def _below_tmp(layout: Layout) -> list[str]:
    """Where a tree is to be in what is empty at first; others have their place already."""
    found: dict[str, None] = {}
    for path in (PurePosixPath(path) for path in layout.handed if path.startswith(f"{TMP}/")):
        found.update(dict.fromkeys(str(part) for part in [*reversed(path.parents), path] if len(part.parts) > 2))
    return list(found)


def _mounts(function: Function, layout: Layout) -> list[Step]:
    return [
        *(("hide", directory) for directory in layout.hidden),
        *(("device", name) for name in layout.devices),
        *(
            ("hide", path) if path in layout.closed else ("tmpfs", path, str(size), "1777")
            for path, size in ((SHM, SHM_BYTES), (TMP, function.settings.tmp_size * MIB))
            if path not in layout.handed
        ),
        ("proc", PROC),
        *(
            [*(("freeze", f"{PROC}/{name}") for name in FROZEN), ("pts", PTS)]
            if layout.terminals
            else [("listener", LISTENER)]
        ),
    ]


def _confinement(function: Function, layout: Layout, host: Host) -> list[Step]:
    settings = function.settings
    ports = [
        ("ports", side, *map(str, numbers))
        for side, numbers in (("connect", settings.ports.connect), ("bind", settings.ports.bind))
        if numbers is not None
    ]
    return [
        *([("rlimit", "nofile", str(settings.files))] if settings.files else []),
        ("rlimit", "core", "0"),
        ("drop",),
        *([("rlimit", "nproc", str(settings.tasks))] if settings.tasks else []),
        ("landlock", host.landlock if layout.rights is None else "policy"),
        *ports,
        *(("allow", rights, path) for path, rights in _rights(layout).items()),
        ("allow", READ + WRITE, PROC),
        *([] if layout.terminals else [("allow", READ + WRITE, LISTENER)]),
        ("restrict",),
        ("seccomp", FILTER, *settings.system_calls),
    ]


def _rights(layout: Layout) -> dict[str, str]:
    if layout.rights is not None:
        devices = [*(f"/dev/{name}" for name in layout.devices), *([PTS] if layout.terminals else [])]
        return layout.rights | dict.fromkeys(devices, READ + WRITE)
    trees = {
        target: f"{READ}{WRITE}x" if target in layout.handed else f"{READ}x"
        for target in layout.trees
        if target not in CERTIFICATES
    }
    root = {"/": "l"} if layout.terminals else {}
    return root | {"/etc": READ, "/dev": READ + WRITE, TMP: f"{READ}{WRITE}x"} | trees


def environment(function: Function, runtime: Runtime) -> dict[str, str]:
    """What the function sees: runtime, bundle, app and function configuration, and over them Fn's contract."""
    settings = function.settings
    return {
        **runtime.environment,
        **settings.environment,
        **function.app.config,
        **settings.config,
        "FN_FORMAT": "http-stream",
        "FN_LISTENER": f"unix:{LISTENER}/lsnr.sock",
        "FN_MEMORY": str(settings.memory),
        "FN_TMPSIZE": str(settings.tmp_size),
        "FN_TYPE": "sync",
        "FN_FN_ID": function.id,
        "FN_APP_ID": function.app.id,
        "FN_NAME": function.name,
        "FN_APP_NAME": function.app.name,
    }


def _program(function: Function, runtime: Runtime) -> list[Step]:
    return [
        *(("env", f"{name}={value}") for name, value in environment(function, runtime).items()),
        ("cwd", CODE),
        ("reaper",),
        ("exec", *(function.command or runtime.command)),
    ]
