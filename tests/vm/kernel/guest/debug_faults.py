# SPDX-License-Identifier: Apache-2.0
"""Every allocation that an operation makes fails once: the operation is refused and nothing is lost, or it is done all
the same. For the kernel for debugging, whose other checks (KASAN, lockdep, kmemleak) look on."""

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from alike import FSCONFIG, FSMOUNT, FSOPEN, call, kernel_is_content
from scene import Scene, opened, run

TRIES = 400
ALLOWED = {errno.ENOMEM, errno.EFAULT, errno.EPERM, errno.ENOSPC, errno.EAGAIN, errno.EINTR, errno.ENOLCK}
SET_STRING, CREATE = 1, 6  # fsconfig


def prepare() -> None:
    """Allocations that may sleep and those of whole pages are to fail too."""
    for name in ("failslab", "fail_page_alloc", "fail_usercopy"):
        Path("/sys/kernel/debug", name, "verbose").write_text("0")
    for name in ("failslab", "fail_page_alloc"):
        Path("/sys/kernel/debug", name, "ignore-gfp-wait").write_text("N")
    Path("/sys/kernel/debug/fail_page_alloc/min-order").write_text("0")
    Path("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem").write_text("N")


def fails(work: Callable[[], object], number: int) -> tuple[bool, int]:
    """Do WORK with its allocation NUMBER failing: whether there was one of that number, and WORK's errno."""
    with opened("/proc/thread-self/fail-nth", os.O_RDWR) as control:
        said = 0
        os.write(control, str(number).encode())
        try:
            work()
        except OSError as error:
            said = error.errno or 0
        except MemoryError:
            said = errno.ENOMEM
        finally:
            try:
                met = not int(os.pread(control, 20, 0))
            except OSError:  # it was this that failed
                met = False
            with contextlib.suppress(OSError):
                os.pwrite(control, b"0", 0)
    return met, said


def each(work: Callable[[], object], again: Callable[[], object]) -> int:
    """WORK with each of its allocations failing, and AGAIN to have it as before; how many there were."""
    for number in range(1, TRIES):
        met, said = fails(work, number)
        assert not said or (met and said in ALLOWED), f"allocation {number}: {errno.errorcode.get(said, said)}"
        again()
        if not met:
            return number - 1
    raise AssertionError(f"more than {TRIES} allocations")


def test_an_operation_whose_allocation_fails_is_refused_and_leaves_nothing_half_done(s: Scene) -> None:
    """On tmpfs below: ext4 ends its journal when it is refused memory, which would be its own affair."""
    prepare()
    lower = s.home / "ram"
    lower.mkdir()
    run("mount", "-t", "tmpfs", "lower", lower)
    s.mounts.append(lower)
    policy = s.policy()
    up = s.mount(lower)
    names = ("f", "d", "d/f", "l", "s")

    def fresh() -> None:
        """As at the beginning, and without what the kernel remembers of it."""
        for path in list(lower.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (lower / "f").write_text("content")
        (lower / "d").mkdir()
        (lower / "d/f").write_text("inner")
        os.link(lower / "f", lower / "l")
        os.symlink("f", lower / "s")
        Path("/proc/sys/vm/drop_caches").write_text("2")

    def agree() -> None:
        """Both sides know the same, also after a failure; then all anew."""
        for name in names:
            assert (up / name).exists() == (lower / name).exists(), name
        assert sorted(os.listdir(up)) == sorted(os.listdir(lower))
        with contextlib.suppress(FileNotFoundError):
            assert (up / "f").read_bytes() == (lower / "f").read_bytes()
        fresh()

    def read() -> None:
        with opened(up / "f") as fd:
            os.read(fd, 10)

    def write() -> None:
        with opened(up / "f", os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"more")

    def map_it() -> None:
        with opened(up / "f", os.O_RDWR) as fd:
            mmap.mmap(fd, 5).close()

    def copy() -> None:
        with opened(up / "f") as source, opened(up / "d/f", os.O_WRONLY) as target:
            os.copy_file_range(source, target, 5)

    def lock() -> None:
        with opened(up / "f", os.O_RDWR) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX)

    works: dict[str, Callable[[], object]] = {
        "lookup": lambda: os.stat(up / "d/f"),
        "read": read,
        "write": write,
        "mmap": map_it,
        "copy": copy,
        "lock": lock,
        "create": lambda: os.close(os.open(up / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR)),
        "tmpfile": lambda: os.close(os.open(up, os.O_TMPFILE | os.O_RDWR)),
        "mkdir": lambda: os.mkdir(up / "new"),
        "mknod": lambda: os.mkfifo(up / "new"),
        "symlink": lambda: os.symlink("target", up / "new"),
        "readlink": lambda: os.readlink(up / "s"),
        "link": lambda: os.link(up / "f", up / "new"),
        "rename": lambda: os.rename(up / "f", up / "d/new"),
        "rename a directory": lambda: os.rename(up / "d", up / "new"),
        "unlink": lambda: os.unlink(up / "f"),
        "rmdir": lambda: [os.unlink(up / "d/f"), os.rmdir(up / "d")],
        "truncate": lambda: os.truncate(up / "f", 3),
        "chmod": lambda: os.chmod(up / "f", 0o600),
        "list": lambda: os.listdir(up / "d"),
        "set an attribute": lambda: os.setxattr(up / "f", "user.a", b"value"),
        "list attributes": lambda: os.listxattr(up / "f"),
        "statfs": lambda: os.statvfs(up / "d"),
    }
    counts = {}
    for name, work in works.items():
        fresh()
        try:
            counts[name] = each(work, agree)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    s.values["allocations"] = counts
    assert all(counts[name] for name in ("lookup", "read", "create", "mkdir", "rename", "link")), counts
    policy.bump()
    kernel_is_content()


def test_a_mount_whose_allocation_fails_is_refused_and_leaves_nothing(s: Scene) -> None:
    prepare()
    s.policy()

    def mount() -> None:
        context = call(FSOPEN, b"boesfs\0", 0)
        try:
            call(FSCONFIG, context, SET_STRING, b"source\0", os.fsencode(s.lower) + b"\0", 0)
            call(FSCONFIG, context, SET_STRING, b"policy\0", b"test\0", 0)
            call(FSCONFIG, context, SET_STRING, b"at\0", b"/srv\0", 0)
            call(FSCONFIG, context, CREATE, 0, 0, 0)
            os.close(call(FSMOUNT, context, 0, 0))
        finally:
            os.close(context)

    s.values["allocations"] = each(mount, lambda: None)
    assert s.values["allocations"] > 5
    kernel_is_content()
