# SPDX-License-Identifier: Apache-2.0
"""Policies that are replaced, forgotten, detached: what counts from when on, and for whom."""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from scene import (
    ALL,
    LOADER,
    OBJECT,
    PACE,
    Policy,
    Scene,
    T,
    begin,
    bits,
    child,
    has_overlayfs,
    killed,
    opened,
    refused,
    run,
)

GETVERSION = 0x80087601


def tree(lower: Path) -> None:
    """A directory with a file."""
    (lower / "d/sub").mkdir(parents=True)
    (lower / "d/file").write_text("0123456789")


def read(path: Path) -> bytes:
    """Without the ioctl(2) of open(), which is always asked."""
    with opened(path) as fd:
        return os.read(fd, 100)


def mount_fails(s: Scene, *words: str) -> str:
    """What mount(8) says when it refuses these options."""
    done = run("mount", "-i", "-t", "boesfs", "-o", ",".join(words), s.lower, s.upper, check=False)
    assert done.returncode, f"{words} was mounted"
    return done.stderr


def soon(condition: Callable[[], bool], what: str) -> None:
    """A link that is unpinned goes away from a work queue."""
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(what)


def is_shut(path: Path) -> bool:
    """Whether a stat is denied."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    return False


def everything_is_denied(up: Path, fd: int, dir_fd: int) -> None:
    """By path and by descriptor; UP had d/file and d/sub."""
    acts: list[Callable[[], object]] = [
        lambda: os.stat(up),
        lambda: os.stat(up / "d/file"),
        lambda: os.stat(up / "d/missing"),
        lambda: os.listdir(up),
        lambda: os.listdir(dir_fd),
        lambda: os.statvfs(up),
        lambda: os.fstat(fd),
        lambda: os.pread(fd, 1, 0),
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.lseek(fd, 0, 0),
        lambda: os.fsync(fd),
        lambda: os.ftruncate(fd, 0),
        lambda: os.mkdir(up / "new"),
        lambda: os.open("file", os.O_RDONLY, dir_fd=dir_fd),
        lambda: os.open("new", os.O_RDWR | os.O_CREAT, dir_fd=dir_fd),
        lambda: os.unlink("file", dir_fd=dir_fd),
        lambda: os.rename("file", "new", src_dir_fd=dir_fd, dst_dir_fd=dir_fd),
        lambda: os.fchmod(fd, 0o777),
        lambda: mmap.mmap(fd, 10, flags=mmap.MAP_SHARED),
        lambda: fcntl.lockf(fd, fcntl.LOCK_EX),
        lambda: fcntl.ioctl(fd, GETVERSION, bytes(8)),
        lambda: os.listxattr(fd),
    ]
    for number, act in enumerate(acts):
        try:
            with refused():
                act()
        except AssertionError as error:
            raise AssertionError(f"number {number}: {error}") from None


def test_a_rule_counts_from_the_new_generation_on_also_for_open_descriptors(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    up = s.mount()
    with opened(up / "d/file", os.O_RDWR) as fd, opened(up / "d") as dir_fd:
        acts: dict[str, Callable[[], object]] = {
            "read": lambda: os.pread(fd, 1, 0),
            "write": lambda: os.pwrite(fd, b"0", 0),
            "llseek": lambda: os.lseek(fd, 0, 0),
            "iterate": lambda: os.listdir(dir_fd),
            "getattr": lambda: os.fstat(fd),
            "fsync": lambda: os.fsync(fd),
            "lookup": lambda: os.stat("sub", dir_fd=dir_fd),
            "probe": lambda: os.stat("none", dir_fd=dir_fd),
        }
        for act in acts.values():
            with contextlib.suppress(FileNotFoundError):
                act()
        policy.rule("/d", deny=bits(*acts))
        for act in acts.values():  # what is known to be allowed is so in this generation
            with contextlib.suppress(FileNotFoundError):
                act()
        policy.bump()
        for act in acts.values():
            with refused():
                act()
        policy.rule("/d")
        policy.bump()
        for act in acts.values():
            with contextlib.suppress(FileNotFoundError):
                act()


def test_a_replacement_counts_for_its_number_alone(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.rule("/d", 2, deny=bits("open"))
    for number in (1, 2):
        policy.do("replace", number, 1)
    first = s.mount(s.lower, s.home / "first", policy="test", policy_id=1)
    again = s.mount(s.lower, s.home / "again", policy="test", policy_id=1)
    second = s.mount(s.lower, s.home / "second", policy="test", policy_id=2)
    none = s.mount(s.lower, s.home / "none", policy="test")
    for up in (first, again, second, none):
        read(up / "d/file")
    policy.counters()
    policy.do("replace", 1, 2)
    for up in (second, none):
        assert read(up / "d/file") == b"0123456789"
    assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}
    for up in (first, again):
        with refused():
            (up / "d/file").read_text()
    assert policy.counters()["labels"] > 0
    policy.do("replace", 1, 1)
    for up in (first, again):
        assert (up / "d/file").read_text() == "0123456789"


def test_the_generation_grows_and_tells_of_each_replacement(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.rule("/d", 1, record=ALL, nocache=ALL)
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    seen = []
    for _ in range(4):
        os.stat(up / "d/file")
        records = policy.records()
        assert len({record["generation"] for record in records}) == 1
        seen.append(records[0]["generation"])
        policy.do("replace", 1, 1)
    assert seen == list(range(seen[0], seen[0] + 4)), seen


def test_a_forgotten_policy_closes_its_mounts_and_cannot_be_named(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    for number in (1, 2):
        policy.do("replace", number, 1)
    other = s.mount(s.lower, s.home / "other", policy="test", policy_id=2)
    up = s.mount(policy="test", policy_id=1)
    with opened(up / "d/file", os.O_RDWR) as fd, opened(up / "d") as dir_fd:
        policy.do("forget", 1)
        everything_is_denied(up, fd, dir_fd)
        assert "No such file" in run(LOADER, "forget", "test", 1, check=False).stderr
        policy.bump()  # a new generation of the program opens nothing
        everything_is_denied(up, fd, dir_fd)
        assert "the program has no such policy" in mount_fails(s, "policy=test", "policy_id=1")
    assert (s.lower / "d/file").read_text() == "0123456789"
    assert (other / "d/file").read_text() == "0123456789"
    s.umount()
    assert "the program has no such policy" in mount_fails(s, "policy=test", "policy_id=1")
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    assert (up / "d/file").read_text() == "0123456789"


def test_a_forgotten_policy_that_is_made_again_opens_the_mounts_that_were_left(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    policy.do("forget", 1)
    assert is_shut(up)
    policy.rule("/d", 2, deny=bits("open"))
    policy.do("replace", 1, 2)
    os.stat(up / "d/file")
    with refused():
        os.open(up / "d/file", os.O_RDONLY)
    policy.do("forget", 1)
    assert is_shut(up)


def test_a_policy_outlives_its_mounts_and_they_outlive_it(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    for _ in range(20):
        policy.do("replace", 5, 1)
        up = s.mount(policy="test", policy_id=5)
        os.stat(up / "d/file")
        s.umount()
        up = s.mount(policy="test", policy_id=5)
        policy.do("forget", 5)
        assert is_shut(up)
        s.umount()


def test_an_update_puts_another_program_into_all_policies(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 1, 1)
    up = s.mount()
    numbered = s.mount(s.lower, s.home / "numbered", policy="test", policy_id=1)
    with opened(up / "d/file", os.O_RDWR) as fd:
        os.statvfs(up)
        os.fstatvfs(fd)
        os.statvfs(numbered)
        policy.do("update", T / "good_closed.bpf.o")  # denies statfs with ENOSPC, and has no label()
        for act in (lambda: os.statvfs(up), lambda: os.fstatvfs(fd), lambda: os.statvfs(numbered)):
            with refused(errno.ENOSPC):
                act()
        assert os.pread(fd, 2, 0) == b"01"
    policy.counters()
    (up / "d/file").read_text()
    assert policy.counters() == {"labels": 0, "checks": 0, "mixed": 0}  # the first program is asked no more


def test_an_update_to_a_program_of_another_name_is_refused(s: Scene) -> None:
    policy = s.policy()
    other = s.policy("other")
    up = s.mount()
    done = run(LOADER, "updateto", policy.name, other.name, check=False)
    assert "Invalid argument" in done.stderr, done.stderr
    os.stat(up)


def test_detaching_closes_everything_and_attaching_again_opens_it(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 1, 1)
    up = s.mount()
    numbered = s.mount(s.lower, s.home / "numbered", policy="test", policy_id=1)
    spare = s.mount(s.lower, s.home / "spare", policy="test", policy_id=1)
    descriptors = [
        (mount, os.open(mount / "d/file", os.O_RDWR), os.open(mount / "d", os.O_RDONLY)) for mount in (up, numbered)
    ]
    policy.unload()
    soon(lambda: is_shut(up), "still open after the program was detached")
    for mount, fd, dir_fd in descriptors:
        everything_is_denied(mount, fd, dir_fd)
    assert "no such program is attached" in mount_fails(s, "policy=test")
    assert "no such program is attached" in mount_fails(s, "policy=test", "policy_id=1")
    s.umount(spare)
    run(LOADER, "load", "test", OBJECT)
    assert (up / "d/file").read_text() == "0123456789"
    assert os.pread(descriptors[0][1], 2, 0) == b"01"
    everything_is_denied(*descriptors[1])  # its table was another program's
    assert "the program has no such policy" in mount_fails(s, "policy=test", "policy_id=1")
    policy.do("replace", 1, 1)
    assert (numbered / "d/file").read_text() == "0123456789"
    assert os.pread(descriptors[1][1], 2, 0) == b"01"
    for _, fd, dir_fd in descriptors:
        os.close(fd)
        os.close(dir_fd)
    policy.unload()
    soon(lambda: is_shut(numbered), "still open after the program was detached")
    s.umount(numbered)
    s.umount(up)


def test_what_does_not_exist_cannot_be_mounted(s: Scene) -> None:
    assert "no such program is attached" in mount_fails(s, "policy=test")
    policy = s.policy()
    policy.do("replace", 1, 1)
    assert "the program has no such policy" in mount_fails(s, "policy=test", "policy_id=2")
    assert "no such program is attached" in mount_fails(s, "policy_id=1")  # that of `boesfs`
    assert "no such program is attached" in mount_fails(s, "policy=tes")
    for words in (
        ["nopolicy", "policy=test"],
        ["policy_id=0", "policy=test"],
        ["at=/"],
        ["policy=test", "policy_id=-1"],
        ["policy=test", "policy_fd=0"],
        ["policy_fd=99"],
        ["policy=test", "policy_id=4294967296"],
    ):
        mount_fails(s, *words)
    for arguments in ((0, 1), (1, 1, 2)):
        assert "Invalid argument" in run(LOADER, "replace", "test", *arguments, check=False).stderr


def test_policy_id_alone_is_of_the_program_boesfs(s: Scene) -> None:
    tree(s.lower)
    s.policy()
    policy = s.policy("boesfs")
    policy.do("replace", 1, 1)
    policy.rule("/d", 1, deny=bits("open"))
    up = s.mount(policy_id=1)
    with refused():
        (up / "d/file").read_text()
    assert "policy=boesfs,policy_id=1" in run("findmnt", "-no", "OPTIONS", up).stdout


def test_a_second_program_of_the_name_is_refused(s: Scene) -> None:
    s.policy()
    done = run(LOADER, "load", "test", OBJECT, check=False)
    assert done.returncode
    assert "attach: File exists" in done.stderr, done.stderr
    up = s.mount()
    os.stat(up)


def test_a_descriptor_names_the_policy(s: Scene) -> None:
    tree(s.lower)
    s.policy()
    policy = s.policy("other")
    policy.rule("/d", deny=bits("open"))
    policy.rule("/d/sub", 1, deny=bits("getattr"))
    policy.do("replace", 9, 1)
    for options in ("policy_fd={}", "policy_fd={},policy_id=9"):
        run(LOADER, "link", "other", "--", "mount", "-i", "-t", "boesfs", "-o", options, s.lower, s.upper)
        s.mounts.append(s.upper)
        if "id" in options:
            assert (s.upper / "d/file").read_text() == "0123456789"
            assert is_shut(s.upper / "d/sub")
        else:
            with refused():
                (s.upper / "d/file").read_text()
        assert "policy=other" in run("findmnt", "-no", "OPTIONS", s.upper).stdout
        s.umount()
    done = run(
        LOADER,
        "link",
        "other",
        "--",
        "mount",
        "-i",
        "-t",
        "boesfs",
        "-o",
        "policy_fd={},policy_id=8",
        s.lower,
        s.upper,
        check=False,
    )
    assert "the program has no such policy" in done.stderr, done.stderr
    done = run(
        LOADER,
        "link",
        "other",
        "--",
        "mount",
        "-i",
        "-t",
        "boesfs",
        "-o",
        "policy=test,policy_fd={}",
        s.lower,
        s.upper,
        check=False,
    )
    assert "exclude each other" in done.stderr, done.stderr


def test_a_verdict_under_way_is_not_kept_for_the_next_generation(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.rule("/d", 1, slow=bits("open"), slow_check=1_000_000 * PACE)
    policy.rule("/d", 2, deny=bits("open"))
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    os.stat(up / "d/file")
    pid = begin(lambda: os.close(os.open(up / "d/file", os.O_RDONLY)))
    time.sleep(0.1)
    policy.do("replace", 1, 2)
    with refused():
        os.open(up / "d/file", os.O_RDONLY)
    assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the verdict came too early for this test"
    assert os.waitpid(pid, 0)[1] == 0, "who began under the old policy ends under it"
    for _ in range(2):
        with refused():
            os.open(up / "d/file", os.O_RDONLY)
    assert policy.counters()["mixed"] == 0


def test_a_label_under_way_does_not_take_the_place_of_a_newer(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.rule("/d/file", 1, slow_label=1_000_000 * PACE)
    policy.rule("/d", 2, deny=bits("unlink"))
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    os.stat(up / "d/file")  # a name that is new would be looked up with its directory locked
    policy.bump()
    pid = begin(lambda: os.stat(up / "d/file"))
    time.sleep(0.1)
    policy.do("replace", 1, 2)
    os.stat(up / "d/file")
    policy.counters()
    assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the label came too early for this test"
    assert os.waitpid(pid, 0)[1] == 0  # its getattr goes by the new label
    assert policy.counters()["labels"] == 0, "what was known of the new generation was forgotten"


def load(up: Path, number: int, report: int) -> None:
    """What each subtree says, counted per outcome, until SIGTERM."""
    outcomes: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    turn = 0
    while going:
        turn += 1
        for top in ("a", "b"):
            here = up / top
            mine = here / f"dir{number}"
            new = here / f"n{number}-{turn % 5}"
            acts: list[Callable[[], object]] = [
                lambda here=here: os.close(os.open(here / "file", os.O_RDONLY)),
                lambda here=here: (here / "file").read_bytes(),
                lambda new=new: os.close(os.open(new, os.O_CREAT | os.O_WRONLY)),
                lambda here=here, new=new: os.rename(new, here / f"m{number}"),
                lambda here=here: os.link(here / "file", here / f"l{number}"),
                lambda here=here: os.unlink(here / f"l{number}"),
                lambda mine=mine: os.rename(mine, f"{mine}x"),
                lambda mine=mine: os.listdir(f"{mine}x"),
                lambda mine=mine: os.rename(f"{mine}x", mine),
                lambda mine=mine: os.stat(mine / "deep/er/file"),
                lambda here=here: os.unlink(here / f"m{number}"),
            ]
            for act in acts:
                try:
                    act()
                    said = "done"
                except OSError as error:
                    said = errno.errorcode[error.errno or 0]
                outcomes[top][said] = outcomes[top].get(said, 0) + 1
    os.write(report, json.dumps(outcomes).encode())


def flip_under_load(s: Scene, flips: int) -> None:
    """Table 1 closes a/ with E2BIG, table 2 closes b/ with ENOSPC; they change places under load."""
    for top in ("a", "b"):
        (s.lower / top).mkdir()
        (s.lower / top / "file").write_text("content")
        for number in range(4):
            (s.lower / top / f"dir{number}/deep/er").mkdir(parents=True)
            (s.lower / top / f"dir{number}/deep/er/file").touch()
    policy = s.policy()
    ops = bits("open", "read", "create", "rename", "link", "unlink", "iterate", "getattr")
    policy.rule("/a", 1, deny=ops, verdict=-errno.E2BIG)
    policy.rule("/b", 1)
    policy.rule("/a", 2)
    policy.rule("/b", 2, deny=ops, verdict=-errno.ENOSPC)
    policy.do("replace", 7, 1)
    up = s.mount(policy="test", policy_id=7)
    policy.counters()
    workers = []
    for number in range(4):
        reader, writer = os.pipe()
        workers.append((begin(lambda number=number, writer=writer: load(up, number, writer)), reader))
        os.close(writer)
    time.sleep(0.5)
    done = 0
    while done < flips:  # in pieces: under emulation it may be slow
        policy.do("flip", 7, 1, 2, "--", 200)
        done += 200
        time.sleep(0.05)  # some of both
        policy.do("replace", 7, 1 + done // 200 % 2)
        time.sleep(0.05)
    total: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    for pid, reader in workers:
        os.kill(pid, signal.SIGTERM)
        said = json.loads(os.read(reader, 65536))
        os.waitpid(pid, 0)
        os.close(reader)
        for top, outcomes in said.items():
            for word, number in outcomes.items():
                total[top][word] = total[top].get(word, 0) + number
    counters = policy.counters()
    assert counters["mixed"] == 0, counters
    assert counters["checks"] > 1000, counters
    natural = {"done", "ENOENT", "EEXIST"}
    assert total["a"].keys() - natural == {"E2BIG"}, total
    assert total["b"].keys() - natural == {"ENOSPC"}, total
    assert total["a"]["done"] > 20 < total["b"]["done"], total


def test_no_operation_is_judged_by_two_policies(s: Scene) -> None:
    flip_under_load(s, 2000)


def mapper(path: Path) -> tuple[subprocess.Popen[str], Callable[[], str]]:
    """A process that maps PATH and answers each line with what it finds in the mapping and by read(2)."""
    script = f"""
