# SPDX-License-Identifier: Apache-2.0
"""A function as the agent sees it: a flat list of operations, executed in order (agent/plan.h has their fields).

The order is the wall: mounts while we may, then the pivot, then a user namespace without capabilities, Landlock,
seccomp, exec. The agent refuses to exec when one of them is missing.
"""

from pathlib import Path

from boesfsd.layout import CERTIFICATES, CODE, DEVICES, LISTENER, PROC, SHM, TMP, Host, Layout
from boesfsd.model import Function
from boesfsd.options import MIB
from boesfsd.runtimes import Runtime
from boesfsd.units import RUN

PLANS = RUN / "plan"
NETNS = Path("/run/netns")
FILTER = "/usr/lib/boesfs/function.bpf"
BOESFSD = "boesfsd"  # the program of all policies of rules
SKELETON_BYTES = 4 * MIB
SHM_BYTES = 16 * MIB

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


def render(function: Function, runtime: Runtime, layout: Layout, host: Host) -> str:
    """The plan's text."""
    steps = [
        *_identity(function, host),
        *(_governed(function, layout) if host.enforcement == "boesfs" else _bound(function, layout)),
        *_confinement(function, layout, host),
        *_program(function, runtime),
    ]
    return "boesfs-plan\t4\n" + "".join("\t".join(map(_escape, step)) + "\n" for step in steps)


def _escape(field: str) -> str:
    return field.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _identity(function: Function, host: Host) -> list[Step]:
    settings = function.settings
    network = str(netns(function.id)) if settings.network == "private" else settings.network
    return [
        ("label", "id", function.id),
        ("label", "app", function.app.name),
        ("label", "function", function.name),
        ("label", "digest", function.digest),
        ("limit", "timeout", str(settings.timeout * 1000)),
        ("limit", "idle-timeout", str(settings.idle_timeout * 1000)),
        ("limit", "init-timeout", str(host.init_timeout * 1000)),
        ("limit", "log-rate", str(settings.log_rate)),
        ("user", str(function.uid)),
        ("network", network),
        ("hostname", "".join(c if c.isalnum() else "-" for c in function.name)[:63]),
    ]


def _skeleton(layout: Layout) -> list[Step]:
    """Directories, links and files of its own, and what the mounts need to be upon."""
    return [
        ("root", str(SKELETON_BYTES)),
        *(("mkdir", directory, "0755") for directory in layout.directories),
        *(("link", target, link) for link, target in layout.links.items()),
        *(("file", file, "0444", text) for file, text in layout.texts.items()),
        *(("copy", source, file) for file, source in layout.copies.items()),
        *(("file", file, "0444", "") for file in layout.files),
        *(("file", f"/dev/{name}", "0444", "") for name in DEVICES),
    ]


def _bound(function: Function, layout: Layout) -> list[Step]:
    """All pieces as they are; what a policy chose is what it was then, and no link to something else."""
    alone = () if layout.rights is None else ("nofollow",)
    return [
        *_skeleton(layout),
        *(("bind", source, target, *alone) for target, source in (*layout.trees.items(), *layout.files.items())),
        *_mounts(function, layout),
        ("pivot",),
    ]


def _governed(function: Function, layout: Layout) -> list[Step]:
    """All pieces through BoesFS, under the function's policy; but /proc, devices and the listener, which are not the
    host's files."""
    return [
        ("policy", function.program) if function.program else ("policy", BOESFSD, str(function.uid)),
        *_skeleton(layout),
        ("govern", "/", "ro"),
        *(("govern", target, "ro", source) for target, source in layout.trees.items()),
        *_mounts(function, layout),
        ("govern", SHM, "rw"),
        ("govern", TMP, "rw"),
        ("pivot",),
    ]


def _mounts(function: Function, layout: Layout) -> list[Step]:
    return [
        *(("hide", directory) for directory in layout.hidden),
        *(("device", name) for name in DEVICES),
        *(
            ("hide", path) if path in layout.closed else ("tmpfs", path, str(size), "1777")
            for path, size in ((SHM, SHM_BYTES), (TMP, function.settings.tmp_size * MIB))
        ),
        ("proc", PROC),
        ("listener", LISTENER),
    ]


def _confinement(function: Function, layout: Layout, host: Host) -> list[Step]:
    settings = function.settings
    ports = [
        ("ports", side, *map(str, numbers))
        for side, numbers in (("connect", settings.ports.connect), ("bind", settings.ports.bind))
        if numbers is not None
    ]
    return [
        ("rlimit", "nofile", str(settings.files)),
        ("rlimit", "core", "0"),
        ("drop",),
        ("rlimit", "nproc", str(settings.tasks)),
        ("landlock", host.landlock if layout.rights is None else "policy"),
        *ports,
        *(("allow", rights, path) for path, rights in _rights(layout).items()),
        ("allow", READ + WRITE, PROC),
        ("allow", READ + WRITE, LISTENER),
        ("restrict",),
        ("seccomp", FILTER),
    ]


def _rights(layout: Layout) -> dict[str, str]:
    if layout.rights is not None:
        return layout.rights | {f"/dev/{name}": READ + WRITE for name in DEVICES}
    trees = {target: f"{READ}x" for target in layout.trees if target not in CERTIFICATES}
    return trees | {"/etc": READ, "/dev": READ + WRITE, TMP: f"{READ}{WRITE}x"}


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
        ("exec", *(function.command or runtime.command)),
    ]
