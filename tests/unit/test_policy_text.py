# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a policy is told with file, line, column, the rule and what to write instead."""

import gc
import itertools
import random
import re

import pytest
from policies import model

from boesfsd.documents import Schema
from boesfsd.errors import BoesError
from boesfsd.model import PolicyBlock, PolicyFiles
from boesfsd.policy import block, casbin, oracle, sources
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.places import split
from boesfsd.policy.rules import Part, Policy, together
from boesfsd.policy.sources import Sandbox
from boesfsd.policy.table import Request

M4 = model("obj, act")
M8 = model("sub, obj, act", roles="g = _ , _", matcher="g(r.sub,p.sub) && r.obj == p.obj && r.act == p.act")
M7 = model("obj, act, args")
M9 = model("obj, act, args", roles="a = _ , _ ; _ , _", matcher="r.obj == p.obj && a(r.act,p.act;r.args,p.args)")
HERE = Sandbox({"CODE": "/function", "TMP": "/tmp"})
TASTE = """\
policy:
  default: deny
  kill: 5                                # the instance dies on its sixth denial
  rules:
    - allow: [read, list, exec]
      on: ["${CODE}/**", "/usr/**", "/etc/ssl/certs/**"]
    - allow: [read, write, create, delete, meta]
      on: "${TMP}/**"
    - allow: read
      on: /run/secrets/db-password
      program: /usr/bin/python3
    - deny: setattr
      on: "${TMP}/**"
      when: {mode: {mask: 0o6000}}       # no set-id bits
      audit: true
"""


def refusal(text: str, code: str = "InvalidPolicy") -> str:
    """What a block is refused with."""
    with pytest.raises(BoesError) as caught:
        read_block(text)
    assert caught.value.code == code
    return str(caught.value)


def read_block(text: str, layer: int = 1) -> Part:
    return sources.read(sources.open_block(text, "func.yaml"), HERE, layer)[0]


def ask(policy: Policy, operation: str, path: str, **more: object) -> bool:
    """What oracle and table say, as one."""
    asked = Request(operation, split(path.encode()), **more)  # type: ignore[arg-type]
    said = {oracle.decide(policy, asked)[0], compile_policy(policy).decide(asked)[0]}
    assert len(said) == 1
    return said.pop()


