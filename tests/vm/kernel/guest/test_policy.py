# SPDX-License-Identifier: Apache-2.0
"""What the policy is asked, with which arguments, and that its word holds."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scene import (
    ABI,
    ALL,
    LIBC,
    OPS,
    PACE,
    Policy,
    Scene,
    T,
    begin,
    bits,
    child,
    killed,
    meanwhile,
    opened,
    refused,
    remove_module,
    run,
    start,
)

NEVER_ASKED = {"init", "destroy", "lookup2", "default", "nr"}
GETVERSION, GETFLAGS, SETFLAGS, NODUMP = 0x80087601, 0x80086601, 0x40086602, 0x40
FICLONERANGE = 0x4020940D
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


def call(name: str, *args: Any) -> int:
    """A function of libc that says -1 for an error."""
    answer: int = getattr(LIBC, name)(*args)
    if answer == -1:
        raise OSError(ctypes.get_errno(), name)
    return answer


def with_file(work: Callable[[int], object], flags: int = os.O_RDWR, name: str = "file") -> Callable[[Path], object]:
    """WORK with a descriptor of the directory's file."""

    def act(directory: Path) -> None:
        with opened(directory / name, flags) as fd:
            work(fd)

    return act


def aio(command: int) -> Callable[[int], None]:
    """IOCB_CMD_PREAD (0) or PWRITE (1) of 3 bytes at 1 by io_submit(2)."""

    def work(fd: int) -> None:
        context = ctypes.c_ulong(0)
        buffer = ctypes.create_string_buffer(b"abc")
        block = ctypes.create_string_buffer(
            struct.pack("<QIiHhIQQqQII", 0, 0, 0, command, 0, fd, ctypes.addressof(buffer), 3, 1, 0, 0, 0)
        )
        event = (ctypes.c_int64 * 4)()
        pointer = ctypes.c_void_p(ctypes.addressof(block))
        call("syscall", 206, 1, ctypes.byref(context))
        try:
            call("syscall", 209, context, 1, ctypes.byref(pointer))
            call("syscall", 208, context, 1, 1, ctypes.byref(event), None)
        finally:
            call("syscall", 207, context)
        if event[2] < 0:
            raise OSError(-event[2], "aio")

    return work


def splice_out(fd: int) -> None:
    """splice(2) from the file."""
    reader, writer = os.pipe()
    try:
        os.splice(fd, writer, 3, offset_src=1)
    finally:
        os.close(reader)
        os.close(writer)


