# SPDX-License-Identifier: Apache-2.0
"""The bug classes of stackable filesystems that no other test meets: each happened to another one."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import select
import shutil
import signal
import socket
import stat
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from alike import bound, call, inodes, kernel_is_content, link_fd, number_of, soon
from scene import ALL, Scene, T, begin, bits, child, opened, refused, reload_module, run, start, user_files

AT_FDCWD, AT_EMPTY_PATH, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = -100, 0x1000, 1, 2, 0x10
OPEN_TREE, MOVE_MOUNT, PIDFD_GETFD, MOUNT_SETATTR, FALLOCATE, MPROTECT, IOCTL = 428, 429, 438, 442, 285, 10, 16
SENDFILE, SPLICE, TEE, VMSPLICE, COPY_FILE_RANGE, PROCESS_VM_READV, MSYNC = 40, 275, 276, 278, 326, 310, 26
IO_SETUP, IO_GETEVENTS, IO_SUBMIT, MOUNT, BPF, OBJ_GET = 206, 208, 209, 165, 321, 7
FICLONE, FICLONERANGE, FIDEDUPERANGE, FIEMAP, FIONREAD = 0x40049409, 0x4020940D, 0xC0189436, 0xC020660B, 0x541B
GETVERSION, GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR = 0x80087601, 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
MOVE_EXT, SWAP_BOOT, ENABLE_VERITY, GETFSLABEL = 0xC028660F, 0x6611, 0x40806685, 0x81009431
PAGE = 4096
GOOD_BUFFER = ctypes.create_string_buffer(8)


def raw(number: int, *words: object) -> int:
    """A system call; -errno if it fails."""
    try:
        return call(number, *words)
    except OSError as error:
        return -(error.errno or 0)


def become(uid: int) -> None:
    """Be an ordinary user, or root without groups."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def number_by(uid: int, work: Callable[[], object]) -> int:
    """The errno that WORK fails with when UID does it, 0 if it does not."""

    def act() -> None:
        become(uid)
        os._exit(number_of(work))

    return os.waitstatus_to_exitcode(child(act))


def servant(acts: Callable[[], dict[str, Callable[[], object]]]) -> tuple[Callable[[str], int], Callable[[], None]]:
    """A process with ACTS, each done when its name is asked for: the errno it fails with. The second ends it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        ours.close()
        known = acts()
        while word := theirs.recv(100).decode():
            theirs.send(str(number_of(known[word])).encode())

    join = start(serve)
    theirs.close()

    def ask(word: str) -> int:
        ours.send(word.encode())
        return int(ours.recv(100))

    def end() -> None:
        ours.close()
        join()

    return ask, end


def put(path: Path, data: bytes = b"content", mode: int = 0o644, owner: int = 0) -> Path:
    """A file, made anew."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


# ---------------------------------------------------------------- an idmapped mount below

SHIFT = 10_000


@contextlib.contextmanager
def shifting_namespace() -> Iterator[int]:
    """A user namespace whose ids are SHIFT lower than ours."""
    reader, writer = os.pipe()

    def wait() -> None:
        os.unshare(os.CLONE_NEWUSER)
        os.write(writer, b"x")
        signal.pause()

    pid = begin(wait)
    os.read(reader, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {SHIFT} 65536")
    with opened(f"/proc/{pid}/ns/user") as namespace:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        yield namespace


def idmapped_bind(source: Path, target: Path) -> None:
    """Show SOURCE at TARGET with ids that are SHIFT higher than on disk."""
    tree = call(OPEN_TREE, AT_FDCWD, os.fsencode(source), 1 | os.O_CLOEXEC)  # OPEN_TREE_CLONE
    with shifting_namespace() as namespace:
        attr = struct.pack("QQQQ", 0x100000, 0, 0, namespace)  # MOUNT_ATTR_IDMAP
        try:
            call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attr, len(attr))
            call(MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), 4)  # MOVE_MOUNT_F_EMPTY_PATH
        finally:
            os.close(tree)


def owners(path: Path) -> tuple[int, int]:
    """Owner and group."""
    st = path.lstat()
    return st.st_uid, st.st_gid


def acl_of(*users: int) -> bytes:
    """An ACL by which USERS may read, and the owner may write too."""
    entries = [(1, 6, 0xFFFFFFFF), *((2, 4, user) for user in users), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in [*entries, (32, 0, 0xFFFFFFFF)])


def capability(root: int | None) -> bytes:
    """CAP_NET_RAW for the executable, of version 3 if a root is named."""
    flags = 0x02000001 if root is None else 0x03000001
    return struct.pack("<IIIII", flags, 1 << 13, 0, 0, 0) + (b"" if root is None else struct.pack("<I", root))


