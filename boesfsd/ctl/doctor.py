# SPDX-License-Identifier: Apache-2.0
"""boesfsctl doctor: what this host has of what functions need, and what mends what is missing."""

import argparse
import contextlib
import json
import os
import sys
from typing import Any

from boesfsd import config, doctor, runtimes
from boesfsd.bus.connection import NAME, ROOT, Client
from boesfsd.ctl.daemon import MANAGER
from boesfsd.doctor import ERROR, OK, Row
from boesfsd.errors import BoesError


def add(verbs: Any) -> None:
    """The verb and its options."""
    verb = verbs.add_parser(
        "doctor",
        help="say what this host lacks, and what mends it",
        description="Look at kernel, BoesFS, control groups, polkit, disk, runtimes and boesfsd; for what is missing "
        "the command that mends it is shown.",
        epilog="Exit status: 0, or 1 if functions cannot run as configured. As root it sees all.",
    )
    verb.add_argument("--json", action="store_true", help="a list of objects: id, state, message, hint")
    verb.set_defaults(serve=_serve)


def _serve(given: argparse.Namespace) -> int:
    rows = _rows()
    if given.json:
        names = ("id", "state", "message", "hint")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
    else:
        width = max(len(row[0]) for row in rows)
        for name, state, message, hint in rows:
            print(f"{state:7}  {name:{width}}  {message}{f'. Hint: {hint}' if hint else ''}")
    sys.stdout.flush()
    return 1 if any(row[1] == ERROR for row in rows) else 0


def _rows() -> list[Row]:
    """What we see ourselves, and what boesfsd says of the rest."""
    try:
        rows = doctor.of_host(config.load(), runtimes.load(), os.uname().release)
    except BoesError as error:
        rows = [("configuration", ERROR, error.message, error.hint)]
    try:
        with contextlib.closing(Client(NAME)) as client:
            rows += [tuple(row) for row in client.call(ROOT, MANAGER, "Check")]
    except BoesError as error:
        hint = "systemctl restart boesfsd.socket boesfsd; journalctl -u boesfsd says why it does not"
        return [*rows, *doctor.of_functions(), ("boesfsd", ERROR, f"It does not answer: {error.message}", hint)]
    return [*{row[0]: row for row in rows}.values(), ("boesfsd", OK, "It answers", "")]
