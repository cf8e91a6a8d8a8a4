# SPDX-License-Identifier: Apache-2.0
"""What the product promises, from beginning to end, with nothing but the tools that its users have: a function that
does what it should not is denied, told of and ended, its next call is answered, and other rules hold at once. Runs
inside the VM; `promise.py PORT` writes what came of it there."""

import contextlib
import io
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench import PATIENCE, Here
from lab import wait_for
from machine import Machine
from tour import MANAGER, leftovers, say, show

EXAMPLE = "/usr/share/doc/boesfsd/examples/malicious-python"
WHOSE = "promise/malicious"
FUNCTION = f"/org/boesfs/Faas1/function/{WHOSE} org.boesfs.Faas1.Function"
PROPERTY = "busctl get-property org.boesfs.Faas1"
RULES = """\
rules:
  - allow: [read, list, exec]
    on: ["${CODE}/**", "/usr/**", "/python/**"]
"""
CLOSED = f"""\
{RULES}  - deny: [open, read]
    on: "${{CODE}}/public.txt"
"""


def call(machine: Machine, identifier: str, **asked: object) -> tuple[int, str, Any]:
    """Over HTTP: status, call id and what is answered."""
    url = f"http://127.0.0.1:8080/invoke/{identifier}"
    said = show(machine, f"curl -sS -i --max-time 130 -d '{json.dumps(asked)}' {url}")
    head, _, body = said.replace("\r", "").partition("\n\n")
    lines = head.splitlines()
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields["fn-call-id"], json.loads(body)


def told(machine: Machine, call_id: str) -> list[dict[str, str]]:
    """What the journal has of a call's denials."""
    said = machine.shell(f"boesfsctl denials --json {WHOSE}")
    entries = [json.loads(line) for line in said.splitlines()]
    return [entry for entry in entries if entry.get("BOESFS_CALL_ID", "").lower() == call_id]


def is_told(attempt: str, entries: list[dict[str, str]]) -> bool:
    """Whether one of ENTRIES is about a path or what is above it, and says why."""
    paths = [entry["BOESFS_PATH"] for entry in entries if entry["BOESFS_RULE"]]
    return any(attempt == path or attempt.startswith(f"{path}/") for path in paths)


def replace(machine: Machine, rules: str) -> float:
    """Other rules from now on; milliseconds that it took, for busctl too."""
    Path("/srv/rules.yaml").write_text(rules)
    begun = time.monotonic()
    show(machine, f"busctl call org.boesfs.Faas1 {FUNCTION} SetPolicy 'sa{{sv}}' \"$(cat /srv/rules.yaml)\" 0")
    return round((time.monotonic() - begun) * 1000, 1)


def tour(machine: Machine) -> dict[str, object]:
    """The walk, and what it found; AssertionError if something was not as promised."""
    say("Deploy a function that means harm, with its policy in func.yaml.")
    show(machine, f"{MANAGER} CreateApp 'sa{{sv}}' promise 0")
    show(
        machine, f"{MANAGER} Deploy 'sssa{{sv}}' {WHOSE.replace('/', ' ')} {EXAMPLE} 2 timeout i 120 idle_timeout i 600"
    )
    identifier = show(machine, f"{PROPERTY} {FUNCTION} Id").split('"')[1]
    digest = show(machine, f"{PROPERTY} {FUNCTION} Digest").split('"')[1]
    unit = f"boesfs-fn@{identifier}:0.service"
    enforcement = show(machine, f"{PROPERTY} /org/boesfs/Faas1 org.boesfs.Faas1.Manager Enforcement").split('"')[1]

    say("It tries what it should not be able to do; each attempt ends with EPERM.")
    status, call_id, attempts = call(machine, identifier, do="attack")
    assert status == 200, status
    refused = [found["path"] for found in attempts.values() if found["outcome"] == "EPERM"]
    assert len(refused) == len(attempts) > len("nine rule"), attempts

    say("Each is in the journal, with the call and the rule.")
    wait_for(lambda: all(is_told(path, told(machine, call_id)) for path in refused), PATIENCE)
    show(machine, f"boesfsctl denials {WHOSE}")
    audited = sum(is_told(path, told(machine, call_id)) for path in refused)

    say("It goes on, until its policy ends it; the caller is told.")
    status, call_id, answer = call(machine, identifier, do="attack", times=9)
    assert (status, answer["detail"].startswith("killed by policy: Denied ")) == (502, True), answer
    (last,) = wait_for(lambda: [entry for entry in told(machine, call_id) if entry["BOESFS_KILLED"] == "1"], PATIENCE)
    assert last["BOESFS_RULE"] in answer["detail"], last
    show(machine, f"journalctl -q --no-pager -n 3 -u '{unit}'")

    say("The next call is answered, by a new instance.")
    assert call(machine, identifier, do="keep")[0] == 200
    first = show(machine, f"systemctl show -P MainPID '{unit}'")

    say("While it runs, its policy is replaced: what it has open and what it opens obey at once, both ways.")
    took = replace(machine, CLOSED)
    _, _, closed = call(machine, identifier, do="read")
    assert closed == {"kept": "EPERM", "anew": "EPERM"}, closed
    replace(machine, RULES)
    _, _, opened = call(machine, identifier, do="read")
    assert opened == {"kept": "done", "anew": "done"}, opened
    assert show(machine, f"systemctl show -P MainPID '{unit}'") == first

    say("Remove it: nothing is left.")
    show(machine, f"{MANAGER} Remove 'ss' {WHOSE.replace('/', ' ')}")
    show(machine, f"{MANAGER} RemoveApp 's' promise")
    left = leftovers(machine, unit, digest)
    assert not left, left
    return {
        "kernel": show(machine, "uname -r").strip(),
        "enforcement": enforcement,
        "installed_from": show(machine, "dpkg-query -W boesfsd boesfs-runtime-python").split("\n")[:-1],
        "http_status": status,
        "denied": len(refused),
        "audited": audited,
        "killed": True,
        "reload_ms": took,
        "leftovers": left,
    }


def install(machine: Machine) -> None:
    """From packages to a running service."""
    say("Install boesfsd.")
    packages = "/srv/deb/boesfsd_*.deb /srv/deb/boesfs-runtime-python_*.deb"
    show(machine, f"DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends {packages}")
    show(machine, "systemctl --no-pager --lines=0 status boesfsd | head -n 9")


def main() -> None:
    machine, shown = Here("host"), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            install(machine)
            found = tour(machine)
        ok, detail = True, json.dumps({"found": found, "shown": shown.getvalue()})
    except Exception:  # noqa: BLE001 (reported)
        ok, detail = False, shown.getvalue() + traceback.format_exc()
    Path(sys.argv[1]).write_text(f"RESULT {json.dumps({'name': 'promise', 'ok': ok, 'detail': detail})}\n")


if __name__ == "__main__":
    main()
