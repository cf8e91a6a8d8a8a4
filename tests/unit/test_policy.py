# SPDX-License-Identifier: Apache-2.0
"""Both spellings mean what the specification says: text, rules, oracle and compiled table agree."""

import dataclasses

import pytest
from policies import SUBJECTS, Random, Sample, model, samples

from boesfsd.policy import casbin, compiler, operations, oracle
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.places import Place, parse, split
from boesfsd.policy.rules import Number, Origin, Other, Part, Policy, Rule, Verdict, together
from boesfsd.policy.table import Request, TooLargeError

SEEDS, QUESTIONS = range(160), 60
ASKED_OF_CASBIN = (
    *("read", "write", "chmod", "chown", "truncate", "link", "rename", "rename-to", "unlink", "symlink", "lookup"),
    *("probe", "getxattr", "exec"),
)


def read(model: str, policy: str) -> casbin.Casbin:
    parsed = casbin.parse_model(model, "model")
    return casbin.parse_policy(policy, "policy", parsed)[0]


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.name)
def test_samples_of_the_specification_are_decided_as_it_says(sample: Sample) -> None:
    both, subjects = read(sample.model, sample.policy), frozenset({sample.subject})
    part, findings = casbin.to_part(both, subjects)
    assert [finding for finding in findings if "never match here" not in finding.message] == []
    policy = together(Part(), part)
    table = compile_policy(policy)
    for asked, allowed in sample.asked:
        said = (oracle.decide_casbin(both, subjects, asked), oracle.decide(policy, asked)[0], table.decide(asked)[0])
        assert said == (allowed,) * 3, (asked, said)


@pytest.mark.parametrize("seed", SEEDS)
def test_table_and_oracle_agree_on_random_policies(seed: int) -> None:
    source = Random(seed)
    policy = source.policy()
    table = compile_policy(policy)
    for _ in range(QUESTIONS):
        asked = source.request()
        wanted = oracle.decide(policy, asked)[0]
        assert table.decide(asked)[0] == wanted, smaller(policy, asked)
    for rule in table.idle:
        without = dataclasses.replace(policy, rules=tuple(other for other in policy.rules if other is not rule))
        for _ in range(0 if rule.verdict.opens else QUESTIONS):
            asked = source.request()
            assert oracle.decide(policy, asked)[0] == oracle.decide(without, asked)[0], rule


def smaller(policy: Policy, asked: object) -> str:
    """The same disagreement with fewer rules."""
    rules = list(policy.rules)
    for rule in policy.rules:
        fewer = dataclasses.replace(policy, rules=tuple(other for other in rules if other is not rule))
        if compile_policy(fewer).decide(asked)[0] != oracle.decide(fewer, asked)[0]:  # type: ignore[arg-type]
            rules.remove(rule)
    told = "\n".join(f"{rule.place} {rule.verdict}" for rule in rules)
    return f"{asked}\ndefault {policy.default:#x}\n{told}"


@pytest.mark.parametrize("seed", SEEDS)
def test_casbin_files_are_compiled_to_what_their_procedure_decides(seed: int) -> None:
    source = Random(seed)
    both, subjects = read(*source.casbin()), frozenset(source.rng.sample(SUBJECTS, 2))
    policy = together(Part(), casbin.to_part(both, subjects)[0])
    table = compile_policy(policy)
    for _ in range(QUESTIONS):
        asked = source.request(ASKED_OF_CASBIN)
        said = (oracle.decide_casbin(both, subjects, asked), oracle.decide(policy, asked)[0], table.decide(asked)[0])
        assert len(set(said)) == 1, (both, subjects, asked, said)


def test_what_is_not_changed_has_no_value() -> None:
    verdict = Verdict(False, operations.BIT["chown"], (Number("gid", 0, 0),))
    policy = Policy(operations.ALL, (Rule(verdict, parse("/f"), Origin("f", 1, 1, "")),))
    table = compile_policy(policy)
    for arguments, allowed in (
        ({"uid": 0}, True),
        ({"gid": 0}, False),
        ({"uid": 1, "gid": 0}, False),
        ({"gid": 1}, True),
    ):
        asked = Request("chown", (b"f",), arguments=arguments)
        assert table.decide(asked)[0] == oracle.decide(policy, asked)[0] == allowed


@pytest.mark.parametrize(
    ("rules", "operation", "path", "allowed"),
    [
        ("allow /data/*.txt read; deny /data/priv* read", "read", "/data/private.txt", False),
        ("deny /data/priv* read; allow /data/*.txt read", "read", "/data/private.txt", False),
        ("allow /d/a*/** read; deny /d/*b/** read", "read", "/d/ab/x", False),
        ("allow /*b*/**/a read; deny /*a*/** lookup", "lookup", "/abc/b/abc", False),
        ("allow /a/* read; deny /a/b* read", "read", "/a/bc", False),
        ("deny /a/* read; allow /a/b* read", "read", "/a/bc", True),
    ],
)
def test_of_places_that_are_equally_specific_the_rules_count_as_of_one(
    rules: str, operation: str, path: str, allowed: bool
) -> None:
    policy = Policy(0, tuple(_rule(*text.split()) for text in rules.split("; ")))
    asked = Request(operation, split(path.encode()))
    assert (oracle.decide(policy, asked)[0], compile_policy(policy).decide(asked)[0]) == (allowed, allowed)


def _rule(effect: str, place: str, operation: str) -> Rule:
    verdict = Verdict(effect == "allow", operations.mask((operation,)), opens=effect == "allow")
    return Rule(verdict, parse(place), Origin("f", 1, 1, ""))


