# SPDX-License-Identifier: Apache-2.0
"""What systemd knows of a function, and what is left of it when it is idle or removed."""

from collections.abc import Callable

from lab import HELLO, PROBE, Deployed, Lab, wait_for

Deploy = Callable[..., Deployed]


def test_units_are_described_by_app_and_function_and_live_in_the_app_s_slice(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO)
    function.call(b"x")
    shown = lab.show(function.unit(), "Description", "Slice", "LogExtraFields", "ControlGroup", "TimeoutStartUSec")
    app_id = lab.bus.get(function.path.replace("/function/", "/app/").rsplit("/", 1)[0], "org.boesfs.Faas1.App", "Id")
    assert shown["Description"] == f"Function {function.app}/{function.name} (slot 0)"
    assert shown["Slice"] == f"boesfs-{app_id}.slice"
    assert shown["ControlGroup"] == f"/boesfs.slice/boesfs-{app_id}.slice/{function.unit()}"
    assert f"BOESFS_APP={function.app}" in shown["LogExtraFields"]
    assert f"BOESFS_FUNCTION={function.name}" in shown["LogExtraFields"]
    assert shown["TimeoutStartUSec"] == "10s"
    assert f"{function.app}/{function.name}" in lab.show(function.unit("socket"), "Description")["Description"]


def test_limits_are_effective_without_a_daemon_reload(lab: Lab, deploy: Deploy) -> None:
    reloads = lab.machine.shell("journalctl -q -o cat _PID=1").count("Reloading")
    function = deploy(HELLO, memory=77, tasks=33, cpu=0.5, cpuset="0")
    function.call(b"x")
    shown = lab.show(
        function.unit(),
        "MemoryMax",
        "TasksMax",
        "CPUQuotaPerSecUSec",
        "AllowedCPUs",
        "NeedDaemonReload",
        "MemorySwapMax",
    )
    assert shown == {
        "MemoryMax": str(77 << 20), "TasksMax": "35", "CPUQuotaPerSecUSec": "500ms", "AllowedCPUs": "0",
        "NeedDaemonReload": "no", "MemorySwapMax": "0",
    }  # fmt: skip
    assert lab.machine.shell("journalctl -q -o cat _PID=1").count("Reloading") == reloads


def test_the_drop_in_is_the_one_that_systemd_has_loaded(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO)
    for kind in ("service", "socket"):
        shown = lab.show(function.unit(kind), "DropInPaths", "NeedDaemonReload")
        assert shown["DropInPaths"] == f"/run/systemd/system/{function.unit(kind)}.d/10-boesfsd.conf"
        assert shown["NeedDaemonReload"] == "no"


def test_deploying_with_other_limits_changes_the_running_instance(lab: Lab, deploy: Deploy) -> None:
    function = deploy(
        "import time\ndef handler(ctx, data):\n    time.sleep(float(data.read()))\n    return 'slept'\n", memory=64
    )
    call = function.begin(b"1")
    function.running_call()
    pid = function.pid()
    function.replace(memory=99, cpu=0.25)
    shown = lab.show(function.unit(), "MemoryMax", "CPUQuotaPerSecUSec", "MainPID", "NeedDaemonReload")
    assert shown == {
        "MemoryMax": str(99 << 20), "CPUQuotaPerSecUSec": "250ms", "MainPID": str(pid), "NeedDaemonReload": "no",
    }  # fmt: skip
    assert lab.end(call).text == "slept"


def test_other_limits_hold_for_the_next_instance_too(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64, idle_timeout=1)
    function.call(b"x")
    function.replace(memory=99, idle_timeout=1)
    wait_for(lambda: function.instances() == [], 3)
    function.call(b"x")
    assert lab.show(function.unit(), "MemoryMax")["MemoryMax"] == str(99 << 20)


def test_other_limits_hold_for_an_instance_that_was_idle_when_they_came(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64)
    function.replace(memory=99)
    function.call(b"x")
    assert lab.show(function.unit(), "MemoryMax", "NeedDaemonReload") == {
        "MemoryMax": str(99 << 20),
        "NeedDaemonReload": "no",
    }


def test_a_setting_that_only_a_file_can_hold_changes_with_a_replace(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, tmp_size=4)
    assert function.probe("import os; s = os.statvfs('/tmp'); result = s.f_blocks * s.f_frsize") == 4 << 20
    function.replace(tmp_size=8)
    wait_for(lambda: function.probe("import os; s = os.statvfs('/tmp'); result = s.f_blocks * s.f_frsize") == 8 << 20)