def splice_in(fd: int) -> None:
    """splice(2) to the file."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"abc")
        os.splice(reader, fd, 3, offset_dst=1)
    finally:
        os.close(reader)
        os.close(writer)


def sendfile_out(fd: int) -> None:
    """sendfile(2) from the file."""
    with opened(Path("/dev/null"), os.O_WRONLY) as null:
        os.sendfile(null, fd, 1, 3)


def sendfile_in(fd: int) -> None:
    """sendfile(2) to the file."""
    with opened(Path("/dev/zero")) as zero:
        os.sendfile(fd, zero, None, 3)


def copy_range(directory: Path) -> None:
    """copy_file_range(2) inside the mount."""
    with opened(directory / "file") as source, opened(directory / "other", os.O_WRONLY) as target:
        os.copy_file_range(source, target, 3, 1, 2)


def clone_range(directory: Path) -> None:
    """FICLONERANGE inside the mount, which ext4 has not: the answer to who may is EOPNOTSUPP."""
    with opened(directory / "file") as source, opened(directory / "other", os.O_WRONLY) as target:
        try:
            fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, 1, 3, 2))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def mapped(fd: int, flags: int, prot: int) -> None:
    """mmap(2) and munmap(2) of the whole file."""
    mmap.mmap(fd, 0, flags=flags, prot=prot).close()


def access(path: Path, mode: int) -> None:
    """access(2) with its errno."""
    call("access", os.fsencode(path), mode)


def ofd_lock(fd: int) -> None:
    """A lock of the open file description."""
    fcntl.fcntl(fd, 37, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 2, 3, 0))


def chattr(fd: int) -> None:
    """chattr +d."""
    (flags,) = struct.unpack("q", fcntl.ioctl(fd, GETFLAGS, bytes(8)))
    fcntl.ioctl(fd, SETFLAGS, struct.pack("q", flags ^ NODUMP))


def touch(path: Path, atime_ns: int, mtime_ns: int) -> None:
    """utimensat(2) with nanoseconds that may be UTIME_OMIT."""
    call("utimensat", -100, os.fsencode(path), struct.pack("qqqq", 1, atime_ns, 1, mtime_ns), 0)


def rename2(directory: Path, old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    call("renameat2", -100, os.fsencode(directory / old), -100, os.fsencode(directory / new), flags)


def is_open_of(flags: int) -> Callable[[int], bool]:
    """Whether arg[0] of OPEN has these flags, whatever the C library adds."""
    return lambda arg: arg & ~(os.O_CLOEXEC | 0o100000) == flags


@dataclass(frozen=True)
class Row:
    """Something done in a directory made by make(), and the question it has to raise."""

    op: str
    what: str
    act: Callable[[Path], object]
    path: str = "/file"
    expect: dict[str, Any] = field(default_factory=dict)


SHARED = ABI.get("MAP_SHARED", mmap.MAP_SHARED) << 8
AT_1 = {"arg0": 3, "arg1": 1}
ROWS = [
    Row("read", "read", with_file(lambda fd: os.read(fd, 3)), expect={"arg0": 3, "arg1": 0, "access": 0}),
    Row("read", "pread", with_file(lambda fd: os.pread(fd, 3, 1)), expect=AT_1),
    Row("read", "preadv", with_file(lambda fd: os.preadv(fd, [bytearray(2), bytearray(1)], 1)), expect=AT_1),
    Row("read", "aio", with_file(aio(0)), expect=AT_1),
    Row("read", "splice", with_file(splice_out), expect=AT_1),
    Row("read", "sendfile", with_file(sendfile_out), expect=AT_1),
    Row("read", "copy_file_range", copy_range, expect=AT_1),
    Row("read", "FICLONERANGE", clone_range, expect=AT_1),
    Row(
        "read",
        "mmap",
        with_file(lambda fd: mapped(fd, mmap.MAP_PRIVATE, mmap.PROT_READ), os.O_RDONLY),
        expect={"arg0": 0, "arg1": 0},
    ),
    Row("write", "write", with_file(lambda fd: os.write(fd, b"abc")), expect={"arg0": 3, "arg1": 0}),
    Row("write", "pwrite", with_file(lambda fd: os.pwrite(fd, b"abc", 1)), expect=AT_1),
    Row("write", "pwritev", with_file(lambda fd: os.pwritev(fd, [b"ab", b"c"], 1)), expect=AT_1),
    Row("write", "aio", with_file(aio(1)), expect=AT_1),
    Row("write", "splice", with_file(splice_in), expect=AT_1),
    Row("write", "sendfile", with_file(sendfile_in), expect={"arg0": 3, "arg1": 0}),
    Row("write", "copy_file_range", copy_range, "/other", {"arg0": 3, "arg1": 2}),
    Row("write", "FICLONERANGE", clone_range, "/other", {"arg0": 3, "arg1": 2}),
    Row(
        "write",
        "mmap",
        with_file(lambda fd: mapped(fd, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)),
        expect={"arg0": 0, "arg1": 0},
    ),
    Row("lookup", "stat", lambda d: os.stat(d / "file")),
    Row("lookup", "a component", lambda d: os.stat(d / "full/x"), "/full"),
    Row("lookup", "open", lambda d: os.close(os.open(d / "file", os.O_RDONLY))),
    Row("probe", "stat", lambda d: gone(d / "missing"), "/missing"),
    Row("probe", "open", lambda d: gone(d / "missing", os.O_RDONLY), "/missing"),
    Row("open", "reading", lambda d: os.close(os.open(d / "file", os.O_RDONLY)), expect={"arg0": is_open_of(0)}),
    Row(
        "open",
        "appending",
        lambda d: os.close(os.open(d / "file", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)),
        expect={"arg0": is_open_of(os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)},
    ),
    Row("open", "a directory", lambda d: os.close(os.open(d / "sub", os.O_DIRECTORY)), "/sub"),
    Row("open", "a FIFO", lambda d: os.close(os.open(d / "fifo", os.O_RDWR)), "/fifo", {"arg0": is_open_of(os.O_RDWR)}),
    Row("mkdir", "mkdir", lambda d: os.mkdir(d / "new", 0o750), "/new", {"arg0": 0o750, "mode": 0, "ino": 0}),
    Row("unlink", "unlink", lambda d: os.unlink(d / "file"), expect={"mode": 0o100644}),
    Row("rmdir", "rmdir", lambda d: os.rmdir(d / "sub"), "/sub"),
    Row("mknod", "mkfifo", lambda d: os.mkfifo(d / "new", 0o640), "/new", {"arg0": stat.S_IFIFO | 0o640, "arg1": 0}),
    Row(
        "mknod",
        "a device",
        lambda d: os.mknod(d / "new", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "/new",
        {"arg0": stat.S_IFCHR | 0o600, "arg1": 0x103},
    ),
    Row(
        "create",
        "open",
        lambda d: os.close(os.open(d / "new", os.O_CREAT | os.O_WRONLY, 0o640)),
        "/new",
        {"arg0": stat.S_IFREG | 0o640},
    ),
    Row("link", "link", lambda d: os.link(d / "file", d / "new"), expect={"other": "/new", "mode": 0o100644}),
    Row("symlink", "symlink", lambda d: os.symlink("to/here", d / "new"), "/new", {"string": "to/here"}),
    Row("rename", "rename", lambda d: (d / "file").rename(d / "new"), expect={"other": "/new", "arg0": 0}),
    Row("rename", "over another", lambda d: (d / "file").rename(d / "other"), expect={"other": "/other", "arg0": 0}),
    Row("rename", "a directory", lambda d: (d / "full").rename(d / "new"), "/full", {"other": "/new"}),
    Row("rename", "noreplace", lambda d: rename2(d, "file", "new", 1), expect={"other": "/new", "arg0": 1}),
    Row("rename", "exchange", lambda d: rename2(d, "file", "other", 2), expect={"other": "/other", "arg0": 2}),
    Row(
        "rename", "exchange's other", lambda d: rename2(d, "file", "other", 2), "/other", {"other": "/file", "arg0": 2}
    ),
    Row("setattr", "chmod", lambda d: os.chmod(d / "file", 0o4711), expect={"access": 1, "arg0": 0o4711}),
    Row("setattr", "chown", lambda d: os.chown(d / "file", 5, 6), expect={"access": 6, "arg1": 5, "arg2": 6}),
    Row("setattr", "chgrp", lambda d: os.chown(d / "file", -1, 6), expect={"access": 4, "arg1": 0, "arg2": 6}),
    Row("setattr", "truncate", lambda d: os.truncate(d / "file", 2), expect={"access": 8, "arg3": 2}),
    Row(
        "setattr",
        "ftruncate",
        with_file(lambda fd: os.ftruncate(fd, 2)),
        expect={"access": lambda access: access & 8 and not access & ~40, "arg3": 2},
    ),
    Row(
        "setattr",
        "O_TRUNC",
        lambda d: os.close(os.open(d / "file", os.O_WRONLY | os.O_TRUNC)),
        expect={"access": lambda access: access & 8 and not access & ~40, "arg3": 0},
    ),
    Row("setattr", "utimes", lambda d: os.utime(d / "file", (1, 2)), expect={"access": 48}),
    Row("setattr", "atime alone", lambda d: touch(d / "file", 1, 0x3FFFFFFE), expect={"access": 16}),
    Row("setattr", "chattr", with_file(chattr), expect={"access": 64}),
    Row("getattr", "stat", lambda d: os.stat(d / "file"), expect={"mode": 0o100644}),
    Row("getattr", "fstat", with_file(os.fstat)),
    Row("getattr", "lsattr", with_file(lambda fd: fcntl.ioctl(fd, GETFLAGS, bytes(8)))),
    Row("llseek", "lseek", with_file(lambda fd: os.lseek(fd, 2, os.SEEK_CUR)), expect={"arg0": 2, "arg1": 1}),
    Row("llseek", "of a directory", with_file(lambda fd: os.lseek(fd, 0, os.SEEK_SET), os.O_DIRECTORY, "sub"), "/sub"),
    Row("iterate", "listdir", lambda d: os.listdir(d / "full"), "/full"),
    Row(
        "mmap",
        "shared",
        with_file(lambda fd: mapped(fd, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)),
        expect={"access": 3 | SHARED},
    ),
    Row(
        "mmap",
        "executable",
        with_file(lambda fd: mapped(fd, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)),
        expect={"access": 5},
    ),
    Row("statfs", "statvfs", lambda d: os.statvfs(d / "file")),
    Row("statfs", "fstatvfs", with_file(os.fstatvfs)),
    Row("fsync", "fsync", with_file(os.fsync), expect={"arg0": 0}),
    Row("fsync", "fdatasync", with_file(os.fdatasync), expect={"arg0": 1}),
    Row("fsync", "of a directory", with_file(os.fsync, os.O_DIRECTORY, "sub"), "/sub"),
    Row("readlink", "readlink", lambda d: os.readlink(d / "link"), "/link"),
    Row("readlink", "following", lambda d: os.stat(d / "link"), "/link"),
    Row("getxattr", "getxattr", lambda d: os.getxattr(d / "file", "user.x"), expect={"string": "user.x"}),
    Row(
        "getxattr",
        "an ACL",
        lambda d: os.getxattr(d / "other", "system.posix_acl_access"),
        "/other",
        {"string": "system.posix_acl_access"},
    ),
    Row(
        "setxattr",
        "setxattr",
        lambda d: os.setxattr(d / "file", "user.y", b"12345", os.XATTR_CREATE),
        expect={"string": "user.y", "arg0": 5, "arg1": 1},
    ),
    Row(
        "setxattr",
        "an ACL",
        lambda d: os.setxattr(d / "file", "system.posix_acl_access", ACL),
        expect={"string": "system.posix_acl_access"},
    ),
    Row("listxattr", "listxattr", lambda d: os.listxattr(d / "file")),
    Row("removexattr", "removexattr", lambda d: os.removexattr(d / "file", "user.x"), expect={"string": "user.x"}),
    Row(
        "removexattr",
        "an ACL",
        lambda d: os.removexattr(d / "other", "system.posix_acl_access"),
        "/other",
        {"string": "system.posix_acl_access"},
    ),
    Row(
        "ioctl",
        "FS_IOC_GETVERSION",
        with_file(lambda fd: fcntl.ioctl(fd, GETVERSION, bytes(8))),
        expect={"arg0": GETVERSION},
    ),
    Row(
        "fallocate",
        "fallocate",
        with_file(lambda fd: call("fallocate", fd, 1, ctypes.c_long(1), ctypes.c_long(9000))),
        expect={"arg0": 1, "arg1": 1, "arg2": 9000},
    ),
    Row(
        "tmpfile",
        "open",
        lambda d: os.close(os.open(d / "sub", os.O_TMPFILE | os.O_RDWR, 0o600)),
        "",
        {"arg0": stat.S_IFREG | 0o600},
    ),
    Row("exec", "execve", lambda d: subprocess.run([d / "program"], check=True), "/program"),
    Row("access", "R_OK", lambda d: access(d / "file", os.R_OK), expect={"access": 4}),
    Row("access", "W_OK and X_OK", lambda d: access(d / "program", os.W_OK | os.X_OK), "/program", {"access": 3}),
    Row(
        "lock",
        "fcntl",
        with_file(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 3, 2)),
        expect={"arg0": fcntl.F_WRLCK, "arg1": 2, "arg2": 4},
    ),
    Row("lock", "OFD", with_file(ofd_lock), expect={"arg0": fcntl.F_WRLCK, "arg1": 2, "arg2": 4}),
    Row(
        "lock",
        "flock",
        with_file(lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)),
        expect={"arg0": fcntl.F_RDLCK},
    ),
]


def gone(path: Path, flags: int | None = None) -> None:
    """A name that has to be missing; only what is not ENOENT is raised."""
    with contextlib.suppress(FileNotFoundError):
        if flags is None:
            os.stat(path)
        else:
            os.open(path, flags)
        raise AssertionError(f"{path} is there")


def make(directory: Path) -> None:
    """What the rows work on."""
    (directory / "sub").mkdir(parents=True)
    (directory / "full").mkdir()
    (directory / "full/x").write_text("x")
    for name in ("file", "other"):
        (directory / name).write_text("0123456789")
        os.chmod(directory / name, 0o644)
    os.setxattr(directory / "file", "user.x", b"1")
    os.setxattr(directory / "other", "system.posix_acl_access", ACL)
    os.symlink("file", directory / "link")
    os.mkfifo(directory / "fifo")
    shutil.copy("/usr/bin/true", directory / "program")


def snapshot(directory: Path) -> dict[str, Any]:
    """All that an operation may change below, times of access aside."""
    found: dict[str, Any] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        st = path.lstat()
        content = hashlib.sha256(path.read_bytes()).digest() if stat.S_ISREG(st.st_mode) else b""
        target = os.readlink(path) if path.is_symlink() else ""
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        flags = b""
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            with opened(path) as fd:
                flags = fcntl.ioctl(fd, GETFLAGS, bytes(8))
        found[str(path.relative_to(directory))] = (
            st.st_ino,
            st.st_mode,
            st.st_nlink,
            st.st_uid,
            st.st_gid,
            st.st_size,
            st.st_blocks,
            st.st_mtime_ns,
            st.st_ctime_ns,
            st.st_rdev,
            content,
            target,
            attributes,
            flags,
        )
    return found


def matches(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a record is what a row says."""
    return all(value(record[name]) if callable(value) else record[name] == value for name, value in wanted.items())