# --- the original's files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (M4.replace("r = obj, act", "r = obj"), "line 2, column 1: a request has the columns of a rule: r = obj. Hint: "
         "write r = obj, act"),
        (M4.replace("p = obj, act", "p = act, obj"), "line 5, column 1: these are none of the columns there are"),
        (M4.replace("!some", "!any"), "model, line 8, column 1: unknown effect: e = !any"),
        (M4.replace("r.act == p.act", "r.act == p.obj"), "line 11, column 1: the matcher does not fit"),
        (M4.replace("[matchers]", "[matcher]"), "line 11, column 1: unknown section matcher: m = "),
        (M4.replace("[matchers]", "[matcher]"), "Hint: did you mean matchers?"),
        (M4 + "m = r.obj == p.obj\n", "m is defined twice"),
        (M4.replace("m = ", "x = "), "section matchers has no x ="),
        (M4.replace("[policy_effect]\ne", "e"), "section policy_definition has no e ="),
        (M4[: M4.index("[matchers]")], "line 1, column 1: there is no m =. Hint: write it in a section"),
        (M4[: M4.index("m = ")], "there is nothing in this section"),
        ("p, /a, read, file, deny\n" + M4, "model, line 1, column 1: no section begins here: p, /a"),
        ("", "there is no r ="),
        (M8.replace("g = _ , _", "g = _ , _ , _"), "unknown form of g"),
        (M8.replace("[role_definition]\ng = _ , _\n", ""), "g(r.sub,p.sub) needs a definition"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(BoesError) as caught:
        casbin.parse_model(text, "model")
    assert caught.value.code == "InvalidPolicy"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (M4, "p, /a, raed, file, deny", "unknown operation raed: p, /a, raed, file, deny. Hint: did you mean read?"),
        (M4, "p, /a, read, file, allow", "the model's effect makes a blacklist, the rule says allow"),
        (M4, "p, /a, read, file", "a rule of this model has 4 columns, this has 3"),
        (M4, "p, /a, read, folder, deny", "folder is no kind"),
        (M4, "p, , read, file, deny", "the column obj is empty"),
        (M4, "p, /a, (read), file, deny", "arguments, and they alone, stand in ( )"),
        (M4, 'p, "/a, read, file, deny', 'a " is not closed'),
        (M4, 'p, "/a"b, read, file, deny', "b behind a closing quote"),
        (M4, "p, a, read, file, deny", "a: a path is absolute"),
        (M4, "p, /a/../b, read, file, deny", "/a/../b: a path has no .. component"),
        (M4, f"p, /{'n' * 256}, read, file, deny", "a component has at most 255 bytes"),
        (M4, "g, bash, role", "this says nothing that the model knows"),
        (M4, "a, role, read, (1)", "this says nothing that the model knows"),
        (M7, "p, /a, read, (1,x), file, deny", "offset is x"),
        (M7, "p, /a, read, (99999999999999999999), file, deny", "length is 99999999999999999999"),
        (M7, "p, /a, read, (1,2,3), file, deny", "read has no 3 arguments"),
        (M7, "p, /a, unlink, (1), file, deny", "unlink has no 1 arguments"),
        (M7, f"p, /a, read, ({'9' * 5000}), file, deny", "length is 999"),
        (M7, "p, /a, unlink, (*,*,*,*), file, deny", "there are 4 arguments"),
        (M9, "a, r, unlink, (*,*,*,*)", "there are 4 arguments"),
        (M7, "p, /a, link, (b), file, deny", "b: a path is absolute"),
        (M7, "p, /a, read, (1,2, file, deny", "( without )"),
        (M7, "p, /a, read, (1)2, file, deny", "2 behind a field"),
        (M9, "p, /a, nobody, file, deny", "no line says what the role nobody may"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_the_place(text: str, line: str, said: str) -> None:
    parsed = casbin.parse_model(text, "model")
    with pytest.raises(BoesError) as caught:
        casbin.to_part(casbin.parse_policy(f"# first\n\n  {line}\n", "policy", parsed)[0], frozenset({"bash"}))
    assert caught.value.code == "InvalidPolicy"
    assert str(caught.value).startswith("policy, line 3, column 3: ")
    assert said in str(caught.value)


def test_comments_quotes_and_blanks() -> None:
    text = '''
    # p, /commented, read, file, deny
    p , "/with, comma" , read , file , deny   # why
    p, "/with ""quotes""", read, file, deny
    p,/#hash,read,file,deny
    p, /trailing/, read, file, deny
    p, /two  blanks, read, file, deny
    '''
    both, findings = casbin.parse_policy(text, "policy", casbin.parse_model(f"# comment\n{M4}", "model"))
    assert findings == []
    policy = together(Part(), casbin.to_part(both, frozenset())[0])
    for path in ("/with, comma", '/with "quotes"', "/#hash", "/trailing", "/two  blanks"):
        assert not ask(policy, "read", path)
    assert ask(policy, "read", "/commented")


def test_what_counts_nothing_is_told() -> None:
    parsed = casbin.parse_model(M8, "model")
    both, findings = casbin.parse_policy("p, r1, /a, read, file, deny\nq, x\n", "policy", parsed)
    assert [str(finding) for finding in findings] == [
        "policy, line 2, column 1: no rule, so it counts nothing: q, x. Hint: write # before a comment"
    ]
    _, findings = casbin.to_part(both, frozenset({"bash"}))
    assert [finding.message for finding in findings] == ["nobody has the role r1"]
    assert casbin.parse_policy("", "policy", parsed)[1][0].message == "there is no rule"
    twice = "p, /a, read, (1), file, deny\np, /a, read, (2), file, deny\n"
    part, findings = casbin.to_part(
        casbin.parse_policy(twice, "policy", casbin.parse_model(M7, "model"))[0], frozenset()
    )
    assert [finding.origin.line for finding in findings] == [1]
    assert "policy, line 2, column 1 takes its place" in findings[0].message
    policy = together(Part(), part)
    assert ask(policy, "read", "/a", arguments={"length": 1})
    assert not ask(policy, "read", "/a", arguments={"length": 2})


# --- the block


def test_the_taste_that_is_meant() -> None:
    policy = together(Part(), read_block(TASTE))
    assert policy.kill == 5
    assert compile_policy(policy).idle == []
    for operation in ("lookup", "open", "read", "mmap", "getattr", "llseek", "iterate", "exec"):
        assert ask(policy, operation, "/function/lib/func.py"), operation
        assert ask(policy, operation, "/usr"), operation
    assert not ask(policy, "write", "/function/func.py")
    assert ask(policy, "lookup", "/run")
    assert ask(policy, "lookup", "/run/secrets")
    assert not ask(policy, "getattr", "/run/secrets")
    assert not ask(policy, "lookup", "/run/other")
    assert not ask(policy, "read", "/run/secrets/db-password")
    assert ask(policy, "read", "/run/secrets/db-password", programs=frozenset({"/usr/bin/python3"}))
    assert ask(policy, "chmod", "/tmp/x", arguments={"mode": 0o755})
    assert not ask(policy, "chmod", "/tmp/x", arguments={"mode": 0o4755})
    assert ask(policy, "chown", "/tmp/x"), "it has no mode, so the rule is not about it"


def test_an_app_s_rules_hold_where_a_function_says_nothing_of_the_same_place() -> None:
    app = read_block("policy: {default: allow, kill: 3, rules: [{deny: read, on: [/a, /b/**, /c]}]}", 0)
    function = read_block("policy: {kill: 0, rules: [{allow: read, on: [/a, /b/x]}]}")
    policy = together(app, function)
    assert policy.kill == 0
    assert [ask(policy, "read", path) for path in ("/a", "/b/x", "/b/y", "/c", "/d")] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_roles_are_sets_of_subjects() -> None:
    policy = together(Part(), read_block(
        "policy: {roles: {writers: {program: /bin/w, uid: [7, 10-12]}}, rules: [{allow: write, on: /a, role: writers}]}"
    ))  # fmt: skip
    allowed = [ask(policy, "write", "/a", uid=uid) for uid in (6, 7, 8, 9, 10, 12, 13)]
    assert allowed == [False, True, False, False, True, True, False]
    assert ask(policy, "write", "/a", uid=1, programs=frozenset({"/bin/w"}))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{allow: raed, on: /a}", "line 3, column 15: unknown operation raed: - {allow: raed, on: /a}. Hint: did "
         "you mean read?"),
        ("{allow: [read, wirte], on: /a}", "column 22: unknown operation wirte"),
        ("{allow: read, on: a}", "a: a path is absolute"),
        ("{allow: read, on: [/a, /b/../c]}", "column 30: /b/../c: a path has no .. component"),
        ("{allow: read, on: /a**}", "/a**: ** is a component of its own"),
        ('{allow: read, on: "${COD}/x"}', "unknown variable ${COD}"),
        ("{deny: read, on: /a, program: /bin/x}", "a rule that denies cannot go by the program: a copy of it"),
        ("{allow: read, on: /a, program: x}", "x: a path is absolute"),
        ("{allow: read, on: /a, uid: 12-10}", "12-10 is no range of user ids"),
        ("{allow: read, on: /a, role: nobody}", "unknown role nobody"),
        ("{allow: read, on: /a, when: {mod: 1}}", "unknown argument mod"),
        ("{allow: read, on: /a, when: {mode: 1}}", "none of "),
        ("{allow: chmod, on: /a, when: {mode: rwx}}", "rwx is no number"),
        ("{allow: chmod, on: /a, when: {mode: {min: 2, max: 1}}}", "nothing is from 2 to 1"),
        ("{allow: chmod, on: /a, when: {mode: {mask: 7, equal: 8}}}", "nothing is 8 under the mask 0o7"),
        ("{allow: chmod, on: /a, when: {mode: {mask: 7, min: 8}}}", "nothing is from 8 to "),
        ("{allow: chmod, on: /a, when: {mode: {mask: 7, max: -1}}}", "nothing is from "),
        ("{allow: chmod, on: /a, when: {mode: 0o10000}}", "nothing is 4096 under the mask 0o7777"),
        ("{allow: chmod, on: /a, when: {mode: {equal: 2, max: 1}}}", "equal leaves nothing to min and max"),
        ("{allow: chmod, on: /a, when: {mode: {mask: 0}}}", "a mask has bits"),
        ("{allow: getxattr, on: /a, when: {attribute: 3}}", "attribute is text"),
        ("{allow: link, on: /a, when: {other: b}}", "b: a path is absolute"),
    ],
)  # fmt: skip
def test_a_block_s_rule_that_cannot_be_used_is_refused_with_the_place(rule: str, said: str) -> None:
    told = refusal(f"policy:\n  rules:\n    - {rule}\n")
    assert re.match(r"func.yaml, line 3, column \d+: ", told)
    assert said in told
    assert "Hint: " in told


