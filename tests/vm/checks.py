# SPDX-License-Identifier: Apache-2.0
"""Runs inside the VM: all checks, each with one line on the serial port that is the first argument."""

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import learn_checks  # noqa: F401 (as the next)
import limits_checks  # noqa: F401 (their checks are in the list by that)
import policy_checks  # noqa: F401
import promise_checks  # noqa: F401
import run_checks  # noqa: F401
import uninstall_checks  # noqa: F401 (the last)
from bench import CHECKS, Bench


def main() -> None:
    with Path(sys.argv[1]).open("w") as port:

        def say(word: str, what: object) -> None:
            port.write(f"{word} {json.dumps(what)}\n")
            port.flush()

        try:
            check_all(say)
        finally:
            for line in journal().splitlines()[-400:]:
                say("JOURNAL", line)


def check_all(say: Callable[[str, object], None]) -> None:
    bench = Bench()
    for name, function in CHECKS.items():
        begin, ok, detail = time.monotonic(), True, ""
        try:
            function(bench)
        except Exception:  # noqa: BLE001 (reported, and the next check runs)
            ok, detail = False, traceback.format_exc()
        detail += f"({time.monotonic() - begin:.1f} s, {time.monotonic():.0f} s after power-on)"
        say("RESULT", {"name": name, "ok": ok, "detail": detail})
        print(name, detail, flush=True)


def journal() -> str:
    """Of boesfsd, its functions and what is set up for them."""
    command = ["journalctl", "-q", "--no-pager", "-o", "short-monotonic", "-u", "boesfs*"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout


if __name__ == "__main__":
    main()
