# SPDX-License-Identifier: Apache-2.0
"""Tables in words, and what another policy would change."""

import dataclasses
import itertools
import random
from typing import Any

import pytest
from policies import Random

from boesfsd.policy import listing, operations, oracle, sources
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.listing import Difference
from boesfsd.policy.places import DEPTH, Glob, Place, parse, split
from boesfsd.policy.rules import Origin, Policy, Rule, Verdict
from boesfsd.policy.sources import Compiled, Sandbox
from boesfsd.policy.table import Request, TooLargeError

HERE = Origin("f", 1, 1, "")


def compiled(rules: str) -> Compiled:
    return sources.compile_sources(None, sources.open_block(rules, "p"), Sandbox({}))


def changed(old: str, new: str) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in listing.differences(compiled(old), compiled(new))]


def test_a_table_is_told_state_by_state() -> None:
    table = compiled("rules: [{allow: [open, llseek], on: /a/**}, {deny: llseek, on: /a/b, when: {offset: 3}}]")
    told = {row.place: (listing.spell(row.allowed), row.conditions) for row in listing.rows(table)}
    assert told["/**"] == ("", ())
    assert told["/a"] == told["/a/**"] == ("open, llseek", ())
    assert told["/a/b"] == ("open, llseek", ("deny llseek if offset is 3",))
    assert len(told) == len(table.table.states)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("deny: chmod, when: {mode: {mask: 0o6000}}", "deny chmod if mode & 0o6000 is"),
        ("deny: open, when: {flags: {min: 5}}", "deny open if flags is at least 5"),
        ("deny: open, when: {flags: {max: 5}}", "deny open if flags is at most 5"),
        ("deny: open, when: {flags: {min: 2, max: 5}}", "deny open if flags is 2 to 5"),
        ("deny: setxattr, when: {attribute: user.*}", "deny setxattr if attribute is user.*"),
        ("deny: symlink, when: {target: '*'}", "deny symlink if target is *"),
        ("deny: link, when: {other: /b/**}", "deny link, link-to if other is /b/**"),
        ("allow: open, program: /bin/x", "allow open if program is /bin/x"),
        ("deny: open, uid: 7", "deny open if uid is 7"),
        ("allow: open, audit: true", "allow open (audited)"),
        ("deny: open, kill: 3", "deny open (kill: 3)"),
    ],
)
def test_conditions_are_told_in_words(rule: str, words: str) -> None:
    default = "deny" if rule.startswith("allow") else "allow"
    table = compiled(f"default: {default}\nrules: [{{on: /a, {rule}}}]")
    (row,) = (row for row in listing.rows(table) if row.place == "/a")
    assert [condition for condition in row.conditions if condition.startswith(words)], row.conditions


def test_what_several_patterns_match_is_told_by_all_of_them() -> None:
    rules = "default: allow\nrules: [{deny: read, on: /d/*.key}, {deny: write, on: '/d/k*'}, {deny: open, on: /d/k}]"
    places = [row.place for row in listing.rows(compiled(rules))]
    assert sorted(places) == sorted(["/", "/**", "/d", "/d/*.key", "/d/k*", "/d/*.key and /d/k*", "/d/k"])


def test_what_can_be_anywhere_is_told_with_stars() -> None:
    table = compiled("default: allow\nrules: [{deny: read, on: /**/secret}]")
    assert [row.place for row in listing.rows(table)] == ["/", "/**", "/**/secret"]


def test_differences_are_told_by_place() -> None:
    old = "rules: [{allow: [open, iterate], on: /a/**}, {allow: open, on: /b}]"
    new = (
        "kill: 4\nrules: [{allow: [open, unlink], on: /a/**}, {allow: [open, iterate], on: /a/x},"
        " {allow: open, on: /b, uid: 5}]"
    )
    assert changed(old, old) == []
    assert changed(old, new) == [
        ("", "kill", "4, was 0"),
        ("/a", "allow", "lookup, unlink"),  # it is on the way to /a/x
        ("/a", "deny", "iterate"),
        ("/b", "depend", "open"),
        ("/a/**", "allow", "unlink"),
        ("/a/**", "deny", "iterate"),
        ("/a/x", "allow", "unlink"),
    ]


def test_a_place_that_stays_as_it_is_within_one_that_changes_is_told() -> None:
    old = "rules: [{allow: open, on: /a/x}]"
    assert changed(old, "rules: [{allow: open, on: /a/x}, {allow: open, on: /a/**}]") == [
        ("/a/**", "allow", "open"),
        ("/a/x", "same", "all"),
    ]


def test_what_changes_at_and_below_is_one_line() -> None:
    assert changed("default: deny", "default: allow") == [("/**", "allow", "all")]
    old = "rules: [{allow: open, on: /a/**}]"
    assert changed(old, old.replace("open", "[open, unlink]")) == [("/a/**", "allow", "unlink")]