def test_octal_numbers_are_those_of_yaml_1_2() -> None:
    policy = together(Part(), read_block(
        "policy: {rules: [{allow: chmod, on: /a, when: {mode: 0o644}},"
        " {allow: chmod, on: /b, when: {mode: {mask: 0o777, equal: 0o600}}}]}"
    ))  # fmt: skip
    assert ask(policy, "chmod", "/a", arguments={"mode": 0o644})
    assert not ask(policy, "chmod", "/a", arguments={"mode": 644})
    assert ask(policy, "chmod", "/b", arguments={"mode": 0o100600})
    assert not ask(policy, "chmod", "/b", arguments={"mode": 0o100640})


def test_who_denies_a_group_denies_what_it_does_and_who_allows_it_what_it_needs_too() -> None:
    denied = together(Part(), read_block("policy: {default: allow, rules: [{deny: write, on: /a}]}"))
    assert not ask(denied, "write", "/a")
    assert not ask(denied, "truncate", "/a")
    assert all(ask(denied, operation, "/a") for operation in ("open", "getattr", "lookup", "read", "fsync"))
    allowed = together(Part(), read_block("policy: {rules: [{allow: write, on: /a}, {allow: op:write, on: /b}]}"))
    assert all(ask(allowed, operation, "/a") for operation in ("open", "getattr", "lookup", "write", "fsync"))
    assert ask(allowed, "write", "/b")
    assert not ask(allowed, "open", "/b")


