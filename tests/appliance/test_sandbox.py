# SPDX-License-Identifier: Apache-2.0
"""What a function can see and do, asked from inside it."""

import base64
import hashlib
import json
import re
from collections.abc import Callable

import pytest
from lab import HELLO, PROBE, Deployed, Lab, wait_for

Deploy = Callable[..., Deployed]
NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
# ends in the errno that CALL fails with, 0 when it does not
ERRNO = """\
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*args):
    ctypes.set_errno(0)
    return 0 if libc.syscall(*args) >= 0 else ctypes.get_errno()
"""
STATUS = "result = {l.partition(':')[0]: l.partition(':')[2].strip() for l in open('/proc/self/status')}"
TRY = """\
def attempt(what):
    try:
        what()
        return 'done'
    except OSError as error:
        import errno
        return errno.errorcode[error.errno]
"""


def test_it_runs_as_a_uid_of_its_own(probe: Deployed) -> None:
    assert probe.probe("import os; result = [*os.getresuid(), *os.getresgid()]") == [probe.get("Uid")] * 6
    assert probe.probe("import os; result = os.getgroups()") == []


def test_two_functions_have_different_uids(deploy: Deploy) -> None:
    assert deploy(PROBE).get("Uid") != deploy(PROBE).get("Uid")


def test_it_has_no_capabilities_no_new_privileges_and_a_seccomp_filter(probe: Deployed) -> None:
    status = probe.probe(STATUS)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("kind", NAMESPACES)
def test_it_has_a_namespace_of_its_own(lab: Lab, probe: Deployed, kind: str) -> None:
    host = lab.machine.shell(f"readlink /proc/1/ns/{kind}").strip()
    inside = probe.probe(f"import os; result = os.readlink('/proc/self/ns/{kind}')")
    assert inside.startswith(f"{kind}:")
    assert inside != host


def test_it_sees_no_processes_but_its_own(probe: Deployed) -> None:
    pids = probe.probe("import os; result = sorted(int(n) for n in os.listdir('/proc') if n.isdigit())")
    assert len(pids) <= 2
    assert max(pids) < 100


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/etc/machine-id", "/etc/boesfsd/boesfsd.conf", "/var/lib/boesfsd/boesfsd.db", "/root", "/home",
     "/srv", "/var", "/sys", "/boot", "/run/systemd", "/run/boesfs", "/run/dbus", "/proc/1/root/etc/shadow",
     "/proc/kcore", "/dev/mem", "/dev/kmsg", "/dev/loop-control", "/dev/console"],
)  # fmt: skip
def test_it_cannot_reach_the_host_s_files(probe: Deployed, path: str) -> None:
    code = f"import os; p = {path!r}; result = attempt(lambda: os.listdir(p) if os.path.isdir(p) else open(p).read(1))"
    assert probe.probe(TRY + code) in ("ENOENT", "EACCES", "EPERM", "ENXIO", "EISDIR")


def test_the_error_names_the_host_file_that_it_asked_for(probe: Deployed) -> None:
    answer = probe.call("open('/etc/machine-id')")
    assert answer.status == 502
    assert "/etc/machine-id" in answer.json["detail"]


@pytest.mark.parametrize(
    "path", ["/usr/x", "/function/x", "/x", "/etc/x", "/python/x", "/dev/x", "/run/x", "/proc/x", "/bin/x"]
)
def test_it_cannot_write_outside_its_tmp(probe: Deployed, path: str) -> None:
    assert probe.probe(TRY + f"result = attempt(lambda: open({path!r}, 'w'))") in ("EROFS", "EACCES", "ENOENT", "EPERM")


@pytest.mark.parametrize("path", ["/function/func.py", "/etc/passwd", "/usr/bin/python3", "/python/fdk/__init__.py"])
def test_it_cannot_change_existing_files(probe: Deployed, path: str) -> None:
    for what in (f"open({path!r}, 'r+')", f"os.unlink({path!r})", f"os.chmod({path!r}, 0o777)"):
        assert probe.probe(TRY + f"import os\nresult = attempt(lambda: {what})") in ("EROFS", "EACCES", "EPERM"), what


