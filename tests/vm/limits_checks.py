# SPDX-License-Identifier: Apache-2.0
"""What only a kernel with all its cgroup v2 controllers can show. Runs inside the VM; outside, it is imported for the
names of its checks."""

from pathlib import Path

from bench import PATIENCE, PATIENT, PROBE_LIMITS, Bench, answer_of, ask, check
from lab import HELLO, PROBE, wait_for

MIB = 1 << 20
LANDLOCK_ABI = "6"  # of Linux 6.12

# --- first steps: the boot, a call


@check
def this_kernel_has_the_memory_cpu_cpuset_and_pids_controllers(_: Bench) -> None:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"memory", "cpu", "cpuset", "pids"} <= set(controllers), controllers


@check
def boesfs_setup_made_favordynmods_effective(_: Bench) -> None:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    assert mounts
    assert all("favordynmods" in line.split(" - ")[1] for line in mounts), mounts


@check
def the_agent_reports_the_landlock_abi_of_this_kernel(bench: Bench) -> None:
    said = bench.lab.machine.run("/usr/lib/boesfs/boesfs-agent", "--features").stdout.split()
    assert f"landlock={LANDLOCK_ABI}" in said, said


@check
def a_call_over_http_is_answered(bench: Bench) -> None:
    function = bench.deploy(HELLO)
    answer = ask(function, "x")
    assert (answer.status, answer.text) == (200, "hello"), f"{answer.status} {answer.text}"
    function.remove()


@check
def the_neighbour_is_started(bench: Bench) -> None:
    assert answer_of(bench.neighbour) == 1
    assert answer_of(bench.probe) == 1


@check
def a_host_that_forbids_user_namespaces_is_told_so_by_the_call_and_by_check(bench: Bench) -> None:
    for setting, remedy in (("kernel.unprivileged_userns_clone", "1"), ("user.max_user_namespaces", "65536")):
        function = bench.deploy(HELLO)
        run = bench.lab.machine.run
        before = run("sysctl", "-n", setting).stdout.strip()
        run("sysctl", "-q", f"{setting}=0")
        try:
            answer = ask(function, "x")
            (row,) = (row for row in bench.lab.bus.manager("Check") if row[0] == "user-namespaces")
        finally:
            run("sysctl", "-q", f"{setting}={before}")
        assert answer.status == 502, answer
        assert "this host makes no user namespaces (boesfsctl doctor says why)" in answer.text, answer
        assert row[1:] == ["error", f"No function can start: {setting} is 0", f"sysctl {setting}={remedy}"], row
        assert ask(function, "x").text == "hello"
        function.remove()
    (row,) = (row for row in bench.lab.bus.manager("Check") if row[0] == "user-namespaces")
    assert row[1] == "ok", row


# --- what an instance may take


@check
def limits_are_the_kernel_s(bench: Bench) -> None:
    found = bench.limits(bench.probe, "memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus.effective")
    assert found == [str(64 * MIB), "0", "22", "90000 100000", "1"], found


@check
def a_function_s_processor_is_that_of_cpuset(bench: Bench) -> None:
    assert answer_of(bench.probe, "import os; result = sorted(os.sched_getaffinity(0))") == [1]


@check
def a_fifth_of_a_cpu_given_in_the_middle_of_a_call_makes_it_take_five_times_as_long(bench: Bench) -> None:
    code = (
        "import time\ntime.sleep(8)\nwall, cpu = time.monotonic(), time.process_time()\n"
        "while time.process_time() - cpu < 0.6:\n    pass\n"
        "result = (time.monotonic() - wall) / (time.process_time() - cpu)\n"
    )
    call = bench.probe.begin(code, "--max-time", "130")
    bench.probe.running_call(PATIENCE)
    try:
        bench.probe.replace(**{**PATIENT, **PROBE_LIMITS, "cpu": 0.2})
        assert bench.limits(bench.probe, "cpu.max") == ["20000 100000"]
        answer = bench.lab.end(call, 140)
    finally:
        bench.probe.replace(**{**PATIENT, **PROBE_LIMITS})
    assert answer.status == 200, answer.text
    assert 4 < answer.json < 8, answer.json


def out_of_memory(bench: Bench, code: str) -> None:
    """CODE ends with the instance it runs in, and harms no one else."""
    daemon, neighbour = bench.lab.daemon_pid(), bench.neighbour.pid()
    answer = ask(bench.probe, code)
    assert answer.status == 502, f"{answer.status} {answer.text}"
    assert "out of memory" in answer.json["detail"], answer.text
    assert answer_of(bench.neighbour) == 1
    assert answer_of(bench.probe) == 1
    assert (bench.lab.daemon_pid(), bench.neighbour.pid()) == (daemon, neighbour)