def test_names_of_several_mean_all_of_them_and_op_one() -> None:
    policy = together(Part(), read_block(
        "policy: {default: allow, rules: [{deny: rename, on: /a}, {deny: 'op:rename', on: /b},"
        " {deny: link-to, on: /c}]}"
    ))  # fmt: skip
    operations = ("rename", "rename-to", "link", "link-to")
    assert [ask(policy, operation, "/a") for operation in operations] == [False, False, True, True]
    assert [ask(policy, operation, "/b") for operation in operations] == [False, True, True, True]
    assert [ask(policy, operation, "/c") for operation in operations] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: {default: maybe}", "line 1, column 19: 'maybe' is not one of ['allow', 'deny']: "),
        ("policy: {rules: [{allow: 5, on: /a}]}", "line 1, column 26: 5 is not a word or a list of words: "),
        ("policy: {rules: [{on: /a}]}", "{'on': '/a'} is not a rule: allow or deny, on, "),
        ("policy: {rules: [{allow: read, deny: read, on: /a}]}", " is not a rule: allow or deny, on, "),
        ("policy: {rules: [{allow: read}]}", " is not a rule: allow or deny, on, "),
        ("policy: {rules: [{allow: read, on: /a, uid: x}]}", "'x' is not a user id, a range of them as 1000-1999"),
        ("policy: {rules: [{allow: chmod, on: /a, when: {mode: {bits: 1}}}]}", "is not a number, a text, or a map of"),
        (
            "policy: {rule: []}",
            "unknown key rule: policy: {rule: []}. Hint: known are default, kill, program, roles,",
        ),
        ("policy: {program: a, kill: 1}", "func.yaml, line 1, column 28: kill: a program decides alone"),
        ("policy: {program: ../a}", "../a"),
        ("policy: {kill: -1}", "-1 is less than the minimum of 0"),
        ("policy: {rules: [{allow: read, on: /a, kill: 3}]}", "a rule that allows has no denials to count"),
        ("policy: {kill: 1, kill: 2}", "func.yaml, line 1, column 19: the key kill stands twice"),
        ("policy: {rules: [{allow: read, on: /a, when: {1: 2}}]}", "column 47: the key 1 is no text"),
        (f"policy: {{kill: 0x{'f' * 4000}}}", "the number is too long"),
        ("policy: {rules: [{allow: read, on: /a, program: /usr/bin/*}]}", "/usr/bin/*: a program is one file"),
        ("policy: {rules: [", "func.yaml, line 1, column 18: expected the node content"),
        ("policy: &a {rules: *a}", "func.yaml, line 1, column 20: aliases are not allowed"),
    ],
)
def test_a_block_that_is_none_is_refused_with_the_place(text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize("number", range(12))
def test_the_one_of_many_rules_that_is_none_is_found(number: int) -> None:
    rules = ["{allow: read, on: /a}"] * 12
    rules[number] = "{allow: read, on: 5}"
    text = "policy:\n  rules:\n" + "".join(f"    - {rule}\n" for rule in rules)
    assert f"func.yaml, line {number + 3}, column 25: 5 is not a word or a list of words" in refusal(text)


WORDS: tuple[object, ...] = ("read", ["read", "write"], 5, None, True, [], {}, ["read", 5])


def test_a_plain_rule_is_one_that_the_schema_takes() -> None:
    schema = Schema(block.SCHEMA)
    plain = 0
    for keys in itertools.chain.from_iterable(
        itertools.combinations(("allow", "deny", "on", "kill"), n) for n in range(4)
    ):
        for values in itertools.product(WORDS, repeat=len(keys)):
            rule = dict(zip(keys, values, strict=True))
            if block.is_plain(rule):
                plain += 1
                assert not schema.fault({"rules": [rule]}), rule
    assert plain == len(("allow", "deny"))
    assert not any(map(block.is_plain, ("read", ["allow", "on"], None)))


def read_file(lines: list[str], written: str) -> object:
    """What casbin.parse_policy makes of LINES, or refuses them with."""
    try:
        return casbin.parse_policy("\n".join(lines), "p", casbin.parse_model(written, "m"))
    except BoesError as error:
        return str(error)


LETTERS = ("p", ",", ", ", " ", "/a", "/b-c/d.e", "read", "file", "dir", "deny", "denyx", "allow", "#", '"', "(")
ODD = ("\t", "\r", "\u00a0", "\u00e9", "\x0b", "\x85", "/", "alice", "", ")", "$", "\x1f", "\u2028")


@pytest.mark.parametrize("written", [M4, M8, model("sub, act"), model("obj, act", white=True)])
def test_lines_that_are_read_as_a_whole_mean_what_their_fields_do(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, plain = random.Random(7), 0
    effect = "allow" if casbin.parse_model(written, "m").whitelist else "deny"
    pattern = casbin._lines(casbin.parse_model(written, "m"))
    shape = {M8: "p, alice, /a, read, file, ", model("sub, act"): "p, alice, read, "}.get(
        written, "p, /a, read, file, "
    )
    for _ in range(4000):
        pieces = re.split("(, ?)", shape + effect)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            at = rng.randrange(len(pieces))
            pieces[at : at + rng.choice((0, 1))] = [rng.choice((*LETTERS, *ODD))]
        line = "".join(pieces)
        found = read_file([line, line], written)
        plain += any(pattern.findall(line)[0][1:])
        with monkeypatch.context() as patch:
            patch.setattr(casbin, "_lines", lambda model: re.compile("(?m)^(.*)()()()()$"))
            assert read_file([line, line], written) == found, line
    assert 1000 < plain < 3500


# --- what is probably not meant


def findings(text: str, mounts: tuple[str, ...] = ()) -> list[str]:
    source = sources.open_block(text, "func.yaml")
    return list(map(str, sources.compile_sources(None, source, HERE._replace(mounts=mounts)).findings))


RULES = """\
policy:
  default: deny
  rules:
    - allow: read
      on: /usr/**
    - {}
"""


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{deny: read, on: /etc/x}", "/etc/x: this rule decides nothing: it denies what the default denies already."
         " Hint: leave it out, or change default:"),
        ("{allow: op:read, on: /usr/**}", "/usr/**: this rule decides nothing: other rules decide all that it is"),
        ("{allow: read, on: /usr/bin/x}", "/usr/bin/x: this rule decides nothing: other rules decide all that it is"),
        ("{allow: read, on: /usr/**, when: {length: 1}}", "/usr/**: this rule decides nothing: other rules decide all"),
        ("{deny: write, on: /usr/x}", "/usr/x: this rule decides nothing: it denies what the default denies already"),
    ],
)  # fmt: skip
def test_rules_that_decide_nothing_are_told(rule: str, said: str) -> None:
    (told,) = findings(RULES.format(rule))
    assert told.startswith(f"func.yaml, line 6, column 7: {said}")