def test_its_tmp_is_writable_and_bounded_by_tmp_size(deploy: Deploy) -> None:
    function = deploy(PROBE, tmp_size=4, memory=256)
    code = "import os\ndef fill(n):\n    with open('/tmp/x', 'wb') as f:\n        f.write(bytes(n << 20))\n"
    assert function.probe(TRY + code + "result = attempt(lambda: fill(3))") == "done"
    assert function.probe(TRY + code + "result = attempt(lambda: fill(5))") == "ENOSPC"


def test_its_tmp_holds_programs_and_is_empty_at_the_next_start(deploy: Deploy) -> None:
    function = deploy(PROBE, idle_timeout=1)
    script = "import os, subprocess\nopen('/tmp/p', 'w').write('#!/bin/sh\\necho ran')\nos.chmod('/tmp/p', 0o700)\n"
    assert (
        function.probe(script + "result = subprocess.run(['/tmp/p'], capture_output=True).stdout.decode()") == "ran\n"
    )
    wait_for(lambda: function.instances() == [], 3)
    assert function.probe("import os; result = os.listdir('/tmp')") == []


def test_the_host_does_not_see_its_tmp(lab: Lab, probe: Deployed) -> None:
    probe.probe("open('/tmp/mark-of-a-function', 'w').write('x'); result = 0")
    assert lab.machine.run("sh", "-c", "test -e /tmp/mark-of-a-function", check=False).returncode == 1


def test_only_loopback_is_there_and_it_is_up(probe: Deployed) -> None:
    names = "import socket; result = [name for _, name in socket.if_nameindex()]"
    assert probe.probe(names) == ["lo"]
    talk = (
        "import socket; l = socket.create_server(('127.0.0.1', 0)); "
        "c = socket.create_connection(l.getsockname()); c.send(b'hi'); result = l.accept()[0].recv(9).decode()"
    )
    assert probe.probe(talk) == "hi"


def test_the_host_s_loopback_is_out_of_reach(probe: Deployed) -> None:
    code = "import socket; result = attempt(lambda: socket.create_connection(('127.0.0.1', 8080), 2))"
    assert probe.probe(TRY + code) == "ECONNREFUSED"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ptrace", "101, 16, 1, 0, 0"),
        ("mount", "165, b'none', b'/tmp', b'tmpfs', 0, None"),
        ("unshare", "272, 0x10000000"),
        ("bpf", "321, 0, None, 0"),
        ("keyctl", "250, 0, 0, 0, 0, 0"),
        ("add_key", "248, b'user', b'x', b'y', 1, -3"),
        ("io_uring_setup", "425, 1, None"),
        ("perf_event_open", "298, None, 0, -1, -1, 0"),
        ("userfaultfd", "323, 0"),
        ("process_vm_readv", "310, 1, None, 0, None, 0, 0"),
        ("setns", "308, 0, 0"),
        ("chroot", "161, b'/tmp'"),
        ("pivot_root", "155, b'/tmp', b'/tmp'"),
        ("init_module", "175, None, 0, b''"),
        ("reboot", "169, 0, 0, 0, None"),
        ("swapon", "167, b'/tmp/x', 0"),
        ("settimeofday", "164, None, None"),
        ("fsopen", "430, b'tmpfs', 0"),
        ("open_tree", "428, -100, b'/', 1"),
        ("personality", "135, 0x0040000"),
        ("quotactl", "179, 0, None, 0, None"),
        ("kexec_load", "246, 0, 0, None, 0"),
        ("iopl", "172, 3"),
        ("name_to_handle_at", "303, -100, b'/', None, None, 0"),
        ("open_by_handle_at", "304, 0, None, 0"),
    ],
)
def test_a_forbidden_system_call_is_eperm_and_named_in_the_journal(probe: Deployed, name: str, call: str) -> None:
    assert probe.probe(ERRNO + f"result = errno.errorcode.get(syscall({call}), 'done')") == "EPERM"
    assert probe.await_line(f"System call {name} ")["_SYSTEMD_UNIT"] == probe.unit()


