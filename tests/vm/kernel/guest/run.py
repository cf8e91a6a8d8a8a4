# SPDX-License-Identifier: Apache-2.0
"""Runs test functions in the guest: `run.py MODULE.FUNCTION...`. A line of JSON per test goes to standard output. A
word @FILE.ko has the tests after it run with that kernel module, up to the first that fails; its name stands before
theirs."""

import importlib
import json
import sys
import time
import traceback
from pathlib import Path

import scene


def main() -> None:
    """Each test has a scene of its own; what it leaves behind is cleared away."""
    prefix, failed = "", False
    for full in sys.argv[1:]:
        if full.startswith("@"):
            prefix, failed = f"{full} ", False
            scene.exchange_module(full.removeprefix("@"))
            continue
        if prefix and failed:
            continue
        module, _, name = full.partition(".")
        begun = time.monotonic()
        detail = ""
        Path("/dev/kmsg").write_text(f"test {full}\n")
        stage = scene.Scene()
        try:
            getattr(importlib.import_module(module), name)(stage)
        except Exception:  # noqa: BLE001 (whatever it is, it is the test's result)
            detail = traceback.format_exc()
        try:
            stage.close()
        except Exception:  # noqa: BLE001 (whatever it is, it is the test's result)
            detail += traceback.format_exc()
        failed = bool(detail)
        said = {
            "name": prefix + full,
            "ok": not detail,
            "detail": detail,
            "seconds": round(time.monotonic() - begun, 2),
        }
        said["values"] = stage.values
        print("RESULT " + json.dumps(said), flush=True)
        print(f"{full}: {'ok' if not detail else 'FAILED ' + detail}", file=sys.stderr, flush=True)


main()
