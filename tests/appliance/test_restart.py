# SPDX-License-Identifier: Apache-2.0
"""boesfsd is restarted, reloaded and killed at bad moments: functions go on, nothing is lost, nothing is left."""

import threading
import time
from collections.abc import Iterator

import pytest
from conftest import OwnLab
from lab import ERROR, FUNCTION, HELLO, HTTP, MANAGER, PROBE, ROOT, Answer, BusError, Deployed, Lab, wait_for
from punctual import punctual, took

pytestmark = pytest.mark.xdist_group("restart")
CONF = "/etc/boesfsd/conf.d/50-test.conf"


@pytest.fixture(scope="module")
def own(own_lab: OwnLab) -> Iterator[Lab]:
    """The machine of this file."""
    with own_lab("restart") as lab:
        yield lab


@pytest.fixture
def function(own: Lab) -> Iterator[Deployed]:
    """A function of the test's own."""
    app = own.app()
    yield own.deploy(app, HELLO)
    restarted(own)
    own.bus.manager("RemoveApp", "s", app)


def restarted(lab: Lab) -> None:
    """Wait for READY and connect anew."""
    wait_for(lambda: lab.show("boesfsd.service", "ActiveState")["ActiveState"] == "active", 10)


def kill(lab: Lab) -> None:
    """kill -9 of the daemon; systemd starts it again."""
    pid = lab.daemon_pid()
    lab.machine.run("systemctl", "kill", "-s", "KILL", "boesfsd.service")
    wait_for(lambda: lab.daemon_pid() not in (0, pid), 10)
    restarted(lab)


def test_a_stopped_daemon_leaves_functions_answering_on_their_sockets(own: Lab, function: Deployed) -> None:
    own.machine.run("systemctl", "stop", "boesfsd.service", "boesfsd.socket")
    assert function.direct(b"x").text == "hello"
    own.machine.run("systemctl", "start", "boesfsd")
    assert function.call(b"x").text == "hello"


@pytest.mark.parametrize("how", ["restart", "kill -9"])
def test_a_warm_instance_is_found_again(own: Lab, function: Deployed, how: str) -> None:
    function.call(b"x")
    pid = function.pid()
    if how == "restart":
        own.machine.run("systemctl", "restart", "boesfsd")
    else:
        kill(own)
    assert own.bus.get(function.path, FUNCTION, "State") == "active"
    assert function.call(b"x").text == "hello"
    assert function.pid() == pid


def test_a_daemon_that_hangs_is_ended_by_systemd_s_watchdog_and_its_calls_go_on(own_lab: OwnLab) -> None:
    directory = "/etc/systemd/system/boesfsd.service.d"
    drop_in = f"mkdir -p {directory}; printf '[Service]\\nWatchdogSec=2\\n' > {directory}/watchdog.conf"
    with own_lab("watchdog", prepare=f"{drop_in}; systemctl daemon-reload") as lab:
        function = lab.deploy(lab.app(), HELLO)
        time.sleep(4.5)  # twice its time: what answers in time is left alone
        assert lab.show("boesfsd.service", "NRestarts")["NRestarts"] == "0"
        hung = lab.daemon_pid()
        lab.machine.run("kill", "-STOP", str(hung))
        waiting = function.begin(b"x")
        assert function.direct(b"x").text == "hello"
        wait_for(lambda: lab.daemon_pid() not in (0, hung), 10)
        restarted(lab)
        assert lab.show("boesfsd.service", "NRestarts")["NRestarts"] == "1"
        assert "Watchdog timeout" in lab.machine.shell("journalctl -q -o cat -u boesfsd")
        assert lab.end(waiting).text == "hello"
        assert function.call(b"x").text == "hello"


def test_calls_on_the_socket_are_answered_all_through_a_kill(own: Lab, function: Deployed) -> None:
    answers: list[Answer] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            answers.append(function.direct(b"x"))

    thread = threading.Thread(target=call)
    thread.start()
    kill(own)
    done.set()
    thread.join()
    assert len(answers) > 5
    assert {answer.text for answer in answers} == {"hello"}


def test_http_requests_wait_through_a_restart(own: Lab, function: Deployed) -> None:
    done = threading.Event()
    answers: list[Answer] = []

    def call() -> None:
        while not done.is_set():
            answers.append(function.call(b"x"))

    thread = threading.Thread(target=call)
    thread.start()
    own.machine.run("systemctl", "restart", "boesfsd")
    done.set()
    thread.join()
    assert [answer for answer in answers if answer.text != "hello"] == []


