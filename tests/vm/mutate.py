# SPDX-License-Identifier: Apache-2.0
"""Builds of the module with one check removed: each has to make a test fail.

Every call of a function that asks the policy becomes a mutant in which it says yes, and MUTANTS names the other checks.
All are built first, then loaded one after another; a machine that a mutant brings down is started again for the rest.
Prints a line per boot and per mutant, writes build/bench/mutants.json, and exits with 1 when a mutant survives.

    mutate.py [PART OF A NAME]...
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "appliance"))
from machine import BUILD
from machines import BEGUN, boot
from workshop import KMOD, PLACE, build, build_module, kernels

# The functions that ask, and what stands for "allowed".
ASKING = (
    *("boesfs_check", "boesfs_check_access", "check_file", "check_xattr", "check_setattr", "check_lock", "check_open"),
    *("check_two", "boesfs_judge"),
)
ASKED_BY = {  # which tests notice, by file
    "xattr.c": ["test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below"],
    "file.c": [
        "test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below",
        "test_policy.test_every_operation_is_asked_with_the_documented_arguments",
        "test_policy.test_a_mapping_that_may_not_become_writable_kills_nobody",
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


DEADLINE = 900.0  # seconds of one machine; a mutant that is cut off by it comes first in the next

RACES = [
    "test_policy.test_a_verdict_on_a_name_that_moved_meanwhile_is_not_kept",
    "test_policy.test_a_label_of_a_name_that_moved_meanwhile_is_not_kept",
    "test_policy.test_the_new_name_of_a_file_counts_at_once_by_path_and_by_descriptor",
    "test_policy.test_the_new_name_of_a_directory_counts_for_all_below_it",
]
BEHIND = [
    "test_policy.test_a_rename_behind_the_mount_is_seen_at_the_next_walk",
    "test_policy.test_negative_names_are_forgotten_when_something_appears_below",
    "test_files.test_changes_behind_the_mount_are_seen",
]
MOUNTS = [
    "test_files.test_a_mount_over_its_own_source_and_mounts_on_mounts",
    "test_files.test_mounts_that_make_no_sense_are_refused_with_a_sentence",
    "test_generations.test_what_does_not_exist_cannot_be_mounted",
]
MUTANTS = (
    Mutant("verdicts are not clamped", "verdict.c", "return verdict <= 0 && verdict >= -MAX_ERRNO ? verdict : -EPERM;",
           "return verdict;", ["test_policy.test_a_verdict_that_is_no_errno_denies_with_eperm"]),
    Mutant("nobody is killed", "verdict.c", "boesfs_kill_caller();", ";",
           ["test_policy.test_a_kill_ends_the_whole_thread_group"]),
    Mutant("a kill leaves the namespace's init", "kill.c", "kill_pid(find_pid_ns(1, ns), SIGKILL, 1);", ";",
           ["test_policy.test_a_kill_ends_the_pid_namespace_with_its_init"]),
    Mutant("NOCACHE is ignored", "verdict.c", "} else if (!(call->ctx.flags & BOESFS_NOCACHE)) {", "} else {",
           ["test_policy.test_nocache_asks_each_time"]),
    Mutant("the cache flag is ignored", "verdict.c", "if (keep && allowed && ops->flags & BOESFS_CACHE)",
           "if (keep && allowed)", ["test_policy.test_a_program_without_the_cache_flag_is_always_asked"]),
    Mutant("chmod is kept", "verdict.c", "allowed = BIT_ULL(call->ctx.op) & ~BOESFS_NOT_KEPT;",
           "allowed = BIT_ULL(call->ctx.op);",
           ["test_policy.test_what_is_always_asked_is_asked_in_spite_of_a_cached_verdict"]),
    Mutant("rename is kept", "verdict.c", "allowed = (allowed | call->ctx.allow) & ~BOESFS_ALWAYS_ASKED;",
           "allowed = allowed | call->ctx.allow;",
           ["test_policy.test_what_is_always_asked_is_asked_in_spite_of_a_cached_verdict",
            "test_first.test_what_is_allowed_in_advance_is_not_asked_for_again"]),
    Mutant("a verdict is kept for the next name", "verdict.c",
           "if (bd->stamp == stamp && dentry->d_seq.seqcount.sequence == seq)", "if (bd->stamp == stamp)", RACES),
    Mutant("a label is kept for the next name", "verdict.c",
           "if (dentry->d_seq.seqcount.sequence == seq && !is_changing(dentry)) {", "{", RACES),
    Mutant("a moved file keeps its verdicts", "verdict.c", "	WRITE_ONCE(boesfs_dentry(dentry)->stamp, 0);\n", "",
           RACES),
    Mutant("a moved directory keeps what is below", "verdict.c",
           "	if (d_is_dir(dentry))\n		boesfs_void_labels(dentry->d_sb);", "", RACES),
    Mutant("generations do not count", "boesfs.h",
           "boesfs_stamp(sbi, READ_ONCE(sbi->policy->generation))", "READ_ONCE(bd->stamp)",
           ["test_generations.test_a_rule_counts_from_the_new_generation_on_also_for_open_descriptors"]),
    Mutant("the second name is labelled by a later policy", "verdict.c",
           "	if (call->other) {\n", "	if (call->other) {\n		get_view(&view);\n",
           ["test_generations.test_no_operation_is_judged_by_two_policies"]),
    Mutant("the check is made by a later policy", "verdict.c",
           "	verdict = clamp_verdict(ops->check(&call->ctx));",
           "	get_view(&view);\n	call->ctx.table = view.epoch->table;\n"
           "	verdict = clamp_verdict(ops->check(&call->ctx));",
           ["test_generations.test_no_operation_is_judged_by_two_policies"]),
    Mutant("locks outlive their file", "file.c", "	drop_locks(lower);\n", "",
           ["test_ends.test_a_lock_ends_with_its_file_on_stacks_too"]),
    Mutant("the lower file is the caller's", "file.c", "boesfs_sb(inode->i_sb)->cred", "current_cred()",
           ["test_ends.test_landlock_holds_on_the_mount_and_lets_through_what_it_allows_there"]),
    Mutant("a refused tmpfile is not given back", "inode.c", "if (file->f_mode & FMODE_OPENED)\n		goto out;",
           "goto out;", ["test_ends.test_an_open_that_a_watcher_refuses_leaves_nothing"]),
    Mutant("a chown to nobody is not asked for", "inode.c", "if (attr->ia_valid & ATTR_FORCE)\n			return 0;",
           "return 0;", ["test_ends.test_a_chown_to_nobody_is_asked_for_since_it_takes_capabilities"]),
    Mutant("capabilities are translated twice", "xattr.c", "return boesfs_lower_idmap(sb) == &nop_mnt_idmap &&",
           "return 0 &&",
           ["test_ends.test_capabilities_of_files_are_those_of_the_lower_filesystem_in_every_user_namespace"]),
    Mutant("our own renames look like others'", "dentry.c",
           " && !boesfs_changing(dentry) &&\n		    !boesfs_compare(dentry))", ")",
           ["test_ends.test_what_is_mounted_in_a_directory_survives_its_renames_while_others_look",
            "test_ends.test_a_file_that_is_looked_for_while_it_is_made_keeps_its_name"]),
    Mutant("what is removed may have another name", "inode.c", " && boesfs_same_name(dentry, lower))", ")",
           ["test_ends.test_what_takes_a_name_while_it_is_judged_is_what_is_removed_or_moved"]),
    Mutant("what is moved may have another name", "inode.c",
           "return boesfs_same_name(old, boesfs_lower_dentry(old)) &&", "return 1 &&",
           ["test_ends.test_what_takes_a_name_while_it_is_judged_is_what_is_removed_or_moved"]),
    Mutant("ids that cannot be stored are not refused first", "inode.c", "if (!can_own(dentry, attr))", "if (0)",
           ["test_bug_classes.test_an_idmapped_lower_mount_is_respected"]),
    Mutant("what has no label is open", "verdict.c", "return label < 0 ? -EPERM : label;",
           "return label < 0 ? 0 : label;", ["test_policy.test_a_name_without_a_label_is_closed_and_all_below_it"]),
    Mutant("a detached program leaves its mounts open", "verdict.c", "	verdict = -EPERM;\n	if (!ops)",
           "	verdict = 0;\n	if (!ops)",
           ["test_generations.test_detaching_closes_everything_and_attaching_again_opens_it"]),
    Mutant("another program of the name is attached", "policy.c",
           "if (program && program->ops) {\n		err = -EEXIST;", "if (0) {\n		err = -EEXIST;",
           ["test_generations.test_a_second_program_of_the_name_is_refused"]),
    Mutant("unknown policies are made", "policy.c", "} else if (id) {\n		policy = ERR_PTR(-ESRCH);",
           "} else if (0) {",
           ["test_generations.test_what_does_not_exist_cannot_be_mounted"]),
    Mutant("any field is writable", "policy.c", "	return -EACCES;\n}\n\nstatic const struct bpf_verifier_ops",
           "	return 0;\n}\n\nstatic const struct bpf_verifier_ops",
           ["test_verifier.test_a_program_with_one_fault_is_refused_for_it"]),
    Mutant("programs may sleep", "policy.c", "return prog->sleepable ? -EINVAL : 0;", "return 0;",
           ["test_verifier.test_a_program_with_one_fault_is_refused_for_it"]),
    Mutant("lower names are not compared", "dentry.c",
           "read_seqcount_retry(&lower->d_seq, READ_ONCE(bd->lower_seq))", "false", BEHIND),
    Mutant("removed lower names are not told", "dentry.c", "!d_unhashed(lower) &&", "1 &&", BEHIND),
    Mutant("lower inodes are not compared", "dentry.c",
           "d_inode(lower) == (inode ? boesfs_lower_inode(inode) : NULL) &&", "1 &&", BEHIND),
    Mutant("lower parents are not compared", "dentry.c",
           "lower->d_parent == boesfs_lower_dentry(dentry->d_parent) &&", "1 &&", BEHIND),
    Mutant("changed names are not told", "dentry.c", "boesfs_same_name(dentry, lower);", "1;", BEHIND),
    Mutant("case-folding is stacked upon", "super.c",
           "if (source->dentry->d_flags & (DCACHE_OP_HASH | DCACHE_OP_COMPARE))", "if (0)",
           ["test_files.test_a_filesystem_that_compares_names_in_its_own_way_is_refused"]),
    Mutant("proc is stacked upon", "super.c", "|| is_kernel_view(lower))", ")", MOUNTS),
    Mutant("no policy, but a mount", "super.c", "if (!name && !options->link && !options->id)", "if (0)", MOUNTS),
    Mutant("at= may be anything", "super.c", "if (at[0] != '/' || strlen(at) >= PATH_MAX)", "if (0)",
           ["test_files.test_mounts_that_make_no_sense_are_refused_with_a_sentence"]),
    Mutant("a shared mapping becomes writable", "file.c", "vm_flags_clear(vma, VM_MAYWRITE);", ";",
           ["test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below",
            "test_policy.test_a_mapping_that_may_not_become_writable_kills_nobody"]),
    Mutant("what is removed loses its inode", "inode.c", "	dget(lower);", "	;",
           ["test_files.test_names_behave_the_same",
            "test_files.test_what_is_unlinked_and_held_by_a_path_behaves_the_same"]),
    Mutant("set-id bits survive a truncation", "inode.c", "	drop_privileges(dentry, &below);", "	;",
           ["test_files.test_set_id_bits_behave_the_same",
            "test_policy.test_who_changes_the_content_takes_privileges_as_below"]),
)  # fmt: skip


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
        finished = "the tests are over" in run.console
        in_time = run.seconds < DEADLINE
        print(f"{place}: {len(left)} were to go, {run.seconds:.0f} s", flush=True)
        for reached, number in enumerate(list(left)):
            mutant = mutants[number]
            said = {test: run.results.get(f"@m{number}.ko {test}") for test in mutant.tests}
            failed = [test for test, result in said.items() if result and not result["ok"]]
            if failed:
                fates[mutant.name] = failed[0]
            elif all(said.values()):
                fates[mutant.name] = "survived"
            elif not finished and (not reached or (in_time and any(said.values()))):
                fates[mutant.name] = f"the machine went down: {'; '.join(run.broken[:1])}" if in_time else "it hangs"
            else:
                break  # not reached
            left.remove(number)
            if not finished and not all(said.values()):
                break
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
    mutants = [mutant for mutant in (*MUTANTS, *without_asking())
               if not sys.argv[1:] or any(part in mutant.name for part in sys.argv[1:])]  # fmt: skip
    control(mutants)
    unchanged = build_module(kernels()[0], KMOD, "KCFLAGS=-w")
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(make, range(len(mutants)), mutants, [unchanged] * len(mutants)))
    modules = {f"m{number}.ko": module for number, module in enumerate(built)}
    halves = [dict(list(enumerate(mutants))[half::2]) for half in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        judged = pool.map(judge, ("mutants-0", "mutants-1"), halves, [modules] * 2)
    fates = {name: fate for half in judged for name, fate in half.items()}
    for name, fate in fates.items():
        print(f"{'SURVIVED' if fate == 'survived' else 'killed':9} {name}: {fate}")
    survivors = [name for name, fate in fates.items() if fate == "survived"]
    print(f"{len(fates)} mutants, {len(survivors)} survived")
    (BUILD / "bench").mkdir(exist_ok=True)
    (BUILD / "bench/mutants.json").write_text(json.dumps(fates, indent=1) + "\n")
    shutil.rmtree(PLACE / "mutants", ignore_errors=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
