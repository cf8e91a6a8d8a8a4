# SPDX-License-Identifier: Apache-2.0
"""The interface of the kernel module: never renumbered, layouts as they are. What is new is added to these tables."""

import re
import subprocess
from pathlib import Path

import pytest
from samples import ROOT

HEADER = (ROOT / "kmod/boesfs_abi.h").read_text()
ENUMS = {
    "boesfs_abi_version": "MAJOR=1 MINOR=0",
    "boesfs_limits": "PROGRAM_NAME_MAX=32 KEY_NAME=58 KEY_SIZE=64 ARGS=4 LABEL_MAX=0x7fffffff",
    "boesfs_op": (
        "INIT=0 DESTROY=1 READ=2 WRITE=3 LOOKUP=4 OPEN=5 MKDIR=6 UNLINK=7 RMDIR=8 MKNOD=9 CREATE=10 LINK=11 SYMLINK=12 "
        "RENAME=13 SETATTR=14 GETATTR=15 LLSEEK=16 ITERATE=17 MMAP=18 LOOKUP2=19 STATFS=20 FSYNC=21 DEFAULT=22 "
        "PROBE=23 READLINK=24 GETXATTR=25 SETXATTR=26 LISTXATTR=27 REMOVEXATTR=28 IOCTL=29 FALLOCATE=30 TMPFILE=31 "
        "EXEC=32 ACCESS=33 LOCK=34 NR=35"
    ),
    "boesfs_attr": "MODE=1 UID=2 GID=4 SIZE=8 ATIME=16 MTIME=32 FLAGS=64",
    "boesfs_verdict_flag": "KILL=1 NOCACHE=2",
    "boesfs_program_flag": "CACHE=1 PROGRAM_FLAGS=1",
    "boesfs_replace_flag": "KILL_MAPPED=1 FLAGS=1",
    "boesfs_string": "NAME=0 PATH=1 OTHER_PATH=2 XATTR=3 TARGET=4",
}
PREFIXES = {
    **{"boesfs_abi_version": "BOESFS_ABI_", "boesfs_op": "BOESFS_OP_", "boesfs_attr": "BOESFS_ATTR_"},
    **{"boesfs_replace_flag": "BOESFS_REPLACE_", "boesfs_string": "BOESFS_STRING_"},
}
FIELDS = {
    "boesfs_ctx": (
        "op=0 access=4 label=8 other_label=12 table=16 policy_id=24 mode=28 instance=32 generation=40 ino=48 dev=56 "
        "uid=60 gid=64 pid=68 tid=72 flags=76 arg=80 allow=112 size=120"
    ),
    "boesfs_key": "label=0 chunk=4 length=5 name=6 size=64",
    "boesfs_program_id": "ino=0 dev=8 generation=12 size=16",
    "boesfs_policy_ops": "label=0 check=8 flags=16 name=20 size=56",
}


def table(words: str) -> dict[str, int]:
    """NAME=NUMBER…"""
    return {name: int(number, 0) for name, _, number in (word.partition("=") for word in words.split())}


def numbers(enum: str) -> dict[str, int]:
    """The enumerators of an enum with their full names."""
    return {PREFIXES.get(enum, "BOESFS_") + name: number for name, number in table(ENUMS[enum]).items()}


def bodies(kind: str, text: str) -> dict[str, str]:
    """What is between the braces of each enum or struct, without comments."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return dict(re.findall(rf"^{kind} (\w+) {{(.*?)^}};", text, re.MULTILINE | re.DOTALL))


def program_ops() -> str:
    """struct boesfs_policy_ops, which is not in the header: loaders and programs say it again."""
    return bodies("struct", (ROOT / "kmod/boesfs.h").read_text())["boesfs_policy_ops"]


def compiled(tmp_path: Path, asserted: list[str], *options: str) -> str:
    """What the compiler says of assertions about the header."""
    lines = ["#include <stddef.h>", '#include "boesfs_abi.h"', "typedef __u32 u32;"]
    lines += [f"struct boesfs_policy_ops {{{program_ops()}}};"]
    lines += [f'_Static_assert({what}, "{what}");' for what in asserted]
    file = tmp_path / "abi.c"
    file.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-m64", "-fsyntax-only", f"-I{ROOT / 'kmod'}", *options, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_every_enumerator_of_the_header_is_in_the_tables_here() -> None:
    found = {name: set(re.findall(r"\bBOESFS_\w+(?=\s*[=,])", body)) for name, body in bodies("enum", HEADER).items()}
    assert found == {enum: set(numbers(enum)) for enum in ENUMS}


def test_no_enumerator_was_renumbered(tmp_path: Path) -> None:
    said = compiled(tmp_path, [f"{name} == {number}" for enum in ENUMS for name, number in numbers(enum).items()])
    assert not said, said


def test_every_field_of_the_header_is_in_the_tables_here() -> None:
    structs = bodies("struct", HEADER) | {"boesfs_policy_ops": program_ops()}
    field = r"\b(\w+)(?:\[\w+\])?;|\(\*(\w+)\)"
    found = {name: [one or two for one, two in re.findall(field, body)] for name, body in structs.items()}
    found["boesfs_ctx"].remove("no_scalar")  # the kernel's alone; no byte of it
    assert found == {struct: list(table(words))[:-1] for struct, words in FIELDS.items()}


@pytest.mark.parametrize("options", [(), ("-D__KERNEL__",)])
def test_no_field_was_moved(tmp_path: Path, options: tuple[str, ...]) -> None:
    asserted = []
    for struct, words in FIELDS.items():
        *fields, size = table(words).items()
        asserted += [f"offsetof(struct {struct}, {name}) == {offset}" for name, offset in fields]
        asserted.append(f"sizeof(struct {struct}) == {size[1]}")
    said = compiled(tmp_path, asserted, *options)
    assert not said, said
