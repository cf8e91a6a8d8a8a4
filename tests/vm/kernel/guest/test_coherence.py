# SPDX-License-Identifier: Apache-2.0
"""Two mounts of one lower tree and the tree itself show the same, whichever of them a change came through."""

import contextlib
import errno
import fcntl
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from alike import (
    AT_FDCWD,
    EXCHANGE,
    FICLONE,
    RENAMEAT2,
    USER,
    apart,
    apart_errno,
    call,
    kernel_is_content,
    number_of,
    ofd,
)
from scene import Scene, opened, parallel, refused, run, start


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


def test_what_is_executed_below_is_cut_only_if_the_kernel_lets_it(s: Scene) -> None:
    s.policy()
    up = s.mount()
    shutil.copy("/usr/bin/sleep", s.lower / "sleep")
    with subprocess.Popen([s.lower / "sleep", "60"]) as process:
        through, below = (number_of(lambda base=base: os.truncate(base / "sleep", 4096)) for base in (up, s.lower))
        process.kill()
    assert through == below


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
