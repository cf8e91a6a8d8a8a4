# SPDX-License-Identifier: Apache-2.0
"""What is read, written, mapped and copied is the same on ext4 and on boesfs over it."""

import contextlib
import errno
import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import time
from pathlib import Path

from alike import FICLONE, FIONREAD, call, number_of, same
from scene import Scene, opened, parallel, refused, run, start

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10  # fallocate
RWF_DSYNC, RWF_APPEND, RWF_NOAPPEND = 2, 0x10, 0x20
SYNC_FILE_RANGE, SYNCFS, FALLOCATE = 277, 306, 285


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
