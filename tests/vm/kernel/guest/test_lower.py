# SPDX-License-Identifier: Apache-2.0
"""What lower files can besides, or are besides files: extents that are shared, whiteouts, interpreters and loaders, all
that statx(2) tells, files without a name; and lower filesystems that are no disks."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import select
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from alike import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    EXCHANGE,
    FICLONE,
    FIEMAP,
    FIONREAD,
    FSCONFIG,
    FSMOUNT,
    FSOPEN,
    GETVERSION,
    MOVE_MOUNT,
    NOREPLACE,
    RENAMEAT2,
    USER,
    apart_errno,
    call,
    kernel_is_content,
    mount_fails,
    number_of,
    same,
)
from scene import LIBC, Scene, bits, opened, refused, run, start

WHITEOUT = 4  # renameat2
STATX, FACCESSAT2, BPF = 332, 439, 321
FICLONERANGE, FIDEDUPERANGE = 0x4020940D, 0xC0189436
GETFLAGS = 0x80086601
SHARED = 0x2000  # of an extent
SYMLINK_NOFOLLOW = 0x100


# ---------------------------------------------------------------- shared extents


def extents(file: Path) -> list[tuple[int, int]]:
    """Where the file lies on the disk: start and length of each extent, which has to be a shared one."""
    with opened(file) as fd:
        answer = fcntl.ioctl(fd, FIEMAP, struct.pack("QQIIII", 0, 1 << 40, 1, 0, 16, 0) + bytes(56 * 16))
    found = []
    for n in range(struct.unpack_from("I", answer, 20)[0]):
        _, physical, length, flags = struct.unpack_from("QQQ16xI", answer, 32 + 56 * n)
        assert flags & SHARED, (file.name, n)
        found.append((physical, length))
    assert found
    return found


def test_extents_are_shared_and_deduplicated_as_on_the_lower_filesystem(s: Scene) -> None:
    """With XFS below. What lies where is asked of XFS itself: FIEMAP does not pass the mount."""
    run("truncate", "-s", "320M", s.home / "image")
    run("mkfs.xfs", "-q", "-m", "reflink=1", s.home / "image")
    run("modprobe", "loop", check=False)  # or built in
    run("mount", "-o", "loop", s.home / "image", s.lower)
    s.mounts.append(s.lower)
    data, here = random.Random(5).randbytes(65536), s.lower / "here"

    def clones_share(d: Path) -> list[int]:
        (d / "f").write_bytes(data)
        with opened(d / "f") as source, opened(d / "g", os.O_CREAT | os.O_RDWR) as target:
            fcntl.ioctl(target, FICLONE, source)
            assert (d / "g").read_bytes() == data
            assert extents(here / "g") == extents(here / "f")
            fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, 4096, 8192, 65536))
            assert os.fstat(target).st_size == 65536 + 8192
            assert (d / "g").read_bytes() == data + data[4096:12288]
            assert extents(here / "g")[-1] == (extents(here / "f")[0][0] + 4096, 8192)
            os.pwrite(target, b"own", 0)
            assert os.pread(source, 3, 0) == data[:3]
            return [
                number_of(lambda: fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, 1, 4096, 0))),
                number_of(lambda: fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", target, 0, 8192, 4096))),
                number_of(lambda: fcntl.ioctl(source, FICLONE, target)),
            ]

    def copies_share(d: Path) -> None:
        (d / "f").write_bytes(data)
        with opened(d / "f") as source, opened(d / "g", os.O_CREAT | os.O_RDWR) as target:
            assert os.copy_file_range(source, target, 65536) == 65536
            assert extents(here / "g") == extents(here / "f")
            assert os.copy_file_range(source, target, 100, 50, 65536) == 100  # of no whole blocks: copied
        assert (d / "g").read_bytes() == data + data[50:150]
        run("cp", "--reflink=always", d / "f", d / "h")
        assert (d / "h").read_bytes() == data
        assert extents(here / "h") == extents(here / "f")

    def equals_are_deduplicated(d: Path) -> list[int]:
        for name, content in (("f", data), ("g", data), ("h", data[:-1] + b"?")):
            (d / name).write_bytes(content)
        os.sync()
        with opened(d / "f") as f, opened(d / "g", os.O_RDWR) as g, opened(d / "h", os.O_RDWR) as h:
            pair = [number for fd in (g, h) for number in (fd, 0, 0, 0, 0)]
            answer = fcntl.ioctl(f, FIDEDUPERANGE, struct.pack("QQHHI" + "qQQiI" * 2, 0, 65536, 2, 0, 0, *pair))
            _, _, *equal, _, _, _, differs, status, _ = struct.unpack_from("qQQiIqQQiI", answer, 24)
        assert equal[:2] == [65536, 0], "FILE_DEDUPE_RANGE_SAME"
        assert (differs, status) == (0, 1), "FILE_DEDUPE_RANGE_DIFFERS"
        assert extents(here / "g") == extents(here / "f")
        assert (d / "h").read_bytes() == data[:-1] + b"?"
        return [*equal, differs, status]

    same(s, clones_share, copies_share, equals_are_deduplicated)


# ---------------------------------------------------------------- whiteouts


def rename2(old: Path, new: Path, flags: int) -> None:
    call(RENAMEAT2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def a_whiteout_stays(d: Path) -> list[int]:
    for name in "abc":
        (d / name).write_text(name)
    (d / "dir/sub").mkdir(parents=True)
    for old, new in (("a", "new"), ("b", "c"), ("dir", "moved")):
        rename2(d / old, d / new, WHITEOUT)
        whiteout = (d / old).lstat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert (whiteout.st_rdev, whiteout.st_nlink) == (0, 1)
    assert ((d / "new").read_text(), (d / "c").read_text()) == ("a", "b")
    assert (d / "moved/sub").is_dir()
    assert sorted(os.listdir(d)) == ["a", "b", "c", "dir", "moved", "new"]
    (d / "new").rename(d / "a")
    assert (d / "a").read_text() == "a"
    return [
        stat.S_IMODE((d / "b").lstat().st_mode),
        d.stat().st_nlink,
        number_of(lambda: os.open(d / "b", os.O_RDONLY)),
        number_of(lambda: rename2(d / "a", d / "c", WHITEOUT | NOREPLACE)),
        number_of(lambda: rename2(d / "a", d / "c", WHITEOUT | EXCHANGE)),
        number_of(lambda: apart_errno(lambda: rename2(d / "c", d / "by-user", WHITEOUT))),
    ]


def test_a_rename_that_leaves_a_whiteout_behaves_the_same(s: Scene) -> None:
    same(s, a_whiteout_stays)


def test_what_leaves_a_whiteout_behind_has_the_right_of_its_new_name(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/f").write_text("x")
    policy = s.policy()
    policy.rule("/open", record=bits("rename"))
    policy.rule("/shut", deny=bits("open", "read"))
    up = s.mount()
    with opened(up / "open/f") as fd:
        assert os.read(fd, 1) == b"x"
        rename2(up / "open/f", up / "shut/f", WHITEOUT)
        with refused():
            os.pread(fd, 1, 0)
    with refused():
        (up / "shut/f").read_text()
    with refused(errno.ENXIO):  # the whiteout, which is below open
        (up / "open/f").read_text()
    record = next(record for record in policy.records() if record["op"] == "rename")
    assert (record["path"], record["other"], record["arg0"]) == ("/open/f", "/shut/f", WHITEOUT)


# ---------------------------------------------------------------- interpreters and loaders


def test_an_interpreter_that_may_not_be_executed_runs_no_script(s: Scene) -> None:
    shutil.copy("/bin/sh", s.lower / "interpreter")
    (s.lower / "script").write_text(f"#!{s.upper}/interpreter\necho ran\n")
    (s.lower / "script").chmod(0o755)
    policy = s.policy()
    policy.rule("/interpreter", record=bits("exec"))
    up = s.mount()
    assert run(up / "script").stdout == "ran\n"
    for name in ("interpreter", "script"):
        policy.rule("/interpreter")
        policy.rule(f"/{name}", deny=bits("exec"))
        policy.bump()
        policy.records()
        with refused():
            run(up / "script")
        assert [(r["op"], r["path"]) for r in policy.records()] == [("exec", f"/{name}")]


def test_a_loader_that_may_not_be_executed_starts_no_program(s: Scene) -> None:
    usual, own = b"/lib64/ld-linux-x86-64.so.2", os.fsencode(s.upper / "loader")
    program = Path("/usr/bin/true").read_bytes()
    assert program.count(usual) == 1
    (s.lower / "true").write_bytes(program.replace(usual, own.ljust(len(usual), b"\0")))
    (s.lower / "true").chmod(0o755)
    shutil.copy(os.fsdecode(usual), s.lower / "loader")
    policy = s.policy()
    up = s.mount()
    run(up / "true")
    policy.rule("/loader", deny=bits("exec"))
    policy.bump()
    with refused():
        run(up / "true")
    assert [(r["op"], r["path"]) for r in policy.records()] == [("exec", "/loader")]


def test_a_program_is_judged_too_when_a_descriptor_of_it_is_executed(s: Scene) -> None:
    shutil.copy("/usr/bin/true", s.lower / "true")
    policy = s.policy()
    up = s.mount()
    for flags in (os.O_RDONLY, os.O_PATH):
        policy.rule("/true")
        policy.bump()
        with opened(up / "true", flags) as fd:

            def execute(fd: int = fd) -> None:
                os.execve(fd, ["true"], {})

            apart_errno(execute, 0)
            policy.rule("/true", deny=bits("exec"))
            policy.bump()
            with refused():
                apart_errno(execute, 0)
        assert policy.ops() == ["exec"]


# ---------------------------------------------------------------- what statx(2) tells


def statx(fd: int, name: Path | str, flags: int, request: int) -> bytes:
    """All it tells but the mount's own: mnt_id and the device."""
    answer = ctypes.create_string_buffer(256)
    call(STATX, fd, os.fsencode(name), SYMLINK_NOFOLLOW | flags, request, answer)
    return answer.raw[:136] + answer.raw[152:160]  # up to rdev, then the alignment for direct I/O


