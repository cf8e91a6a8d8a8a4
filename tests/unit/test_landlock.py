# SPDX-License-Identifier: Apache-2.0
"""A policy without BoesFS allows nothing that the oracle denies, and says where it denies more. The appliance's tests
have the real Landlock."""

import itertools
import random
from collections.abc import Iterator

import pytest

from boesfsd.model import PolicyBlock
from boesfsd.policy import landlock, operations, oracle
from boesfsd.policy.landlock import FOLLOW, META, Confined, Kept, Tree
from boesfsd.policy.rules import Policy
from boesfsd.policy.sources import Sandbox, compile_sources
from boesfsd.policy.table import Request

Names = dict[str, "Names | bytes | None"]
HOST: Names = {
    "usr": {
        "bin": {"python3": b"python3.13", "python3.13": None, "sh": None},
        "lib": {"a.py": None, "b.py": None, "deep": {"c.so": None, "d": {"e": None}}},
        "empty": {},
    },
    "function": {"func.py": None, "secret": None, "data": {"x": None, "y": None}},
}
FREE, FILES = ((b"tmp",), (b"dev", b"shm")), ((b"etc", b"passwd"), (b"etc", b"hosts"))
PLACES = (
    *("/**", "/usr/**", "${CODE}/**", "${TMP}/**", "/usr/lib/**", "/usr/lib/*.py", "/usr/*/deep/**", "/**/*.so"),
    *("${CODE}/secret", "${CODE}/data/**", "/usr/bin/python3", "/usr/bin/python3.13", "/etc/*", "/etc/passwd"),
    *("${TMP}/x", "${TMP}/*", "/dev/shm/**", "/usr", "/usr/lib", "/nowhere/**"),
)
GROUPS = ("read", "write", "list", "create", "delete", "exec", "meta", "all", "getattr", "lookup", "op:read", "rename")


def look(path: tuple[bytes, ...]) -> list[bytes] | bytes | int:
    """HOST as a Tree has it."""
    here: Names | bytes | None = HOST
    for name in path:
        if not isinstance(here, dict) or name.decode() not in here:
            raise FileNotFoundError
        here = here[name.decode()]
    if isinstance(here, dict):
        return [name.encode() for name in here]
    return here if here else 2 if path[-1] == b"sh" else 1


LINKS = {(b"bin",): b"usr/bin"}
TREE = Tree(look, ((b"usr",), (b"function",)), FREE, FILES, LINKS, ((b"function",),))
COMMANDS = Tree(look, ((b"usr",),), FREE, FILES, LINKS, (), ((b"function",),))
"""What is the function's own there is a directory to be written."""


def existing() -> Iterator[tuple[bytes, ...]]:
    """All that is on the host, and some of what a function may make."""
    waiting: list[tuple[bytes, ...]] = [(b"usr",), (b"function",)]
    while waiting:
        path = waiting.pop()
        inside = look(path)
        yield path
        if isinstance(inside, list):
            waiting += [(*path, name) for name in inside]
    yield from FILES
    for free, below in itertools.product(FREE, ((), (b"x",), (b"y", b"z"))):
        yield (*free, *below)


def policy_of(text: str) -> Policy:
    """The policy of a block."""
    sandbox = Sandbox({"CODE": "/function", "TMP": "/tmp"})
    return compile_sources(None, PolicyBlock("block", text), sandbox).policy


def random_block(seed: int) -> str:
    """Rules that a person could write."""
    rng = random.Random(seed)
    lines = [f"default: {rng.choice(('deny', 'deny', 'allow'))}", "rules:"]
    if rng.random() < 0.5:
        lines.append("  - {allow: [read, write, list, create, delete, meta], on: '${TMP}/**'}")
    for _ in range(rng.randrange(1, 6)):
        words = ", ".join(rng.sample(GROUPS, rng.randrange(1, 4)))
        lines.append(f"  - {{{rng.choice(('allow', 'allow', 'deny'))}: [{words}], on: '{rng.choice(PLACES)}'}}")
    return "\n".join(lines)


def is_possible(confined: Confined) -> bool:
    return all(told.kept is not Kept.IMPOSSIBLE for told in confined.told)


def can(operation: str, path: tuple[bytes, ...]) -> bool:
    """Directories of the host are neither read nor run."""
    directory = path[:1] in ((b"usr",), (b"function",)) and isinstance(look(path), list)
    return not (directory and operation in ("read", "exec"))


