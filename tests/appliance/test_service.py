# SPDX-License-Identifier: Apache-2.0
"""boesfsd.service as systemd sees it."""

import re

from lab import HTTP, Bus, Lab, wait_for

UNITS = "/usr/lib/systemd/system"


def test_it_is_a_notify_service_with_a_watchdog_and_a_status(lab: Lab) -> None:
    shown = lab.show(
        "boesfsd.service", "Type", "WatchdogUSec", "StatusText", "ActiveState", "NotifyAccess", "NRestarts"
    )
    assert (shown["Type"], shown["NotifyAccess"], shown["ActiveState"]) == ("notify", "main", "active")
    assert shown["WatchdogUSec"] == "30s"
    assert re.search(r"\d+ functions, listening on 127\.0\.0\.1:8080", shown["StatusText"])
    assert shown["NRestarts"] == "0"


def test_the_status_counts_the_functions(lab: Lab, bus: Bus, app: str) -> None:
    lab.deploy(app, "def handler(ctx, data):\n    return ''\n")
    wait_for(lambda: int(lab.show("boesfsd.service", "StatusText")["StatusText"].split()[0]) >= 1, 3)


def test_its_exposure_is_at_most_2_5(lab: Lab) -> None:
    out = lab.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=25", "boesfsd.service", check=False)
    assert out.returncode == 0, out.stdout[-300:]
    level = re.search(r"exposure level for boesfsd.service: ([0-9.]+)", out.stdout)
    assert level
    assert float(level[1]) <= 2.5


def test_all_units_verify_without_a_word(lab: Lab) -> None:
    files = lab.machine.shell(f"ls {UNITS}/boesfs*").split()
    assert len(files) == 8
    out = lab.machine.run("systemd-analyze", "verify", "--man=no", *files, check=False)
    assert (out.returncode, out.stdout + out.stderr) == (0, "")


def test_http_listens_on_loopback_only(lab: Lab) -> None:
    listening = [line.split()[3] for line in lab.machine.shell("ss -Hltn").splitlines()]
    assert [address for address in listening if address.endswith(":8080")] == ["127.0.0.1:8080"]


def test_it_runs_without_capabilities_but_two_and_with_no_new_privileges(lab: Lab) -> None:
    status = lab.machine.shell(f"cat /proc/{lab.daemon_pid()}/status")
    assert re.search(r"^CapEff:\t0{6}8000000004$", status, re.MULTILINE)  # CAP_BPF, CAP_DAC_READ_SEARCH
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_it_serves_http_without_a_function(lab: Lab) -> None:
    assert lab.curl(f"{HTTP}/invoke/none", "-X", "POST").status == 404


def test_the_help_and_version_are_there(lab: Lab) -> None:
    assert "usage: boesfsd" in lab.machine.run("boesfsd", "--help").stdout
    assert re.fullmatch(r"boesfsd \d+\.\d+.*\n", lab.machine.run("boesfsd", "--version").stdout)
