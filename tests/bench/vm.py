# SPDX-License-Identifier: Apache-2.0
"""What BoesFS costs beside its peers, in instructions of an emulated machine: those are the same whatever runs beside.

All subjects of a measure run in one boot, in turn. Prints a table and how the peers are set up, and writes
build/bench/vm.json. Exits with 1 when a measure cannot be made. Names of groups (operations, new_objects, rules,
programs, kernel_tree, kernel_build) may be given to run those alone; their rows then replace the old ones.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("vm", "appliance")]
from machine import BUILD  # noqa: E402
from machines import boot  # noqa: E402
from workshop import BUILDER, GUEST, build, build_builder, kernels, tree  # noqa: E402

TESTS = ("operations", "new_objects", "rules", "programs")
LONG = ("kernel_tree", "kernel_build")  # half an hour each; run if asked for by name
PEERS = """\
native         ext4 with default options; what the others stand on
bind           a bind mount of it
overlayfs      upper and work directory on the same ext4, an empty lower one, default options
landlock       the process may do everything below the directory, by one rule, and nothing else
apparmor       a profile with 1,000 rules beside those that allow
boesfs-off     boesfs without a policy (nopolicy)
boesfs-policy  boesfs with the tests' policy program, 1,000 names and rules"""


def row(measure: str, subject: str, values: list[float], base_name: str, base: list[float]) -> dict[str, Any]:
    """A line of the common format."""
    ordered = sorted(values)
    return {
        "measure": measure, "subject": subject, "unit": "instructions", "n": len(values), "min": ordered[0],
        "p50": statistics.median(values), "p95": ordered[-1], "p99": ordered[-1], "ratio_to": base_name,
        "ratio_p50": round(statistics.median(values) / statistics.median(base), 4),
    }  # fmt: skip


def main() -> int:
    modules = {"boesfs.ko": build(), "tree.tar": tree()}
    rows, failures = [], []
    for test in sys.argv[1:] or TESTS:
        root, deadline = GUEST, 900
        if test in LONG:
            build_builder()
            root, deadline = BUILDER, 4 * 3600
        run = boot(f"bench-{test}", [f"bench_ops.{test}"], modules, icount=True, root=root, deadline=deadline)
        result = run.results.get(f"bench_ops.{test}", {"ok": False, "detail": run.console[-2000:], "values": {}})
        if not result["ok"] or run.broken:
            failures.append(f"{test}: {result['detail']} {run.broken}")
        for measure, subjects in result["values"].items():
            base = "native" if "native" in subjects else next(iter(subjects))
            for subject, values in subjects.items():
                first = result["values"].get(measure.replace("100000", "10"), subjects)
                line = row(
                    measure, subject, values, base, first[base] if measure.startswith("rules") else subjects[base]
                )
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
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
