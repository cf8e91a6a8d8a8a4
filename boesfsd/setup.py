# SPDX-License-Identifier: Apache-2.0
"""boesfs-setup.service: what has to be in the kernel before functions start. It is the only one that loads the module
and the policy program; the daemon finds both there, and has no right to either."""

import contextlib
import logging
import shutil
import subprocess
import sys
import time

from boesfsd import config
from boesfsd.config import MODULE, PINS
from boesfsd.errors import BoesError

log = logging.getLogger("boesfs-setup")
MODPROBE = ("/usr/sbin/modprobe", "boesfs")
RMMOD = ("/usr/sbin/rmmod", "boesfs")
REMOVE, PATIENCE = "--remove", 5.0  # seconds


def run() -> None:
    """Load the module, the program and the administrator's own; programs that judge already are exchanged in place.
    With enforcement = landlock there is nothing to do. Unsupported says what is missing and how to get it;
    InvalidPolicy which of the administrator's programs cannot be loaded, when all others are."""
    if config.load().enforcement != "boesfs":
        return
    try:
        from boesfsd import kernel  # noqa: PLC0415 (libbpf is there only where BoesFS is)
    except ImportError as error:
        problem = f"boesfsd's way to libbpf cannot be loaded: {error}"
        raise BoesError("Unsupported", problem, hint="make -C bpf, then make install BPF=bpf") from error

    if not MODULE.exists():
        done = subprocess.run(MODPROBE, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BoesError(
                "Unsupported",
                f"The kernel module boesfs cannot be loaded: {done.stderr.strip()}",
                hint="install boesfs-dkms and the headers of this kernel, or set enforcement = landlock",
            )
    kernel.set_up()
    from boesfsd import programs  # noqa: PLC0415 (as kernel)

    faults = programs.set_up()
    if faults:
        for fault in faults[1:]:
            log.error("%s", fault)
        raise faults[0]


def take_out() -> None:
    """The reverse, when boesfsd is removed from the host: the programs go, and the module if nobody uses it."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(PINS)
    end, said = time.monotonic() + PATIENCE, ""
    while MODULE.exists():  # the kernel lets go of programs a while after
        try:
            said = subprocess.run(RMMOD, capture_output=True, text=True, check=False).stderr.strip()
        except FileNotFoundError as error:
            said = str(error)
        if time.monotonic() > end:
            log.warning("The kernel module boesfs stays until the next boot: %s", said)
            return
        time.sleep(0.1)


def main() -> int:
    """Entry point of boesfs-setup.service; `boesfs-setup --remove` is the package's."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if sys.argv[1:] == [REMOVE]:
            take_out()
        else:
            run()
    except BoesError as error:
        log.error("%s", error)
        return error.kind.exit
    return 0