def ids_are_shifted(d: Path, disk: Path) -> list[object]:
    for owner in (0, 5, 65535, 65536):
        put(disk / f"of{owner}", owner=owner)
    seen = [owners(d / f"of{owner}") for owner in (0, 5, 65535, 65536)]
    assert seen == [(SHIFT + n, SHIFT + n) for n in (0, 5, 65535)] + [(65534, 65534)], seen

    def make() -> None:
        (d / "file").write_text("x")
        (d / "dir").mkdir()
        (d / "link").symlink_to("x")
        os.mkfifo(d / "fifo")
        with opened(d, os.O_TMPFILE | os.O_RDWR) as fd:
            link_fd(fd, d / "tmp")

    names = ("file", "dir", "link", "fifo", "tmp")
    start(make, SHIFT + 5)()
    for name in names:
        assert owners(disk / name) == (5, 5), name
        assert owners(d / name) == (SHIFT + 5, SHIFT + 5), name
    os.chown(d / "file", SHIFT + 7, SHIFT + 8)
    assert owners(disk / "file") == (7, 8)
    found: list[object] = []
    for uid, gid in ((7, -1), (-1, 8), (SHIFT + 65536, -1), (0, 0)):
        found.append(number_of(lambda uid=uid, gid=gid: os.chown(d / "file", uid, gid)))
        assert found[-1] == errno.EOVERFLOW, (uid, gid, found)
    for by, uid, gid in ((7, 1, -1), (7, -1, 1), (6, 1, -1)):  # neither owner nor stranger is told EPERM
        found.append(number_by(SHIFT + by, lambda uid=uid, gid=gid: os.chown(d / "file", uid, gid)))
        assert found[-1] == errno.EOVERFLOW, (by, uid, gid, found)
    assert owners(disk / "file") == (7, 8)
    for name in names:  # by root, who has no id below
        (disk / name).rename(disk / f"old-{name}")
    makers: tuple[Callable[[], object], ...] = (
        (d / "file").touch,
        (d / "dir").mkdir,
        lambda: (d / "link").symlink_to("x"),
        lambda: os.mkfifo(d / "fifo"),
        lambda: os.mknod(d / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
    )
    assert [number_of(act) for act in makers] == [errno.EOVERFLOW] * 5
    others: tuple[Callable[[], object], ...] = (
        lambda: os.close(os.open(d, os.O_TMPFILE | os.O_RDWR)),
        lambda: (d / "of5").write_text("by root"),
        lambda: (d / "of65536").write_text("by root"),
        lambda: (d / "of65536").chmod(0o600),
        lambda: (d / "of65536").unlink(),
        lambda: os.link(d / "of5", d / "linked"),
        lambda: (d / "of5").rename(d / "renamed"),
        lambda: os.chown(d / "of65536", SHIFT, SHIFT),
    )
    found += [number_of(act) for act in others]
    return [*found, [(name, owners(disk / name), owners(d / name)) for name in sorted(os.listdir(disk))]]


def permissions_are_shifted(d: Path, disk: Path) -> list[int]:
    put(disk / "secret", mode=0o600, owner=1)
    (disk / "dir").mkdir(0o700)
    os.chown(disk / "dir", 1, 1)
    put(disk / "dir/f")
    (disk / "sticky").mkdir()
    (disk / "sticky").chmod(0o1777)
    put(disk / "sticky/f", owner=1)
    acts: list[Callable[[], object]] = [
        (d / "secret").read_bytes,
        lambda: (d / "secret").write_bytes(b"y"),
        lambda: os.truncate(d / "secret", 1),
        lambda: os.access(d / "secret", os.W_OK) or os.stat(d / "none"),
        lambda: (d / "secret").chmod(0o600),
        lambda: os.utime(d / "secret", (1, 1)),
        lambda: os.chown(d / "secret", -1, -1),
        lambda: os.setxattr(d / "secret", "user.a", b"b"),
        (d / "dir/f").stat,
        lambda: os.listdir(d / "dir"),
        (d / "sticky/f").unlink,
    ]
    found = []
    for uid in (1, 1000, SHIFT + 2, SHIFT + 1):
        found.append([number_by(uid, act) for act in acts])
        expected = uid != SHIFT + 1
        assert [bool(number) for number in found[-1][:6] + found[-1][7:]] == [expected] * 10, (uid, found[-1])
    return [number for row in found for number in row]


def acls_are_shifted(d: Path, disk: Path) -> list[object]:
    put(disk / "f", mode=0o600, owner=1)
    (disk / "dir").mkdir()
    os.setxattr(d / "f", "system.posix_acl_access", acl_of(SHIFT + 3))
    assert os.getxattr(disk / "f", "system.posix_acl_access") == acl_of(3)
    assert os.getxattr(d / "f", "system.posix_acl_access") == acl_of(SHIFT + 3)
    who = {uid: number_by(uid, (d / "f").read_bytes) for uid in (3, SHIFT, SHIFT + 1, SHIFT + 3)}
    assert who == {3: errno.EACCES, SHIFT: errno.EACCES, SHIFT + 1: 0, SHIFT + 3: 0}, who
    found: list[object] = [
        number_of(lambda: os.setxattr(d / "f", "system.posix_acl_access", acl_of(3))),
        number_by(SHIFT + 1, lambda: os.setxattr(d / "f", "system.posix_acl_access", acl_of(SHIFT + 4))),
        number_by(1, lambda: os.setxattr(d / "f", "system.posix_acl_access", acl_of(SHIFT + 5))),
    ]
    assert os.getxattr(disk / "f", "system.posix_acl_access") == acl_of(4), found
    os.setxattr(disk / "f", "system.posix_acl_access", acl_of(6, 65536))
    os.setxattr(d / "dir", "system.posix_acl_default", acl_of(SHIFT + 3))
    (disk / "dir").chmod(0o777)
    start((d / "dir/new").touch, SHIFT + 9)()
    assert os.getxattr(disk / "dir/new", "system.posix_acl_access") == acl_of(3)
    found += [os.getxattr(d / name, "system.posix_acl_access") for name in ("f", "dir/new")]
    os.removexattr(d / "f", "system.posix_acl_access")
    assert "system.posix_acl_access" not in os.listxattr(disk / "f")
    return found


def privileges_are_shifted(d: Path, disk: Path) -> list[object]:
    found: list[object] = []
    for name, owner in (("id", 5), ("id-of-root", 0), ("id-of-nobody", 65536)):
        shutil.copy("/usr/bin/id", disk / name)
        os.chown(disk / name, owner, owner)
        (disk / name).chmod(0o6755)
        found.append([run(d / name, flag, user=1000, check=False).stdout for flag in ("-u", "-g")])
    assert found[:2] == [[f"{SHIFT + 5}\n"] * 2, [f"{SHIFT}\n"] * 2], found
    put(disk / "f", mode=0o6777, owner=5)
    with opened(d / "f", os.O_WRONLY) as fd:
        start(lambda: os.write(fd, b"x"), 1000)()
    assert stat.S_IMODE((disk / "f").stat().st_mode) == 0o777
    found += [number_by(uid, lambda: (d / "f").chmod(0o2777)) for uid in (5, SHIFT + 5)]
    found.append(stat.S_IMODE((disk / "f").stat().st_mode))
    shutil.copy("/usr/bin/cat", disk / "cat")
    for value in (None, capability(None), capability(0), capability(7)):
        if value:
            os.setxattr(disk / "cat", "security.capability", value)
        with contextlib.suppress(OSError):
            found.append(os.getxattr(d / "cat", "security.capability"))
        status = run(d / "cat", "/proc/self/status", user=1000).stdout
        found.append([line for line in status.splitlines() if line.startswith(("CapPrm", "CapEff"))])
    assert capability(SHIFT) in found, "v2 is shown as of the mount's root"
    assert capability(SHIFT + 7) in found
    for value in (capability(None), capability(0), capability(SHIFT), capability(SHIFT + 5), capability(7)):
        os.removexattr(disk / "cat", "security.capability")
        found.append(number_of(lambda value=value: os.setxattr(d / "cat", "security.capability", value)))
        with contextlib.suppress(OSError):
            found.append(os.getxattr(disk / "cat", "security.capability"))
        os.setxattr(disk / "cat", "security.capability", capability(None))
    os.chown(d / "cat", SHIFT + 1, -1)
    assert "security.capability" not in os.listxattr(disk / "cat")
    return found


def test_an_idmapped_lower_mount_is_respected(s: Scene) -> None:
    """Ids in the wrong user namespace, CVE-2019-15793: all is as on the lower mount, and as idmapping says."""
    s.policy()
    mapped = s.home / "mapped"
    mapped.mkdir()
    idmapped_bind(s.lower, mapped)
    s.mounts.append(mapped)
    up = s.mount(mapped)
    behaviours = ids_are_shifted, permissions_are_shifted, acls_are_shifted, privileges_are_shifted
    wrong = []
    for behaviour in behaviours:
        results = []
        for where in (mapped, up):
            (s.lower / "here").mkdir()
            (s.lower / "here").chmod(0o777)
            try:
                results.append(behaviour(where / "here", s.lower / "here"))
            except Exception:  # noqa: BLE001 (all that is wrong is told)
                wrong.append(f"{behaviour.__name__} on {where.name}:\n{traceback.format_exc()}")
            shutil.rmtree(s.lower / "here")
        if len(results) == 2 and results[0] != results[1]:
            wrong.append(f"{behaviour.__name__}:\n{results[0]}\n{results[1]}")
    assert not wrong, "\n".join(wrong)
    kernel_is_content()


def test_no_idmapping_is_put_on_the_mount_itself(s: Scene) -> None:
    """Ids in the wrong user namespace, CVE-2019-15793: what would be honoured by halves is refused."""
    s.policy()
    up = s.mount()
    put(s.lower / "f", owner=5)
    target = s.home / "mapped"
    target.mkdir()
    failed = number_of(lambda: idmapped_bind(up, target))
    if not failed:
        s.mounts.append(target)
    assert failed == errno.EINVAL
    assert owners(up / "f") == (5, 5)


# ---------------------------------------------------------------- privileges that come from files

CAPABILITY, ACL = "security.capability", "system.posix_acl_access"
RDONLY, REMOUNT, BIND = 1, 0x20, 0x1000  # mount(2)


def effective(program: Path, uid: int) -> int:
    """What a user that runs this copy of cat is capable of."""
    status = run(program, "/proc/self/status", user=uid, group=uid).stdout
    (line,) = [line for line in status.splitlines() if line.startswith("CapEff:")]
    return int(line.split()[1], 16)


def test_capabilities_of_files_are_none_where_the_lower_mount_is_nosuid(s: Scene) -> None:
    """Programs with more rights from a nosuid mount, CVE-2023-0386, CVE-2016-1576: capabilities, as set-id bits."""
    s.policy()
    shutil.copy("/usr/bin/cat", s.lower / "cat")
    lower = bound(s, "nosuid")
    for value in (capability(None), capability(0)):
        os.setxattr(s.lower / "cat", CAPABILITY, value)
        for option, expected in (("nosuid", 0), ("suid", 1 << 13)):
            run("mount", "-o", f"remount,bind,{option}", lower)
            up = s.mount(lower)
            assert [effective(d / "cat", 1000) for d in (lower, up)] == [expected] * 2, option
            if expected:
                assert os.getxattr(up / "cat", CAPABILITY) == os.getxattr(s.lower / "cat", CAPABILITY)
            else:
                with refused(errno.ENODATA):
                    os.getxattr(up / "cat", CAPABILITY)
            s.umount()


# ---------------------------------------------------------------- mounts in a user namespace


@contextlib.contextmanager
def mounts_of_users(s: Scene) -> Iterator[Callable[[Path | str], int]]:
    """Users may mount in their namespaces. What is given mounts boesfs of a directory as they have to: errno."""
    user_files(s)
    reload_module("userns_mount=1")
    try:
        name = ctypes.create_string_buffer(f"/sys/fs/bpf/{s.policy().name}/link".encode())
        link = call(BPF, OBJ_GET, struct.pack("QQ", ctypes.addressof(name), 0), 16)
        words = os.fsencode(s.upper), b"boesfs", 0, f"policy_fd={link}".encode()
        try:
            yield lambda source: -raw(MOUNT, os.fsencode(source), *words)
        finally:
            os.close(link)
    finally:
        for policy in s.policies:
            policy.unload()
        reload_module()


def as_namespaced_root(work: Callable[[], object]) -> None:
    """WORK as uid 1000 who is root in a user and mount namespace of its own, where uid 1001 is 1."""
    ours, theirs = socket.socketpair()

    def act() -> None:
        become(1000)
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
        theirs.send(str(os.getpid()).encode())
        theirs.recv(1)
        assert (os.getuid(), os.getgid()) == (0, 0)
        work()

    join = start(act)
    theirs.close()
    with ours:
        if pid := ours.recv(10).decode():
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text("0 1000 2")
            ours.send(b"x")
        join()


def test_root_of_a_user_namespace_sets_on_the_mount_what_it_may_set_below(s: Scene) -> None:
    """Capabilities for the world by a mount of one's own, CVE-2021-3493, CVE-2023-2640; files in any directory,
    CVE-2015-1328."""
    (s.lower / "etc").mkdir(0o755)
    for name in ("f", "dir"):
        (s.lower / "etc" / name).touch() if name == "f" else (s.lower / "etc" / name).mkdir()
    put(s.lower / "readable", mode=0o666)
    with mounts_of_users(s) as mount:

        def rights(d: Path) -> None:
            mine, roots, etc = d / "mine", d / "readable", d / "etc"
            for value in (capability(None), capability(0)):
                os.setxattr(mine, CAPABILITY, value)
                assert os.getxattr(s.lower / "mine", CAPABILITY) == capability(None), "as seen in the namespace"
                assert os.getxattr(mine, CAPABILITY) == capability(None)
                os.chmod(mine, 0o755)
                (d / f"kept-{value[3]}").touch()
                os.setxattr(d / f"kept-{value[3]}", CAPABILITY, value)
            os.setxattr(mine, ACL, acl_of(1))
            refusals: dict[str, tuple[int, Callable[[], object]]] = {
                "trusted": (errno.EPERM, lambda: os.setxattr(mine, "trusted.overlay.opaque", b"y")),
                "security": (errno.EPERM, lambda: os.setxattr(mine, "security.other", b"y")),
                "no trusted": (errno.EPERM, lambda: os.removexattr(mine, "trusted.t")),
                "of nobody here": (errno.EINVAL, lambda: os.setxattr(mine, CAPABILITY, capability(5))),
                "for root's": (errno.EPERM, lambda: os.setxattr(roots, CAPABILITY, capability(None))),
                "off root's": (errno.EPERM, lambda: os.removexattr(roots, CAPABILITY)),
                "ACL": (errno.EPERM, lambda: os.setxattr(roots, ACL, acl_of(1))),
                "no ACL": (errno.EPERM, lambda: os.removexattr(roots, ACL)),
                "chmod": (errno.EPERM, lambda: roots.chmod(0o4777)),
                "chown": (errno.EPERM, lambda: os.chown(roots, 0, 0)),
                "give away": (errno.EINVAL, lambda: os.chown(mine, 5, 5)),
                "create": (errno.EACCES, (etc / "new").touch),
                "mkdir": (errno.EACCES, (etc / "new").mkdir),
                "mknod": (errno.EACCES, lambda: os.mkfifo(etc / "new")),
                "symlink": (errno.EACCES, lambda: (etc / "new").symlink_to("x")),
                "tmpfile": (errno.EACCES, lambda: os.open(etc, os.O_TMPFILE | os.O_RDWR)),
                "link": (errno.EACCES, lambda: os.link(mine, etc / "new")),
                "rename": (errno.EACCES, lambda: mine.rename(etc / "f")),
                "unlink": (errno.EACCES, (etc / "f").unlink),
                "rmdir": (errno.EACCES, (etc / "dir").rmdir),
            }
            failed = {name: number_of(act) for name, (_, act) in refusals.items()}
            assert failed == {name: number for name, (number, _) in refusals.items()}, (d, failed)

        def act() -> None:
            assert not mount(s.lower)
            rights(s.upper)

        os.setxattr(s.lower / "mine", "trusted.t", b"t")
        for place, work in (("lower", lambda: rights(s.lower)), ("boesfs", act)):
            as_namespaced_root(work)
            for name in ("mine", "kept-2", "kept-3"):
                assert os.getxattr(s.lower / name, CAPABILITY) == capability(1000), (place, name)
            assert os.getxattr(s.lower / "mine", ACL) == acl_of(1001), place
            for name in ("kept-2", "kept-3", "mine"):
                (s.lower / name).unlink()
            put(s.lower / "mine", owner=1000)
            os.setxattr(s.lower / "mine", "trusted.t", b"t")
        assert os.listxattr(s.lower / "readable") == []
    kernel_is_content()


def test_what_is_under_a_mount_that_a_user_namespace_may_not_lift_stays_hidden(s: Scene) -> None:
    """boesfs sees the filesystem below what is mounted there, so it must not be of a directory with locked mounts."""
    hidden = s.lower / "hidden"
    hidden.mkdir()
    put(hidden / "secret")
    (s.lower / "other").mkdir()
    put(s.lower / "other/f")
    run("mount", "-t", "tmpfs", "mask", hidden)
    s.mounts.append(hidden)
    with mounts_of_users(s) as mount, opened(s.lower, os.O_PATH) as outside:

        def act() -> None:
            assert run("umount", hidden, check=False).returncode, "locked"
            copy = s.home / "copy"
            copy.mkdir()
            run("mount", "--rbind", s.lower, copy)
            for source in (s.lower, copy, s.home, f"/proc/self/fd/{outside}"):
                failed = mount(source)
                assert failed == errno.EINVAL, (source, failed, run("find", s.upper).stdout)
            assert not mount(hidden), "what is mounted there may be shown"
            assert os.listdir(s.upper) == []
            run("umount", s.upper)
            assert not mount(s.lower / "other")
            assert (s.upper / "f").read_text() == "content"

        def shown() -> None:
            assert not mount(s.lower)
            assert (s.upper / "hidden/secret").read_text() == "content"

        as_namespaced_root(act)
        run("umount", hidden)
        s.mounts.remove(hidden)
        as_namespaced_root(shown)
    kernel_is_content()


def test_flags_that_a_user_namespace_may_not_lift_hold_on_its_mount(s: Scene) -> None:
    """A source that is locked ro and nosuid, CVE-2016-1576: neither mounting nor remounting makes it more."""
    lower = bound(s, "ro,nosuid")
    with mounts_of_users(s) as mount:
        for program in ("cat", "id"):
            shutil.copy(f"/usr/bin/{program}", s.lower / program)
            os.chown(s.lower / program, 1000, 1000)
        (s.lower / "id").chmod(0o6755)
        os.setxattr(s.lower / "cat", CAPABILITY, capability(1000))

        def rights() -> tuple[int, str, int]:
            uid = run(s.upper / "id", "-u", user=1, group=1).stdout.strip()
            return effective(s.upper / "cat", 1), uid, number_of(lambda: (s.upper / "mine").write_text("new"))

        def locked() -> None:
            assert raw(MOUNT, b"", os.fsencode(lower), b"", BIND | REMOUNT, b"") == -errno.EPERM, "locked"
            assert not mount(lower)
            for flags in (0, REMOUNT, BIND | REMOUNT, REMOUNT):
                said = flags and raw(MOUNT, b"", os.fsencode(s.upper), b"", flags, b"")
                assert said == (-errno.EINVAL if flags == REMOUNT else 0), (flags, said)
                assert rights() == (0, "1", errno.EROFS), flags
            assert number_of(lambda: os.getxattr(s.upper / "cat", CAPABILITY)) == errno.ENODATA

        def free() -> None:
            assert not mount(s.lower)
            assert rights() == (1 << 13, "0", 0)

        as_namespaced_root(locked)
        as_namespaced_root(free)
    kernel_is_content()


# ---------------------------------------------------------------- stacks


def test_what_was_walked_through_two_mounts_is_judged_by_the_lower_one_anew(s: Scene) -> None:
    """A stale name keeps an old right: the upper mount remembers the name, the lower mount's policy changes."""
    (s.lower / "d/sub").mkdir(parents=True)
    put(s.lower / "d/f", b"0123456789")
    policy = s.policy()
    one = s.mount()
    top = s.mount(one, s.home / "top", nopolicy=True)

    def failures() -> list[int]:
        acts: list[Callable[[], object]] = [
            (top / "d").stat,
            (top / "d/f").stat,
            (top / "d/sub").stat,
            (top / "d/none").touch,
            lambda: os.pread(fd, 4, 0),
            lambda: mmap.mmap(fd, 0, prot=mmap.PROT_READ).close(),
            lambda: os.pwrite(fd, b"w", 0),
            lambda: os.fstat(fd),
        ]
        return [number_of(act) for act in acts]

    with opened(top / "d/f", os.O_RDWR) as fd:
        assert failures() == [0] * 8
        policy.rule("/d", deny=bits("lookup"))
        policy.bump()
        assert failures() == [errno.EPERM] * 4 + [0] * 4
        policy.rule("/d", deny=bits("read"))
        policy.bump()
        assert failures() == [0] * 4 + [errno.EPERM] * 2 + [0] * 2
        policy.rule("/d")
        policy.bump()
        assert failures() == [0] * 8


# ---------------------------------------------------------------- wrong descriptors, wrong buffers


@contextlib.contextmanager
def strangers(other: Path, same: Path) -> Iterator[dict[str, int]]:
    """Descriptors of all kinds, files among them in OTHER, and a file in SAME. None of them blocks."""
    with contextlib.ExitStack() as stack:
        left, right = (stack.enter_context(end) for end in socket.socketpair())
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        poll = stack.enter_context(select.epoll())
        for end in (left, right, listener):
            end.setblocking(False)
        reader, writer = os.pipe2(os.O_NONBLOCK)
        os.write(writer, b"pipe")
        timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK)
        made = {"reader": reader, "writer": writer, "event": os.eventfd(0, os.EFD_NONBLOCK), "timer": timer}
        made |= {"memory": os.memfd_create("m"), "pid": os.pidfd_open(os.getpid())}
        for fd in made.values():
            stack.callback(os.close, fd)
        for path, flags in (
            *((other / "f", flags) for flags in (os.O_PATH, os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND)),
            *((other, os.O_RDONLY), (Path("/dev/null"), os.O_RDWR), (Path("/dev/zero"), os.O_RDWR)),
            *((Path("/proc/version"), os.O_RDONLY), (Path("/proc/self/ns/mnt"), os.O_RDONLY)),
        ):
            made[f"{'directory' if path == other else path.name} {flags:#x}"] = stack.enter_context(opened(path, flags))
        for name, flags in (("mate", os.O_RDWR), ("mate", os.O_WRONLY), ("mate", os.O_PATH), (".", os.O_RDONLY)):
            made[f"{name} {flags:#x} of the mount"] = stack.enter_context(opened(same / name, flags))
        sockets = {"socket": left.fileno(), "listener": listener.fileno(), "epoll": poll.fileno()}
        yield {**made, **sockets, "none": 9999, "negative": -1}


