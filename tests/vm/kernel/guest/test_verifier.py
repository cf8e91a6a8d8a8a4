# SPDX-License-Identifier: Apache-2.0
"""Programs that misuse their context are refused, each for its one fault."""

import errno
import re

from scene import LOADER, Scene, T, run

# What the kernel says, where it says something of its own; an errno for what fails when it is attached.
MESSAGES = {
    "bad_before": "R1 is ptr_boesfs_ctx invalid negative access: off=-8",
    "bad_bounds": "access beyond struct boesfs_ctx at off 120 size 8",
    "bad_buffer": "invalid",
    "bad_byte": "boesfs: only boesfs_ctx.flags and .allow are writable, each whole (offset 76, size 1)",
    "bad_comma": -errno.EINVAL,
    "bad_field": "boesfs: only boesfs_ctx.flags and .allow are writable, each whole (offset 0, size 4)",
    "bad_flags": -errno.EINVAL,
    "bad_index": "variable",
    "bad_kept": "must be",
    "bad_kept_write": "boesfs: only the context that the program was given is writable",
    "bad_key": "R2 min value is outside of the allowed memory range",
    "bad_label_field": "boesfs: only boesfs_ctx.flags and .allow are writable, each whole (offset 8, size 4)",
    "bad_long_name": -errno.EINVAL,
    "bad_no_check": -errno.EINVAL,
    "bad_no_ctx": "Possibly NULL pointer passed to trusted arg0",
    "bad_no_link": -errno.EOPNOTSUPP,
    "bad_no_name": -errno.EINVAL,
    "bad_null": "invalid mem access 'mem_or_null'",
    "bad_other_type": "expected pointer to STRUCT boesfs_ctx but R1 has a pointer to STRUCT task_struct",
    "bad_pointer": "must point to scalar, or struct with scalar",
    "bad_replace": "calling kernel function boesfs_policy_replace is not allowed",
    "bad_sleepable": "attach to unsupported member check of struct boesfs_policy_ops",
    "bad_sleepable_label": "attach to unsupported member label of struct boesfs_policy_ops",
    "bad_small_id": "invalid",
    "bad_variable": "is not a const",
    "bad_wide": "boesfs: only boesfs_ctx.flags and .allow are writable, each whole (offset 80, size 4)",
}

# What newer kernels say before the module is asked.
NEWER = {"bad_kept_write": ("only read is supported",)}


def test_a_program_without_a_fault_is_accepted(s: Scene) -> None:
    said = run(LOADER, "verify", T / "good_least.bpf.o").stdout
    assert said == "OK 0 \n", said


def test_a_program_with_one_fault_is_refused_for_it(s: Scene) -> None:
    programs = {path.name.removesuffix(".bpf.o") for path in T.glob("bad_*.bpf.o")}
    assert programs == set(MESSAGES)
    wrong = []
    for program, wanted in sorted(MESSAGES.items()):
        said = run(LOADER, "verify", T / f"{program}.bpf.o").stdout
        verdict = re.match(r"REFUSED (-?\d+) (.*)", said)
        if not verdict:
            wrong.append(f"{program}: {said}")
        elif isinstance(wanted, int):
            if int(verdict[1]) != wanted:
                wrong.append(f"{program}: errno {wanted} was expected: {said}")
        elif not any(text in verdict[2] for text in (wanted, *NEWER.get(program, ()))):
            wrong.append(f"{program}: {wanted!r} was expected: {said}")
    assert not wrong, "\n".join(wrong)


def test_what_was_refused_left_no_program_behind(s: Scene) -> None:
    for program in ("bad_flags", "bad_no_check", "bad_comma"):
        run(LOADER, "verify", T / f"{program}.bpf.o")
    for name in ("least", "le"):
        s.upper.mkdir(exist_ok=True)
        done = run("mount", "-i", "-t", "boesfs", "-o", f"policy={name}", s.lower, s.upper, check=False)
        assert done.returncode, done.stdout
        assert "no such program is attached" in done.stderr, done.stderr
