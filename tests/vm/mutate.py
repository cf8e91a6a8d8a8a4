# SPDX-License-Identifier: Apache-2.0
"""Builds of the module with one check removed: each has to make a test fail.

Every call of a function that asks the policy becomes a mutant in which it says yes; mutants.toml has the other
checks. All are built first, then loaded one after another; a machine that a mutant brings down is started again for
the rest. Prints a line per boot and per mutant and exits with 1 when one survives; a whole run writes
build/bench/mutants.json.

    mutate.py [PART OF A NAME]...
"""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "appliance"))
from machine import BUILD
from machines import BEGUN, Run, boot
from workshop import KMOD, PLACE, build, build_module, kernels

# The functions that ask, and what stands for "allowed".
ASKING = (
    *("boesfs_check", "boesfs_check_slow", "boesfs_check_access", "boesfs_judge", "check_file", "check_lock"),
    *("check_mmap", "check_open", "check_setattr", "check_two", "check_xattr"),
)
ASKED_BY = {  # which tests notice, by file
    "xattr.c": ["test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below"],
    "file.c": [
        "test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below",
        "test_policy.test_every_operation_is_asked_with_the_documented_arguments",
        "test_policy.test_a_mapping_that_may_not_become_writable_kills_nobody",
        "test_policy.test_who_may_not_open_a_program_does_not_run_it",
        "test_policy.test_deduplication_tells_what_is_there_so_it_needs_reading",
    ],
    "inode.c": [
        "test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below",
        "test_policy.test_an_exchange_needs_both_to_be_allowed",
    ],
    "dentry.c": ["test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below"],
    "super.c": ["test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below"],
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file, and the tests of which one has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str] = field(default_factory=list)
    at: int = -1  # where in the file; -1: the only place


MACHINES = len(os.sched_getaffinity(0))  # at a time
DEADLINE = 900.0  # seconds of one machine; a mutant that is cut off by it comes first in the next


def named() -> Iterator[Mutant]:
    """Those of mutants.toml."""
    for entry in tomllib.loads((Path(__file__).with_name("mutants.toml")).read_text())["mutant"]:
        yield Mutant(**entry)


def calls(text: str) -> Iterator[tuple[int, int, str]]:
    """Where a function that asks is called, not defined."""
    for match in re.finditer(r"\b(" + "|".join(ASKING) + r")\(", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        before = text[: match.start()].rsplit("\n", 1)[1]
        if re.match(r"\s", before) and not text[end:].lstrip().startswith("{"):
            yield match.start(), end, match[1]


def without_asking() -> Iterator[Mutant]:
    """A mutant per place that asks."""
    for file, tests in ASKED_BY.items():
        text = (KMOD / file).read_text()
        for start, end, _ in calls(text):
            line = text.count("\n", 0, start) + 1
            yield Mutant(f"{file}:{line} does not ask", file, text[start:end], "0", tests, start)


def make(number: int, mutant: Mutant, unchanged: Path) -> Path:
    """The mutant as a module, made like that of the UNCHANGED source."""
    source = PLACE / "mutants" / str(number)
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(KMOD, source)
    text = (source / mutant.file).read_text()
    if mutant.at < 0 and text.count(mutant.old) != 1:
        raise SystemExit(f"mutate: {mutant.name}: {mutant.file} has that text {text.count(mutant.old)} times")
    at = text.index(mutant.old) if mutant.at < 0 else mutant.at
    (source / mutant.file).write_text(text[:at] + mutant.new + text[at + len(mutant.old) :])
    return build_module(kernels()[0], source, "KCFLAGS=-w", like=unchanged)


def fate_of(results: dict[str, dict[str, Any] | None], run: Run, *, first: bool) -> str:
    """What became of a mutant with these results by test, the FIRST one of the machine or a later; "" if it was not
    reached."""
    failed = [test for test, result in results.items() if result and not result["ok"]]
    if failed or all(results.values()):
        return failed[0] if failed else "survived"
    in_time = run.seconds < DEADLINE
    if "the tests are over" not in run.console and (first or (in_time and any(results.values()))):
        return f"the machine went down: {'; '.join(run.broken[:1])}" if in_time else "it hangs"
    if first:
        raise SystemExit(f"mutate: {list(results)} ended without a word:\n{run.console[-2000:]}")
    return ""


def judge(place: str, mutants: dict[int, Mutant], modules: dict[str, Path]) -> dict[str, str]:
    """What became of each mutant: the test that failed, `survived`, or how the machine ended."""
    fates: dict[str, str] = {}
    left = list(mutants)
    while left:
        words = [word for number in left for word in (f"@m{number}.ko", *mutants[number].tests)]
        files = {"boesfs.ko": build()} | {f"m{number}.ko": modules[f"m{number}.ko"] for number in left}
        run = boot(place, words, files, deadline=DEADLINE)
        if BEGUN not in run.console:
            raise SystemExit(f"mutate: the machine did not come to its tests:\n{run.console[-2000:]}")
        print(f"{place}: {len(left)} were to go, {run.seconds:.0f} s", flush=True)
        before = len(left)
        for number in list(left):
            mutant = mutants[number]
            said = {test: run.results.get(f"@m{number}.ko {test}") for test in mutant.tests}
            fate = fate_of(said, run, first=len(left) == before)
            if not fate:
                break
            print(f"{'SURVIVED' if fate == 'survived' else 'killed':9} {mutant.name}: {fate}", flush=True)
            fates[mutant.name] = fate
            left.remove(number)
    return fates


def control(mutants: list[Mutant]) -> None:
    """The module as it is has to pass every test that a mutant is to fail, exchanged as a mutant is."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    run = boot("control", ["@same.ko", *tests], {"boesfs.ko": build(), "same.ko": build()})
    for test in tests:
        result = run.results.get(f"@same.ko {test}", {"ok": False, "detail": run.console[-2000:]})
        if not result["ok"]:
            raise SystemExit(f"mutate: {test} fails without a mutation: {result['detail']}")


def main() -> int:
    build()
    mutants = [mutant for mutant in (*named(), *without_asking())
               if not sys.argv[1:] or any(part in mutant.name for part in sys.argv[1:])]  # fmt: skip
    control(mutants)
    unchanged = build_module(kernels()[0], KMOD, "KCFLAGS=-w")
    with ThreadPoolExecutor(MACHINES) as pool:
        built = list(pool.map(make, range(len(mutants)), mutants, [unchanged] * len(mutants)))
    modules = {f"m{number}.ko": module for number, module in enumerate(built)}
    shares = [dict(list(enumerate(mutants))[first::MACHINES]) for first in range(MACHINES)]
    with ThreadPoolExecutor(MACHINES) as pool:
        judged = pool.map(judge, [f"mutants-{number}" for number in range(MACHINES)], shares, [modules] * MACHINES)
    fates = {name: fate for share in judged for name, fate in share.items()}
    survivors = [name for name, fate in fates.items() if fate == "survived"]
    print(f"{len(fates)} mutants, {len(survivors)} survived")
    if not sys.argv[1:]:
        (BUILD / "bench").mkdir(exist_ok=True)
        (BUILD / "bench/mutants.json").write_text(json.dumps(fates, indent=1) + "\n")
    shutil.rmtree(PLACE / "mutants", ignore_errors=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
