# SPDX-License-Identifier: Apache-2.0
"""make demo: the main job from beginning to end, every command printed before its output. Writes build/demo.json."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import BUILD, TOP, Machine, build_root, install
from tour import MANAGER, leftovers, say, show

FUNCTION = "org.boesfs.Faas1 /org/boesfs/Faas1/function/demo/hello org.boesfs.Faas1.Function"
SECRET = "/etc/shadow"
IDLE = 2


def call(machine: Machine, function_id: str, body: str) -> tuple[int, float, str]:
    """Call over HTTP: status, milliseconds, body."""
    url = f"http://127.0.0.1:8080/invoke/{function_id}"
    output = show(machine, f"curl -sS -d '{body}' -w '\\nHTTP %{{http_code}} after %{{time_total}} s' {url}")
    answer, _, last = output.rstrip().rpartition("\n")
    _, status, _, seconds, _ = last.split()
    return int(status), float(seconds) * 1000, answer


def wait_for_idle_exit(machine: Machine, unit: str) -> None:
    """Until the unit is inactive."""
    end = time.monotonic() + IDLE + 10
    while machine.run("systemctl", "is-active", unit, check=False).stdout.strip() != "inactive":
        if time.monotonic() > end:
            raise SystemExit("demo: the instance did not end after its idle time-out")
        time.sleep(0.1)


def tour(machine: Machine) -> dict[str, object]:
    """The walk; what make demo reports."""
    say("Start boesfsd, make an app and deploy a Python function over D-Bus.")
    show(machine, "systemctl start boesfsd")
    show(machine, "systemctl --no-pager --lines=0 status boesfsd | head -n 9")
    show(machine, f"{MANAGER} CreateApp 'sa{{sv}}' demo 0")
    show(machine, f"{MANAGER} Deploy 'sssa{{sv}}' demo hello /srv/hello-python 1 idle_timeout i {IDLE}")
    function_id = show(machine, f"busctl get-property {FUNCTION} Id").split('"')[1]
    digest = show(machine, f"busctl get-property {FUNCTION} Digest").split('"')[1]
    unit = f"boesfs-fn@{function_id}:0.service"

    say("Call it over HTTP. The first call starts a unit, the second finds it warm.")
    status, cold_ms, answer = call(machine, function_id, '{"name": "cold"}')
    _, warm_ms, _ = call(machine, function_id, '{"name": "warm"}')
    show(machine, f"systemctl --no-pager --lines=0 status '{unit}'")

    say(f"It cannot read a file of the host: {SECRET} is here, but not in its sandbox.")
    show(machine, f"ls -l {SECRET}")
    denied_status, _, denied_answer = call(machine, function_id, json.dumps({"read": SECRET}))
    machine.run("journalctl", "--sync")
    journal = show(machine, f"journalctl --no-pager -q -u '{unit}' | grep ERROR")
    traceback = f"'{SECRET}'" in journal and '/function/func.py", line' in journal
    denied = denied_status == 502 and SECRET in denied_answer and traceback

    say("Its socket is the contract: this call does without boesfsd.")
    show(machine, "curl -sS --unix-socket /run/boesfs/by-name/demo/hello -d '{}' http://function/call")

    say(f"After {IDLE} s without a call the instance ends, and nothing of it is left.")
    wait_for_idle_exit(machine, unit)
    show(machine, f"systemctl is-active '{unit}' 'boesfs-fn@{function_id}:0.socket'", check=False)
    left = leftovers(machine, unit, digest)

    say("The socket still listens: the next call starts it again.")
    again, _, _ = call(machine, function_id, '{"name": "again"}')
    enforcement = show(
        machine, "busctl get-property org.boesfs.Faas1 /org/boesfs/Faas1 org.boesfs.Faas1.Manager Enforcement"
    )
    if (status, again) != (200, 200) or "Hello cold" not in answer or not denied or left:
        raise SystemExit("demo: not everything was as it should be, see above")
    return {
        "cold_ms": round(cold_ms, 1),
        "warm_ms": round(warm_ms, 1),
        "http_status": status,
        "denied": denied,
        "leftovers": left,
        "enforcement": enforcement.split('"')[1],
    }


def main() -> None:
    """Build, boot, walk, report."""
    say("Build the appliance: a Debian 13 root under build/, with the project installed as on a host.")
    build_root()
    install()
    say("Boot it with systemd-nspawn.")
    with Machine("boesfs-demo") as machine:
        machine.copy_in(TOP / "examples/hello-python", "/srv/hello-python")
        result = tour(machine)
    file = BUILD / "demo.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    say(f"All as it should be; {file.relative_to(TOP)}:")
    print(file.read_text(), end="")


if __name__ == "__main__":
    main()