def test_a_call_in_progress_is_answered_before_a_restart_ends(own: Lab) -> None:
    app = own.app()
    function = own.deploy(app, "import time\ndef handler(ctx, data):\n    time.sleep(1)\n    return 'slept'\n")
    call = function.begin(b"x")
    function.running_call()
    own.machine.run("systemctl", "restart", "boesfsd")
    assert own.end(call).text == "slept"
    own.bus.manager("RemoveApp", "s", app)


def test_deployments_with_all_their_settings_survive_a_kill(own: Lab) -> None:
    app = own.app({"A": "b"})
    function = own.deploy(
        app, HELLO, memory=77, timeout=7, cpu=0.5, config={"C": "d"}, network="host", ports={"bind": [80]}
    )
    before = own.bus.get_all(function.path, FUNCTION)
    kill(own)
    after = own.bus.get_all(function.path, FUNCTION)
    for name in ("Id", "Digest", "Limits", "Config", "Uid", "Unit", "SocketPath"):
        assert after[name] == before[name]
    assert function.call(b"x").text == "hello"
    own.bus.manager("RemoveApp", "s", app)


def test_a_stopped_function_stays_stopped_through_a_restart(own: Lab, function: Deployed) -> None:
    own.bus.call(function.path, FUNCTION, "Stop")
    own.machine.run("systemctl", "restart", "boesfsd")
    assert own.bus.get(function.path, FUNCTION, "State") == "stopped"
    assert function.call(b"x").status == 503
    own.bus.call(function.path, FUNCTION, "Start")
    assert function.call(b"x").text == "hello"


@punctual
def test_strays_are_gone_within_two_seconds_of_the_start(own: Lab, function: Deployed) -> None:
    stray = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    own.machine.run("systemctl", "stop", "boesfsd.service")
    own.machine.shell(
        f"systemctl start 'boesfs-fn@{stray}:0.socket' 'boesfs-fn@{function.id}:9.socket'\n"
        f"cd /run/systemd; D='boesfs-fn@{stray}:3.service.d'; mkdir -p system/$D system.control/$D\n"
        f"printf '[Service]\\nTimeoutStartSec=9\\n' | tee system/$D/10-boesfsd.conf"
        f" > system.control/$D/50-x.conf\n"
        f"touch /run/boesfs/plan/{stray}.plan /run/boesfs/stopped/{stray}\n"
        f"mkdir -p /run/boesfs/by-name/ghost /var/lib/boesfsd/code/{'0' * 64} /var/lib/boesfsd/stage/x\n"
        f"ln -s /nowhere /run/boesfs/by-name/ghost/f.sock; ln -s /nowhere /run/boesfs/by-name/{function.app}/old.sock\n"
        f"systemd-run -q --slice=boesfs-{stray}.slice --unit=stray-sleep sleep 100\n"
    )
    begun = time.monotonic()
    own.machine.run("systemctl", "start", "boesfsd.service")

    def left() -> list[str]:
        listing = own.machine.shell(
            "find /run/boesfs /run/systemd/system* /var/lib/boesfsd /run/netns /sys/fs/cgroup; "
            "systemctl list-units --all --plain --no-legend; ls /sys/class/net"
        )
        marks = (stray, "ghost", "old.sock", "0" * 64, "stage/x", f"{function.id}:9")
        return [line for line in listing.splitlines() if any(mark in line for mark in marks)]

    wait_for(left, 2, until=lambda lines: not lines)
    took(time.monotonic() - begun, 4)
    assert function.call(b"x").text == "hello"


def test_a_socket_file_and_a_network_without_units_are_strays_too(own: Lab) -> None:
    stray = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
    own.machine.shell(
        f"touch /run/boesfs/fn/{stray}:0.sock; ip netns add boesfs-{stray}\n"
        f"ip link add boesfs70000abc type veth peer name eth9 netns boesfs-{stray}; systemctl restart boesfsd"
    )
    listing = "ls /run/boesfs/fn /run/netns /sys/class/net"
    wait_for(lambda: own.machine.shell(listing), 2, until=lambda out: stray not in out and "70000abc" not in out)


