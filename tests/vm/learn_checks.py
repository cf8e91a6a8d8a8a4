# SPDX-License-Identifier: Apache-2.0
"""What a function does, told by the kernel, and the policy that is learned from it. Runs inside the VM."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from bench import PATIENCE, Bench, ask, check
from lab import FUNCTION, Deployed, wait_for
from policy_checks import ALL, DENIED, POLICY, TRY, boesfsctl, deploy, inside, refused, told

LEARNED = Path("/srv/learned.yaml")
MOST_CALLS = 80
WORK = """
import fractions, tempfile
tempfile.tempdir = "/tmp"
def work():
    with tempfile.NamedTemporaryFile(suffix=".json", delete=False) as file:
        file.write(b"x")
    os.rename(file.name, "/tmp/kept.json")
    os.mkdir("/tmp/made")
    for number in range(4):
        open(f"/tmp/made/part{number}", "w").close()
    os.chmod("/tmp/kept.json", 0o600)
    os.symlink("/function/public", "/tmp/link")
    os.listdir("/usr/share/common-licenses")
    return [read("/function/secret"), read("/tmp/link"), os.listdir("/tmp/made")]
result = attempt(work)
subprocess.run(["/usr/bin/rm", "-r", "/tmp/made", "/tmp/kept.json", "/tmp/link"], check=True)
"""


def learn(bench: Bench, *words: str) -> list[str]:
    """`boesfsctl learn` with WORDS, which end well: its lines."""
    done = bench.lab.machine.run("boesfsctl", "learn", *words)
    return (done.stdout + done.stderr).splitlines()


def is_active(bench: Bench) -> bool:
    """Whether boesfsd runs."""
    return bench.lab.machine.run("systemctl", "is-active", "boesfsd", check=False).stdout == "active\n"


def anew(bench: Bench, function: Deployed) -> None:
    """The next call meets a new instance."""
    bench.lab.bus.call(function.path, FUNCTION, "Stop")
    bench.lab.bus.call(function.path, FUNCTION, "Start")


@check
def what_a_function_does_is_learned_and_the_policy_allows_that_and_no_more(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    whose, call = f"{function.app}/{function.name}", TRY + WORK
    assert inside(function, "read('/function/secret')") == DENIED
    lines = learn(bench, "-o", str(LEARNED), "--call", call, "--call", call, whose)
    assert lines[-3:-1] == ["Call 1: 200 OK", "Call 2: 200 OK"], lines[-3:]
    assert not [line for line in lines if "Warning" in line], lines
    policy = LEARNED.read_text()
    shown = lines[lines.index(f"+++ {whose} (learned)") + 2 : -3]
    assert [line[1:] for line in shown if line[:1] in ("+", " ")] == policy.splitlines(), shown[:20]
    assert [line[1:] for line in shown if line[:1] in ("-", " ")] == POLICY.splitlines(), shown[:20]
    for place in (
        '"${CODE}/secret"\n',
        '"${TMP}/tmp*.json"  # a name that looks made up\n',
        '"${TMP}/made/*/**"  # in a directory that it made\n',
        '"${TMP}/kept.json"\n',
        '"/usr/lib/python3.13/**"  # ',
    ):
        assert f"      - {place}" in policy, policy
    assert inside(function, "read('/function/secret')") == DENIED  # its own policy judges again
    assert boesfsctl(bench, f"set --strict -f {LEARNED} {whose}") == (0, [f"update policy {whose}"])
    begun = len(told(bench, function))
    for _ in range(2):
        anew(bench, function)
        answer = ask(function, call)
        assert answer.status == 200, answer.text
        found: Any = answer.json
        assert (found[:2], sorted(found[2])) == (["s", "p"], [f"part{n}" for n in range(4)]), found
    assert len(told(bench, function)) == begun
    planted = "[read('/usr/share/common-licenses/GPL-3'), attempt(lambda: os.mkdir('/tmp/other')), read('/etc/group')]"
    assert inside(function, planted) == [DENIED] * 3, policy
    function.remove()


@check
def learning_that_fails_or_is_interrupted_says_so(bench: Bench) -> None:
    function = deploy(bench, ALL)
    whose, run = f"{function.app}/{function.name}", bench.lab.machine.run
    LEARNED.write_text("mine")
    done = run("boesfsctl", "learn", "-o", str(LEARNED), "--call", "1 / 0", "--call", "result = 1", whose, check=False)
    assert (done.returncode, "Call 1: 502" in done.stderr, "Call 2: 200" in done.stderr) == (1, True, True), done
    assert LEARNED.read_text().startswith("default: deny\n"), done
    LEARNED.write_text("mine")
    slow = ("boesfsctl", "learn", "-o", str(LEARNED), "--call", "import time\ntime.sleep(100)", whose)
    with subprocess.Popen(bench.lab.machine.enter(*slow), stderr=subprocess.PIPE, text=True) as learning:
        wait_for(lambda: function.get("NRunning"), PATIENCE)
        again = run("boesfsctl", "learn", "--call", "result = 1", whose, check=False)
        assert (again.returncode, "learns already" in again.stderr) == (75, True), again
        learning.send_signal(signal.SIGINT)
        assert (learning.wait(PATIENCE), learning.stderr and learning.stderr.read()) == (130, ""), slow
    assert LEARNED.read_text() == "mine"
    function.remove()


@check
def the_system_calls_it_makes_are_learned_and_no_other_can_be_made_then(bench: Bench) -> None:
    function = deploy(bench, ALL, name="narrow")
    whose, call = f"{function.app}/{function.name}", f"{TRY}\nos.mkdir('/tmp/d')\nresult = os.rmdir('/tmp/d')"
    lines = learn(bench, "--system-calls", "--call", call, whose)
    assert "Call 1: 200 OK" in lines, lines
    begin = lines.index("system_calls: [")
    names = [name for line in lines[begin + 1 : lines.index("]")] for name in line.replace(",", " ").split()]
    assert names == sorted(set(names)), names
    assert {"mkdir", "rmdir", "openat", "mmap"} < set(names), names
    assert len(names) < MOST_CALLS, names
    assert not {"getpriority", "ptrace", "execve", "wait4"} & set(names), names  # not made; by nobody; by us; always
    assert not bench.lab.machine.run("ls", "/run/boesfs/trace").stdout
    function.replace(policy=ALL, concurrency=1, timeout=120, system_calls=names)
    other = "[attempt(lambda: os.getpriority(os.PRIO_PROCESS, 0)), os.mkdir('/tmp/e')]"
    for _ in range(2):
        anew(bench, function)
        assert ask(function, call).status == 200
        assert inside(function, other) == [DENIED, None]
    assert function.await_line("System call getpriority ")["_SYSTEMD_UNIT"] == function.unit()
    function.remove()


@check
def a_list_of_system_calls_holds_again_however_learning_ends(bench: Bench) -> None:
    known = Path("/usr/lib/boesfs/system-calls").read_text().splitlines()
    names = [name for name in (line.split()[0] for line in known) if name != "getpriority"]
    function = deploy(bench, ALL, name="listed", system_calls=names)
    bus, made = bench.lab.bus, "attempt(lambda: os.getpriority(os.PRIO_PROCESS, 0))"

    def start(seconds: int) -> int:
        session = bus.call(
            function.path, FUNCTION, "StartLearning", "ua{sv}", seconds, {"system-calls": {"$": ["b", True]}}
        )
        assert inside(function, made) == 0
        return int(session[0])

    assert inside(function, made) == DENIED
    for attempt in range(3):
        session = start(3600)
        if attempt == 0:
            bus.call(function.path, FUNCTION, "SetPolicy", "sa{sv}", ALL + "# another\n", {})
        elif attempt == 1:
            function.replace(policy=ALL, concurrency=1, timeout=120, system_calls=names)
        else:
            bench.lab.machine.run("kill", "-9", str(bench.lab.daemon_pid()))
            wait_for(lambda: is_active(bench), PATIENCE)
        assert inside(function, made) == DENIED, attempt
        assert session
    start(15)
    ends = time.monotonic() + 15
    bench.lab.machine.run("systemctl", "kill", "-s", "STOP", "boesfsd")
    direct = f"{TRY}\nresult = {made}"
    assert function.direct(direct, "--max-time", "60", timeout=70).json == 0
    time.sleep(max(ends - time.monotonic(), 0))
    assert function.direct(direct, "--max-time", "60", timeout=70).json == DENIED
    bench.lab.machine.run("systemctl", "kill", "-s", "CONT", "boesfsd")
    start(3600)
    function.remove()
    assert not bench.lab.machine.run("ls", "/run/boesfs/trace").stdout


@check
def a_command_may_make_the_calls_and_exact_is_what_was_seen(bench: Bench) -> None:
    function = deploy(bench, POLICY, name="calling")
    whose = f"{function.app}/{function.name}"
    command = ["curl", "-sf", "--max-time", "130", "-d", f"{TRY}\nresult = read('/function/secret')", function.url]
    lines = learn(bench, "--exact", "--seconds", "200", whose, "--", *command)
    assert [line for line in lines if line.endswith('"s"curl ended with status 0')], lines
    assert '+      - "${CODE}/secret"' in lines, lines
    assert not [line for line in lines if "**" in line and line.startswith("+")], lines
    done = bench.lab.machine.run("boesfsctl", "learn", whose, "--", "/nowhere/at-all", check=False)
    assert (done.returncode, done.stderr) == (2, "boesfsctl: /nowhere/at-all: No such file or directory\n"), done
    assert inside(function, "read('/function/secret')") == DENIED
    function.remove()


@check
def learning_ends_by_itself_and_with_boesfsd_and_with_another_policy(bench: Bench) -> None:
    function = deploy(bench, POLICY)
    bus = bench.lab.bus

    sessions = [0]

    def start(seconds: int) -> None:
        sessions[:] = [bus.call(function.path, FUNCTION, "StartLearning", "ua{sv}", seconds, {})[0]]

    def stop() -> Any:
        return bus.call(function.path, FUNCTION, "StopLearning", "ua{sv}", sessions[0], {})

    for seconds in (0, 3601):
        assert refused(lambda seconds=seconds: start(seconds)).name.endswith(".InvalidArgs")  # type: ignore[misc]
    assert "does not learn" in str(refused(stop))
    start(3600)
    assert "learns already" in str(refused(lambda: start(5)))
    assert inside(function, "read('/function/secret')") == "s"
    bench.lab.machine.run("systemctl", "restart", "boesfsd")
    assert inside(function, "read('/function/secret')") == DENIED
    assert "does not learn" in str(refused(stop))
    start(1)
    time.sleep(1)
    wait_for(lambda: inside(function, "read('/function/secret')") == DENIED, PATIENCE)
    assert stop()[1]["early"] == 1
    start(3600)
    bench.lab.machine.run("systemctl", "reload", "boesfsd")
    assert inside(function, "read('/function/secret')") == DENIED
    assert "boesfsd was reloaded" in str(refused(stop))
    start(3600)
    bus.call(function.path, FUNCTION, "SetPolicy", "sa{sv}", POLICY + "# another\n", {})
    assert inside(function, "read('/function/secret')") == DENIED
    assert "got another policy" in str(refused(stop))
    start(15)  # nobody is there to end it: the kernel does
    ends = time.monotonic() + 15
    bench.lab.machine.run("systemctl", "kill", "-s", "STOP", "boesfsd")
    direct = f"{TRY}\nresult = read('/function/secret')"
    assert function.direct(direct, "--max-time", "60", timeout=70).json == "s"
    time.sleep(max(ends - time.monotonic(), 0))
    assert function.direct(direct, "--max-time", "60", timeout=70).json == DENIED
    bench.lab.machine.run("systemctl", "kill", "-s", "CONT", "boesfsd")
    start(3600)
    bench.lab.machine.run("kill", "-9", str(bench.lab.daemon_pid()))
    wait_for(lambda: is_active(bench), PATIENCE)
    assert inside(function, "read('/function/secret')") == DENIED
    function.remove()