import mmap, os, sys
fd = os.open({str(path)!r}, os.O_RDWR)
shared = mmap.mmap(fd, 10, flags=mmap.MAP_SHARED)
private = mmap.mmap(fd, 10, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
os.lseek(fd, 0, 0)
print("mapped", flush=True)
for line in sys.stdin:
    try:
        by_read = os.pread(fd, 2, 0).decode()
    except OSError as error:
        by_read = str(error.errno)
    print(shared[:2].decode(), private[:2].decode(), by_read, flush=True)
"""
    process = subprocess.Popen(["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "mapped\n"

    def ask() -> str:
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        ready = select.select([process.stdout], [], [], 20)[0]
        return process.stdout.readline().strip() if ready else "no answer"

    return process, ask


def shut(policy: Policy, table: int) -> None:
    """A table by which nothing is allowed."""
    policy.do("rule", table << 20, f"deny={ALL}")


def test_mappings_survive_a_replacement_without_the_flag(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 1, 1)
    shut(policy, 2)
    up = s.mount(policy="test", policy_id=1)
    process, ask = mapper(up / "d/file")
    try:
        assert ask() == "01 01 01"
        policy.do("replace", 1, 2)
        assert ask() == "01 01 1"
        with opened(s.lower / "d/file", os.O_RDWR) as fd:
            os.pwrite(fd, b"ab", 0)
        assert ask() == "ab ab 1"
    finally:
        process.kill()
        process.communicate()


def test_the_flag_kills_who_has_mapped_files_and_nobody_else(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    for number in (1, 2):
        policy.do("replace", number, 1)
    shut(policy, 2)
    up = s.mount(policy="test", policy_id=1)
    again = s.mount(s.lower, s.home / "again", policy="test", policy_id=1)
    other = s.mount(s.lower, s.home / "other", policy="test", policy_id=2)
    mappers = [mapper(mount / "d/file") for mount in (up, again, other, s.lower)]
    idle = subprocess.Popen(
        ["sh", "-c", f"exec 3<{up}/d/file; cd {up}/d; echo open; exec sleep 100"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert idle.stdout
        assert idle.stdout.readline() == "open\n"
        policy.do("replace", 1, 2, 1)
        for process, _ in mappers[:2]:
            assert process.wait(timeout=20) == -signal.SIGKILL
        for _, ask in mappers[2:]:
            assert ask() == "01 01 01"
        assert idle.poll() is None
        policy.do("replace", 2, 1, 1)  # the table does not matter
        assert mappers[2][0].wait(timeout=20) == -signal.SIGKILL
        assert mappers[3][1]() == "01 01 01"
    finally:
        for process in [idle, *[process for process, _ in mappers]]:
            process.kill()
            process.communicate()


def test_the_flag_kills_who_has_mapped_files_through_a_stack(s: Scene) -> None:
    """A mapping's file is the lowest one of all, whether overlayfs is below the mount or above, or another boesfs."""
    tree(s.lower)
    has_overlayfs()
    policy = s.policy()
    for number in (1, 2):
        policy.do("replace", number, 1)
    words = f"lowerdir={s.lower},upperdir={s.home}/up,workdir={s.home}/work"
    for name in ("up", "work", "overlay", "above", "up2", "work2"):
        (s.home / name).mkdir()
    run("mount", "-t", "overlay", "ov", "-o", words, s.home / "overlay")
    s.mounts.append(s.home / "overlay")
    on_overlay = s.mount(s.home / "overlay", s.home / "on-overlay", policy="test", policy_id=1)
    first = s.mount(s.lower, s.home / "first", policy="test", policy_id=2)
    second = s.mount(first, s.home / "second", policy="test", policy_id=1)
    run(
        "mount",
        "-t",
        "overlay",
        "ov",
        "-o",
        f"lowerdir={first},upperdir={s.home}/up2,workdir={s.home}/work2",
        s.home / "above",
    )
    s.mounts.append(s.home / "above")
    for number, path, wanted in (
        (1, on_overlay, True),
        (1, second, True),
        (2, second, True),
        (2, on_overlay, False),
        (1, first, False),
        (1, s.home / "overlay", False),
        (2, s.home / "above", True),
    ):
        # of overlayfs a lower file is mapped, and not what it has copied up
        process, ask = mapper(path / "d/file") if path != s.home / "above" else reader_mapper(path / "d/file")
        try:
            policy.do("replace", number, 1, 1)
            if wanted:
                try:
                    assert process.wait(timeout=10) == -signal.SIGKILL
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"policy {number}: who has mapped {path} lives") from None
            else:
                assert ask().startswith("01 01"), f"policy {number} killed who has mapped {path}"
        finally:
            process.kill()
            process.communicate()


