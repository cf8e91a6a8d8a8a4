# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine that plans and checks depend on, and the files under /run that are rendered from the store."""

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from boesfsd.config import Config
from boesfsd.errors import BoesError
from boesfsd.layout import OPTIONAL, Host, tree_at
from boesfsd.plan import NETNS, netns
from boesfsd.policy.landlock import Look
from boesfsd.policy.places import split
from boesfsd.runtimes import Runtime
from boesfsd.units import AGENT, CONTROL_DIR, DROP_IN, UNIT_DIR, parse_unit

CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
# sysctl(8) settings that forbid them when they are 0, and a value that does not; the second is of Debian's kernel
USER_NAMESPACES = {"user.max_user_namespaces": 65536, "kernel.unprivileged_userns_clone": 1}
UNIT_FILES = Path("/run/systemd/units")
RESOLVERS = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")


async def features() -> dict[str, str]:
    """What agent and kernel can do: plan, landlock (its ABI, 0 without)."""
    try:
        process = await asyncio.create_subprocess_exec(AGENT, "--features", stdout=subprocess.PIPE)
        out, _ = await process.communicate()
    except OSError as error:
        raise BoesError("Failed", f"Cannot run {AGENT}: {error}", hint="install boesfsd anew") from error
    return dict(line.split("=", 1) for line in out.decode().split())


def facts(config: Config, runtimes: dict[str, Runtime]) -> Host:
    """What plans need to know."""
    optional = set(OPTIONAL)
    optional.update(path for runtime in runtimes.values() for path in runtime.hide)
    return Host(
        init_timeout=config.init_timeout,
        landlock=config.landlock,
        resolver=next((path for path in RESOLVERS if Path(path).exists()), ""),
        files=frozenset(path for path in optional if Path(path).exists()),
        enforcement=config.enforcement,
    )


def looking(trees: Mapping[str, str], hidden: Collection[str]) -> Look:
    """A look at what trees of the host have, by their places inside; HIDDEN directories are empty."""

    def look(path: tuple[bytes, ...]) -> list[bytes] | bytes | int:
        inside = "/" + os.fsdecode(b"/".join(path))
        for directory in hidden:
            if inside == directory:
                return []
            if inside.startswith(f"{directory}/"):
                raise FileNotFoundError(inside)
        target = tree_at(trees, inside)
        place = os.fsencode(trees[target] + inside.removeprefix(target))
        try:
            return sorted(os.listdir(place)) if path == split(target.encode()) else _inside(place)
        except NotADirectoryError as error:
            raise FileNotFoundError(inside) from error
        except PermissionError as error:
            raise BoesError("AccessDenied", f"{os.fsdecode(place)}: {error.strerror}", hint="ask as root") from error

    return look


def _inside(place: bytes) -> list[bytes] | bytes | int:
    found = os.lstat(place)
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(place)
    return sorted(os.listdir(place)) if stat.S_ISDIR(found.st_mode) else found.st_nlink


def identity(file: Path) -> tuple[int, ...]:
    """What tells whether it is the same file as before; () if there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def write(file: Path, text: str) -> bool:
    """Put TEXT into FILE at once or not at all; False when it was there already."""
    try:
        if file.read_text() == text:
            return False
    except OSError:
        pass
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(text)
    part.rename(file)
    return True


def write_drop_in(unit: str, text: str) -> bool:
    """Write the drop-in of a unit that is not loaded yet. The directory's time stamp tells PID 1 to look again; it is
    set to the nanosecond, since two changes within one tick of the kernel's clock would look like one."""
    directory = UNIT_DIR / f"{unit}.d"
    directory.mkdir(parents=True, exist_ok=True)
    changed = write(directory / DROP_IN, text)
    if changed:
        os.utime(UNIT_DIR)
    return changed


def remove_drop_ins(unit: str) -> None:
    """Remove what we and SetUnitProperties wrote for a unit, and the log fields that PID 1 leaves for journald."""
    (UNIT_FILES / f"log-extra-fields:{unit}").unlink(missing_ok=True)
    for directory in (UNIT_DIR, CONTROL_DIR):
        shutil.rmtree(directory / f"{unit}.d", ignore_errors=True)


def invocation(unit: str) -> str:
    """systemd's id of the unit's present run, 32 hexadecimal digits; "" when it does not run."""
    try:
        return os.readlink(UNIT_FILES / f"invocation:{unit}")
    except OSError:
        return ""


def missing_controllers() -> str:
    """Which cgroup v2 controllers that limits need are not there, as text; "" when all are."""
    try:
        there = CONTROLLERS.read_text().split()
    except OSError:
        there = []
    return ", ".join(name for name in ("memory", "cpu", "pids", "cpuset") if name not in there)


def forbidden_user_namespaces() -> str:
    """The sysctl(8) setting that keeps functions from a user namespace of their own, which none starts without; "" when
    there is none."""
    for name in USER_NAMESPACES:
        try:
            if not int(Path("/proc/sys", name.replace(".", "/")).read_text()):
                return name
        except OSError:
            continue  # a kernel that has no such setting
    return ""


def network_namespaces() -> set[str]:
    """Ids of the functions that have a network namespace."""
    prefix = netns("").name
    if not NETNS.is_dir():
        return set()
    return {entry.name.removeprefix(prefix) for entry in os.scandir(NETNS) if entry.name.startswith(prefix)}


def drop_in_units() -> set[str]:
    """Units of ours that have drop-ins."""
    names: set[str] = set()
    for directory in (UNIT_DIR, CONTROL_DIR):
        if directory.is_dir():
            names.update(entry.name.removesuffix(".d") for entry in os.scandir(directory))
    return {name for name in names if parse_unit(name)}
