# SPDX-License-Identifier: Apache-2.0
"""A function as the agent sees it: a flat list of operations, executed in order (agent/plan.h has their fields).

The order is the wall: mounts while we may, then the pivot, then a user namespace without capabilities, Landlock,
seccomp, exec. The agent refuses to exec when one of them is missing.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from boesfsd.model import Function
from boesfsd.options import MIB
from boesfsd.runtimes import Runtime
from boesfsd.units import RUN

PLANS = RUN / "plan"
NETNS = Path("/run/netns")
LISTENER = "/run/fn"
FILTER = "/usr/lib/boesfs/function.bpf"
SKELETON_BYTES = 1 * MIB
SHM_BYTES = 16 * MIB
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
LOADER_CACHE = "/etc/ld.so.cache"
CERTIFICATES = ("/etc/ssl/certs",)
TMP = "/tmp"  # noqa: S108 (a path inside the sandbox, as the next)
SHM = "/dev/shm"  # noqa: S108
OPTIONAL = (LOADER_CACHE, *CERTIFICATES)

Step = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan depends on besides the function: settings of boesfsd.conf and facts of this machine."""

    init_timeout: int
    landlock: str
    resolver: str
    """Path of a resolv.conf that is usable from inside, "" without one."""
    files: frozenset[str]
    """Which of the optional sources (ld.so.cache, certificates …) exist here."""


def path(function_id: str) -> Path:
    """Where the agent finds the plan of a function."""
    return PLANS / f"{function_id}.plan"


def netns(function_id: str) -> Path:
    """The network namespace of a function with network: private."""
    return NETNS / f"boesfs-{function_id}"


def render(function: Function, runtime: Runtime, code: Path, host: Host) -> str:
    """The plan's text."""
    steps = [
        *_identity(function, host),
        *_root(function, runtime, code, host),
        *_confinement(function, runtime, host),
        *_program(function, runtime),
    ]
    return "boesfs-plan\t1\n" + "".join("\t".join(map(_escape, step)) + "\n" for step in steps)


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


def _mkdirs(directories: list[str]) -> list[Step]:
    """Each directory with its parents, once."""
    made: dict[str, None] = {}
    for directory in directories:
        path = PurePosixPath(directory)
        made.update(dict.fromkeys(str(part) for part in [*reversed(path.parents), path] if str(part) != "/"))
    return [("mkdir", directory, "0755") for directory in made]


def _root(function: Function, runtime: Runtime, code: Path, host: Host) -> list[Step]:
    directories = {**runtime.binds, "/function": str(code)}
    files: dict[str, str] = {}
    if LOADER_CACHE in host.files:
        files[LOADER_CACHE] = LOADER_CACHE
    if function.settings.network != "none":
        directories.update({path: path for path in CERTIFICATES if path in host.files})
        if host.resolver:
            files["/etc/resolv.conf"] = host.resolver
    return [
        ("root", str(SKELETON_BYTES)),
        *_mkdirs([*directories, "/etc", TMP, "/proc", SHM, LISTENER]),
        *(("link", target, link) for link, target in runtime.links.items()),
        *(("bind", source, target) for target, source in (directories | files).items()),
        *(("hide", directory) for directory in runtime.hide if directory in host.files),
        *_etc(function),
        *(("device", name) for name in DEVICES),
        *(("link", target, f"/dev/{name}") for name, target in DEVICE_LINKS.items()),
        ("tmpfs", SHM, str(SHM_BYTES), "1777"),
        ("tmpfs", TMP, str(function.settings.tmp_size * MIB), "1777"),
        ("proc", "/proc"),
        ("listener", LISTENER),
        ("pivot",),
    ]


def _etc(function: Function) -> list[Step]:
    name = "function"
    return [
        (
            "file",
            "/etc/passwd",
            "0444",
            f"root:x:0:0::/:/bin/false\n{name}:x:{function.uid}:{function.uid}::/tmp:/bin/sh\n",
        ),
        ("file", "/etc/group", "0444", f"root:x:0:\n{name}:x:{function.uid}:\n"),
        ("file", "/etc/hosts", "0444", "127.0.0.1 localhost\n::1 localhost\n"),
        ("file", "/etc/nsswitch.conf", "0444", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ]


def _confinement(function: Function, runtime: Runtime, host: Host) -> list[Step]:
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
        ("landlock", host.landlock),
        *ports,
        *(("allow", "rx", target) for target in [*runtime.binds, "/function"]),
        ("allow", "r", "/etc"),
        ("allow", "rw", "/dev"),
        ("allow", "rw", "/proc"),
        ("allow", "rwx", TMP),
        ("allow", "rw", LISTENER),
        ("restrict",),
        ("seccomp", FILTER),
    ]


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
        ("cwd", "/function"),
        ("exec", *(function.command or runtime.command)),
    ]
