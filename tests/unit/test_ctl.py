# SPDX-License-Identifier: Apache-2.0
"""boesfsctl as it is typed: answers, exit statuses, and what it says to words that it cannot use."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from samples import ROOT

from boesfsd import ctl
from boesfsd.ctl import denials, original
from boesfsd.ctl import run as run_verb
from boesfsd.errors import BoesError
from boesfsd.model import DENIAL

POLICY = """\
policy:
  rules:
    - allow: [read, list]
      on: ["${CODE}/**", "${DATA}/**"]
    - deny: chmod
      on: /data/**
      when: {mode: {mask: 0o6000}}
    - allow: [meta, rename, link, create]
      on: /data/**
    - allow: read
      on: /secret
      program: /bin/x
"""
MODEL = """\
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[policy_effect]
e = !some(where (p.eft == deny))
[matchers]
m = r.sub == p.sub && r.obj == p.obj && r.act == p.act
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p.yaml").write_text(POLICY)
    (tmp_path / "model").write_text(MODEL)
    (tmp_path / "policy").write_text("p, /bin/bash, /a, read, file, deny\np, bash, /b, read, file, deny\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Output = pytest.CaptureFixture[str]
YAML, CASBIN = "-f p.yaml --set DATA=/data", "-m model -p policy"


def run(words: str) -> int:
    return ctl.main(shlex.split(words))


@pytest.mark.parametrize(
    ("given", "question", "status"),
    [
        (YAML, "read /function/x", 0),
        (YAML, "write /function/x", 1),
        (YAML, "lookup /data", 0),
        (YAML, "read /data/x", 0),
        (YAML, "chmod /data/x mode=0o755", 0),
        (YAML, "chmod /data/x 0o4755", 1),
        (YAML, "chmod /data/x 04755", 1),
        (YAML, "chmod /data/x 0x9ed", 1),
        (YAML, "setattr /data/x 0o4755 0 0", 1),
        (YAML, "setattr /data/x '*' 0 0", 0),
        (YAML, "setattr /data/x", 1),
        (YAML, "rename /data/x /data/y", 0),
        (YAML, "rename /data/x /other", 1),
        (YAML, "rename /data/x", 0),
        (YAML, "link /data/x other=/function/x", 1),
        (YAML, "read /secret", 1),
        (f"{YAML} --subject /bin/x", "read /secret", 0),
        (CASBIN, "read /a", 0),
        (f"{CASBIN} --subject /bin/bash", "read /a", 1),
        (f"{CASBIN} --subject /bin/bash", "read /b", 1),
        (f"{CASBIN} --subject /usr/bin/bash", "read /a", 1),
        (f"{CASBIN} --subject /opt/bin/bash", "read /a", 0),
        (f"{CASBIN} --subject /opt/bin/bash", "read /b", 1),
        (f"{CASBIN} --subject bash", "write /b", 0),
    ],
)
def test_decide_answers_by_word_and_exit_status(
    files: Path, capsys: Output, given: str, question: str, status: int
) -> None:
    assert run(f"policy decide {given} {question}") == status
    assert capsys.readouterr().out.startswith("deny: " if status else "allow: ")


def test_decide_says_which_rule_and_what_it_depends_on(files: Path, capsys: Output) -> None:
    run(f"policy decide {YAML} chmod /data/x")
    out, err = capsys.readouterr()
    assert out == "allow: p.yaml, line 8, column 7: - allow: [meta, rename, link, create] [/data/**]\n"
    assert err == "It depends on mode, which was not given.\n"
    run(f"policy decide {YAML} lookup /")
    assert "on the way to what is allowed" in capsys.readouterr().out
    run(f"policy decide {YAML} read /x")
    assert "no rule decides, so the default does" in capsys.readouterr().out


def test_decide_answers_in_json(files: Path, capsys: Output) -> None:
    run(f"policy decide --json {YAML} chmod /data/x 0o4755")
    assert json.loads(capsys.readouterr().out) == {
        "decision": "deny",
        "operation": "chmod",
        "path": "/data/x",
        "reason": "p.yaml, line 5, column 7: - deny: chmod [/data/**]",
        "rule": {"file": "p.yaml", "line": 5, "column": 7, "text": "- deny: chmod"},
        "depends": [],
    }
    run(f"policy decide --json {YAML} read /secret")
    answer = json.loads(capsys.readouterr().out)
    assert (answer["decision"], answer["rule"], answer["depends"]) == ("deny", None, ["program"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"decide {YAML} raed /a", "raed is no operation. Hint: did you mean read?"),
        (f"decide {YAML} read a", "a: a path is absolute"),
        (f"decide {YAML} read /a 1 2 3", "3: read has no such argument. Hint: it has length, offset"),
        (f"decide {YAML} chmod /a mode=rwx", "mode: rwx is no number. Hint: write 420, 0x1a4 or 0o644"),
        (f"decide {YAML} chmod /a {1 << 64}", "is too large"),
        (f"decide {YAML} rename /a b", "b: a path is absolute"),
        ("decide -f p.yaml read /a", "unknown variable ${DATA}"),
        ("decide -f p.yaml --set DATA read /a", "--set DATA: this is no NAME=PATH"),
        ("decide -f none.yaml read /a", "none.yaml cannot be read: No such file or directory"),
        ("decide -m model read /a", "It is not said which policy. Hint: give -f FILE, or -m MODEL and -p POLICY"),
        (f"decide {YAML} {CASBIN} read /a", "Two policies are said"),
        ("decide -f bytes read /a", "bytes, line 2: this is not UTF-8. Hint: save it as UTF-8"),
        (f"verify --strict {CASBIN}", "policy, line 1, column 1: rules for /bin/bash never match here"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_remedy(files: Path, capsys: Output, words: str, said: str) -> None:
    (files / "bytes").write_bytes(b"default: deny\n\xff\n")
    assert run(f"policy {words}") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("boesfsctl: ")
    assert said in err


def test_decide_warns_of_rules_for_another_program(files: Path, capsys: Output) -> None:
    assert run(f"policy decide {CASBIN} read /a") == 0
    assert "rules for /bin/bash never match here: this sandbox's program is nothing" in capsys.readouterr().err


def test_a_fault_is_not_taken_for_a_denial(files: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl.policy.questions, "parse", lambda *_: [None])
    assert run(f"policy decide {YAML} read /a") == 70
    assert "Traceback" in capsys.readouterr().err


def test_names_that_are_no_text_are_printed_all_the_same(files: Path) -> None:
    program = "import sys; from boesfsd.ctl import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "policy", "decide", *shlex.split(YAML), "--json", "read", b"/function/\xff"]
    done = subprocess.run(words, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["path"]) == (0, "/function/\udcff")


def test_verify_warns_and_counts(files: Path, capsys: Output) -> None:
    assert run(f"policy verify {CASBIN} --subject /bin/bash") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == "2 rules, 3 states, 2 names, 0 warnings\n"
    assert run(f"policy verify {CASBIN} --subject sh") == 0
    out, err = capsys.readouterr()
    assert "rules for bash never match here: this sandbox's program is sh" in err
    assert "2 warnings" in out


def test_the_schema_is_one_and_takes_what_the_reader_takes(capsys: Output) -> None:
    assert run("policy schema") == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    assert checker.is_valid({"default": "deny", "rules": [{"allow": ["read", "op:read"], "on": "/a", "uid": "1-2"}]})
    assert not checker.is_valid({"rules": [{"allow": "read"}]})


@pytest.mark.parametrize("words", ["", "policy", "policy decide", "nothing", "policy decide -x"])
def test_words_that_are_no_command_are_2(files: Path, capsys: Output, words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)
    assert ended.value.code == 2
    assert "usage: boesfsctl" in capsys.readouterr().err


def test_it_needs_neither_root_nor_the_daemon(files: Path) -> None:
    files.chmod(0o755)
    program = "import os, sys; from boesfsd.ctl import main; os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "policy", "decide", *shlex.split(YAML), "write", "/function/x"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "deny: no rule decides, so the default does\n"), done.stderr


def test_a_reader_that_has_seen_enough_is_no_fault(files: Path) -> None:
    program = "import sys; from boesfsd.ctl import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "policy", "verify", *shlex.split(YAML)]
    with subprocess.Popen(
        command, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ctl_:
        assert ctl_.stdout
        assert ctl_.stderr
        ctl_.stdout.close()
        assert b"Error" not in ctl_.stderr.read()
        assert ctl_.wait() == 141


# --- denials

ENTRY = {
    "__REALTIME_TIMESTAMP": "1700000000000000",
    "BOESFS_APP": "shop",
    "BOESFS_FUNCTION": "hello",
    "BOESFS_CALL_ID": "CALL",
    "MESSAGE": "Denied read /x to cat (pid 5): rule",
    "PRIORITY": "5",
}


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says how it was called, and one entry. The real one is asked in tests/vm."""
    script = tmp_path / "journalctl"
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/words\necho '{json.dumps(ENTRY)}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(denials, "JOURNALCTL", str(script))
    return tmp_path / "words"


def test_denials_are_shown_in_a_line_or_as_json(journalctl: Path, capsys: Output) -> None:
    assert run("denials") == 0
    assert capsys.readouterr().out.endswith(" shop/hello [CALL]: Denied read /x to cat (pid 5): rule\n")
    assert run("denials --json") == 0
    assert json.loads(capsys.readouterr().out) == {name: ENTRY[name] for name in ENTRY if name.startswith("BOESFS_")}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("denials", set()),
        ("denials shop", {"BOESFS_APP=shop"}),
        ("denials shop/hello -f -n 3 --since=-1h", {"BOESFS_APP=shop", "BOESFS_FUNCTION=hello", "--follow", "--lines=3",
                                                    "--since=-1h"}),
    ],
)  # fmt: skip
def test_the_journal_is_asked_for_them_alone(journalctl: Path, words: str, asked: set[str]) -> None:
    assert run(words) == 0
    always = {"--quiet", "--output=json", "--all", f"MESSAGE_ID={DENIAL}", "_UID=0"}
    assert set(journalctl.read_text().split()) == always | asked


def test_what_is_no_function_is_refused(journalctl: Path, capsys: Output) -> None:
    assert run("denials shop/") == 2
    assert "shop/: this is no APP/FN" in capsys.readouterr().err


def test_a_journalctl_that_fails_or_is_not_there_is_told(
    journalctl: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "JOURNALCTL", "/bin/false")
    assert run("denials") == 70
    monkeypatch.setattr(denials, "JOURNALCTL", "/nowhere/journalctl")
    assert run("denials") == 69
    assert "/nowhere/journalctl cannot be run: No such file or directory" in capsys.readouterr().err


def test_programs_are_root_s_and_need_libbpf(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """What they do is shown in tests/vm."""
    monkeypatch.setitem(sys.modules, "_boesfs_bpf", None)
    assert run("program list") == 69
    assert "boesfsd's way to libbpf cannot be loaded" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 1)
    assert run("program set a b") == 77
    assert "Only root" in capsys.readouterr().err


def test_a_policy_that_is_a_program_is_asked_nothing(files: Path, capsys: Output) -> None:
    (files / "f.yaml").write_text("policy: {program: quota}\n")
    assert run("policy decide -f f.yaml read /x") == 2
    assert "f.yaml: the program quota decides, and says to nobody what" in capsys.readouterr().err


@pytest.mark.parametrize("uid", ["-1", "x", "4294967296"])
def test_a_uid_that_is_none_is_named(capsys: Output, uid: str) -> None:
    with pytest.raises(SystemExit):
        run(f"policy test --uid={uid} a/f read /x")
    assert f"{uid} is no user id" in capsys.readouterr().err


# --- boesfs and gofs


@pytest.mark.parametrize(
    ("words", "go", "run"),
    [
        ("-d T -k 5 -m M -p P -l LOG python3 -l x", True, "-d T -m M -p P --log LOG --kill 5 -- python3 -l x"),
        ("-d T -m M -p P -l LOG ls", False, "-d T -m M -p P --log LOG -- ls"),
        ("-dT -k=5 -mM -p=P -lLOG ls", True, "-d T -m M -p P --log LOG --kill 5 -- ls"),
        ("-d T ls", False, "-d T -m HOME/model.txt -p HOME/policy.txt -- ls"),
        ("-d T -u -k 0 ls", True, "-d T -m HOME/model.txt -p HOME/policy.txt --kill 0 -- ls"),
        ("-d T -uquota -vk 3 ls -d x", False, "-d T --program quota --verbose -- ls -d x"),
        ("-vd T --log=LOG -- -x", False, "-d T -m HOME/model.txt -p HOME/policy.txt --log LOG --verbose -- -x"),
    ],
)
def test_the_options_of_both_agents_are_ours(
    words: str, go: bool, run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = original.to_run(original.parse(words.split(), go=go), go=go)
    wanted = run.replace("HOME", str(tmp_path / ".boesfs/acl/model")).split()
    long = {"-d": "--directory", "-m": "--model", "-p": "--policy"}
    end = wanted.index("--")
    wanted = [*(long.get(word, word) for word in wanted[:end]), *wanted[end:]]
    assert found == ["run", "--interactive", "--init", *wanted]


def test_the_c_agent_s_log_has_its_own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = original.to_run(original.parse(["-d", "T", "-l", "/bin/ls"], go=False), go=False)
    assert found[found.index("--log") + 1] == str(tmp_path / f".boesfs/log/ls_{os.getpid()}.txt")
    assert (tmp_path / ".boesfs/log").is_dir()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ls", "-d DIR is missing"),
        ("-d T", "COMMAND is missing"),
        ("-d", "-d wants a value"),
        ("-d T -k -1 ls", "-k -1: this is no number from 0 on"),
        ("-d T -r ls", "the demonstration of a reload, is not there"),
        ("-d T -u ls", "-u: it is not said which program decides"),
        ("-d T -x ls", "there is no option -x"),
        ("-d T -a ls", "there is no option -a"),
    ],
)
def test_options_of_the_agents_that_cannot_be_meant_are_named(words: str, says: str) -> None:
    with pytest.raises(BoesError, match=re.escape(says)):
        original.to_run(original.parse(words.split(), go=False), go=False)


@pytest.mark.parametrize(("text", "size"), [("512M", 512), ("2g", 2048), ("1024k", 1), ("7", 7), ("1GiB", 1024)])
def test_sizes_are_mebibytes(text: str, size: int) -> None:
    assert run_verb.mebibytes(text) == size


@pytest.mark.parametrize("text", ["0", "1k", "", "x", "-1", "1.5G", "5P"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        run_verb.mebibytes(text)


@pytest.mark.parametrize(("text", "time"), [("90", 90), ("5m", 300), ("1H", 3600), ("2d", 172800), ("7s", 7)])
def test_times_are_seconds(text: str, time: int) -> None:
    assert run_verb.seconds(text) == time


@pytest.mark.parametrize("text", ["0", "", "x", "1w", "-1", "1.5", "99999999999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        run_verb.seconds(text)