def through_all_calls(fd: int, x: int) -> tuple[list[int], list[tuple[int, int]]]:
    """What all calls with two descriptors say, and what deduplication does for the one file."""
    found, deduplicated = [], []
    for a, b in ((fd, x), (x, fd)):
        clone = struct.pack("qQQQ", a, 0, 0, 0)
        found += [
            raw(IOCTL, b, FICLONE, a),
            raw(IOCTL, b, FICLONERANGE, clone),
            raw(IOCTL, b, FIONREAD, 0),
            raw(COPY_FILE_RANGE, a, None, b, None, 100, 0),
            raw(SPLICE, a, None, b, None, 100, 2),
            raw(SENDFILE, b, a, None, 100),
            raw(TEE, a, b, 100, 2),
        ]
        request = ctypes.create_string_buffer(struct.pack("QQHHIqQQiI", 0, 4, 1, 0, 0, b, 0, 0, 0, 0), 56)
        answer = raw(IOCTL, a, FIDEDUPERANGE, request)
        deduplicated.append((answer, struct.unpack("QQHHIqQQiI", request)[8]))
    return found, deduplicated


def test_descriptors_of_other_kinds_upset_nobody(s: Scene) -> None:
    """Private data of a file that is another's, and references of refused ones: CVE-2019-15791, CVE-2019-15792."""
    s.policy()
    up = s.mount()
    elsewhere = Path("/dev/shm/elsewhere")  # to ext4 what ext4 is to boesfs: another filesystem
    for place in (elsewhere, s.lower / "plain", s.lower / "below", s.lower / "other"):
        place.mkdir()
    expected = {-errno.EXDEV, -errno.EBADF, -errno.EISDIR, -errno.EINVAL, -errno.EOPNOTSUPP, -errno.ENOTTY, 0}
    number_of_files = len(os.listdir("/proc/self/fd")), int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
    seen: dict[str, list[object]] = {"ext4": [], "boesfs": []}
    for name, where, other in (("ext4", s.lower / "plain", elsewhere), ("boesfs", up / "below", s.lower / "other")):
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_PATH, os.O_DIRECTORY) * 2:
            put(where / "f", b"subject")
            put(other / "f", b"other")
            put(where / "mate", b"mate")
            path = where if flags == os.O_DIRECTORY else where / "f"
            with strangers(other, where) as fds:
                for kind, x in fds.items():
                    with opened(path, flags) as fd:
                        found, deduplicated = through_all_calls(fd, x)
                    seen[name].append((flags, kind, found))
                    if name == "boesfs":
                        for answer, status in deduplicated:
                            assert answer in expected, (kind, answer)
                            assert answer or status < 0, (kind, status)
            seen[name].append([(where / "f").read_bytes(), (where / "mate").read_bytes(), (other / "f").read_bytes()])
    wrong = [pair for pair in zip(seen["ext4"], seen["boesfs"], strict=True) if pair[0] != pair[1]]
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert b"subject" in seen["boesfs"][-1]
    shutil.rmtree(elsewhere)
    # each CPU counts up to 32 for itself; one reference too many each time is some hundred files
    assert len(seen["boesfs"]) > 100
    soon(lambda: int(Path("/proc/sys/fs/file-nr").read_text().split()[0]) <= number_of_files[1] + 64)
    assert len(os.listdir("/proc/self/fd")) == number_of_files[0]
    s.umount()
    soon(lambda: inodes() == 0)
    kernel_is_content()