def test_sockets_that_somebody_stopped_are_opened_again(own: Lab, function: Deployed) -> None:
    own.machine.run("systemctl", "stop", "boesfsd.service", function.unit("socket"))
    own.machine.run("systemctl", "start", "boesfsd.service")
    assert function.direct(b"x").text == "hello"


def test_a_socket_stopped_under_the_running_daemon_is_opened_by_the_next_call(own: Lab, function: Deployed) -> None:
    own.machine.run("systemctl", "stop", function.unit("socket"))
    assert function.call(b"x").text == "hello"


def test_a_lost_plan_is_rendered_anew_at_the_start(own: Lab, function: Deployed) -> None:
    own.machine.shell(f"rm /run/boesfs/plan/{function.id}.plan")
    answer = function.direct(b"x")
    assert answer.status == 502
    own.machine.run("systemctl", "restart", "boesfsd")
    assert function.direct(b"x").text == "hello"


def test_a_kill_in_the_middle_of_a_deployment_leaves_all_or_nothing(own: Lab) -> None:
    app = own.app()
    source = own.source({"func.py": HELLO, "big": b"x" * (30 << 20)})
    for number in range(4):
        own.bus.send(ROOT, MANAGER, "Deploy", "sssa{sv}", app, f"f{number}", source, {})
        time.sleep(0.01 + 0.03 * number)
        kill(own)
        for _, name, _, state, path in own.bus.manager("ListFunctions", "s", app):
            found = Deployed(own, app, name, source, path, [])
            assert state in ("idle", "active")
            assert found.call(b"x").text == "hello"
    assert own.machine.shell("ls /var/lib/boesfsd/stage") == ""
    used = {own.bus.get(row[4], FUNCTION, "Digest") for row in own.bus.manager("ListFunctions", "s", "")}
    assert set(own.machine.shell("ls /var/lib/boesfsd/code").split()) == used
    own.bus.manager("RemoveApp", "s", app)


def test_everything_answers_again_after_a_power_cut(own_lab: OwnLab) -> None:
    with own_lab("power") as lab:
        app = lab.app()
        function = lab.deploy(app, PROBE, network="private")
        assert function.probe("result = 1") == 1
        lab.close()
        lab.machine.power_cycle()
        lab.machine.run("systemctl", "start", "boesfsd")
        assert function.probe("result = 2") == 2


# --- settings


@pytest.fixture
def settings(own: Lab) -> Iterator[None]:
    """The settings are as they were afterwards."""
    yield
    own.machine.shell(f"rm -f {CONF}; systemctl reload boesfsd")


@pytest.mark.usefixtures("settings")
def test_a_reload_reads_the_log_level_again(own: Lab) -> None:
    own.machine.shell(f"echo 'log-level = error' > {CONF}; systemctl reload boesfsd")
    app = own.app()
    function = own.deploy(app, "import time\ndef handler(ctx, data):\n    time.sleep(9)\n")

    def hang_up() -> None:
        call = function.begin(b"", "--max-time", "0.5")
        own.end(call)

    def told() -> int:
        return own.machine.shell("journalctl -q -o cat -u boesfsd").count("Client cancelled context")

    before = told()
    hang_up()
    time.sleep(0.3)
    assert told() == before
    own.machine.shell(f"echo 'log-level = info' > {CONF}; systemctl reload boesfsd")
    hang_up()
    wait_for(lambda: told() == before + 1)
    own.bus.manager("RemoveApp", "s", app)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("log-level = loud", ["line 2", "log-level", "loud"]),
        ("colour = red", ["line 2", "colour"]),
        ("nonsense", ["line 2", "nonsense"]),
        ("init-timeout = 0", ["line 2", "init-timeout"]),
        ("max-request-size = -5", ["line 2", "max-request-size"]),
        ("uid-range = 5-1", ["line 2", "uid-range"]),
    ],
)
def test_a_broken_file_names_file_line_and_key_and_leaves_the_settings(own: Lab, line: str, parts: list[str]) -> None:
    own.machine.shell(f"printf '# a comment\\n{line}\\n' > {CONF}")
    assert own.machine.run("systemctl", "reload", "boesfsd", check=False).returncode != 0
    own.machine.run("systemctl", "kill", "--kill-whom=main", "-s", "HUP", "boesfsd")  # past the check of the unit
    wait_for(lambda: "not reloaded" in own.show("boesfsd.service", "StatusText")["StatusText"])
    status = own.show("boesfsd.service", "StatusText")["StatusText"]
    for part in (CONF, *parts):
        assert part in status
    assert own.curl(f"{HTTP}/invoke/x", "-X", "POST").status == 404
    out = own.machine.run("boesfsd", "--check-config", check=False)
    assert out.returncode == 78
    for part in (CONF, *parts):
        assert part in out.stderr


