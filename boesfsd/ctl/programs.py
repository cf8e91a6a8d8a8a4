# SPDX-License-Identifier: Apache-2.0
"""boesfsctl program: policy programs of the administrator's own. It needs root, and no daemon."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boesfsd.errors import BoesError

if TYPE_CHECKING:
    from types import ModuleType


def add(verbs: Any) -> None:
    """The verb and its own verbs."""
    mine = verbs.add_parser("program", help="policy programs of your own").add_subparsers(metavar="VERB", required=True)
    put = mine.add_parser(
        "set",
        help="give functions a policy program",
        description="Load a BPF object and let functions name it, as policy: {program: NAME}. One that has the name is "
        "exchanged at once, for instances that run too; if the kernel refuses the new one, it says why, and all stays.",
    )
    put.add_argument("name", metavar="NAME", help="1 to 31 letters, digits, _ and -")
    put.add_argument("file", metavar="FILE", type=Path, help="a BPF object; /usr/share/doc/boesfsd/programs.md")
    put.set_defaults(serve=_set)
    remove = mine.add_parser(
        "remove",
        help="remove one",
        description="Remove a program. Functions that name it are denied everything, and do not start.",
    )
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(serve=_remove)
    mine.add_parser("list", help="list them", description="List them, and whether the kernel has them.").set_defaults(
        serve=_list
    )


def _programs() -> "ModuleType":
    if os.geteuid():
        raise BoesError("AccessDenied", "Only root may load programs into the kernel", hint="sudo boesfsctl program …")
    try:
        from boesfsd import programs  # noqa: PLC0415 (libbpf is there only where BoesFS is)
    except ImportError as error:
        raise BoesError("Unsupported", f"boesfsd's way to libbpf cannot be loaded: {error}") from error
    return programs


def _set(given: argparse.Namespace) -> int:
    new = _programs().put(given.name, given.file)
    print(f"{given.name} is in force" if new else f"{given.name} is in force already")
    return 0


def _remove(given: argparse.Namespace) -> int:
    _programs().remove(given.name)
    print(f"{given.name} is gone")
    return 0


def _list(_: argparse.Namespace) -> int:
    for name, loaded in _programs().known().items():
        print(f"{name}\t{'in force' if loaded else 'not loaded: systemctl restart boesfs-setup says why'}")
    return 0