@pytest.mark.parametrize(
    "rule",
    [
        *("{deny: read, on: /usr/x}", "{allow: exec, on: /usr/x}", "{deny: read, on: /x, kill: 1}"),
        *("{deny: all, on: /usr/x/**}", "{deny: all, on: '/usr/*.d/**'}"),
        "{allow: read, on: '/x/a*'}\n    - {deny: all, on: '/x/ab*'}",
    ],
)
def test_rules_that_decide_something_are_not(rule: str) -> None:
    assert findings(RULES.format(rule)) == []


def test_a_block_without_rules_and_a_role_without_any_are_told() -> None:
    (told,) = findings("policy: {default: deny}")
    assert told.startswith("func.yaml, line 1, column 9: there is no rule. Hint: ")
    (told,) = findings("policy: {roles: {r: {uid: 1}}, rules: [{allow: read, on: /a}]}")
    assert told.startswith("func.yaml, line 1, column 21: no rule is for the role r")


def test_conditions_are_for_what_is_done_and_not_for_what_it_needs() -> None:
    policy = together(Part(), read_block("policy: {rules: [{allow: create, on: /a, when: {mode: 0o644}}]}"))
    assert all(ask(policy, operation, "/a") for operation in ("open", "lookup", "getattr"))
    assert ask(policy, "create", "/a", arguments={"mode": 0o100644})
    assert not ask(policy, "create", "/a", arguments={"mode": 0o100755})
    assert not ask(policy, "symlink", "/a"), "it has no mode, so the rule is not about it"