def there_is_to_lose(operation: str, path: tuple[bytes, ...], confined: Confined, tree: Tree) -> bool:
    """Whether the operation can be done with what is there at all."""
    bit = operations.BIT[operation]
    if path[:1] in tree.written and can(operation, path):
        return True
    if free := [place for place in FREE if path[: len(place)] == place]:
        return not bit & landlock.OF_DIRECTORIES & ~META or free[0] in confined.free
    inside = look(path) if path not in FILES else 1
    if isinstance(inside, bytes):
        return False
    able = landlock.OF_DIRECTORIES & ~landlock.OF_FILES if isinstance(inside, list) else landlock.OF_FILES
    return bool(bit & (able if path not in FILES else landlock.RIGHTS["r"]))


@pytest.mark.parametrize("tree", [TREE, COMMANDS], ids=["function", "command"])
@pytest.mark.parametrize("seed", range(400))
def test_nothing_is_allowed_that_the_oracle_denies_and_exact_is_exact(seed: int, tree: Tree) -> None:
    policy = policy_of(random_block(seed))
    confined = landlock.confine(policy, tree)
    if not is_possible(confined):
        return
    exact = all(told.kept is Kept.EXACT for told in confined.told)
    for path in existing():
        for operation in operations.names(operations.ALL & ~FOLLOW):
            wanted = oracle.decide(policy, Request(operation, path))[0]
            allowed = confined.sees(path) and confined.allows(operation, path) and can(operation, path)
            assert wanted or not allowed, (operation, path)
            if exact and wanted and there_is_to_lose(operation, path, confined, tree):
                assert allowed, (operation, path)
        if confined.sees(path) and path not in confined.made:  # nothing is seen of what a rule hides
            for operation in operations.names(FOLLOW):
                wanted, rule = oracle.decide(policy, Request(operation, path))
                assert wanted or rule is None, (operation, path, rule)


@pytest.mark.parametrize("tree", [TREE, COMMANDS], ids=["function", "command"])
def test_of_random_policies_many_can_be_kept_and_many_cannot(tree: Tree) -> None:
    """Or the test above would say little."""
    found = [landlock.confine(policy_of(random_block(seed)), tree) for seed in range(200)]
    possible = [confined for confined in found if is_possible(confined)]
    exact = [confined for confined in possible if all(told.kept is Kept.EXACT for told in confined.told)]
    assert 20 < len(possible) < 180
    assert len(exact) > 10


RUNTIME = "  - {allow: [read, list, exec], on: ['${CODE}/**', '/usr/**']}\n"


def told(rules: str, tree: Tree = TREE) -> list[str]:
    """How the rules after those of a runtime are kept, and why."""
    confined = landlock.confine(policy_of(f"default: deny\nrules:\n{RUNTIME}{rules}"), tree)
    return [f"{one.kept.value} {one.why}".strip() for one in confined.told][2:]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("{allow: [read, write, list, create, delete, meta], on: '${TMP}/**'}", "exact"),
        ("{allow: read, on: /etc/passwd}", "exact"),
        ("{allow: read, on: /nowhere}", "exact"),
        ("{deny: exec, on: '${CODE}/data/**'}", "exact"),
        ("{deny: write, on: '${CODE}/**'}", "exact"),
        (
            "{deny: all, on: '${CODE}/secret'}",
            "stricter /function: iterate is denied: what is hidden in it is not listed",
        ),
        ("{deny: read, on: '${CODE}/secret'}", "stricter /function/secret: getattr, exec is denied: it is hidden"),
        ("{deny: getattr, on: '${CODE}/secret'}", "stricter /function/secret: read, exec is denied: it is hidden"),
        (
            "{deny: all, on: /usr/lib/deep/**}",
            "stricter /usr: iterate is denied: what is hidden in it is not listed",
        ),
        ("{allow: read, on: /etc/passwd, audit: true}", "impossible nobody tells of what is allowed"),
        ("{deny: exec, on: /usr/bin/sh, kill: 1}", "impossible nobody counts denials"),
        (
            "{allow: read, on: /etc/passwd, uid: 0}",
            "impossible arguments, programs and users are not looked at",
        ),
    ],
)
def test_each_rule_is_told_how_it_is_kept(rule: str, wanted: str) -> None:
    assert told(f"  - {rule}\n")[-1] == wanted


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("  - {allow: [read, write, create], on: '${TMP}/**'}\n", "cannot be denied in /tmp, where writing is allowed"),
        (
            "  - {allow: all, on: '${TMP}/**'}\n  - {deny: getattr, on: '${TMP}/x'}\n",
            "nothing can be hidden in /tmp",
        ),
        ("  - {allow: read, on: /etc/passwd}\nkill: 3\n", "kill: nobody counts denials"),
    ],
)
def test_what_cannot_be_kept_is_said(rules: str, said: str) -> None:
    confined = landlock.confine(policy_of(f"rules:\n{RUNTIME}{rules}"), TREE)
    assert [one for one in confined.told if one.kept is Kept.IMPOSSIBLE and said in one.why], confined.told


