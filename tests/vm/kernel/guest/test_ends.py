# SPDX-License-Identifier: Apache-2.0
"""What ends with what (locks with their file, an open that is refused), and what our own changes may not disturb."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from alike import call, kernel_is_content, soon
from scene import LIBC, PACE, Scene, begin, bits, child, meanwhile, opened, refused, run, start
from test_bug_classes import MOUNT, capability

SECONDS = 3 * PACE
SLOW = 400_000 * PACE  # microseconds that a verdict takes
FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_MARK_MOUNT, FAN_OPEN_PERM, FAN_DENY = 4, 1, 0x10, 0x10000, 2
CAPABILITY = "security.capability"
EVERYTHING = (1 << 15) - 1  # Landlock's rights of files
CACHES = ("kmalloc-", "dentry", "ext4_inode_cache", "filp", "cred", "mnt_cache")


def lock(kind: int) -> bytes:
    """The whole file, as F_OFD_SETLK takes it."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def is_free(path: Path) -> bool:
    """Whether another process can lock the file."""

    def take() -> None:
        with opened(path, os.O_RDWR) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    return not child(take)


def until(seconds: float, *works: Callable[[], object]) -> None:
    """All WORKS again and again, each in a thread of this process."""
    end = time.monotonic() + seconds

    def repeat(work: Callable[[], object]) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                work()

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def objects() -> dict[str, int]:
    """How many there are in the kernel's caches that a mount uses, when none of them is just kept for later."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")  # what waits for a grace period in batches is hurried, too
    caches = [cache for cache in Path("/sys/kernel/slab").iterdir() if cache.name.startswith(CACHES)]
    caches.sort(key=lambda cache: cache.name == "kmalloc-8")  # which writing uses; opening uses others
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(open("/proc/slabinfo"))
        for fd in [stack.enter_context(opened(cache / "shrink", os.O_WRONLY)) for cache in caches]:
            os.write(fd, b"1")  # what a CPU keeps for itself would count as used
        lines = [line.split() for line in table]
    return {name: int(used) for name, used, *_ in lines if name.startswith(CACHES)}


def test_a_lock_ends_with_its_file_on_stacks_too(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("x")
    one = s.mount()
    two = s.mount(one, s.home / "two", nopolicy=True)
    for path in (one / "f", two / "f"):
        with opened(path, os.O_RDWR) as fd:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
            assert not is_free(path)
        assert is_free(path), path
        with opened(path, os.O_RDWR) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            assert not is_free(path)
            with opened(path):
                pass  # any descriptor's end is the end of the process's locks
            assert is_free(path), path
    assert Path("/proc/locks").read_text() == ""
    assert "Leaked" not in run("dmesg").stdout
    kernel_is_content()


def test_a_lock_that_is_taken_while_its_descriptor_is_closed_ends_with_the_file(s: Scene) -> None:
    """CVE-2024-41012's class: fcntl(2) in one thread, close(2) in the other."""
    s.policy()
    (s.lower / "f").write_text("x")
    up = s.mount()
    current = [-1]

    def take() -> None:
        fcntl.lockf(current[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    def exchange() -> None:
        old, current[0] = current[0], os.open(up / "f", os.O_RDWR)
        time.sleep(0)
        os.close(old)

    until(SECONDS, take, take, exchange)
    with contextlib.suppress(OSError):
        os.close(current[0])
    assert is_free(up / "f")
    assert Path("/proc/locks").read_text() == ""
    assert "Leaked" not in run("dmesg").stdout
    kernel_is_content()


def test_an_open_that_a_watcher_refuses_leaves_nothing(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("x")
    up = s.mount()
    group = LIBC.fanotify_init(FAN_CLASS_CONTENT, os.O_RDONLY)
    assert group >= 0
    marked = LIBC.fanotify_mark(
        group, FAN_MARK_ADD | FAN_MARK_MOUNT, ctypes.c_uint64(FAN_OPEN_PERM), -100, os.fsencode(up)
    )
    assert marked == 0, ctypes.get_errno()

    def deny() -> None:
        while True:
            event = os.read(group, 24)
            fd = struct.unpack("IBBHQii", event)[5]
            os.write(group, struct.pack("iI", fd, FAN_DENY))
            os.close(fd)

    watcher = begin(deny)
    try:
        for _ in range(20):
            with refused(errno.EPERM):
                os.open(up, os.O_TMPFILE | os.O_RDWR)
            with refused(errno.EPERM):
                os.open(up / "f", os.O_RDONLY)
    finally:
        os.kill(watcher, 9)
        os.waitpid(watcher, 0)
        os.close(group)
    s.umount()


def confine_to(place: Path) -> None:
    """This process may use files below PLACE alone, says Landlock."""
    with opened(place, os.O_PATH) as fd:
        ruleset = call(444, struct.pack("Q", EVERYTHING), 8, 0)
        call(445, ruleset, 1, struct.pack("=Qi", EVERYTHING, fd), 0)
    LIBC.prctl(38, 1, 0, 0, 0)  # no new privileges
    call(446, ruleset, 0)


def test_landlock_holds_on_the_mount_and_lets_through_what_it_allows_there(s: Scene) -> None:
    run("/t/fsbench", "-p", 1, s.lower)
    s.policy()
    up = s.mount()
    for measure in ("read4k", "write4k", "stat", "open-close", "create-unlink", "rename"):
        run("/t/fsbench", "-l", "-n", 2, measure, up)
    (s.lower / "in").mkdir()
    for name in ("in/f", "out"):
        (s.lower / name).write_text("content")

    def inside() -> None:
        confine_to(up / "in")
        assert (up / "in/f").read_text() == "content"
        (up / "in/new").touch()
        for work in ((up / "out").read_text, (up / "new").touch, (up / "out").unlink, (s.lower / "in/f").read_text):
            with refused(errno.EACCES):
                work()

    def below() -> None:
        confine_to(s.lower)
        assert (s.lower / "out").read_text() == "content"
        with refused(errno.EACCES):
            (up / "out").read_text()

    for work in (inside, below):
        start(work)()


def test_a_chown_to_nobody_is_asked_for_since_it_takes_capabilities(s: Scene) -> None:
    (s.lower / "file").write_text("x")
    os.setxattr(s.lower / "file", CAPABILITY, capability(None))
    policy = s.policy()
    policy.rule("/file", deny=bits("setattr"))
    up = s.mount()
    with refused():
        os.chown(up / "file", -1, -1)
    assert os.getxattr(s.lower / "file", CAPABILITY) == capability(None)
    (s.lower / "other").write_text("x")
    os.setxattr(s.lower / "other", CAPABILITY, capability(None))
    os.chown(up / "other", -1, -1)
    with refused(errno.ENODATA):
        os.getxattr(s.lower / "other", CAPABILITY)


def test_capabilities_of_files_are_those_of_the_lower_filesystem_in_every_user_namespace(s: Scene) -> None:
    s.policy()
    up = s.mount()
    run("cp", "/usr/bin/cat", s.lower / "prog")
    for root in (None, 0, 1000, 5000):
        os.setxattr(s.lower / "prog", CAPABILITY, capability(root))
        said = []
        for directory in (s.lower, up):
            done = run("unshare", "-Ur", directory / "prog", "/proc/self/status", check=False, user=1000)
            held = [line for line in done.stdout.splitlines() if line.startswith(("CapPrm", "CapEff"))]
            shown = run("unshare", "-Ur", "getfattr", "-d", "-m", "-", directory / "prog", check=False, user=1000)
            said.append((done.returncode, held, shown.stdout.partition("\n")[2]))
        assert said[0] == said[1], (root, said)
    os.chown(s.lower / "prog", 1000, 0)
    stored = []
    for directory in (s.lower, up):
        with contextlib.suppress(OSError):
            os.removexattr(s.lower / "prog", CAPABILITY)
        script = f"import os; os.setxattr({str(directory / 'prog')!r}, {CAPABILITY!r}, {capability(None)!r})"
        run("unshare", "-Ur", "python3", "-c", script, user=1000)
        stored.append(os.getxattr(s.lower / "prog", CAPABILITY))
    assert stored == [capability(1000)] * 2, stored


def test_what_is_mounted_in_a_directory_survives_its_renames_while_others_look(s: Scene) -> None:
    (s.lower / "d/sub").mkdir(parents=True)
    s.policy()
    up = s.mount()
    run("mount", "-t", "tmpfs", "mask", up / "d/sub")
    (up / "d/sub/inner").touch()

    def look() -> None:
        for name in ("d", "e"):
            with contextlib.suppress(FileNotFoundError):
                os.stat(up / name)

    names = ["d", "e"]
    renames, end = 0, time.monotonic() + SECONDS
    with meanwhile(3, look):
        while time.monotonic() < end or renames < 50:
            os.rename(up / names[0], up / names[1])
            names.reverse()
            renames += 1
            assert (up / names[0] / "sub/inner").exists(), f"what was mounted is gone after {renames} renames"
    run("umount", up / names[0] / "sub")


def test_a_file_that_is_looked_for_while_it_is_made_keeps_its_name(s: Scene) -> None:
    s.policy()
    up = s.mount()
    made, end = 0, time.monotonic() + SECONDS
    with meanwhile(3, lambda: os.stat(up / "f")):
        while time.monotonic() < end or made < 50:
            with opened(up / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
                name = os.readlink(f"/proc/self/fd/{fd}")
                assert name == str(up / "f"), name
            os.mkdir(up / "d")
            with opened(up / "d") as fd:
                name = os.readlink(f"/proc/self/fd/{fd}")
                assert name == str(up / "d"), name
            os.rmdir(up / "d")
            os.unlink(up / "f")
            made += 1


def test_what_takes_a_name_while_it_is_judged_is_what_is_removed_or_moved(s: Scene) -> None:
    """Behind the mount: the judged file gets another name, and another file its name."""
    policy = s.policy()
    policy.rule("/a", slow=bits("unlink", "rmdir", "rename"), slow_check=SLOW)
    up = s.mount()
    works: dict[str, Callable[[], object]] = {
        "unlink": lambda: (up / "a").unlink(),
        "rmdir": lambda: (up / "a").rmdir(),
        "rename": lambda: (up / "a").rename(up / "z"),
    }
    for name, work in works.items():
        for file in ("a", "b"):
            (s.lower / file).mkdir() if name == "rmdir" else (s.lower / file).touch()
        judged, other = ((s.lower / file).stat().st_ino for file in ("a", "b"))
        (up / "a").stat()
        pid = begin(work)
        time.sleep(SLOW / 4e6)
        (s.lower / "a").rename(s.lower / "c")
        (s.lower / "b").rename(s.lower / "a")
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, f"{name} was judged too early for this test"
        assert not os.waitpid(pid, 0)[1], name
        left = {path.name: path.stat().st_ino for path in s.lower.iterdir()}
        assert left == {"c": judged} | ({"z": other} if name == "rename" else {}), name
        assert sorted(os.listdir(up)) == sorted(left)
        for file in left:
            (s.lower / file).rmdir() if name == "rmdir" else (s.lower / file).unlink()


def test_what_happens_below_while_a_name_is_judged_is_seen_before_anything_is_done(s: Scene) -> None:
    """Each time the call looks again, and meets what is there now."""
    policy = s.policy()
    policy.rule("/a", slow=bits("create", "unlink", "rename"), slow_check=SLOW)
    up, low = s.mount(), s.lower

    def no_replace() -> None:
        if LIBC.renameat2(-100, os.fsencode(up / "a"), -100, os.fsencode(up / "z"), 1):
            raise OSError(ctypes.get_errno(), "renameat2")

    def replaced() -> None:
        (low / "a").unlink()
        (low / "new").rename(low / "a")

    def taken() -> None:
        (low / "z").rename(low / "y")
        (low / "b").rename(low / "z")

    cases: tuple[tuple[str, Callable[[], object], Callable[[], object], int, dict[str, str]], ...] = (
        ("a", (up / "a").unlink, lambda: (low / "a").rename(low / "d/a"), errno.ENOENT, {"d/a": "a"}),
        ("a new", (up / "a").unlink, replaced, 0, {}),
        ("a b z", lambda: (up / "a").rename(up / "z"), taken, 0, {"y": "z", "z": "a"}),
        ("a b", no_replace, lambda: (low / "b").rename(low / "z"), errno.EEXIST, {"a": "a", "z": "b"}),
        ("a", no_replace, lambda: (low / "z").write_text("new"), errno.EEXIST, {"a": "a", "z": "new"}),
        ("b", lambda: os.open(up / "a", os.O_CREAT | os.O_RDWR), lambda: (low / "b").rename(low / "a"), 0, {"a": "b"}),
        ("", lambda: os.open(up / "a", os.O_CREAT | os.O_RDWR), lambda: (low / "a").write_text("new"), 0, {"a": "new"}),
    )

    def judged(names: str, work: Callable[[], object], behind: Callable[[], object]) -> int | None:
        """How WORK ends that BEHIND happens to while it is judged; None: it was judged before."""
        (low / "d").mkdir()
        for name in names.split():
            (low / name).write_text(name)
            (up / name).stat()

        def tell() -> None:
            try:
                work()
            except OSError as error:
                os._exit(error.errno or 255)

        pid = begin(tell)
        time.sleep(SLOW / 4e6)
        behind()
        early = os.waitpid(pid, os.WNOHANG)[0]
        return None if early else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def tidy() -> None:
        shutil.rmtree(low / "d")
        for path in low.iterdir():
            path.unlink()

    for number, (names, work, behind, wanted, left) in enumerate(cases):
        for _ in range(3):  # the machine may have stood still meanwhile
            ended = judged(names, work, behind)
            if ended is not None:
                break
            tidy()
        assert ended == wanted, number
        files = [path for path in low.rglob("*") if path.is_file()]
        assert {str(path.relative_to(low)): path.read_text() for path in files} == left, number
        tidy()


def test_a_hundred_mounts_leave_nothing_in_the_kernels_caches(s: Scene) -> None:
    """What is lost once per mount, file or name is a hundred objects or more. Other work of the kernel leaves some ten;
    single readings are higher, by the free rest of what a CPU took for itself since."""
    warm_up, cycles, slack, files = 20, 100, 60, 10
    s.policy()
    for n in range(files):
        (s.lower / f"f{n}").write_text("x")
    top = s.home / "top"
    top.mkdir()

    def work(d: Path) -> None:
        time.sleep(0.01)
        with opened(d / "made", os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, b"x")
            fcntl.lockf(fd, fcntl.LOCK_EX)
            os.setxattr(fd, "user.a", b"b")
        (d / "made").rename(d / "moved")
        (d / "moved").unlink()

    def cycle() -> None:
        s.mount()
        call(MOUNT, os.fsencode(s.upper), os.fsencode(top), b"boesfs", 0, b"nopolicy")
        s.mounts.append(top)
        for n in range(files):
            (top / f"f{n}").read_text()
        for d in (top, s.upper):
            assert not (d / "none").exists()
            (d / "dir").mkdir()
            (d / "dir").rmdir()
            with opened(d, os.O_TMPFILE | os.O_RDWR) as fd:
                os.write(fd, b"x")
            os.listdir(d)
        for d in (top, s.upper):
            soon(lambda d=d: not LIBC.umount2(os.fsencode(d), 0))
            s.mounts.remove(d)

    def batch(count: int) -> None:
        with meanwhile(1, lambda: work(s.upper)), meanwhile(1, lambda: work(s.lower)):
            for _ in range(count):
                cycle()

    def least(readings: int) -> dict[str, int]:
        found = objects()
        for _ in range(readings):
            time.sleep(0.5)
            found = {name: min(count, found.get(name, count)) for name, count in objects().items()}
        return found

    batch(warm_up)
    before = least(10)
    batch(cycles)
    after = least(10)
    left = {name: count - before.get(name, 0) for name, count in after.items()}
    s.values["left"] = {name: count for name, count in left.items() if count}
    assert {"dentry", "ext4_inode_cache", "filp"} < set(left)
    assert max(left.values()) <= slack, s.values
    kernel_is_content()
