# SPDX-License-Identifier: Apache-2.0
"""What is known is not asked again, and no way around the name leads past the policy."""

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import subprocess
from pathlib import Path

from asking import call, call_pointer, gone, snapshot
from scene import Scene, T, bits, opened, refused, start

# ---------------------------------------------------------------- what is kept


def test_what_is_known_is_not_asked_again(s: Scene) -> None:
    (s.lower / "d").mkdir()
    for name in ("d/file", "d/new"):
        (s.lower / name).write_text("content")
    policy = s.policy()
    up = s.mount()
    os.stat(up / "d/file")
    with opened(up / "d/file", os.O_RDWR) as fd:
        os.read(fd, 3)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"x")
        policy.counters()
        for _ in range(5):
            os.stat(up / "d/file")
            os.read(fd, 3)
            os.pread(fd, 2, 1)
            os.write(fd, b"x")
            os.lseek(fd, 1, os.SEEK_SET)
            with opened(up / "d/file", os.O_RDONLY):
                pass
        assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}
    os.stat(up / "d/new")
    assert policy.counters() == {"labels": 1, "checks": 2, "mixed": 0}
    gone(up / "d/missing")
    assert policy.counters() == {"labels": 1, "checks": 1, "mixed": 0}
    gone(up / "d/missing")
    assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}