def test_commands_of_the_lower_filesystem_do_not_reach_it(s: Scene) -> None:
    """Descriptors in and out of the lower filesystem's ioctls, CVE-2019-15791: none of its commands goes down."""
    s.policy()
    up = s.mount()
    before = put(s.lower / "f", bytes(PAGE)).stat()
    with opened(up / "f", os.O_RDWR) as fd, opened(s.lower / "f", os.O_RDWR) as below:
        for command in (MOVE_EXT, SWAP_BOOT, ENABLE_VERITY, GETFSLABEL):
            for donor in (below, fd, 9999):
                request = struct.pack("IIQQQQ", 0, donor, 0, 0, 1, 0) + bytes(400)
                assert raw(IOCTL, fd, command, request) == -errno.ENOTTY
    after = (s.lower / "f").stat()
    assert (before.st_size, before.st_ctime_ns) == (after.st_size, after.st_ctime_ns)
    s.umount()
    soon(lambda: inodes() == 0)


# Each with a bad address A in one place; descriptors and other words are named in with_buffer().
CALLS = """
0 file A 100 | 1 file A 100 | 17 file A 100 3 | 18 file A 100 3 | 17 file A 1000000 0 | 17 direct A 4096 0
18 direct A 4096 0 | 19 file A 1 | 20 file A 1 | 19 file vector 1 | 20 file vector 1 | 19 file vectors 2
20 file vectors 2 | 0 dir A 100 | 217 dir A 4096 | 188 path user.b A 100 0 | 188 path A user.b 1 0
188 path system.posix_acl_access A 28 0 | 191 path user.a A 100 | 191 path A scratch 8 | 194 path A 100 | 197 path A
89 link A 100 | 4 path A | 332 cwd path 0 4095 A | 137 path A | 72 file 5 A | 72 file 6 A | 40 file file A 3
275 file A pipe 0 3 0 | 326 file A file A 3 0 | 326 file A direct 0 3 0 | 257 dir A 0 0 | 258 dir A 493
264 dir A dir user.b | 264 dir f dir A | 266 A dir user.b | 266 f dir A | 280 dir f A 0 | 261 0 7 A 0
"""