WORDS = ("ssh", "aws", "gnupg", "docker", "kube", "netrc", "config", "cache", "local", "mozilla", "pki", "vim", "npm")


@pytest.mark.parametrize("form", ["/**/.{}/**", "/home/*/.{}/**", "/data/*{}*", "/**/*.{}"])
def test_many_places_of_the_same_kind_make_few_states(form: str) -> None:
    policy = Policy(operations.ALL, tuple(_rule("deny", form.format(word), "read") for word in WORDS))
    table = compile_policy(policy)
    assert len(table.states) < 40
    assert len(table.machines) < 1000
    for word in WORDS:
        path = split(form.replace("**", "x/y").replace("*", "z").format(word).encode())
        for asked in (Request("read", path), Request("read", path[:-1]), Request("write", path)):
            assert table.decide(asked)[0] == oracle.decide(policy, asked)[0]


@pytest.mark.parametrize("place", ["/**/a" + "/*" * 16, "/data/*a*b*c*d*|/data/*e*f*g*h*"])
def test_places_that_overlap_too_much_are_refused_and_not_compiled_for_ever(place: str) -> None:
    if "|" in place:  # of every two letters one pattern, none of which covers another
        letters = "abcdefghijklmnop"
        places = [f"/data/*{a}*{b}*{c}" for a in letters for b in letters for c in letters[:2]]
    else:
        places = [place]
    policy = Policy(0, tuple(_rule("allow", text, "read") for text in places))
    with pytest.raises(TooLargeError, match=r"over \d+ states"):
        compile_policy(policy)


def test_what_overlaps_is_refused_by_its_work_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large sets take as long as many small ones."""
    monkeypatch.setattr(compiler, "MAX_WORK", 200)
    policy = Policy(0, tuple(_rule("allow", f"/data/*{word}", "read") for word in WORDS))
    with pytest.raises(TooLargeError, match="or as much work"):
        compile_policy(policy)


def test_what_covers_leaves_out_neither_second_paths_nor_what_closes() -> None:
    marked = Verdict(False, operations.mask(("link",)), (Other(parse("/q/.s/m")),))
    policy = Policy(
        operations.ALL, (_rule("deny", "/**/.s/**", "read"), Rule(marked, parse("/a"), Origin("f", 1, 1, "")))
    )
    policy = dataclasses.replace(policy, rules=(*policy.rules, _rule("deny", "/q/**", "write")))
    asked = Request("link", (b"a",), (b"q", b".s", b"m"))
    assert (oracle.decide(policy, asked)[0], compile_policy(policy).decide(asked)[0]) == (False, False)
    closing = Verdict(True, operations.mask(("read",)), closes=True)
    policy = Policy(0, (
        _rule("allow", "/x/**/.s/**", "read"),
        Rule(closing, parse("/*/**"), Origin("f", 1, 1, "")),
        _rule("allow", "/**", "write"),
    ))  # fmt: skip
    asked = Request("write", (b"x", b".s", b"f"))
    assert (oracle.decide(policy, asked)[0], compile_policy(policy).decide(asked)[0]) == (False, False)


def test_the_oracle_is_not_slow_with_many_stars_nor_deep_places() -> None:
    stars = parse("/" + "**/a/" * 20 + "b")
    assert not oracle.matches(stars, (b"a",) * 200)
    assert not oracle.matches(parse("/" + "*a" * 25 + "*b"), (b"a" * 200,))
    deep = Place((b"x",) * 2000)
    assert oracle.matches(deep, (b"x",) * 2000)
    assert not oracle.matches(deep, (b"x",) * 1999)


@pytest.mark.parametrize(
    ("lines", "asked", "allowed"),
    [
        ("p, /a, truncate, (5), file, deny", Request("truncate", (b"a",), arguments={"size": 5}), False),
        ("p, /a, truncate, (5), file, deny", Request("truncate", (b"a",), arguments={"size": 6}), True),
        ("p, /a, chown, (5,6), file, deny", Request("chown", (b"a",), arguments={"uid": 5, "gid": 6}), False),
        ("p, /a, setattr, (420,*,*), file, deny", Request("chmod", (b"a",), arguments={"mode": 420}), False),
        ("p, /a, setattr, (420,*,*), file, deny", Request("chmod", (b"a",), arguments={"mode": 421}), True),
        ("p, /a, setattr, (420,*,*), file, deny", Request("utimes", (b"a",)), True),
        ("p, /a, setattr, (420,*,*), file, deny\np, /a, chmod, (493), file, deny",
         Request("chmod", (b"a",), arguments={"mode": 420}), True),
        ("p, /a, setattr, (420,*,*), file, deny\np, /a, chmod, (*), file, deny",
         Request("chmod", (b"a",), arguments={"mode": 420}), False),
        ("p, /a, setxattr, (user.x,*,*), file, deny",
         Request("setxattr", (b"a",), texts={"attribute": b"user.x"}), False),
        ("p, /a, llseek, (-1,0), file, deny",
         Request("llseek", (b"a",), arguments={"offset": (1 << 64) - 1, "whence": 0}), False),
    ],
)  # fmt: skip
def test_arguments_of_casbin_files_are_those_of_their_operation(lines: str, asked: Request, allowed: bool) -> None:
    both = read(model("obj, act, args"), lines)
    policy = together(Part(), casbin.to_part(both, frozenset())[0])
    said = (
        oracle.decide_casbin(both, frozenset(), asked),
        oracle.decide(policy, asked)[0],
        compile_policy(policy).decide(asked)[0],
    )
    assert said == (allowed,) * 3
