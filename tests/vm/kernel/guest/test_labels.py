# SPDX-License-Identifier: Apache-2.0
"""Which label a name has, and that the label of the new one counts when names move."""

import contextlib
import errno
import os
import time
from pathlib import Path

from asking import NAMES, call, gone, rename2
from scene import ALL, PACE, Scene, T, begin, bits, meanwhile, opened, refused, run

# ---------------------------------------------------------------- labels


def test_a_rule_holds_for_the_whole_subtree_and_not_beside_it(s: Scene) -> None:
    for name in ("a/b/c", "a/bb", "ab"):
        (s.lower / name).mkdir(parents=True)
        (s.lower / name / "file").write_text(name)
    policy = s.policy()
    policy.rule("/a/b", deny=bits("open"))
    up = s.mount()
    with refused():
        os.open(up / "a/b/c/file", os.O_RDONLY)
    with refused():
        os.open(up / "a/b", os.O_RDONLY)
    for name in ("a/bb", "ab"):
        assert (up / name / "file").read_text() == name
    policy.rule("/a/b/c")  # an exception inside it
    policy.bump()
    assert (up / "a/b/c/file").read_text() == "a/b/c"
    with refused():
        os.open(up / "a/b", os.O_RDONLY)


def test_names_of_any_length_and_content_have_labels(s: Scene) -> None:
    policy = s.policy()
    for name in NAMES:
        (s.lower / name).touch()
        policy.rule(f"/{name}", deny=bits("open"))
    up = s.mount()
    for name in NAMES:
        with refused():
            os.open(up / name, os.O_RDONLY)
        shorter = name[:-1] + "m"  # the last piece alone decides
        assert shorter not in NAMES
        (s.lower / shorter).touch()
        os.close(os.open(up / shorter, os.O_RDONLY))
    os.rename(s.lower / ("n" * 255), s.lower / ("n" * 58 + "m" * 197))
    os.close(os.open(up / ("n" * 58 + "m" * 197), os.O_RDONLY))
    paths = [record["path"] for record in policy.records()]
    assert f"/{NAMES[-5]}" in paths, paths
    assert f"/{NAMES[5]}" in paths, paths


def test_at_gives_the_root_its_label_and_paths_their_beginning(s: Scene) -> None:
    (s.lower / "c").mkdir()
    (s.lower / "c/file").touch()
    policy = s.policy()
    label = policy.rule("/a/b", deny=bits("statfs"), record=ALL, nocache=ALL)
    other = policy.rule("/z", deny=bits("fsync"), record=ALL, nocache=ALL)
    first = s.mount(s.lower, s.home / "first", policy="test", at="/a/b", instance=7)
    second = s.mount(s.lower, s.home / "second", policy="test", at="/z", instance=7)
    third = s.mount(s.lower, s.home / "third", policy="test")
    for path in (first, first / "c/file"):
        with refused():
            os.statvfs(path)
    denied = [(r["path"], r["label"], r["instance"]) for r in policy.records() if r["verdict"]]
    assert denied == [("/a/b", label, 7), ("/a/b/c/file", label, 7)], denied
    os.statvfs(second / "c/file")
    paths = {(r["path"], r["label"]) for r in policy.records()}
    assert paths == {("/z/c", other), ("/z/c/file", other)}, paths
    with opened(second / "c") as fd, refused():
        os.fsync(fd)
    os.statvfs(third / "c/file")
    assert not any(r["path"].startswith("/c") for r in policy.records())