def reader_mapper(path: Path) -> tuple[subprocess.Popen[str], Callable[[], str]]:
    """As mapper(), of a file that is opened for reading."""
    script = f"""
import mmap, os, sys
fd = os.open({str(path)!r}, os.O_RDONLY)
shared = mmap.mmap(fd, 10, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
print("mapped", flush=True)
sys.stdin.readline()
"""
    process = subprocess.Popen(["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "mapped\n"
    return process, lambda: "01 01"


def test_replacements_that_kill_come_to_an_end_while_everyone_forks(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)

    def map_once() -> None:
        with contextlib.suppress(OSError), opened(up / "d/file") as fd:
            mmap.mmap(fd, 10, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            time.sleep(0.01)

    def storm() -> None:  # has nothing mapped itself
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            begin(map_once)
            time.sleep(0.001)

    storms = [begin(storm) for _ in range(3)]
    try:
        for _ in range(100):
            begun = time.monotonic()
            policy.do("replace", 1, 1, 1)
            assert time.monotonic() - begun < 10 * PACE
        for pid in storms:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "killed without a mapping"
    finally:
        for pid in storms:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        time.sleep(1)  # for their children, who unmount nothing by themselves


def test_mounts_come_and_go_while_their_policy_does(s: Scene) -> None:
    tree(s.lower)
    policy = s.policy()
    policy.do("replace", 3, 1)
    end = time.monotonic() + 8 * PACE

    def come_and_go() -> None:
        counted = {"mounted": 0, "refused": 0}
        target = s.home / f"m{os.getpid()}"
        target.mkdir()
        while time.monotonic() < end:
            done = run("mount", "-i", "-t", "boesfs", "-o", "policy=test,policy_id=3", s.lower, target, check=False)
            if done.returncode:
                counted["refused"] += 1
                run("umount", target, check=False)
                continue
            counted["mounted"] += 1
            with contextlib.suppress(PermissionError):
                os.stat(target / "d/file")
            run("umount", target)
        assert counted["mounted"], counted
        assert counted["refused"], counted

    pids = [begin(come_and_go) for _ in range(2)]
    while time.monotonic() < end:
        policy.do("forget", 3)
        time.sleep(0.02)
        policy.do("replace", 3, 1)
        time.sleep(0.1)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    up = s.mount(policy="test", policy_id=3)
    assert (up / "d/file").read_text() == "0123456789"


def test_the_module_stays_as_long_as_a_program_is_attached(s: Scene) -> None:
    s.policy()
    assert run("rmmod", "boesfs", check=False).returncode
    s.mount()
    assert run("rmmod", "boesfs", check=False).returncode
    s.umount()
    assert Path("/sys/module/boesfs").exists()


def test_the_flag_ends_the_pid_namespace_of_who_has_mapped_a_file(s: Scene) -> None:
    (s.lower / "bin").mkdir()
    run("cp", "/usr/bin/sleep", s.lower / "bin/sleep")
    policy = s.policy()
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    command = ["unshare", "--pid", "--fork", "sh", "-c", f"{up}/bin/sleep 101 & echo ready; sleep 102; echo survived"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as namespace:
        assert namespace.stdout
        assert namespace.stdout.readline() == "ready\n"
        time.sleep(0.3)
        begun = time.monotonic()
        policy.do("replace", 1, 1, 1)
        assert namespace.stdout.read() == ""
        namespace.wait(timeout=20)
        assert time.monotonic() - begun < 20
    assert not run("pgrep", "-f", "sleep 10[12]$", check=False).stdout


def test_a_kill_with_a_replacement_at_the_same_time_ends_the_right_ones(s: Scene) -> None:
    """A rule with kill in the new table gets who comes by read(2), and leaves who does not come alone."""
    tree(s.lower)
    policy = s.policy()
    policy.rule("/d", 2, deny=bits("read"), kill=bits("read"))
    policy.do("replace", 1, 1)
    up = s.mount(policy="test", policy_id=1)
    with opened(up / "d/file") as fd:
        assert child(lambda: os.pread(fd, 1, 0)) == 0
        policy.do("replace", 1, 2)
        assert killed(child(lambda: os.pread(fd, 1, 0)))
        assert child(lambda: os.fstat(fd)) == 0
