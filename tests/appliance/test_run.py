# SPDX-License-Identifier: Apache-2.0
"""`boesfsctl run`, and what other programs embed of it. This appliance has no BoesFS: tests/vm shows policies that
judge, and limits."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_for

PATIENCE = 30.0
EMBED = """
import json, os, sys, threading, time
sys.path.insert(0, "/usr/lib/boesfs/python")
from boesfsd import sandbox
from boesfsd.errors import BoesError
"""
RULES = "/etc/polkit-1/rules.d/50-boesfs-run-test.rules"
READ_ONLY = """default: deny
rules:
  - allow: [read, list, exec]
    on: [/usr/**, "${CODE}/**"]
"""


def run(lab: Lab, *words: str, stdin: bytes | None = None, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Its status, and what it prints."""
    done = lab.machine.run(*prefix, "boesfsctl", "run", *words, check=False, stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def embed(lab: Lab, code: str) -> Any:
    """What a program that embeds it prints, as JSON."""
    return json.loads(lab.machine.run("python3", "-c", EMBED + code).stdout)


def units(lab: Lab) -> list[str]:
    """Those that run."""
    return [
        line.split()[0] for line in lab.machine.shell("systemctl list-units --no-legend 'boesfs-run-*'").splitlines()
    ]


def directory(lab: Lab, **files: str) -> str:
    """A directory in the appliance."""
    return lab.source(dict(files))


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["true"], 0, ""),
        (["/bin/sh", "-c", "exit 7"], 7, ""),
        (["/nowhere"], 127, "boesfsctl: exec /nowhere: No such file or directory\n"),
        (["nowhere"], 127, "boesfsctl: exec nowhere: No such file or directory\n"),
        (["/etc/passwd"], 126, "boesfsctl: exec /etc/passwd: Permission denied\n"),
    ],
)
def test_it_ends_as_the_command_does(lab: Lab, command: list[str], status: int, says: str) -> None:
    assert run(lab, "--", *command) == (status, "", says)
    assert run(lab, "--init", "--", *command) == (status, "", says)


def test_who_is_killed_has_the_status_that_a_shell_gives(lab: Lab) -> None:
    assert run(lab, "--init", "--", "sh", "-c", "kill -KILL $$") == (128 + signal.SIGKILL, "", "")
    assert run(lab, "--", "sh", "-c", "sh -c 'kill -SEGV $$'; exit $?")[0] == 128 + signal.SIGSEGV


def test_it_is_pid_1_or_the_child_of_one_that_reaps(lab: Lab) -> None:
    assert run(lab, "--", "sh", "-c", "echo $$") == (0, "1\n", "")
    orphan = "(sleep 0.1 & echo $!) ; sleep 0.5; echo $$; ps -eo pid,stat --no-headers | grep -c Z"
    status, out, _ = run(lab, "--init", "--", "sh", "-c", orphan)
    assert (status, out.split()[1:]) == (1, ["2", "0"])  # grep finds no zombie


def test_input_and_output_are_ours(lab: Lab) -> None:
    text = b"".join(b"%d\n" % number for number in range(200_000))
    status, out, error = run(lab, "-i", "--", "sh", "-c", "cat; echo done >&2", stdin=text)
    assert (status, error) == (0, "done\n")
    assert out.encode() == text
    assert run(lab, "--", "cat", stdin=b"not passed on") == (0, "", "")
    whole = "boesfsctl run --init -- sh -c 'while :; do echo y; done' | head -n 2"
    assert lab.machine.shell(f'bash -o pipefail -c "{whole}" || echo $?').split() == ["y", "y", "141"]


def test_arguments_and_variables_of_any_kind_arrive_as_they_are(lab: Lab) -> None:
    code = r"""
words = ["", "a b", "tab\tnewline\nback\\slash", "é", b"\xff\xfe", "$HOME", "-x", "--"] + ["x" * 131000] * 12
script = '''import os, sys
words = [os.fsencode(word) for word in sys.argv]
os.write(1, repr((words[1:9], len(words), sum(map(len, words[9:])), os.environb[b"ODD"])).encode())'''
reading, writing = os.pipe()
odd = {"ODD": "x\ny\t\\ \udcff="}
ended = sandbox.run(["/usr/bin/python3", "-c", script, *words], standard=[0, writing, 2], environment=odd)
os.close(writing)
print(json.dumps([ended.status, ended.why, os.read(reading, 10000).decode()]))
"""
    status, why, said = embed(lab, code)
    assert (status, why) == (0, "")
    words = [b"", b"a b", b"tab\tnewline\nback\\slash", "é".encode(), b"\xff\xfe", b"$HOME", b"-x", b"--"]
    assert said == repr((words, 21, 131000 * 12, b"x\ny\t\\ \xff="))


def test_it_has_no_privilege_and_cannot_write_what_root_owns(lab: Lab) -> None:
    status = run(lab, "--", "cat", "/proc/self/status")[1]
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    for file in ("/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/core_pattern", "/usr/bin/x", "/etc/x", "/x"):
        code, _, error = run(lab, "--", "sh", "-c", f"echo 1 > {file}")
        assert code == 2, file
        assert any(word in error for word in ("Read-only", "Permission denied", "nonexistent")), error
    assert run(lab, "--", "sh", "-c", "ls /root /var /home /run; mount -t tmpfs x /tmp; unshare -U true")[0] != 0
    assert run(lab, "--", "ls", "/")[1].split() == ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "tmp", "usr"]
    assert run(lab, "--", "ls", "/proc/1/fd")[1].split() == ["0", "1", "2", "3"]  # 3: the directory


def test_the_agent_that_supervises_root_s_command_has_no_privilege_either(lab: Lab) -> None:
    with lab_run(lab, "--", "sleep", "60") as unit:
        pid = lab.show(unit, "MainPID")["MainPID"]
        status = lab.machine.shell(f"cat /proc/{pid}/status")
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        assert lab.machine.shell(f"ls -l /proc/{pid}/fd/0 /proc/{pid}/fd/1 /proc/{pid}/fd/2").count("/dev/null") == 3


@contextlib.contextmanager
def lab_run(lab: Lab, *words: str) -> Iterator[str]:
    """One that runs meanwhile: its unit."""
    command = lab.machine.enter("boesfsctl", "run", "-v", *words)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        try:
            yield running.stderr.readline().split()[0]
        finally:
            os.kill(child_of(running.pid), signal.SIGKILL)


def test_a_directory_is_there_to_be_written(lab: Lab) -> None:
    here = directory(lab, file="text")
    script = "pwd; cat file; echo new > made; rm file; ln -s /etc/passwd link; head -c 4 link; ls"
    assert run(lab, "-d", here, "--", "sh", "-c", script) == (0, f"{here}\ntextrootfunc.yaml\nlink\nmade\n", "")
    assert (lab.machine.root / here[1:] / "made").read_text() == "new\n"
    # another one, one in /tmp, one in /usr, and where we stand
    lab.machine.shell("mkdir -p /tmp/run-test/deep /usr/local/run-test")
    words = ["-d", here, "-d", "/tmp/run-test/deep", "-d", "/usr/local/run-test"]
    script = f"touch {here}/x /tmp/run-test/deep/x /usr/local/run-test/x /tmp/x && ls /tmp /tmp/run-test && pwd"
    prefix = ("env", "-C", "/tmp/run-test/deep")
    assert run(lab, *words, "--", "sh", "-c", script, prefix=prefix) == (
        0,
        "/tmp:\nrun-test\nx\n\n/tmp/run-test:\ndeep\n/tmp/run-test/deep\n",
        "",
    )
    assert lab.machine.shell("ls /tmp/run-test/deep /usr/local/run-test; test -e /tmp/x || echo own").endswith(
        "x\nown\n"
    )
    status, out, _ = run(lab, "-d", "/", "--", "sh", "-c", "ls /; cat /etc/hostname; echo x > /tmp/not-on-the-host")
    assert status == 0
    assert {"root", "var", "srv", "home"} <= set(out.split())
    assert not (lab.machine.root / "tmp/not-on-the-host").exists()


def test_without_boesfs_a_policy_is_kept_by_mounts_and_landlock(lab: Lab) -> None:
    here = directory(
        lab, file="text", **{"p.yaml": READ_ONLY, "q.yaml": READ_ONLY + '  - {deny: read, on: "${CODE}/x"}\n'}
    )
    script = "cat file; echo x > made; chmod 600 file; cat /etc/passwd"
    status, out, error = run(lab, "-d", here, "-f", f"/{here}/p.yaml", "--", "sh", "-c", script)
    assert (status, out) == (1, "text")
    assert error.count("Read-only file system") == 2, error
    assert "cat: /etc/passwd: No such file" in error, error
    status, out, error = run(lab, "-d", here, "-f", f"/{here}/q.yaml", "--", "cat", "file")
    assert (status, out) == (125, "")
    assert "Without BoesFS a policy cannot be kept as it is" in error, error


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "There is no command"),
        (["-d", "/nowhere", "--", "ls"], 125, "/nowhere cannot be opened: No such file or directory"),
        (["-d", "/etc/passwd", "--", "ls"], 125, "/etc/passwd cannot be opened: Not a directory"),
        (["-d", "/proc/sys", "--", "ls"], 125, "/proc/sys: it cannot be in a sandbox"),
        (["-d", "/run/systemd", "--", "ls"], 125, "/run/systemd: it cannot be in a sandbox"),
        (["-d", "", "--", "ls"], 125, "cannot be opened: No such file"),
        (["-w", "", "--", "ls"], 125, "-w: the name is empty"),
        (["-f", "/x", "-m", "/y", "-p", "/z", "--", "ls"], 125, "Two policies are said"),
        (["-l", "/tmp/run-test.log", "--", "ls"], 125, "log: nobody is told of denials"),
        (["--memory", "64M", "--strict", "--", "ls"], 125, "memory: this host has no cgroup v2 controller for it"),
        (["-w", "/nowhere", "--", "ls"], 125, "cwd /nowhere: No such file or directory"),
        (["-f", "/nowhere", "--", "ls"], 125, "/nowhere cannot be read"),
        (["-m", "/etc/passwd", "--", "ls"], 125, "give -f FILE, or -m MODEL and -p POLICY"),
        (["-l", "/nowhere/x", "--", "ls"], 125, "/nowhere/x cannot be written: No such file"),
        (["-l", "/dev/null", "--", "ls"], 125, "log: this is no regular file"),
        (["-d", "/srv", "-d", "/usr", "-d", "/usr/lib", "--", "ls"], 125, "/usr/lib is in /usr, which is there too"),
        (["--memory", "0", "--", "ls"], 2, "0 is no size from 1M on"),
        (["--time", "0", "--", "ls"], 2, "0 is no time"),
        (["--cpuset", "x", "--", "ls"], 125, "cpuset: "),
        (["--cpuset", "999", "--", "ls"], 125, "cpuset: 999: this host has none of these CPUs"),
        (["--cpuset", "5-1", "--", "ls"], 125, "cpuset: 5-1: this host has none of these CPUs"),
        (["--cpu", "0", "--", "ls"], 125, "cpu: "),
        (["--tasks", "1", "--", "ls"], 125, "tasks: "),
        (["-k", "-1", "--", "ls"], 2, "-1 is no number from 0 on"),
        (["--program", "quota", "--", "ls"], 125, "enforcement = landlock has none"),
        (["--program", "quota", "-f", "/x", "--", "ls"], 125, "--program and a policy are two answers"),
        (["-k", "3", "--", "ls"], 125, "kill: nobody counts denials"),
        (["-e", "=x", "--", "ls"], 125, "is no NAME=VALUE"),
        (["--", ""], 125, "There is no command"),
    ],
)
def test_what_cannot_be_meant_is_named_and_nothing_runs(lab: Lab, words: list[str], status: int, says: str) -> None:
    found = run(lab, *words)
    assert found[:2] == (status, "")
    assert says in found[2], found


def test_the_variables_are_few_and_those_that_are_wanted(lab: Lab) -> None:
    prefix = ("env", "SECRET=s", "OURS=o")
    out = run(lab, "-e", "OURS", "-e", "NEW=n=1", "-e", "MISSING", "--", "env", prefix=prefix)[1]
    found = dict(line.split("=", 1) for line in out.splitlines())
    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    own = {"PATH": path, "HOME": "/tmp", "LANG": "C.UTF-8", "USER": "root", "LOGNAME": "root"}
    assert found == {**own, "OURS": "o", "NEW": "n=1"}


# --- terminals and signals


@contextlib.contextmanager
def at_a_terminal(lab: Lab, *words: str) -> Iterator[tuple["Terminal", "subprocess.Popen[bytes]"]]:
    """Runs it at a terminal: our side of that, and the process."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    command = ["setsid", "--ctty", *lab.machine.enter("boesfsctl", "run", *words)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        try:
            yield Terminal(ours), running
        finally:
            running.kill()
            os.close(ours)
            os.close(theirs)


class Terminal:
    """Our side of one."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._said = ""

    def write(self, text: str) -> None:
        """Type it."""
        os.write(self.descriptor, text.encode())

    def until(self, wanted: str) -> str:
        """What is said until WANTED is, that with it."""
        end = time.monotonic() + PATIENCE
        while wanted not in self._said:
            assert time.monotonic() < end, self._said
            if select.select([self.descriptor], [], [], 1)[0]:
                self._said += os.read(self.descriptor, 65536).decode()
        found, _, self._said = self._said.partition(wanted)
        return found + wanted


def test_a_terminal_is_one_inside_too(lab: Lab) -> None:
    script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo x > /dev/tty; "
    script += "read line; echo got $line; stty size"
    with at_a_terminal(lab, "-it", "--", "sh", "-c", script) as (ours, running):
        said = ours.until("\r\nx\r\n")
        assert said == "/dev/pts/0\r\n33 101\r\nall\r\nx\r\n"
        assert not termios.tcgetattr(ours.descriptor)[3] & termios.ECHO  # the one inside does that
        fcntl.ioctl(ours.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 55, 0, 0))
        os.kill(child_of(running.pid), signal.SIGWINCH)
        ours.write("hello\n")
        assert ours.until("44 55") == "hello\r\ngot hello\r\n44 55"
        assert running.wait(PATIENCE) == 0
        assert termios.tcgetattr(ours.descriptor)[3] & termios.ECHO


def child_of(pid: int) -> int:
    """nsenter becomes it, or has it as its child."""
    children = [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]  # noqa: SIM115
    return child_of(children[0]) if children else pid


def test_a_shell_at_a_terminal_has_job_control_and_interrupts(lab: Lab) -> None:
    with at_a_terminal(lab, "-it", "--", "bash", "--norc") as (ours, running):
        ours.until("# ")
        ours.write("sleep 1234\n")
        wait_for(lambda: "sleep 1234" in lab.machine.shell("ps -eo args"), PATIENCE)
        ours.write("\x03")
        ours.until("# ")
        ours.write("echo status $?\n")
        ours.until("status 130\r\n")
        ours.write("exit 5\n")
        assert running.wait(PATIENCE) == 5


def test_at_a_terminal_the_end_of_the_input_is_typed_and_a_closed_output_hangs_up(lab: Lab) -> None:
    assert run(lab, "-it", "--", "cat", stdin=b"text\n") == (0, "text\r\ntext\r\n", "")
    script = "boesfsctl run -t -- sh -c 'while :; do echo y; sleep 0.1; done' | head -n 1; echo ${PIPESTATUS[0]}"
    assert lab.machine.run("bash", "-c", script).stdout == "y\r\n129\n"


def test_without_a_terminal_of_its_own_it_gets_nothing_of_ours(lab: Lab) -> None:
    script = "for n in 0 1 2; do test -t $n && echo $n; done; read line; echo got $line; echo no >&2"
    with at_a_terminal(lab, "-i", "--", "sh", "-c", script) as (ours, running):
        ours.write("hello\n")
        assert ours.until("no\r\n").endswith("got hello\r\nno\r\n")
        assert running.wait(PATIENCE) == 0


@pytest.mark.parametrize("init", [[], ["--init"]])
def test_signals_are_passed_on(lab: Lab, init: list[str]) -> None:
    code = f"""
options = {{"init": {bool(init)}}}
def told(script, *numbers):
    reading, writing = os.pipe()
    running = sandbox.start(["/bin/sh", "-c", script], standard=[0, writing, 2], **options)
    os.close(writing)
    os.read(reading, 10)
    for number in numbers:
        running.signal(number)
    return running.wait().status
print(json.dumps([
    told("trap 'exit 9' USR1; echo x; while :; do sleep 0.05; done", 10),
    told("trap 'exit 8' TERM; echo x; while :; do sleep 0.05; done", 15),
    told("trap '' TERM; echo x; sleep 0.5; exit 7", 15),
    told("echo x; exec sleep 100", 15),
    told("echo x; exec sleep 100", 9),
    told("echo x; exec sleep 100", 28, 2),
    told("echo x; sleep 0.5; exit 6", 28, 18, 0, 99),
]))
"""
    assert embed(lab, code) == [9, 8, 7, 143, 137, 130, 6]


def test_a_signal_is_not_lost_while_a_program_executes_another(lab: Lab) -> None:
    """Shells have a handler for SIGINT, and whom they execute has none, which the kernel spares as PID 1."""
    code = """
chain = 'echo x; n=$1; [ $n = 0 ] || exec sh -c "$0" "$0" $((n - 1)) >/dev/null; exit 3'
found = []
for moment in range(30):
    reading, writing = os.pipe()
    running = sandbox.start(["/bin/sh", "-c", chain, chain, "10000"], standard=[0, writing, 2])
    os.close(writing)
    os.read(reading, 10)
    time.sleep(moment / 1000)
    running.signal(2)
    found.append(running.wait().status)
    os.close(reading)
print(json.dumps(found))
"""
    assert embed(lab, code) == [130] * 30


def test_a_signal_comes_when_they_are_not_all_blocked_for_a_moment(lab: Lab) -> None:
    """As shells do around vfork, when their own handler hears nothing yet."""
    deaf = """
import ctypes, os, signal, sys, time
CLONE, CLONE_VFORK = 56, 0x4000
deaf = True
signal.signal(signal.SIGINT, lambda *_: deaf or sys.exit(9))
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("x", flush=True)
if not ctypes.CDLL(None).syscall(CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0):
    time.sleep(0.7)
    os._exit(0)
begun = time.monotonic()
while time.monotonic() - begun < 0.7:
    pass
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
deaf = False
time.sleep(5)
"""
    code = f"""
reading, writing = os.pipe()
running = sandbox.start(["/usr/bin/python3", "-c", {deaf!r}], standard=[0, writing, 2])
os.close(writing)
os.read(reading, 10)
running.signal(2)
print(json.dumps(running.wait().status))
"""
    assert embed(lab, code) == 9


@pytest.mark.parametrize("init", [[], ["--init"]])
def test_a_signal_comes_once(lab: Lab, init: list[str]) -> None:
    code = f"""
counts = "trap 'n=$((n+1))' INT; echo x; while [ ! $n ]; do :; done; i=0; while [ $i != 100000 ]; do i=$((i+1)); done"
found = []
for _ in range(20):
    reading, writing = os.pipe()
    options = {{"standard": [0, writing, 2], "init": {bool(init)}}}
    running = sandbox.start(["/bin/sh", "-c", counts + "; exit $n"], **options)
    os.close(writing)
    os.read(reading, 10)
    running.signal(2)
    found.append(running.wait().status)
    os.close(reading)
print(json.dumps(found))
"""
    assert embed(lab, code) == [1] * 20


def test_an_interrupt_comes_to_all_in_the_foreground(lab: Lab) -> None:
    """A shell that waits for another program ends when that does."""
    for init in ([], ["--init"]):
        command = lab.machine.enter("boesfsctl", "run", *init, "--", "sh", "-c", "echo on; sleep 100; echo after")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout
            assert running.stdout.readline() == "on\n"
            time.sleep(0.5)
            os.kill(child_of(running.pid), signal.SIGINT)
            assert running.wait(PATIENCE) == 130
            assert running.stdout.read() == ""


def test_what_is_ignored_is_not_passed_on(lab: Lab) -> None:
    script = 'trap "" HUP; boesfsctl run -- sleep 2 & sleep 1; kill -HUP $!; wait $!; echo $?'
    assert lab.machine.shell(f"bash -c '{script}'") == "0\n"


def test_who_is_started_without_streams_gives_none(lab: Lab) -> None:
    out = lab.machine.shell("boesfsctl run -i -- ls -l /proc/self/fd <&-")
    assert "0 -> /dev/null" in out
    assert "socket" not in out
    assert lab.machine.shell("boesfsctl run -- echo x >&-; echo $?") == "0\n"
    assert lab.machine.shell("boesfsctl run -- sh -c 'exit 3' 2>&-; echo $?") == "3\n"
    code = """
os.close(0)
reading, writing = os.pipe()
ended = sandbox.run(["/bin/ls", "-l", "/proc/self/fd"], standard=[0, writing, 2])
os.close(writing)
print(json.dumps([ended.status, "socket" in os.read(reading, 9999).decode()]))
"""
    assert embed(lab, code) == [0, False]


def test_whoever_cannot_end_it_otherwise_leaves_it(lab: Lab) -> None:
    with at_a_terminal(lab, "-it", "--", "sh", "-c", "trap '' INT; echo on; exec sleep 1000") as (ours, running):
        ours.until("on\r\n")
        ours.write("\x03\x1d\x1d")
        time.sleep(0.3)
        assert running.poll() is None
        ours.write("\x1d")
        assert running.wait(PATIENCE) == 137


def test_ours_is_its_signal_too(lab: Lab) -> None:
    script = "boesfsctl run -- sleep 100 & sleep 1; kill -TERM $!; wait $!; echo $?"
    assert lab.machine.shell(f"bash -c '{script}'") == "143\n"


# --- its end


def test_it_ends_with_whoever_runs_it(lab: Lab) -> None:
    with lab_run(lab, "--", "sleep", "100") as unit:
        assert unit in units(lab)
        assert lab.show(unit, "Slice", "Description") == {
            "Slice": "boesfs-run.slice",
            "Description": "root runs sleep 100",
        }
    wait_for(lambda: unit not in units(lab), PATIENCE)


def test_it_ends_when_its_interrupt_does_or_says_something(lab: Lab) -> None:
    code = """
found = []
for how in ("close", "write"):
    reading, writing = os.pipe()
    threading.Timer(1, lambda: os.close(writing) if how == "close" else os.write(writing, b"x")).start()
    begun = time.monotonic()
    ended = sandbox.run(["/bin/sleep", "100"], interrupt=reading)
    found.append([ended.status, ended.why, time.monotonic() - begun < 20])
with sandbox.start(["/bin/sleep", "100"]) as running:
    running.end()
    found.append([running.wait().status])
print(json.dumps(found))
"""
    assert embed(lab, code) == [[137, "it was interrupted", True]] * 2 + [[137]]


def test_any_descriptor_can_be_the_interrupt(lab: Lab) -> None:
    """As another program embeds it that knows D-Bus alone."""
    code = """
from boesfsd.bus.connection import Client
reading, writing = os.pipe()
log = os.open("/tmp/run-test.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
client = Client("org.boesfs.Faas1")
given = [b"/bin/sh", b"-c", b"echo $VAR; sleep 100"], [b"VAR=1"], {"interrupt": reading, "stdout": log}, {}
unit, warnings = client.call("/org/boesfs/Faas1", "org.boesfs.Faas1.Manager", "Run", *given)
state = lambda: os.popen(f"systemctl is-active {unit}").read().strip()
found = [warnings, state()]
while os.fstat(log).st_size == 0: time.sleep(0.05)
os.close(writing)
while state() == "active": time.sleep(0.05)
print(json.dumps([*found, state(), open("/tmp/run-test.out").read()]))
"""
    assert embed(lab, code) == [[], "active", "inactive", "1\n"]


def test_a_signal_is_not_lost_on_one_that_is_still_being_made(lab: Lab) -> None:
    code = """
found = []
for init in (False, True):
    running = sandbox.start(["/bin/sleep", "100"], init=init)
    running.signal(15)
    found.append(running.wait().status)
print(json.dumps(found))
"""
    assert embed(lab, code) == [143, 143]


def test_who_does_not_end_when_it_is_stopped_is_ended_and_that_is_said(lab: Lab) -> None:
    code = """
running = sandbox.start(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
time.sleep(1)
os.system("systemctl stop " + running.unit)
stopped = running.wait()
running = sandbox.start(["/bin/sleep", "100"])
os.system("systemctl kill -s USR1 " + running.unit)
print(json.dumps([[stopped.status, stopped.why], running.wait().status]))
"""
    assert embed(lab, code) == [[137, "it was stopped, and did not end"], 138]


def test_systemd_stops_it_and_its_time_ends_it(lab: Lab) -> None:
    code = """
running = sandbox.start(["/bin/sleep", "100"])
os.system("systemctl stop " + running.unit)
stopped = running.wait()
late = sandbox.run(["/bin/sleep", "100"], time=1)
print(json.dumps([[stopped.status, stopped.why], [late.status, late.why]]))
"""
    assert embed(lab, code) == [[143, ""], [124, "its time, 1 s, was over"]]


def test_a_directory_of_another_mount_namespace_is_refused(lab: Lab) -> None:
    script = "mount -t tmpfs none /mnt && boesfsctl run -d /mnt -- ls /mnt"
    done = lab.machine.run("unshare", "--mount", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot be mounted (Invalid argument); is it of this host" in done.stderr


def test_nothing_is_mounted_through_links_of_the_caller_s(lab: Lab) -> None:
    """A directory in a directory could be anywhere: root mounts what it is given."""
    code = r"""
from boesfsd.bus.connection import Client
os.makedirs("/tmp/links/own", exist_ok=True)
if not os.path.lexists("/tmp/links/own/x"): os.symlink("..", "/tmp/links/own/x")
client, found = Client("org.boesfs.Faas1"), []
descriptor = lambda path: os.open(path, os.O_PATH | os.O_DIRECTORY)
wrong = ["//proc"], ["//"], ["/a/../proc"], ["/"], ["/proc"], ["relative"], ["/a/"], ["/dev/shm/x"]
for names in (["/a", "/a/x/proc"], *wrong):
    descriptors = {name: descriptor("/tmp/links/own") for name in names} | {"interrupt": os.pipe()[0]}
    try:
        client.call("/org/boesfs/Faas1", "org.boesfs.Faas1.Manager", "Run", [b"/bin/true"], [], descriptors, {})
        found.append("")
    except BoesError as error:
        found.append(error.code)
print(json.dumps(found))
"""
    assert embed(lab, code) == ["InvalidArgs"] * 9


def test_what_else_cannot_be_meant_by_a_program_is_named(lab: Lab) -> None:
    code = r"""
import pty
found = []
def refused(**given):
    try:
        sandbox.start(["/bin/true"], **given).close()
        found.append("")
    except BoesError as error:
        found.append(str(error).partition(":")[0])
ours, theirs = pty.openpty()
refused(standard=[theirs, 1, 2])
refused(umask=0o1000)
refused(memory=1 << 31)
refused(time=1 << 31, kill=0)
refused(directories=[f"/{name}" for name in os.listdir("/") if os.path.isdir(f"/{name}")])
refused(environment={"A\0B": "x"})
refused(network="private")
refused(directories="/srv")
refused(memory=-1)
refused(nothing=1)
print(json.dumps(found))
"""
    wanted = ["stdin", "umask", "memory", "", "There are too many directories. Hint"]
    wanted += ["b'A\\x00B=x' is no NAME=VALUE", "network", "A command, and directories, are lists. Hint", "memory"]
    wanted += ["unknown key nothing. Hint"]
    assert embed(lab, code) == wanted


def test_files_are_made_with_the_caller_s_umask_and_groups_stay(lab: Lab) -> None:
    here = directory(lab)
    lab.machine.shell(f"umask 077; boesfsctl run -d {here} -- touch {here}/private")
    assert (lab.machine.root / here[1:] / "private").stat().st_mode & 0o777 == 0o600
    prefix = ("setpriv", "--groups=7,8,0")
    out = run(lab, "--", "cat", "/proc/self/status", prefix=prefix)[1]
    assert "\nGroups:\t65534 65534 \n" in out, out


# --- who may


@pytest.mark.xdist_group("polkit")
def test_an_ordinary_user_needs_polkit_and_has_no_more_rights_inside(lab: Lab) -> None:
    lab.machine.shell("id runner 2>/dev/null || useradd --create-home runner")
    prefix = ("setpriv", "--reuid=runner", "--regid=runner", "--init-groups")
    status, out, error = run(lab, "--", "id", prefix=prefix)
    assert (status, out) == (125, "")
    assert "polkit does not allow org.boesfs.faas1.run to uid" in error
    rule = 'polkit.addRule(function(a, s) { if (a.id == "org.boesfs.faas1.run" && s.user == "runner") return "yes"; });'
    (lab.machine.root / RULES[1:]).write_text(rule)
    try:
        wait_for(lambda: run(lab, "--", "true", prefix=prefix)[0] == 0, PATIENCE)
        lab.machine.shell("install -d -o runner -m 700 /srv/runner /srv/runner/own; install -d -m 700 /srv/closed/open")
        script = "id -un; id -u > mine; cat /etc/shadow; ls /srv/runner"
        status, out, error = run(lab, "-d", "/srv/runner/own", "--", "sh", "-c", script, prefix=prefix)
        assert (status, out) == (0, "runner\nown\n")
        assert (lab.machine.root / "srv/runner/own/mine").stat().st_uid == int(lab.machine.shell("id -u runner"))
        for path in ("/root", "/srv/closed/open"):
            status, out, error = run(lab, "-d", path, "--", "ls", path, prefix=prefix)
            assert (status, out) == (125, "")
            assert "Permission denied" in error, error
        code = """
found = []
try:
    for number in range(66):
        found.append(sandbox.start(["/bin/sleep", "60"], standard=()))
except BoesError as error:
    print(json.dumps([len(found), error.code]))
"""
        assert json.loads(lab.machine.run(*prefix, "python3", "-c", EMBED + code).stdout) == [64, "Busy"]
        status, out, error = run(lab, "-d", "/", "--", "cat", "/etc/shadow", prefix=prefix)
        assert (status, out) == (1, "")
        assert "Permission denied" in error, error
    finally:
        (lab.machine.root / RULES[1:]).unlink()


# --- boesfs and gofs


def test_the_original_s_commands_are_there(lab: Lab) -> None:
    done = lab.machine.run("boesfs", check=False)
    assert done.returncode == 2
    assert "there is no menu" in done.stderr
    assert lab.machine.run("gofs", "--help").stdout.startswith("usage: boesfs -d DIR")
    done = lab.machine.run("boesfs", "-d", "/srv", "ls", check=False)
    assert done.returncode == 125
    assert "/.boesfs/acl/model/model.txt cannot be read" in done.stderr


# --- documents

GUIDE = Path(__file__).resolve().parents[2] / "docs/run.md"


def examples(language: str) -> str:
    """The block of the guide in a language."""
    found = re.search(rf"<!-- tested: [^\n]*test_run.py -->\n```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.xdist_group("guide")
def test_the_examples_of_the_guide_do_what_they_seem_to(lab: Lab) -> None:
    out = lab.machine.run("sh", "-euc", examples("sh")).stdout
    assert out == "42\n\ninput\njob.py\nroot\nTEXT\n"
    lab.machine.run("python3", "-c", examples("python"))


def test_the_guide_has_every_option_and_descriptor_that_there_is(lab: Lab) -> None:
    code = "from boesfsd import runs; print(json.dumps([list(runs.OPTIONS), list(runs.STANDARD)]))"
    options, standard = embed(lab, code)
    text = GUIDE.read_text()
    for name in (*options, *standard, "interrupt", "log"):
        assert re.search(rf"^\|[^|]*`{name}`", text, re.MULTILINE), name
