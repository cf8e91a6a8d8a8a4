# SPDX-License-Identifier: Apache-2.0
"""What a kernel test works with: a lower directory on ext4, mounts of boesfs over it, and a policy."""

import contextlib
import ctypes
import errno
import mmap
import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

T = Path("/t")
LOADER = str(T / "loader")
OBJECT = str(T / "test_policy.bpf.o")
_HEADER = (T / "boesfs_abi.h").read_text()
ABI = {name: int(number) for name, number in re.findall(r"(BOESFS_\w+) = (\d+)\b(?! <<)", _HEADER)}
ABI |= {name: 1 << int(bit) for name, bit in re.findall(r"(BOESFS_\w+) = 1 << (\d+)", _HEADER)}
OPS = {name.removeprefix("BOESFS_OP_").lower(): number for name, number in ABI.items() if name.startswith("BOESFS_OP_")}
OP_NAMES = {number: name for name, number in OPS.items() if name != "nr"}
SCALE = int(os.environ.get("BOESFS_SCALE", "1"))
BY_LABEL, BY_CHECK = 1, 2  # enum test_in_advance
PACE = 10 if Path("/sys/kernel/debug/kmemleak").exists() else 1  # a kernel for debugging takes its time
LIBC = ctypes.CDLL(None, use_errno=True)


def bits(*ops: str) -> int:
    """The operations as a mask."""
    return sum(1 << OPS[op] for op in ops)


ALL = sum(1 << number for name, number in OPS.items() if name != "nr")


