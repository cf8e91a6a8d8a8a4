# SPDX-License-Identifier: Apache-2.0
"""What the policy is asked, with which arguments, and that its word holds."""

import ctypes
import errno
import fcntl
import mmap
import os
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

from asking import GETFLAGS, NAMES, call, call_pointer, gone, rename2, snapshot
from scene import ABI, ALL, OPS, PACE, Scene, T, bits, child, killed, opened, refused, run, start

NEVER_ASKED = {"init", "destroy", "lookup2", "default", "nr"}
GETVERSION, SETFLAGS, NODUMP = 0x80087601, 0x40086602, 0x40
FICLONERANGE = 0x4020940D
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


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
    policy.rule("/a", 1, slow=bits("rename"), slow_check=1_000_000 * PACE)
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


def test_who_may_not_open_a_program_does_not_run_it(s: Scene) -> None:
    for name in ("closed", "open"):
        shutil.copy("/usr/bin/true", s.lower / name)
    policy = s.policy()
    policy.rule("/closed", deny=bits("open"))
    up = s.mount()
    run(up / "open")
    with refused():
        subprocess.run([up / "closed"], check=False)


def test_a_symlink_is_judged_by_its_target_also_where_one_has_failed(s: Scene) -> None:
    lower = s.home / "small"
    lower.mkdir()
    run("mount", "-t", "tmpfs", "-o", "nr_inodes=1", "small", lower)
    s.mounts.append(lower)
    policy = s.policy()
    policy.rule("/link", record=bits("symlink"))
    up = s.mount(lower)
    for target in ("first", "second"):
        with refused(errno.ENOSPC):
            (up / "link").symlink_to(target)
    assert [record["string"] for record in policy.records()] == ["first", "second"]


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
    if not Path("/dev/loop-control").exists():
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


# ---------------------------------------------------------------- the end of who is not suffered


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