def test_statx_tells_what_it_tells_of_the_lower_file(s: Scene) -> None:
    s.policy()
    up = s.mount()
    (s.lower / "f").write_bytes(b"x" * 5000)
    (s.lower / "dir/sub").mkdir(parents=True)
    (s.lower / "link").symlink_to("f")
    os.mkfifo(s.lower / "fifo")
    os.mknod(s.lower / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.link(s.lower / "f", s.lower / "second")
    os.chown(s.lower / "f", 12, 34)
    (s.lower / "f").chmod(0o6751)
    for letter in "aicd":
        (s.lower / letter).touch()
        os.utime(s.lower / letter, ns=(10**18 + 1, 10**18 + 2))
        run("chattr", f"+{letter}", s.lower / letter)
    with opened(s.lower / "hole", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 1 << 30)
    everything, told = 0x2FFF, set()
    for name in sorted(os.listdir(s.lower)):
        for request in (everything, 0x7FF, 0x800, 0x200, 0):
            below = statx(AT_FDCWD, s.lower / name, 0, request)
            assert statx(AT_FDCWD, up / name, 0, request) == below, (name, hex(request))
        with (
            opened(s.lower / name, os.O_PATH | os.O_NOFOLLOW) as low,
            opened(up / name, os.O_PATH | os.O_NOFOLLOW) as fd,
        ):
            assert statx(fd, "", AT_EMPTY_PATH, everything) == statx(low, "", AT_EMPTY_PATH, everything), name
        mask, attributes, born = (
            *struct.unpack_from("I4xQ", below := statx(AT_FDCWD, up / name, 0, everything)),
            below[80:88],
        )
        assert mask & 0xFFF == 0xFFF, "the basic ones and the time of birth"
        assert struct.unpack("q", born)[0] > 0
        told.add(attributes)
    assert told == {0, 0x4, 0x10, 0x20, 0x40}, "none, compressed, immutable, append-only, not to be dumped"


# ---------------------------------------------------------------- lower filesystems that are no disks


def mount_below(s: Scene, kind: str, options: str = "") -> None:
    """Mount a filesystem of this kind as the lower directory."""
    run("modprobe", f"fs-{kind}", check=False)  # where it is not built in
    if LIBC.mount(kind.encode(), os.fsencode(s.lower), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), kind)
    s.mounts.append(s.lower)


