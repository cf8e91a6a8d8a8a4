# SPDX-License-Identifier: Apache-2.0
"""Directories, events and programs are the same on ext4 and on boesfs over it; what is different is said here, too."""

import ctypes
import errno
import fcntl
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

from alike import AT_FDCWD, FIEMAP, GETVERSION, USER, call, same
from scene import LIBC, Scene, opened, refused, run

RWF_NOWAIT = 8
GETDENTS64, NAME_TO_HANDLE = 217, 303


# ---------------------------------------------------------------- directories, events, programs, filesystems


def many_entries_are_listed(d: Path) -> None:
    names = {f"entry-{n:05}" for n in range(5000)}
    with opened(d, os.O_RDONLY) as fd:
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))

        def entries(size: int = 4096) -> list[tuple[str, int, int]]:
            found = []
            buffer = ctypes.create_string_buffer(size)
            while length := call(GETDENTS64, fd, buffer, size):
                at = 0
                while at < length:
                    ino, offset, size_of, kind = struct.unpack_from("<QqHB", buffer.raw, at)
                    name = buffer.raw[at + 19 : at + size_of].split(b"\0")[0].decode()
                    assert kind == (4 if name in (".", "..") else 8)
                    found.append((name, offset, ino))
                    at += size_of
            return found

        everything = entries()
        assert len(everything) == 5002
        assert {name for name, _, _ in everything} == names | {".", ".."}
        inodes = {name: ino for name, _, ino in everything}
        for name in ("entry-00000", "entry-04999", "."):
            assert (d / name).stat().st_ino == inodes[name]
        for at in (0, 1, 2500, 4990):
            assert os.lseek(fd, everything[at][1], os.SEEK_SET) == everything[at][1]
            assert entries(1024) == everything[at + 1 :]
        assert entries() == []
        os.lseek(fd, 0, os.SEEK_SET)
        assert entries(32768) == everything
        os.lseek(fd, everything[100][1], os.SEEK_SET)
        for name, _, _ in everything[101:4000:2]:
            if name not in (".", ".."):
                os.unlink(d / name)
        assert {name for name, _, _ in entries()} == {
            name for name, _, _ in everything[102:4000:2] + everything[4000:] if name not in (".", "..")
        } | {name for name, _, _ in everything[101:] if name in (".", "..")}
    assert len(os.listdir(d)) == sum(1 for _ in os.scandir(d))


def events_are_told(d: Path) -> list[tuple[int, str]]:
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    try:
        assert LIBC.inotify_add_watch(fd, os.fsencode(d), 0xFFF) >= 0
        (d / "f").write_text("hello")
        (d / "f").read_text()
        (d / "f").chmod(0o600)
        (d / "f").rename(d / "g")
        (d / "sub").mkdir()
        os.link(d / "g", d / "h")
        (d / "g").unlink()
        (d / "sub").rmdir()
        raw = os.read(fd, 100_000)
    finally:
        os.close(fd)
    found, at = [], 0
    while at < len(raw):
        _, mask, _, length = struct.unpack_from("iIII", raw, at)
        found.append((mask, raw[at + 16 : at + 16 + length].split(b"\0")[0].decode()))
        at += 16 + length
    for mask, name in ((0x100, "f"), (2, "f"), (8, "f"), (1, "f"), (4, "f"), (0x40, "f"), (0x80, "g"), (0x200, "g")):
        assert (mask, name) in found, (mask, name, found)
    assert (0x40000100, "sub") in found
    assert (0x40000200, "sub") in found
    return found


def programs_run(d: Path) -> None:
    shutil.copy("/usr/bin/true", d / "true")
    run(d / "true")
    (d / "script").write_text("#!/bin/sh\necho $0 said\n")
    (d / "script").chmod(0o755)
    assert run(d / "script").stdout == f"{d}/script said\n"
    shutil.copy("/usr/bin/sleep", d / "sleep")
    with subprocess.Popen([d / "sleep", "60"]) as sleeper:
        try:
            while os.readlink(f"/proc/{sleeper.pid}/exe") != str(d / "sleep"):
                time.sleep(0.01)
            assert str(d / "sleep") in Path(f"/proc/{sleeper.pid}/maps").read_text()
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                with refused(errno.ETXTBSY):
                    os.open(d / "sleep", flags)
            with refused(errno.ETXTBSY):
                os.truncate(d / "sleep", 0)
            (d / "sleep").rename(d / "other")
        finally:
            sleeper.kill()
    with opened(d / "other", os.O_RDWR), refused(errno.ETXTBSY):
        os.execv(d / "other", ["other", "0"])
    (d / "true").chmod(0o644)
    with refused(errno.EACCES):
        os.execv(d / "true", ["true"])
    shutil.copy("/usr/bin/id", d / "id")
    (d / "id").chmod(0o4755)
    assert run(d / "id", "-u", user=USER).stdout == "0\n"
    (d / "id").chmod(0o755)
    assert run(d / "id", "-u", user=USER).stdout == f"{USER}\n"
    (d / "x").write_text("no program")
    (d / "x").chmod(0o755)
    with refused(errno.ENOEXEC):
        os.execv(d / "x", ["x"])


