# SPDX-License-Identifier: Apache-2.0
"""`boesfsctl run` and `boesfs` on a kernel with BoesFS and with limits: whoever runs something, under which rules. Runs
inside the VM."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import PATIENCE, Bench, check
from lab import wait_for
from policy_checks import DENIAL

PLACE = Path("/srv/run")
RULES = Path("/etc/polkit-1/rules.d/50-run.rules")
USER = "walter"
POLICY = f"""
default: deny
rules:
  - allow: [read, list, exec]
    on: [/usr/**, /etc/passwd, /etc/nsswitch.conf]
  - allow: [read, list, create, write, delete, meta]
    on: "${{CODE}}/**"
  - deny: [read, write]
    on: "${{CODE}}/secret"
  - allow: list
    on: {PLACE}
"""
# The original's own test: each operation on each file, and which of them it expects to be denied.
BLACKLIST = """
[request_definition]
r = obj, act
[policy_definition]
p = obj, act
[policy_effect]
e = !some(where (p.eft == deny))
[matchers]
m = r.obj == p.obj && r.act == p.act
"""
RULES_OF_T = """
p, T/lookup.txt, lookup, file, deny
p, T/read.txt, read, file, deny
p, T/write.txt, write, file, deny
p, T/open.txt, open, file, deny
p, T/unlink.txt, unlink, file, deny
p, T/mkdir, mkdir, file, deny
p, T/rmdir, rmdir, file, deny
p, T/wrunlink.txt, write, file, deny
p, T/wrunlink.txt, unlink, file, deny
p, T/dir, write, dir, deny
p, T/dir, unlink, dir, deny
"""
EXPECTED = {
    "lookup.txt": "lookup open read write unlink",
    "open.txt": "open read write",
    "read.txt": "read",
    "write.txt": "write",
    "unlink.txt": "unlink",
    "dir/test.txt": "write unlink",
    "canAll.txt": "",
    "wrunlink.txt": "write unlink",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
}
HARNESS = """
import os, sys
def denied(work):
    try:
        work()
    except PermissionError as error:
        assert error.errno == 1, error
        return True
    return False
def write(name):
    with open(name, "w") as file:
        file.write("x")
STEPS = {"lookup": os.stat, "open": lambda name: open(name).close(), "read": lambda name: open(name).read(),
         "write": write, "unlink": os.remove}
for name in sys.argv[1:]:
    print(name, *(step for step, work in STEPS.items() if denied(lambda: work(name))))
print("mkdir", *(word for word, work in (("rmdir", os.rmdir), ("mkdir", os.mkdir)) if denied(lambda: work("mkdir"))))
print("rmdir", *(word for word, work in (("mkdir", os.mkdir), ("rmdir", os.rmdir)) if denied(lambda: work("rmdir"))))
"""


def run(*words: str, user: str = "", program: str = "boesfsctl", **options: Any) -> "subprocess.CompletedProcess[str]":
    """What it says and how it ends."""
    command = [program, *(["run"] if program == "boesfsctl" else []), *words]
    if user:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 3, check=False, **options)


def place(name: str, kill: int = 0, **files: str) -> Path:
    """A directory with files, and a policy block beside it."""
    found = PLACE / name
    found.mkdir(parents=True)
    for file, text in files.items():
        (found / file).write_text(text)
    (PLACE / f"{name}.yaml").write_text(POLICY + (f"kill: {kill}\n" if kill else ""))
    return found


def denials(bench: Bench, unit: str) -> list[dict[str, str]]:
    """The journal's entries of a command."""
    return bench.lab.journal(f"MESSAGE_ID={DENIAL}", f"BOESFS_FUNCTION_ID={unit}")


def tables() -> set[int]:
    """The numbers of those in the kernel; that of a function that was removed before goes a while after."""
    sys.path.insert(0, "/usr/lib/boesfs/python")
    from boesfsd import kernel  # noqa: PLC0415 (there is libbpf only inside)

    policies = kernel.Policies()
    try:
        return {table.number for table in policies.tables()}
    finally:
        policies.close()


@check
def a_command_s_files_are_judged_and_what_is_denied_is_told(bench: Bench) -> None:
    here = place("judged", public="p", secret="s")
    before = tables()
    words = ["-v", "-d", str(here), "-f", f"{here}.yaml", "-l", f"{here}.log"]
    script = (
        "cat public; echo new > made; cat secret; cat /etc/group; ls /etc/alternatives; grep -c boesfs /proc/mounts"
    )
    done = run(*words, "--", "/bin/sh", "-c", script)
    assert done.returncode == 0, done
    assert done.stdout == "p8\n", done  # the root, /usr, three in /etc, /tmp, /dev/shm, and its directory
    for text in ("cat: secret: Operation not permitted", "cat: /etc/group: Operation not permitted"):
        assert text in done.stderr, done
    assert (here / "made").read_text() == "new\n"
    unit = next(word for word in done.stderr.split() if word.startswith("boesfs-run-"))
    entries = wait_for(lambda: denials(bench, unit), PATIENCE, until=lambda found: len(found) >= 2)
    told = next(entry for entry in entries if entry["BOESFS_PATH"] == f"{here}/secret")
    assert told["OBJECT_SYSTEMD_UNIT"] == unit, told
    assert told["BOESFS_RULE"].startswith(f"{here}.yaml, line 8, column 5: - deny: [read, write]"), told
    log = Path(f"{here}.log").read_text()
    assert f"[deny] /bin/sh,read,{here}/secret,262144,0\n" in log, log
    wait_for(lambda: tables() <= before, PATIENCE)


@check
def a_command_that_is_denied_too_much_is_ended_and_it_is_said(bench: Bench) -> None:
    here = place("killed", kill=5, public="p", secret="s")
    script = "for n in 1 2 3 4 5 6 7 8 9; do cat secret 2>/dev/null; echo $n; done"
    done = run("-d", str(here), "-f", f"{here}.yaml", "--", "/bin/sh", "-c", script)
    assert (done.returncode, done.stdout) == (137, "1\n2\n3\n4\n5\n"), done
    assert "killed by policy: too many denials" in done.stderr, done
    assert "secret" in done.stderr, done
    done = run("-k", "2", "-d", str(here), "-f", f"{here}.yaml", "--", "/bin/sh", "-c", script)
    assert (done.returncode, done.stdout) == (137, "1\n2\n"), done


@check
def the_original_s_files_and_options_do_what_they_did(bench: Bench) -> None:
    here = PLACE / "original"
    (here / "dir").mkdir(parents=True)
    (here / "mkdir").mkdir()
    files = [name for name in EXPECTED if name.endswith(".txt")]
    for name in files:
        (here / name).write_text("text")
    (PLACE / "model.txt").write_text(BLACKLIST)
    (PLACE / "policy.txt").write_text(RULES_OF_T.replace("T/", f"{here}/"))
    (PLACE / "harness.py").write_text(HARNESS)
    (here / "harness.py").write_text(HARNESS)
    model = ["-m", f"{PLACE}/model.txt", "-p", f"{PLACE}/policy.txt"]
    command = ["python3", "harness.py", *files]
    done = run("-d", str(here), "-k", "1000", *model, "-l", f"{PLACE}/original.log", *command, program="gofs", cwd=here)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert dict(line.partition(" ")[::2] for line in done.stdout.splitlines()) == EXPECTED, done.stdout
    log = wait_for(
        lambda: Path(f"{PLACE}/original.log").read_text().splitlines(), PATIENCE, until=lambda log: len(log) > 15
    )
    for line in ("lookup,{}/lookup.txt", "unlink,{}/dir/test.txt", "mkdir,{}/mkdir,511", "rmdir,{}/rmdir"):
        assert f"[deny] python3,{line.format(here)}" in log, log
    # the C agent's way: files in their own place, a log in its own
    home = PLACE / "home"
    (home / ".boesfs/acl/model").mkdir(parents=True)
    (home / ".boesfs/acl/model/model.txt").write_text(BLACKLIST)
    (home / ".boesfs/acl/model/policy.txt").write_text(f"p, {here}/secret, read, file, deny\n")
    (here / "secret").write_text("s")
    done = run(*["-d", str(here), "-l", "cat", "secret"], program="boesfs", env={**os.environ, "HOME": str(home)})
    assert (done.returncode, done.stdout) == (1, ""), done
    assert "cat: secret: Operation not permitted" in done.stderr, done
    (log_file,) = (home / ".boesfs/log").iterdir()
    wait_for(lambda: f",read,{here}/secret" in log_file.read_text(), PATIENCE)


@check
def a_whitelist_of_the_original_s_is_about_the_directory_alone(bench: Bench) -> None:
    here = place("white", public="p", secret="s")
    model = BLACKLIST.replace("!some(where (p.eft == deny))", "some(where (p.eft == allow))")
    (PLACE / "white.txt").write_text(model)
    allowed = ("lookup", "open", "read", "getattr", "llseek", "mmap")
    (PLACE / "white-policy.txt").write_text("".join(f"p, {here}/public, {name}, file, allow\n" for name in allowed))
    files = ["-m", f"{PLACE}/white.txt", "-p", f"{PLACE}/white-policy.txt"]
    script = f"cat {here}/public {here}/secret; echo x > {here}/made; echo y > /tmp/made; cat /tmp/made; ls {here}"
    done = run("-d", str(here), "-w", "/", *files, "--", "/bin/sh", "-c", script)
    assert done.stdout == "py\n", done
    assert (done.returncode, done.stderr.count("Operation not permitted")) == (2, 3), done


@check
def limits_are_the_kernel_s(bench: Bench) -> None:
    python = "x = bytearray(200 << 20); print(len(x))"
    done = run("--memory", "64M", "--", "python3", "-c", python)
    assert (done.returncode, done.stdout) == (137, ""), done
    assert "out of memory" in done.stderr, done
    done = run("--memory", "512M", "--", "python3", "-c", python)
    assert (done.returncode, done.stdout) == (0, f"{200 << 20}\n"), done
    script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo started; kill %1"
    done = run("--tasks", "5", "--", "/bin/sh", "-c", script)
    assert "annot fork" in done.stderr, done
    script = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert run("--cpuset", "1", "--", "python3", "-c", script).stdout == "[1]\n"
    group = "while :; do sleep 1; done"
    with subprocess.Popen(
        ["boesfsctl", "run", "--cpu", "0.25", "-v", "--", "/bin/sh", "-c", group], stderr=-1
    ) as running:
        assert running.stderr
        unit = running.stderr.readline().decode().split()[0]
        cgroup = Path("/sys/fs/cgroup" + bench.lab.show(unit, "ControlGroup")["ControlGroup"])
        assert (cgroup / "cpu.max").read_text() == "25000 100000\n"
        assert "boesfs-run.slice" in str(cgroup)
        running.kill()
    wait_for(lambda: not cgroup.exists(), PATIENCE)


@check
def an_ordinary_user_runs_commands_as_himself_if_polkit_lets_him(bench: Bench) -> None:
    subprocess.run(["useradd", "--create-home", USER], check=True)
    here = place("ordinary", public="p", secret="s")
    for path in (here, *here.iterdir()):
        os.chown(path, *(int(subprocess.check_output(["id", option, USER])) for option in ("-u", "-g")))
    done = run("--", "/bin/true", user=USER)
    assert done.returncode == 125, done
    assert "polkit does not allow org.boesfs.faas1.run" in done.stderr, done
    RULES.write_text(
        f"""polkit.addRule(function(action, subject) {{
    if (action.id == "org.boesfs.faas1.run" && subject.user == "{USER}") return polkit.Result.YES;
}});
"""
    )
    try:
        wait_for(lambda: run("--", "/bin/true", user=USER).returncode == 0, PATIENCE)
        script = "id -un; cat public; echo mine > made; cat secret; cat /etc/shadow; ls /root"
        done = run("-d", str(here), "-f", f"{here}.yaml", "--", "/bin/sh", "-c", script, user=USER)
        assert done.stdout == f"{USER}\np", done
        assert (here / "made").owner() == USER
        assert done.stderr.count("Operation not permitted") == 2, done  # secret, and the name /root
        assert "cat: /etc/shadow: No such file or directory" in done.stderr, done
        done = run("-d", "/root", "--", "/bin/ls", "/root", user=USER)
        assert (done.returncode, done.stdout) == (125, ""), done
        assert run("-d", "/", "--", "/bin/cat", "/etc/shadow", user=USER).returncode == 1
    finally:
        RULES.unlink()


@check
def a_command_outlives_boesfsd_and_is_judged_and_told_all_the_same(bench: Bench) -> None:
    here = place("outlives", public="p", secret="s")
    script = "echo begun; read line; cat public; cat secret; echo ended"
    words = ["boesfsctl", "run", "-iv", "-d", str(here), "-f", f"{here}.yaml", "--", "/bin/sh", "-c", script]
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True) as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        unit = running.stderr.readline().split()[0]
        assert running.stdout.readline() == "begun\n"
        bench.lab.machine.run("systemctl", "restart", "boesfsd")
        out, error = running.communicate("go\n", timeout=PATIENCE)
        assert out == "pended\n", out
        assert "Operation not permitted" in error, error
    (entry,) = wait_for(lambda: denials(bench, unit), PATIENCE)
    assert entry["OBJECT_SYSTEMD_UNIT"] == unit, entry
    assert entry["BOESFS_RULE"] == "a policy that is no longer in force", entry
