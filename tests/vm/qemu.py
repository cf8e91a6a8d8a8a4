# SPDX-License-Identifier: Apache-2.0
"""QEMU without KVM, so that it runs anywhere: a machine that is told by its image what to do, reports on its second
serial port and switches itself off; no network, no login."""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from machine import BUILD, SUITE, mirror

TOOLS = BUILD / "vm-tools"
# The kernel of the flavour with ext4 and NVMe built in: no initrd is needed. QEMU of the same Debian, wherever this
# runs: under that of Debian 12 every third boot of this kernel ends in an Oops (it loses writes to code).
PACKAGES = ("qemu-system-x86",)
PATIENCE = 180.0  # seconds that a kernel may take to its first program


def build_tools() -> None:
    """Extract kernel and QEMU from Debian's packages, without installing them, if they are not there."""
    stamp = TOOLS / "stamp"
    wanted = " ".join([SUITE, *PACKAGES])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(TOOLS, ignore_errors=True)
    options = ["--quiet", "--variant=extract", "--include=" + ",".join(PACKAGES)]
    subprocess.run(["mmdebstrap", *options, SUITE, str(TOOLS), mirror()], check=True)
    stamp.write_text(wanted)


def power_on(
    place: Path,
    image: Path,
    kernel: Path,
    append: str,
    deadline: float,
    *,
    icount: bool = False,
    memory: str = "2G",
    sign: str = "",
) -> float:
    """Run a machine until it switches itself off, or is killed after DEADLINE seconds; how many it took. It leaves
    console.log and results.log (its second serial port) in PLACE. RuntimeError: QEMU failed. With ICOUNT the guest's
    clock counts instructions. If SIGN does not stand in its console after PATIENCE seconds, it is killed then."""
    usr = TOOLS / "usr"
    if icount:
        pace = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
    else:
        pace = ["-accel", "tcg,thread=multi", "-smp", "2"]
    command = [
        # the extracted QEMU with the libraries that came with it
        str(usr / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(usr / "lib/x86_64-linux-gnu"),
        str(usr / "bin/qemu-system-x86_64"), "-L", str(usr / "share/qemu"), "-L", str(usr / "share/seabios"),
        *pace, "-cpu", "max", "-m", memory, "-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot",
        "-serial", f"file:{place}/console.log", "-serial", f"file:{place}/results.log",
        "-drive", f"file={image},if=none,id=disk,format=raw,cache=unsafe", "-device", "nvme,drive=disk,serial=boesfs",
        "-kernel", str(kernel), "-append", append,
    ]  # fmt: skip
    begun = time.monotonic()
    with (place / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            if sign not in text_of(place / "console.log"):
                deadline = PATIENCE
            process.wait(max(0.0, deadline - PATIENCE))
        except subprocess.TimeoutExpired:
            print(f"vm: still running after {deadline:.0f} s, see {place}/console.log", file=sys.stderr)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode > 0:
        raise RuntimeError(f"QEMU ended with {process.returncode}: {text_of(place / 'qemu.log')[-2000:]}")
    return time.monotonic() - begun


def text_of(file: Path) -> str:
    """A log's text; none if it is not there."""
    return file.read_text(errors="replace") if file.exists() else ""
