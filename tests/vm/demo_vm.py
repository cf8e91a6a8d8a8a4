# SPDX-License-Identifier: Apache-2.0
"""make demo-vm: the promise on the real thing. Builds the packages, boots a machine with a kernel of its own, installs
them there and walks through promise.py. Writes build/demo-vm.json."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "appliance"))
from machine import BUILD, TOP
from tour import say
from vm import run


def main() -> None:
    say("Build the packages, the kernel module by DKMS, and a Debian 13 that has neither; boot it. This takes a while.")
    report = run("promise.py", installed=False)
    ok, detail = report.results.get("promise", (False, report.console[-3000:]))
    if not ok:
        raise SystemExit(f"demo-vm: not everything was as it should be:\n{detail}\n{report.journal[-3000:]}")
    told = json.loads(detail)
    print(told["shown"], end="")
    file = BUILD / "demo-vm.json"
    file.write_text(json.dumps(told["found"], indent=2) + "\n")
    say(f"All as it should be; {file.relative_to(TOP)}:")
    print(file.read_text(), end="")


if __name__ == "__main__":
    main()