def test_lines_end_with_line_feeds_alone_and_a_byte_order_mark_is_none() -> None:
    text = "\ufeffp, /a\u2028b, read, file, deny\r\n# comment\x85p, /c, read, file, deny\n"
    both, found = casbin.parse_policy(text, "policy", casbin.parse_model(f"\ufeff{M4}", "model"))
    assert found == []
    assert [row.path for row in both.rows] == ["/a\u2028b"]


def test_a_program_is_called_by_its_name_and_by_its_path_with_or_without_usr() -> None:
    assert sources.called("/usr/bin/bash") == {"/usr/bin/bash", "/bin/bash", "bash"}
    assert sources.called("/bin/bash") == {"/usr/bin/bash", "/bin/bash", "bash"}
    assert sources.called("/opt/bin/bash") == {"/opt/bin/bash", "bash"}
    assert sources.called("bash") == {"bash"}
    assert sources.called("") == set()


@pytest.mark.parametrize(
    ("place", "inside"),
    [("/usr/lib/x", True), ("/home/x", False), ("/**/x", True), ("/*/bin", True), ("/h*/x", False), ("/", True),
     ("/usrx", False), ("/function/**", True), ("/var/lib/data/x", True), ("/var", True), ("/var/log/x", False)],
)  # fmt: skip
def test_places_where_the_sandbox_has_nothing_are_told(place: str, inside: bool) -> None:
    told = findings(f"policy: {{rules: [{{allow: read, on: '{place}'}}]}}", ("/usr", "/function", "/var/lib/data"))
    assert (told == []) == inside
    for one in told:
        assert one == (
            f"func.yaml, line 1, column 18: {place}: the sandbox has nothing there."
            " Hint: it has /function, /usr, /var/lib/data"
        )


def test_strict_takes_them_for_errors() -> None:
    source = sources.open_block(RULES.format("{deny: read, on: [/x, /y]}"), "func.yaml")
    with pytest.raises(BoesError, match=r"line 6, column 7: /x: this rule decides nothing: .*\(and 1 more\)") as caught:
        sources.compile_sources(None, source, HERE, strict=True)
    assert caught.value.code == "InvalidPolicy"


# --- as it was written


def test_a_policy_is_shown_as_it_was_written() -> None:
    block = sources.open_block(TASTE, "func.yaml")
    assert sources.written(block) == TASTE.split("\n", 1)[1]
    around = "name: x\npolicy: {default: allow}  # why\nmemory: 1\n"
    assert sources.written(sources.open_block(around, "func.yaml")).strip() == "{default: allow}"
    alone = "default: allow  # why\n"
    assert sources.written(sources.open_block(alone, "policy.yaml")) == alone
    files = PolicyFiles("m", M4, "p", "p, /a, read, file, deny\n")
    assert sources.written(files) == f"# m\n{M4}\n# p\np, /a, read, file, deny\n"


def test_a_compiler_leaves_the_collector_as_it_was() -> None:
    sandbox = Sandbox({})
    sources.compile_sources(None, PolicyBlock("f", "rules: []"), sandbox)
    assert gc.isenabled()
    with pytest.raises(BoesError):
        sources.compile_sources(None, PolicyBlock("f", "rules: 5"), sandbox)
    assert gc.isenabled()
    gc.disable()
    try:
        sources.compile_sources(None, PolicyBlock("f", "rules: []"), sandbox)
        assert not gc.isenabled()
    finally:
        gc.enable()
