# SPDX-License-Identifier: Apache-2.0
"""What only a kernel with BoesFS in it can show: functions whose every file operation is judged by their policy. Runs
inside the VM; outside, it is imported for the names of its checks."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import PATIENCE, Bench, answer_of, ask, check
from lab import APP, ERROR, FUNCTION, HELLO, MANAGER, MANIFEST, PROBE, ROOT, BusError, Deployed, wait_for

HOST_POLICY = Path("/etc/boesfsd/policy.yaml")
PLACES = {"/", "/usr", "/python", "/python/httptools", "/function", "/dev/shm", "/tmp"}  # with a mount each
LICENCES = "/usr/share/common-licenses"
RUNTIME = "  - {allow: [read, list, exec], on: ['${CODE}/**', /usr/**, /python/**]}\n"
POLICY = f"""
default: deny
rules:
{RUNTIME}
  - {{allow: read, on: /etc/passwd}}
  - {{deny: read, on: ["${{CODE}}/secret", "{LICENCES}/**"]}}
  - {{allow: [read, write, list, create, delete, meta], on: "${{TMP}}/**"}}
  - {{deny: chmod, on: "${{TMP}}/**", when: {{mode: {{mask: 0o6000}}}}}}
"""
ALL = "rules:\n  - {allow: all, on: /**}\n"
TRY = """
import errno, os, subprocess
def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]
def read(path):
    return attempt(lambda: open(path, errors="replace").read(1))
"""
DENIED, READ_ONLY = "EPERM", "EROFS"
DENIAL = "b2f6f3d0c9a84f0f9d0f5c1e7a3b6d42"  # MESSAGE_ID of an entry about it


def inside(function: Deployed, expression: str) -> Any:
    """What an expression is in the function."""
    return answer_of(function, f"{TRY}\nresult = {expression}")


def deploy(bench: Bench, policy: str, /, **options: Any) -> Deployed:
    """A probe under a policy, with two files beside it."""
    return bench.deploy({"func.py": PROBE, "secret": "s", "public": "p"}, policy=policy, **options)  # type: ignore[arg-type]


def refusal(bench: Bench, policy: str) -> BusError:
    """How Deploy refuses it."""
    name, source = bench.lab.unique("fn"), bench.lab.source({"func.py": PROBE})
    return refused(
        lambda: bench.lab.bus.manager("Deploy", "sssa{sv}", bench.app, name, source, {"policy": {"$": ["s", policy]}})
    )


def refused(call: Callable[[], object]) -> BusError:
    """The error that a call to boesfsd ends with."""
    try:
        call()
    except BusError as error:
        return error
    raise AssertionError("not refused")


def in_boesfsd(bench: Bench, code: str) -> Any:
    """What some lines make of `result`, with boesfsd's own way to the kernel, opened as `kernel`."""
    head = "import json, sys\nsys.path.insert(0, '/usr/lib/boesfs/python')\nfrom boesfsd.kernel import Policies\n"
    script = f"{head}kernel = Policies()\nresult = None\n{code}\nprint(json.dumps(result))"
    return json.loads(bench.lab.machine.run("python3", "-I", "-c", script).stdout)


def tables(bench: Bench) -> dict[int, list[int]]:
    """The tables of each policy."""
    found: dict[int, list[int]] = {}
    for number, policy in in_boesfsd(bench, "result = [table[:2] for table in kernel.tables()]"):
        found.setdefault(policy, []).append(number)
    return found


# --- the root