def test_after_idle_exit_there_is_no_cgroup_no_process_and_no_mount(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, idle_timeout=1)
    # neighbours have private networks
    mounts = "grep -v -e ' nsfs ' -e ' /run/netns ' /proc/1/mountinfo | cut -d' ' -f5 | sort"
    before = lab.machine.shell(mounts)
    function.call(b"x")
    group = f"/sys/fs/cgroup{lab.show(function.unit(), 'ControlGroup')['ControlGroup']}"
    assert lab.machine.shell(f"ls -d {group}").strip() == group
    wait_for(lambda: function.state() == "inactive", 3)
    assert lab.machine.run("ls", "-d", group, check=False).returncode != 0
    assert function.id not in lab.machine.shell("ps ax -o args")
    assert lab.machine.shell(mounts) == before
    assert lab.show(function.unit("socket"), "ActiveState")["ActiveState"] == "active"


def test_a_removed_function_leaves_nothing_anywhere(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE + f"# {lab.unique('only')}\n", network="private", memory=64)
    digest, uid = function.get("Digest"), function.get("Uid")
    function.probe("result = 1")
    function.replace(network="private", memory=65)
    assert function.remove()
    listing = lab.machine.shell(
        "find /run /var/lib/boesfsd /etc/systemd /sys/fs/cgroup -not -path '*/journal/*' 2>/dev/null; "
        "systemctl list-units --all --plain --no-legend; systemctl list-unit-files; ls /run/netns; ps ax -o args; "
        "cat /proc/1/mountinfo; ls /sys/class/net"
    )
    for mark in (function.id, digest, f"boesfs{uid:x}", function.name):
        assert mark not in listing, [line for line in listing.splitlines() if mark in line]


def test_a_removed_app_leaves_no_slice_and_no_directory(lab: Lab) -> None:
    app = lab.app()
    function = lab.deploy(app, HELLO)
    function.call(b"x")
    shown = lab.show(function.unit(), "Slice")["Slice"]
    changes = lab.bus.manager("RemoveApp", "s", app)
    assert ["delete", "function", f"{app}/{function.name}"] in changes
    assert ["delete", "app", app] in changes
    listing = lab.machine.shell("systemctl list-units --all --plain --no-legend; find /sys/fs/cgroup /run -name '*'")
    assert shown.removesuffix(".slice") not in listing
    assert app not in listing


def test_a_removed_function_s_running_call_ends_and_its_name_is_free(lab: Lab, deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    time.sleep(20)\n", name="again")
    call = function.begin()
    function.running_call()
    function.remove()
    answer = lab.end(call, timeout=2)
    assert (answer.status, answer.error) == (503, "Stopped")
    assert deploy(HELLO, name="again").call(b"x").text == "hello"


def test_extra_slots_listen_only_as_long_as_they_are_needed(lab: Lab, deploy: Deploy) -> None:
    code = "import time\ndef handler(ctx, data):\n    time.sleep(0.3)\n    return 'slept'\n"
    function = deploy(code, concurrency=3, idle_timeout=1)
    calls = [function.begin(b"x") for _ in range(3)]
    assert [lab.end(call).status for call in calls] == [200] * 3
    listing = f"systemctl list-units --plain --no-legend 'boesfs-fn@{function.id}:*.socket'"
    assert len(lab.machine.shell(listing).splitlines()) == 3
    wait_for(lambda: len(lab.machine.shell(listing).splitlines()) == 1, 14)
    assert lab.machine.shell(f"ls /run/systemd/system /run/boesfs/fn | grep {function.id}").count(":0") == 3


def test_the_code_in_the_store_is_read_only_and_keeps_execute_bits(lab: Lab, deploy: Deploy) -> None:
    function = deploy({"func.py": HELLO, "tool": "#!/bin/sh\n", "sub/data": "x"})
    place = f"/var/lib/boesfsd/code/{function.get('Digest')}"
    modes = lab.machine.shell(f"cd {place} && stat -c '%a %n' . func.py tool sub sub/data")
    assert modes.split() == ["555", ".", "444", "func.py", "555", "tool", "555", "sub", "444", "sub/data"]


def test_the_same_code_is_kept_once_and_as_long_as_anyone_uses_it(lab: Lab, deploy: Deploy) -> None:
    code = HELLO + f"# {lab.unique('shared')}\n"
    first, second = deploy(code), deploy(code)
    digest = first.get("Digest")
    assert second.get("Digest") == digest
    first.remove()
    assert second.call(b"x").text == "hello"
    second.remove()
    assert digest not in lab.machine.shell("ls /var/lib/boesfsd/code")


def test_state_follows_the_unit(deploy: Deploy) -> None:
    function = deploy(HELLO, idle_timeout=1)
    assert function.get("State") == "idle"
    function.call(b"x")
    wait_for(lambda: function.get("State") == "active")
    wait_for(lambda: function.get("State") == "idle", 4)