def attempt(work: Callable[[], object]) -> None:
    """It works or is refused; a mapping of no file's size is neither to Python."""
    with contextlib.suppress(OSError, ValueError):
        work()


def try_descriptor(fd: int) -> None:
    """Move data by every call there is."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, b"piped")
    with open("/dev/null", "wb") as null:
        for work in (
            lambda: os.read(fd, 100),
            lambda: os.pread(fd, 100, 1),
            lambda: os.write(fd, b"?"),
            lambda: os.pwrite(fd, b"?", 1),
            lambda: os.lseek(fd, 0, os.SEEK_SET),
            lambda: os.lseek(fd, 0, os.SEEK_DATA),
            lambda: os.splice(reader, fd, 5),
            lambda: os.splice(fd, writer, 5),
            lambda: os.sendfile(null.fileno(), fd, 0, 5),
            lambda: os.copy_file_range(fd, fd, 5, 0, 50),
            lambda: mmap.mmap(fd, 0)[:1],
            lambda: mmap.mmap(fd, 0, mmap.MAP_PRIVATE)[:1],
            lambda: mmap.mmap(fd, 1, prot=mmap.PROT_READ)[:1],
            lambda: select.select([fd], [fd], [fd], 0),
            lambda: fcntl.ioctl(fd, FIONREAD, bytes(4)),
            lambda: fcntl.ioctl(fd, GETVERSION, bytes(8)),
            lambda: fcntl.ioctl(fd, GETFLAGS, bytes(8)),
            lambda: fcntl.ioctl(fd, FICLONE, fd),
            lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT | os.O_APPEND),
            lambda: os.fsync(fd),
            lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED),
            lambda: os.posix_fallocate(fd, 0, 100),
            lambda: os.ftruncate(fd, 1 << 21),
        ):
            attempt(work)
    os.close(reader)
    os.close(writer)


def try_everything(top: Path) -> None:
    """What a program may do with all that is there."""
    paths = [top, *(Path(directory, name) for directory, *names in os.walk(top) for name in (*names[0], *names[1]))]
    for path in paths:
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DIRECT):
            with contextlib.suppress(OSError), opened(path, flags | os.O_NONBLOCK | os.O_NOCTTY) as fd:
                try_descriptor(fd)
        for work in (
            path.lstat,
            lambda path=path: os.listdir(path),
            lambda path=path: os.readlink(path),
            lambda path=path: [os.getxattr(path, name) for name in os.listxattr(path)],
            lambda path=path: os.setxattr(path, "user.a", b"b"),
            lambda path=path: os.statvfs(path),
            lambda path=path: os.access(path, os.W_OK),
            lambda path=path: os.utime(path),
            lambda path=path: path.chmod(0o700),
            lambda path=path: os.truncate(path, 1 << 21),
            lambda path=path: os.link(path, top / "linked"),
            lambda path=path: path.rename(top / "moved"),
            lambda path=path: (top / "moved").rename(path),
            lambda path=path: (path / "by-user").symlink_to("x"),
            lambda path=path: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR)),
        ):
            attempt(work)


def test_lower_filesystems_that_are_no_disks_upset_nobody(s: Scene) -> None:
    """Whatever they do not know is an errno. Those that do not want to be stacked upon are not."""
    policy = s.policy()
    for kind in ("hugetlbfs", "binfmt_misc"):
        mount_below(s, kind)
        assert "cannot be stacked upon" in mount_fails("policy=test", source=s.lower, target=s.upper)
        s.umount(s.lower)
    run("modprobe", "netconsole", check=False)  # to have something in configfs
    for kind in ("mqueue", "devpts", "configfs", "fusectl", "pstore", "ramfs"):
        mount_below(s, kind)
        up = s.mount()
        with contextlib.ExitStack() as stack:
            for name in ("made", "netconsole/made"):
                attempt(lambda name=name, up=up: (up / name).write_text("x"))
                attempt(lambda name=name, up=up: (up / name).mkdir())
            with contextlib.suppress(OSError):
                stack.enter_context(opened(s.lower / "ptmx", os.O_RDWR | os.O_NOCTTY))  # a terminal
            start(lambda up=up: try_everything(up))()
        kernel_is_content()
        s.umount(up)
        s.umount(s.lower)
    assert policy.counters()["checks"] > 100


def serve(device: int) -> None:
    """A filesystem of FUSE: a file f, that is read and takes whatever is written to it. Ends when it is unmounted."""

    def attributes(node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
        return struct.pack("6Q10I", node, len(SERVED), 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def answer(op: int, node: int, asked: bytes) -> bytes | None:
        said = None
        match op:
            case 1 if asked == b"f\0":  # LOOKUP; times of 0: to be looked up again each time
                said = struct.pack("4Q8x", 2, 0, 0, 0) + attributes(2)
            case 3 | 4:  # GETATTR, SETATTR
                said = bytes(16) + attributes(node)
            case 14 | 27:  # OPEN, OPENDIR
                said = bytes(16)
            case 15:  # READ
                offset, size = struct.unpack_from("8xQI", asked)
                said = SERVED[offset : offset + size]
            case 16:  # WRITE
                said = struct.pack("I4x", struct.unpack_from("16xI", asked)[0])
            case 17:  # STATFS
                said = bytes(80)
            case 18 | 20 | 25 | 29:  # RELEASE, FSYNC, FLUSH, RELEASEDIR
                said = b""
            case 26:  # INIT
                said = struct.pack("4I2H2I2H32x", 7, 31, 65536, 0, 8, 8, 65536, 1, 16, 0)
            case 28:  # READDIR
                said = b"" if struct.unpack_from("8xQ", asked)[0] else struct.pack("QQII8s", 2, 1, 1, 8, b"f")
        return said

    with contextlib.suppress(OSError):  # ENODEV
        while True:
            request = os.read(device, 1 << 17)
            op, unique, node = struct.unpack_from("4xIQQ", request)
            if op in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET
                continue
            said = answer(op, node, request[40:])
            failed = 0 if said is not None else -errno.ENOENT if op == 1 else -errno.ENOSYS
            os.write(device, struct.pack("IiQ", 16 + len(said or b""), failed, unique) + (said or b""))


SERVED = b"served " * 1000


def test_a_filesystem_that_a_program_serves_is_carried(s: Scene) -> None:
    s.policy()
    if not Path("/dev/fuse").exists():
        os.mknod("/dev/fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    with opened("/dev/fuse", os.O_RDWR) as device:
        mount_below(s, "fuse", f"fd={device},rootmode=40000,user_id=0,group_id=0")
        join = start(lambda: serve(device))
    up = s.mount()
    assert (os.listdir(up), (up / "f").read_bytes()) == (["f"], SERVED)
    with refused(errno.ENOENT):
        (up / "g").stat()
    with opened(up / "f", os.O_RDWR) as fd:
        assert mmap.mmap(fd, 7000, mmap.MAP_PRIVATE)[6993:] == b"served "
        assert os.pwrite(fd, b"taken", 0) == 5
    start(lambda: try_everything(up))()
    kernel_is_content()
    s.umount(up)
    s.umount(s.lower)
    join()


def test_a_place_where_something_is_mounted_on_demand_is_not_carried(s: Scene) -> None:
    """With autofs below, whose own process group makes names without being asked for a mount."""
    s.policy()
    reader, writer = os.pipe()
    os.setpgid(0, 0)
    mount_below(s, "autofs", f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect")
    (s.lower / "on-demand").mkdir()
    up = s.mount()
    for work in (os.stat, os.listdir, lambda name: os.open(name, os.O_PATH), lambda name: os.stat(name / "below")):
        with refused(errno.EREMOTE):
            work(up / "on-demand")
    for name in ("on-demand", "unknown"):  # whoever else asks does not wait for a mount
        with refused(errno.EREMOTE):
            apart_errno(lambda name=name: [os.setsid(), os.stat(up / name)], 0)
    assert os.listdir(up) == ["on-demand"]
    s.umount(up)
    s.umount(s.lower)
    os.close(reader)
    os.close(writer)
    kernel_is_content()


# ---------------------------------------------------------------- access(2) without a name


def test_access_to_a_file_without_a_name_is_answered_as_on_ext4(s: Scene) -> None:
    def answers(d: Path) -> list[int]:
        (d / "f").write_text("x")
        (d / "f").chmod(0o640)
        with opened(d / "f", os.O_RDWR) as gone, opened(d, os.O_TMPFILE | os.O_RDWR, 0o600) as nameless:
            (d / "f").unlink()
            return [
                number_of(lambda fd=fd, mode=mode, uid=uid, way=way: apart_errno(lambda: way(fd, mode), uid))
                for fd in (gone, nameless)
                for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK)
                for uid in (0, USER)
                for way in (by_descriptor, by_link)
            ]

    def by_descriptor(fd: int, mode: int) -> None:
        call(FACCESSAT2, fd, b"", mode, AT_EMPTY_PATH)

    def by_link(fd: int, mode: int) -> None:
        call(FACCESSAT2, AT_FDCWD, b"/proc/self/fd/%d" % fd, mode, 0)

    up = same(s, answers)
    (policy,) = s.policies
    policy.rule("/", deny=bits("access"))
    policy.bump()
    denied = answers(up)
    assert set(denied) == {errno.EPERM}, denied


# ---------------------------------------------------------------- a policy by descriptor


def test_a_policy_is_given_as_a_descriptor_or_as_its_number(s: Scene) -> None:
    (s.lower / "f").write_text("x")
    policy = s.policy()
    policy.rule("/f", deny=bits("open"))
    pinned = ctypes.create_string_buffer(b"/sys/fs/bpf/test/link")
    with contextlib.ExitStack() as stack:

        def kept(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        link = kept(call(BPF, 7, struct.pack("QII", ctypes.addressof(pinned), 0, 0), 16))  # BPF_OBJ_GET
        other = kept(os.open("/dev/null", os.O_RDONLY))
        for how in (5, 1):  # FSCONFIG_SET_FD, FSCONFIG_SET_STRING
            fs = kept(call(FSOPEN, b"boesfs", 0))

            def give(fd: int, fs: int = fs, how: int = how) -> None:
                call(FSCONFIG, fs, how, b"policy_fd", *((None, fd) if how == 5 else (b"%d" % fd, 0)))

            call(FSCONFIG, fs, 1, b"source", os.fsencode(s.lower), 0)
            with refused(errno.EINVAL):
                give(other)
            assert b"not a BPF link" in os.read(fs, 4096)
            give(link)
            call(FSCONFIG, fs, 6, None, None, 0)
            call(MOVE_MOUNT, kept(call(FSMOUNT, fs, 0, 0)), b"", AT_FDCWD, os.fsencode(s.upper), 4)
            s.mounts.append(s.upper)
            assert f"{s.upper} boesfs rw,relatime,policy=test," in Path("/proc/mounts").read_text()
            with refused():
                (s.upper / "f").read_text()
            run("umount", "-l", s.upper)
            s.mounts.remove(s.upper)