def question(row: Row, base: str) -> dict[str, Any]:
    """What has to be recorded when ROW is done in the directory BASE."""
    wanted = {"op": row.op, "label": 0, "uid": 0} | row.expect
    if row.path:
        wanted["path"] = base + row.path
    if "other" in wanted:
        wanted["other"] = base + wanted["other"]
    return wanted


def test_the_table_of_operations_is_complete(s: Scene) -> None:
    assert {row.op for row in ROWS} == set(OPS) - NEVER_ASKED


def test_every_operation_is_asked_with_the_documented_arguments(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/", record=ALL, nocache=ALL)
    for number in range(len(ROWS)):
        make(s.lower / f"d{number}")
    up = s.mount()
    wrong = []
    for number, row in enumerate(ROWS):
        policy.records()
        inodes = {f"/d{number}/{p.name}": p.lstat().st_ino for p in (s.lower / f"d{number}").iterdir()}
        row.act(up / f"d{number}")
        wanted = question(row, f"/d{number}")
        records = policy.records()
        if not any(matches(record, wanted) for record in records):
            asked = [{k: v for k, v in r.items() if k in {"path", *wanted}} for r in records if r["op"] == row.op]
            wrong.append(f"{row.op} by {row.what}: not {wanted} but {asked or [r['op'] for r in records]}")
        device = os.stat(s.lower).st_dev
        for record in records:
            if record["ino"] and record["path"] in inodes and record["ino"] != inodes[record["path"]]:
                wrong.append(f"{row.op} by {row.what}: inode {record['ino']} of {record['path']}")
            if record["dev"] != os.major(device) << 20 | os.minor(device):
                wrong.append(f"{row.op} by {row.what}: device {record['dev']:x}")
    assert not wrong, "\n".join(wrong)


def test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below(s: Scene) -> None:
    policy = s.policy()
    for number in range(len(ROWS)):
        make(s.lower / f"d{number}")
    up = s.mount()
    wrong = []
    for number, row in enumerate(ROWS):
        base = f"/d{number}"
        before = snapshot(s.lower / f"d{number}")
        for verdict, number_said in ((0, errno.EPERM), (-errno.EACCES, errno.EACCES)):
            policy.rule(base, deny=bits(row.op), verdict=verdict)
            try:
                with refused(number_said):
                    row.act(up / f"d{number}")
            except AssertionError as error:
                wrong.append(f"{row.op} by {row.what}: {error}")
        if snapshot(s.lower / f"d{number}") != before:
            wrong.append(f"{row.op} by {row.what}: changed what is below")
        policy.rule(base)
        policy.bump()
        try:
            row.act(up / f"d{number}")
        except OSError as error:
            wrong.append(f"{row.op} by {row.what}: when it is allowed: {error}")
    assert not wrong, "\n".join(wrong)


def test_an_exchange_needs_both_to_be_allowed(s: Scene) -> None:
    make(s.lower)
    policy = s.policy()
    label = policy.rule("/other", deny=bits("rename"))
    up = s.mount()
    before = snapshot(s.lower)
    for names in (("file", "other"), ("other", "file")):
        with refused():
            rename2(up, *names, 2)
    assert snapshot(s.lower) == before
    policy.records()
    policy.rule("/", record=bits("rename"))
    policy.do("rule", label, f"record={bits('rename')}")
    policy.bump()
    rename2(up, "file", "other", 2)
    asked = [(r["path"], r["other"], r["label"], r["other_label"]) for r in policy.records()]
    assert asked == [("/file", "/other", 0, label), ("/other", "/file", label, 0)], asked


def test_an_exchange_is_judged_by_one_generation(s: Scene) -> None:
    """Each table allows one half of it, and they change places between the two questions."""
    for name in ("a", "b"):
        (s.lower / name).write_text(name)
    policy = s.policy()
    policy.rule("/a", 1, slow=bits("rename"), slow_check=300000 * PACE)
    policy.rule("/b", 1, deny=bits("rename"))
    policy.rule("/a", 2, deny=bits("rename"))
    policy.do("replace", 7, 1)
    up = s.mount(policy="test", policy_id=7)
    before = snapshot(s.lower)
    for path in (up / "a", up / "b"):
        path.stat()

    def exchange() -> None:
        with refused():
            rename2(up, "a", "b", 2)

    join = start(exchange)
    time.sleep(0.1)
    policy.do("replace", 7, 2)
    join()
    assert snapshot(s.lower) == before


def test_a_file_without_a_name_gets_none_where_links_are_denied(s: Scene) -> None:
    (s.lower / "shut").mkdir()
    policy = s.policy()
    policy.rule("/shut", deny=bits("link"))
    up = s.mount()
    with opened(up / "shut", os.O_TMPFILE | os.O_RDWR) as fd:
        ways: list[Callable[[], object]] = [
            lambda: call("linkat", fd, b"", -100, os.fsencode(up / "shut/new"), 0x1000),  # AT_EMPTY_PATH
            lambda: call("linkat", -100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(up / "new"), 0x400),  # …_FOLLOW
        ]
        for way in ways:
            with refused():
                way()
        assert (os.listdir(s.lower), os.listdir(s.lower / "shut"), os.fstat(fd).st_nlink) == (["shut"], [], 0)
        policy.rule("/shut")
        policy.bump()
        for way in ways:
            way()
    assert (s.lower / "new").stat().st_ino == (s.lower / "shut/new").stat().st_ino


def test_a_link_tells_both_labels(s: Scene) -> None:
    for name in ("a", "b"):
        (s.lower / name).mkdir()
    (s.lower / "a/file").touch()
    policy = s.policy()
    here = policy.rule("/a", record=ALL)
    there = policy.rule("/b")
    up = s.mount()
    os.link(up / "a/file", up / "b/file")
    asked = [(r["label"], r["other_label"], r["path"], r["other"]) for r in policy.records() if r["op"] == "link"]
    assert asked == [(here, there, "/a/file", "/b/file")], asked


def test_a_verdict_that_is_no_errno_denies_with_eperm(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    up = s.mount()
    for verdict in (1, 13, 2**31 - 1, -4096, -5000, -2147483648):
        policy.rule("/file", deny=bits("getattr", "open"), verdict=verdict)
        for act in (lambda: os.stat(up / "file"), lambda: os.open(up / "file", os.O_RDONLY)):
            with refused(errno.EPERM):
                act()
    policy.rule("/file", deny=bits("getattr"), verdict=-4095)
    try:
        os.stat(up / "file")
        said = 0
    except OSError as error:
        said = error.errno or 0
    assert said == 4095


def test_an_argument_decides_each_time(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.rule("/file", deny=bits("setattr"), by_argument=bits("setattr"), argument=0, mask=0o6000, access=1)
    up = s.mount()
    for _ in range(2):
        os.chmod(up / "file", 0o755)
        for mode in (0o4755, 0o2755):
            with refused():
                os.chmod(up / "file", mode)
        assert os.stat(s.lower / "file").st_mode == 0o100755
    os.utime(up / "file", (1, 1))
    assert os.stat(s.lower / "file").st_mtime == 1
    policy.rule("/file", deny=bits("open"), by_argument=bits("open"), argument=0, mask=os.O_WRONLY | os.O_RDWR)
    policy.bump()
    for _ in range(2):
        os.close(os.open(up / "file", os.O_RDONLY))
        for flags in (os.O_WRONLY, os.O_RDWR):
            with refused():
                os.open(up / "file", flags)


def test_what_is_always_asked_is_asked_in_spite_of_a_cached_verdict(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    up = s.mount()
    with opened(up / "file", os.O_RDWR) as fd:
        acts: list[Callable[[], object]] = [
            lambda: os.fchmod(fd, 0o600),
            lambda: os.rename(up / "file", up / "file2") or os.rename(up / "file2", up / "file"),
            lambda: fcntl.ioctl(fd, GETVERSION, bytes(8)),
            lambda: fcntl.lockf(fd, fcntl.LOCK_EX),
            lambda: access(up / "file", os.R_OK),
        ]
        for act in acts:
            act()
            for _ in range(3):
                policy.counters()
                act()
                assert policy.counters()["checks"] >= 1


def test_a_chown_that_changes_nothing_takes_no_set_id_bits_behind_the_policy(s: Scene) -> None:
    (s.lower / "file").touch()
    os.chmod(s.lower / "file", 0o6755)
    policy = s.policy()
    policy.rule("/file", deny=bits("setattr"))
    up = s.mount()
    with refused():
        os.chown(up / "file", -1, -1)
    assert os.stat(s.lower / "file").st_mode & 0o7777 == 0o6755
    policy.rule("/file", record=ALL)
    policy.bump()
    os.chown(up / "file", -1, -1)
    (record,) = [r for r in policy.records() if r["op"] == "setattr" and not r["verdict"]]
    assert (record["access"], record["arg0"]) == (1, 0o755), record
    assert os.stat(s.lower / "file").st_mode & 0o7777 == 0o755


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


def as_1000(work: Callable[[], object]) -> int:
    """WORK by uid 1000; a wait status."""

    def changed() -> None:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        work()

    return child(changed)


def privileged(path: Path, mode: int) -> None:
    """A file with set-id bits and a capability."""
    path.write_text("0123456789")
    os.chmod(path, mode)
    os.setxattr(path, "security.capability", CAPABILITY)


def privileges(path: Path) -> tuple[int, bool]:
    """The set-id bits, and whether there is a capability."""
    return os.stat(path).st_mode & 0o6000, "security.capability" in os.listxattr(path)


def test_who_changes_the_content_takes_privileges_as_below(s: Scene) -> None:
    s.policy()
    os.chmod(s.lower, 0o777)
    up = s.mount()
    acts: dict[str, Callable[[Path], object]] = {
        "truncate": lambda path: os.truncate(path, 2),
        "ftruncate": with_path(lambda fd: os.ftruncate(fd, 2)),
        "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        "write": with_path(lambda fd: os.write(fd, b"x")),
        "fallocate": with_path(lambda fd: call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(9000))),
    }
    wrong = []
    for name, act in acts.items():
        for mode in (0o6777, 0o2767):
            found = []
            for base in (s.lower, up):
                privileged(s.lower / "file", mode)
                assert as_1000(lambda act=act, base=base: act(base / "file")) == 0
                found.append(privileges(s.lower / "file"))
                os.unlink(up / "file")
            if found[0] != found[1]:
                wrong.append(f"{name} of mode {mode:o}: {found[1]}, not {found[0]}")
    assert not wrong, "\n".join(wrong)


def with_path(work: Callable[[int], object]) -> Callable[[Path], object]:
    """WORK with a descriptor for writing."""

    def act(path: Path) -> None:
        with opened(path, os.O_WRONLY) as fd:
            work(fd)

    return act


def test_a_chown_takes_capabilities_even_if_nobody_may_ask_for_them(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/file", deny=bits("getxattr"))
    up = s.mount()
    for base in (s.lower, up):
        privileged(s.lower / "file", 0o6755)
        os.chown(base / "file", 5, 6)
        assert privileges(s.lower / "file") == (0, False), base
        os.unlink(s.lower / "file")


def test_a_mapping_that_may_not_become_writable_kills_nobody(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    policy.rule("/file", deny=bits("write"), kill=bits("write"))
    up = s.mount()

    def reader() -> None:
        with opened(up / "file", os.O_RDWR) as fd:
            address = call_pointer("mmap", None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            assert ctypes.string_at(address, 3) == b"con"
            with refused(errno.EACCES):
                call("mprotect", ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_WRITE)

    assert child(reader) == 0
    assert killed(child(lambda: with_file(lambda fd: mapped(fd, mmap.MAP_SHARED, 3))(up)))


def call_pointer(name: str, *args: Any) -> int:
    """A function of libc that returns a pointer."""
    function = getattr(LIBC, name)
    function.restype = ctypes.c_void_p
    answer: int = function(*[ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args])
    if answer == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), name)
    return answer


def test_unlocking_is_not_asked_and_looking_for_a_lock_is(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    up = s.mount()
    with opened(up / "file", os.O_RDWR) as fd, opened(s.lower / "file", os.O_RDWR) as other:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_EX)
        policy.rule("/file", deny=bits("lock"))
        policy.bump()
        with refused():
            fcntl.lockf(fd, fcntl.LOCK_EX)
        with refused():
            fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
        assert child(lambda: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)), "the lock is not below"
        with refused(errno.EAGAIN):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(fd, fcntl.LOCK_UN)
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert child(lambda: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == 0
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_only_the_trusted_program_may_and_no_copy_of_it(s: Scene) -> None:
    (s.lower / "secret").write_text("s")
    for name in ("cat", "cat2"):
        shutil.copy("/usr/bin/cat", s.lower / name)
    policy = s.policy()
    policy.do("trust", "/usr/bin/cat")
    policy.rule("/secret", deny=bits("open"), program=1)
    up = s.mount()
    for _ in range(2):
        assert run("/usr/bin/cat", up / "secret").stdout == "s"
        for other in (s.lower / "cat", up / "cat"):
            assert "not permitted" in run(other, up / "secret", check=False).stderr
        with refused():
            (up / "secret").read_text()
    policy.do("trust", s.lower / "cat")
    assert run(up / "cat", up / "secret").stdout == "s"  # on boesfs its identity is that of the file below
    assert run(s.lower / "cat", up / "secret").stdout == "s"
    assert run("/usr/bin/cat", up / "secret", check=False).returncode
    assert run(up / "cat2", up / "secret", check=False).returncode
    os.link(s.lower / "cat", s.lower / "another-name")
    assert run(s.lower / "another-name", up / "secret").stdout == "s"
    (s.lower / "cat").unlink()
    (s.lower / "another-name").unlink()
    shutil.copy("/usr/bin/cat", s.lower / "cat")  # perhaps the same inode number, surely another generation
    assert run(s.lower / "cat", up / "secret", check=False).returncode


def test_a_kernel_thread_runs_no_program_and_is_not_taken_for_a_trusted_one(s: Scene) -> None:
    (s.lower / "image").write_bytes(bytes(1 << 20))
    policy = s.policy()
    policy.rule("/image", deny=bits("read"), program=1)  # nobody is trusted: an identity of zeros
    up = s.mount()
    run("modprobe", "loop")
    device = run("losetup", "--find", "--show", up / "image").stdout.strip()
    try:
        with opened(device) as fd, refused(errno.EIO):
            os.read(fd, 512)
        assert "read" in policy.ops()
        policy.rule("/image")
        policy.bump()
        with opened(device) as fd:
            assert os.read(fd, 512) == bytes(512)
    finally:
        run("losetup", "--detach", device)


def test_functions_for_programs_keep_their_promises_whatever_they_are_called_with(s: Scene) -> None:
    """An errno is the line of good_kfuncs.bpf.c whose promise was not kept."""
    for number in range(len(ROWS)):
        make(s.lower / f"d{number}")
    for name in (*NAMES, "b", "abc"):
        (s.lower / name).touch()
    policy = s.policy()
    up = s.mount()
    below = s.mount(s.lower, s.home / "below", policy="test", at="/a")
    policy.do("update", T / "good_kfuncs.bpf.o")
    for mount in (up, below):
        mount.stat()
        for name in (*NAMES, "b", "abc"):
            (mount / name).stat()
    for number, row in enumerate(ROWS):
        row.act(up / f"d{number}")


# ---------------------------------------------------------------- labels


def test_a_rule_holds_for_the_whole_subtree_and_not_beside_it(s: Scene) -> None:
    for name in ("a/b/c", "a/bb", "ab"):
        (s.lower / name).mkdir(parents=True)
        (s.lower / name / "file").write_text(name)
    policy = s.policy()
    policy.rule("/a/b", deny=bits("open"))
    up = s.mount()
    with refused():
        os.open(up / "a/b/c/file", os.O_RDONLY)
    with refused():
        os.open(up / "a/b", os.O_RDONLY)
    for name in ("a/bb", "ab"):
        assert (up / name / "file").read_text() == name
    policy.rule("/a/b/c")  # an exception inside it
    policy.bump()
    assert (up / "a/b/c/file").read_text() == "a/b/c"
    with refused():
        os.open(up / "a/b", os.O_RDONLY)


NAMES = [
    "n" * 57,
    "n" * 58,
    "n" * 59,
    "n" * 116,
    "n" * 117,
    "n" * 200,
    "n" * 255,
    "with a  space",
    "line\nbreak",
    " ",
    "tab\t\\\"'%s=,",
    os.fsdecode(b"\xff\xfe not \x80 text"),
    os.fsdecode(b"\xc3" * 60),
    "ü" * 100,
    "-o",
    "{}",
]


def test_names_of_any_length_and_content_have_labels(s: Scene) -> None:
    policy = s.policy()
    for name in NAMES:
        (s.lower / name).touch()
        policy.rule(f"/{name}", deny=bits("open"))
    up = s.mount()
    for name in NAMES:
        with refused():
            os.open(up / name, os.O_RDONLY)
        shorter = name[:-1] + "m"  # the last piece alone decides
        assert shorter not in NAMES
        (s.lower / shorter).touch()
        os.close(os.open(up / shorter, os.O_RDONLY))
    os.rename(s.lower / ("n" * 255), s.lower / ("n" * 58 + "m" * 197))
    os.close(os.open(up / ("n" * 58 + "m" * 197), os.O_RDONLY))
    paths = [record["path"] for record in policy.records()]
    assert f"/{NAMES[-5]}" in paths, paths
    assert f"/{NAMES[5]}" in paths, paths


def test_at_gives_the_root_its_label_and_paths_their_beginning(s: Scene) -> None:
    (s.lower / "c").mkdir()
    (s.lower / "c/file").touch()
    policy = s.policy()
    label = policy.rule("/a/b", deny=bits("statfs"), record=ALL, nocache=ALL)
    other = policy.rule("/z", deny=bits("fsync"), record=ALL, nocache=ALL)
    first = s.mount(s.lower, s.home / "first", policy="test", at="/a/b", instance=7)
    second = s.mount(s.lower, s.home / "second", policy="test", at="/z", instance=7)
    third = s.mount(s.lower, s.home / "third", policy="test")
    for path in (first, first / "c/file"):
        with refused():
            os.statvfs(path)
    denied = [(r["path"], r["label"], r["instance"]) for r in policy.records() if r["verdict"]]
    assert denied == [("/a/b", label, 7), ("/a/b/c/file", label, 7)], denied
    os.statvfs(second / "c/file")
    paths = {(r["path"], r["label"]) for r in policy.records()}
    assert paths == {("/z/c", other), ("/z/c/file", other)}, paths
    with opened(second / "c") as fd, refused():
        os.fsync(fd)
    os.statvfs(third / "c/file")
    assert not any(r["path"].startswith("/c") for r in policy.records())


def test_instance_and_policy_id_are_told(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.do("replace", 4711, 3)
    policy.rule("/", 3, record=ALL, nocache=ALL)
    up = s.mount(policy="test", policy_id=4711, instance=2**64 - 1)
    os.stat(up / "file")
    records = policy.records()
    assert records
    for record in records:
        assert (record["policy_id"], record["instance"], record["table"]) == (4711, 2**64 - 1, 3), record
        assert record["pid"] == os.getpid()
        assert record["label"] == 3 << 20
    options = run("findmnt", "-no", "OPTIONS", up).stdout
    assert f"policy=test,policy_id=4711,at=/,instance={2**64 - 1}" in options, options


def test_the_mounts_of_one_sandbox_change_tables_together(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    policy.rule("/file", 1, record=bits("open"))
    policy.rule("/file", 2, deny=bits("read"))
    policy.do("replace", 7, 1)
    mounts = [s.mount(s.lower, s.home / name, policy="test", policy_id=7, instance=9) for name in ("one", "two")]
    with opened(mounts[0] / "file") as first, opened(mounts[1] / "file") as second:
        opens = [(record["instance"], record["generation"]) for record in policy.records()]
        assert opens == [(9, opens[0][1])] * 2, opens
        for fd in (first, second):
            assert os.pread(fd, 3, 0) == b"con"
        policy.do("replace", 7, 2)
        for fd in (first, second):
            with refused():
                os.pread(fd, 3, 0)
        reads = [(record["instance"], record["table"], record["generation"]) for record in policy.records()]
        assert reads == [(9, 2, opens[0][1] + 1)] * 2, reads


def test_a_program_counts_what_an_instance_does_through_all_of_its_mounts(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.do("update", T / "good_quota.bpf.o")
    policy.do("replace", 7, 3)
    first, second, other = (
        s.mount(s.lower, s.home / name, policy="test", policy_id=7, instance=instance)
        for name, instance in (("one", 9), ("two", 9), ("other", 10))
    )

    def opens(*mounts: Path) -> None:
        for mount in mounts:
            os.close(os.open(mount / "file", os.O_RDONLY))

    def has_had_enough(*mounts: Path) -> None:
        for mount in mounts:
            with refused(errno.EDQUOT):
                os.open(mount / "file", os.O_RDONLY)

    opens(first, second, first)
    has_had_enough(first, second)
    opens(other, other, other)
    has_had_enough(other)
    policy.do("replace", 7, 7)  # more for all: by now 5 and 4 were tried
    opens(second, first)
    has_had_enough(first, second)
    opens(other, other, other)
    has_had_enough(other)


def test_a_name_without_a_label_is_closed_and_all_below_it(s: Scene) -> None:
    (s.lower / "closed/deep/er").mkdir(parents=True)
    (s.lower / "closed/deep/er/file").touch()
    policy = s.policy()
    policy.do("name", 0, "closed", 0x7FFFFFFF)
    policy.do("name", 0, "at", 0x7FFFFFFF)
    up = s.mount()
    for name in ("closed", "closed/deep", "closed/deep/er/file", "closed/missing"):
        with refused():
            os.stat(up / name)
    with refused():
        (up / "closed").rename(up / "open")
    with refused():
        os.mkdir(up / "at")
    (up / "dir").mkdir()
    with refused():
        (up / "dir").rename(up / "at")
    (s.lower / "at").mkdir()
    with refused():
        (up / "at").rmdir()
    assert sorted(os.listdir(up)) == ["at", "closed", "dir"]
    closed = s.home / "closed"
    closed.mkdir()
    call("mount", bytes(s.lower), bytes(closed), b"boesfs", 0, b"policy=test,at=/at/some/where")
    s.mounts.append(closed)  # mount(8) itself gives up when it cannot look at what it mounts
    for act in (lambda: os.stat(closed), lambda: os.stat(closed / "dir"), lambda: os.statvfs(closed)):
        with refused():
            act()


def test_a_directory_three_hundred_deep_has_its_label(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/top", deny=bits("create"))
    up = s.mount()
    here = os.open(up, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(300):
        name = "top" if not level else "level"
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    with refused():
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    policy.bump()
    policy.counters()
    with refused():
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)  # all labels anew, from the root down
    assert policy.counters()["labels"] >= 300
    (up / "top").rename(up / "other")
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


# ---------------------------------------------------------------- what is kept


def test_what_is_known_is_not_asked_again(s: Scene) -> None:
    (s.lower / "d").mkdir()
    for name in ("d/file", "d/new"):
        (s.lower / name).write_text("content")
    policy = s.policy()
    up = s.mount()
    os.stat(up / "d/file")
    with opened(up / "d/file", os.O_RDWR) as fd:
        os.read(fd, 3)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"x")
        policy.counters()
        for _ in range(5):
            os.stat(up / "d/file")
            os.read(fd, 3)
            os.pread(fd, 2, 1)
            os.write(fd, b"x")
            os.lseek(fd, 1, os.SEEK_SET)
            with opened(up / "d/file", os.O_RDONLY):
                pass
        assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}
    os.stat(up / "d/new")
    assert policy.counters() == {"labels": 1, "checks": 2, "mixed": 0}
    gone(up / "d/missing")
    assert policy.counters() == {"labels": 1, "checks": 1, "mixed": 0}
    gone(up / "d/missing")
    assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}


def test_a_denial_is_never_kept(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.rule("/file", deny=bits("getattr"))
    up = s.mount()
    for _ in range(3):
        with refused():
            os.stat(up / "file")
        assert policy.counters()["checks"] >= 1


def test_nocache_asks_each_time(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.rule("/file", nocache=bits("getattr"))
    up = s.mount()
    os.stat(up / "file")
    for _ in range(3):
        policy.counters()
        os.stat(up / "file")
        assert policy.counters() == {"labels": 0, "checks": 1, "mixed": 0}


def test_a_program_without_the_cache_flag_is_always_asked(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy(flags=0)
    up = s.mount()
    os.stat(up / "file")
    for _ in range(3):
        policy.counters()
        os.stat(up / "file")
        counters = policy.counters()
        assert counters["checks"] >= 2, counters
        assert counters["labels"] == 0, counters


def cached_open(path: Path) -> None:
    """openat2(2) with RESOLVE_CACHED: RCU-walk or EAGAIN."""
    how = struct.pack("QQQ", os.O_PATH, 0, 0x20)
    os.close(call("syscall", 437, -100, os.fsencode(path), how, len(how)))


def test_rcu_walk_goes_over_names_that_are_known(s: Scene) -> None:
    (s.lower / "d/e").mkdir(parents=True)
    (s.lower / "d/e/file").touch()
    policy = s.policy()
    up = s.mount()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    os.stat(up / "d/e/file")
    policy.counters()
    cached_open(up / "d/e/file")
    assert policy.counters()["checks"] == 0
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    os.stat(up / "d/e/file")
    cached_open(up / "d/e/file")
    policy.rule("/d/e", deny=bits("lookup"))
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    with refused():
        os.stat(up / "d/e/file")


def test_rcu_walk_knows_what_is_missing(s: Scene) -> None:
    (s.lower / "d").mkdir()
    policy = s.policy()
    up = s.mount()
    gone(up / "d/missing")
    policy.counters()
    with refused(errno.ENOENT):
        cached_open(up / "d/missing")
    assert policy.counters()["checks"] == 0
    policy.rule("/d", deny=bits("probe"))
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/missing")
    with refused():
        os.stat(up / "d/missing")
    policy.rule("/d")
    policy.bump()
    gone(up / "d/missing")
    (s.lower / "d/missing").touch()
    with refused(errno.EAGAIN):
        cached_open(up / "d/missing")


def test_rcu_walk_over_links_and_stacks_finds_nothing_that_is_denied(s: Scene) -> None:
    """It may give up there (EAGAIN), or find what is allowed."""
    (s.lower / "d").mkdir()
    (s.lower / "d/file").touch()
    (s.lower / "link").symlink_to("d/file")
    middle, upper = s.policy(), s.policy("upper")
    up = s.mount()
    two = s.mount(up, s.home / "two", policy="upper")
    for policy, op, name, mounts in (
        (middle, "readlink", "link", (up, two)),
        (middle, "lookup", "link", (up, two)),
        (middle, "lookup", "d", (up, two)),
        (middle, "lookup", "d/file", (up, two)),
        (upper, "readlink", "link", (two,)),
        (upper, "lookup", "d", (two,)),
    ):
        for path in (mount / word for mount in mounts for word in ("link", "d/file")):
            os.stat(path)
            with contextlib.suppress(BlockingIOError):
                cached_open(path)
        policy.rule(f"/{name}", deny=bits(op))
        policy.bump()
        words = ["link"] if name == "link" else ["link", "d/file"]
        for path in [mount / word for mount in mounts for word in words] * 2:  # again with all but OP known
            with refused(errno.EAGAIN):
                cached_open(path)
            with refused():
                os.stat(path)
        policy.rule(f"/{name}")
        policy.bump()


# ---------------------------------------------------------------- names that move


def test_the_new_name_of_a_file_counts_at_once_by_path_and_by_descriptor(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/file").write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read", "getattr"))
    up = s.mount()
    with opened(up / "open/file") as fd:
        assert os.read(fd, 2) == b"co"
        os.stat(up / "open/file")
        for _ in range(3):
            (up / "open/file").rename(up / "shut/file")
            for act in (
                lambda: os.pread(fd, 1, 0),
                lambda: os.fstat(fd),
                lambda: os.stat(up / "shut/file"),
                lambda: os.open(up / "shut/file", os.O_RDONLY),
            ):
                with refused():
                    act()
            gone(up / "open/file")
            (up / "shut/file").rename(up / "open/file")
            assert os.pread(fd, 2, 0) == b"co"
            assert (up / "open/file").read_text() == "content"
            gone(up / "shut/file")


def test_the_new_name_of_a_directory_counts_for_all_below_it(s: Scene) -> None:
    (s.lower / "open/dir/sub/deep").mkdir(parents=True)
    (s.lower / "shut").mkdir()
    (s.lower / "open/dir/sub/deep/file").write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read", "iterate", "llseek", "getattr"))
    up = s.mount()
    inside = "dir/sub/deep/file"
    with opened(up / "open" / inside) as fd, opened(up / "open/dir/sub") as dir_fd:
        for _ in range(3):
            assert os.pread(fd, 2, 0) == b"co"
            os.stat(up / "open" / inside)
            assert os.listdir(dir_fd) == ["deep"]
            (up / "open/dir").rename(up / "shut/dir")
            for act in (
                lambda: os.pread(fd, 1, 0),
                lambda: os.lseek(fd, 0, 0),
                lambda: os.fstat(fd),
                lambda: os.listdir(dir_fd),
                lambda: os.stat(up / "shut" / inside),
                lambda: os.stat("deep/file", dir_fd=dir_fd),
                lambda: os.open("deep/file", os.O_RDONLY, dir_fd=dir_fd),
            ):
                with refused():
                    act()
            (up / "shut/dir").rename(up / "open/dir")


def test_an_exchange_swaps_labels(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name / "dir").mkdir(parents=True)
        (s.lower / name / "file").write_text(name)
        (s.lower / name / "dir/inner").write_text(name)
    policy = s.policy()
    policy.rule("/shut", deny=bits("read"))
    up = s.mount()
    for what, inner in (("file", ""), ("dir", "inner")):
        with opened(up / "open" / what / inner) as first, opened(up / "shut" / what / inner) as second:
            for _ in range(2):
                assert os.pread(first, 4, 0) == b"open"
                with refused():
                    os.pread(second, 4, 0)
                rename2(up, f"open/{what}", f"shut/{what}", 2)
                assert os.pread(second, 4, 0) == b"shut"
                with refused():
                    os.pread(first, 4, 0)
                assert (up / "open" / what / inner).read_text() == "shut"
                with refused():
                    (up / "shut" / what / inner).read_text()
                rename2(up, f"open/{what}", f"shut/{what}", 2)


def test_an_overwritten_file_keeps_its_label_for_who_has_it_open(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
    policy = s.policy()
    policy.rule("/shut", deny=bits("read"))
    up = s.mount()
    with opened(up / "open/file") as first, opened(up / "shut/file") as second:
        (up / "open/file").rename(up / "shut/file")
        for fd in (first, second):
            with refused():
                os.pread(fd, 4, 0)


def test_a_rename_behind_the_mount_is_seen_at_the_next_walk(s: Scene) -> None:
    (s.lower / "open/dir/sub").mkdir(parents=True)
    (s.lower / "shut").mkdir()
    for name in ("open/file", "open/dir/sub/file"):
        (s.lower / name).write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for _ in range(3):
        for name in ("file", "dir/sub/file"):
            top = name.split("/", maxsplit=1)[0]
            with opened(up / "open" / name):
                gone(up / "shut" / name)
                (s.lower / "open" / top).rename(s.lower / "shut" / top)
                gone(up / "open" / name)
                with refused():
                    os.open(up / "shut" / name, os.O_RDONLY)
                (s.lower / "shut" / top).rename(s.lower / "open" / top)
                gone(up / "shut" / name)
                assert (up / "open" / name).read_text() == "content"


def test_negative_names_are_forgotten_when_something_appears_below(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for name in ("open", "shut"):
        gone(up / name)
        (s.lower / name).write_text(name)
    assert (up / "open").read_text() == "open"
    with refused():
        (up / "shut").read_text()
    (s.lower / "open").unlink()
    gone(up / "open")
    (s.lower / "open").mkdir()
    assert os.listdir(up / "open") == []
    (s.lower / "open").rmdir()
    (s.lower / "open").symlink_to("shut")
    with refused():
        (up / "open").read_text()


def test_a_file_that_is_removed_is_judged_by_the_name_it_had(s: Scene) -> None:
    (s.lower / "d").mkdir()
    (s.lower / "d/file").write_text("content")
    policy = s.policy()
    up = s.mount()
    with opened(up / "d/file", os.O_RDWR) as fd:
        (up / "d/file").unlink()
        assert os.pread(fd, 3, 0) == b"con"
        policy.rule("/d/file", deny=bits("read"))
        policy.bump()
        with refused():
            os.pread(fd, 3, 0)
        (up / "d").rename(up / "e")
        assert os.pread(fd, 3, 0) == b"con"


def test_a_hard_link_is_judged_by_the_name_that_is_used(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/file").write_text("content")
    os.link(s.lower / "open/file", s.lower / "shut/file")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read"))
    up = s.mount()
    for _ in range(3):
        with opened(up / "open/file") as fd:
            with refused():
                os.open(up / "shut/file", os.O_RDONLY)
            assert os.pread(fd, 7, 0) == b"content"
            with refused():
                os.open(up / "shut/file", os.O_RDONLY)
    (up / "open/file").unlink()
    with refused():
        os.open(up / "shut/file", os.O_RDONLY)


def racing(s: Scene, seconds: float, *, directory: bool, behind: Path | None = None) -> None:
    """A file or its directory goes to and fro between open/ and shut/ while others open it by both names.

    After each rename to shut/ has returned, the mover itself and a helper that it tells try to open and have to fail.
    """
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    inner = "x/file" if directory else "x"
    if directory:
        (s.lower / "open/x").mkdir()
    (s.lower / "open" / inner).write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()

    def read() -> None:
        for name in ("shut", "open"):
            with contextlib.suppress(OSError):
                os.close(os.open(up / name / inner, os.O_RDONLY))

    moves, seen = 0, 0
    where = behind or up
    end = time.monotonic() + seconds
    with meanwhile(3, read):
        while time.monotonic() < end or moves < 50 // PACE:
            (where / "open/x").rename(where / "shut/x")
            for _ in range(4):
                with contextlib.suppress(PermissionError):
                    os.close(os.open(up / "shut" / inner, os.O_RDONLY))
                    seen += 1
            (where / "shut/x").rename(where / "open/x")
            os.close(os.open(up / "open" / inner, os.O_RDONLY))
            moves += 1
    assert not seen, f"{seen} times opened by a name that is denied, in {moves} moves"


def test_deduplication_tells_what_is_there_so_it_needs_reading(s: Scene) -> None:
    for name in ("f", "g"):
        (s.lower / name).write_bytes(bytes(4096))
    policy = s.policy()
    policy.rule("/g", deny=bits("read"))
    up = s.mount()
    with opened(up / "f") as source, opened(up / "g", os.O_WRONLY) as target:
        request = bytearray(struct.pack("QQHHIqQQiI", 0, 4096, 1, 0, 0, target, 0, 0, 0, 0))
        fcntl.ioctl(source, 0xC0189436, request)  # FIDEDUPERANGE
    assert struct.unpack("QQHHIqQQiI", request)[8] == -errno.EPERM


def test_a_file_that_moves_to_and_fro_is_never_opened_by_its_denied_name(s: Scene) -> None:
    racing(s, 12, directory=False)


def test_a_directory_that_moves_to_and_fro_is_never_walked_by_its_denied_name(s: Scene) -> None:
    racing(s, 8, directory=True)


def test_a_file_that_moves_behind_the_mount_is_never_opened_by_its_denied_name(s: Scene) -> None:
    racing(s, 6, directory=False, behind=s.lower)


def test_a_verdict_on_a_name_that_moved_meanwhile_is_not_kept(s: Scene) -> None:
    """check() takes its time; the file is renamed and judged by its new name before that on the old one is in."""
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
    (s.lower / "open/dir").mkdir()
    (s.lower / "open/dir/inner").touch()
    policy = s.policy()
    policy.rule("/open", slow=bits("open"), slow_check=300000 * PACE)
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for flags, what, inner in ((0, "file", ""), (2, "file", ""), (0, "dir", "inner")):
        os.stat(up / "open" / what / inner)
        pid = begin(lambda what=what, inner=inner: os.open(up / "open" / what / inner, os.O_RDONLY))
        time.sleep(0.1)
        rename2(up, f"open/{what}", f"shut/{what}", flags)
        with refused():
            os.open(up / "shut" / what / inner, os.O_RDONLY)
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the verdict came too early for this test"
        os.waitpid(pid, 0)
        for _ in range(2):
            with refused():
                os.open(up / "shut" / what / inner, os.O_RDONLY)
        if not flags and not inner:
            (up / "shut/file").rename(up / "open/file")
            (s.lower / "shut/file").write_text("shut")


def test_a_label_of_a_name_that_moved_meanwhile_is_not_kept(s: Scene) -> None:
    for name in ("open/dir", "shut"):
        (s.lower / name).mkdir(parents=True)
    (s.lower / "open/file").touch()
    (s.lower / "open/dir/inner").touch()
    policy = s.policy()
    policy.rule("/open/file", slow_label=300000 * PACE)
    policy.rule("/open/dir", slow_label=300000 * PACE)
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for what, inner in (("file", ""), ("dir", "inner")):
        os.stat(up / "open" / what / inner)
        os.stat(up / "shut")
        policy.bump()
        pid = begin(lambda what=what, inner=inner: os.open(up / "open" / what / inner, os.O_RDONLY))
        time.sleep(0.1)
        call("renameat", -100, os.fsencode(s.lower / "open" / what), -100, os.fsencode(s.lower / "shut" / what))
        with refused():
            os.open(up / "shut" / what / inner, os.O_RDONLY)
        os.waitpid(pid, 0)
        for _ in range(2):
            with refused():
                os.open(up / "shut" / what / inner, os.O_RDONLY)


def test_names_that_are_exchanged_all_the_time_never_lead_to_what_is_denied(s: Scene) -> None:
    """Links to an open and to a shut place, and a directory with a link to the shut one, change places."""
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
        (s.lower / f"to-{name}").symlink_to(name)
    (s.lower / "dir").mkdir()
    (s.lower / "dir/file").write_text("dir")
    (s.lower / "link").symlink_to("shut")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for where in (up, s.lower):
        found: dict[bytes, int] = {}
        end = time.monotonic() + 5 * PACE
        with (
            meanwhile(1, lambda where=where: rename2(where, "to-open", "to-shut", 2)),
            meanwhile(1, lambda where=where: rename2(where, "dir", "link", 2)),
        ):
            while time.monotonic() < end:
                for name in ("to-open", "to-shut", "dir", "link"):
                    try:
                        with opened(up / name / "file") as fd:
                            said = os.read(fd, 9)
                    except OSError as error:
                        said = errno.errorcode[error.errno or 0].encode()
                    found[said] = found.get(said, 0) + 1
        assert {b"open", b"dir", b"EPERM"} <= found.keys() <= {b"open", b"dir", b"EPERM", b"ESTALE"}, (where, found)


# ---------------------------------------------------------------- ways around the name


def mapped_file(fd: int) -> str:
    """What the process has mapped, by a name of /proc; it is never unmapped."""
    address = call_pointer("mmap", None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    return f"/proc/self/map_files/{address:x}-{address + 4096:x}"


def test_a_mapped_file_is_opened_again_only_if_the_policy_allows_it(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    up = s.mount()

    def work() -> None:
        with opened(up / "file") as fd:
            path = mapped_file(fd)
        assert os.readlink(path) == str(up / "file")
        with opened(path) as fd:
            assert os.read(fd, 3) == b"con"
        policy.rule("/file", deny=bits("open"))
        policy.bump()
        with refused():
            os.open(path, os.O_RDONLY)

    start(work)()
    (record,) = policy.records()
    assert (record["op"], record["path"]) == ("open", "/file"), record


def handle_of(path: Path, flags: int = 0) -> ctypes.Array[ctypes.c_char]:
    """name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    call("syscall", 303, -100, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), flags)
    return handle


def open_by_handle(directory: Path, handle: ctypes.Array[ctypes.c_char]) -> None:
    """open_by_handle_at(2) on the mount that DIRECTORY is on."""
    with opened(directory, os.O_RDONLY) as fd:
        os.close(call("syscall", 304, fd, handle, os.O_RDONLY))


def test_no_handle_opens_a_file_of_the_mount(s: Scene) -> None:
    (s.lower / "file").touch()
    s.policy()
    up = s.mount()
    below = handle_of(s.lower / "file")
    open_by_handle(s.lower, below)
    with refused(errno.EOPNOTSUPP):
        handle_of(up / "file")
    for handle in (below, handle_of(up / "file", 0x200), handle_of(s.lower / "file", 0x200)):  # AT_HANDLE_FID
        with refused(errno.ESTALE):
            open_by_handle(up, handle)


def test_files_that_a_ring_keeps_are_judged_by_the_new_policy(s: Scene) -> None:
    for name in ("file", "other"):
        (s.lower / name).write_text("0123456789")
    policy = s.policy()
    up = s.mount()
    ring = subprocess.Popen([T / "uring", "fixed", up, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with ring:
        assert ring.stdin
        assert ring.stdout
        ops = ("read", "write", "fallocate", "fsync")
        for denied in ((), *((op,) for op in ops), ops, ()):
            policy.rule("/file", deny=bits(*denied))
            policy.bump()
            before = snapshot(s.lower)
            ring.stdin.write("\n")
            ring.stdin.flush()
            said = [ring.stdout.readline().split() for _ in ops]
            assert said == [[op, str(errno.EPERM if op in denied else 0)] for op in ops], (denied, said)
            assert denied != ops or snapshot(s.lower) == before
        ring.stdin.close()
        assert ring.wait(timeout=20) == 0


def test_nobody_watches_what_may_not_be_looked_up(s: Scene) -> None:
    (s.lower / "shut").mkdir()
    (s.lower / "shut/file").touch()
    policy = s.policy()
    up = s.mount()
    watches = call("inotify_init1", os.O_NONBLOCK)
    group = call("fanotify_init", 0, os.O_RDONLY)
    try:
        for denied in (False, True):
            policy.rule("/shut", deny=bits("lookup") if denied else 0)
            policy.bump()
            for path in (up / "shut", up / "shut/file"):
                for watch in (
                    lambda path=path: call("inotify_add_watch", watches, os.fsencode(path), 0xFFF),
                    lambda path=path: call("fanotify_mark", group, 1, ctypes.c_ulong(0x3B), -100, os.fsencode(path)),
                ):
                    with refused() if denied else contextlib.nullcontext():
                        watch()
    finally:
        os.close(watches)
        os.close(group)


# ---------------------------------------------------------------- the end of who is not suffered


def wait_for(pipe: int, seconds: float = 10) -> bytes:
    """A byte from a child."""
    return os.read(pipe, 1) if select.select([pipe], [], [], seconds)[0] else b""


def test_a_kill_ends_the_whole_thread_group(s: Scene) -> None:
    (s.lower / "trap").touch()
    policy = s.policy()
    policy.rule("/trap", deny=bits("open"), kill=bits("open"))
    up = s.mount()
    script = f"""
import threading, time
threading.Thread(target=lambda: open({str(up / "trap")!r}), daemon=True).start()
time.sleep(60)
"""
    begun = time.monotonic()
    assert subprocess.run(["python3", "-c", script], check=False, timeout=30).returncode == -signal.SIGKILL
    assert time.monotonic() - begun < 30
    assert killed(child(lambda: os.open(up / "trap", os.O_RDONLY)))
    os.stat(up / "trap")  # another operation is none of it, and the host's PID 1 lives or nobody would read this
    assert policy.ops() == ["open", "open"]


def test_a_denial_without_kill_kills_nobody(s: Scene) -> None:
    (s.lower / "trap").touch()
    policy = s.policy()
    policy.rule("/trap", deny=bits("open"), kill=bits("unlink"))
    up = s.mount()

    def work() -> None:
        with refused():
            os.open(up / "trap", os.O_RDONLY)

    assert child(work) == 0


def test_a_kill_ends_the_pid_namespace_with_its_init(s: Scene) -> None:
    (s.lower / "trap").touch()
    policy = s.policy()
    policy.rule("/trap", deny=bits("open"), kill=bits("open"))
    up = s.mount()
    # init ignores signals from inside its namespace; a third process there, which has not done anything, ends with it
    script = f"trap '' TERM; sleep 100 & echo ready; read line; (cat {up}/trap); echo survived; sleep 60"
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as namespace:
        assert namespace.stdin
        assert namespace.stdout
        assert namespace.stdout.readline() == "ready\n"
        before = run("pgrep", "-f", "^sleep 100$").stdout.split()
        assert len(before) == 1
        namespace.stdin.write("\n")
        namespace.stdin.flush()
        begun = time.monotonic()
        assert namespace.stdout.read() == ""
        namespace.wait(timeout=20)
        assert time.monotonic() - begun < 20
    assert not run("pgrep", "-f", "^sleep 100$", check=False).stdout
    assert os.path.exists("/proc/1/stat")


# ---------------------------------------------------------------- user namespaces, and the module itself


def as_user(policy: Policy | None, script: str) -> subprocess.CompletedProcess[str]:
    """A script of uid 1000 in a user and mount namespace of its own; `{}` is the program's link."""
    link = [T / "loader", "link", policy.name, "--"] if policy else []
    user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    return run(*link, *user, "unshare", "-Urm", "sh", "-ec", script, check=False)


def reload_module(*options: str) -> None:
    """Anew with these parameters."""
    remove_module()
    run("insmod", T / "boesfs.ko", *options)


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


def test_a_user_namespace_may_not_mount(s: Scene) -> None:
    user_files(s)
    policy = s.policy()
    for option in ("policy=test", "policy_fd={}", "nopolicy"):
        done = as_user(policy, f"mount -i -t boesfs -o {option} {s.lower} {s.upper}; echo mounted")
        assert "mounted" not in done.stdout, option
        assert "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower(), done.stderr


def test_a_user_namespace_may_mount_by_descriptor_if_the_module_says_so(s: Scene) -> None:
    user_files(s)
    reload_module("userns_mount=1")
    try:
        policy = s.policy()
        policy.rule("/shut", deny=bits("open"), record=ALL)
        policy.rule("/mine", record=ALL, nocache=ALL)
        for option in ("policy=test", "nopolicy"):
            done = as_user(policy, f"mount -i -t boesfs -o {option} {s.lower} {s.upper}; echo mounted")
            assert "mounted" not in done.stdout, option
        done = as_user(
            policy,
            f"mount -i -t boesfs -o policy_fd={{}} {s.lower} {s.upper}\ncd {s.upper}\n"
            "stat -c '%u %g' mine roots\ncat mine\ncat shut || echo denied\n"
            "cat roots || echo roots\necho new >new; chown 0:0 new\n"
            "mknod null c 1 3 || echo no device\nchown 5:5 mine || echo no chown",
        )
        said = done.stdout + done.stderr
        assert done.stdout.split("\n")[:2] == ["0 0", "65534 65534"], said
        assert done.stdout.split("\n")[2].startswith("minedenied"), said
        assert done.stdout.split("\n")[3:6] == ["roots", "no device", "no chown"], said
        assert "shut: Operation not permitted" in done.stderr, said
        assert "roots: Permission denied" in done.stderr, said
        assert (os.stat(s.lower / "new").st_uid, os.stat(s.lower / "new").st_gid) == (1000, 1000)
        records = policy.records()
        assert {r["uid"] for r in records} == {1000}, records
        assert ("/shut", "open", -1) in [(r["path"], r["op"], r["verdict"]) for r in records]
    finally:
        for policy in s.policies:
            policy.unload()
        reload_module()


def test_the_module_tells_the_abi_of_the_header(s: Scene) -> None:
    said = Path("/sys/module/boesfs/parameters/abi").read_text().strip()
    assert said == "1.0"
    assert said == f"{ABI['BOESFS_ABI_MAJOR']}.{ABI['BOESFS_ABI_MINOR']}"
    assert os.stat("/sys/module/boesfs/parameters/abi").st_mode & 0o222 == 0
    assert Path("/sys/module/boesfs/parameters/userns_mount").read_text().strip() == "N"


def test_a_module_without_btf_refuses_to_load_and_says_why(s: Scene) -> None:
    """no-btf.ko is made by who builds the guest.

    The recipe: `objcopy --remove-section .BTF --remove-section .BTF.base boesfs.ko no-btf.ko`.
    """
    remove_module()
    try:
        Path("/dev/kmsg").write_text("no BTF from here\n")
        done = run("insmod", T / "no-btf.ko", check=False)
        assert done.returncode
        assert not Path("/sys/module/boesfs").exists()
        assert "boesfs" not in Path("/proc/filesystems").read_text()
        said = run("dmesg").stdout.rpartition("no BTF from here")[2]
        assert "built without BTF" in said, said
    finally:
        remove_module()
        run("insmod", T / "boesfs.ko")
    s.policy()
    s.mount()
