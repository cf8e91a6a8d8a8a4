# SPDX-License-Identifier: Apache-2.0
"""Policies without BoesFS: what of them this kernel's Landlock and the sandbox's mounts keep, judged by the oracle."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import OwnLab
from lab import FUNCTION, PROBE, Deployed, Lab, wait_for

sys.path.insert(0, str(Path(__file__).parents[2]))
from boesfsd.model import PolicyBlock
from boesfsd.policy import oracle
from boesfsd.policy.places import split
from boesfsd.policy.sources import Sandbox, compile_sources
from boesfsd.policy.table import Request

Deploy = Callable[..., Deployed]
RUNTIME = "  - {allow: [read, list, exec], on: ['${CODE}/**', '/usr/**', '/python/**']}\n"
FREE = "  - {allow: [read, write, list, create, delete, meta], on: '${TMP}/**'}\n"
SECRET = "  - {deny: [read, list, exec], on: '${CODE}/data/**'}\n  - {allow: read, on: '${CODE}/data/public'}\n"
TREE = {"func.py": PROBE, "data/secret": "s", "data/public": "p", "tool": "#!/usr/bin/sh\nexit 7\n", "script": "true\n"}
# what a function tries: operation and path; how, and whether it went
TRIED = """
import errno, os, subprocess
def wrote(path):
    with open(path, "w") as file:
        file.write("x")
WAYS = {
    "read": lambda path: open(path).read(1),
    "iterate": os.listdir,
    "exec": lambda path: subprocess.run([path], check=False),
    "create": wrote,
    "write": wrote,
    "truncate": lambda path: os.truncate(path, 0),
    "chmod": lambda path: os.chmod(path, 0o700),
    "mkdir": os.mkdir,
    "symlink": lambda path: os.symlink("x", path),
    "mknod": os.mkfifo,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "link-to": lambda path: os.link("/tmp/d/f", path),
    "rename-to": lambda path: os.rename("/tmp/d/f", path),
}
def went(operation, path):
    try:
        WAYS[operation](path)
        return True
    except OSError as error:
        return errno.errorcode[error.errno]
