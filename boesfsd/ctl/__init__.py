# SPDX-License-Identifier: Apache-2.0
"""boesfsctl: the command line. Each verb is a module with `add`, which tells its options and what serves them."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

from boesfsd import __version__
from boesfsd.ctl import denials, doctor, learn, live, policy, programs, run
from boesfsd.errors import BoesError

FAULT = 70  # EX_SOFTWARE of sysexits(3)
SIGPIPE = 128 + 13  # as a shell tells of who ended by it


def parser() -> argparse.ArgumentParser:
    """All verbs."""
    whole = argparse.ArgumentParser(
        prog="boesfsctl", description="Control boesfsd, the function platform of this host.", epilog="See boesfsctl(1)."
    )
    whole.add_argument("--version", action="version", version=f"boesfsctl {__version__}")
    verbs = whole.add_subparsers(metavar="VERB", required=True)
    live.add(policy.add(verbs))
    learn.add(verbs)
    programs.add(verbs)
    denials.add(verbs)
    doctor.add(verbs)
    run.add(verbs)
    return whole


def _have_streams() -> None:
    """Who is started without one would take the next file that it opens for it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    _have_streams()
    given = parser().parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names are bytes, and may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = given.serve(given)
        sys.stdout.flush()
    except BoesError as error:
        print(f"boesfsctl: {error}", file=sys.stderr)
        return error.kind.exit
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE
    except Exception:  # noqa: BLE001 (whatever it is, it is told)
        traceback.print_exc()
        return FAULT  # and not Python's 1, which says something else here
    return status