def test_a_denial_is_never_kept(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.rule("/file", deny=bits("getattr"))
    up = s.mount()
    for _ in range(3):
        with refused():
            os.stat(up / "file")
        assert policy.counters()["checks"] >= 1


def test_nocache_asks_each_time(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.rule("/file", nocache=bits("getattr"))
    up = s.mount()
    os.stat(up / "file")
    for _ in range(3):
        policy.counters()
        os.stat(up / "file")
        assert policy.counters() == {"labels": 0, "checks": 1, "mixed": 0}


def test_a_program_without_the_cache_flag_is_always_asked(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy(flags=0)
    up = s.mount()
    os.stat(up / "file")
    for _ in range(3):
        policy.counters()
        os.stat(up / "file")
        counters = policy.counters()
        assert counters["checks"] >= 2, counters
        assert counters["labels"] == 0, counters


def cached_open(path: Path) -> None:
    """openat2(2) with RESOLVE_CACHED: RCU-walk or EAGAIN."""
    how = struct.pack("QQQ", os.O_PATH, 0, 0x20)
    os.close(call("syscall", 437, -100, os.fsencode(path), how, len(how)))


def test_rcu_walk_goes_over_names_that_are_known(s: Scene) -> None:
    (s.lower / "d/e").mkdir(parents=True)
    (s.lower / "d/e/file").touch()
    policy = s.policy()
    up = s.mount()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    os.stat(up / "d/e/file")
    policy.counters()
    cached_open(up / "d/e/file")
    assert policy.counters()["checks"] == 0
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    os.stat(up / "d/e/file")
    cached_open(up / "d/e/file")
    policy.rule("/d/e", deny=bits("lookup"))
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/e/file")
    with refused():
        os.stat(up / "d/e/file")


def test_rcu_walk_knows_what_is_missing(s: Scene) -> None:
    (s.lower / "d").mkdir()
    policy = s.policy()
    up = s.mount()
    gone(up / "d/missing")
    policy.counters()
    with refused(errno.ENOENT):
        cached_open(up / "d/missing")
    assert policy.counters()["checks"] == 0
    policy.rule("/d", deny=bits("probe"))
    policy.bump()
    with refused(errno.EAGAIN):
        cached_open(up / "d/missing")
    with refused():
        os.stat(up / "d/missing")
    policy.rule("/d")
    policy.bump()
    gone(up / "d/missing")
    (s.lower / "d/missing").touch()
    with refused(errno.EAGAIN):
        cached_open(up / "d/missing")


def test_rcu_walk_over_links_and_stacks_finds_nothing_that_is_denied(s: Scene) -> None:
    """It may give up there (EAGAIN), or find what is allowed."""
    (s.lower / "d").mkdir()
    (s.lower / "d/file").touch()
    (s.lower / "link").symlink_to("d/file")
    middle, upper = s.policy(), s.policy("upper")
    up = s.mount()
    two = s.mount(up, s.home / "two", policy="upper")
    for policy, op, name, mounts in (
        (middle, "readlink", "link", (up, two)),
        (middle, "lookup", "link", (up, two)),
        (middle, "lookup", "d", (up, two)),
        (middle, "lookup", "d/file", (up, two)),
        (upper, "readlink", "link", (two,)),
        (upper, "lookup", "d", (two,)),
    ):
        for path in (mount / word for mount in mounts for word in ("link", "d/file")):
            os.stat(path)
            with contextlib.suppress(BlockingIOError):
                cached_open(path)
        policy.rule(f"/{name}", deny=bits(op))
        policy.bump()
        words = ["link"] if name == "link" else ["link", "d/file"]
        for path in [mount / word for mount in mounts for word in words] * 2:  # again with all but OP known
            with refused(errno.EAGAIN):
                cached_open(path)
            with refused():
                os.stat(path)
        policy.rule(f"/{name}")
        policy.bump()


# ---------------------------------------------------------------- ways around the name


def mapped_file(fd: int) -> str:
    """What the process has mapped, by a name of /proc; it is never unmapped."""
    address = call_pointer("mmap", None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    return f"/proc/self/map_files/{address:x}-{address + 4096:x}"


def test_a_mapped_file_is_opened_again_only_if_the_policy_allows_it(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    up = s.mount()

    def work() -> None:
        with opened(up / "file") as fd:
            path = mapped_file(fd)
        assert os.readlink(path) == str(up / "file")
        with opened(path) as fd:
            assert os.read(fd, 3) == b"con"
        policy.rule("/file", deny=bits("open"))
        policy.bump()
        with refused():
            os.open(path, os.O_RDONLY)

    start(work)()
    (record,) = policy.records()
    assert (record["op"], record["path"]) == ("open", "/file"), record


def handle_of(path: Path, flags: int = 0) -> ctypes.Array[ctypes.c_char]:
    """name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    call("syscall", 303, -100, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), flags)
    return handle


def open_by_handle(directory: Path, handle: ctypes.Array[ctypes.c_char]) -> None:
    """open_by_handle_at(2) on the mount that DIRECTORY is on."""
    with opened(directory, os.O_RDONLY) as fd:
        os.close(call("syscall", 304, fd, handle, os.O_RDONLY))


def test_no_handle_opens_a_file_of_the_mount(s: Scene) -> None:
    (s.lower / "file").touch()
    s.policy()
    up = s.mount()
    below = handle_of(s.lower / "file")
    open_by_handle(s.lower, below)
    with refused(errno.EOPNOTSUPP):
        handle_of(up / "file")
    for handle in (below, handle_of(up / "file", 0x200), handle_of(s.lower / "file", 0x200)):  # AT_HANDLE_FID
        with refused(errno.ESTALE):
            open_by_handle(up, handle)


def test_files_that_a_ring_keeps_are_judged_by_the_new_policy(s: Scene) -> None:
    for name in ("file", "other"):
        (s.lower / name).write_text("0123456789")
    policy = s.policy()
    up = s.mount()
    ring = subprocess.Popen([T / "uring", "fixed", up, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with ring:
        assert ring.stdin
        assert ring.stdout
        ops = ("read", "write", "fallocate", "fsync")
        for denied in ((), *((op,) for op in ops), ops, ()):
            policy.rule("/file", deny=bits(*denied))
            policy.bump()
            before = snapshot(s.lower)
            ring.stdin.write("\n")
            ring.stdin.flush()
            said = [ring.stdout.readline().split() for _ in ops]
            assert said == [[op, str(errno.EPERM if op in denied else 0)] for op in ops], (denied, said)
            assert denied != ops or snapshot(s.lower) == before
        ring.stdin.close()
        assert ring.wait(timeout=20) == 0
    s.umount(patience=20)  # a worker of the kernel's puts the ring's files


def test_nobody_watches_what_may_not_be_looked_up(s: Scene) -> None:
    (s.lower / "shut").mkdir()
    (s.lower / "shut/file").touch()
    policy = s.policy()
    up = s.mount()
    watches = call("inotify_init1", os.O_NONBLOCK)
    group = call("fanotify_init", 0, os.O_RDONLY)
    try:
        for denied in (False, True):
            policy.rule("/shut", deny=bits("lookup") if denied else 0)
            policy.bump()
            for path in (up / "shut", up / "shut/file"):
                for watch in (
                    lambda path=path: call("inotify_add_watch", watches, os.fsencode(path), 0xFFF),
                    lambda path=path: call("fanotify_mark", group, 1, ctypes.c_ulong(0x3B), -100, os.fsencode(path)),
                ):
                    with refused() if denied else contextlib.nullcontext():
                        watch()
    finally:
        os.close(watches)
        os.close(group)