def test_a_refused_system_call_is_reported_once_for_each_instance_with_its_call(deploy: Deploy) -> None:
    function = deploy(PROBE, concurrency=1)
    code = "result = [syscall(101, 16, 1, 0, 0) for _ in range(600)] + [syscall(1000 + n) for n in range(100)]"
    answer = function.call(ERRNO + code)
    assert answer.json == [1] * 600 + [38] * 100
    function.await_line("System call unknown (1000) ")
    function.call("result = 1")
    lines = [entry for entry in function.journal() if entry["MESSAGE"].startswith("System call ")]
    assert [entry["MESSAGE"].split()[2] for entry in lines] == ["ptrace", "unknown"]
    assert [entry["BOESFS_CALL_ID"] for entry in lines] == [answer.headers["fn-call-id"]] * 2


def all_system_calls_but(lab: Lab, *names: str) -> list[str]:
    """Of those that functions may make."""
    known = [line.split()[0] for line in lab.machine.shell("cat /usr/lib/boesfs/system-calls").splitlines()]
    assert set(names) < set(known)
    return [name for name in known if name not in names]


def test_of_system_calls_only_those_that_are_listed_can_be_made(lab: Lab, deploy: Deploy) -> None:
    early = f"import os\n{TRY}os.environ['EARLY'] = attempt(lambda: os.mkdir('/tmp/early'))\n"
    function = deploy(early + PROBE, system_calls=all_system_calls_but(lab, "mkdir", "mkdirat", "execve", "clone3"))
    assert function.probe("import os; result = os.environ['EARLY']") == "EPERM"  # before it served, too
    code = (
        "import os, subprocess; result = [attempt(lambda: os.mkdir('/tmp/d')), attempt(lambda: os.rmdir('/tmp/d'))]\n"
    )
    code += "result.append(attempt(lambda: subprocess.run(['/bin/true'])))"
    assert function.probe(TRY + code) == ["EPERM", "ENOENT", "EPERM"]
    for name in ("mkdir", "execve"):
        assert function.await_line(f"System call {name} ")["_SYSTEMD_UNIT"] == function.unit()
    # what no function may do is refused as ever
    assert function.probe(ERRNO + "result = errno.errorcode[syscall(101, 16, 1, 0, 0)]") == "EPERM"
    assert function.probe(ERRNO + "result = errno.errorcode[syscall(435, None, 0)]") == "ENOSYS"
    assert function.probe(ERRNO + "result = errno.errorcode[syscall(56, 0x10000000 | 17, 0, 0, 0, 0)]") == "EPERM"
    code = "import threading; t = threading.Thread(target=lambda: None); t.start(); t.join(); result = 'ran'"
    assert function.probe(code) == "ran"


def test_what_builds_the_sandbox_needs_no_place_in_the_list(lab: Lab, deploy: Deploy) -> None:
    ours = ("clone", "clone3", "close_range", "dup2", "execve", "umask")
    listed = all_system_calls_but(lab, *ours)
    function = deploy(PROBE, system_calls=listed, files=16, network="private")  # it has no descriptor to spare
    assert function.probe(TRY + "import os; result = attempt(os.fork)") == "EPERM"
    function.await_line("System call clone ")
    said = [entry["MESSAGE"] for entry in function.journal() if entry["MESSAGE"].startswith("System call ")]
    assert [line.split()[2] for line in said] == ["clone"]


def test_a_function_that_may_not_make_what_it_takes_to_start_says_so(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, system_calls=["read", "write"])
    answer = function.call()
    assert answer.status in (502, 504)
    function.await_line("System call ")
    assert any(
        "System call mmap" in entry["MESSAGE"] or "System call brk" in entry["MESSAGE"] for entry in function.journal()
    )


def test_system_calls_that_are_none_are_refused(deploy: Deploy) -> None:
    for name, hint in (("opneat", "did you mean openat?"), ("mount", "/usr/lib/boesfs/system-calls")):
        with pytest.raises(AssertionError, match=re.escape(f"system_calls: {name} is no system call")) as caught:
            deploy(HELLO, system_calls=["read", name])
        assert hint in str(caught.value)