def random_policy(source: random.Random) -> Policy:
    """Of places without patterns: each path of a few names is either named or below a name."""
    places = [Place(tuple(names)) for depth in range(4) for names in itertools.product((b"a", b"b"), repeat=depth)]
    rules = []
    for _ in range(source.randrange(1, 7)):
        place = source.choice(places)
        verdict = Verdict(source.random() < 0.5, source.getrandbits(3))
        below = Place((*place.components, DEPTH)) if source.random() < 0.5 else place
        rules.append(Rule(verdict, below, HERE))
    return Policy(source.getrandbits(3), tuple(rules))


def whole(policy: Policy) -> Compiled:
    return Compiled(policy, compile_policy(policy), ())


@pytest.mark.parametrize("seed", range(200))
def test_differences_say_just_what_the_rules_decide_otherwise(seed: int) -> None:
    """Of each path and operation: the line of the most specific place, which names it or covers it, or none."""
    source = random.Random(seed)
    old, new = random_policy(source), random_policy(source)
    told: dict[Place, dict[str, str]] = {}
    for place, change, what in listing.differences(whole(old), whole(new)):
        named = operations.TABLE if what == "all" else what.split(", ")
        told.setdefault(parse(place), {}).update(dict.fromkeys(named, change))
    for depth in range(5):
        for names in itertools.product((b"a", b"b", b"c"), repeat=depth):
            lines = [place for place in told if oracle.matches(place, names)]
            line = told[max(lines, key=lambda place: place.rank)] if lines else {}
            for operation in list(operations.TABLE)[:3]:
                before, after = (oracle.decide(policy, Request(operation, names))[0] for policy in (old, new))
                wanted = {(False, True): "allow", (True, False): "deny"}.get((before, after), "same")
                assert line.get(operation, "same") == wanted, (names, operation, told)


def changes_at(told: list[Difference], path: tuple[bytes, ...]) -> set[frozenset[tuple[str, str]]]:
    """What the lines say that are the narrowest of those that mean a path; they have to say the same."""
    lines: dict[str, set[tuple[str, str]]] = {}
    for place, change, what in told:
        lines.setdefault(place, set()).add((change, what))
    meant = {}
    for text, said in lines.items():
        places = [parse(place).components for place in text.split(" and ")]
        if all(oracle.matches(Place(place), path) for place in places):
            meant[text] = (places, said)

    def is_narrower(narrow: list[Any], wide: list[Any]) -> bool:
        return narrow != wide and all(any(listing._covers(w, n) for n in narrow) for w in wide)

    nearest = [
        frozenset(said)
        for places, said in meant.values()
        if not any(is_narrower(others, places) for others, _ in meant.values())
    ]
    return {said - {("same", "all")} for said in nearest} or {frozenset()}


@pytest.mark.parametrize("seed", range(250))
def test_lines_mean_what_changes_whatever_the_places(seed: int) -> None:
    source = Random(seed)
    old = source.policy()
    new = source.policy() if seed % 2 else dataclasses.replace(old, rules=(*old.rules, *source.policy().rules[:1]))
    tables = compile_policy(old), compile_policy(new)
    told = [row for row in listing.differences(whole(old), whole(new)) if row.change != "kill"]
    for _ in range(80):
        path = source.request().path
        before, after = (table.class_of(path) for table in tables)
        actual = frozenset((change, listing.spell(mask)) for change, mask in listing._changes(before, after))
        assert changes_at(told, path) == {actual}, (path, told)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_told_of_a_table_is_what_it_decides(seed: int) -> None:
    """Of every state that a path leads to there is a row, and it is that state's."""
    source = Random(seed)
    policy = source.policy()
    table = compile_policy(policy)
    rows = {row.state: row for row in listing.rows(whole(policy))}
    for _ in range(100):
        request = source.request()
        state = table.label(request.path)
        klass = table.classes[table.states[state].klass]
        assert (rows[state].allowed, len(rows[state].conditions)) == (klass.allow, len(klass.conditions))
    for row in rows.values():
        if not {"*", "<"} & set(row.place) and "\\" not in row.place:
            assert table.label(split(row.place.encode("utf-8", "surrogateescape"))) == row.state


def test_what_is_too_much_to_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_VISITED", 10)
    many = "rules:\n" + "".join(f"  - {{allow: open, on: /a{number}}}\n" for number in range(20))
    with pytest.raises(TooLargeError, match="over 10 places"):
        list(listing.rows(compiled(many)))
    patterns = "rules: [{allow: open, on: /*aaaaaaaaaaaaaaa}]"
    with pytest.raises(TooLargeError, match="places and patterns"):
        list(listing.rows(compiled(patterns)))


def test_patterns_may_have_every_byte_that_a_name_can_have() -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/"]
    rules = tuple(Rule(Verdict(True, 1), Place((Glob((name, b"")),)), HERE) for name in names)
    rows = list(listing.rows(whole(Policy(0, rules))))
    assert (len([row for row in rows if row.allowed]), len(rows)) == (len(names), len(names) + 2)