def test_directories_behave_the_same(s: Scene) -> None:
    same(s, many_entries_are_listed)


def test_events_and_programs_behave_the_same(s: Scene) -> None:
    same(s, events_are_told, programs_run)


def test_what_is_told_about_the_filesystem(s: Scene) -> None:
    """Its own device and type; the rest is the lower filesystem's."""
    s.policy()
    up = s.mount()
    (s.lower / "f").write_text("x")
    (s.lower / "d").mkdir()
    for name in ("f", "d", "."):
        below, above = (s.lower / name).lstat(), (up / name).lstat()
        assert below.st_dev != above.st_dev
        assert below.st_ino == above.st_ino
    assert Path("/proc/mounts").read_text().count(f"{s.lower} {up} boesfs ") == 1
    raw = ctypes.create_string_buffer(256)
    assert LIBC.statfs(os.fsencode(up), raw) == 0
    assert struct.unpack_from("q", raw)[0] == 0x424F4553
    below, above = os.statvfs(s.lower), os.statvfs(up)
    assert (above.f_blocks, above.f_bsize, above.f_files) == (below.f_blocks, below.f_bsize, below.f_files)
    assert above.f_flag & os.ST_RDONLY == 0


def test_attributes_of_64_kib_pass(s: Scene) -> None:
    lower = s.home / "tmpfs"
    lower.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", lower)
    s.mounts.append(lower)
    s.policy()
    up = s.mount(lower)
    (up / "f").touch()
    value = random.Random(3).randbytes(65536)
    for d in (lower, up):
        for name in ("trusted.big", "security.big"):
            os.setxattr(d / "f", name, value)
            assert os.getxattr(up / "f", name) == os.getxattr(lower / "f", name) == value
            with refused(errno.E2BIG):
                os.setxattr(d / "f", name, value + b"x")
            os.removexattr(d / "f", name)
    assert os.listxattr(up / "f") == []


# ---------------------------------------------------------------- what is different, on purpose


def test_deviations_are_as_documented(s: Scene) -> None:
    s.policy()
    up = s.mount()
    (up / "f").write_text("x" * 5000)
    (up / "g").touch()
    fiemap = bytearray(struct.pack("QQIIII", 0, 1 << 20, 0, 0, 0, 0))
    with opened(up / "f", os.O_RDWR) as fd, opened(up, os.O_RDONLY) as directory:
        for lease in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            with refused(errno.EINVAL):
                fcntl.fcntl(fd, fcntl.F_SETLEASE, lease)
        with refused(errno.EOPNOTSUPP):
            fcntl.ioctl(fd, FIEMAP, fiemap)
        for number in (0x5421 + 0x1000, 0x1277, 0xC0046686, 0x6610, 0x40046629, 0x660C, 0x4008581C + 99, 0x80487436):
            with refused(errno.ENOTTY):
                fcntl.ioctl(fd, number, bytearray(256))
        with refused(errno.ENOTTY):  # no subvolumes, encryption, verity
            fcntl.ioctl(directory, 0x800C6613, bytearray(64))
        assert fcntl.ioctl(fd, GETVERSION, bytes(8)) == fcntl.ioctl(
            os.open(s.lower / "f", os.O_RDONLY), GETVERSION, bytes(8)
        )
        with refused(errno.EINVAL):
            fcntl.ioctl(fd, 1, struct.pack("i", 0))  # FIBMAP
        with refused(errno.EOPNOTSUPP):
            fcntl.ioctl(directory, 0xC0045877, struct.pack("i", 0))  # FIFREEZE
        with refused(errno.EOPNOTSUPP):  # io_uring goes without
            os.preadv(fd, [bytearray(4)], 0, RWF_NOWAIT)
        with opened(up / "g", os.O_RDWR) as other:
            request = bytearray(struct.pack("QQHHIqQQiI", 0, 4096, 1, 0, 0, other, 0, 0, 0, 0))
            fcntl.ioctl(fd, 0xC0189436, request)  # FIDEDUPERANGE: an answer for each file
            assert struct.unpack("QQHHIqQQiI", request)[8] == -errno.EINVAL
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount_id = ctypes.c_int()
    with refused(errno.EOPNOTSUPP):
        call(NAME_TO_HANDLE, AT_FDCWD, os.fsencode(up / "f"), handle, ctypes.byref(mount_id), 0)
    (up / "l").symlink_to("f")
    os.utime(up / "l", ns=(1, 2), follow_symlinks=False)
    os.readlink(up / "l")
    assert (up / "l").lstat().st_atime_ns == 1, "reading a link leaves its access time"
    os.mkfifo(up / "fifo")
    with opened(up / "fifo", os.O_RDWR), refused(errno.ENXIO):  # a FIFO of each mount
        os.open(s.lower / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(s.lower / "sock"))
        server.listen()
        with refused(errno.ECONNREFUSED):
            client.connect(str(up / "sock"))
    shutil.copy("/usr/bin/sleep", up / "sleep")
    with subprocess.Popen([up / "sleep", "60"]) as sleeper:
        time.sleep(0.3)
        with opened(s.lower / "sleep", os.O_RDWR):
            pass  # what runs on the mount is not busy below
        sleeper.kill()