def test_instance_and_policy_id_are_told(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.do("replace", 4711, 3)
    policy.rule("/", 3, record=ALL, nocache=ALL)
    up = s.mount(policy="test", policy_id=4711, instance=2**64 - 1)
    os.stat(up / "file")
    records = policy.records()
    assert records
    for record in records:
        assert (record["policy_id"], record["instance"], record["table"]) == (4711, 2**64 - 1, 3), record
        assert record["pid"] == os.getpid()
        assert record["label"] == 3 << 20
    options = run("findmnt", "-no", "OPTIONS", up).stdout
    assert f"policy=test,policy_id=4711,at=/,instance={2**64 - 1}" in options, options


def test_the_mounts_of_one_sandbox_change_tables_together(s: Scene) -> None:
    (s.lower / "file").write_text("content")
    policy = s.policy()
    policy.rule("/file", 1, record=bits("open"))
    policy.rule("/file", 2, deny=bits("read"))
    policy.do("replace", 7, 1)
    mounts = [s.mount(s.lower, s.home / name, policy="test", policy_id=7, instance=9) for name in ("one", "two")]
    with opened(mounts[0] / "file") as first, opened(mounts[1] / "file") as second:
        opens = [(record["instance"], record["generation"]) for record in policy.records()]
        assert opens == [(9, opens[0][1])] * 2, opens
        for fd in (first, second):
            assert os.pread(fd, 3, 0) == b"con"
        policy.do("replace", 7, 2)
        for fd in (first, second):
            with refused():
                os.pread(fd, 3, 0)
        reads = [(record["instance"], record["table"], record["generation"]) for record in policy.records()]
        assert reads == [(9, 2, opens[0][1] + 1)] * 2, reads


def test_a_program_counts_what_an_instance_does_through_all_of_its_mounts(s: Scene) -> None:
    (s.lower / "file").touch()
    policy = s.policy()
    policy.do("update", T / "good_quota.bpf.o")
    policy.do("replace", 7, 3)
    first, second, other = (
        s.mount(s.lower, s.home / name, policy="test", policy_id=7, instance=instance)
        for name, instance in (("one", 9), ("two", 9), ("other", 10))
    )

    def opens(*mounts: Path) -> None:
        for mount in mounts:
            os.close(os.open(mount / "file", os.O_RDONLY))

    def has_had_enough(*mounts: Path) -> None:
        for mount in mounts:
            with refused(errno.EDQUOT):
                os.open(mount / "file", os.O_RDONLY)

    opens(first, second, first)
    has_had_enough(first, second)
    opens(other, other, other)
    has_had_enough(other)
    policy.do("replace", 7, 7)  # more for all: by now 5 and 4 were tried
    opens(second, first)
    has_had_enough(first, second)
    opens(other, other, other)
    has_had_enough(other)


def test_a_name_without_a_label_is_closed_and_all_below_it(s: Scene) -> None:
    (s.lower / "closed/deep/er").mkdir(parents=True)
    (s.lower / "closed/deep/er/file").touch()
    policy = s.policy()
    policy.do("name", 0, "closed", 0x7FFFFFFF)
    policy.do("name", 0, "at", 0x7FFFFFFF)
    up = s.mount()
    for name in ("closed", "closed/deep", "closed/deep/er/file", "closed/missing"):
        with refused():
            os.stat(up / name)
    with refused():
        (up / "closed").rename(up / "open")
    with refused():
        os.mkdir(up / "at")
    (up / "dir").mkdir()
    with refused():
        (up / "dir").rename(up / "at")
    (s.lower / "at").mkdir()
    with refused():
        (up / "at").rmdir()
    assert sorted(os.listdir(up)) == ["at", "closed", "dir"]
    closed = s.home / "closed"
    closed.mkdir()
    call("mount", bytes(s.lower), bytes(closed), b"boesfs", 0, b"policy=test,at=/at/some/where")
    s.mounts.append(closed)  # mount(8) itself gives up when it cannot look at what it mounts
    for act in (lambda: os.stat(closed), lambda: os.stat(closed / "dir"), lambda: os.statvfs(closed)):
        with refused():
            act()


def test_a_directory_three_hundred_deep_has_its_label(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/top", deny=bits("create"))
    up = s.mount()
    here = os.open(up, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(300):
        name = "top" if not level else "level"
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    with refused():
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    policy.bump()
    policy.counters()
    with refused():
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)  # all labels anew, from the root down
    assert policy.counters()["labels"] >= 300
    (up / "top").rename(up / "other")
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


# ---------------------------------------------------------------- names that move


def test_the_new_name_of_a_file_counts_at_once_by_path_and_by_descriptor(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/file").write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read", "getattr"))
    up = s.mount()
    with opened(up / "open/file") as fd:
        assert os.read(fd, 2) == b"co"
        os.stat(up / "open/file")
        for _ in range(3):
            (up / "open/file").rename(up / "shut/file")
            for act in (
                lambda: os.pread(fd, 1, 0),
                lambda: os.fstat(fd),
                lambda: os.stat(up / "shut/file"),
                lambda: os.open(up / "shut/file", os.O_RDONLY),
            ):
                with refused():
                    act()
            gone(up / "open/file")
            (up / "shut/file").rename(up / "open/file")
            assert os.pread(fd, 2, 0) == b"co"
            assert (up / "open/file").read_text() == "content"
            gone(up / "shut/file")


def test_the_new_name_of_a_directory_counts_for_all_below_it(s: Scene) -> None:
    (s.lower / "open/dir/sub/deep").mkdir(parents=True)
    (s.lower / "shut").mkdir()
    (s.lower / "open/dir/sub/deep/file").write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read", "iterate", "llseek", "getattr"))
    up = s.mount()
    inside = "dir/sub/deep/file"
    with opened(up / "open" / inside) as fd, opened(up / "open/dir/sub") as dir_fd:
        for _ in range(3):
            assert os.pread(fd, 2, 0) == b"co"
            os.stat(up / "open" / inside)
            assert os.listdir(dir_fd) == ["deep"]
            (up / "open/dir").rename(up / "shut/dir")
            for act in (
                lambda: os.pread(fd, 1, 0),
                lambda: os.lseek(fd, 0, 0),
                lambda: os.fstat(fd),
                lambda: os.listdir(dir_fd),
                lambda: os.stat(up / "shut" / inside),
                lambda: os.stat("deep/file", dir_fd=dir_fd),
                lambda: os.open("deep/file", os.O_RDONLY, dir_fd=dir_fd),
            ):
                with refused():
                    act()
            (up / "shut/dir").rename(up / "open/dir")


def test_an_exchange_swaps_labels(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name / "dir").mkdir(parents=True)
        (s.lower / name / "file").write_text(name)
        (s.lower / name / "dir/inner").write_text(name)
    policy = s.policy()
    policy.rule("/shut", deny=bits("read"))
    up = s.mount()
    for what, inner in (("file", ""), ("dir", "inner")):
        with opened(up / "open" / what / inner) as first, opened(up / "shut" / what / inner) as second:
            for _ in range(2):
                assert os.pread(first, 4, 0) == b"open"
                with refused():
                    os.pread(second, 4, 0)
                rename2(up, f"open/{what}", f"shut/{what}", 2)
                assert os.pread(second, 4, 0) == b"shut"
                with refused():
                    os.pread(first, 4, 0)
                assert (up / "open" / what / inner).read_text() == "shut"
                with refused():
                    (up / "shut" / what / inner).read_text()
                rename2(up, f"open/{what}", f"shut/{what}", 2)


def test_an_overwritten_file_keeps_its_label_for_who_has_it_open(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
    policy = s.policy()
    policy.rule("/shut", deny=bits("read"))
    up = s.mount()
    with opened(up / "open/file") as first, opened(up / "shut/file") as second:
        (up / "open/file").rename(up / "shut/file")
        for fd in (first, second):
            with refused():
                os.pread(fd, 4, 0)


def test_a_rename_behind_the_mount_is_seen_at_the_next_walk(s: Scene) -> None:
    (s.lower / "open/dir/sub").mkdir(parents=True)
    (s.lower / "shut").mkdir()
    for name in ("open/file", "open/dir/sub/file"):
        (s.lower / name).write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for _ in range(3):
        for name in ("file", "dir/sub/file"):
            top = name.split("/", maxsplit=1)[0]
            with opened(up / "open" / name):
                gone(up / "shut" / name)
                (s.lower / "open" / top).rename(s.lower / "shut" / top)
                gone(up / "open" / name)
                with refused():
                    os.open(up / "shut" / name, os.O_RDONLY)
                (s.lower / "shut" / top).rename(s.lower / "open" / top)
                gone(up / "shut" / name)
                assert (up / "open" / name).read_text() == "content"


def test_negative_names_are_forgotten_when_something_appears_below(s: Scene) -> None:
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for name in ("open", "shut"):
        gone(up / name)
        (s.lower / name).write_text(name)
    assert (up / "open").read_text() == "open"
    with refused():
        (up / "shut").read_text()
    (s.lower / "open").unlink()
    gone(up / "open")
    (s.lower / "open").mkdir()
    assert os.listdir(up / "open") == []
    (s.lower / "open").rmdir()
    (s.lower / "open").symlink_to("shut")
    with refused():
        (up / "open").read_text()


def test_a_file_that_is_removed_is_judged_by_the_name_it_had(s: Scene) -> None:
    (s.lower / "d").mkdir()
    (s.lower / "d/file").write_text("content")
    policy = s.policy()
    up = s.mount()
    with opened(up / "d/file", os.O_RDWR) as fd:
        (up / "d/file").unlink()
        assert os.pread(fd, 3, 0) == b"con"
        policy.rule("/d/file", deny=bits("read"))
        policy.bump()
        with refused():
            os.pread(fd, 3, 0)
        (up / "d").rename(up / "e")
        assert os.pread(fd, 3, 0) == b"con"


def test_a_hard_link_is_judged_by_the_name_that_is_used(s: Scene) -> None:
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/file").write_text("content")
    os.link(s.lower / "open/file", s.lower / "shut/file")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open", "read"))
    up = s.mount()
    for _ in range(3):
        with opened(up / "open/file") as fd:
            with refused():
                os.open(up / "shut/file", os.O_RDONLY)
            assert os.pread(fd, 7, 0) == b"content"
            with refused():
                os.open(up / "shut/file", os.O_RDONLY)
    (up / "open/file").unlink()
    with refused():
        os.open(up / "shut/file", os.O_RDONLY)


def racing(s: Scene, seconds: float, *, directory: bool, behind: Path | None = None) -> None:
    """A file or its directory goes to and fro between open/ and shut/ while others open it by both names.

    After each rename to shut/ has returned, the mover itself and a helper that it tells try to open and have to fail.
    """
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    inner = "x/file" if directory else "x"
    if directory:
        (s.lower / "open/x").mkdir()
    (s.lower / "open" / inner).write_text("content")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()

    def read() -> None:
        for name in ("shut", "open"):
            with contextlib.suppress(OSError):
                os.close(os.open(up / name / inner, os.O_RDONLY))

    moves, seen = 0, 0
    where = behind or up
    end = time.monotonic() + seconds
    with meanwhile(3, read):
        while time.monotonic() < end or moves < 50 // PACE:
            (where / "open/x").rename(where / "shut/x")
            for _ in range(4):
                with contextlib.suppress(PermissionError):
                    os.close(os.open(up / "shut" / inner, os.O_RDONLY))
                    seen += 1
            (where / "shut/x").rename(where / "open/x")
            os.close(os.open(up / "open" / inner, os.O_RDONLY))
            moves += 1
    assert not seen, f"{seen} times opened by a name that is denied, in {moves} moves"


def test_a_file_that_moves_to_and_fro_is_never_opened_by_its_denied_name(s: Scene) -> None:
    racing(s, 12, directory=False)


def test_a_directory_that_moves_to_and_fro_is_never_walked_by_its_denied_name(s: Scene) -> None:
    racing(s, 8, directory=True)


def test_a_file_that_moves_behind_the_mount_is_never_opened_by_its_denied_name(s: Scene) -> None:
    racing(s, 6, directory=False, behind=s.lower)


def test_a_verdict_on_a_name_that_moved_meanwhile_is_not_kept(s: Scene) -> None:
    """check() takes its time; the file is renamed and judged by its new name before that on the old one is in."""
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
    (s.lower / "open/dir").mkdir()
    (s.lower / "open/dir/inner").touch()
    policy = s.policy()
    policy.rule("/open", slow=bits("open"), slow_check=1_000_000 * PACE)
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for flags, what, inner in ((0, "file", ""), (2, "file", ""), (0, "dir", "inner")):
        os.stat(up / "open" / what / inner)
        pid = begin(lambda what=what, inner=inner: os.open(up / "open" / what / inner, os.O_RDONLY))
        time.sleep(0.1)
        rename2(up, f"open/{what}", f"shut/{what}", flags)
        with refused():
            os.open(up / "shut" / what / inner, os.O_RDONLY)
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the verdict came too early for this test"
        os.waitpid(pid, 0)
        for _ in range(2):
            with refused():
                os.open(up / "shut" / what / inner, os.O_RDONLY)
        if not flags and not inner:
            (up / "shut/file").rename(up / "open/file")
            (s.lower / "shut/file").write_text("shut")


def test_a_label_of_a_name_that_moved_meanwhile_is_not_kept(s: Scene) -> None:
    for name in ("open/dir", "shut"):
        (s.lower / name).mkdir(parents=True)
    (s.lower / "open/file").touch()
    (s.lower / "open/dir/inner").touch()
    policy = s.policy()
    policy.rule("/open/file", slow_label=1_000_000 * PACE)
    policy.rule("/open/dir", slow_label=1_000_000 * PACE)
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for what, inner in (("file", ""), ("dir", "inner")):
        os.stat(up / "open" / what / inner)
        os.stat(up / "shut")
        policy.bump()
        pid = begin(lambda what=what, inner=inner: os.open(up / "open" / what / inner, os.O_RDONLY))
        time.sleep(0.1)
        call("renameat", -100, os.fsencode(s.lower / "open" / what), -100, os.fsencode(s.lower / "shut" / what))
        with refused():
            os.open(up / "shut" / what / inner, os.O_RDONLY)
        os.waitpid(pid, 0)
        for _ in range(2):
            with refused():
                os.open(up / "shut" / what / inner, os.O_RDONLY)


def test_a_label_of_a_file_that_was_renamed_meanwhile_is_not_kept(s: Scene) -> None:
    """label() takes its time; the file is renamed on the mount before its answer for the old name is in."""
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
    (s.lower / "open/file").touch()
    policy = s.policy()
    policy.rule("/open/file", slow_label=1_000_000 * PACE)
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    os.stat(up / "shut")
    os.stat(up / "open/file")  # a name that is new would be looked up with its directory locked
    policy.bump()
    pid = begin(lambda: os.open(up / "open/file", os.O_RDONLY))
    time.sleep(0.1)
    policy.rule("/open/file", slow_label=0)  # who renames it does not wait
    (up / "open/file").rename(up / "shut/file")
    assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the label came too early for this test"
    os.waitpid(pid, 0)
    for _ in range(2):
        with refused():
            os.open(up / "shut/file", os.O_RDONLY)


def test_a_file_that_left_a_directory_meanwhile_has_no_label_of_it(s: Scene) -> None:
    """label() takes its time for the directory of an open file; the file has another when the answer is in."""
    (s.lower / "open/dir").mkdir(parents=True)
    (s.lower / "shut").mkdir()
    (s.lower / "open/dir/file").write_text("content")
    policy = s.policy()
    policy.rule("/open/dir", slow_label=1_000_000 * PACE)
    policy.rule("/shut", deny=bits("read"))
    up = s.mount()
    os.stat(up / "shut")
    with opened(up / "open/dir/file", os.O_RDONLY) as fd:
        policy.bump()
        pid = begin(lambda: os.read(fd, 10))
        time.sleep(0.1)
        policy.rule("/open/dir", slow_label=0)  # who renames does not wait
        (up / "open/dir/file").rename(up / "shut/file")
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the label came too early for this test"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "it was read by the old name"
        for _ in range(2):
            with refused():
                os.read(fd, 10)


def test_names_that_are_exchanged_all_the_time_never_lead_to_what_is_denied(s: Scene) -> None:
    """Links to an open and to a shut place, and a directory with a link to the shut one, change places."""
    for name in ("open", "shut"):
        (s.lower / name).mkdir()
        (s.lower / name / "file").write_text(name)
        (s.lower / f"to-{name}").symlink_to(name)
    (s.lower / "dir").mkdir()
    (s.lower / "dir/file").write_text("dir")
    (s.lower / "link").symlink_to("shut")
    policy = s.policy()
    policy.rule("/shut", deny=bits("open"))
    up = s.mount()
    for where in (up, s.lower):
        found: dict[bytes, int] = {}
        end = time.monotonic() + 5 * PACE
        with (
            meanwhile(1, lambda where=where: rename2(where, "to-open", "to-shut", 2)),
            meanwhile(1, lambda where=where: rename2(where, "dir", "link", 2)),
        ):
            while time.monotonic() < end:
                for name in ("to-open", "to-shut", "dir", "link"):
                    try:
                        with opened(up / name / "file") as fd:
                            said = os.read(fd, 9)
                    except OSError as error:
                        said = errno.errorcode[error.errno or 0].encode()
                    found[said] = found.get(said, 0) + 1
        assert {b"open", b"dir", b"EPERM"} <= found.keys() <= {b"open", b"dir", b"EPERM", b"ESTALE"}, (where, found)