def test_clone_with_new_namespaces_is_refused_and_clone3_is_as_if_not_there(probe: Deployed) -> None:
    assert probe.probe(ERRNO + "result = errno.errorcode[syscall(56, 0x10000000 | 17, 0, 0, 0, 0)]") == "EPERM"
    assert probe.probe(ERRNO + "result = errno.errorcode[syscall(435, None, 0)]") == "ENOSYS"


@pytest.mark.parametrize("family", ["AF_PACKET", "AF_VSOCK", "AF_BLUETOOTH", "AF_ALG"])
def test_unusual_socket_families_are_refused(probe: Deployed, family: str) -> None:
    code = f"import socket; result = attempt(lambda: socket.socket(socket.{family}, socket.SOCK_STREAM))"
    assert probe.probe(TRY + code) == "EPERM"


def test_it_cannot_signal_processes_outside(lab: Lab, probe: Deployed) -> None:
    outside = lab.daemon_pid()
    code = f"import os; result = [attempt(lambda: os.kill(p, 0)) for p in ({outside}, 100000, {probe.pid()})]"
    assert probe.probe(TRY + code) == ["ESRCH"] * 3


def test_kill_of_everything_leaves_the_neighbours_alone(lab: Lab, deploy: Deploy, probe: Deployed) -> None:
    probe.probe("result = 1")
    daemon, neighbour = lab.daemon_pid(), probe.pid()
    function = deploy(PROBE)
    answer = function.call("import os, signal; os.kill(-1, signal.SIGKILL); result = 1")
    assert answer.status in (200, 502)
    assert (lab.daemon_pid(), probe.pid()) == (daemon, neighbour)
    assert function.probe("result = 2") == 2


def test_abstract_unix_sockets_of_the_host_are_out_of_reach(lab: Lab, deploy: Deploy) -> None:
    name = lab.unique("abstract")
    unit = f"--unit={name}"
    script = (
        "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
        "s.bind('\\0' + sys.argv[1])\ns.listen()\ntime.sleep(60)\n"
    )
    lab.machine.run("systemd-run", "-q", unit, "python3", "-c", script, name)
    wait_for(lambda: name in lab.machine.shell("cat /proc/net/unix"))
    code = f"import socket; s = socket.socket(socket.AF_UNIX); result = attempt(lambda: s.connect('\\0{name}'))"
    assert deploy(PROBE).probe(TRY + code) in ("ECONNREFUSED", "EPERM")
    assert deploy(PROBE, network="host").probe(TRY + code) == "EPERM"  # there Landlock is what stands in the way
    lab.machine.run("systemctl", "stop", name)


def test_sockets_under_the_host_s_run_are_out_of_reach(probe: Deployed) -> None:
    for path in ("/run/dbus/system_bus_socket", "/run/systemd/notify", "/run/systemd/private", probe.socket):
        code = f"import socket; s = socket.socket(socket.AF_UNIX); result = attempt(lambda: s.connect({path!r}))"
        assert probe.probe(TRY + code) in ("ENOENT", "EACCES"), path


def test_the_number_of_open_files_is_limited(deploy: Deploy) -> None:
    function = deploy(PROBE, files=64)
    assert function.probe("import resource; result = resource.getrlimit(resource.RLIMIT_NOFILE)") == [64, 64]
    code = "import os\ndef many():\n    for _ in range(99):\n        os.dup(0)\n"
    assert function.probe(TRY + code + "result = attempt(many)") == "EMFILE"


