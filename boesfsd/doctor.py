# SPDX-License-Identifier: Apache-2.0
"""What this host has of what functions need, and what mends what is missing. ROOT is where the host's files are."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from boesfsd import host
from boesfsd.config import MODULE, PINS, Config
from boesfsd.layout import CODE, tree_at
from boesfsd.runtimes import Runtime

Row = tuple[str, str, str, str]
"""Of Manager.Check and boesfsctl doctor: id, state (ok, warning, error), message, hint."""
OK, WARNING, ERROR = "ok", "warning", "error"
OLDEST = (6, 9)
STATE = "var/lib/boesfsd"
LITTLE, LEAST = 1 << 30, 64 << 20  # bytes of its disk
CONTROLLERS_HINT = "boot with systemd.unified_cgroup_hierarchy=1 and no cgroup v1 controllers"
BY_LANDLOCK = "or set enforcement = landlock in /etc/boesfsd/boesfsd.conf"


def of_functions() -> list[Row]:
    """What every start meets."""
    missing, forbidden = host.missing_controllers(), host.forbidden_user_namespaces()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    favor = any("favordynmods" in line for line in mounts if "cgroup2" in line)
    return [
        ("controllers", ERROR, f"Not enforced for want of cgroup v2 controllers: {missing}", CONTROLLERS_HINT)
        if missing
        else ("controllers", OK, "Memory, CPU and task limits are enforced", ""),
        (
            "user-namespaces",
            ERROR,
            f"No function can start: {forbidden} is 0",
            f"sysctl {forbidden}={host.USER_NAMESPACES.get(forbidden)}",
        )
        if forbidden
        else ("user-namespaces", OK, "Each instance gets a user namespace of its own", ""),
        ("favordynmods", OK, "Control groups are set for quick starts", "")
        if favor
        else ("favordynmods", WARNING, "Starts wait for RCU in the cgroup tree", "systemctl start boesfs-setup"),
    ]


def of_host(settings: Config, found: Mapping[str, Runtime], release: str, root: Path = Path("/")) -> list[Row]:
    """What is installed on a kernel with this RELEASE. PermissionError is told as a warning: only root sees all."""
    rows = [_kernel(release, settings.enforcement)]
    if settings.enforcement == "boesfs":
        rows += [_btf(root), _module(release, root), _signatures(release, root), _bpffs(root), _programs(root)]
    else:
        hint = "apt install boesfs-dkms, and set enforcement = boesfs, to have every rule of a policy kept"
        rows.append(("boesfs", OK, "Not in use: enforcement = landlock", hint))
    return [*rows, _polkit(root), _disk(root), *_runtimes(found, root)]


def _kernel(release: str, enforcement: str) -> Row:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return ("kernel", OK, f"Linux {release}", "")
    problem = f"Linux {release} is too old for BoesFS, which needs {OLDEST[0]}.{OLDEST[1]}"
    if enforcement == "boesfs":
        return ("kernel", ERROR, problem, f"boot a newer kernel, {BY_LANDLOCK}")
    return ("kernel", OK, f"{problem}; functions are confined by Landlock", "")


def _btf(root: Path) -> Row:
    if (root / "sys/kernel/btf/vmlinux").exists():
        return ("btf", OK, "The kernel describes its types", "")
    return (
        "btf",
        ERROR,
        "The kernel has no BTF",
        f"boot one with CONFIG_DEBUG_INFO_BTF, as Debian's are, {BY_LANDLOCK}",
    )


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _built(release: str, root: Path) -> bool:
    return any((root / "lib/modules" / release).glob("**/boesfs.ko*"))


def _module(release: str, root: Path) -> Row:
    loaded = _below(root, MODULE)
    if loaded.exists():
        return ("module", OK, f"boesfs is loaded, ABI {(loaded / 'parameters/abi').read_text().strip()}", "")
    if _built(release, root):
        return ("module", ERROR, "boesfs is built and not loaded", "systemctl restart boesfs-setup")
    build = root / "lib/modules" / release / "build"
    for there, missing, hint in (
        (any((root / "usr/src").glob("boesfs-*")), "its package is not installed", "apt install boesfs-dkms"),
        (build.exists(), "its headers are not installed", f"apt install linux-headers-{release}"),
        ((build / "vmlinux").exists(), "its headers have no BTF", "install headers that have vmlinux, as Debian's"),
        ((root / "usr/bin/pahole").exists(), "pahole is not installed", "apt install pahole && dkms autoinstall"),
    ):
        if not there:
            return ("module", ERROR, f"There is no boesfs for Linux {release}: {missing}", hint)
    return ("module", ERROR, f"There is no boesfs for Linux {release}: it was not built", "dkms autoinstall")


def _signatures(release: str, root: Path) -> Row:
    wanted = _text(root / "sys/module/module/parameters/sig_enforce") == "Y"
    wanted = wanted or bool(re.search(r"\[(integrity|confidentiality)\]", _text(root / "sys/kernel/security/lockdown")))
    if not wanted:
        return ("signatures", OK, "Modules need no signature that the kernel knows", "")
    if _below(root, MODULE).exists() or not _built(release, root):
        return ("signatures", OK, "Only modules with a signature that the kernel knows are loaded", "")
    hint = "mokutil --import /var/lib/dkms/mok.pub, boot and enrol the key"
    return ("signatures", ERROR, "The kernel, as with Secure Boot, loads no module whose key it does not know", hint)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _bpffs(root: Path) -> Row:
    mounts = _text(root / "proc/self/mountinfo").splitlines()
    if any(line.split()[4] == str(PINS.parent) and " - bpf " in line for line in mounts):
        return ("bpffs", OK, "There is a place for programs in the kernel", "")
    return ("bpffs", ERROR, f"No bpffs is mounted on {PINS.parent}", f"mount -t bpf bpf {PINS.parent}")


def _programs(root: Path) -> Row:
    try:
        there = any(_below(root, PINS).iterdir())
    except FileNotFoundError:
        there = False
    except PermissionError:
        return ("program", WARNING, f"Only root sees whether programs are in {PINS}", "ask as root")
    if there:
        return ("program", OK, "The policy program is in the kernel", "")
    return ("program", ERROR, "The policy program is not in the kernel", "systemctl restart boesfs-setup")


def _polkit(root: Path) -> Row:
    if (root / "usr/lib/polkit-1/polkitd").exists():
        return ("polkit", OK, "polkit decides who may do what", "")
    return ("polkit", WARNING, "There is no polkit: only root may do anything", "apt install polkitd")


def _disk(root: Path) -> Row:
    place = root / STATE
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    told = f"{free >> 20} MiB are free for functions below /{STATE}"
    if free >= LITTLE:
        return ("disk", OK, told, "")
    return ("disk", WARNING if free >= LEAST else ERROR, told, "make room, or move /var/lib/boesfsd to a larger disk")


def _runtimes(found: Mapping[str, Runtime], root: Path) -> Iterator[Row]:
    if not found:
        yield ("runtimes", ERROR, "No runtime is installed", "apt install boesfs-runtime-python")
    for name, runtime in found.items():
        missing = [path for path in _needed(runtime) if not os.path.lexists(root / path.lstrip("/"))]
        if missing:
            hint = f"apt install --reinstall boesfs-runtime-{name}"
            yield (f"runtime-{name}", ERROR, f"It lacks {', '.join(missing)}", hint)
        else:
            yield (f"runtime-{name}", OK, " ".join(runtime.command), "")


def _needed(runtime: Runtime) -> Iterator[str]:
    """The host's paths of what a runtime binds and executes, its FDK among them."""
    yield from runtime.binds.values()
    for word in runtime.command:
        target = tree_at(runtime.binds, word) if word.startswith("/") and not word.startswith(f"{CODE}/") else ""
        if target:
            yield runtime.binds[target] + word.removeprefix(target)
