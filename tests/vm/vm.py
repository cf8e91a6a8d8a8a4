# SPDX-License-Identifier: Apache-2.0
"""A Debian 13 kernel of its own for the appliance's root: QEMU without KVM, so that it runs anywhere. The guest is
told by a unit what to do, reports on its second serial port and switches itself off; no network, no login."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import BUILD, ROOT, SUITE, TOP, build_root, install, mirror

TOOLS = BUILD / "vm-tools"
# The kernel of the flavour with ext4 and NVMe built in: no initrd is needed. QEMU of the same Debian, wherever this
# runs: under that of Debian 12 every third boot of this kernel ends in an Oops (it loses writes to code).
PACKAGES = ("linux-image-cloud-amd64", "qemu-system-x86")
IMAGE = BUILD / "vm.ext4"
DIRECTORY = BUILD / "vm"
APPLIANCE = TOP / "tests/appliance"
CHECKS = Path(__file__).with_name("checks.py")
DEADLINE = 420.0  # seconds from power-on until it is killed
PATIENCE = 180.0  # seconds that a kernel may take to its first program
GUEST_DEADLINE = 390  # seconds for the checks: the guest says itself that they took too long
BROKEN = ("BUG:", "Oops", "Kernel panic", "WARNING: CPU", "rcu_preempt detected stalls")
INSTALL_TO = "/srv/vm"
UNIT = f"""\
[Unit]
Description=Checks of boesfsd on this kernel
After=boesfsd.service
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
Type=oneshot
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -u {INSTALL_TO}/checks.py /dev/ttyS1
TimeoutStartSec={GUEST_DEADLINE}
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
"""
# A function's start takes ten times as long as on hardware.
SLOW = "[boesfsd]\ninit-timeout = 60\n"
# What has nothing to do with functions, and would take its share of the time.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "getty.target"),
    *("systemd-logind.service", "systemd-pstore.service", "e2scrub_reap.service", "e2scrub_all.timer"),
    *("systemd-random-seed.service", "systemd-hwdb-update.service", "systemd-binfmt.service"),
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-modules-load.service"),
    *("systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
)


@dataclass
class Report:
    """What a run left: the checks' results by name, the console, and the journal of boesfsd and its functions."""

    results: dict[str, tuple[bool, str]] = field(default_factory=dict)
    console: str = ""
    journal: str = ""
    seconds: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Lines of the console in which the kernel complains. Its report of an OOM kill has a call trace too."""
        lines = self.console.splitlines()
        found = [line for line in lines if any(word in line for word in BROKEN)]
        for number, line in enumerate(lines):
            if "Call Trace" in line and not any("invoked oom-killer" in before for before in lines[:number][-10:]):
                found.append(line)
        return found


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


def build_image() -> None:
    """build/root and the checks as an ext4 image; build/root is not written to."""
    for part in ("upper", "work", "root"):
        shutil.rmtree(DIRECTORY / part, ignore_errors=True)
        (DIRECTORY / part).mkdir(parents=True)
    root = DIRECTORY / "root"
    options = f"lowerdir={ROOT},upperdir={DIRECTORY}/upper,workdir={DIRECTORY}/work"
    subprocess.run(["mount", "-t", "overlay", "boesfs-vm", "-o", options, str(root)], check=True)
    try:
        _furnish(root)
        IMAGE.unlink(missing_ok=True)
        with IMAGE.open("wb") as image:
            image.truncate(1 << 30)
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", str(root), str(IMAGE)]
        subprocess.run(command, check=True, env=environment)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def _furnish(root: Path) -> None:
    place = root / INSTALL_TO.lstrip("/")
    place.mkdir(parents=True)
    for file in (CHECKS, APPLIANCE / "lab.py", APPLIANCE / "machine.py", APPLIANCE / "bus_client.py"):
        shutil.copy2(file, place)
    units = root / "etc/systemd/system"
    (units / "boesfs-checks.service").write_text(UNIT)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in ("boesfs-checks.service", "boesfsd.service"):
        (wants / unit).unlink(missing_ok=True)
        home = "/etc" if unit == "boesfs-checks.service" else "/usr/lib"
        (wants / unit).symlink_to(f"{home}/systemd/system/{unit}")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc/boesfsd/conf.d/50-vm.conf").write_text(SLOW)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/fstab").write_text("")


def run() -> Report:
    """Build what is missing, boot, and wait until the guest is off."""
    build_root()
    install()
    build_tools()
    build_image()
    console, results = DIRECTORY / "console.log", DIRECTORY / "results.log"
    for file in (console, results):
        file.unlink(missing_ok=True)
    append = "root=/dev/nvme0n1 rootwait rw console=ttyS0 panic=1 oops=panic systemd.show_status=0"
    seconds = power_on(DIRECTORY, IMAGE, next(TOOLS.glob("boot/vmlinuz-*")), append, DEADLINE)
    report = Report(seconds=seconds, console=text_of(console))
    for line in text_of(results).splitlines():
        word, _, rest = line.partition(" ")
        if word == "RESULT":
            said = json.loads(rest)
            report.results[said["name"]] = (said["ok"], said["detail"])
        elif word == "JOURNAL":
            report.journal += json.loads(rest) + "\n"
    (DIRECTORY / "journal.log").write_text(report.journal)
    IMAGE.unlink()
    return report


def text_of(file: Path) -> str:
    """A log's text; none if it is not there."""
    return file.read_text(errors="replace") if file.exists() else ""
