# SPDX-License-Identifier: Apache-2.0
"""What BoesFS costs beside its peers, in instructions of an emulated machine: those are the same whatever runs beside.

All subjects of a measure run in one boot, in turn. Prints a table and how the peers are set up, and writes
build/bench/vm.json. Exits with 1 when a measure cannot be made or is above its floor. Names of groups (operations,
new_objects, rules, programs, kernel_tree, kernel_build) may be given to run those alone; their rows then replace the
old ones.
"""

import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("vm", "appliance")]
from machine import BUILD  # noqa: E402
from machines import Run, boot  # noqa: E402
from workshop import BUILDER, GUEST, build, kernels, prepare_smallest_kernel, tree  # noqa: E402

TESTS = ("operations", "new_objects", "rules", "programs")
LONG = ("kernel_tree", "kernel_build")  # one hour, and two; run if asked for by name
# Each subject's in a machine of its own, at the same time: what is counted is the same in every boot.
APART = {"kernel_build": ("kernel_build_native", "kernel_build_policy")}
PEERS = """\
native         ext4 with default options; what the others stand on
bind           a bind mount of it
overlayfs      upper and work directory on the same ext4, an empty lower one, default options
landlock       the process may do everything below the directory, by one rule, and nothing else
apparmor       a profile with 1,000 rules beside those that allow
boesfs-off     boesfs without a policy (nopolicy)
boesfs-policy  boesfs with the tests' policy program, 1,000 names and rules"""

# What BoesFS with a policy may cost beside what it is compared with.
FLOORS = {
    "read4k": 1.15, "stat": 1.20, "open-close": 1.45, "create-unlink": 1.5, "mmap-fault": 1.01, "fileserver": 1.05,
    "tar-kernel": 1.06, "tar-kernel-cold": 1.06, "untar-kernel": 1.06, "kernel-build": 1.02, "rules-100000": 1.2,
    "rules-100000-new": 1.2,
}  # fmt: skip
READ_MORE = 450  # instructions of read4k above those of the lower filesystem
NEW_OBJECT = 2000  # instructions of a policy, once per object
KNOWN_OBJECT = 1.02  # of a policy beside none; what renames and makes names makes new objects
KNOWN = ("read4k", "write4k", "stat", "open-close", "mmap-fault", "readdir", "fileserver", "tar", "python-imports")
NOISE = 1.005  # a page fault and imports run the same code on overlayfs


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The floors that ROWS are above."""
    p50 = {(line["measure"], line["subject"]): line["p50"] for line in rows}
    faults = []

    def at_most(what: str, found: float, limit: float) -> None:
        if found > limit:
            faults.append(f"{what}: {found:.4g} is above the floor of {limit:.4g}")

    for line in rows:
        measure, found = line["measure"], line["p50"]
        if line["subject"] != "boesfs-policy":
            continue
        if measure in FLOORS:
            at_most(measure, line["ratio_p50"], FLOORS[measure])
        if (measure, "overlayfs") in p50:
            at_most(f"{measure} beside overlayfs", found / p50[measure, "overlayfs"], NOISE)
        if measure in KNOWN:
            at_most(f"{measure} beside no policy", found / p50[measure, "boesfs-off"], KNOWN_OBJECT)
    if ("read4k", "boesfs-policy") in p50:
        at_most("read4k, instructions", p50["read4k", "boesfs-policy"] - p50["read4k", "native"], READ_MORE)
    if ("first-stat", "boesfs-policy") in p50:
        more = p50["first-stat", "boesfs-policy"] - p50["first-stat", "boesfs-off"]
        at_most("first-stat, instructions", more, NEW_OBJECT)
    return faults


def row(measure: str, subject: str, values: list[float], base_name: str, base: list[float]) -> dict[str, Any]:
    """A line of the common format."""
    ordered = sorted(values)
    return {
        "measure": measure, "subject": subject, "unit": "instructions", "n": len(values), "min": ordered[0],
        "p50": statistics.median(values), "p95": ordered[-1], "p99": ordered[-1], "ratio_to": base_name,
        "ratio_p50": round(statistics.median(values) / statistics.median(base), 4),
    }  # fmt: skip


def figures(group: str, failures: list[str]) -> dict[str, dict[str, list[float]]]:
    """What the machines of a group have counted, by measure and subject. What went wrong is added to FAILURES."""
    modules = {"boesfs.ko": build(), "tree.tar": tree()}
    root, deadline, memory = GUEST, 900, "2G"
    if group in LONG:
        prepare_smallest_kernel()
        root, deadline, memory = BUILDER, 4 * 3600, "6G"  # the tree and its archive fit, nothing is reclaimed
    tests = APART.get(group, (group,))

    def one(test: str) -> Run:
        what = [f"bench_ops.{test}"]
        return boot(f"bench-{test}", what, modules, icount=True, root=root, deadline=deadline, memory=memory)

    found: dict[str, dict[str, list[float]]] = {}
    with ThreadPoolExecutor(len(tests)) as pool:
        for test, run in zip(tests, pool.map(one, tests), strict=True):
            result = run.results.get(f"bench_ops.{test}", {"ok": False, "detail": run.console[-2000:], "values": {}})
            if not result["ok"] or run.broken:
                failures.append(f"{test}: {result['detail']} {run.broken}")
            for measure, subjects in result["values"].items():
                found.setdefault(measure, {}).update(subjects)
    return found


def main() -> int:
    rows, failures = [], []
    for group in sys.argv[1:] or TESTS:
        found = figures(group, failures)
        for measure, subjects in found.items():
            base = "native" if "native" in subjects else next(iter(subjects))
            first = found[measure.replace("100000", "10")] if measure.startswith("rules") else subjects
            for subject, values in subjects.items():
                line = row(measure, subject, values, base, first[base])
                rows.append(line)
                shown = f"{line['p50']:14.0f}   {line['ratio_p50']:.3f} x {base}"
                print(f"{measure:16} {subject:14} n {line['n']:3} p50 {shown}", flush=True)
    print(f"kernel {kernels()[0].release}, QEMU TCG, -icount shift=0, one CPU\n{PEERS}")
    out = BUILD / "bench"
    out.mkdir(exist_ok=True)
    file = out / "vm.json"
    measured = {line["measure"] for line in rows}
    kept = [line for line in json.loads(file.read_text()) if line["measure"] not in measured] if file.exists() else []
    file.write_text(json.dumps([*kept, *rows], indent=1) + "\n")
    failures += missed(rows)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
