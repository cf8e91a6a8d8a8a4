# SPDX-License-Identifier: Apache-2.0
"""From what the kernel tells of an operation to what rules are about: the reverse of `image`, for records."""

import json
import shlex
from collections.abc import Mapping

from boesfsd.policy import operations
from boesfsd.policy.places import split
from boesfsd.policy.table import Request

CHANGES = {
    "chmod": ("MODE",),
    "chown": ("UID", "GID"),
    "truncate": ("SIZE",),
    "utimes": ("ATIME", "MTIME"),
    "chattr": ("FLAGS",),
}
OCTAL, BITS = {"mode", "flags"}, {"command"}


def operation_of(number: int, numbers: Mapping[str, int]) -> str:
    """The name in lower case of an operation of kmod/boesfs_abi.h."""
    return next(
        name.removeprefix("BOESFS_OP_").lower()
        for name, value in numbers.items()
        if name.startswith("BOESFS_OP_") and value == number
    )


def asked(
    fields: Mapping[str, int], path: bytes, other: bytes, string: bytes, numbers: Mapping[str, int]
) -> list[Request]:
    """What was asked, in the order in which it is judged: of a setattr each change, of rename and link both names."""
    name = operation_of(fields["op"], numbers)
    names = [row.name for row in operations.TABLE.values() if (row.abi or row.name) == name]
    if name == "setattr":
        names = [change for change in names if _changes(change, fields["access"], numbers)]
    found = [_request(operations.TABLE[one], fields, path, other, string) for one in names]
    return [_of_one(one, fields["access"], numbers) if one.operation == "chown" else one for one in found]


def _changes(name: str, access: int, numbers: Mapping[str, int]) -> bool:
    wanted = any(access & numbers[f"BOESFS_ATTR_{bit}"] for bit in CHANGES[name])
    return wanted and not (name == "utimes" and access & numbers["BOESFS_ATTR_SIZE"])  # who truncates sets the time too


def _of_one(request: Request, access: int, numbers: Mapping[str, int]) -> Request:
    """A chown may be about one of the two."""
    given = {
        name: value for name, value in request.arguments.items() if access & numbers[f"BOESFS_ATTR_{name.upper()}"]
    }
    return request._replace(arguments=given)


def _request(row: operations.Operation, fields: Mapping[str, int], path: bytes, other: bytes, string: bytes) -> Request:
    here, there = (other, path) if row.name in ("link-to", "rename-to") else (path, other)
    arguments = {name: fields[f"arg{row.first + index}"] for index, name in enumerate(row.arguments)}
    texts = {name: string for name in row.texts if name != operations.OTHER}
    return Request(row.name, split(here), split(there), arguments, texts, uid=fields["uid"])


def written(request: Request) -> str:
    """A question as `boesfsctl policy decide` takes it in a shell: the operation, the path, the arguments."""
    words = [request.operation, one_line(_path(request.path))]
    for name in operations.TABLE[request.operation].texts:
        words.append(f"{name}={one_line(_path(request.other) if name == operations.OTHER else request.texts[name])}")
    words += [f"{name}={_number(name, value)}" for name, value in request.arguments.items()]
    return shlex.join(words)


def original(request: Request, program: str, *, denied: bool) -> bytes:
    """The line of BoesFS-FaaS's log: verdict, program, operation, path, arguments in decimal."""
    row = operations.TABLE[request.operation]
    name = row.abi or row.name
    here, there = request.path, request.other
    if row.name in ("link-to", "rename-to"):
        here, there = there, here
    words = [program.encode("utf-8", "surrogateescape"), name.encode(), _path(here)]
    if name == "setattr":
        words += [b"%d" % request.arguments.get(argument, 0) for argument in ("mode", "uid", "gid")]
    elif name in ("link", "rename"):
        words.append(_path(there))
    elif name == "symlink":
        words = [*words[:2], request.texts["target"], _path(here)]
    elif name == "mmap":
        words += [b"%#x" % value for value in request.arguments.values()]
    elif name != "open":
        words += [b"%d" % value for value in request.arguments.values()]
    line = b",".join(words).replace(b"\n", b"\\n")
    return b"[%s] %s\n" % (b"deny" if denied else b"allow", line)


def place(path: tuple[bytes, ...]) -> str:
    """A path as a rule in YAML names it: in quotes, and no star of it means more than itself."""
    return json.dumps(one_line(_path(path).replace(b"\\", b"\\\\").replace(b"*", b"\\*")), ensure_ascii=False)


def one_line(text: bytes) -> str:
    """Text that is one line and speaks to no terminal, whatever is in it."""
    told = text.decode("utf-8", "backslashreplace")
    return told if told.isprintable() else told.encode("unicode_escape").decode()


def _path(names: tuple[bytes, ...]) -> bytes:
    return b"/" + b"/".join(names)


def _number(name: str, value: int) -> str:
    signed = value - (1 << 64) if value >> 63 else value
    if name in OCTAL and signed >= 0:
        return f"0o{signed:o}"
    return f"{signed:#x}" if name in BITS else str(signed)