@check
def every_piece_of_the_root_comes_through_boesfs_under_the_functions_policy(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    rows = [row.split(" - ") for row in inside(function, "open('/proc/self/mountinfo').read()").splitlines()]
    governed = {place.split()[4]: rest for place, rest in rows if rest.startswith("boesfs ")}
    assert governed.keys() == PLACES, rows
    for place, rest in governed.items():
        options = rest.split()[-1].split(",")
        assert {"policy=boesfsd", f"policy_id={function.get('Uid')}", f"at={place}"} <= set(options), rest
    instances = {next(o for o in rest.split(",") if o.startswith("instance=")) for rest in governed.values()}
    unit = function.unit()
    invocation = bench.lab.show(unit, "InvocationID")["InvocationID"]
    assert instances == {f"instance={int(invocation[:16], 16)}"}, (instances, invocation)
    others = {place.split()[4]: rest.split()[0] for place, rest in rows if not rest.startswith("boesfs ")}
    assert {kind for place, kind in others.items() if not place.startswith("/dev/")} <= {"proc", "tmpfs"}, others
    function.remove()


@check
def a_policy_that_spans_code_usr_etc_and_tmp_is_kept_in_each(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    found = inside(
        function,
        f"""{{
            "code": [read("/function/public"), read("/function/secret"), attempt(lambda: open("/function/new", "w"))],
            "usr": [read("/usr/bin/env") is not None, read("{LICENCES}/GPL-2"), len(os.listdir("/usr/bin")) > 10],
            "etc": [read("/etc/passwd"), read("/etc/group"), attempt(lambda: os.listdir("/etc"))],
            "tmp": [open("/tmp/a", "w").write("x"), read("/tmp/a"), attempt(lambda: os.chmod("/tmp/a", 0o600)),
                    attempt(lambda: os.chmod("/tmp/a", 0o4700)), attempt(lambda: os.unlink("/tmp/a"))],
            "else": [attempt(lambda: os.stat("/dev/shm")), attempt(lambda: os.stat("/etc/shadow")), read("/dev/null")],
        }}""".replace("\n", " "),
    )
    assert found == {
        "code": ["p", DENIED, READ_ONLY],
        "usr": [True, DENIED, True],
        "etc": ["r", DENIED, DENIED],
        "tmp": [1, "x", None, DENIED, None],
        "else": [DENIED, "ENOENT", ""],
    }, found
    function.remove()


@check
def without_a_policy_that_of_the_host_holds(bench: Bench) -> None:
    found = inside(
        bench.neighbour,
        "[read('/etc/passwd'), read('/function/func.py'), attempt(lambda: open('/function/x', 'w')),"
        " open('/tmp/y', 'w').write('x'), attempt(lambda: os.unlink('/usr/bin/env')), read('/etc/hosts')]",
    )
    assert found == ["r", "i", READ_ONLY, 1, READ_ONLY, "1"], found


# --- where a policy is written


@check
def a_policy_is_written_in_func_yaml_in_a_file_beside_it_or_in_the_original_s_two(bench: Bench) -> None:
    block = "".join(f"  {line}\n" for line in POLICY.strip().splitlines())
    model = (
        "[request_definition]\nr = obj, act\n[policy_definition]\np = obj, act\n"
        "[policy_effect]\ne = !some(where (p.eft == deny))\n[matchers]\nm = r.obj == p.obj && r.act == p.act\n"
    )
    rules = "p, /function/secret, read, file, deny\n"
    spellings: list[dict[str, str | bytes]] = [
        {"func.yaml": f"{MANIFEST}policy:\n{block}"},
        {"func.yaml": f"{MANIFEST}policy: rules/policy.yaml\n", "rules/policy.yaml": POLICY},
        {"func.yaml": f"{MANIFEST}policy: {{model: m.conf, policy: p.csv}}\n", "m.conf": model, "p.csv": rules},
    ]
    for files in spellings:
        function = bench.deploy({"func.py": PROBE, "secret": "s", "public": "p", **files})  # type: ignore[arg-type]
        assert inside(function, "[read('/function/public'), read('/function/secret')]") == ["p", DENIED], files
        function.remove()


@check
def the_rules_of_an_app_hold_for_its_functions_and_theirs_win(bench: Bench) -> None:
    app = bench.lab.unique("app")
    policy = "rules:\n  - {allow: all, on: /**}\n  - {deny: read, on: ['${CODE}/secret', '${CODE}/public']}\n"
    bench.lab.bus.manager("CreateApp", "sa{sv}", app, {"policy": {"$": ["s", policy]}})
    files: dict[str, str | bytes] = {"func.py": PROBE, "secret": "s", "public": "p"}
    own = "rules: [{allow: read, on: '${CODE}/public'}]\n"
    for options, wanted in (({}, [DENIED, DENIED]), ({"policy": own}, ["p", DENIED])):
        function = bench.lab.deploy(app, files, concurrency=1, timeout=120, **options)
        assert inside(function, "[read('/function/public'), read('/function/secret')]") == wanted
    bench.lab.bus.manager("RemoveApp", "s", app)


@check
def a_program_may_what_others_may_not(bench: Bench) -> None:
    policy = POLICY + "  - {allow: read, on: '${CODE}/secret', program: /usr/bin/cat}\n"
    function = deploy(bench, policy)
    run = "subprocess.run([{}, '/function/secret'], capture_output=True).stdout.decode()"
    copied = "(open('/tmp/cat', 'wb').write(open('/usr/bin/cat', 'rb').read()), os.chmod('/tmp/cat', 0o755))[1]"
    found = inside(function, f"[read('/function/secret'), {run.format(repr('/usr/bin/cat'))}, {copied}]")
    assert found == [DENIED, "s", None], found
    function.replace(policy=policy.replace("create, delete, meta]", "create, delete, meta, exec]"), concurrency=1)
    found = inside(function, f"[{copied}, {run.format(repr('/tmp/cat'))}, {run.format(repr('/usr/bin/cat'))}]")
    assert found == [None, "", "s"], found
    function.remove()


@check
def a_program_that_is_upgraded_counts_and_who_runs_as_the_one_before_too(bench: Bench) -> None:
    program, shell = "/usr/bin/upgraded", bench.lab.machine.shell
    shell(f"cp /usr/bin/cat {program}")
    function = deploy(bench, f"{POLICY}  - {{allow: read, on: '${{CODE}}/secret', program: {program}}}\n")
    run = f"subprocess.run(['{program}', '/function/secret'], capture_output=True).stdout.decode()"
    begin = f"setattr(os, 'kept', subprocess.Popen(['{program}', '-', '/function/secret'], stdin=-1, stdout=-1))"
    assert inside(function, f"[{run}, {begin}]") == ["s", None]
    shell(f"cp /usr/bin/cat {program}.new && mv {program}.new {program}")
    wait_for(lambda: inside(function, run) == "s", PATIENCE)
    assert inside(function, "os.kept.communicate()[0].decode()") == "s"
    shell(f"cp /usr/bin/true {program}.new && mv {program}.new {program} && rm {program}")
    assert inside(function, "read('/function/secret')") == DENIED
    function.remove()


# --- what is refused


@check
def a_policy_that_cannot_be_used_is_refused_with_its_place_and_nothing_changes(bench: Bench) -> None:
    before = set(tables(bench))
    for policy, said in (
        ("rules:\n  - {allow: raed, on: /usr/**}\n", "option policy, line 2, column 13: unknown operation raed"),
        ("rules:\n  - {deny: all, on: /usr}\n", "option policy, line 2"),
        ("rules: 5\n", "option policy, line 1"),
    ):
        error = refusal(bench, policy)
        assert error.name == f"{ERROR}InvalidPolicy", error
        assert said in error.text, error
    assert (
        "lookup is denied where the sandbox has something mounted"
        in refusal(bench, "rules:\n  - {deny: all, on: /usr}\n").text
    )
    assert "did you mean read?" in refusal(bench, "rules: [{allow: raed, on: /}]").text
    assert set(tables(bench)) <= before


@check
def what_a_policy_probably_does_not_mean_is_told_by_deploy(bench: Bench) -> None:
    function = deploy(bench, POLICY + "  - {allow: read, on: /nowhere/**}\n")
    told = [row[2] for row in function.changes if row[:2] == ["warning", "policy"]]
    assert len(told) == 1, function.changes
    assert "/nowhere/**: the sandbox has nothing there" in told[0], told
    function.remove()


@check
def without_the_hosts_policy_a_function_that_has_none_is_not_deployed(bench: Bench) -> None:
    aside = HOST_POLICY.with_suffix(".aside")
    HOST_POLICY.rename(aside)
    try:
        name, source = bench.lab.unique("fn"), bench.lab.source({"func.py": HELLO})
        error = refused(lambda: bench.lab.bus.manager("Deploy", "sssa{sv}", bench.app, name, source, {}))
    finally:
        aside.rename(HOST_POLICY)
    assert (error.name, str(HOST_POLICY) in error.text) == (f"{ERROR}InvalidPolicy", True), error


@check
def no_instance_starts_without_its_policy_in_the_kernel(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    in_boesfsd(bench, f"kernel.forget({function.get('Uid')})")
    answer = ask(function, "result = 1")
    assert answer.status == 502, answer
    assert f"govern / ro: boesfs: policy_id={function.get('Uid')}: the program has no such policy" in answer.text, (
        answer
    )
    bench.lab.machine.run("systemctl", "restart", "boesfsd")
    assert answer_of(function) == 1
    function.remove()


@check
def a_function_that_may_not_execute_its_runtime_says_so(bench: Bench) -> None:
    function = deploy(bench, "default: deny\nrules: [{allow: read, on: /function/**}]\n")
    answer = ask(function, "result = 1")
    assert answer.status == 502, answer
    assert "exec /usr/bin/python3" in answer.text, answer
    assert "Operation not permitted" in answer.text, answer
    function.remove()


# --- while instances run


@check
def another_policy_judges_an_instance_that_runs_as_soon_as_deploy_returns(bench: Bench) -> None:
    function = deploy(bench, ALL)
    code = (
        f"{TRY}\nimport time\nfile, end = open('/function/secret'), time.monotonic() + 100\n"
        "while time.monotonic() < end and not os.path.exists('/tmp/stop') and read('/function/secret') == 's':\n"
        "    time.sleep(0.05)\n"
        "result = [read('/function/secret'), attempt(lambda: os.pread(file.fileno(), 1, 0).decode())]\n"
    )
    call = function.begin(code, "--max-time", "130")
    function.running_call(PATIENCE)
    pid = function.pid()
    time.sleep(2)
    assert function.pid() == pid
    function.replace(policy=POLICY, concurrency=1, timeout=120)
    answer = bench.lab.end(call, 140)
    assert (answer.status, answer.json) == (200, [DENIED, DENIED]), answer
    function.remove()


@check
def set_policy_judges_instances_that_run_from_when_it_returns_and_is_kept(bench: Bench) -> None:
    function = deploy(bench, ALL)
    label = f"{function.app}/{function.name}"

    def call(member: str, *arguments: Any) -> list[Any]:
        return bench.lab.bus.call(function.path, FUNCTION, member, "sa{sv}" if arguments else "", *arguments)

    assert inside(function, "read('/function/secret')") == "s"
    pid = function.pid()
    assert call("SetPolicy", POLICY, {}) == [[["update", "policy", label]]]
    assert inside(function, "read('/function/secret')") == DENIED
    own, app, table = call("GetPolicy")
    assert (own, app) == (POLICY, "")
    assert table["warnings"] == 0, table
    assert table["table"] in tables(bench)[function.get("Uid")], table  # beside the one before, for a second
    assert table["rules"] > 10, table
    assert call("SetPolicy", ALL, {"dry-run": {"$": ["b", True]}}) == [[["update", "policy", label]]]
    warned = POLICY + "  - {allow: read, on: /nowhere/**}\n"
    strict = refused(lambda: call("SetPolicy", warned, {"strict": {"$": ["b", True]}}))
    assert (strict.name, "the sandbox has nothing there" in strict.text) == (f"{ERROR}InvalidPolicy", True), strict
    assert refused(lambda: call("SetPolicy", "rules: 5", {})).name == f"{ERROR}InvalidPolicy"
    assert inside(function, "read('/function/secret')") == DENIED
    bench.lab.machine.run("systemctl", "restart", "boesfsd")
    assert call("GetPolicy")[0] == POLICY
    assert inside(function, "read('/function/secret')") == DENIED
    call("SetPolicy", "", {})
    assert inside(function, "read('/function/secret')") == "s"
    assert function.pid() == pid
    function.remove()


@check
def the_policy_of_an_app_is_set_for_all_its_functions_or_for_none(bench: Bench) -> None:
    app = bench.lab.app()
    path = bench.lab.bus.call(ROOT, MANAGER, "ListApps")[0]
    (place,) = (row[1] for row in path if row[0] == app)
    files: dict[str, str | bytes] = {"func.py": PROBE, "secret": "s"}
    own = {"policy": "rules: [{allow: read, on: '${CODE}/secret'}]\n"}
    pair = [bench.lab.deploy(app, files, concurrency=1, timeout=120, **options) for options in ({}, own)]
    seen = "read('/function/secret')"
    assert [inside(function, seen) for function in pair[:1]] == ["s"]
    bench.lab.bus.call(place, APP, "SetPolicy", "sa{sv}", ALL + "  - {deny: read, on: '${CODE}/secret'}\n", {})
    assert [inside(function, seen) for function in pair] == [DENIED, "s"]
    wrong = refused(lambda: bench.lab.bus.call(place, APP, "SetPolicy", "sa{sv}", "rules: [{deny: all, on: /usr}]", {}))
    assert wrong.name == f"{ERROR}InvalidPolicy", wrong
    assert [inside(function, seen) for function in pair] == [DENIED, "s"]
    assert "deny: read" in bench.lab.bus.call(place, APP, "GetPolicy")[0]
    bench.lab.bus.manager("RemoveApp", "s", app)


@check
def tables_are_found_again_by_a_daemon_that_is_started_anew_and_instances_stay_judged(bench: Bench) -> None:
    """A second after the last function of its uid is gone, no table is left but its own."""
    function = deploy(bench, POLICY)
    assert inside(function, "read('/function/secret')") == DENIED
    number, pid = function.get("Uid"), function.pid()
    before = wait_for(lambda: tables(bench)[number], PATIENCE, until=lambda there: len(there) == 1)
    bench.lab.machine.run("systemctl", "stop", "boesfsd")
    direct = function.direct(f"{TRY}\nresult = read('/function/secret')", "--max-time", "60", timeout=70)
    assert direct.json == DENIED, direct
    bench.lab.machine.run("systemctl", "start", "boesfsd")
    assert (tables(bench)[number], function.pid()) == (before, pid)
    assert inside(function, "[read('/function/secret'), read('/function/public')]") == [DENIED, "p"]
    function.remove()


@check
def each_policy_has_one_table_and_a_removed_function_none(bench: Bench) -> None:
    """For a second the one before is there too: somebody may still be judged by it."""
    function = deploy(bench, POLICY)
    number = function.get("Uid")
    for policy in (ALL, POLICY, ALL):
        function.replace(policy=policy, concurrency=1, timeout=120)
    wait_for(lambda: len(tables(bench)[number]), PATIENCE, until=lambda count: count == 1)
    function.remove()
    wait_for(lambda: number in tables(bench), PATIENCE, until=lambda there: not there)


@check
def the_program_is_exchanged_in_place_while_an_instance_runs(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    assert inside(function, "read('/function/secret')") == DENIED
    pid = function.pid()
    Path("/sys/fs/bpf/boesfs/told").unlink()  # as a program had none that is older than learning
    bench.lab.machine.run("systemctl", "reload", "boesfs-setup")
    assert Path("/sys/fs/bpf/boesfs/told").exists()
    assert inside(function, "[read('/function/secret'), read('/function/public')]") == [DENIED, "p"]
    assert function.pid() == pid
    function.remove()


# --- boesfsctl


def boesfsctl(bench: Bench, words: str, *more: str) -> tuple[int, list[str]]:
    """`boesfsctl policy` with WORDS and MORE: its status and its lines."""
    done = bench.lab.machine.run("boesfsctl", "policy", *words.split(), *more, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@check
def boesfsctl_shows_compares_and_sets_the_policy_of_a_function(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    whose = f"{function.app}/{function.name}"
    assert inside(function, "read('/function/secret')") == DENIED
    status, lines = boesfsctl(bench, f"show {whose}")
    assert (status, lines[0]) == (0, f"# {whose}"), lines
    assert POLICY.strip() in "\n".join(lines), lines
    assert [line for line in lines if line.startswith("# table ") and line.endswith(", 0 warnings")], lines
    status, lines = boesfsctl(bench, f"show --table {whose}")
    assert status == 0, lines
    (secret,) = (number for number, line in enumerate(lines) if " /function/secret: " in line)
    assert " read," not in lines[secret], lines
    assert [line for line in lines if line.startswith("    deny chmod if mode & 0o6000 is ")], lines
    file = Path("/srv/new.yaml")
    file.write_text(POLICY.replace('"${CODE}/secret", ', "").replace("default", "kill: 9\ndefault"))
    wanted = ["! kill: 9, was 0", "+ /function/secret: read, getxattr"]
    assert boesfsctl(bench, f"diff -f {file} {whose}") == (1, [f"{whose}:", *wanted])
    assert boesfsctl(bench, f"set --dry-run -f {file} {whose}") == (0, [f"update policy {whose}"])
    assert inside(function, "read('/function/secret')") == DENIED
    assert boesfsctl(bench, f"set -f {file} {whose}") == (0, [f"update policy {whose}"])
    assert inside(function, "read('/function/secret')") == "s"
    assert boesfsctl(bench, f"diff -f {file} {whose}") == (0, [])
    file.write_text("rules: [{deny: redd, on: /usr}]")
    status, lines = boesfsctl(bench, f"set -f {file} {whose}")
    assert (status, len(lines)) == (2, 1), lines
    assert f"{file}, line 1, column 16: unknown operation redd" in lines[0], lines
    assert "did you mean read?" in lines[0], lines
    assert inside(function, "read('/function/secret')") == "s"
    function.remove()


@check
def boesfsctl_sets_the_originals_two_files_and_an_apps_policy(bench: Bench) -> None:
    function = deploy(bench, ALL)
    whose = f"{function.app}/{function.name}"
    model, policy = Path("/srv/model.conf"), Path("/srv/policy.csv")
    model.write_text(
        "[request_definition]\nr = obj, act\n[policy_definition]\np = obj, act\n"
        "[policy_effect]\ne = !some(where (p.eft == deny))\n[matchers]\nm = r.obj == p.obj && r.act == p.act\n"
    )
    policy.write_text("p, /function/secret, read, file, deny\n")
    assert boesfsctl(bench, f"diff -m {model} -p {policy} {whose}") == (
        1,
        [f"{whose}:", "- /function/secret: read"],
    )
    assert boesfsctl(bench, f"set -m {model} -p {policy} {whose}") == (0, [f"update policy {whose}"])
    assert inside(function, "[read('/function/secret'), read('/function/public')]") == [DENIED, "p"]
    status, lines = boesfsctl(bench, f"show {whose}")
    assert lines[1:3] == [f"# {model}", "[request_definition]"], lines
    assert boesfsctl(bench, f"set --none {whose}") == (0, [f"update policy {whose}"])
    assert inside(function, "read('/function/secret')") == "s"
    assert boesfsctl(bench, f"show {whose}")[1][0] == f"# {whose}: no policy of its own"
    file = Path("/srv/app.yaml")
    file.write_text("default: allow\nrules: [{deny: read, on: '${CODE}/secret'}]\n")
    status, lines = boesfsctl(bench, f"diff -f {file} {function.app}")
    assert (status, f"{whose}:" in lines, "- /function/secret: read, getxattr" in lines) == (1, True, True), lines
    assert boesfsctl(bench, f"set -f {file} {function.app}") == (0, [f"update policy {function.app}"])
    assert inside(function, "read('/function/secret')") == DENIED
    told = [f"# the app {function.app}", *file.read_text().splitlines(), ""]
    assert boesfsctl(bench, f"show {function.app}") == (0, told)
    assert boesfsctl(bench, f"set --none {function.app}") == (0, [f"update policy {function.app}"])
    assert inside(function, "read('/function/secret')") == "s"
    function.remove()


@check
def boesfsctl_asks_the_rules_and_the_kernels_table_what_is_decided(bench: Bench) -> None:
    long = "n" * 200
    more = (
        f"  - {{deny: unlink, on: '${{TMP}}/{long}'}}\n  - {{deny: unlink, on: '${{TMP}}/*.key'}}\n"
        "  - {allow: read, on: /etc/shadow, program: /usr/bin/python3}\n"
        "  - {deny: setxattr, on: '${TMP}/**', when: {attribute: trusted.*}}\n"
        "  - {deny: rename, on: '${TMP}/a', when: {other: '${TMP}/b/**'}}\n"
        "  - {allow: read, on: /etc/own, uid: 0}\n"
    )
    function = deploy(bench, POLICY + more)
    whose = f"{function.app}/{function.name}"
    asked: dict[str, tuple[bool, str]] = {
        "read /function/secret": (False, "line 7, column 5: - {deny: read"),
        "read /function/public": (True, "line 4"),
        "chmod /tmp/x mode=0o755": (True, "line 8"),
        "chmod /tmp/x mode=0o4755": (False, "line 9"),
        f"unlink /tmp/{long}": (False, "line 10"),
        f"unlink /tmp/{long}n": (True, "line 8"),
        "unlink /tmp/a.key": (False, "line 11"),
        "read /etc/shadow": (False, "no rule decides"),
        "--program=/usr/bin/python3.13 read /etc/shadow": (True, "line 12"),
        "--program=/usr/bin/env read /etc/shadow": (False, "no rule decides"),
        "setxattr /tmp/x trusted.x": (False, "line 13"),
        "setxattr /tmp/x user.x": (True, "line 8"),
        "rename /tmp/a /tmp/b/c": (False, "line 14"),
        "rename /tmp/a /tmp/c": (True, "line 8"),
        "read /etc/own": (False, "no rule decides"),
        "--uid=0 read /etc/own": (True, "line 15"),
    }
    for words, (allowed, said) in asked.items():
        option, rest = {}, words.split()
        if rest[0].startswith("--"):
            name, value = rest.pop(0)[2:].split("=")
            option = {name: {"$": ["u", int(value)] if name == "uid" else ["s", value]}}
        operation, path, *arguments = rest
        (told,) = bench.lab.bus.call(
            function.path, FUNCTION, "CheckAccess", "ssasa{sv}", operation, path, arguments, option
        )
        assert (told["decision"], said in told["reason"]) == ("allow" if allowed else "deny", True), (words, told)
    status, lines = boesfsctl(bench, f"test --program /usr/bin/python3 --uid 9 {whose} read /etc/shadow")
    assert (status, lines[0].startswith("allow: option policy, line 12")) == (0, True), lines
    status, lines = boesfsctl(bench, f"test --json {whose} read /function/secret")
    told = json.loads(lines[0])
    assert (status, told["decision"], told["rule"]["line"]) == (1, "deny", 7), told
    assert boesfsctl(bench, f"test {whose} redd /x")[0] == 2
    assert boesfsctl(bench, f"test {function.app}/nobody read /x")[0] == 4
    # a table that is not what the rules say is found out
    number = function.get("Uid")
    (ours,) = tables(bench)[number]
    swapped = f"""
from boesfsd.kernel import NUMBERS
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.image import pack
from boesfsd.policy.rules import Policy
(digest,) = (table.digest for table in kernel.tables() if table.number == {ours})
kernel.put({ours}, pack(compile_policy(Policy(0, ())), NUMBERS), policy={number}, kill=0, digest=digest)
"""
    in_boesfsd(bench, swapped)
    status, lines = boesfsctl(bench, f"test {whose} read /function/public")
    assert (status, f"table {ours} in the kernel says False" in lines[0]) == (70, True), lines
    function.remove()


# --- programs of the administrator's own


@check
def a_program_of_the_administrators_own_judges_functions_that_name_it(bench: Bench) -> None:
    run = bench.lab.machine.run
    missing = refusal(bench, "program: quota")
    assert missing.name == f"{ERROR}InvalidPolicy", missing
    assert "there is no policy program quota" in missing.text, missing

    def put(name: str, file: str) -> tuple[int, str]:
        done = run("boesfsctl", "program", "set", name, f"/srv/vm/{file}.bpf.o", check=False)
        return done.returncode, done.stdout + done.stderr

    def write(size: int) -> Any:
        return inside(function, f"attempt(lambda: open('/tmp/x', 'wb', buffering=0).write(bytes({size})))")

    assert put("quota", "quota") == (0, "quota is in force\n")
    assert put("quota", "quota") == (0, "quota is in force already\n")
    function = deploy(bench, "program: quota\n")
    whose = f"{function.app}/{function.name}"
    assert write(1 << 20) == 1 << 20
    mounts = inside(function, "open('/proc/self/mountinfo').read()").splitlines()
    governed = [row for row in mounts if " - boesfs " in row]
    assert {row.split()[4] for row in governed} == PLACES, mounts
    assert all("policy=quota," in row and "policy_id=" not in row for row in governed), governed
    pid = function.pid()
    # exchanged, or not, while it runs
    assert put("quota", "small") == (0, "quota is in force\n")
    assert (write(1 << 20), write(4096)) == ("EDQUOT", 4096)
    status, said = put("quota", "wild")
    assert (status, "/srv/vm/wild.bpf.o is refused by the kernel:" in said) == (2, True), said
    assert "invalid mem access 'map_value_or_null'" in said, said
    assert "processed " in said, said
    status, said = put("quota", "other")
    assert (status, "says that its name is other, and is to be quota" in said) == (2, True), said
    status, said = put("quota", "none")
    assert (status, "has not just one struct boesfs_policy_ops" in said) == (2, True), said
    assert put("boesfsd", "quota")[0] == 2
    assert put("quota", "nowhere")[0] == 2
    assert write(1) == "EDQUOT"
    assert function.pid() == pid
    assert run("boesfsctl", "program", "list").stdout == "quota\tin force\n"
    assert sorted(file.name for file in Path("/etc/boesfsd/programs").iterdir()) == ["quota.bpf.o"]
    # what rules are asked for, a program has not
    status, lines = boesfsctl(bench, f"show {whose}")
    assert (status, lines[:2]) == (0, [f"# {whose}", "program: quota"]), lines
    assert boesfsctl(bench, f"test {whose} read /function/func.py")[0] == 69
    rules = Path("/srv/rules.yaml")
    rules.write_text(ALL)
    status, lines = boesfsctl(bench, f"set -f {rules} {whose}")
    assert (status, "stay with the program that they began with" in lines[0]) == (69, True), lines
    # as after a boot
    Path("/sys/fs/bpf/boesfs/own/quota").unlink()
    assert inside(function, "read('/function/public')") == DENIED
    run("systemctl", "restart", "boesfs-setup")
    assert inside(function, "read('/function/public')") == "p"
    assert run("boesfsctl", "program", "list").stdout == "quota\tin force\n"
    assert write(4096) == 4096
    # without it nothing is judged by nobody
    assert run("boesfsctl", "program", "remove", "quota").stdout == "quota is gone\n"
    assert inside(function, "read('/function/public')") == DENIED
    run("systemctl", "stop", function.unit())
    answer = ask(function, "result = 1")
    assert (answer.status, "policy=quota: no such program is attached" in answer.text) == (502, True), answer
    assert run("boesfsctl", "program", "remove", "quota", check=False).returncode == 2
    function.replace(policy=ALL, concurrency=1, timeout=120)
    assert inside(function, "read('/function/secret')") == "s"
    function.remove()


# --- what is told


def told(bench: Bench, function: Deployed, **fields: str) -> list[dict[str, str]]:
    """The journal's entries of what was denied to a function, that have these fields."""
    wanted = {"MESSAGE_ID": DENIAL, "BOESFS_FUNCTION_ID": function.id, **fields}
    return bench.lab.journal(*(f"{name}={value}" for name, value in wanted.items()))


@check
def what_is_denied_is_in_the_unit_s_journal_with_call_and_rule_and_what_is_alike_is_counted(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    answer = ask(function, f"{TRY}\nresult = [read('/function/secret') for _ in range(5)]")
    assert answer.json == [DENIED] * 5, answer
    entries = wait_for(lambda: told(bench, function), PATIENCE, until=lambda found: len(found) == 2)
    first, more = entries
    line = next(number for number, text in enumerate(POLICY.splitlines(), 1) if "deny: read" in text)
    assert first["BOESFS_RULE"].startswith(f"option policy, line {line}, column "), first
    assert "deny: read" in first["BOESFS_RULE"], first
    assert (first["BOESFS_COUNT"], more["BOESFS_COUNT"]) == ("1", "4"), entries
    for entry in entries:
        assert entry["BOESFS_CALL_ID"] == answer.headers["fn-call-id"], entry
        assert entry["OBJECT_SYSTEMD_UNIT"] == function.unit(), entry
        assert (entry["BOESFS_OPERATION"], entry["BOESFS_PATH"]) == ("read", "/function/secret"), entry
        assert (entry["BOESFS_VERDICT"], entry["BOESFS_KILLED"], entry["BOESFS_UID"]) == (
            "denied",
            "0",
            str(function.get("Uid")),
        ), entry
    shown = bench.lab.machine.run("journalctl", "-q", "-o", "cat", "-u", function.unit()).stdout
    assert first["MESSAGE"] in shown, shown
    signal = bench.lab.bus.await_signal(f"{MANAGER}.Audited", lambda s: s[2][1] == function.name, PATIENCE)
    question, rule = signal[2][4], first["BOESFS_RULE"]
    assert signal[2] == [bench.app, function.name, answer.headers["fn-call-id"], "denied", question, rule, 1, False]
    assert question.startswith("read /function/secret length="), question
    assert function.get("NDenials") == 5
    function.remove()


@check
def boesfsctl_shows_denials_and_the_catalog_tells_how_to_allow_them(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    assert inside(function, "attempt(lambda: os.listdir('/etc'))") == DENIED
    wait_for(lambda: told(bench, function), PATIENCE)
    run = bench.lab.machine.run
    lines = run("boesfsctl", "denials", f"{function.app}/{function.name}").stdout.splitlines()
    assert len(lines) == 1, lines
    assert f" {function.app}/{function.name} [" in lines[0], lines
    assert "Denied open /etc flags=0o" in lines[0], lines
    assert "no rule decides, so the default does" in lines[0], lines
    entry = json.loads(run("boesfsctl", "denials", "--json", "-n", "1", f"{function.app}/{function.name}").stdout)
    policy = "/srv/asked.yaml"
    Path(policy).write_text(POLICY)
    decided = run("boesfsctl", "policy", "decide", "-f", policy, *entry["BOESFS_QUESTION"].split(), check=False)
    assert (decided.returncode, decided.stdout.split(":")[0]) == (1, "deny"), decided
    assert run("boesfsctl", "denials", "no-such-app").stdout == ""
    run("journalctl", "--update-catalog")
    said = run("journalctl", "-q", "-x", f"BOESFS_FUNCTION_ID={function.id}", f"MESSAGE_ID={DENIAL}").stdout
    assert "- allow: open" in said, said
    assert 'on: "/etc"' in said, said
    function.remove()


@check
def what_a_rule_has_audited_is_told_though_it_is_allowed(bench: Bench) -> None:
    function = deploy(bench, POLICY + "  - {allow: write, on: /tmp/watched, audit: true}\n")
    assert inside(function, "open('/tmp/watched', 'w').write('x')") == 1
    (entry,) = wait_for(lambda: told(bench, function, BOESFS_OPERATION="write"), PATIENCE)
    assert (entry["BOESFS_VERDICT"], entry["BOESFS_PATH"]) == ("allowed", "/tmp/watched"), entry
    assert "audit: true" in entry["BOESFS_RULE"], entry
    assert function.get("NDenials") == 0
    function.remove()


# --- the end of an instance


@check
def an_instance_ends_with_its_denial_after_the_threshold_and_the_caller_is_told_why(bench: Bench) -> None:
    function = deploy(bench, "kill: 3" + POLICY)
    try_often = f"{TRY}\nimport time\nfor turn in range(9):\n    read('/function/secret')\nresult = turn"
    assert inside(function, "[read('/function/secret') for _ in range(3)]") == [DENIED] * 3
    answer = ask(function, try_often)
    assert answer.status == 502, answer
    detail = answer.json["detail"]
    assert detail.startswith("killed by policy: Denied read /function/secret "), detail
    assert "deny: read" in detail, detail
    (entry,) = wait_for(lambda: told(bench, function, BOESFS_KILLED="1"), PATIENCE)
    assert entry["BOESFS_CALL_ID"] == answer.headers["fn-call-id"], entry
    assert function.get("LastError").endswith(detail)
    shown = bench.lab.machine.run("journalctl", "-q", "-o", "cat", "-u", function.unit()).stdout
    assert "status=77/NOPERM" in shown, shown
    assert inside(function, "read('/function/public')") == "p"
    direct = function.direct(try_often, "--max-time", "60", timeout=70)
    assert direct.status == 502, direct
    assert direct.json["detail"].startswith("killed by policy: too many denials, the last of /function/secret"), direct
    function.remove()


@check
def a_rule_s_own_threshold_counts_its_own_denials(bench: Bench) -> None:
    policy = POLICY.replace('"]}\n  - {allow: [read, write', '"], kill: 2}\n  - {allow: [read, write')
    assert policy.count("kill: 2") == 1, policy
    function = deploy(bench, policy)
    others = "[attempt(lambda: os.listdir('/etc')) for _ in range(9)]"
    assert inside(function, f"{others} + [read('/function/secret') for _ in range(2)]") == [DENIED] * 11
    assert ask(function, f"{TRY}\nresult = read('/function/secret')").status == 502
    function.remove()


# --- the end


@check
def check_tells_what_enforces_policies(bench: Bench) -> None:
    (row,) = (row for row in bench.lab.bus.manager("Check") if row[0] == "enforcement")
    assert row[1:] == ["ok", "Files come through BoesFS, under a policy", ""], row
    done = bench.lab.machine.run("boesfsctl", "doctor", "--json")
    rows = {row["id"]: (row["state"], row["message"]) for row in json.loads(done.stdout)}
    for name in ("kernel", "btf", "module", "signatures", "bpffs", "program", "controllers", "runtime-python"):
        assert rows[name][0] == "ok", rows
    assert rows["module"][1].startswith("boesfs is loaded, ABI "), rows


@check
def boesfsd_has_met_nothing_that_it_did_not_expect(bench: Bench) -> None:
    text = bench.lab.machine.shell("journalctl -q -o cat -u boesfsd")
    assert "Traceback" not in text
    assert "never retrieved" not in text
    assert bench.lab.show("boesfsd.service", "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}
