# SPDX-License-Identifier: Apache-2.0
"""boesfs and gofs: `boesfsctl run` with the options of BoesFS-FaaS's two agents, see boesfs(1)."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from boesfsd.ctl import main as whole
from boesfsd.errors import BoesError

USAGE = """usage: boesfs -d DIR [-u[NAME]] [-v] [-k N] [-l] COMMAND [ARG ...]
       boesfs -d DIR -m MODEL -p POLICY [-v] [-k N] [-l PATH] COMMAND [ARG ...]
       gofs -d DIR -k N [-m MODEL] [-p POLICY] [-l PATH] COMMAND [ARG ...]

Runs COMMAND as you in a sandbox that has DIR, /usr and a /tmp of its own, under the rules in MODEL and POLICY (default:
~/.boesfs/acl/model/model.txt and policy.txt). Options end at COMMAND. See boesfs(1); boesfsctl run can more.
"""
HOME = ".boesfs"
USAGE_FAULT = 2
WITH_VALUE, ALONE = "dkmp", "vr"


class _Given(argparse.Namespace):
    """What was asked for; LOG is "" for the original's own place."""

    directory, model, policy = "", "", ""
    log: str | None = None
    kill: int | None = None
    program: str | None = None
    verbose = demonstration = False
    command: tuple[str, ...] = ()


def parse(words: Sequence[str], *, go: bool) -> _Given:
    """The options of both agents. -l has a PATH for the one in GO, and once -m or -p was said. InvalidArgs."""
    given, rest = _Given(), list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--log="):
            given.log = word.removeprefix("--log=")
            continue
        rest = _letters(word[1:], rest, given, go=go)
    given.command = tuple(rest)
    return given


def _letters(letters: str, rest: list[str], given: _Given, *, go: bool) -> list[str]:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in WITH_VALUE or (letter == "l" and (go or given.model or given.policy)):
            value = letters.removeprefix("=") or (rest.pop(0) if rest else "")
            if not value:
                raise BoesError("InvalidArgs", f"-{letter} wants a value", hint="boesfs --help")
            _take(letter, value, given)
            return rest
        if letter == "u":
            given.program = letters
            return rest
        if letter == "l":
            given.log = ""
        elif letter in ALONE:
            setattr(given, {"v": "verbose", "r": "demonstration"}[letter], True)
        else:
            raise BoesError("InvalidArgs", f"there is no option -{letter}", hint="boesfs --help")
    return rest


def _take(letter: str, value: str, given: _Given) -> None:
    if letter == "k":
        if not value.isdecimal():
            raise BoesError("InvalidArgs", f"-k {value}: this is no number from 0 on", hint="0 is never")
        given.kill = int(value)
    else:
        setattr(given, {"d": "directory", "m": "model", "p": "policy", "l": "log"}[letter], value)


def to_run(given: _Given, *, go: bool) -> list[str]:
    """The words of `boesfsctl run` for it. InvalidArgs: nothing of ours is that."""
    if not given.directory or not given.command:
        what = "-d DIR" if not given.directory else "COMMAND"
        raise BoesError("InvalidArgs", f"{what} is missing", hint="boesfs --help")
    if given.demonstration:
        problem = "-r, the demonstration of a reload, is not there"
        raise BoesError("InvalidArgs", problem, hint="boesfsctl policy set exchanges the policy of a function")
    words = ["run", "--interactive", "--init", "--directory", given.directory]
    if os.isatty(0) and os.isatty(1):
        words.append("--tty")
    if given.program and not go:
        words += ["--program", given.program]
    elif given.program is not None and not go:
        problem = "-u: it is not said which program decides"
        raise BoesError("InvalidArgs", problem, hint="boesfsctl program set NAME FILE, then boesfs -uNAME …")
    else:
        words += _rules(given)
    if given.log is not None:
        words += ["--log", given.log or str(_own_log(given.command[0]))]
    if given.kill is not None and not given.program:
        words += ["--kill", str(given.kill)]
    return [*words, *(["--verbose"] if given.verbose else []), "--", *given.command]


def _rules(given: _Given) -> list[str]:
    place = Path.home() / HOME / "acl" / "model"
    model, policy = given.model or str(place / "model.txt"), given.policy or str(place / "policy.txt")
    return ["--model", model, "--policy", policy]


def _own_log(program: str) -> Path:
    place = Path.home() / HOME / "log"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{Path(program).name}_{os.getpid()}.txt"


def main() -> int:
    """Entry point; the exit status."""
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        if not words:
            print("boesfs: there is no menu; say what to run\n", file=sys.stderr)
        print(USAGE, end="", file=sys.stderr if not words else sys.stdout)
        return 0 if words else USAGE_FAULT
    try:
        run = to_run(parse(words, go=name == "gofs"), go=name == "gofs")
    except (BoesError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return USAGE_FAULT
    return whole(run)