@pytest.mark.parametrize(
    ("rules", "wanted", "written"),
    [
        ("  - {allow: all, on: '${CODE}/**'}\n", "exact", True),
        ("  - {allow: [read, list], on: '${CODE}/**'}\n", "exact", False),
        (
            "  - {allow: all, on: '${CODE}/**'}\n  - {deny: unlink, on: '${CODE}/secret'}\n",
            "stricter /function: unlink is denied: what is denied to something below is denied to all",
            True,
        ),
        (
            "  - {allow: [read, write], on: '${CODE}/**'}\n",
            "impossible chmod, chown, chattr, setxattr, removexattr cannot be denied in /function, which is "
            "there to be written",
            False,
        ),
        (
            "  - {allow: all, on: '${CODE}/**'}\n  - {deny: lookup, on: '${CODE}/secret'}\n",
            "impossible nothing can be hidden in /function, which is there to be written",
            False,
        ),
        (
            "  - {allow: [read, chmod], on: '${CODE}/**'}\n",
            "stricter /function: chmod is denied: what is denied to something below is denied to all",
            False,
        ),
    ],
)
def test_a_directory_to_be_written_is_there_as_a_whole(rules: str, wanted: str, *, written: bool) -> None:
    confined = landlock.confine(policy_of(f"default: deny\nrules:\n{rules}"), COMMANDS)
    assert f"{confined.told[-1].kept.value} {confined.told[-1].why}".strip() == wanted
    assert bool(confined.written) == written


def test_what_is_hidden_is_not_there_and_a_link_has_no_rights() -> None:
    confined = landlock.confine(policy_of("rules:\n  - {allow: [read, exec], on: /usr/bin/python3}\n"), TREE)
    assert confined.pieces == {}
    assert confined.links == {(b"usr", b"bin", b"python3"): b"python3.13"}
    assert not any(path[:3] == (b"usr", b"bin", b"python3") for path in confined.rights)
    confined = landlock.confine(policy_of(f"rules:\n{RUNTIME}  - {{deny: all, on: /usr/lib/deep/**}}\n"), TREE)
    assert set(confined.pieces) == {(b"usr", b"bin"), (b"usr", b"empty"), (b"function",)} | {
        (b"usr", b"lib", name) for name in (b"a.py", b"b.py")
    }
    assert confined.made == [(b"usr",), (b"usr", b"lib")]


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_PIECES", 1), ("MOST_VISITS", 2), ("MOST_STATES", 1), ("MOST_GRANTS", 0)]
)
def test_what_would_take_too_much_is_impossible(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, limit, value)
    confined = landlock.confine(policy_of(f"rules:\n{RUNTIME}  - {{deny: all, on: /usr/lib/deep/**}}\n"), TREE)
    assert not is_possible(confined)


def test_rights_of_a_file_with_two_names_are_not_given_to_one_of_them() -> None:
    rules = "rules:\n  - {allow: [read, list], on: /usr/**}\n  - {allow: exec, on: /usr/bin/**}\n"
    confined = landlock.confine(policy_of(rules), TREE)
    assert confined.allows("exec", (b"usr", b"bin", b"python3.13"))
    assert confined.allows("exec", (b"usr", b"bin", b"sh"))  # by the directory
    confined = landlock.confine(policy_of(f"{rules}  - {{deny: exec, on: /usr/bin/python3.13}}\n"), TREE)
    assert not confined.allows("exec", (b"usr", b"bin", b"sh"))
    assert any(told.kept is Kept.STRICTER for told in confined.told)


def test_what_is_only_passed_through_is_not_listed_and_links_go_with_their_rules() -> None:
    confined = landlock.confine(policy_of("rules: [{allow: [read, list], on: /usr/lib/**}]"), TREE)
    assert confined.made == [(b"usr",)]
    assert not confined.allows("iterate", (b"usr",))
    assert confined.allows("iterate", (b"usr", b"lib"))
    assert confined.links == {}
    confined = landlock.confine(policy_of("rules: [{allow: [read, list], on: [/usr/**, /bin]}]"), TREE)
    assert confined.links == LINKS


def test_attributes_go_with_what_can_be_written() -> None:
    assert not META & FOLLOW
    confined = landlock.confine(policy_of("rules: [{allow: all, on: '${TMP}/**'}]"), TREE)
    assert confined.allows("chmod", (b"tmp", b"x"))
    assert not confined.allows("chmod", (b"usr", b"bin"))
