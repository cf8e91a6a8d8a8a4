# SPDX-License-Identifier: Apache-2.0
"""Names are made, linked, moved and removed on boesfs as on ext4."""

import errno
import mmap
import os
import random
import socket
import stat
import time
from pathlib import Path

from alike import AT_EMPTY_PATH, AT_FDCWD, EXCHANGE, NOREPLACE, RENAMEAT2, apart, call, link_fd, number_of, same
from scene import LIBC, Scene, opened, parallel, refused, run, start


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
