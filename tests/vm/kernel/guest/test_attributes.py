# SPDX-License-Identifier: Apache-2.0
"""Times, modes, owners, ACLs and all other attributes are told and count on boesfs as on ext4."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path

from alike import USER, apart, apart_errno, kernel_is_content, link_fd, number_of, same
from scene import LIBC, Scene, opened, refused, run, start


def attributes_are_told(d: Path) -> list[int]:
    (d / "f").write_bytes(b"x" * 5000)
    os.utime(d / "f", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    (d / "f").chmod(0o4751)
    os.chown(d / "f", 1234, 2345)
    (d / "f").chmod(0o4751)
    found = (d / "f").stat()
    assert (found.st_size, found.st_nlink, found.st_uid, found.st_gid) == (5000, 1, 1234, 2345)
    assert found.st_mode == stat.S_IFREG | 0o4751
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_123_456_789, 1_100_000_000_987_654_321)
    assert abs(found.st_ctime_ns - time.time_ns()) < 5 * 10**9
    (d / "l").symlink_to("f")
    os.utime(d / "l", ns=(5, 6), follow_symlinks=False)
    os.chown(d / "l", 7, 8, follow_symlinks=False)
    link = (d / "l").lstat()
    assert (link.st_atime_ns, link.st_mtime_ns, link.st_uid, link.st_gid) == (5, 6, 7, 8)
    assert (d / "f").stat().st_mtime_ns == 1_100_000_000_987_654_321
    time.sleep(0.01)
    before = time.time_ns() - 10**8
    os.utime(d / "f")
    assert (d / "f").stat().st_mtime_ns > before
    with opened(d / "f", os.O_RDWR) as fd:
        os.fchmod(fd, 0o600)
        os.fchown(fd, 0, 0)
        os.utime(fd, ns=(1, 2))
        assert (os.fstat(fd).st_mode & 0o7777, os.fstat(fd).st_mtime_ns) == (0o600, 2)
        time.sleep(0.01)
        os.pwrite(fd, b"w", 0)
        assert os.fstat(fd).st_mtime_ns > before
        os.utime(fd, ns=(1, 2))
        os.read(fd, 1)
        assert os.fstat(fd).st_atime_ns > before, "relatime: an access time before the modification is updated"
    old = d.stat().st_mtime_ns
    time.sleep(0.01)
    (d / "new").touch()
    assert d.stat().st_mtime_ns > old
    values = os.statvfs(d)
    return [found.st_blocks, found.st_blksize, d.stat().st_size, values.f_bsize, values.f_blocks, values.f_namemax]


def no_access_time_can_be_asked_for_later(d: Path) -> None:
    (d / "f").write_text("x")
    for early in (os.O_NOATIME, 0):
        with opened(d / "f", os.O_RDONLY | early) as fd:
            os.utime(d / "f", ns=(1, 2))
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NOATIME)
            os.read(fd, 1)
            assert os.fstat(fd).st_atime_ns == 1
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
            os.pread(fd, 1, 0)
            assert os.fstat(fd).st_atime_ns > 2


def set_id_bits_go(d: Path) -> None:
    """An unprivileged writer, truncater or chowner drops them; root keeps them."""

    def fresh(mode: int = 0o6777) -> Path:
        (d / "f").unlink(missing_ok=True)
        (d / "f").write_bytes(b"x" * 100)
        (d / "f").chmod(mode)
        return d / "f"

    def mode() -> int:
        return stat.S_IMODE((d / "f").stat().st_mode)

    fresh().write_text("root")
    assert mode() == 0o6777
    wrong = []
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with opened("/etc/passwd", os.O_RDONLY) as passwd:
        for name, flags, work in (
            ("write", os.O_WRONLY, lambda fd: os.write(fd, b"y")),
            ("ftruncate", os.O_WRONLY, lambda fd: os.ftruncate(fd, 1)),
            ("truncate", os.O_WRONLY, lambda _: os.truncate(d / "f", 1)),
            ("O_TRUNC", os.O_WRONLY | os.O_TRUNC, lambda _: None),
            ("fallocate", os.O_WRONLY, lambda fd: os.posix_fallocate(fd, 0, 1000)),
            ("splice", os.O_WRONLY, lambda fd: os.splice(reader, fd, 1)),
            ("sendfile", os.O_WRONLY, lambda fd: os.sendfile(fd, passwd, 0, 10)),
        ):
            path = fresh()
            apart(lambda path=path, flags=flags, work=work: [work(fd) for fd in [os.open(path, flags)]])
            if mode() != 0o777:
                wrong.append(f"{name} by a user: {mode():o}")
            path = fresh()
            if flags & os.O_TRUNC:
                continue
            os.write(writer, b"x")
            with opened(path, flags) as fd:  # root's descriptor in a user's hands
                apart(lambda fd=fd, work=work: work(fd))
            if mode() != 0o777:
                wrong.append(f"{name} by a user with root's descriptor: {mode():o}")
            os.write(writer, b"x")
    path = fresh(0o6770)
    os.chown(path, USER, USER)
    path.chmod(0o6770)
    apart(lambda: os.chown(path, -1, USER))
    if mode() != 0o770:
        wrong.append(f"chown: {mode():o}")
    path.chmod(0o2770)
    os.chown(path, USER, 77)
    apart(lambda: path.chmod(0o2770))
    if mode() != 0o770:
        wrong.append(f"chmod of another group's: {mode():o}")
    os.close(reader)
    os.close(writer)
    assert not wrong, wrong


def capabilities_of_files_go(d: Path) -> None:
    """Who writes, truncates or chowns a file takes its capabilities."""
    value = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    wrong = []
    for name, work in (
        ("write", lambda: (d / "f").write_text("y")),
        ("append", lambda: os.write(os.open(d / "f", os.O_WRONLY | os.O_APPEND), b"y")),
        ("truncate", lambda: os.truncate(d / "f", 0)),
        ("chown", lambda: os.chown(d / "f", -1, USER)),
    ):
        for uid in (0, USER):
            (d / "f").write_text("x")
            (d / "f").chmod(0o777)
            os.chown(d / "f", USER, USER)
            os.setxattr(d / "f", "security.capability", value)
            assert os.getxattr(d / "f", "security.capability") == value
            number = number_of(lambda uid=uid, work=work: apart(work, uid))
            if number:
                wrong.append(f"{name} by {uid}: {errno.errorcode[number]}")
            if "security.capability" in os.listxattr(d / "f"):
                wrong.append(f"{name} by {uid}: capabilities stay")
    assert not wrong, wrong


def umask_and_default_acls_count(d: Path) -> None:
    old = os.umask(0o027)
    try:
        (d / "f").touch(0o666)
        (d / "d").mkdir(0o777)
        os.mkfifo(d / "p", 0o666)
        modes = [stat.S_IMODE((d / name).stat().st_mode) for name in "fdp"]
        assert modes == [0o640, 0o750, 0o640]
        (d / "acl").mkdir(0o777)
        run("setfacl", "-d", "-m", f"u::rwx,g::rwx,o::rx,u:{USER}:rw", d / "acl")
        (d / "acl/f").touch(0o666)
        (d / "acl/d").mkdir(0o777)
        with opened(d / "acl", os.O_TMPFILE | os.O_RDWR, 0o666) as fd:
            link_fd(fd, d / "acl/t")
        for name, mode in (("f", 0o664), ("d", 0o775), ("t", 0o664)):
            assert stat.S_IMODE((d / "acl" / name).stat().st_mode) == mode, name
        said = run("getfacl", "-cpE", d / "acl/f").stdout.split()
        assert said == ["user::rw-", f"user:{USER}:rw-", "group::rwx", "mask::rw-", "other::r--"]
        assert "default:user:1000:rw-" in run("getfacl", "-cpE", d / "acl/d").stdout
        (d / "sgid").mkdir()
        os.chown(d / "sgid", 0, 55)
        (d / "sgid").chmod(0o2777)
        (d / "sgid/f").touch()
        (d / "sgid/d").mkdir()
        assert (d / "sgid/f").stat().st_gid == 55
        assert ((d / "sgid/d").stat().st_gid, (d / "sgid/d").stat().st_mode & 0o2000) == (55, 0o2000)
    finally:
        os.umask(old)


def acls_count(d: Path) -> None:
    (d / "f").write_text("secret")
    (d / "f").chmod(0o600)
    with refused(errno.EACCES):
        apart_errno(lambda: (d / "f").read_text())
    run("setfacl", "-m", f"u:{USER}:r", d / "f")
    apart(lambda: (d / "f").read_text())
    with refused(errno.EACCES):
        apart_errno(lambda: (d / "f").write_text("x"))
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o640
    (d / "f").chmod(0o600)
    with refused(errno.EACCES):
        apart_errno(lambda: (d / "f").read_text())
    assert f"user:{USER}:r--" in run("getfacl", "-cpE", d / "f").stdout
    assert "system.posix_acl_access" in os.listxattr(d / "f")
    with refused(errno.EPERM):
        apart_errno(lambda: os.removexattr(d / "f", "system.posix_acl_access"))
    run("setfacl", "-b", d / "f")
    assert os.listxattr(d / "f") == []
    with refused(errno.ENODATA):
        os.getxattr(d / "f", "system.posix_acl_access")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(d / "f", "system.posix_acl_access", b"nonsense")
    with refused(errno.EACCES):
        os.setxattr(d / "f", "system.posix_acl_default", struct.pack("<IHHIHHIHHI", 2, 1, 7, 0, 4, 7, 0, 32, 7, 0))


def attributes_have_names(d: Path) -> list[int]:
    (d / "f").write_text("x")
    (d / "l").symlink_to("f")
    f = d / "f"
    os.setxattr(f, "user.a", b"1")
    os.setxattr(f, "security.test", b"2")
    os.setxattr(f, "trusted.t", b"3")
    assert sorted(os.listxattr(f)) == ["security.test", "trusted.t", "user.a"]
    apart(lambda: check(sorted(os.listxattr(f)) == ["security.test", "user.a"]))
    with refused(errno.EEXIST):
        os.setxattr(f, "user.a", b"x", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(f, "user.b", b"x", os.XATTR_REPLACE)
    os.setxattr(f, "user.b", b"", os.XATTR_CREATE)
    assert os.getxattr(f, "user.b") == b""
    os.setxattr(f, "user.a", b"replaced", os.XATTR_REPLACE)
    assert os.getxattr(f, "user.a") == b"replaced"
    os.removexattr(f, "user.a")
    with refused(errno.ENODATA):
        os.getxattr(f, "user.a")
    with refused(errno.ENODATA):
        os.removexattr(f, "user.a")
    os.setxattr(f, "user.binary", bytes(range(256)))
    assert os.getxattr(f, "user.binary") == bytes(range(256))
    with refused(errno.EACCES):
        apart_errno(lambda: os.setxattr(f, "user.x", b""))
    with refused(errno.EPERM):
        apart_errno(lambda: os.setxattr(f, "security.x", b""))
    with refused(errno.EPERM):
        os.setxattr(d / "l", "user.a", b"1", follow_symlinks=False)
    os.setxattr(d / "l", "trusted.a", b"1", follow_symlinks=False)
    assert os.listxattr(d / "l", follow_symlinks=False) == ["trusted.a"]
    os.setxattr(d, "user.dir", b"d")
    assert os.getxattr(d, "user.dir") == b"d"
    buffer = ctypes.create_string_buffer(4)
    assert LIBC.getxattr(os.fsencode(f), b"user.binary", buffer, 4) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert LIBC.getxattr(os.fsencode(f), b"user.binary", None, 0) == 256
    os.setxattr(f, "user." + "n" * 250, b"")
    return [
        number_of(lambda: os.setxattr(f, "user." + "n" * 251, b"")),
        number_of(lambda: os.setxattr(f, "user.big", bytes(65536))),
        number_of(lambda: os.setxattr(f, "user.big", bytes(65537))),
        number_of(lambda: os.setxattr(f, "unknown.a", b"")),
        number_of(lambda: os.setxattr(f, "user.", b"")),
        number_of(lambda: os.getxattr(f, "system.nothing")),
        number_of(lambda: os.getxattr(f, "noprefix")),
    ]


def check(ok: bool) -> None:
    """An assertion in an expression."""
    assert ok


def flags_of_files_count(d: Path) -> None:
    (d / "f").write_text("x")
    f = d / "f"
    run("chattr", "+i", f)
    assert "i" in run("lsattr", f).stdout.split()[0]
    for work in (
        lambda: f.write_text("y"),
        f.unlink,
        lambda: f.rename(d / "g"),
        lambda: os.link(f, d / "g"),
        lambda: f.chmod(0),
        lambda: os.truncate(f, 0),
        lambda: os.utime(f),
        lambda: os.setxattr(f, "user.a", b""),
    ):
        with refused(errno.EPERM):
            work()
    assert f.read_text() == "x"
    run("chattr", "-i", f)
    run("chattr", "+a", f)
    with refused(errno.EPERM):
        f.write_text("y")
    with refused(errno.EPERM):
        os.truncate(f, 0)
    with opened(f, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"appended")
        with refused(errno.EPERM):
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        with refused(errno.EPERM):
            os.ftruncate(fd, 0)
    with refused(errno.EPERM):
        f.unlink()
    assert f.read_text() == "xappended"
    run("chattr", "-a", f)
    f.write_text("z")
    (d / "dir").mkdir()
    (d / "dir/in").touch()
    run("chattr", "+a", d / "dir")
    (d / "dir/more").touch()
    with refused(errno.EPERM):
        (d / "dir/in").unlink()
    run("chattr", "-a", d / "dir")
    with refused(errno.EPERM):
        apart_errno(lambda: fcntl.ioctl(os.open(f, os.O_RDONLY), 0x40086602, struct.pack("q", 0x10)))


def permissions_count(d: Path) -> None:
    (d / "f").write_text("x")
    (d / "f").chmod(0o600)
    for work in (
        lambda: (d / "f").read_text(),
        lambda: (d / "f").write_text("y"),
        lambda: os.truncate(d / "f", 0),
        lambda: os.utime(d / "f"),
    ):
        with refused(errno.EACCES):
            apart_errno(work)
    for work in (
        lambda: (d / "f").chmod(0o666),
        lambda: os.chown(d / "f", USER, USER),
        lambda: os.utime(d / "f", ns=(1, 1)),
        lambda: os.open(d / "g", os.O_RDONLY | os.O_NOATIME),
    ):
        (d / "g").touch()
        with refused(errno.EPERM):
            apart_errno(work)
    apart(lambda: check(not os.access(d / "f", os.R_OK)))
    apart(lambda: check(os.access(d / "g", os.R_OK) and not os.access(d / "g", os.W_OK)))
    (d / "closed").mkdir(0o700)
    (d / "closed/f").touch()
    for work in (lambda: os.stat(d / "closed/f"), lambda: os.listdir(d / "closed"), lambda: os.chdir(d / "closed")):
        with refused(errno.EACCES):
            apart_errno(work)
    d.chmod(0o755)
    for work in (
        lambda: os.mkdir(d / "new"),
        lambda: os.unlink(d / "f"),
        lambda: os.rename(d / "f", d / "h"),
        lambda: os.symlink("x", d / "s"),
        lambda: os.open(d, os.O_TMPFILE | os.O_RDWR),
        lambda: os.mkfifo(d / "p"),
    ):
        with refused(errno.EACCES):
            apart_errno(work)
    d.chmod(0o1777)
    for work in (lambda: os.unlink(d / "f"), lambda: os.rename(d / "f", d / "h"), lambda: os.rmdir(d / "closed")):
        with refused(errno.EPERM):
            apart_errno(work)
    apart(lambda: (d / "mine").touch())
    assert (d / "mine").stat().st_uid == USER
    apart(lambda: (d / "mine").rename(d / "own"))
    with refused(errno.EPERM):
        apart_errno(lambda: (d / "own").unlink(), 1001)
    apart(lambda: (d / "own").unlink())
    with refused(errno.EPERM):
        apart_errno(lambda: os.mknod(d / "dev", stat.S_IFCHR | 0o666, os.makedev(1, 3)))


def test_attributes_behave_the_same(s: Scene) -> None:
    same(s, attributes_are_told, umask_and_default_acls_count, acls_count, attributes_have_names)


def test_access_times_behave_the_same(s: Scene) -> None:
    same(s, no_access_time_can_be_asked_for_later)


def test_permissions_behave_the_same(s: Scene) -> None:
    same(s, permissions_count, flags_of_files_count)


def test_set_id_bits_behave_the_same(s: Scene) -> None:
    same(s, set_id_bits_go)


def test_capabilities_of_files_behave_the_same(s: Scene) -> None:
    same(s, capabilities_of_files_go)


def test_set_id_bits_from_behind_go_with_a_write_through_the_mount(s: Scene) -> None:
    s.policy()
    up = s.mount()
    (s.lower / "f").touch()
    reader, writer = os.pipe()
    os.write(writer, b"x" * 9)
    wrong = []
    for name, flags, work in (
        ("write", os.O_RDWR, lambda fd: os.write(fd, b"x")),
        ("splice", os.O_RDWR, lambda fd: os.splice(reader, fd, 1)),
        ("ftruncate", os.O_RDWR, lambda fd: os.ftruncate(fd, 0)),
        ("truncate", os.O_RDONLY, lambda _: os.truncate(up / "f", 0)),
        ("O_TRUNC", os.O_RDONLY, lambda _: os.open(up / "f", os.O_WRONLY | os.O_TRUNC)),
        ("mapping", os.O_RDWR, lambda _: None),
    ):
        (s.lower / "f").unlink()
        (s.lower / "f").write_text("x")
        (s.lower / "f").chmod(0o6777)
        (up / "f").stat()
        with opened(up / "f", flags) as fd:
            apart(lambda fd=fd, work=work: work(fd))
        mode = stat.S_IMODE((s.lower / "f").stat().st_mode)
        if mode != (0o6777 if name == "mapping" else 0o777):
            wrong.append(f"{name}: {mode:o}")
    os.close(reader)
    os.close(writer)
    assert not wrong, wrong


def test_set_id_bits_that_come_and_go_while_a_file_is_written_upset_nobody(s: Scene) -> None:
    s.policy()
    up = s.mount()
    (up / "f").touch()
    os.chown(up / "f", USER, USER)

    def write() -> None:
        with opened(up / "f", os.O_WRONLY) as fd:
            for _ in range(3000):
                os.pwrite(fd, b"x", 0)

    def chmod() -> None:
        for _ in range(1500):
            (up / "f").chmod(0o4755)

    joins = [start(work, USER) for work in (write, chmod, write, chmod)]
    for join in joins:
        join()
    kernel_is_content()
    apart(lambda: (up / "f").write_text("last"))
    assert stat.S_IMODE((up / "f").stat().st_mode) == 0o755
