# SPDX-License-Identifier: Apache-2.0
"""The module works at all."""

import errno
import os
import shutil

from scene import BY_CHECK, BY_LABEL, OPS, Scene, bits, child, refused, run


def test_a_file_is_read_written_and_removed_through_the_mount(s: Scene) -> None:
    (s.lower / "f").write_text("hello")
    s.policy()
    up = s.mount()
    assert (up / "f").read_text() == "hello"
    (up / "g").write_text("new")
    assert (s.lower / "g").read_text() == "new"
    (up / "g").unlink()
    assert not (s.lower / "g").exists()
    (up / "d").mkdir()
    (up / "d").rmdir()
    assert sorted(p.name for p in up.iterdir()) == ["f"]


def test_what_a_rule_denies_is_denied_and_the_rest_goes_on(s: Scene) -> None:
    (s.lower / "secret").mkdir()
    (s.lower / "secret/key").write_text("k")
    (s.lower / "open").write_text("o")
    policy = s.policy()
    policy.rule("/secret", deny=bits("open"))
    up = s.mount()
    with refused(errno.EPERM):
        (up / "secret/key").read_text()
    assert (up / "open").read_text() == "o"
    (record,) = policy.records()
    assert (record["op"], record["path"], record["verdict"]) == ("open", "/secret/key", -errno.EPERM)
    assert OPS["open"] == 5


def test_what_is_allowed_in_advance_is_not_asked_for_again(s: Scene) -> None:
    (s.lower / "f").write_text("hello")
    policy = s.policy(advance=BY_CHECK)
    policy.rule("/f", deny=bits("unlink"))
    up = s.mount()
    (up / "f").stat()
    policy.counters()
    (up / "f").read_text()
    (up / "f").chmod(0o600)  # would be asked each time if it was not allowed in advance
    (up / "f").chmod(0o640)
    assert policy.counters()["checks"] == 0
    for _ in range(2):
        with refused(errno.EPERM):
            (up / "f").unlink()
    assert policy.ops() == ["unlink", "unlink"]
    policy.counters()
    (up / "f").rename(up / "g")  # two objects: asked, in advance or not
    assert policy.counters()["checks"] == 1


def test_what_a_label_allows_is_not_asked_for(s: Scene) -> None:
    files = [s.lower / "dir/open", s.lower / "dir/closed"]
    files[0].parent.mkdir()
    for file in files:
        file.write_text("hello")
    policy = s.policy(advance=BY_LABEL)
    policy.rule("/dir/closed", deny=bits("read"))
    up = s.mount()
    up.stat()  # the root of the sandbox has no name to be judged by
    policy.counters()
    assert (up / "dir/open").read_text() == "hello"
    (up / "dir/open").chmod(0o600)
    (up / "dir/made").write_text("new")
    assert policy.counters() == {"labels": 3, "checks": 0, "mixed": 0}
    with refused(errno.EPERM):
        (up / "dir/closed").read_text()
    assert policy.counters()["checks"] == 1
    (up / "dir/open").rename(up / "dir/renamed")  # two objects
    os.link(up / "dir/renamed", up / "dir/linked")
    assert policy.counters()["checks"] == 2
    policy.rule("/dir/linked", deny=bits("read"))
    policy.bump()
    with refused(errno.EPERM):
        (up / "dir/linked").read_text()
    assert (up / "dir/renamed").read_text() == "hello"


def test_what_a_label_allows_is_asked_for_by_a_program_that_keeps_nothing(s: Scene) -> None:
    (s.lower / "f").write_text("hello")
    policy = s.policy(flags=0, advance=BY_LABEL)
    up = s.mount()
    (up / "f").stat()
    policy.counters()
    (up / "f").stat()
    assert policy.counters()["checks"] >= 2  # lookup and getattr


def test_set_id_bits_go_by_who_writes_and_not_by_who_opened(s: Scene) -> None:
    s.policy()
    up = s.mount()
    for place in (s.lower, up):
        file = place / f"suid-{place.name}"
        file.write_text("x")
        file.chmod(0o6755)
        descriptor = os.open(file, os.O_WRONLY)  # by root

        def write_as_a_user(descriptor: int = descriptor) -> None:
            os.setgid(1000)
            os.setuid(1000)
            os.write(descriptor, b"y")

        assert child(write_as_a_user) == 0
        os.close(descriptor)
        assert file.stat().st_mode & 0o6000 == 0, place


def test_a_program_is_run_though_its_attributes_may_not_be_read(s: Scene) -> None:
    shutil.copy2("/bin/true", s.lower / "true")
    policy = s.policy()
    policy.rule("/true", deny=bits("getxattr"), kill=bits("getxattr"))
    up = s.mount()
    run(up / "true")
    (up / "true").chmod(0o755)
    os.chown(up / "true", 0, 0)
    policy.rule("/true", deny=bits("getxattr"))
    policy.bump()
    os.setxattr(s.lower / "true", "user.a", b"1")
    with refused(errno.EPERM):
        os.getxattr(up / "true", "user.a")