@check
def eating_memory_ends_in_502_out_of_memory_and_harms_no_one_else(bench: Bench) -> None:
    out_of_memory(bench, "result = len(bytearray(b'x') * (1 << 28))")


@check
def eating_memory_in_a_child_ends_in_502_or_an_answer_and_harms_no_one_else(bench: Bench) -> None:
    eat = "if not pid:\n    b'x' * (1 << 28)\n    os._exit(0)\n"
    code = f"import os\npid = os.fork()\n{eat}result = os.waitpid(pid, 0)[1]"
    daemon = bench.lab.daemon_pid()
    answer = ask(bench.probe, code)
    assert (answer.status, answer.text) == (200, "9") or answer.status == 502, f"{answer.status} {answer.text}"
    assert answer_of(bench.neighbour) == 1
    assert answer_of(bench.probe) == 1
    assert bench.lab.daemon_pid() == daemon


@check
def what_is_written_to_tmp_counts_as_memory(bench: Bench) -> None:
    out_of_memory(bench, "f = open('/tmp/x', 'wb')\nfor _ in range(200):\n    f.write(bytes(1 << 20))\nresult = 1")


@check
def a_full_tmp_is_an_error_of_the_function_s_own_and_harms_no_one_else(bench: Bench) -> None:
    function = bench.deploy(PROBE, memory=128, tmp_size=8)
    code = (
        "import os\ntry:\n    open('/tmp/x', 'wb').write(bytes(64 << 20))\nexcept OSError as error:\n"
        "    result = error.errno\nos.unlink('/tmp/x')"
    )
    assert answer_of(function, code) == 28
    assert answer_of(bench.neighbour) == 1
    assert answer_of(function) == 1
    function.remove()


@check
def a_fork_bomb_meets_pids_max_and_harms_no_one_else(bench: Bench) -> None:
    daemon = bench.lab.daemon_pid()
    code = (
        "import os, signal\nchildren, error = [], 0\n"
        "while not error and len(children) < 1000:\n"
        "    try:\n        pid = os.fork()\n"
        "    except OSError as failure:\n        error = failure.errno\n        continue\n"
        "    if not pid:\n        signal.pause()\n        os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children:\n    os.kill(pid, 9)\n    os.waitpid(pid, 0)\n"
        "result = [len(children), error]\n"
    )
    children, error = answer_of(bench.probe, code)
    assert 15 <= children <= 20
    assert error == 11
    assert answer_of(bench.neighbour) == 1
    assert answer_of(bench.probe) == 1
    assert bench.lab.daemon_pid() == daemon


# --- changes


@check
def other_limits_reach_the_kernel_while_the_instance_runs_and_without_a_daemon_reload(bench: Bench) -> None:
    reloads = bench.lab.machine.shell("journalctl -q -o cat _PID=1").count("Reloading")
    function = bench.deploy(PROBE, memory=64, cpu=0.5, tasks=20)
    answer_of(function)
    pid = function.pid()
    assert bench.limits(function, "memory.max", "cpu.max", "pids.max") == [str(64 * MIB), "50000 100000", "22"]
    call = function.begin("import time; time.sleep(4); result = 1", "--max-time", "130")
    wait_for(lambda: function.get("NRunning"), PATIENCE)
    function.replace(memory=99, cpu=0.25, tasks=30, **PATIENT)
    assert function.pid() == pid
    assert bench.limits(function, "memory.max", "cpu.max", "pids.max") == [str(99 * MIB), "25000 100000", "32"]
    answer = function.lab.end(call, 140)
    assert answer.status == 200, answer.text
    function.replace(memory=99, **PATIENT)
    answer_of(function)
    assert bench.limits(function, "memory.max", "cpu.max") == [str(99 * MIB), "max 100000"]
    assert bench.lab.machine.shell("journalctl -q -o cat _PID=1").count("Reloading") == reloads
    function.remove()


@check
def the_slice_of_an_app_takes_a_limit_of_the_admin_s(bench: Bench) -> None:
    unit = bench.lab.show(bench.neighbour.unit(), "Slice")["Slice"]
    bench.lab.machine.run("systemctl", "set-property", "--runtime", unit, "MemoryMax=900M")
    assert (bench.group(bench.neighbour).parent / "memory.max").read_text().strip() == str(900 * MIB)
    assert answer_of(bench.neighbour) == 1


# --- the end


@check
def after_idle_exit_there_is_no_control_group(bench: Bench) -> None:
    function = bench.deploy(HELLO, idle_timeout=1)
    call = function.begin("x", "--max-time", "130")
    wait_for(lambda: function.state() in ("activating", "active"), PATIENCE)
    group = bench.group(function)
    assert group.is_dir()
    assert function.lab.end(call, 140).text == "hello"
    wait_for(lambda: function.state() == "inactive", PATIENCE)
    assert not group.exists()
    function.remove()