@pytest.mark.usefixtures("settings")
def test_a_broken_file_at_start_ends_boesfsd_and_its_http_socket_but_no_function(own: Lab, function: Deployed) -> None:
    own.machine.shell(f"echo 'colour = red' > {CONF}")
    own.machine.run("systemctl", "restart", "boesfsd", check=False)
    curl = own.curl(f"{HTTP}/invoke/x", "-X", "POST", "--max-time", "5")
    assert curl.exit != 0  # refused or reset, not waiting for ever
    shown = wait_for(
        lambda: own.show("boesfsd.service", "ActiveState", "ExecMainStatus"),
        until=lambda show: show["ActiveState"] == "failed",
    )
    assert shown["ExecMainStatus"] == "78"
    wait_for(lambda: own.show("boesfsd.socket", "ActiveState")["ActiveState"] == "inactive")
    assert function.direct(b"x").text == "hello"
    own.machine.shell(f"rm {CONF}; systemctl reset-failed boesfsd; systemctl start boesfsd")
    assert function.call(b"x").text == "hello"


@pytest.mark.usefixtures("settings")
def test_a_reload_changes_the_largest_request(own: Lab, function: Deployed) -> None:
    own.machine.shell(f"echo 'max-request-size = 10' > {CONF}; systemctl reload boesfsd")
    wait_for(lambda: function.call(b"x" * 11).status == 413)
    assert function.call(b"x" * 10).text == "hello"


@pytest.mark.usefixtures("settings")
def test_a_bomb_of_an_archive_is_refused_before_it_fills_the_disk(own: Lab, function: Deployed) -> None:
    own.machine.shell(f"echo 'max-code-size = 1M' > {CONF}; systemctl reload boesfsd")
    own.machine.shell("cd /srv && truncate -s 50M bomb && tar -cz -f bomb.tar.gz bomb")
    with pytest.raises(BusError, match="max-code-size") as caught:
        own.bus.manager("DeployArchive", "ssha{sv}", function.app, "bomb", 0, {}, files=["/srv/bomb.tar.gz"])
    assert caught.value.name == f"{ERROR}InvalidCode"
    assert "bomb" not in own.machine.shell("find /var/lib/boesfsd")


@pytest.mark.usefixtures("settings")
def test_too_many_files_are_refused(own: Lab, function: Deployed) -> None:
    own.machine.shell(f"echo 'max-code-files = 10' > {CONF}; systemctl reload boesfsd")
    source = own.source({"func.py": HELLO, **{f"f{number}": "" for number in range(20)}})
    with pytest.raises(BusError, match="10 are allowed"):
        own.bus.manager("Deploy", "sssa{sv}", function.app, "many", source, {})


@pytest.mark.usefixtures("settings")
def test_reload_is_over_when_systemctl_returns_and_keeps_the_process(own: Lab) -> None:
    pid = own.daemon_pid()
    for _ in range(5):
        own.machine.run("systemctl", "reload", "boesfsd")
    assert own.daemon_pid() == pid
    assert own.show("boesfsd.service", "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


@pytest.mark.usefixtures("settings")
def test_a_daemon_with_a_broken_file_does_not_start_and_says_why(own: Lab) -> None:
    own.machine.shell(f"echo 'colour = red' > {CONF}; systemctl restart boesfsd", check=False)
    wait_for(lambda: "unknown key colour" in own.machine.shell("journalctl -q -o cat -u boesfsd"))
    own.machine.shell(
        f"rm {CONF}; systemctl reset-failed boesfsd boesfsd.socket; systemctl start boesfsd.socket boesfsd"
    )
    assert own.curl(f"{HTTP}/invoke/x", "-X", "POST").status == 404


def test_with_the_bus_gone_the_daemon_comes_back_with_it(own: Lab, function: Deployed) -> None:
    own.machine.run("systemctl", "restart", "dbus.service")
    own.close()
    wait_for(lambda: own.machine.run("busctl", "status", "org.boesfs.Faas1", check=False).returncode == 0, 15)
    assert function.call(b"x").text == "hello"
    assert own.bus.get(function.path, FUNCTION, "Name") == function.name
