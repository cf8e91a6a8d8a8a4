# SPDX-License-Identifier: Apache-2.0
"""boesfsctl run: a command in a sandbox of its own."""

import argparse
import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from boesfsd import sandbox
from boesfsd.ctl import live, policy
from boesfsd.ctl.terminal import Relay, raw
from boesfsd.errors import BoesError
from boesfsd.sandbox import Policy

NO_SANDBOX = 125
UNITS = {"": 1, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def add(verbs: Any) -> None:
    """The verb and its options."""
    verb = verbs.add_parser(
        "run",
        help="run a command in a sandbox of its own",
        description="Run a command as you, in a sandbox as functions have it: it sees /usr, a /tmp of its own and the "
        "directories that are named, under a policy.",
        epilog="Exit status: the command's; 128 + N if signal N ended it, 124 if its time was over, 125 if there is no "
        "sandbox, 126 and 127 if the command cannot be executed, or is not there. Example: boesfsctl run -it -d . -- "
        "bash",
    )
    verb.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    verb.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    verb.add_argument(
        "-d", "--directory", action="append", default=[], metavar="DIR", help="is there to be written; may be repeated"
    )
    policy.add_files(verb)
    verb.add_argument("--program", metavar="NAME", help="a policy program decides (boesfsctl program)")
    verb.add_argument("--strict", action="store_true", help="take a policy's warnings for errors")
    verb.add_argument("-k", "--kill", type=_count, metavar="N", help="end it on its denial N+1; 0: never")
    verb.add_argument(
        "-l", "--log", type=Path, metavar="PATH", help="add denials to this file, as BoesFS-FaaS wrote them"
    )
    verb.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable, or ours")
    verb.add_argument("-w", "--workdir", metavar="DIR", help="where it begins, inside (default: the first -d, or /tmp)")
    verb.add_argument("--network", choices=("none", "host"), default="none", help="(default: none)")
    verb.add_argument("--memory", type=mebibytes, metavar="SIZE", help="as 512M, 2G")
    verb.add_argument("--cpu", type=float, metavar="N", help="processors; 0.5 is half of one")
    verb.add_argument("--cpuset", metavar="LIST", help="the processors it may run on, as 0-3,6")
    verb.add_argument("--tasks", type=_count, metavar="N", help="processes and threads")
    verb.add_argument("--time", type=seconds, metavar="TIME", help="end it after so long, as 90, 5m, 1h")
    verb.add_argument("--init", action="store_true", help="PID 1 is not the command, but one that reaps")
    verb.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    verb.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="and its arguments, after --")
    verb.set_defaults(serve=_serve)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")
    return int(text)


def mebibytes(text: str) -> int:
    """A size, in MiB if it has no unit."""
    found = re.fullmatch(r"([0-9]{1,12})([kmgt]?)(?:i?b)?", text.lower())
    size = int(found[1]) * UNITS[found[2]] if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is no size from 1M on, as 512M or 2G")
    return int(size)


def seconds(text: str) -> int:
    """A time, in seconds if it has no unit."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.lower())
    time = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < time < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is no time, as 90, 5m or 1h")
    return time


def _serve(given: argparse.Namespace) -> int:
    if given.command[:1] == ["--"]:
        del given.command[0]
    if not given.command:
        raise BoesError("InvalidArgs", "There is no command", hint="write it after --, as boesfsctl run -it -- bash")
    return serve(given)


def serve(given: argparse.Namespace) -> int:
    """Run what GIVEN, which has all of the verb's options, says; the exit status."""
    try:
        return _run(given)
    except BoesError as error:
        print(f"boesfsctl: {error}", file=sys.stderr)
        return NO_SANDBOX
    except KeyboardInterrupt:  # before it was the command's
        return 128 + signal.SIGINT


def _policy(given: argparse.Namespace) -> Policy | None:
    if given.program:
        if given.file or given.model or given.policy:
            raise BoesError("InvalidArgs", "--program and a policy are two answers", hint="leave one out")
        return Policy({"program": given.program})
    if not (given.file or given.model or given.policy):
        return None
    text, known = live.text_of(policy.source(given))
    return Policy({"policy": text, **known})


def _options(given: argparse.Namespace) -> dict[str, Any]:
    options = {"network": given.network, "init": given.init, "strict": given.strict, "terminal": given.tty}
    for name in ("kill", "memory", "cpu", "cpuset", "tasks", "time"):
        if getattr(given, name) is not None:
            options[name] = getattr(given, name)
    if given.tty and sys.stdout.isatty():
        options["columns"], options["rows"] = os.get_terminal_size(sys.stdout.fileno())
    if given.workdir == "":
        raise BoesError("InvalidArgs", "-w: the name is empty", hint="name a directory")
    if given.workdir:
        options["directory"] = given.workdir if given.workdir[0] == "/" else os.path.realpath(given.workdir)
    elif directory := _here(given.directory):
        options["directory"] = directory
    return options


def _here(directories: list[str]) -> str:
    """Where we are, if that is inside too."""
    try:
        here = Path.cwd()
    except OSError:  # it is no more
        return ""
    inside = [Path(os.path.realpath(path)) for path in directories]
    if Path("/") in inside:
        return "/" if here.parts[1:2] and here.parts[1] in sandbox.OWN else str(here)
    return str(here) if any(here.is_relative_to(path) for path in inside) else ""


def _environment(given: argparse.Namespace) -> dict[str, str]:
    found = {"TERM": os.environ["TERM"]} if given.tty and "TERM" in os.environ else {}
    for word in given.env:
        name, equals, value = word.partition("=")
        if equals or name in os.environ:
            found[name] = value if equals else os.environ[name]
    return found


def _run(given: argparse.Namespace) -> int:
    with contextlib.ExitStack() as opened:
        standard, pumps = ([], []) if given.tty else _standard(given)
        running = opened.enter_context(
            sandbox.start(
                given.command,
                directories=given.directory,
                policy=_policy(given),
                environment=_environment(given),
                standard=standard,
                log=given.log,
                **_options(given),
            )
        )
        for warning in running.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        if given.verbose:
            print(f"{running.unit} runs, as uid {os.getuid()}, without a capability", file=sys.stderr)
        relay = Relay(running, interactive=given.interactive)
        for source, target, ends in pumps:
            relay.pump(source, target, ends=ends)
        for descriptor in standard:
            if descriptor > sys.stderr.fileno():
                os.close(descriptor)  # it is the command's
        with raw(sys.stdin.fileno()) if given.tty and given.interactive else contextlib.nullcontext():
            ended = relay.run()
    if ended.why:
        print(f"boesfsctl: {ended.why}", file=sys.stderr)
    return ended.status


def _standard(given: argparse.Namespace) -> tuple[list[int], list[tuple[int, int, bool]]]:
    """What it has as standard input, output and error, and what is to be moved: a terminal of ours stays ours."""
    found, pumps = list[int](), list[tuple[int, int, bool]]()
    for number in (0, 1, 2):
        if number == 0 and not given.interactive:
            found.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        elif not os.isatty(number):
            found.append(number)
        else:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            found.append(reading if number == 0 else writing)
            pumps.append((0, writing, True) if number == 0 else (reading, number, False))
    return found, pumps