result = [went(*question) for question in QUESTIONS]
"""
READING = [
    *(
        ("read", path)
        for path in ("/function/func.py", "/function/data/secret", "/function/data/public", "/etc/passwd")
    ),
    *(("read", path) for path in ("/etc/group", "/usr/lib/os-release", "/usr/share/common-licenses/GPL-3")),
    *(("iterate", path) for path in ("/function", "/usr/bin", "/tmp", "/usr/share/common-licenses")),
    *(("exec", path) for path in ("/usr/bin/true", "/function/tool")),
]
WRITING = [
    *(("create", "/tmp/a"), ("truncate", "/tmp/a"), ("chmod", "/tmp/a"), ("exec", "/tmp/a"), ("unlink", "/tmp/a")),
    *(
        ("mkdir", "/tmp/d"),
        ("create", "/tmp/d/x"),
        ("unlink", "/tmp/d/x"),
        ("symlink", "/tmp/d/l"),
        ("unlink", "/tmp/d/l"),
    ),
    *(
        ("mknod", "/tmp/d/f"),
        ("link-to", "/tmp/d/g"),
        ("rename-to", "/tmp/h"),
        ("unlink", "/tmp/d/g"),
        ("unlink", "/tmp/h"),
    ),
    *(("rmdir", "/tmp/d"), ("create", "/function/new"), ("iterate", "/etc"), ("iterate", "/")),
    *(("create", "/dev/shm/x"), ("create", "/usr/x"), ("chmod", "/function/tool"), ("create", "/etc/x")),
]


def try_all(function: Deployed, questions: list[tuple[str, str]]) -> list[bool | str]:
    """What went, and why not."""
    answer = function.call(f"QUESTIONS = {questions!r}\n{TRIED}")
    assert answer.status == 200, answer.text
    found: list[bool | str] = json.loads(answer.text)
    return found


def wanted(policy: str, questions: list[tuple[str, str]]) -> list[bool]:
    """What the oracle says; what is mounted read-only stays so."""
    compiled = compile_sources(None, PolicyBlock("p", policy), Sandbox({"CODE": "/function", "TMP": "/tmp"}))
    said = []
    for operation, path in questions:
        reads = operation in ("read", "iterate", "exec")
        allowed = oracle.decide(compiled.policy, Request(operation, split(path.encode())))[0]
        said.append(allowed and (reads or path.startswith(("/tmp", "/dev/shm"))))
    return said


@pytest.fixture(scope="module")
def own(own_lab: OwnLab) -> Iterator[Lab]:
    """A machine whose administrator takes what is stricter."""
    with own_lab("landlock") as lab:
        conf = "printf 'stricter = yes\\n' > /etc/boesfsd/conf.d/50-test.conf"
        lab.machine.shell(f"{conf}; systemctl restart boesfsd")
        yield lab


@pytest.mark.parametrize(
    "more",
    [
        FREE + "  - {allow: read, on: /etc/passwd}\n",
        FREE + "  - {deny: exec, on: '${CODE}/**'}\n",
        "  - {allow: all, on: /tmp/**}\n  - {allow: [read, write, create, list, delete, meta], on: /dev/shm/**}\n",
        "",
    ],
    ids=["files", "no exec of code", "all of tmp", "nothing to write"],
)
def test_a_policy_that_is_kept_exactly_is_what_the_oracle_says(deploy: Deploy, more: str) -> None:
    policy = f"default: deny\nrules:\n{RUNTIME}{more}"
    function = deploy(dict(TREE), policy=policy)
    questions = READING + WRITING
    for question, went, allowed in zip(questions, try_all(function, questions), wanted(policy, questions), strict=True):
        assert (went in (True, "ENOEXEC")) == allowed, (question, went)  # ENOEXEC: it may, and is no program
    assert True not in try_all(function, [("read", "/etc/shadow"), ("create", "/function/x")])


def test_what_is_kept_more_strictly_needs_consent_and_hides_what_is_denied(own: Lab, deploy: Deploy) -> None:
    twice = "  - {deny: exec, on: '/usr/lib/boesfs/**'}\n"  # which is at /python too, where it may be run
    policy = f"default: deny\nrules:\n{RUNTIME}{FREE}{SECRET}{twice}"
    with pytest.raises(AssertionError, match=r"stricter: option policy, line \d+, column") as refused:
        deploy(dict(TREE), policy=policy)
    assert "set stricter = yes in boesfsd.conf" in str(refused.value)
    app = own.app()
    function = own.deploy(app, dict(TREE), policy=policy)
    questions = READING + WRITING
    for question, went, allowed in zip(questions, try_all(function, questions), wanted(policy, questions), strict=True):
        assert allowed or went is not True, question
    assert try_all(function, [("read", "/function/data/public"), ("read", "/function/func.py")]) == [True, True]
    assert try_all(function, [("read", "/function/data/secret")]) == ["ENOENT"]
    assert try_all(function, [("exec", "/usr/lib/boesfs/runtimes/python/bin/fdk")]) != [True]
    changes = own.bus.manager("Deploy", "sssa{sv}", app, function.name, own.source(dict(TREE)), {
        "policy": {"$": ["s", policy]}, "replace": {"$": ["b", True]}, "dry-run": {"$": ["b", True]},
    })[1]  # fmt: skip
    assert any("it is kept stricter" in name for what, _, name in changes if what == "warning"), changes


def test_what_goes_from_the_host_does_not_keep_instances_from_starting(own: Lab) -> None:
    names = ("denied", "stays", "goes")
    own.machine.shell(
        "mkdir -p /usr/share/boesfs-test; cd /usr/share/boesfs-test; for n in denied stays goes; do echo $n > $n; done"
    )
    policy = f"default: deny\nrules:\n{RUNTIME}  - {{deny: all, on: /usr/share/boesfs-test/denied}}\n"
    policy += "  - {deny: exec, on: '/usr/share/boesfs-test/*'}\n"
    function = own.deploy(own.app(), dict(TREE), policy=policy)
    questions = [("read", f"/usr/share/boesfs-test/{name}") for name in names]
    assert try_all(function, questions) == ["ENOENT", True, True]
    own.machine.shell("rm /usr/share/boesfs-test/goes; ln -s stays /usr/share/boesfs-test/link")
    own.bus.call(function.path, FUNCTION, "Stop")
    own.bus.call(function.path, FUNCTION, "Start")
    assert try_all(function, questions)[:2] == ["ENOENT", True]
    own.machine.shell("cd /usr/share/boesfs-test; rm stays; ln -s denied stays")
    own.bus.call(function.path, FUNCTION, "Stop")
    own.bus.call(function.path, FUNCTION, "Start")
    gone = [*questions[:1], ("read", "/usr/share/boesfs-test/stays")]
    assert try_all(function, gone) == ["ENOENT", "ENOENT"]  # the link leads to what is not in the sandbox
    own.machine.run("systemctl", "reload", "boesfsd")
    own.bus.call(function.path, FUNCTION, "Stop")
    own.bus.call(function.path, FUNCTION, "Start")
    assert try_all(function, gone) == ["ENOENT", "ENOENT"]


def test_consent_that_is_withdrawn_ends_what_needs_it(own: Lab) -> None:
    policy = f"default: deny\nrules:\n{RUNTIME}{SECRET}"
    function = own.deploy(own.app(), dict(TREE), policy=policy)
    assert try_all(function, [("read", "/function/data/public")]) == [True]
    own.machine.shell("echo 'stricter = no' > /etc/boesfsd/conf.d/60-test.conf; systemctl reload boesfsd")
    wait_for(lambda: function.instances() == [])
    assert "cannot be kept as it is" in function.get("LastError")
    assert function.call("result = 1").status in (502, 503)
    own.machine.shell("rm /etc/boesfsd/conf.d/60-test.conf; systemctl reload boesfsd")
    assert try_all(function, [("read", "/function/data/public")]) == [True]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("  - {allow: read, on: /etc/passwd, audit: true}\n", "nobody tells of what is allowed"),
        ("  - {allow: read, on: /etc/passwd, uid: 0}\n", "arguments, programs and users are not looked at"),
        ("kill: 3\n", "kill: nobody counts denials"),
        ("  - {allow: [read, write, create], on: /tmp/**}\n", "cannot be denied in /tmp, where writing is allowed"),
    ],
)
def test_what_cannot_be_kept_is_refused(deploy: Deploy, rule: str, said: str) -> None:
    with pytest.raises(AssertionError, match="impossible") as refused:
        deploy(dict(TREE), policy=f"default: deny\nrules:\n{RUNTIME}{rule}")
    assert said in str(refused.value)
    assert "set enforcement = boesfs in boesfsd.conf" in str(refused.value)


def test_what_the_runtime_hides_stays_hidden(deploy: Deploy) -> None:
    policy = f"default: deny\nrules:\n{RUNTIME}  - {{allow: [read, list], on: /usr/lib/python3/dist-packages/**}}\n"
    questions = [("iterate", "/usr/lib/python3/dist-packages"), ("read", "/usr/lib/python3/dist-packages/README")]
    hidden = "import os\nresult = os.listdir('/usr/lib/python3/dist-packages')"
    function = deploy(dict(TREE), policy=policy)
    assert try_all(function, questions) == [True, "ENOENT"]
    assert json.loads(function.call(hidden).text) == []
    below = policy.replace(
        "'/usr/**', ", "/usr/lib/x86_64-linux-gnu/**, /usr/lib/python3.13/**, '/usr/bin/**', /usr/lib64/**, "
    )
    below = below.replace("dist-packages/**", "dist-packages/yaml/**")
    function = deploy(dict(TREE), policy=below)
    assert try_all(function, [("iterate", "/usr/lib/python3/dist-packages/yaml")]) == ["ENOENT"]


def test_another_policy_is_kept_by_the_next_instance(lab: Lab, deploy: Deploy) -> None:
    without = f"default: deny\nrules:\n{RUNTIME}{FREE}"
    function = deploy(dict(TREE), policy=without)
    assert try_all(function, [("read", "/etc/passwd")]) == ["ENOENT"]
    shown = lab.machine.run("boesfsctl", "policy", "show", f"{function.app}/{function.name}").stdout
    assert "# no table: it is kept by mounts and Landlock" in shown, shown
    asked = lab.machine.run("boesfsctl", "policy", "test", f"{function.app}/{function.name}", "read", "/x", check=False)
    assert (asked.returncode, "is kept by mounts and Landlock" in asked.stderr) == (69, True), asked
    more = f"{without}  - {{allow: read, on: /etc/passwd}}\n"
    lab.bus.call(function.path, FUNCTION, "SetPolicy", "sa{sv}", more, {})
    wait_for(lambda: try_all(function, [("read", "/etc/passwd")]) == [True])
    assert function.call(f"QUESTIONS = []\n{TRIED}").status == 200


def test_verify_tells_how_each_rule_is_kept(lab: Lab) -> None:
    policy = (
        f"default: deny\nrules:\n{RUNTIME}  - {{deny: read, on: /usr/bin/env}}\n  - {{allow: read, on: /x, uid: 1}}\n"
    )
    file = f"{lab.source({'p.yaml': policy})}/p.yaml"
    done = lab.machine.run("boesfsctl", "policy", "verify", "--landlock", "python", "-f", file, check=False)
    kinds = [line.split(":")[0] for line in done.stdout.splitlines()[1:]]
    assert (done.returncode, kinds) == (2, ["exact", "stricter", "exact", "stricter", "impossible"]), done.stdout