def test_it_leaves_no_core_dumps(probe: Deployed) -> None:
    assert probe.probe("import resource; result = resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]


def test_a_limit_cannot_be_raised_from_inside(deploy: Deploy) -> None:
    function = deploy(PROBE, files=64)
    code = "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_NOFILE, (65, 65)); result = 'raised'\n"
    assert function.probe(code + "except (ValueError, OSError):\n    result = 'no'\n") == "no"


def test_a_set_uid_program_gains_nothing(probe: Deployed) -> None:
    code = (
        "import os\nall = ('/usr/bin/' + n for n in ('su', 'mount', 'newgrp', 'passwd'))\n"
        "assert any(os.path.exists(p) and os.stat(p).st_mode & 0o4000 for p in all)\n"
        "result = [l for l in open('/proc/self/mountinfo') if ' /usr ' in l]\n"
    )
    assert all("nosuid" in line and re.search(r"\bro\b", line) for line in probe.probe(code))


def test_every_mount_is_nosuid_and_private_and_the_root_is_read_only(probe: Deployed) -> None:
    lines = [line.split() for line in probe.probe("result = open('/proc/self/mountinfo').read().splitlines()")]
    for line in lines:
        assert "nosuid" in line[5], line
        assert "shared:" not in " ".join(line[6 : line.index("-")]), line
    root = next(line for line in lines if line[4] == "/")
    assert "ro" in root[5].split(",")
    assert not [line for line in lines if line[4].startswith(("/var", "/home", "/sys", "/etc/shadow"))]


def test_the_host_s_python_packages_are_hidden_and_the_stock_fdk_is_there(probe: Deployed) -> None:
    assert probe.probe("import os; result = os.listdir('/usr/lib/python3/dist-packages')") == []
    code = "import importlib.util, fdk; result = [fdk.__file__, importlib.util.find_spec('dbus_next') is None]"
    assert probe.probe(code) == ["/python/fdk/__init__.py", True]


def test_the_fdk_is_the_unmodified_one_from_pypi(lab: Lab) -> None:
    files = lab.machine.shell("cd /usr/lib/boesfs/runtimes/python && cat fdk-0.1.128.dist-info/RECORD")
    hashed = [line.split(",") for line in files.splitlines() if line.startswith("fdk/") and "sha256=" in line]
    assert len(hashed) > 10
    for path, digest, _size in hashed:
        data = (lab.machine.root / "usr/lib/boesfs/runtimes/python" / path).read_bytes()
        found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert found == digest.removeprefix("sha256="), path


def test_landlock_inside_is_what_it_is_outside(lab: Lab, probe: Deployed) -> None:
    outside = lab.python(ERRNO + "print(libc.syscall(444, None, 0, 1))").strip()
    assert int(outside) >= 1
    assert probe.probe(ERRNO + "result = libc.syscall(444, None, 0, 1)") == int(outside)


def test_landlock_refuses_what_file_permissions_would_allow(probe: Deployed) -> None:
    assert probe.probe(TRY + "import os; result = attempt(lambda: os.listdir('/'))") == "EACCES"


def test_the_environment_is_fn_s_contract(probe: Deployed) -> None:
    environment = probe.probe("import os; result = dict(os.environ)")
    app = probe.lab.bus.get(probe.path.replace("/function/", "/app/").rsplit("/", 1)[0], "org.boesfs.Faas1.App", "Id")
    wanted = {
        "FN_FORMAT": "http-stream", "FN_MEMORY": "256", "FN_TMPSIZE": "64", "FN_TYPE": "sync", "FN_FN_ID": probe.id,
        "FN_APP_ID": app, "FN_NAME": probe.name, "FN_APP_NAME": probe.app, "HOME": "/tmp",
    }  # fmt: skip
    assert wanted.items() <= environment.items()
    assert environment["FN_LISTENER"].startswith("unix:/")
    assert not {
        name for name in environment if name.startswith(("LISTEN_", "NOTIFY_", "INVOCATION", "SYSTEMD_", "JOURNAL_"))
    }


def test_the_function_s_configuration_goes_over_the_app_s_and_the_bundle_s(lab: Lab) -> None:
    app = lab.app({"A": "app", "B": "app", "C": "app"})
    manifest = (
        "schema_version: 20180708\nruntime: python\nconfig: {B: yaml, C: yaml}\nenvironment: {A: bundle, D: bundle}\n"
    )
    function = lab.deploy(app, {"func.py": PROBE, "func.yaml": manifest}, config={"C": "option"})
    found = function.probe("import os; result = [os.environ.get(n) for n in 'ABCD']")
    assert found == ["app", "yaml", "option", "bundle"]
    lab.bus.manager("RemoveApp", "s", app)


def test_configuration_cannot_replace_fn_s_variables(deploy: Deploy) -> None:
    function = deploy(PROBE, config={"FN_LISTENER": "unix:/tmp/mine", "FN_FN_ID": "mine"})
    assert function.probe("import os; result = os.environ['FN_FN_ID']") == function.id


def test_any_text_is_a_value_of_configuration(deploy: Deploy) -> None:
    value = 'tab\tnewline\nback\\slash \\n "quote" é %n $HOME'
    assert deploy(PROBE, config={"TEXT": value}).probe("import os; result = os.environ['TEXT']") == value


def test_it_has_three_descriptors_of_ours_and_nothing_to_read(probe: Deployed) -> None:
    code = "import os; result = {n: os.readlink('/proc/self/fd/' + n) for n in ('0', '1', '2')}"
    links = probe.probe(code)
    assert links["0"] == "/dev/null"
    assert all(links[n].startswith("pipe:") for n in "12")


def test_no_descriptor_of_the_agent_is_inherited(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    import json\n"
        "    paths = ['/proc/self/fd/%s' % n for n in os.listdir('/proc/self/fd') if n not in '012']\n"
        "    c.sendall(answer(json.dumps([os.readlink(p) for p in paths if os.path.islink(p)])))\n"
    )
    names = [name for name in json.loads(function.call().text) if not name.startswith(("socket:", "/proc/"))]
    assert names == []


def test_other_functions_code_is_invisible(probe: Deployed) -> None:
    assert probe.probe("import os; result = sorted(os.listdir('/function'))") == ["func.py", "func.yaml"]


def test_the_supervisor_has_no_privileges_either(lab: Lab, probe: Deployed) -> None:
    probe.probe("result = 1")
    status = lab.machine.shell(f"cat /proc/{probe.pid()}/status")
    assert re.search(rf"^Uid:\t{probe.get('Uid')}\t", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert "NoNewPrivs:\t1" in status


def test_its_processes_cannot_read_the_supervisor(lab: Lab, probe: Deployed) -> None:
    """They share a uid: only the pid namespace and dumpability keep them apart."""
    probe.probe("result = 1")
    out = lab.machine.run(
        "setpriv", f"--reuid={probe.get('Uid')}", "--clear-groups", "cat", f"/proc/{probe.pid()}/environ", check=False
    )
    assert out.returncode != 0


def test_the_plan_ends_in_the_order_of_the_walls(lab: Lab, probe: Deployed) -> None:
    words = [line.split("\t")[0] for line in lab.machine.shell(f"cat /run/boesfs/plan/{probe.id}.plan").splitlines()]
    places = [words.index(word) for word in ("pivot", "drop", "restrict", "seccomp", "exec")]
    assert places == sorted(places)
    assert words[-1] == "exec"


def test_hard_and_soft_links_in_tmp_lead_nowhere_outside(probe: Deployed) -> None:
    code = "import os\nos.symlink('/etc/machine-id', '/tmp/link') if not os.path.lexists('/tmp/link') else 0\n"
    assert probe.probe(TRY + code + "result = attempt(lambda: open('/tmp/link'))") in ("ENOENT", "EACCES")


def test_the_listener_s_directory_cannot_lead_the_agent_to_a_host_socket(lab: Lab, deploy: Deploy) -> None:
    """A function that links its listener to some other socket is not connected to it."""
    manifest = "schema_version: 20180708\nruntime: python\nentrypoint: /function/main\n"
    main = (
        "#!/usr/bin/python3\nimport os, time\n"
        "os.symlink('/run/systemd/private', os.environ['FN_LISTENER'][5:])\ntime.sleep(9)\n"
    )
    function = deploy({"main": main, "func.yaml": manifest})
    answer = function.call()
    assert answer.status in (502, 504)


@pytest.mark.parametrize("user", ["user\\t", "user\\t1000\\t", "user\\tx", "hostname\\tx"])
def test_a_plan_that_names_nobody_starts_nothing(lab: Lab, app: str, user: str) -> None:
    """An empty number would be root's."""
    function = lab.deploy(app, HELLO)
    lab.machine.shell(f"sed -i 's/^user\\t.*/{user}/' /run/boesfs/plan/{function.id}.plan")
    answer = function.call()
    assert answer.status == 502, answer.text
    assert "no user, network or seccomp line" in answer.text
