# SPDX-License-Identifier: Apache-2.0
"""What a policy decides about: operations with their arguments, and the names for groups of them.

Numbers are not told here: kmod/boesfs_abi.h has those. Some of its operations are several here, because a rule may want
to tell them apart: setattr by what is changed, rename and link by which of the two names is meant. A set of operations
is a mask: bit i is the i-th row of TABLE.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. ARGUMENTS are numbers, the first is the context's arg[FIRST]; TEXTS are text. ABI is the operation in
    kmod/boesfs_abi.h that asks for it, if it has another name."""

    name: str
    arguments: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    abi: str = ""
    first: int = 0

    @property
    def order(self) -> tuple[str, ...]:
        """All its arguments as they are written without their names."""
        return (*self.texts, *self.arguments)


OTHER = "other"  # link and rename: the second path
TABLE = {
    row.name: row
    for row in (
        Operation("read", ("length", "offset")),
        Operation("write", ("length", "offset")),
        Operation("lookup"),
        Operation("open", ("flags",)),
        Operation("mkdir", ("mode",)),
        Operation("unlink"),
        Operation("rmdir"),
        Operation("mknod", ("mode", "device")),
        Operation("create", ("mode",)),
        Operation("link", texts=(OTHER,)),
        Operation("link-to", texts=(OTHER,), abi="link"),
        Operation("symlink", texts=("target",)),
        Operation("rename", ("flags",), (OTHER,)),
        Operation("rename-to", ("flags",), (OTHER,), abi="rename"),
        Operation("chmod", ("mode",), abi="setattr"),
        Operation("chown", ("uid", "gid"), abi="setattr", first=1),
        Operation("truncate", ("size",), abi="setattr", first=3),
        Operation("utimes", abi="setattr"),
        Operation("chattr", abi="setattr"),
        Operation("getattr"),
        Operation("llseek", ("offset", "whence")),
        Operation("iterate"),
        Operation("mmap", ("start", "end")),
        Operation("statfs"),
        Operation("fsync", ("datasync",)),
        Operation("probe"),
        Operation("readlink"),
        Operation("getxattr", texts=("attribute",)),
        Operation("setxattr", ("size", "flags"), ("attribute",)),
        Operation("listxattr"),
        Operation("removexattr", texts=("attribute",)),
        Operation("ioctl", ("command",)),
        Operation("fallocate", ("mode", "offset", "length")),
        Operation("tmpfile", ("mode",)),
        Operation("exec"),
        Operation("access"),
        Operation("lock", ("type", "start", "end")),
    )
}
BIT = {name: 1 << number for number, name in enumerate(TABLE)}
ALL = (1 << len(TABLE)) - 1


def mask(names: Iterable[str]) -> int:
    """These operations."""
    return sum(BIT[name] for name in set(names))


def names(operations: int) -> list[str]:
    """The reverse of mask, in the order of the table."""
    return [name for name, bit in BIT.items() if bit & operations]


# Names that stand for several operations which the kernel asks as one.
WHOLE = {
    "setattr": mask(name for name, row in TABLE.items() if row.abi == "setattr"),
    "rename": mask(("rename", "rename-to")),
    "link": mask(("link", "link-to")),
}

_walk = ("lookup", "probe", "readlink", "getattr", "access", "statfs")
_use = (*_walk, "open", "llseek", "ioctl", "lock")


class Group(NamedTuple):
    """A word for several operations. DOES: what people mean by it, which is what a rule denies that denies it. NEEDS:
    what its system calls need besides, which a rule allows too that allows it."""

    does: int
    needs: int


def _group(does: tuple[str, ...], needs: tuple[str, ...]) -> Group:
    return Group(mask(does), mask(needs))


# boesfs-policy(5) has the same table.
GROUPS = {
    "read": _group(("read", "getxattr"), (*_use, "mmap", "listxattr")),
    "write": _group(("write", "truncate", "fallocate"), (*_use, "mmap", "utimes", "fsync")),
    "list": _group(("iterate",), (*_use, "getxattr", "listxattr")),
    "create": _group(
        ("create", "mkdir", "mknod", "symlink", "tmpfile", "link-to", "rename-to"), (*_walk, "open", "utimes")
    ),
    "delete": _group(("unlink", "rmdir", "rename"), (*_walk, "open", "iterate")),
    "exec": _group(("exec",), (*_use, "read", "mmap")),
    "meta": _group(
        ("chmod", "chown", "utimes", "chattr", "setxattr", "removexattr"),
        (*_walk, "open", "ioctl", "getxattr", "listxattr"),
    ),
    "all": Group(ALL, 0),
}


def like(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint for a name that is none of KNOWN."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else otherwise or f"known are {', '.join(known)}"
