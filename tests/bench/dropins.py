# SPDX-License-Identifier: Apache-2.0
"""What a drop-in costs that is written before its unit is first loaded, when there are many already; and what the
alternative, a daemon-reload, would cost. Prints a table and writes build/bench/dropins.json (keys as host.json).

    build/venv/bin/python tests/bench/dropins.py [COUNT...]

Each round writes the drop-ins of a new slot as boesfsd does, then times LoadUnit on them; the drop-in must be in
DropInPaths and NeedDaemonReload must be no, else the program fails.
"""

import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "appliance"))
from machine import BUILD, Machine, build_root, install

COUNTS = (100, 1000, 10000)
ROUNDS = 40
INSIDE = """
import json, os, subprocess, sys, time
sys.path.insert(0, "/usr/lib/boesfs/python")
from pystemd.dbuslib import DBus, apply_signature
from boesfsd import host, units
count, rounds = int(sys.argv[1]), int(sys.argv[2])
S = b"org.freedesktop.systemd1"
bus = DBus(); bus.open()
def load(unit):
    begun = time.perf_counter()
    args = apply_signature(b"s", [unit.encode()])
    bus.call_method(S, b"/org/freedesktop/systemd1", S + b".Manager", b"LoadUnit", args)
    return (time.perf_counter() - begun) * 1000
def get(unit, name, kind):
    path = b"/org/freedesktop/systemd1/unit/" + units.escape_label(unit).encode()
    return bus.get_property(S, path, S + b".Unit", name, kind)
def write(function, slot):
    for kind in ("service", "socket"):
        text = f"[Unit]\\nDescription=Function {function}\\n"
        host.write_drop_in(f"boesfs-fn@{function}:{slot}.{kind}", text)
have = sum(1 for _ in os.scandir("/run/systemd/system")) // 2
for number in range(have, count):
    write(f"filler{number:05}", 0)
fresh, known = [], []
for number in range(rounds):
    unit = f"boesfs-fn@fresh{count}x{number}:0.service"
    known.append(load(f"boesfs-fn@none{count}x{number}:0.service"))
    write(f"fresh{count}x{number}", 0)
    fresh.append(load(unit))
    paths = [path.decode() for path in get(unit, b"DropInPaths", b"as")]
    assert paths == [f"/run/systemd/system/{unit}.d/10-boesfsd.conf"], paths
    assert not get(unit, b"NeedDaemonReload", b"b")
begun = time.perf_counter()
subprocess.run(["systemctl", "daemon-reload"], check=True)
print(json.dumps({"fresh": fresh, "known": known, "reload": [(time.perf_counter() - begun) * 1000]}))
"""


def row(measure: str, subject: str, times: list[float], base: list[float]) -> dict[str, object]:
    """One object of the report."""
    ordered = sorted(times)
    return {
        "measure": measure,
        "subject": subject,
        "unit": "ms",
        "n": len(ordered),
        "min": round(ordered[0], 3),
        "p50": round(statistics.median(ordered), 3),
        "p95": round(ordered[int(len(ordered) * 0.95)], 3),
        "p99": round(ordered[int(len(ordered) * 0.99)], 3),
        "ratio_to": "load-without",
        "ratio_p50": round(statistics.median(ordered) / statistics.median(base), 2),
    }


def main() -> None:
    """Measure for each count, in one machine."""
    counts = [int(word) for word in sys.argv[1:]] or COUNTS
    build_root()
    install()
    rows = []
    with Machine(f"dropins-{os.getpid()}") as machine:
        for count in counts:
            done = machine.run("python3", "-c", INSIDE, str(count), str(ROUNDS), timeout=600)
            times = json.loads(done.stdout)
            for subject, key in (
                ("load-without", "known"),
                ("load-with-new-drop-in", "fresh"),
                ("daemon-reload", "reload"),
            ):
                rows.append(row(f"{count} drop-ins", subject, times[key], times["known"]))
                print("{measure:>15}  {subject:22} n {n:3}  p50 {p50:9.2f} ms  p95 {p95:9.2f} ms".format(**rows[-1]))
    report = BUILD / "bench/dropins.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
