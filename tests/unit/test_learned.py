# SPDX-License-Identifier: Apache-2.0
"""What is learned allows what was seen, says where it allows more, and what that is follows from what was seen."""

import random
from pathlib import PurePosixPath

import pytest

from boesfsd.model import PolicyBlock
from boesfsd.policy import learned, operations, oracle
from boesfsd.policy.rules import Policy
from boesfsd.policy.sources import Sandbox, compile_sources
from boesfsd.policy.table import Request

ROOTS = {"CODE": "/function", "TMP": "/tmp", "HOME": "/tmp"}
READ = operations.mask(("lookup", "open", "getattr", "read", "llseek"))
MAKE = operations.mask(("lookup", "probe", "create", "open", "write"))
NAMES = (
    *("a", "b", "lib", "tmpab12cd3_", "x*y", "back\\slash", "${CODE}", "${", 'quo"te', "sp ace", "#", "é", "\udcff"),
    *("\x7f12345", "a${X}1234", "*" * 130, "\x9b12345", "#37", "lockfile", "a" * 255),
    *("new\nline", "12345", "deadbee1", "part-1.txt", "part-2.txt", "part-3.txt", "f", ".hidden", "\U0001d4b3", "\x07"),
)


def at(paths: dict[str, int]) -> dict[tuple[bytes, ...], int]:
    """The same, as the kernel tells of them."""
    return {tuple(name.encode() for name in PurePosixPath(path).parts[1:]): mask for path, mask in paths.items()}


def rules(paths: dict[str, int], *, exact: bool = False) -> list[str]:
    """Places with what is allowed there, and why."""
    lines = []
    for one in learned.learn(at(paths), ROOTS, exact=exact, kept={}):
        why = f" # {one.why}" if one.why else ""
        lines.append(f"{' '.join(learned.words(one.operations))} {learned.spelled(one.place, ROOTS)}{why}")
    return sorted(lines)


def policy_of(text: str) -> Policy:
    """The policy of a block."""
    return compile_sources(None, PolicyBlock("learned", text), Sandbox(ROOTS)).policy


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_what_was_seen_is_allowed_whatever_it_was(seed: int, *, exact: bool) -> None:
    rng = random.Random(seed)
    paths: dict[tuple[bytes, ...], int] = {}
    for _ in range(rng.randrange(60)):
        top = rng.choice(((), ("tmp",), ("function",), ("usr", "lib")))
        names = (*top, *rng.choices(NAMES, k=rng.randrange(4)))
        path = tuple(name.encode("utf-8", "surrogateescape") for name in names)
        paths[path] = paths.get(path, 0) | operations.mask(rng.choices(list(operations.TABLE), k=3))
    policy = policy_of(learned.text(learned.learn(paths, ROOTS, exact=exact, kept={}), ROOTS, kill=3, exact=exact))
    assert (policy.default, policy.kill) == (0, 3)
    for path, mask in paths.items():
        for name in operations.names(mask):
            assert oracle.decide(policy, Request(name, path))[0], (name, path)


def test_exactly_what_was_seen_is_allowed() -> None:
    paths = at({"/usr/a": READ, "/usr/lib/b": operations.mask(("getattr",)), "/tmp/12345": MAKE})
    policy = policy_of(learned.text(learned.learn(paths, ROOTS, exact=True, kept={}), ROOTS, exact=True))
    for path in ("/usr/b", "/usr/lib/c", "/tmp/12346", "/usr/a/b", "/"):
        names = tuple(name.encode() for name in path.split("/")[1:] if name)
        for operation in {*operations.TABLE} - {"lookup"}:
            assert not oracle.decide(policy, Request(operation, names))[0], (operation, path)
    for operation in ("write", "unlink", "exec", "chmod", "getxattr", "lock", "ioctl", "mmap"):
        assert not oracle.decide(policy, Request(operation, (b"usr", b"a")))[0]


def test_a_directory_of_which_much_is_read_may_be_read() -> None:
    many = {f"/usr/lib/python3.13/m{letter}.py": READ for letter in "abcdefgh"}
    assert rules(many) == ['read "/usr/lib/python3.13/**" # 8 paths of it were used']
    assert len(rules(many, exact=True)) == 8
    del many["/usr/lib/python3.13/mh.py"]
    assert len(rules(many)) == 7
    assert rules({f"/etc/m{letter}": READ for letter in "abcdefgh"})[0] == 'read "/etc/ma"'
    assert rules({f"/function/m{letter}": READ for letter in "abcdefgh"}) == [
        'read "${CODE}/**" # 8 paths of it were used'
    ]


