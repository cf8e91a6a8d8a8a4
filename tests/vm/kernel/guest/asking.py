# SPDX-License-Identifier: Apache-2.0
"""What the tests of the policy have in common: functions of libc, names of all sorts, and all that is below."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from scene import LIBC, opened

GETFLAGS = 0x80086601
NAMES = [
    "n" * 57,
    "n" * 58,
    "n" * 59,
    "n" * 116,
    "n" * 117,
    "n" * 200,
    "n" * 255,
    "with a  space",
    "line\nbreak",
    " ",
    "tab\t\\\"'%s=,",
    os.fsdecode(b"\xff\xfe not \x80 text"),
    os.fsdecode(b"\xc3" * 60),
    "ü" * 100,
    "-o",
    "{}",
]


def call(name: str, *args: Any) -> int:
    """A function of libc that says -1 for an error."""
    answer: int = getattr(LIBC, name)(*args)
    if answer == -1:
        raise OSError(ctypes.get_errno(), name)
    return answer


def call_pointer(name: str, *args: Any) -> int:
    """A function of libc that returns a pointer."""
    function = getattr(LIBC, name)
    function.restype = ctypes.c_void_p
    answer: int = function(*[ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args])
    if answer == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), name)
    return answer


def rename2(directory: Path, old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    call("renameat2", -100, os.fsencode(directory / old), -100, os.fsencode(directory / new), flags)


def gone(path: Path, flags: int | None = None) -> None:
    """A name that has to be missing; only what is not ENOENT is raised."""
    with contextlib.suppress(FileNotFoundError):
        if flags is None:
            os.stat(path)
        else:
            os.open(path, flags)
        raise AssertionError(f"{path} is there")


def snapshot(directory: Path) -> dict[str, Any]:
    """All that an operation may change below, times of access aside."""
    found: dict[str, Any] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        st = path.lstat()
        content = hashlib.sha256(path.read_bytes()).digest() if stat.S_ISREG(st.st_mode) else b""
        target = os.readlink(path) if path.is_symlink() else ""
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        flags = b""
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            with opened(path) as fd:
                flags = fcntl.ioctl(fd, GETFLAGS, bytes(8))
        found[str(path.relative_to(directory))] = (
            st.st_ino,
            st.st_mode,
            st.st_nlink,
            st.st_uid,
            st.st_gid,
            st.st_size,
            st.st_blocks,
            st.st_mtime_ns,
            st.st_ctime_ns,
            st.st_rdev,
            content,
            target,
            attributes,
            flags,
        )
    return found
