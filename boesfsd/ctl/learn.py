# SPDX-License-Identifier: Apache-2.0
"""boesfsctl learn: what a function does, as a policy that allows it, shown as what that would change."""

import argparse
import contextlib
import difflib
import http.client
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from boesfsd.ctl.daemon import Daemon
from boesfsd.errors import BoesError
from boesfsd.model import LONGEST_LEARNING, Json

PATIENCE = 600  # seconds, for an answer
WIDTH = 100


def add(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """This verb."""
    learn = verbs.add_parser(
        "learn",
        help="propose a policy from what a function does",
        description="Propose a policy from what a function does: while it is called with --call, while COMMAND "
        "runs, or until Ctrl-C or the end of the time. Meanwhile no file is denied to it. Shown is what the proposal "
        "would change; comments in it say where it allows more than was seen. Exit status 1: it is proposed, but a "
        "call was not answered with 2xx, or COMMAND failed.",
        epilog='Example: boesfsctl learn -o learned.yaml --call \'{"name": "Ada"}\' shop/hello; then '
        "boesfsctl policy set -f learned.yaml shop/hello",
    )
    learn.add_argument("--call", action="append", metavar="BODY", help="call it with this; may be repeated")
    learn.add_argument(
        "--seconds",
        type=_seconds,
        default=60,
        metavar="N",
        help=f"at most so long, up to {LONGEST_LEARNING} (default: 60)",
    )
    learn.add_argument(
        "--system-calls", action="store_true", help="propose func.yaml's system_calls too; calls are slower meanwhile"
    )
    learn.add_argument("--exact", action="store_true", help="propose what was seen and nothing more general")
    learn.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the policy there too, over what it has")
    learn.add_argument("whose", metavar="APP/FN", help="which function")
    learn.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND", help="what calls it")
    learn.set_defaults(serve=_serve)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LONGEST_LEARNING:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to {LONGEST_LEARNING}")
    return int(text)


def _serve(given: argparse.Namespace) -> int:
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if command == given.command and command[:1] and command[0].startswith("-"):
        raise BoesError("InvalidArgs", f"{command[0]} is after {given.whose}", hint="options come before it")
    if command and given.call:
        raise BoesError("InvalidArgs", "--call and a command are two ways", hint="leave one out")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with contextlib.closing(Daemon(given.whose)) as daemon, _opened(given.output) as output:
        daemon.must_be_function()
        before, where = daemon.ask("GetPolicy")[0], _address(daemon) if given.call else ("", 0)
        session = daemon.ask("StartLearning", given.seconds, {"system-calls": True} if given.system_calls else {})
        try:
            fine = _exercise(daemon, where, command, given)
        except BaseException as error:
            with contextlib.suppress(BoesError):  # what went wrong first is told
                daemon.ask("StopLearning", session, {"discard": True})
            if isinstance(error, KeyboardInterrupt):
                raise SystemExit(128 + signal.SIGINT) from None
            raise
        proposed, numbers = daemon.ask("StopLearning", session, {"exact": True} if given.exact else {})
        sys.stdout.writelines(_difference(before, proposed, given.whose))
        if given.system_calls:
            print(_system_calls(numbers["system-calls"]))
        if output:
            if stat.S_ISREG(os.fstat(output.fileno()).st_mode):
                output.truncate(0)
            output.write(proposed)
    _tell(numbers, whole=not (command or given.call))
    return 0 if fine else 1


def _system_calls(names: list[str]) -> str:
    """A key of func.yaml."""
    if not names:
        return "# No system call was seen; was it called?"
    lines = textwrap.wrap(", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(["# for func.yaml: what was made while it learned", "system_calls: [", *lines, "]"])


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[TextIO | None]:
    """The file to write; that it cannot be is known before anything is learned. It stays as it was if nothing is."""
    new = output is not None and not output.exists()
    try:
        with output.open("a", encoding="utf-8") if output else contextlib.nullcontext() as file:
            yield file
    except OSError as error:
        raise BoesError("InvalidArgs", f"{output} cannot be written: {error.strerror}") from error
    except BaseException:
        if output and new:
            output.unlink(missing_ok=True)
        raise


def _tell(numbers: Json, *, whole: bool) -> None:
    """WHOLE: that the time was over is what was asked for."""
    paths = numbers["paths"]
    print(f"{paths} {'path was' if paths == 1 else 'paths were'} used", file=sys.stderr)
    for said, warning in (
        (numbers["untold"], f"{numbers['untold']} operations could not be noted; learn again with fewer calls"),
        (numbers["denied"], f"{numbers['denied']} paths are denied all the same, by rules of its app"),
        (numbers["early"] and not whole, "the time was over before; give it more --seconds"),
        (not paths, "nothing was seen that its app does not allow; was it called?"),
    ):
        if said:
            print(f"Warning: {warning}", file=sys.stderr)


def _exercise(daemon: Daemon, where: tuple[str, int], command: list[str], given: argparse.Namespace) -> bool:
    """Whether all went well, as far as we know."""
    fine = True
    if command:
        try:
            status = subprocess.run(command, check=False, stdout=sys.stderr, timeout=given.seconds).returncode
        except subprocess.TimeoutExpired:
            raise BoesError("Failed", f"{command[0]} did not end in time", hint="give it more --seconds") from None
        except OSError as error:
            raise BoesError("InvalidArgs", f"{command[0]}: {error.strerror}") from error
        print(f"{command[0]} ended with status {status}", file=sys.stderr)
        fine = not status
    elif given.call:
        path = f"/invoke/{daemon.about_function('Id')}"
        for number, body in enumerate(given.call, 1):
            status, reason = _call(where, path, body)
            print(f"Call {number}: {status} {reason}", file=sys.stderr)
            fine = fine and 200 <= status < 300
    else:
        print(f"Learning for {given.seconds} seconds. Call {given.whose}; end with Ctrl-C.", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(given.seconds)
    return fine


def _address(daemon: Daemon) -> tuple[str, int]:
    """Where boesfsd listens."""
    for address in daemon.about_itself("Listen"):
        host, _, port = address.rpartition(":")
        if port.isdecimal():
            return {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]")), int(port)  # noqa: S104
    raise BoesError("Failed", "boesfsd listens on no TCP port", hint="let a command make the calls")


def _call(where: tuple[str, int], path: str, body: str) -> tuple[int, str]:
    try:
        with contextlib.closing(http.client.HTTPConnection(*where, PATIENCE)) as connection:
            connection.request("POST", path, body.encode())
            answer = connection.getresponse()
            answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BoesError("Failed", f"boesfsd does not answer: {error}") from error
    return answer.status, answer.reason


def _difference(before: str, proposed: str, whose: str) -> Iterator[str]:
    """What a reader is to review."""
    old, new = before.splitlines(), proposed.splitlines()
    for line in difflib.unified_diff(old, new, f"{whose} (now)", f"{whose} (learned)", n=len(old + new), lineterm=""):
        yield f"{line}\n"