def test_what_is_only_looked_for_or_written_is_not_read() -> None:
    looked = {f"/function/m{letter}.py": operations.mask(("lookup", "probe", "getattr")) for letter in "abcdefgh"}
    assert 'read "${CODE}/own"' in rules(looked | {"/function/own": READ})
    assert not [rule for rule in rules({f"/srv/app/m{letter}": MAKE for letter in "abcdefgh"}) if "**" in rule]


def test_what_is_kept_is_told_by_itself_and_so_is_what_is_beside_it() -> None:
    many = at({f"/usr/lib/x/m{letter}.py": READ for letter in "abcdefgh"})
    found = learned.learn(many, ROOTS, kept={(b"usr", b"lib", b"x", b"ma.py"): "because"})
    assert (len(found), [one.why for one in found if one.why]) == (8, ["because"])


def test_who_reads_much_may_not_write_or_execute_more_than_it_did() -> None:
    many = {f"/usr/lib/x/m{letter}.py": READ for letter in "abcdefgh"}
    many["/usr/lib/x/own"] = MAKE
    many["/usr/lib/x/tool"] = READ | operations.mask(("exec",))
    assert rules(many) == [
        'exec "/usr/lib/x/tool"',
        'read "/usr/lib/x/**" # 9 paths of it were used',
        'write op:create "/usr/lib/x/own"',
    ]


def test_names_that_were_made_and_look_made_up_get_stars() -> None:
    for name, pattern in (
        ("tmpab12cd3_", "tmp*"),
        ("report-1763877600.json", "report-*.json"),
        ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "*"),
        ("lock.Xy3kZ9", "lock.*"),
        ("cafe0123beef", "*"),
    ):
        made = {f"/tmp/{name}": MAKE, f"/var/{name}": READ}
        assert rules(made) == [
            f'read "/var/{name}"',
            f'write op:create "${{TMP}}/{pattern}" # a name that looks made up',
        ]
        assert rules({f"/tmp/{name}/x": READ, f"/tmp/{name}": operations.mask(("mkdir",))}) == [
            f'mkdir "${{TMP}}/{pattern}" # a name that looks made up',
            f'read "${{TMP}}/{pattern}/*/**" # in a directory that it made, a name that looks made up',
        ]
    tried = MAKE | operations.BIT["unlink"]
    assert rules({"/tmp/k3zq_abc": tried}) == ['write unlink op:create "${TMP}/*" # a name that looks made up']
    assert rules({"/tmp/lockfile": tried})[0] == 'write unlink op:create "${TMP}/lockfile"'
    assert rules({"/tmp/#37": tried | operations.BIT["tmpfile"]})[0].endswith('"${TMP}/#*" # a file that had no name')
    assert rules({"/tmp/database": MAKE}) == ['write op:create "${TMP}/database"']
    for name in ("config.json", "python3.13", "deadbeef", "part-1", "index"):
        assert rules({f"/tmp/{name}": MAKE}) == [f'write op:create "${{TMP}}/{name}"']


def test_names_that_were_made_and_are_alike_are_one() -> None:
    made = {f"/tmp/part-{number}.txt": MAKE for number in "abc"}
    assert rules(made) == ['write op:create "${TMP}/part-*.txt" # 3 names that it made']
    assert len(rules(made, exact=True)) == 3
    assert len(rules({"/tmp/part-a.txt": MAKE, "/tmp/part-b.txt": MAKE})) == 2
    assert len(rules({"/tmp/a": MAKE, "/tmp/b": MAKE, "/tmp/c": MAKE})) == 3
    assert len(rules({f"/tmp/{name}.json": MAKE for name in ("alpha", "beta", "gamma")})) == 3


def test_the_way_to_what_is_allowed_needs_no_rule() -> None:
    lookup = operations.mask(("lookup",))
    assert rules({"/": lookup, "/usr": lookup, "/usr/a": READ, "/var": lookup}) == ['lookup "/var"', 'read "/usr/a"']


def test_nothing_seen_is_nothing_allowed() -> None:
    assert learned.text([], ROOTS) == "default: deny\nrules: []\n"