def run(*command: object, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command with its output as text."""
    words = [str(word) for word in command]
    more = {"capture_output": True, "errors": "surrogateescape"} | more
    done = subprocess.run(words, text=True, check=False, **more)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def refused(number: int = errno.EPERM) -> Iterator[None]:
    """The block has to fail with this errno."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise AssertionError(f"errno {error.errno}, not {errno.errorcode[number]}") from error
    else:
        raise AssertionError(f"not refused with {errno.errorcode[number]}")


@contextlib.contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """A descriptor for a block."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def begin(work: Callable[[], object]) -> int:
    """Run WORK in a process; its pid. An exception is status 1."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 (the child must not go on with the tests)
            print("child:", repr(error))
            os._exit(1)
    return pid


def child(work: Callable[[], object]) -> int:
    """Run WORK in a process; its wait status. An exception is status 1."""
    return os.waitpid(begin(work), 0)[1]


def start(work: Callable[[], object], uid: int | None = None) -> Callable[[], None]:
    """Begin WORK in a process of its own, as user UID. What it raises is raised by the function that is returned."""
    reader, writer = os.pipe()

    def tell() -> None:
        os.close(reader)
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            work()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
            raise

    pid = begin(tell)
    os.close(writer)

    def join() -> None:
        with open(reader, "rb") as file:
            said = file.read().decode()
        status = os.waitpid(pid, 0)[1]
        assert not status, said or f"wait status {status}"

    return join


@contextlib.contextmanager
def meanwhile(count: int, work: Callable[[], object]) -> Iterator[None]:
    """WORK again and again in COUNT processes, until the block is over. Its OSErrors are no failures."""
    over = mmap.mmap(-1, 1)

    def repeat() -> None:
        while not over[0]:
            with contextlib.suppress(OSError):
                work()

    joins = [start(repeat) for _ in range(count)]
    try:
        yield
    finally:
        over[0] = 1
        for join in joins:
            join()


def parallel(works: list[Callable[[], object]]) -> None:
    """All WORKS at the same time, each in a process."""
    for join in [start(work) for work in works]:
        join()


def remove_module() -> None:
    """rmmod; maps of programs that were detached hold it until a grace period is over."""
    until = time.monotonic() + 10 * PACE
    while Path("/sys/module/boesfs").exists() and run("rmmod", "boesfs", check=False).returncode:
        assert time.monotonic() < until, run("rmmod", "boesfs", check=False).stderr
        time.sleep(0.05)


def exchange_module(file: str) -> None:
    """Put another boesfs.ko in the place of the one that is loaded."""
    remove_module()
    shutil.copyfile(T / file, T / "boesfs.ko")
    run("insmod", T / "boesfs.ko")


def reload_module(*options: str) -> None:
    """Anew with these parameters."""
    remove_module()
    run("insmod", T / "boesfs.ko", *options)


def has_overlayfs() -> None:
    """As a module or built in."""
    if "overlay" not in Path("/proc/filesystems").read_text():
        run("modprobe", "overlay")


class Policy:
    """A policy program under the tests' rules. Nodes are numbers; a label is table << 20 | node."""

    def __init__(self, name: str = "test", flags: int | None = None, *, advance: int = 0) -> None:
        self.name = name
        self.nodes = 0
        self.known: dict[tuple[int, str], int] = {}  # (label, component): label
        run(LOADER, "load", name, OBJECT, -1 if flags is None else flags, advance)

    def do(self, verb: str, *args: object, check: bool = True) -> str:
        """A verb of the loader."""
        return run(LOADER, verb, self.name, *args, check=check).stdout

    def label(self, path: str, table: int = 0, node: int | None = None) -> int:
        """Give PATH a label of its own, and its ancestors the one of their nodes."""
        here = table << 20
        for component in path.strip("/").split("/"):
            self.nodes += 6  # a long name takes several
            label = table << 20 | (self.nodes if node is None or component != path.rsplit("/", 1)[-1] else node)
            key = (here, component)
            if key not in self.known:
                self.do("name", here, component, label)
                self.known[key] = label
            here = self.known[key]
        return here

    def rule(self, path: str, table: int = 0, **fields: int) -> int:
        """A rule for PATH and all below it; `/` is the sandbox's root. The label it is for."""
        label = self.label(path, table) if path.strip("/") else table << 20
        self.do("rule", label, *[f"{name}={value}" for name, value in fields.items()])
        return label

    def bump(self) -> None:
        """Begin a new generation of all policies of this program."""
        self.do("update")

    def records(self) -> list[dict[str, Any]]:
        """What was recorded since the last time; `op` by name."""
        found = []
        for line in re.split(r"\n(?=op=\d+ access=|$)", self.do("records")):
            if not line:
                continue
            record: dict[str, Any] = {}
            for word in re.findall(r"(\w+)=(.*?)(?= \w+=|$)", line, re.DOTALL):
                record[word[0]] = word[1] if word[0] in ("path", "other", "string") else int(word[1])
            record["op"] = OP_NAMES[record["op"]]
            found.append(record)
        return found

    def ops(self) -> list[str]:
        """The names of the recorded operations."""
        return [record["op"] for record in self.records()]

    def counters(self) -> dict[str, int]:
        """How often label and check were asked since the last time."""
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", self.do("counters"))}

    def unload(self) -> None:
        """Detach."""
        run(LOADER, "unload", self.name, check=False)


class Scene:
    """A test's world."""

    def __init__(self) -> None:
        if not Path("/sys/module/boesfs").exists():
            run("insmod", T / "boesfs.ko")
        self.home = Path("/scratch/test")
        self.lower = self.home / "lower"
        self.lower.mkdir(parents=True)
        self.upper = self.home / "upper"
        self.upper.mkdir()
        self.mounts: list[Path] = []
        self.policies: list[Policy] = []
        self.values: dict[str, Any] = {}

    def policy(self, name: str = "test", flags: int | None = None, *, advance: int = 0) -> Policy:
        """Load the test policy. ADVANCE: BY_LABEL, BY_CHECK; all that is ever allowed on an object is, at once."""
        policy = Policy(name, flags, advance=advance)
        self.policies.append(policy)
        return policy

    def mount(self, source: Path | None = None, target: Path | None = None, **options: object) -> Path:
        """Mount boesfs; without options `policy=test`. An option that is True is a flag."""
        source, target = source or self.lower, target or self.upper
        target.mkdir(exist_ok=True)
        options = options or {"policy": "test"}
        words = [name if value is True else f"{name}={value}" for name, value in options.items()]
        run("mount", "-i", "-t", "boesfs", "-o", ",".join(words), source, target)
        self.mounts.append(target)
        return target

    def umount(self, target: Path | None = None, *, patience: float = 0) -> None:
        """Unmount; PATIENCE in seconds for what the kernel lets go of after its user has ended."""
        target = target or self.upper
        end = time.monotonic() + patience
        while run("umount", target, check=time.monotonic() >= end).returncode:
            time.sleep(0.05)
        self.mounts.remove(target)

    def close(self) -> None:
        """Clear away; what cannot be cleared away is a failure."""
        os.chdir("/")
        for target in reversed(self.mounts):
            if run("umount", target, check=False).returncode:
                for mount in reversed(self.mounts):
                    run("umount", "-l", mount, check=False)
                self.mounts = []
                for policy in self.policies:
                    policy.unload()
                shutil.rmtree(self.home, ignore_errors=True)
                raise AssertionError(f"{target} was busy at the end of the test")
        for policy in self.policies:
            policy.unload()
        run("chattr", "-R", "-ia", self.home, check=False)
        shutil.rmtree(self.home)


def user_files(s: Scene) -> None:
    """What uid 1000 may use."""
    for path in (s.home, s.lower, s.upper):
        os.chown(path, 1000, 1000)
        os.chmod(path, 0o755)
    (s.lower / "mine").write_text("mine")
    os.chown(s.lower / "mine", 1000, 1000)
    (s.lower / "roots").write_text("roots")
    os.chmod(s.lower / "roots", 0o600)
    (s.lower / "shut").write_text("shut")
    os.chown(s.lower / "shut", 1000, 1000)


def killed(status: int) -> bool:
    """Whether a wait status says SIGKILL."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
