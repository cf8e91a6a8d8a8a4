# SPDX-License-Identifier: Apache-2.0
"""boesfsctl denials: what policies denied, from the journal."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from boesfsd.errors import BoesError
from boesfsd.model import DENIAL

JOURNALCTL = "journalctl"


def add(verbs: Any) -> None:
    """The verb and its options."""
    verb = verbs.add_parser(
        "denials",
        help="show what policies denied",
        description="Show what policies denied, and what rules with audit: allowed, oldest first.",
        epilog="Example: boesfsctl denials --since=-1h shop/hello. journalctl -x explains an entry.",
    )
    verb.add_argument("function", metavar="APP[/FN]", nargs="?", default="", help="only of this app or function")
    verb.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    verb.add_argument("-n", "--lines", type=int, metavar="N", help="at most the last N")
    verb.add_argument("--since", metavar="TIME", help="not before, as journalctl(1) takes it: -1h, today, …")
    verb.add_argument("--json", action="store_true", help="an object a line, with all fields")
    verb.set_defaults(serve=_serve)


def _serve(given: argparse.Namespace) -> int:
    for entry in _entries(_command(given)):
        if given.json:
            print(json.dumps({name: value for name, value in entry.items() if name.startswith("BOESFS_")}))
        else:
            print(_line(entry))
        if given.follow:
            sys.stdout.flush()
    return 0


def _command(given: argparse.Namespace) -> list[str]:
    app, slash, name = given.function.partition("/")
    if slash and not (app and name):
        raise BoesError("InvalidArgs", f"{given.function}: this is no APP/FN", hint="write it as shop/hello")
    command = [JOURNALCTL, "--quiet", "--output=json", "--all", f"MESSAGE_ID={DENIAL}", "_UID=0"]
    command += [f"BOESFS_APP={app}"] if app else []
    command += [f"BOESFS_FUNCTION={name}"] if name else []
    command += ["--follow"] if given.follow else []
    command += [f"--lines={given.lines}"] if given.lines is not None else []
    return [*command, f"--since={given.since}"] if given.since else command


def _entries(command: list[str]) -> Iterator[dict[str, Any]]:
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as journalctl:
            assert journalctl.stdout
            for line in journalctl.stdout:
                yield json.loads(line)
    except OSError as error:
        raise BoesError("Unsupported", f"{JOURNALCTL} cannot be run: {error.strerror}") from error
    if journalctl.returncode:
        raise BoesError("Failed", f"{JOURNALCTL} ended with status {journalctl.returncode}")


def _line(entry: dict[str, Any]) -> str:
    seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
    when = time.strftime("%b %d %H:%M:%S", time.localtime(seconds))
    call = f" [{entry['BOESFS_CALL_ID']}]" if "BOESFS_CALL_ID" in entry else ""
    return f"{when} {entry['BOESFS_APP']}/{entry['BOESFS_FUNCTION']}{call}: {entry['MESSAGE']}"