def with_buffer(d: Path, a: int, memory: mmap.mmap) -> dict[str, int]:
    """What calls say that are given address A, perhaps 3 bytes before the end of MEMORY's first page; by name."""
    scratch = ctypes.addressof(GOOD_BUFFER)
    words: dict[str, object] = {
        **{"A": a, "cwd": AT_FDCWD, "scratch": scratch, "path": os.fsencode(d / "f"), "link": os.fsencode(d / "link")},
        **{"vector": struct.pack("QQ", a, 100), "vectors": struct.pack("QQQQ", scratch, 2, a, 100)},
        **{name: name.encode() for name in ("f", "user.a", "user.b", "system.posix_acl_access")},
    }
    commands = [FICLONERANGE, FIDEDUPERANGE, GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR, FIONREAD, GETVERSION]
    unknown = [number for number in random.Random(3).choices(range(1 << 32), k=30) if number >> 8 & 0xFF > 0xA0]
    calls = [f"{IOCTL} {on} {command} A" for command in commands + unknown for on in ("file", "dir")]
    said: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name, path, flags in (("file", d / "f", 2), ("direct", d / "f", 2 | os.O_DIRECT), ("dir", d, 0)):
            words[name] = stack.enter_context(opened(path, flags))
        reader, words["pipe"] = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, words["pipe"])
        for line in calls + CALLS.strip().replace("\n", " | ").split(" | "):
            memory[PAGE - 3 : PAGE] = b"new"
            number, *rest = [words[word] if word in words else int(word) for word in line.split()]
            said[line] = raw(int(str(number)), *rest)
        said["fiemap"] = raw(IOCTL, words["file"], FIEMAP, a)
    return said


