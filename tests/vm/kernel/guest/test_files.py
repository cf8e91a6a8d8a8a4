# SPDX-License-Identifier: Apache-2.0
"""What a program sees of files is the same on ext4 and on boesfs over it, but for what is said here to be different."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from scene import LIBC, Scene, opened, parallel, refused, run, start

USER = 1000
NOREPLACE, EXCHANGE = 1, 2  # renameat2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10  # fallocate
RWF_DSYNC, RWF_NOWAIT, RWF_APPEND, RWF_NOAPPEND = 2, 8, 0x10, 0x20
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
GETDENTS64, NAME_TO_HANDLE, FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT = 217, 303, 430, 431, 432, 429
LINKAT, SYNC_FILE_RANGE, RENAMEAT2, SYNCFS, FALLOCATE = 265, 277, 316, 306, 285
FICLONE, FIEMAP, FIONREAD, GETVERSION = 0x40049409, 0xC020660B, 0x541B, 0x80087601


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


def kernel_is_content() -> None:
    """No warning since the test began."""
    said = run("dmesg").stdout.rpartition("test test_")[2]
    assert not any(word in said for word in ("WARNING:", "BUG:", "Call Trace")), said


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


# ---------------------------------------------------------------- names


def creation_is_exclusive(d: Path) -> None:
    """O_EXCL has one winner, and mkdir has, among eight processes."""
    for n in range(20):
        won = d / f"won{n}"
        won.touch()

        def race(n: int = n, won: Path = won) -> None:
            for make in (
                lambda: os.close(os.open(d / f"f{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
                lambda: (d / f"d{n}").mkdir(),
                lambda: (d / f"l{n}").symlink_to("x"),
            ):
                try:
                    make()
                except FileExistsError:
                    continue
                with opened(won, os.O_WRONLY | os.O_APPEND) as fd:
                    os.write(fd, b"x")

        parallel([race] * 8)
        assert won.read_bytes() == b"xxx", won.read_bytes()


def names_have_their_errors(d: Path) -> list[int]:
    (d / "f").write_text("x")
    (d / "full/sub").mkdir(parents=True)
    (d / "link").symlink_to("f")
    with opened(d / "g", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640) as fd:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    found = []
    for expected, work in (
        (errno.EEXIST, lambda: os.open(d / "f", os.O_CREAT | os.O_EXCL)),
        (errno.EEXIST, lambda: os.open(d / "link", os.O_CREAT | os.O_EXCL)),
        (errno.EEXIST, lambda: os.mkdir(d / "f")),
        (errno.EEXIST, lambda: os.mkfifo(d / "full")),
        (errno.EEXIST, lambda: os.symlink("x", d / "link")),
        (errno.EEXIST, lambda: os.link(d / "f", d / "g")),
        (errno.ENOTEMPTY, lambda: os.rmdir(d / "full")),
        (errno.ENOTDIR, lambda: os.rmdir(d / "f")),
        (errno.ENOTDIR, lambda: os.open(d / "f/below", os.O_RDONLY)),
        (errno.ENOTDIR, lambda: os.open(d / "f", os.O_RDONLY | os.O_DIRECTORY)),
        (errno.ENOTDIR, lambda: os.mkdir(d / "f/below")),
        (errno.EISDIR, lambda: os.unlink(d / "full")),
        (errno.EISDIR, lambda: os.open(d / "full", os.O_WRONLY)),
        (errno.EISDIR, lambda: os.rename(d / "f", d / "full/sub")),
        (errno.ENOTDIR, lambda: os.rename(d / "full", d / "f")),
        (errno.ENOTEMPTY, lambda: os.rename(d / "full/sub", d / "full")),
        (errno.EPERM, lambda: os.link(d / "full", d / "full2")),
        (errno.ENOENT, lambda: os.unlink(d / "none")),
        (errno.ENOENT, lambda: os.rmdir(d / "none")),
        (errno.ENOENT, lambda: os.rename(d / "none", d / "f")),
        (errno.ENOENT, lambda: os.open(d / "none/f", os.O_CREAT)),
        (errno.ENOENT, lambda: os.symlink("", d / "empty")),
        (errno.EINVAL, lambda: os.rmdir(f"{d}/full/.")),
        (errno.ENOTEMPTY, lambda: os.rmdir(f"{d}/full/sub/..")),
        (errno.ELOOP, lambda: os.open(d / "link", os.O_NOFOLLOW)),
        (errno.EINVAL, lambda: os.readlink(d / "f")),
        (errno.EISDIR, lambda: os.truncate(d / "full", 0)),
        (errno.ENOTDIR, lambda: os.listdir(d / "f")),
    ):
        found.append(number_of(work))
        assert found[-1] == expected, (len(found) - 1, errno.errorcode.get(found[-1]), errno.errorcode[expected])
    return found


def names_are_up_to_255_bytes(d: Path) -> None:
    for make, there in (
        (lambda p: p.write_text("x"), Path.is_file),
        (lambda p: p.mkdir(), Path.is_dir),
        (lambda p: p.symlink_to("x"), Path.is_symlink),
        (lambda p: os.mkfifo(p), Path.is_fifo),
    ):
        name = "ä" * 127 + "x"
        make(d / name)
        assert there(d / name)
        assert os.listdir(d) == [name]
        with refused(errno.ENAMETOOLONG):
            make(d / (name + "y"))
        with refused(errno.ENAMETOOLONG):
            (d / (name + "y")).stat()
        with refused(errno.ENAMETOOLONG):
            (d / name).rename(d / (name + "y"))
        run("rm", "-rf", d / name)
    for name in ("\n", " ", "...", b"\xff\xfe".decode(errors="surrogateescape"), "-", "\x01\x7f"):
        (d / name).write_text(name, errors="surrogateescape")
        assert (d / name).read_text(errors="surrogateescape") == name
    assert len(os.listdir(d)) == 6


def special_files_work(d: Path) -> None:
    os.mkfifo(d / "fifo", 0o600)
    assert stat.S_IMODE((d / "fifo").stat().st_mode) == 0o600
    join = start(lambda: (d / "fifo").write_bytes(b"through"))
    assert (d / "fifo").read_bytes() == b"through"
    join()
    os.mknod(d / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(d / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    assert (d / "null").stat().st_rdev == os.makedev(1, 3)
    (d / "null").write_text("gone")
    assert (d / "null").read_bytes() == b""
    with opened(d / "zero", os.O_RDWR) as fd:
        assert os.read(fd, 8) == bytes(8)
        assert mmap.mmap(fd, 4096, mmap.MAP_PRIVATE)[:8] == bytes(8)
    os.mknod(d / "none", 0o666 | stat.S_IFCHR, os.makedev(240, 77))
    with refused(errno.ENXIO):
        os.open(d / "none", os.O_RDONLY)
    os.mknod(d / "sock", 0o600 | stat.S_IFSOCK)
    assert (d / "sock").is_socket()
    with refused(errno.ENXIO):
        os.open(d / "sock", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(d / "bound"))
        server.listen()
        client.connect(str(d / "bound"))
        client.send(b"hello")
        assert server.accept()[0].recv(9) == b"hello"
    with socket.socket(socket.AF_UNIX) as client, refused(errno.ECONNREFUSED):
        client.connect(str(d / "bound"))
    for name in ("fifo", "null", "sock", "bound"):
        (d / name).unlink()


def links_work(d: Path) -> None:
    (d / "f").write_text("x")
    for n in range(5):
        os.link(d / "f", d / f"h{n}")
    assert (d / "f").stat().st_nlink == (d / "h3").stat().st_nlink == 6
    assert (d / "f").stat().st_ino == (d / "h4").stat().st_ino
    (d / "h0").write_text("changed")
    assert (d / "f").read_text() == "changed"
    (d / "f").unlink()
    assert (d / "h1").stat().st_nlink == 5
    (d / "dangling").symlink_to("nowhere")
    assert os.readlink(d / "dangling") == "nowhere"
    assert (d / "dangling").lstat().st_size == 7
    with refused(errno.ENOENT):
        (d / "dangling").read_text()
    (d / "dangling").write_text("made by the link")
    assert (d / "nowhere").read_text() == "made by the link"
    os.link(d / "dangling", d / "hard", follow_symlinks=False)
    assert os.readlink(d / "hard") == "nowhere"
    long = ("y" * 255 + "/") * 15 + "z" * 255
    assert len(long) == 4095
    os.symlink(long, d / "long")
    assert os.readlink(d / "long") == long
    with refused(errno.ENAMETOOLONG):
        os.symlink(long + "z", d / "longer")
    (d / "loop").symlink_to("loop")
    with refused(errno.ELOOP):
        (d / "loop").stat()
    (d / "dir").mkdir()
    assert (d.stat().st_nlink, (d / "dir").stat().st_nlink) == (3, 2)
    (d / "updir").symlink_to("dir/../nowhere")
    assert (d / "updir").read_text() == "made by the link"


def rename_works(d: Path) -> None:
    def rename2(old: Path, new: Path, flags: int) -> None:
        call(RENAMEAT2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)

    (d / "a").write_text("a")
    (d / "b").write_text("b")
    (d / "x/y/z").mkdir(parents=True)
    (d / "o").mkdir()
    with opened(d / "b", os.O_RDWR) as fd:
        (d / "a").rename(d / "b")
        assert os.pread(fd, 9, 0) == b"b"
        assert os.fstat(fd).st_nlink == 0
    assert (d / "b").read_text() == "a"
    assert not (d / "a").exists()
    (d / "c").write_text("c")
    with refused(errno.EEXIST):
        rename2(d / "b", d / "c", NOREPLACE)
    rename2(d / "b", d / "new", NOREPLACE)
    assert ((d / "new").read_text(), (d / "b").exists()) == ("a", False)
    rename2(d / "new", d / "x", EXCHANGE)
    assert (d / "x").read_text() == "a"
    assert (d / "new/y/z").is_dir()
    rename2(d / "new", d / "x", EXCHANGE)
    with refused(errno.ENOENT):
        rename2(d / "new", d / "none", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(d / "new", d / "c", EXCHANGE | NOREPLACE)
    for target in ("x/y/z/in", "x/in"):
        with refused(errno.EINVAL):
            (d / "x").rename(d / target)
    with refused(errno.EINVAL):
        rename2(d / "x", d / "x/y", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(d / "x/y", d / "x", EXCHANGE)
    (d / "x/y/f").write_text("deep")
    (d / "x/y").rename(d / "o/moved")
    assert (d / "o/moved/f").read_text() == "deep"
    assert (d.stat().st_nlink, (d / "x").stat().st_nlink, (d / "o").stat().st_nlink) == (4, 2, 3)
    (d / "o").rename(d / "x")
    assert (d / "x/moved/f").read_text() == "deep"
    assert not (d / "o").exists()
    os.link(d / "c", d / "same")
    (d / "c").rename(d / "same")
    assert (d / "c").exists()
    assert (d / "same").exists()
    here = os.open(d / "x/moved", os.O_RDONLY)
    (d / "x").rename(d / "w")
    assert os.path.samestat(os.stat("..", dir_fd=here), os.stat(d / "w"))
    assert os.readlink(f"/proc/self/fd/{here}") == str(d / "w/moved")
    os.close(here)


def what_is_unlinked_and_held_goes_on(d: Path) -> None:
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        (d / "f").unlink()
        assert os.fstat(fd).st_nlink == 0
        os.write(fd, b"still")
        assert os.pread(fd, 9, 0) == b"still"
        os.ftruncate(fd, 2)
        os.fchmod(fd, 0o600)
        assert (os.fstat(fd).st_size, stat.S_IMODE(os.fstat(fd).st_mode)) == (2, 0o600)
        os.setxattr(fd, "user.a", b"b")
        assert os.getxattr(fd, "user.a") == b"b"
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.read(again, 9) == b"st"
        with refused(errno.ENOENT):
            link_fd(fd, d / "back")
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{d}/f (deleted)"


def what_is_unlinked_and_held_by_a_path_goes_on(d: Path) -> None:
    (d / "f").write_text("kept")
    with opened(d / "f", os.O_PATH) as fd:
        (d / "f").unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.stat(f"/proc/self/fd/{fd}").st_size == 4
        assert Path(f"/proc/self/fd/{fd}").read_text() == "kept"
        os.chmod(f"/proc/self/fd/{fd}", 0o600)
        os.setxattr(f"/proc/self/fd/{fd}", "user.a", b"b")
        assert os.listxattr(f"/proc/self/fd/{fd}") == ["user.a"]


def a_removed_working_directory_is_empty(d: Path) -> None:
    (d / "gone").mkdir()

    def inside() -> None:
        os.chdir(d / "gone")
        (d / "gone").rmdir()
        assert os.stat(".").st_nlink == 0
        assert os.listdir(".") == []
        for work in (lambda: os.mkdir("x"), lambda: os.open("x", os.O_CREAT), os.getcwd, lambda: os.stat("x")):
            assert number_of(work) == errno.ENOENT
        os.chdir("..")
        assert os.getcwd() == str(d)

    apart(inside, None)
    assert not (d / "gone").exists()


def a_file_without_a_name_gets_one(d: Path) -> None:
    with opened(d, os.O_TMPFILE | os.O_RDWR, 0o666) as fd:
        assert os.fstat(fd).st_nlink == 0
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o644
        os.write(fd, b"whole")
        assert os.listdir(d) == []
        link_fd(fd, d / "f")
        assert os.fstat(fd).st_nlink == 1
        assert (d / "f").read_text() == "whole"
        os.write(fd, b" later")
        assert (d / "f").stat().st_ino == os.fstat(fd).st_ino
        assert (d / "f").read_text() == "whole later"
    with opened(d, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as fd, refused(errno.ENOENT):
        link_fd(fd, d / "g")
    with opened(d, os.O_TMPFILE | os.O_RDWR) as fd:
        LIBC.linkat(fd, b"", AT_FDCWD, os.fsencode(d / "empty"), AT_EMPTY_PATH)
        assert (d / "empty").stat().st_ino == os.fstat(fd).st_ino
    with opened(d, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT) as fd:
        page = mmap.mmap(-1, 4096)
        page[:4] = b"page"
        assert os.writev(fd, [page]) == 4096
        assert os.preadv(fd, [page], 0) == 4096
        assert page[:5] == b"page\0"
    with refused(errno.EINVAL):
        os.open(d, os.O_TMPFILE | os.O_RDONLY)


def test_names_behave_the_same(s: Scene) -> None:
    same(s, names_have_their_errors, names_are_up_to_255_bytes, special_files_work, links_work, rename_works)


def test_creation_has_one_winner(s: Scene) -> None:
    same(s, creation_is_exclusive)


def test_what_is_unlinked_and_held_behaves_the_same(s: Scene) -> None:
    same(s, what_is_unlinked_and_held_goes_on, a_file_without_a_name_gets_one)


def test_what_is_unlinked_and_held_by_a_path_behaves_the_same(s: Scene) -> None:
    same(s, what_is_unlinked_and_held_by_a_path_goes_on)


def test_a_removed_working_directory_behaves_the_same(s: Scene) -> None:
    same(s, a_removed_working_directory_is_empty)


def test_names_that_come_and_go_fail_as_on_one_filesystem(s: Scene) -> None:
    """Four processes over the mount make, open and remove the same few names."""
    s.policy()
    up = s.mount()
    expected = {0, errno.ENOENT, errno.EEXIST}

    def chaos(seed: int) -> None:
        rng = random.Random(seed)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            a, b = (up / f"n{rng.randrange(3)}" for _ in range(2))
            work = rng.choice(
                (
                    lambda a=a: os.close(os.open(a, os.O_CREAT | os.O_RDWR)),
                    lambda a=a: os.close(os.open(a, os.O_CREAT | os.O_EXCL | os.O_RDWR)),
                    lambda a=a: os.close(os.open(a, os.O_RDONLY)),
                    lambda a=a: os.unlink(a),
                    lambda a=a: os.stat(a),
                    lambda a=a, b=b: os.rename(a, b),
                    lambda a=a, b=b: os.link(a, b),
                    lambda a=a: a.read_bytes(),
                )
            )
            found = number_of(work)
            assert found in expected, errno.errorcode[found]

    parallel([lambda n=n: chaos(n) for n in range(4)])


# ---------------------------------------------------------------- data


def reading_and_writing_works(d: Path) -> None:
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        assert os.write(fd, b"0123456789") == 10
        assert os.pread(fd, 4, 3) == b"3456"
        assert os.pwrite(fd, b"xy", 4) == 2
        assert os.lseek(fd, 0, os.SEEK_CUR) == 10
        assert os.lseek(fd, -3, os.SEEK_END) == 7
        assert os.read(fd, 9) == b"789"
        assert os.read(fd, 9) == b""
        with refused(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        assert os.pwritev(fd, [b"A", b"BC", b"D"], 1) == 4
        one, two = bytearray(3), bytearray(20)
        assert os.preadv(fd, [one, two], 0) == 10
        assert one + two[:7] == b"0ABCDy6789"
        assert os.pwritev(fd, [b"s"], 0, RWF_DSYNC) == 1
        assert os.pwritev(fd, [b"end"], 0, RWF_APPEND) == 3
        assert os.pread(fd, 20, 0) == b"sABCDy6789end"
        assert os.pread(fd, 5, 100) == b""
        assert os.pwrite(fd, b"z", 100_000) == 1
        assert os.fstat(fd).st_size == 100_001
        assert os.pread(fd, 99_000, 13) == bytes(99_000)
        number = fcntl.ioctl(fd, FIONREAD, bytes(4))
        assert struct.unpack("i", number)[0] == 100_001 - os.lseek(fd, 0, os.SEEK_CUR)
    with opened(d / "f", os.O_RDONLY) as fd, refused(errno.EBADF):
        os.write(fd, b"x")
    with opened(d / "f", os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 1)
    with opened(d, os.O_RDONLY) as fd, refused(errno.EISDIR):
        os.read(fd, 1)
    os.close(os.open(d / "f", os.O_WRONLY | os.O_TRUNC))
    assert (d / "f").stat().st_size == 0


def appending_works(d: Path) -> None:
    def switch(fd: int, flags: int) -> None:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    with opened(d / "f", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        assert (d / "f").read_bytes() == b"onetwo"
        os.pwrite(fd, b"!", 0)
        assert (d / "f").read_bytes() == b"onetwo!"
        switch(fd, 0)
        os.pwrite(fd, b"O", 0)
        os.lseek(fd, 3, os.SEEK_SET)
        os.write(fd, b"T")
        assert (d / "f").read_bytes() == b"OneTwo!"
        switch(fd, os.O_APPEND)
        os.write(fd, b"?")
        assert (d / "f").read_bytes() == b"OneTwo!?"
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND


def a_write_that_says_so_does_not_append(d: Path) -> None:
    with opened(d / "f", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"12345")
        assert os.pwritev(fd, [b"xx"], 1, RWF_NOAPPEND) == 2
        assert (d / "f").read_bytes() == b"1xx45"
        os.pwritev(fd, [b"6"], 1)
        assert (d / "f").read_bytes() == b"1xx456"


def appenders_lose_nothing(d: Path) -> None:
    def append(n: int) -> None:
        with opened(d / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
            for line in range(200):
                word = f"{n}:{line}\n".encode()
                assert os.write(fd, word) == len(word)

    parallel([lambda n=n: append(n) for n in range(6)])
    lines = (d / "log").read_text().split()
    assert sorted(lines) == sorted(f"{n}:{line}" for n in range(6) for line in range(200))
    for n in range(6):
        assert [line for line in lines if line.startswith(f"{n}:")] == [f"{n}:{line}" for line in range(200)]


def direct_io_works(d: Path) -> None:
    page = mmap.mmap(-1, 8192)
    page[:] = b"d" * 8192
    with opened(d / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        assert os.writev(fd, [page]) == 8192
        with refused(errno.EINVAL):
            os.pwrite(fd, b"x" * 100, 0)
        assert os.preadv(fd, [page], 0) == 8192
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        assert os.pwrite(fd, b"x" * 100, 1) == 100
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        assert os.preadv(fd, [page], 0) == 8192
        assert page[:102] == b"d" + b"x" * 100 + b"d"
        with refused(errno.EINVAL):
            os.pwrite(fd, b"x" * 100, 1)
        assert os.pwritev(fd, [page], 4096) == 8192
        assert os.fstat(fd).st_size == 12288
    assert (d / "f").read_bytes()[4096:4198] == page[:102]
    with opened(d / "f", os.O_RDWR) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        with refused(errno.EINVAL):
            os.pread(fd, 100, 1)


def sizes_and_holes_work(d: Path) -> list[int]:
    mib = 1 << 20
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 4 * mib)
        assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (4 * mib, 0)
        assert os.lseek(fd, 0, os.SEEK_END) == 4 * mib
        with refused(errno.ENXIO):
            os.lseek(fd, 0, os.SEEK_DATA)
        os.pwrite(fd, b"data" * 1024, mib)
        assert os.lseek(fd, 0, os.SEEK_DATA) == mib
        assert os.lseek(fd, mib, os.SEEK_HOLE) == mib + 4096
        assert os.lseek(fd, 2 * mib, os.SEEK_HOLE) == 2 * mib
        with refused(errno.ENXIO):
            os.lseek(fd, 4 * mib, os.SEEK_HOLE)
        os.ftruncate(fd, mib + 2)
        assert os.pread(fd, 9, mib) == b"da"
        os.ftruncate(fd, mib + 10)
        assert os.pread(fd, 99, mib) == b"da" + bytes(8)
        call(FALLOCATE, fd, KEEP_SIZE, 2 * mib, mib)
        assert os.fstat(fd).st_size == mib + 10
        blocks = [os.fstat(fd).st_blocks]
        assert blocks[0] >= 2048
        call(FALLOCATE, fd, 0, 0, 2 * mib)
        assert os.fstat(fd).st_size == 2 * mib
        os.pwrite(fd, b"y" * 3 * 4096, 0)
        call(FALLOCATE, fd, PUNCH_HOLE | KEEP_SIZE, 4096, 4096)
        assert os.pread(fd, 3 * 4096, 0) == b"y" * 4096 + bytes(4096) + b"y" * 4096
        call(FALLOCATE, fd, ZERO_RANGE, 100, 100)
        assert os.pread(fd, 300, 0) == b"y" * 100 + bytes(100) + b"y" * 100
        call(FALLOCATE, fd, ZERO_RANGE, 3 * mib, 1)
        assert os.fstat(fd).st_size == 3 * mib + 1
        for mode in (0x40, PUNCH_HOLE):  # unshare, and a hole that may grow the file
            assert number_of(lambda mode=mode: call(FALLOCATE, fd, mode, 0, 4096)) == errno.EOPNOTSUPP
        call(FALLOCATE, fd, 8, 0, 4096)  # collapse
        assert os.fstat(fd).st_size == 3 * mib + 1 - 4096
        assert os.pread(fd, 4097, 0) == bytes(4096) + b"y"
        call(FALLOCATE, fd, 0x20, 0, 4096)  # insert
        assert os.fstat(fd).st_size == 3 * mib + 1
        with refused(errno.EINVAL):
            call(FALLOCATE, fd, 0, 0, 0)
        blocks.append(os.fstat(fd).st_blocks)
        blocks.append(number_of(lambda: os.ftruncate(fd, 1 << 62)))
    os.truncate(d / "f", 5)
    assert (d / "f").read_bytes() == bytes(5)
    with opened(d / "f", os.O_RDONLY) as fd, refused(errno.EINVAL):
        os.ftruncate(fd, 0)
    return blocks


def mappings_work(d: Path) -> None:
    (d / "f").write_bytes(b"." * 10000)
    with opened(d / "f", os.O_RDWR) as fd:
        shared = mmap.mmap(fd, 10000)
        private = mmap.mmap(fd, 10000, mmap.MAP_PRIVATE)
        shared[5000:5003] = b"abc"
        assert os.pread(fd, 5, 4999) == b".abc."
        assert private[4999:5004] == b".abc."
        private[0:1] = b"P"
        assert shared[0:1] == os.pread(fd, 1, 0) == b"."
        os.pwrite(fd, b"W", 9999)
        assert shared[9999:] == b"W"
        shared.flush()
        shared.flush(4096, 4096)
        maps = Path("/proc/self/maps").read_text()
        assert sum(line.endswith(f" {d}/f") for line in maps.splitlines()) == 2, maps
        before = os.fstat(fd).st_mtime_ns
        time.sleep(0.02)
        shared[1:2] = b"m"
        shared.flush()
        assert os.fstat(fd).st_mtime_ns > before
        (d / "f").unlink()
        assert shared[5000:5003] == b"abc"
        private.close()
        shared.close()
    (d / "short").write_bytes(b"12345")
    with opened(d / "short", os.O_RDWR) as fd:
        page = mmap.mmap(fd, 5)
        os.ftruncate(fd, 0)

        def touch() -> None:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            page[0:1]

        join = start(touch)
        with contextlib.suppress(AssertionError):
            join()
            raise RuntimeError("no SIGBUS behind the end of the file")
        page.close()
    with opened(d / "f", os.O_CREAT | os.O_RDONLY) as fd, refused(errno.EACCES):
        os.truncate(d / "f", 5)
        mmap.mmap(fd, 5)


def pipes_and_files_join(d: Path) -> None:
    """sendfile and splice, from and to files."""
    data = random.Random(1).randbytes(300_000)
    (d / "f").write_bytes(data)
    with opened(d / "f", os.O_RDWR) as source, opened(d / "g", os.O_CREAT | os.O_RDWR) as target:
        while os.sendfile(target, source, None, 1 << 20):
            pass
        assert (d / "g").read_bytes() == data
        assert os.sendfile(target, source, 299_990, 100) == 10
        a, b = socket.socketpair()
        with a, b:
            assert os.sendfile(a.fileno(), source, 7, 1000) == 1000
            assert b.recv(1000, socket.MSG_WAITALL) == data[7:1007]
        reader, writer = os.pipe()
        os.lseek(source, 0, os.SEEK_SET)
        os.ftruncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        while moved := os.splice(source, writer, 60_000):
            while moved:
                moved -= os.splice(reader, target, moved)
        assert (d / "g").read_bytes() == data
        os.write(writer, b"at")
        assert os.splice(reader, target, 2, offset_dst=100) == 2
        assert (d / "g").read_bytes()[98:104] == data[98:100] + b"at" + data[102:104]
        assert os.splice(source, writer, 10, offset_src=50) == 10
        assert os.read(reader, 20) == data[50:60]
        fcntl.fcntl(source, fcntl.F_SETFL, os.O_DIRECT)
        assert os.splice(source, writer, 4096, offset_src=4096) == 4096
        assert os.read(reader, 5000) == data[4096:8192]
        fcntl.fcntl(target, fcntl.F_SETFL, os.O_APPEND)
        os.write(writer, b"x")
        with refused(errno.EINVAL):
            os.splice(reader, target, 1)
        os.close(reader)
        os.close(writer)


def ranges_are_copied(d: Path) -> list[int]:
    data = random.Random(2).randbytes(100_000)
    (d / "f").write_bytes(data)
    with opened(d / "f", os.O_RDWR) as source, opened(d / "g", os.O_CREAT | os.O_RDWR) as target:
        done = 0
        while moved := os.copy_file_range(source, target, 1 << 20):
            done += moved
        assert done == 100_000
        assert (d / "g").read_bytes() == data
        assert os.copy_file_range(source, target, 100, 50, 200_000) == 100
        assert os.fstat(target).st_size == 200_100
        assert os.pread(target, 100, 200_000) == data[50:150]
        with refused(errno.EINVAL):
            os.copy_file_range(source, source, 1000, 0, 500)
        assert os.copy_file_range(source, source, 100, 0, 90_000) == 100
        assert os.pread(source, 100, 90_000) == data[:100]
        found = [
            number_of(lambda: fcntl.ioctl(target, FICLONE, source)),
            number_of(lambda: fcntl.ioctl(target, 0x4020940D, struct.pack("qQQQ", source, 0, 4096, 0))),
        ]
    assert found[0] == errno.EOPNOTSUPP
    run("cp", "--reflink=auto", d / "f", d / "h")
    assert (d / "h").read_bytes() == (d / "f").read_bytes()
    append = os.O_WRONLY | os.O_APPEND
    with opened(d / "f", os.O_RDONLY) as source, opened(d / "g", append) as target, refused(errno.EBADF):
        os.copy_file_range(source, target, 1)
    return found


def data_is_synced(d: Path) -> None:
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd, opened(d, os.O_RDONLY) as directory:
        os.write(fd, b"x" * 10_000)
        os.fsync(fd)
        os.write(fd, b"y")
        os.fdatasync(fd)
        call(SYNC_FILE_RANGE, fd, 0, 4096, 7)
        call(SYNCFS, fd)
        os.fsync(directory)
        call(SYNCFS, directory)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 2, 9999) == b"xy"
        assert call(187, fd, 0, 4096) == 0  # readahead
    os.sync()
    with opened(d / "s", os.O_CREAT | os.O_RDWR | os.O_SYNC) as fd:
        assert os.write(fd, b"synced") == 6


def fio_verifies(d: Path, engine: str) -> None:
    """Random writes, read again and compared, buffered and direct, by four jobs."""
    for direct in (0, 1):
        done = run(
            *("fio", "--name=v", f"--directory={d}", f"--ioengine={engine}", f"--direct={direct}", "--rw=randwrite"),
            *("--bs=4k-16k", "--size=2m", "--iodepth=16", "--numjobs=2", "--verify=crc32c", "--verify_fatal=1"),
            *("--verify_state_save=0", "--output-format=terse", "--thread=0", "--fallocate=none"),
            cwd="/tmp",
        )
        assert "error" not in done.stderr.lower(), done.stderr
        for file in d.iterdir():
            assert file.stat().st_size == 2 << 20
            file.unlink()


def aio_verifies(d: Path) -> None:
    fio_verifies(d, "libaio")


def io_uring_verifies(d: Path) -> None:
    fio_verifies(d, "io_uring")


def test_data_behaves_the_same(s: Scene) -> None:
    same(s, reading_and_writing_works, appending_works, direct_io_works, sizes_and_holes_work, data_is_synced)


def test_a_write_that_does_not_append_behaves_the_same(s: Scene) -> None:
    same(s, a_write_that_says_so_does_not_append)


def test_appenders_behave_the_same(s: Scene) -> None:
    same(s, appenders_lose_nothing)


def test_mappings_behave_the_same(s: Scene) -> None:
    same(s, mappings_work)


def test_copies_behave_the_same(s: Scene) -> None:
    same(s, pipes_and_files_join, ranges_are_copied)


def test_asynchronous_data_behaves_the_same(s: Scene) -> None:
    same(s, aio_verifies, io_uring_verifies)


# ---------------------------------------------------------------- attributes


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


# ---------------------------------------------------------------- two mounts of one lower tree


def test_mappings_are_coherent_between_mounts_and_the_lower_file(s: Scene) -> None:
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")
    (s.lower / "f").write_bytes(b"." * 12288)
    with contextlib.ExitStack() as stack:
        fds = {d: stack.enter_context(opened(d / "f", os.O_RDWR)) for d in (one, two, s.lower)}
        maps = {d: stack.enter_context(mmap.mmap(fd, 12288)) for d, fd in fds.items()}
        private = {d: stack.enter_context(mmap.mmap(fd, 12288, mmap.MAP_PRIVATE)) for d, fd in fds.items()}
        for n, writer in enumerate(maps):
            word = b"map%d" % n
            maps[writer][4094:4098] = word
            for reader in maps:
                assert os.pread(fds[reader], 4, 4094) == maps[reader][4094:4098] == private[reader][4094:4098] == word
                assert (reader / "f").read_bytes()[4094:4098] == word
            word = b"wr%d!" % n
            os.pwrite(fds[writer], word, 4094)
            for reader in maps:
                assert maps[reader][4094:4098] == word
            private[writer][8192 + n : 8193 + n] = b"p"
            for reader in maps:
                assert maps[reader][8192 + n : 8193 + n] == b"."
        os.truncate(one / "f", 19000)
        for d in maps:
            assert (d / "f").stat().st_size == 19000
        fcntl.fcntl(fds[two], fcntl.F_SETFL, os.O_DIRECT)
        page = stack.enter_context(mmap.mmap(-1, 4096))
        page[:] = b"D" * 4096
        os.pwritev(fds[two], [page], 0)
        assert maps[one][:4096] == maps[s.lower][:4096] == b"D" * 4096


def test_ranges_are_copied_between_mounts(s: Scene) -> None:
    """Between two mounts as within one; between a mount and the lower filesystem EXDEV, and cp(1) copes with it."""
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")
    data = random.Random(4).randbytes(50_000)
    (one / "f").write_bytes(data)
    with opened(one / "f", os.O_RDWR) as source, opened(two / "g", os.O_CREAT | os.O_RDWR) as target:
        assert os.copy_file_range(source, target, 50_000) == 50_000
        with refused(errno.EXDEV):
            fcntl.ioctl(target, FICLONE, source)
    assert (s.lower / "g").read_bytes() == data
    with opened(one / "f", os.O_RDWR) as source, opened(two / "f", os.O_RDWR) as target, refused(errno.EINVAL):
        os.copy_file_range(source, target, 1000, 0, 500)
    for a, b in ((s.lower, one), (one, s.lower)):
        with opened(a / "f", os.O_RDWR) as source, opened(b / "h", os.O_CREAT | os.O_RDWR) as target:
            with refused(errno.EXDEV):
                os.copy_file_range(source, target, 100)
            assert os.sendfile(target, source, 0, 50_000) == 50_000
        run("cp", a / "f", b / "i")
        assert (s.lower / "h").read_bytes() == (s.lower / "i").read_bytes() == data
        with refused(errno.EXDEV):
            os.rename(a / "h", b / "j")
        with refused(errno.EXDEV):
            os.link(a / "h", b / "j")
    with refused(errno.EXDEV):
        os.rename(one / "h", two / "j")


def test_sizes_that_change_behind_an_open_file_are_seen(s: Scene) -> None:
    s.policy()
    up = s.mount()
    (s.lower / "f").write_text("12345")
    with opened(up / "f", os.O_RDWR) as fd:
        with opened(s.lower / "f", os.O_WRONLY | os.O_APPEND) as below:
            os.write(below, b"6789")
        assert os.read(fd, 99) == b"123456789"
        assert os.lseek(fd, 0, os.SEEK_END) == 9
        assert os.fstat(fd).st_size == 9
        os.truncate(s.lower / "f", 3)
        assert os.pread(fd, 99, 0) == b"123"
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.truncate(s.lower / "f", 4)
        os.write(fd, b"end")
        assert (s.lower / "f").read_bytes() == b"123\0end"
        with opened(s.lower / "f", os.O_WRONLY | os.O_APPEND) as below:
            os.write(below, b"!")
        (up / "f").lstat()
        with opened(up / "g", os.O_CREAT | os.O_RDWR) as target:
            assert os.copy_file_range(fd, target, 100, 0) == 8


def ofd(fd: int, kind: int, start_at: int = 0, length: int = 0) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start_at, length, 0))


LOCKS: dict[str, Callable[[int, bool], object]] = {
    "posix": lambda fd, write: fcntl.lockf(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB),
    "ofd": lambda fd, write: ofd(fd, fcntl.F_WRLCK if write else fcntl.F_RDLCK),
    "flock": lambda fd, write: fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB),
}


def test_locks_conflict_between_mounts_and_with_the_lower_file(s: Scene) -> None:
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")
    (s.lower / "f").write_text("x" * 100)
    for mine, other in ((one, two), (one, s.lower), (s.lower, one), (one, one)):
        for name, take in LOCKS.items():
            for write in (True, False):
                say, hear = os.pipe(), os.pipe()

                def hold(take=take, mine=mine, write=write, say=say, hear=hear) -> None:  # noqa: ANN001
                    with opened(mine / "f", os.O_RDWR) as fd:
                        take(fd, write)
                        os.write(say[1], b"held")
                        os.read(hear[0], 1)
                    os.write(say[1], b"gone")
                    os.read(hear[0], 1)

                join = start(hold)
                assert os.read(say[0], 9) == b"held"
                what = f"{name}, {mine.name} against {other.name}, {write=}"
                with opened(other / "f", os.O_RDWR) as fd:
                    assert number_of(lambda fd=fd, take=take: take(fd, True)) == errno.EAGAIN, what
                    assert number_of(lambda fd=fd, take=take: take(fd, False)) == (errno.EAGAIN if write else 0), what
                    if name == "posix" and write:
                        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
                        kind, *_ = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
                        assert kind == fcntl.F_WRLCK
                    os.write(hear[1], b"x")
                    assert os.read(say[0], 9) == b"gone"
                    take(fd, True)
                os.write(hear[1], b"x")
                join()
                for end in (*say, *hear):
                    os.close(end)


def test_locks_of_ranges_and_waiting_for_them(s: Scene) -> None:
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")
    (s.lower / "f").write_text("x" * 100)
    with opened(one / "f", os.O_RDWR) as a, opened(two / "f", os.O_RDWR) as b, opened(s.lower / "f", os.O_RDWR) as c:
        ofd(a, fcntl.F_WRLCK, 0, 10)
        ofd(b, fcntl.F_WRLCK, 10, 10)
        with refused(errno.EAGAIN):
            ofd(c, fcntl.F_WRLCK, 9, 1)
        with refused(errno.EAGAIN):
            ofd(a, fcntl.F_RDLCK, 5, 10)
        ofd(a, fcntl.F_UNLCK, 9, 1)
        ofd(c, fcntl.F_WRLCK, 9, 1)
    with opened(one / "f", os.O_RDWR) as a:
        fcntl.lockf(a, fcntl.LOCK_EX)
        waited = time.monotonic()

        def wait() -> None:
            with opened(two / "f", os.O_RDWR) as b:
                fcntl.lockf(b, fcntl.LOCK_EX)
                os.write(b, b"got it")

        join = start(wait)
        time.sleep(0.3)
        assert (s.lower / "f").read_bytes()[:6] == b"xxxxxx"
        with opened(one / "f", os.O_RDWR):
            pass  # closing any descriptor of the file gives the process's locks back
        join()
        assert time.monotonic() - waited > 0.3
        assert (s.lower / "f").read_bytes()[:6] == b"got it"
    with opened(one / "f", os.O_RDWR) as a, opened(one / "f", os.O_RDWR) as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        twin = os.dup(a)
        with refused(errno.EAGAIN):
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(twin)
        with refused(errno.EAGAIN):
            fcntl.flock(b, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(a, fcntl.LOCK_UN)
        fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with opened(one, os.O_RDONLY) as a, opened(two, os.O_RDONLY) as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        with refused(errno.EAGAIN):
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def die() -> None:
        fd = os.open(one / "f", os.O_RDWR)
        for take in LOCKS.values():
            with contextlib.suppress(OSError):
                take(fd, True)
        os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(AssertionError):
        apart(die, None)
    with opened(s.lower / "f", os.O_RDWR) as fd:
        for take in LOCKS.values():
            if take is not LOCKS["ofd"]:
                take(fd, True)
    kernel_is_content()


def test_names_made_through_two_mounts_at_once(s: Scene) -> None:
    """A name that is made elsewhere meanwhile is opened by who did not insist on making it."""
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")
    for n in range(40):

        def race(d: Path, n: int = n) -> None:
            with opened(d / f"f{n}", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
                os.write(fd, b"x")
            with contextlib.suppress(FileExistsError):
                os.close(os.open(d / f"e{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                with opened(d / f"f{n}", os.O_WRONLY | os.O_APPEND) as fd:
                    os.write(fd, b"!")

        parallel([lambda d=d, race=race: race(d) for d in (one, two, s.lower, one, two)])
        assert sorted((s.lower / f"f{n}").read_bytes()) == sorted(b"xxxxx!")


def test_changes_behind_the_mount_are_seen(s: Scene) -> None:
    s.policy()
    up = s.mount()
    below = s.lower

    def both(name: str) -> None:
        assert (up / name).exists() == (below / name).exists(), name

    assert not (up / "new").exists()
    (below / "new").write_text("1")
    assert (up / "new").read_text() == "1"
    (below / "new").unlink()
    both("new")
    (below / "new").mkdir()
    assert (up / "new").is_dir()
    (below / "new").rmdir()
    (below / "new").symlink_to("/etc/passwd")
    assert os.readlink(up / "new") == "/etc/passwd"
    (below / "new").unlink()
    (below / "new").write_text("file again")
    assert (up / "new").read_text() == "file again"
    (below / "other").write_text("replaced")
    assert (up / "other").exists()
    (below / "other").rename(below / "new")
    assert (up / "new").read_text() == "replaced"
    both("other")
    (below / "a/b/c").mkdir(parents=True)
    (below / "a/b/c/f").write_text("deep")
    assert (up / "a/b/c/f").read_text() == "deep"
    (below / "a/b").rename(below / "moved")
    assert not (up / "a/b/c/f").exists()
    assert (up / "moved/c/f").read_text() == "deep"
    (below / "a").rename(below / "moved/c/a")
    assert (up / "moved/c/a").is_dir()
    (below / "moved/c").rename(below / "c")
    (below / "moved").rename(below / "c/a/moved")
    assert (up / "c/a/moved").is_dir()
    assert (up / "c/f").read_text() == "deep"
    assert sorted(os.listdir(up / "c")) == ["a", "f"]
    with opened(up / "c/a", os.O_RDONLY) as fd:
        (below / "c/a").rename(below / "away")
        assert os.path.samestat(os.stat("moved", dir_fd=fd), (up / "away/moved").stat())
        os.close(os.open("made", os.O_CREAT, dir_fd=fd))
        assert (below / "away/made").exists()
        os.unlink("made", dir_fd=fd)
        os.rmdir("moved", dir_fd=fd)
    assert os.listdir(up / "away") == []
    run("mkdir", "-p", below / "x/y", below / "p/q")
    for name in ("x/y", "p/q"):
        assert (up / name).is_dir()
    call(RENAMEAT2, AT_FDCWD, os.fsencode(below / "x"), AT_FDCWD, os.fsencode(below / "p"), EXCHANGE)
    assert (up / "x/q").is_dir()
    assert (up / "p/y").is_dir()
    assert not (up / "x/y").exists()
    with opened(up / "new", os.O_RDONLY) as fd:
        (below / "new").unlink()
        (below / "new").write_text("a new file")
        assert os.read(fd, 99) == b"replaced"
        assert os.fstat(fd).st_nlink == 0
        assert (up / "new").read_text() == "a new file"
    for _ in range(50):
        (below / "new").unlink()
        both("new")
        (below / "new").write_text("x")
        both("new")
        (below / "new").unlink()
        (up / "new").mkdir()
        both("new")
        (below / "new").rmdir()
        (up / "new").write_text("x")
    with refused(errno.ENOENT):
        (below / "new").unlink()
        (up / "new").unlink()


def test_attributes_changed_behind_the_mount_count(s: Scene) -> None:
    s.policy()
    up = s.mount()
    f, over = s.lower / "f", up / "f"
    f.write_text("x")
    over.read_text()
    run("chattr", "+i", f)
    with refused(errno.EPERM):
        over.write_text("y")
    with refused(errno.EPERM):
        over.unlink()
    with refused(errno.EPERM):
        over.chmod(0o777)
    run("chattr", "-i", f)
    over.write_text("y")
    with opened(over, os.O_RDWR) as fd:
        run("chattr", "+a", f)
        with refused(errno.EPERM):
            os.ftruncate(fd, 0)
        with refused(errno.EPERM):
            os.truncate(over, 0)
    with opened(over, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"z")
    run("chattr", "-a", f)
    over.write_text("again")
    with opened(over, os.O_RDWR) as fd:
        run("chattr", "+i", f)
        with refused(errno.EPERM):
            os.write(fd, b"x")
        with refused(errno.EPERM):
            os.ftruncate(fd, 0)
        run("chattr", "-i", f)
        os.write(fd, b"x")
    f.chmod(0o600)
    with refused(errno.EACCES):
        apart_errno(lambda: over.read_text())
    os.chown(f, USER, USER)
    apart(lambda: over.read_text())
    apart(lambda: over.chmod(0o640))
    apart(lambda: os.utime(over, ns=(1, 2)))
    os.chown(f, 0, 0)
    with refused(errno.EPERM):
        apart_errno(lambda: over.chmod(0o666))
    shutil.copy("/usr/bin/id", s.lower / "id")
    (s.lower / "id").chmod(0o4755)
    assert run(up / "id", "-u", user=USER).stdout == "0\n"
    (s.lower / "id").chmod(0o755)
    assert run(up / "id", "-u", user=USER).stdout == f"{USER}\n", "a set-id bit that is gone below is gone"
    (s.lower / "id").chmod(0o4755)
    assert run(up / "id", "-u", user=USER).stdout == "0\n"
    os.chown(s.lower / "id", 1001, 0)
    (s.lower / "id").chmod(0o4755)
    assert run(up / "id", "-u", user=USER).stdout == "1001\n"
    (s.lower / "sticky").mkdir()
    (s.lower / "sticky").chmod(0o1777)
    (s.lower / "sticky/f").touch()
    with refused(errno.EPERM):
        apart_errno(lambda: (up / "sticky/f").unlink())
    os.chown(s.lower / "sticky/f", USER, USER)
    apart(lambda: (up / "sticky/f").unlink())


def test_names_that_come_and_go_everywhere_fail_as_on_one_filesystem(s: Scene) -> None:
    """Six processes over two mounts and the lower tree. The only error that ext4 alone would not give is ESTALE, when a
    name changes behind the mount twice in a call."""
    s.policy()
    one, two = s.mount(), s.mount(target=s.home / "two")

    def chaos(d: Path, seed: int) -> None:
        rng = random.Random(seed)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            a, b = (d / f"n{rng.randrange(3)}" for _ in range(2))
            allowed, work = rng.choice(
                (
                    ({0}, lambda a=a: os.close(os.open(a, os.O_CREAT | os.O_RDWR))),
                    ({0}, lambda a=a: os.close(os.open(a, os.O_CREAT | os.O_RDWR))),
                    ({0, errno.EEXIST}, lambda a=a: os.close(os.open(a, os.O_CREAT | os.O_EXCL | os.O_RDWR))),
                    ({0, errno.ENOENT}, lambda a=a: os.close(os.open(a, os.O_RDONLY))),
                    ({0, errno.ENOENT}, lambda a=a: os.unlink(a)),
                    ({0, errno.ENOENT}, lambda a=a: os.stat(a)),
                    ({0, errno.ENOENT}, lambda a=a, b=b: os.rename(a, b)),
                    ({0, errno.ENOENT, errno.EEXIST}, lambda a=a, b=b: os.link(a, b)),
                )
            )
            found = number_of(work)
            assert found in allowed or found == errno.ESTALE, (errno.errorcode[found], sorted(allowed))

    joins = [start(lambda d=d, n=n: chaos(d, n)) for n, d in enumerate((one, two, s.lower, one, two, s.lower))]
    wrong = []
    for join in joins:
        try:
            join()
        except AssertionError as error:
            wrong.append(str(error).strip().splitlines()[-1])
    kernel_is_content()
    assert not wrong, wrong


def test_a_mount_can_be_read_only_after_files_were_unlinked_while_they_were_written(s: Scene) -> None:
    s.policy()
    up = s.mount()

    def write(n: int) -> None:
        for _ in range(150):
            with contextlib.suppress(FileNotFoundError), opened(up / "f", os.O_WRONLY) as fd:
                for _ in range(10):
                    os.write(fd, b"%d" % n)

    def unlink() -> None:
        for _ in range(400):
            (up / "f").touch()
            (up / "f").unlink()

    parallel([lambda: write(1), unlink, lambda: write(2)])
    run("mount", "-o", "remount,ro", up)
    with refused(errno.EROFS):
        (up / "g").touch()
    kernel_is_content()


# ---------------------------------------------------------------- mounting


def mount_fails(*words: object, source: object, target: Path) -> str:
    """What mount(8) says about it."""
    target.mkdir(exist_ok=True)
    options = ",".join(str(word) for word in words)
    done = run("mount", "-i", "-t", "boesfs", *(["-o", options] if options else []), source, target, check=False)
    if not done.returncode:
        run("umount", target)
    assert done.returncode, f"{source} with {options} was mounted"
    return done.stderr


def test_mounts_that_make_no_sense_are_refused_with_a_sentence(s: Scene) -> None:
    s.policy()
    (s.lower / "file").touch()
    for said, words, source in (
        ("no policy", ["at=/"], s.lower),
        ("no policy", [], s.lower),
        ("no such program is attached", ["policy=other"], s.lower),
        ("nopolicy and a policy", ["policy=test", "nopolicy"], s.lower),
        ("no such program is attached", ["policy_id=1"], s.lower),
        ("has no such policy", ["policy=test", "policy_id=77"], s.lower),
        ("numbered from 1", ["policy=test", "policy_id=0"], s.lower),
        ("not a BPF link", ["policy_fd=0"], s.lower),
        ("not an absolute path", ["policy=test", "at=relative"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/../b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/./b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a//b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/"], s.lower),
        ("are not allowed", ["policy=test", "at=/.."], s.lower),
        ("nknown parameter", ["policy=test", "colour=red"], s.lower),
        ("", ["policy=test", "instance=many"], s.lower),
        ("cannot be stacked upon", ["policy=test"], "/proc"),
        ("cannot be stacked upon", ["policy=test"], "/sys"),
        ("cannot be stacked upon", ["policy=test"], "/proc/self/fdinfo"),
        ("cannot be stacked upon", ["policy=test"], "/sys/fs/bpf"),
        ("cannot be stacked upon", ["policy=test"], "/sys/fs/cgroup"),
        ("error 20", ["policy=test"], s.lower / "file"),
        ("error 2", ["policy=test"], s.lower / "none"),
    ):
        answer = mount_fails(*words, source=source, target=s.upper)
        assert said in answer, (words, source, answer)
        assert not answer.rstrip().endswith("system call failed:"), answer
    for words, number in (
        ("policy=test,at=/" + "x" * 256, errno.EINVAL),
        ("policy=test,at=/" + "x" * 255 + "/y" * 300, 0),  # longer than fsconfig(2) takes
    ):
        found = LIBC.mount(os.fsencode(s.lower), os.fsencode(s.upper), b"boesfs", 0, words.encode())
        assert (found and ctypes.get_errno()) == number, words[:30]
        if not number:
            (s.upper / "f").touch()
            run("umount", s.upper)
    assert "boesfs" not in Path("/proc/mounts").read_text()


def test_a_filesystem_that_compares_names_in_its_own_way_is_refused(s: Scene) -> None:
    """Two names that are one file to ext4 would have two labels."""
    s.policy()
    image, folding = s.home / "image", s.home / "folding"
    run("truncate", "-s", "16M", image)
    run("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", image)
    folding.mkdir()
    run("modprobe", "loop", check=False)  # or built in
    run("mount", "-o", "loop", image, folding)
    s.mounts.append(folding)
    assert "names" in mount_fails("policy=test", source=folding, target=s.upper)


def test_a_mount_over_its_own_source_and_mounts_on_mounts(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("below")
    two = s.home / "two"
    s.mount(s.lower, s.lower)
    assert Path("/proc/mounts").read_text().count(f"{s.lower} {s.lower} boesfs") == 1
    (s.lower / "g").write_text("through")
    s.mount(s.lower, two)
    assert (two / "g").read_text() == "through"
    (two / "d").mkdir()
    (two / "f").rename(two / "d/f")
    assert (s.lower / "d/f").read_text() == "below"
    with opened(two / "d/f", os.O_RDWR) as fd:
        page = mmap.mmap(fd, 5)
        page[:5] = b"BELOW"
        maps = Path("/proc/self/maps").read_text()
        page.close()
        assert " /d/f\n" in maps, "the path in the lower boesfs's mount of the source, which has no place of its own"
        fcntl.lockf(fd, fcntl.LOCK_EX)
        with opened(s.lower / "d/f", os.O_RDWR) as below, refused(errno.EAGAIN):
            ofd(below, fcntl.F_WRLCK)
        os.lseek(fd, 0, os.SEEK_SET)
        reader, writer = os.pipe()
        assert os.splice(fd, writer, 5) == 5
        assert os.read(reader, 9) == b"BELOW"
        os.close(reader)
        os.close(writer)
    (two / "suid").touch()
    (two / "suid").chmod(0o6777)
    with opened(two / "suid", os.O_RDWR) as fd:
        apart(lambda: os.write(fd, b"x"))
    assert stat.S_IMODE((two / "suid").stat().st_mode) == 0o777
    (s.lower / "suid").chmod(0o6777)
    apart(lambda: os.truncate(two / "suid", 0))
    assert stat.S_IMODE((two / "suid").stat().st_mode) == 0o777
    with opened(two / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"a")
        os.pwrite(fd, b"b", 0)
        assert (two / "log").read_bytes() == b"ab"
    with opened(two, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"tmp")
        link_fd(fd, two / "tmp")
    assert (s.lower / "tmp").read_text() == "tmp"
    shutil.copy("/usr/bin/true", two / "true")
    run(two / "true")
    assert "as deep a stack" in mount_fails("policy=test", source=two, target=s.home / "three")
    kernel_is_content()


def test_options_are_shown_again(s: Scene) -> None:
    s.policy()

    def shown(target: Path) -> str:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        (line,) = [line for line in lines if line.split()[4] == str(target)]
        return line.split(" - ")[1]

    up = s.mount(policy="test", at="/srv/data", instance=2**64 - 1)
    assert shown(up) == f"boesfs {s.lower} rw,policy=test,at=/srv/data,instance=18446744073709551615"
    options = shown(up).split()[-1]
    s.umount()
    run("mount", "-i", "-t", "boesfs", "-o", options, s.lower, up)
    s.mounts.append(up)
    assert shown(up).split()[-1] == options
    run("mount", "-o", "remount,ro", up)
    assert shown(up).split()[-1] == options.replace("rw", "ro", 1)
    with refused(errno.EROFS):
        (up / "f").touch()
    (s.lower / "f").write_text("not read-only below")
    assert (up / "f").read_text() == "not read-only below"
    run("mount", "-o", "remount,rw", up)
    (up / "g").touch()
    with opened(up / "g", os.O_RDWR):
        assert "busy" in run("mount", "-o", "remount,ro", up, check=False).stderr
    s.umount()
    s.mount(nopolicy=True)
    assert shown(up) == f"boesfs {s.lower} rw,nopolicy,at=/"


def test_the_mount_calls_take_what_a_word_with_commas_cannot_say(s: Scene) -> None:
    s.policy()
    fs = call(FSOPEN, b"boesfs", 0)
    strings = ((b"source", os.fsencode(s.lower)), (b"policy", b"test"), (b"at", b"/with,comma and space/\\x"))
    for key, value in strings:
        call(FSCONFIG, fs, 1, key, value, 0)
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 1, b"source", b"/tmp", 0)
    log = os.read(fs, 4096)
    assert b"boesfs: more than one source" in log, log
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 1, b"at", b"no path", 0)
    assert b"not an absolute path" in os.read(fs, 4096)
    call(FSCONFIG, fs, 6, None, None, 0)
    mounted = call(FSMOUNT, fs, 0, 0)
    call(MOVE_MOUNT, mounted, b"", AT_FDCWD, os.fsencode(s.upper), 4)
    s.mounts.append(s.upper)
    os.close(mounted)
    os.close(fs)
    assert ",at=/with\\054comma\\040and\\040space/\\134x" in Path("/proc/self/mountinfo").read_text()
    (s.upper / "f").touch()
    assert (s.lower / "f").exists()
    fs = call(FSOPEN, b"boesfs", 0)
    call(FSCONFIG, fs, 1, b"policy", b"test", 0)
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 6, None, None, 0)
    assert b"boesfs: no source" in os.read(fs, 4096)
    os.close(fs)


def bound(s: Scene, options: str) -> Path:
    """The lower directory once more, mounted with other options."""
    other = s.home / "bound"
    other.mkdir()
    run("mount", "--bind", s.lower, other)
    s.mounts.append(other)
    run("mount", "-o", f"remount,bind,{options}", other)
    return other


def test_a_read_only_lower_mount_is_read_only(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("x")
    up = s.mount(bound(s, "ro"))
    for work in (
        lambda: (up / "f").write_text("y"),
        lambda: (up / "g").touch(),
        lambda: (up / "f").unlink(),
        lambda: (up / "f").chmod(0),
        lambda: os.utime(up / "f"),
        lambda: os.truncate(up / "f", 0),
        lambda: (up / "d").mkdir(),
        lambda: (up / "f").rename(up / "g"),
        lambda: os.link(up / "f", up / "g"),
        lambda: os.setxattr(up / "f", "user.a", b""),
        lambda: os.open(up, os.O_TMPFILE | os.O_RDWR),
    ):
        with refused(errno.EROFS):
            work()
    assert not os.access(up / "f", os.W_OK)
    assert (up / "f").read_text() == "x"
    assert os.statvfs(up).f_flag & os.ST_RDONLY
    assert run("mount", "-o", "remount,rw", up, check=False).returncode
    with refused(errno.EROFS):
        (up / "g").touch()


def test_a_lower_mount_without_programs_devices_and_set_id_bits_stays_so(s: Scene) -> None:
    s.policy()
    shutil.copy("/usr/bin/id", s.lower / "id")
    (s.lower / "id").chmod(0o6755)
    (s.lower / "script").write_text("#!/bin/sh\n")
    (s.lower / "script").chmod(0o755)
    (s.lower / "sgid").mkdir()
    os.chown(s.lower / "sgid", 0, 55)
    (s.lower / "sgid").chmod(0o2777)
    os.mknod(s.lower / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lower = bound(s, "noexec,nosuid,nodev")
    up = s.mount(lower)
    for d in (lower, up):
        for name in ("id", "script"):
            with refused(errno.EACCES):
                run(d / name)
        with opened(d / "id", os.O_RDONLY) as fd, refused(errno.EPERM):
            mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        with refused(errno.EACCES):
            os.open(d / "null", os.O_RDWR)
    s.umount()
    run("mount", "-o", "remount,bind,exec,dev,nosuid", lower)
    up = s.mount(lower)
    for d in (lower, up):
        for _ in range(2):
            assert run(d / "id", "-u", user=USER, group=USER).stdout == f"{USER}\n"
            assert run(d / "id", "-g", user=USER, group=USER).stdout == f"{USER}\n"
            assert stat.S_IMODE((d / "id").stat().st_mode) == 0o6755, "shown all the same"
            (d / "id").chmod(0o6755)
        os.chown(d / "id", 0, 0)
        (d / "id").chmod(0o6755)
        assert run(d / "id", "-u", user=USER).stdout == f"{USER}\n"
        (d / "sgid" / d.name).touch()
        assert (d / "sgid" / d.name).stat().st_gid == 55
        with opened(d / "null", os.O_RDWR) as fd:
            os.write(fd, b"x")
    s.umount()
    run("mount", "-o", "remount,bind,suid", lower)
    up = s.mount(lower)
    assert run(up / "id", "-u", user=USER).stdout == "0\n"
    for flag in ("nosuid", "noexec"):
        run("mount", "-o", f"remount,bind,{flag}", up)
        done = run("sh", "-c", f"{up}/id -u", check=False, user=USER)
        assert done.stdout == (f"{USER}\n" if flag == "nosuid" else ""), flag


def inodes() -> int:
    """How many inodes the module has."""
    Path("/sys/kernel/slab/boesfs_inode/shrink").write_text("1")
    (line,) = [line for line in Path("/proc/slabinfo").read_text().splitlines() if line.startswith("boesfs_inode ")]
    return int(line.split()[1])


def soon(done: Callable[[], bool]) -> None:
    """It comes true, if not at once."""
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.01)


def test_nothing_is_left_after_many_mounts_under_load(s: Scene) -> None:
    """A hundred mounts come and go while files are made behind and through them; then the module can go."""
    policy = s.policy()
    (s.lower / "d").mkdir()
    for n in range(50):
        (s.lower / f"d/f{n}").write_text("x")
    stop = s.home / "stop"

    def load() -> None:
        n = 0
        while not stop.exists():
            n += 1
            time.sleep(0.002)
            with contextlib.suppress(OSError):
                path = s.upper / f"d/f{n % 60}"
                path.read_bytes()
                path.write_text("y")
                path.rename(s.upper / f"d/f{(n * 7) % 60}")
                (s.upper / f"d/n{n % 5}").touch()
                (s.upper / f"d/n{n % 5}").unlink()
                os.listdir(s.upper / "d")

    def load_below() -> None:
        n = 0
        while not stop.exists():
            n += 1
            time.sleep(0.002)
            with contextlib.suppress(OSError):
                (s.lower / f"d/f{n % 60}").write_text("z")
                (s.lower / f"d/f{(n * 11) % 60}").unlink()
                (s.lower / "d/sub").mkdir(exist_ok=True)
                (s.lower / "d/sub").rename(s.lower / f"sub{n % 3}")

    joins = [start(load), start(load_below)]
    for _ in range(100):
        s.mount()
        os.listdir(s.upper / "d")
        for n in range(0, 50, 10):
            (s.upper / f"d/f{n}").exists()
        s.mounts.remove(s.upper)
        soon(lambda: not run("umount", s.upper, check=False).returncode)
    stop.touch()
    for join in joins:
        join()
    policy.unload()
    s.policies.remove(policy)
    soon(lambda: inodes() == 0)
    soon(lambda: not run("rmmod", "boesfs", check=False).returncode)
    assert "boesfs" not in Path("/proc/filesystems").read_text()
    kernel_is_content()


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


def test_stress_upsets_nobody(s: Scene) -> None:
    """Whatever stress-ng knows about files, all at once over a mount; the kernel has nothing to say about it."""
    s.policy()
    up = s.mount()
    (up / "work").mkdir()
    known = run("stress-ng", "--stressors", check=False).stdout.split()
    words = [word for name in STRESSORS if name in known for word in (f"--{name}", "1")]
    assert len(words) > 100
    done = run("stress-ng", "--verify", "--temp-path", up / "work", "-t", "30", *words, check=False, cwd="/tmp")
    said = done.stdout + done.stderr
    s.values["stress"] = said[-6000:]
    kernel_is_content()
    assert "failed: 0" in said, said[-6000:]
    passed = [int(number) for number in re.findall(r"passed: (\d+)", said)]
    assert passed[0] > len(words) // 2 - 5, "few are skipped: " + said[-6000:]
    run("rm", "-rf", up / "work")
    assert os.listdir(s.lower) == []
