# SPDX-License-Identifier: Apache-2.0
"""boesfsctl learn: what a function does, as a policy that allows it, shown as what that would change."""

import argparse
import contextlib
import difflib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from boesfsd.ctl.daemon import Daemon
from boesfsd.errors import BoesError

LONGEST = 3600
PATIENCE = 600  # seconds, for an answer


def add(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """This verb."""
    learn = verbs.add_parser(
        "learn",
        help="propose a policy from what a function does",
        description="Propose a policy from what a function does: while it is called with --call, while COMMAND "
        "runs, or until Ctrl-C or the end of the time. Meanwhile it is denied nothing. Shown is what the proposal "
        "would change; comments in it say where it allows more than was seen.",
        epilog='Example: boesfsctl learn -o learned.yaml --call \'{"name": "Ada"}\' shop/hello; then '
        "boesfsctl policy set -f learned.yaml shop/hello",
    )
    learn.add_argument("--call", action="append", metavar="BODY", help="call it with this; may be repeated")
    learn.add_argument(
        "--seconds", type=_seconds, default=60, metavar="N", help=f"at most so long, up to {LONGEST} (default: 60)"
    )
    learn.add_argument("--exact", action="store_true", help="propose what was seen and nothing more general")
    learn.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the proposal there too")
    learn.add_argument("whose", metavar="APP/FN", help="which function")
    learn.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND", help="what calls it")
    learn.set_defaults(serve=_serve)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to {LONGEST}")
    return int(text)


def _serve(given: argparse.Namespace) -> int:
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if command and given.call:
        raise BoesError("InvalidArgs", "--call and a command are two ways", hint="leave one out")
    with contextlib.closing(Daemon(given.whose)) as daemon:
        daemon.must_be_function()
        before = daemon.ask("GetPolicy")[0]
        daemon.ask("StartLearning", given.seconds)
        try:
            _exercise(daemon, command, given)
        except BaseException:
            with contextlib.suppress(BoesError):  # what went wrong first is told
                daemon.ask("StopLearning", {})
            raise
        proposed, numbers = daemon.ask("StopLearning", {"exact": True} if given.exact else {})
    if given.output:
        given.output.write_text(proposed, encoding="utf-8")
    sys.stdout.writelines(_difference(before, proposed, given.whose))
    print(f"{numbers['paths']} paths were used", file=sys.stderr)
    if untold := numbers["untold"]:
        print(f"Warning: {untold} operations could not be noted; learn again with fewer calls", file=sys.stderr)
    if not numbers["paths"]:
        print("Warning: nothing was seen that its app does not allow; was it called?", file=sys.stderr)
    return 0


def _exercise(daemon: Daemon, command: list[str], given: argparse.Namespace) -> None:
    if command:
        try:
            status = subprocess.run(command, check=False, stdout=sys.stderr, timeout=given.seconds).returncode
        except subprocess.TimeoutExpired:
            raise BoesError("Failed", f"{command[0]} did not end in time", hint="give it more --seconds") from None
        except OSError as error:
            raise BoesError("InvalidArgs", f"{command[0]}: {error.strerror}") from error
        print(f"{command[0]} ended with status {status}", file=sys.stderr)
    elif given.call:
        for number, answered in enumerate(_calls(daemon, given.call), 1):
            print(f"Call {number}: {answered}", file=sys.stderr)
    else:
        print(f"Learning for {given.seconds} seconds. Call {given.whose}; end with Ctrl-C.", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(given.seconds)


def _calls(daemon: Daemon, bodies: list[str]) -> Iterator[str]:
    address = daemon.about_itself("Listen")[0]
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 (it is not listened on here)
    path = f"/invoke/{daemon.about_function('Id')}"
    for body in bodies:
        try:
            with contextlib.closing(http.client.HTTPConnection(host.strip("[]"), int(port), PATIENCE)) as connection:
                connection.request("POST", path, body.encode())
                answer = connection.getresponse()
                answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BoesError("Failed", f"{address} does not answer: {error}") from error
        yield f"{answer.status} {answer.reason}"


def _difference(before: str, proposed: str, whose: str) -> Iterator[str]:
    """What a reader is to review."""
    old, new = (text.splitlines(keepends=True) for text in (before, proposed))
    return difflib.unified_diff(old, new, f"{whose} (now)", f"{whose} (learned)", n=len(old) + len(new))