def test_buffers_that_are_none_upset_nobody(s: Scene) -> None:
    """Faults in the middle of a copy from or to user space, CVE-2021-3492: errors and half results are as on ext4."""
    s.policy()
    up = s.mount()
    memory = mmap.mmap(-1, 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call(MPROTECT, base + PAGE, PAGE, 0)
    addresses = {"null": 0, "none": base + PAGE, "half": base + PAGE - 3, "kernel": 0xFFFF888000001000, "top": 1 << 63}
    for place in ("plain", "below"):
        (s.lower / place).mkdir()
        (s.lower / place / "link").symlink_to("f" * 50)
    wrong = []
    for _ in range(3):
        for name, address in addresses.items():
            seen, left = [], []
            for where in (s.lower / "plain", up / "below"):
                put(where / "f", b"0123456789" * 1000)
                os.setxattr(where / "f", "user.a", b"b" * 50)
                seen.append(with_buffer(where, address, memory))
                st = (where / "f").stat()
                names = {attr: os.getxattr(where / "f", attr) for attr in os.listxattr(where / "f")}
                digest = hashlib.sha256((where / "f").read_bytes()).hexdigest()
                left.append([digest, names, st.st_mode, sorted(os.listdir(where))])
            assert seen[1].pop("fiemap") == -errno.EOPNOTSUPP
            seen[0].pop("fiemap")
            wrong += [(name, what, said, seen[1][what]) for what, said in seen[0].items() if said != seen[1][what]]
            if left[0] != left[1]:
                wrong.append((name, "what is left", *left))
            assert seen[1]["0 file A 100"] == (3 if name == "half" else -errno.EFAULT)
    assert not wrong, "\n".join(map(str, wrong[:30]))
    s.umount()
    soon(lambda: inodes() == 0)
    kernel_is_content()


# ---------------------------------------------------------------- descriptors in other hands


def in_other_hands(uid: int, way: str, fd: int, work: Callable[[int], object]) -> tuple[int, int]:
    """The errno that WORK fails with in another process of UID that got our descriptor FD by WAY, and its pid."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    ways: dict[str, Callable[[], int]] = {
        "sent": lambda: socket.recv_fds(theirs, 1, 1)[1][0],
        "taken": lambda: call(PIDFD_GETFD, os.pidfd_open(parent), fd, 0),
        "opened": lambda: os.open(f"/proc/{parent}/fd/{fd}", os.O_RDWR),
        "opened again": lambda: os.open(f"/proc/self/fd/{socket.recv_fds(theirs, 1, 1)[1][0]}", os.O_RDWR),
    }

    def act() -> None:
        become(uid)
        os._exit(number_of(lambda: work(ways[way]())))

    with ours, theirs:
        pid = begin(act)
        socket.send_fds(ours, [b"x"], [fd])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pid


USES: dict[str, Callable[[int], object]] = {
    "read": lambda fd: os.pread(fd, 3, 0),
    "write": lambda fd: os.pwrite(fd, b"w", 1),
    "getattr": os.fstat,
    "setattr": lambda fd: os.ftruncate(fd, 5),
    "lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "fallocate": lambda fd: call(FALLOCATE, fd, KEEP_SIZE, 0, 10),
}


def test_a_descriptor_that_is_handed_on_is_judged_by_its_mounts_policy(s: Scene) -> None:
    """Descriptors that cross sandboxes by SCM_RIGHTS or pidfd_getfd(2): judged at each use, as of who uses them."""
    policy = s.policy()
    put(s.lower / "f", mode=0o666)
    policy.rule("/f", 1, record=bits(*USES), nocache=bits(*USES))
    policy.rule("/f", 2, record=bits(*USES), nocache=bits(*USES), deny=bits("read", "setattr", "fallocate"))
    policy.do("replace", 1, 1)
    policy.do("replace", 2, 3)
    one = s.mount(s.lower, s.home / "one", policy="test", policy_id=1)
    two = s.mount(s.lower, s.home / "two", policy="test", policy_id=2)
    hands = [(1000, "sent"), (0, "sent"), (0, "taken")]

    def use(fd: int, number: int, denied: tuple[str, ...]) -> None:
        for uid, way in hands:
            policy.records()
            done = {op: in_other_hands(uid, way, fd, work) for op, work in USES.items()}
            wanted = [
                (op, uid, pid, number, -errno.EPERM if op in denied else 0, -failed)
                for op, (failed, pid) in done.items()
            ]
            keys = ("op", "uid", "pid", "policy_id", "verdict", "verdict")
            assert [tuple(record[key] for key in keys) for record in policy.records()] == wanted, (uid, way)

    with opened(one / "f", os.O_RDWR) as first, opened(two / "f", os.O_RDWR) as second:
        use(first, 1, ())
        for uid, way in hands:
            for op, work in USES.items():
                assert not in_other_hands(uid, way, second, work)[0], (uid, way, op)
        policy.do("replace", 2, 2)
        use(first, 1, ())
        use(second, 2, ("read", "setattr", "fallocate"))


def test_a_descriptor_is_opened_with_more_rights_only_if_the_policy_says_so(s: Scene) -> None:
    """Descriptors reopened through /proc/PID/fd with more rights, CVE-2024-21626: OPEN is asked, of who opens."""
    policy = s.policy()
    put(s.lower / "f", mode=0o666)
    up = s.mount()
    for flags in (os.O_RDONLY, os.O_PATH, os.O_WRONLY):
        policy.rule("/f")
        policy.bump()
        with opened(up / "f", flags) as fd:
            for forbidden in (False, True):
                if forbidden:
                    policy.rule("/f", deny=bits("open"), by_argument=bits("open"), mask=os.O_RDWR | os.O_WRONLY)
                    policy.bump()
                for uid, way in ((1000, "opened again"), (0, "opened again"), (0, "opened")):
                    policy.records()
                    failed, pid = in_other_hands(uid, way, fd, lambda got: os.pwrite(got, b"x", 0))
                    assert failed == (errno.EPERM if forbidden else 0), (flags, uid, way, failed)
                    if forbidden:
                        (record,) = policy.records()
                        assert (record["op"], record["uid"], record["pid"]) == ("open", uid, pid)
                with opened(f"/proc/self/fd/{fd}"):
                    pass


# ---------------------------------------------------------------- mounts that are detached or propagated


def test_a_detached_mount_ends_with_the_last_who_uses_it(s: Scene) -> None:
    """umount -l with files open, mapped and as working directory: the policy holds on, then nothing is left."""
    policy = s.policy()
    (s.lower / "d/sub").mkdir(parents=True)
    put(s.lower / "d/f", mode=0o666)
    policy.rule("/", 0, deny=0)
    up = s.mount()
    assert inodes() == 1

    def uses() -> dict[str, Callable[[], object]]:
        fd = os.open(up / "d/f", os.O_RDWR)
        memory = mmap.mmap(fd, 7)
        os.close(fd)
        fd = os.open(up / "d/f", os.O_RDWR)
        os.chdir(up / "d")
        return {
            "read": lambda: os.pread(fd, 1, 0),
            "write": lambda: os.pwrite(fd, b"w", 0),
            "map": lambda: memory.__setitem__(1, ord("m")),
            "open": lambda: os.close(os.open("f", os.O_RDONLY)),
            "make": lambda: os.rmdir("new") if os.path.exists("new") else os.mkdir("new"),
            "list": lambda: os.listdir("."),
            "close": lambda: os.close(fd),
            "unmap": memory.close,
            "leave": lambda: os.chdir("/"),
        }

    ask, end = servant(uses)
    assert ask("read") == 0
    run("umount", "-l", up)
    s.mounts.remove(up)
    assert os.listdir(up) == []
    usual = ("read", "write", "map", "open", "make", "list")
    assert [ask(word) for word in usual] == [0] * 6
    policy.rule("/", deny=bits("write", "open", "iterate", "mkdir", "rmdir"))
    policy.bump()
    assert [ask(word) for word in usual] == [0, errno.EPERM, 0, errno.EPERM, errno.EPERM, errno.EPERM]
    assert (s.lower / "d/f").read_bytes() == b"wmntent"
    policy.unload()
    s.policies.remove(policy)
    time.sleep(2)  # the program's maps hold the module until a grace period is over
    assert [ask(word) for word in usual] == [errno.EPERM] * 2 + [0] + [errno.EPERM] * 3
    for word in ("close", "leave", "unmap"):
        assert inodes() > 0, "somebody uses it still"
        assert run("rmmod", "boesfs", check=False).returncode
        assert ask(word) == 0
    soon(lambda: inodes() == 0)
    soon(lambda: not run("rmmod", "boesfs", check=False).returncode)
    end()
    kernel_is_content()


def test_a_mount_that_was_propagated_is_judged_there_too(s: Scene) -> None:
    """Mount propagation out of the sight of who mounted: the policy holds in the other mount namespace, and its end."""
    policy = s.policy()
    put(s.lower / "f", mode=0o666)
    put(s.lower / "closed")
    policy.rule("/closed", deny=bits("open"))
    shared = s.home / "shared"
    (shared / "up").mkdir(parents=True)
    run("mount", "--bind", shared, shared)
    s.mounts.append(shared)
    run("mount", "--make-shared", shared)
    up = shared / "up"

    def uses() -> dict[str, Callable[[], object]]:
        os.unshare(os.CLONE_NEWNS)
        return {
            "ready": lambda: 0,
            "mounted": lambda: f" {up} " in Path("/proc/self/mountinfo").read_text() or os.stat(up / "none"),
            "f": (up / "f").read_bytes,
            "closed": (up / "closed").read_bytes,
            "chdir": lambda: os.chdir(up),
            "here": lambda: Path("f").read_bytes(),
            "leave": lambda: os.chdir("/"),
        }

    ask, end = servant(uses)
    assert ask("ready") == 0
    s.mount(target=up)
    assert [ask(word) for word in ("mounted", "f", "closed", "chdir", "here")] == [0, 0, errno.EPERM, 0, 0]
    policy.rule("/f", deny=bits("open"))
    policy.bump()
    assert [ask(word) for word in ("f", "here")] == [errno.EPERM] * 2
    policy.rule("/f")
    policy.bump()
    assert [ask(word) for word in ("f", "here")] == [0, 0]
    run("umount", "-l", up)
    s.mounts.remove(up)
    assert [ask(word) for word in ("mounted", "here", "leave")] == [errno.ENOENT, 0, 0]
    soon(lambda: inodes() == 0)
    end()
    kernel_is_content()


# ---------------------------------------------------------------- asynchronous operations

RING_OPS = {
    **{"openat": "open", "create": "create", "statx": "getattr", "renameat": "rename", "unlinkat": "unlink"},
    **{"linkat": "link", "mkdirat": "mkdir", "read": "read", "write": "write", "splice-in": "write"},
    **{"splice-out": "read", "fallocate": "fallocate", "fsetxattr": "setxattr"},
}


def ring(how: str, directory: Path, *users: int) -> tuple[int, dict[str, int]]:
    """The process id of the tool, and the errno of each operation."""
    pid, *lines = run(T / "uring", how, directory, *users).stdout.splitlines()
    return int(pid), {name: int(number) for name, number in (line.split() for line in lines)}


def below(directory: Path) -> dict[str, tuple[int, int, int, bytes | None]]:
    """What there is in the lower directory, with all that an operation could change."""
    found = {}
    for path in directory.iterdir():
        st = path.stat()
        found[path.name] = (st.st_ino, st.st_mtime_ns, st.st_ctime_ns, path.read_bytes() if path.is_file() else None)
    return found


def test_what_a_ring_does_is_judged_as_what_its_owner_does(s: Scene) -> None:
    """io_uring's workers with other credentials, CVE-2020-29373: the same verdicts, facts about who submitted."""
    policy = s.policy()
    up = s.mount()
    denied = sorted({op for op in RING_OPS.values() if op != "open"})
    policy.rule("/shut", deny=bits(*denied), verdict=-errno.ENOTUNIQ)
    policy.rule("/shut/to-open", deny=bits("open"), verdict=-errno.ENOTUNIQ)
    policy.rule("/free", record=ALL, nocache=ALL)
    ways = [(how, 1000) for how in ("plain", "ring", "async", "sqpoll")]
    for how, *users in (*ways, ("ring", 1000, 1001), ("async", 0, 1001), ("sqpoll", 1000, 1001)):
        for name in ("shut", "free"):
            shutil.rmtree(s.lower / name, ignore_errors=True)
            (s.lower / name).mkdir()
            (s.lower / name).chmod(0o777)
            for file in ("file", "other", "to-open", "to-rename", "to-unlink", "to-link"):
                put(s.lower / name / file, mode=0o666, owner=users[-1])
        before = below(s.lower / "shut")
        _, said = ring(how, up / "shut", *users)
        assert said == dict.fromkeys(RING_OPS, errno.ENOTUNIQ), (how, users, said)
        assert below(s.lower / "shut") == before, (how, users)
        records = [record for record in policy.records() if record["verdict"]]
        assert [record["op"] for record in records] == list(RING_OPS.values()), (how, records)
        assert {record["uid"] for record in records} == {users[-1]}, (how, users, records)
        pid, said = ring(how, up / "free", *users)
        assert said == dict.fromkeys(RING_OPS, 0), (how, users, said)
        records = [record for record in policy.records() if record["op"] in RING_OPS.values()]
        assert {record["pid"] for record in records} == {pid}, (how, records)
        judged = {op: {record["uid"] for record in records if record["op"] == op} for op in set(denied) - {"open"}}
        assert judged == {op: {users[-1]} for op in judged}, (how, users, judged)
        assert (s.lower / "free/file").read_bytes()[:8] == b"ringent\0", how
        assert (s.lower / "free/other").read_bytes() == b"pipeent", how
        assert {(s.lower / "free" / made).stat().st_uid for made in ("to-create", "made")} == {users[-1]}
        there = "file linked made other renamed to-create to-link to-open"
        assert sorted(os.listdir(s.lower / "free")) == there.split(), how
    kernel_is_content()


def test_direct_requests_outlive_their_descriptor_and_process(s: Scene) -> None:
    """The completion of a request whose descriptor is closed or whose process is killed, CVE-2023-1252."""
    s.policy()
    up = s.mount()
    size, block, requests = 4 << 20, 1 << 16, 64
    (s.lower / "f").write_bytes(bytes(size))
    os.sync()
    completed = s.home / "completed"
    completed.mkdir()

    def work(n: int) -> None:
        context = ctypes.c_ulong(0)
        call(IO_SETUP, requests, ctypes.byref(context))
        buffer = mmap.mmap(-1, 2 * block)
        buffer[:block] = b"w" * block
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        fd = os.open(up / "f", os.O_RDWR | os.O_DIRECT)
        blocks = []
        for i in range(requests):
            what = (i, 0, 0, i % 2, 0, fd, address + (1 - i % 2) * block, block, i * block, 0, 0, 0)
            blocks.append(ctypes.create_string_buffer(struct.pack("<QIiHhIQQqQII", *what)))
        pointers = (ctypes.c_void_p * requests)(*[ctypes.addressof(b) for b in blocks])
        submitted = call(IO_SUBMIT, context, requests, ctypes.byref(pointers))
        os.close(fd)
        if n % 3 == 0:
            events = (ctypes.c_int64 * (4 * requests))()
            done = call(IO_GETEVENTS, context, submitted, requests, ctypes.byref(events), None)
            assert [events[4 * i + 2] for i in range(done)] == [block] * submitted
            (completed / str(n)).touch()
        elif n % 3 == 1:
            signal.pause()

    for n in range(60):
        pid = begin(lambda n=n: work(n))
        if n % 3 == 1:
            time.sleep(random.Random(n).random() / 20)
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status == (signal.SIGKILL if n % 3 == 1 else 0), (n, status)
        if n % 10 == 9:
            s.umount()
            soon(lambda: inodes() == 0)
            s.mount()
    assert len(os.listdir(completed)) == 20
    data = (s.lower / "f").read_bytes()
    assert data == (bytes(block) + b"w" * block) * (size // block // 2)
    kernel_is_content()


# ---------------------------------------------------------------- data past the system calls that are judged


def test_mappings_live_on_by_every_way_and_descriptors_do_not(s: Scene) -> None:
    """Data that bypasses read(2) and write(2) after a replacement: mappings live on, descriptors are judged."""
    policy = s.policy()
    put(s.lower / "f", b"0123456789" * 1000)
    up = s.mount()
    reader, writer = os.pipe()
    target = bytearray(4)
    local = struct.pack("QQ", ctypes.addressof(ctypes.c_char.from_buffer(target)), 4)
    with opened(up / "f", os.O_RDWR) as fd, mmap.mmap(fd, 10_000) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        vector = struct.pack("QQ", address, 4)
        judged: dict[str, tuple[str, Callable[[], object]]] = {
            "pread": ("read", lambda: os.pread(fd, 4, 0)),
            "preadv": ("read", lambda: os.preadv(fd, [bytearray(4)], 0)),
            "splice": ("read", lambda: os.splice(fd, writer, 4, offset_src=0)),
            "map": ("read", lambda: mmap.mmap(fd, PAGE, prot=mmap.PROT_READ).close()),
            "pwrite": ("write", lambda: os.pwrite(fd, b"0123", 0)),
            "splice to": ("write", lambda: (os.write(writer, b"0123"), os.splice(reader, fd, 4, offset_dst=0))),
            "map to write": ("write", lambda: mmap.mmap(fd, PAGE).close()),
            "allocate": ("fallocate", lambda: call(FALLOCATE, fd, 0, 0, 100)),
            "punch": ("fallocate", lambda: call(FALLOCATE, fd, KEEP_SIZE | PUNCH_HOLE, PAGE, PAGE)),
            "zero": ("fallocate", lambda: call(FALLOCATE, fd, ZERO_RANGE, PAGE, 100)),
            "fsync": ("fsync", lambda: os.fsync(fd)),
            "truncate": ("setattr", lambda: os.ftruncate(fd, 9000)),
        }

        def mapping_is_alive(n: int) -> None:
            word = b"%04d" % n
            memory[:4] = word
            call(MSYNC, address, PAGE, 4)  # MS_SYNC
            assert (s.lower / "f").read_bytes()[:4] == word
            while select.select([reader], [], [], 0)[0]:
                os.read(reader, 100)
            assert call(VMSPLICE, writer, vector, 1, 0) == 4
            assert os.read(reader, 4) == word
            assert call(PROCESS_VM_READV, os.getpid(), local, 1, vector, 1, 0) == 4
            assert target == word
            os.pwrite(below_fd, b"from", 20)
            assert memory[20:24] == b"from"

        with opened(s.lower / "f", os.O_RDWR) as below_fd:
            for _, act in judged.values():
                act()
            assert memory[PAGE : 2 * PAGE] == bytes(PAGE), "what is punched is so in the mapping"
            mapping_is_alive(1)
            for n, op in enumerate(("read", "write", "fallocate", "fsync", "setattr")):
                policy.rule("/f", deny=bits(op))
                policy.bump()
                os.ftruncate(below_fd, 10_000)
                os.pwrite(below_fd, b"x" * PAGE, PAGE)
                for name, (needed, act) in judged.items():
                    also = name == "map to write" and op == "read"
                    failed = number_of(act)
                    assert failed == (errno.EPERM if needed == op or also else 0), (op, name, failed)
                    if op == "fallocate" == needed:
                        assert memory[PAGE : 2 * PAGE] == b"x" * PAGE, name
                mapping_is_alive(n)
    os.close(reader)
    os.close(writer)
