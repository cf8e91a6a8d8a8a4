# SPDX-License-Identifier: Apache-2.0
"""The bytes of a table: laid out as the header says, and read by what the program in the kernel does with them."""

import subprocess
from pathlib import Path

import pytest
from kernel_program import NUMBERS, judge
from policies import Random
from samples import ROOT

from boesfsd.policy import image, operations, oracle
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.image import FORMATS, ROW, SHORT_KEY, pack
from boesfsd.policy.places import Place, parse
from boesfsd.policy.rules import Number, Origin, Other, Policy, Program, Rule, Verdict
from boesfsd.policy.table import Request, TooLargeError

HERE = Origin("f", 1, 1, "")
MEMBERS = {
    "boesfs_key": "label chunk length name",
    "boesfs_step": "state reserved allow",
    "boesfs_state": "allow class otherwise machine",
    "boesfs_class": "allow asked first conditions marks mark_rows",
    "boesfs_condition": "ops first tests flags kill rule",
    "boesfs_test": "kind which row low high mask",
    "boesfs_machine": "otherwise end",
    "boesfs_marks": "bits",
}


def told_by_the_compiler(tmp_path: Path, *expressions: str) -> list[int]:
    source = tmp_path / "layout.c"
    lines = "".join(f'printf("%zu\\n", (size_t)({expression}));' for expression in expressions)
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        '#include "boesfs_abi.h"\n#include "boesfs_maps.h"\n'
        f"int main(void) {{ {lines} return 0; }}\n"
    )
    include = [f"-I{ROOT / name}" for name in ("kmod", "bpf")]
    subprocess.run(["gcc", *include, source, "-o", tmp_path / "layout"], check=True)
    out = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in out.split()]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_the_header_s(tmp_path: Path, name: str) -> None:
    """Where each member begins is where the format's next value begins."""
    members = MEMBERS[name].split()
    offsets = told_by_the_compiler(tmp_path, *(f"offsetof(struct {name}, {member})" for member in members))
    packed = FORMATS[name]
    values = packed.unpack(bytes(packed.size))
    count = 4 if name == "boesfs_marks" else len(values)
    zero = [b"" if isinstance(value, bytes) else 0 for value in values]
    for number, offset in enumerate(offsets):
        changed = [*zero[:number], b"x" if isinstance(zero[number], bytes) else 1, *zero[number + 1 :]]
        assert packed.pack(*changed).index(b"x" if isinstance(zero[number], bytes) else b"\1") == offset, members[
            number
        ]
    assert len(members) == (1 if name == "boesfs_marks" else count)
    assert told_by_the_compiler(tmp_path, f"sizeof(struct {name})") == [packed.size]


def test_rows_and_keys_have_the_header_s_sizes(tmp_path: Path) -> None:
    sizes = told_by_the_compiler(
        tmp_path, "sizeof(union boesfs_row)", "BOESFS_SHORT_KEY", "BOESFS_SHORT_NAME", "BOESFS_KEY_NAME",
        "BOESFS_CONDITIONS", "BOESFS_TESTS",
    )  # fmt: skip
    ours = [ROW, SHORT_KEY.size, image.SHORT_NAME, image.CHUNK, image.MOST_CONDITIONS, image.MOST_TESTS]
    assert sizes == ours


@pytest.mark.parametrize("seed", range(160))
def test_the_packed_table_and_the_oracle_agree_on_random_policies(seed: int) -> None:
    source = Random(seed)
    policy = source.policy()
    kernel = judge(pack(compile_policy(policy), NUMBERS))
    for _ in range(60):
        asked = source.request()
        assert kernel.allows(asked) == oracle.decide(policy, asked)[0], (asked, policy)


def test_more_places_than_a_row_has_marks_for() -> None:
    rules = [
        Rule(Verdict(False, operations.BIT["link"], (Other(parse(f"/to/{number}")),)), parse(f"/from/{number}"), HERE)
        for number in range(600)
    ]
    kernel = judge(pack(compile_policy(Policy(operations.ALL, tuple(rules))), NUMBERS))
    for old, new in ((0, 0), (0, 1), (255, 255), (256, 256), (256, 0), (599, 599), (599, 343), (343, 599)):
        assert kernel.allows(Request("link", (b"from", b"%d" % old), (b"to", b"%d" % new))) == (old != new)


def test_long_names_that_end_alike_are_told_apart() -> None:
    names = [
        *(b"a" * 59, b"b" * 58 + b"a", b"a" * 116 + b"c", b"b" * 116 + b"c"),
        *(b"a" * 58 + b"b" * 58 + b"c", b"a" * 255),
    ]
    rules = [Rule(Verdict(False, 1 << number), Place((b"d", name)), HERE) for number, name in enumerate(names)]
    kernel = judge(pack(compile_policy(Policy(operations.ALL, tuple(rules))), NUMBERS))
    for number, name in enumerate(names):
        for other, operation in enumerate(list(operations.TABLE)[: len(names)]):
            assert kernel.allows(Request(operation, (b"d", name))) == (other != number)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([Verdict(True, 1, tuple(Number("length", low, low) for low in range(17)))], "over 16 tests in one rule"),
        ([Verdict(True, 1, (Program(f"/p{number}"),)) for number in range(65)], "over 64 programs in one policy"),
    ],
)
def test_what_the_program_would_not_look_at_is_refused(rules: list[Verdict], said: str) -> None:
    policy = Policy(0, tuple(Rule(verdict, parse("/a"), HERE) for verdict in rules))
    with pytest.raises(TooLargeError, match=said):
        pack(compile_policy(policy), NUMBERS)
