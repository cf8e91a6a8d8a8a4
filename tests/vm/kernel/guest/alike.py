# SPDX-License-Identifier: Apache-2.0
"""What a program sees is compared on the lower filesystem and on boesfs: by system calls that Python has not,
as another user, on mounts that are made or refused."""

import ctypes
import fcntl
import os
import shutil
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from scene import LIBC, Scene, run, start

USER = 1000
NOREPLACE, EXCHANGE = 1, 2  # renameat2
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT, LINKAT, RENAMEAT2 = 430, 431, 432, 429, 265, 316
FICLONE, FIEMAP, FIONREAD, GETVERSION = 0x40049409, 0xC020660B, 0x541B, 0x80087601
STRESSORS = [
    "access",
    "acl",
    "aio",
    "aiol",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "close",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "eventfd",
    "fallocate",
    "fault",
    "fcntl",
    "fd-race",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inotify",
    "io",
    "io-uring",
    "iomix",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "metamix",
    "mknod",
    "mmap",
    "mmapfork",
    "msync",
    "open",
    "readahead",
    "rename",
    "rotate",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "unlink",
    "utime",
    "verity",
    "xattr",
]


def call(number: int, *words: object) -> int:
    """A system call; numbers are 64 bits wide, bytes are passed by address."""
    values = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    result = LIBC.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def apart(work: Callable[[], object], uid: int | None = USER) -> None:
    """WORK in a process of its own, as an unprivileged user unless UID says another."""
    start(work, uid)()


def link_fd(fd: int, name: Path) -> None:
    """Give the file of a descriptor a name."""
    call(LINKAT, AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(name), AT_SYMLINK_FOLLOW)


def number_of(work: Callable[[], object]) -> int:
    """The errno that WORK fails with, 0 if it does not."""
    try:
        work()
    except OSError as error:
        return error.errno or 0
    return 0


def apart_errno(work: Callable[[], object], uid: int = USER) -> None:
    """WORK in a process as user UID; the OSError it raises is raised here."""
    status = {}

    def inside() -> None:
        os._exit(number_of(work))

    try:
        apart(inside, uid)
    except AssertionError as error:
        word = str(error).removeprefix("wait status ")
        if not word.isdigit():
            raise
        status["number"] = int(word) >> 8
    if status:
        raise OSError(status["number"], os.strerror(status["number"]))


def kernel_is_content() -> None:
    """No warning since the test began."""
    said = run("dmesg").stdout.rpartition("test test_")[2]
    assert not any(word in said for word in ("WARNING:", "BUG:", "Call Trace")), said


def soon(done: Callable[[], bool]) -> None:
    """It comes true, if not at once."""
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.01)


def inodes() -> int:
    """How many inodes the module has."""
    Path("/sys/kernel/slab/boesfs_inode/shrink").write_text("1")
    (line,) = [line for line in Path("/proc/slabinfo").read_text().splitlines() if line.startswith("boesfs_inode ")]
    return int(line.split()[1])


def ofd(fd: int, kind: int, start_at: int = 0, length: int = 0) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start_at, length, 0))


def same(s: Scene, *behaviours: Callable[[Path], object]) -> Path:
    """Each behaviour holds on ext4 and on boesfs, and returns the same; all that do not are told."""
    s.policy()
    up = s.mount()
    wrong = []
    for behaviour in behaviours:
        results = {}
        for name, where in (("ext4", s.lower), ("boesfs", up)):
            (where / "here").mkdir()
            (where / "here").chmod(0o777)
            try:
                results[name] = behaviour(where / "here")
            except Exception:  # noqa: BLE001 (all that is wrong is told)
                wrong.append(f"{behaviour.__name__} on {name}:\n{traceback.format_exc()}")
            run("chattr", "-R", "-ia", where / "here", check=False)
            shutil.rmtree(where / "here")
        if len(results) == 2 and results["ext4"] != results["boesfs"]:
            wrong.append(f"{behaviour.__name__}: {results}")
    assert not wrong, "\n".join(wrong)
    return up


def mount_fails(*words: object, source: object, target: Path) -> str:
    """What mount(8) says about it."""
    target.mkdir(exist_ok=True)
    options = ",".join(str(word) for word in words)
    done = run("mount", "-i", "-t", "boesfs", *(["-o", options] if options else []), source, target, check=False)
    if not done.returncode:
        run("umount", target)
    assert done.returncode, f"{source} with {options} was mounted"
    return done.stderr


def bound(s: Scene, options: str) -> Path:
    """The lower directory once more, mounted with other options."""
    other = s.home / "bound"
    other.mkdir()
    run("mount", "--bind", s.lower, other)
    s.mounts.append(other)
    run("mount", "-o", f"remount,bind,{options}", other)
    return other
