# SPDX-License-Identifier: Apache-2.0
"""A Debian 13 kernel of its own for the appliance's root, with boesfsd and BoesFS in it as their packages and DKMS put
them there. A unit in there makes the checks and reports."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from machine import BUILD, ROOT, TOP, build_root, take_out
from qemu import power_on, text_of
from workshop import WORKSHOP, build, build_examples, inside, kernels

sys.path.insert(0, str(TOP / "packaging"))
from packages import build_deb, in_layers

IMAGE = BUILD / "vm.ext4"
DIRECTORY = BUILD / "vm"
APPLIANCE = TOP / "tests/appliance"
HERE = Path(__file__).parent
WORDS = ("lab.py", "machine.py", "tour.py", "bus_client.py", "../punctual.py")
CHECKS = (
    "checks.py",
    "bench.py",
    "limits_checks.py",
    "policy_checks.py",
    "learn_checks.py",
    "run_checks.py",
    "promise.py",
    "promise_checks.py",
    "uninstall_checks.py",
)
DEADLINE = 1800.0  # seconds from power-on until it is killed
GUEST_DEADLINE = 1770  # seconds for the checks: the guest says itself that they took too long
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
ExecStart=/usr/bin/python3 -u {INSTALL_TO}/%s /dev/ttyS1
TimeoutStartSec={GUEST_DEADLINE}
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
"""
# A function's start takes ten times as long as on hardware.
SETTINGS = "[boesfsd]\ninit-timeout = 60\nenforcement = boesfs\n"
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


def build_image(debs: Path, module: Path, program: str, *, installed: bool) -> None:
    """build/root with the packages, which are INSTALLED or lie in /srv/deb, the kernel module and what is to be run, as
    an ext4 image; build/root is not written to."""
    for part in ("upper", "work", "root"):
        shutil.rmtree(DIRECTORY / part, ignore_errors=True)
        (DIRECTORY / part).mkdir(parents=True)
    root = DIRECTORY / "root"
    options = f"lowerdir={ROOT},upperdir={DIRECTORY}/upper,workdir={DIRECTORY}/work"
    subprocess.run(["mount", "-t", "overlay", "boesfs-vm", "-o", options, str(root)], check=True)
    try:
        _install(root, debs, installed=installed)
        _furnish(root, program)
        _add_module(root, module)
        IMAGE.unlink(missing_ok=True)
        with IMAGE.open("wb") as image:
            image.truncate(1 << 30)
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", str(root), str(IMAGE)]
        subprocess.run(command, check=True, env=environment)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def _install(root: Path, debs: Path, *, installed: bool) -> None:
    """In place of what `make install` has put there."""
    take_out(root)
    place = root / "srv/deb"
    shutil.copytree(debs, place)
    if installed:
        inside(root, "dpkg", "--install", *(f"/srv/deb/{file.name}" for file in packages_in(place)))
        shutil.rmtree(place)


def packages_in(place: Path) -> list[Path]:
    """Those that need no kernel headers."""
    return [file for name in ("boesfsd", "boesfs-runtime-python") for file in place.glob(f"{name}_*.deb")]


def build_dkms_module(debs: Path) -> Path:
    """As DKMS makes it of the package: signed and compressed."""
    layer, upper = DIRECTORY / "dkms", DIRECTORY / "dkms-done"
    shutil.rmtree(layer, ignore_errors=True)
    shutil.copytree(debs, layer / "deb")
    release = kernels()[0].release
    script = f"""
cd /deb
dpkg --unpack boesfs-dkms_*.deb
dkms install boesfs/$(ls /usr/src | sed -n 's/^boesfs-//p') -k {release}
"""
    in_layers([layer, WORKSHOP], upper, script)
    return upper / "usr/lib/modules" / release / "updates/dkms/boesfs.ko.xz"


def _furnish(root: Path, program: str) -> None:
    place = root / INSTALL_TO.lstrip("/")
    place.mkdir(parents=True)
    examples = sorted(build_examples().glob("*.bpf.o"))
    for file in (*(HERE / name for name in CHECKS), *(APPLIANCE / name for name in WORDS), *examples):
        shutil.copy2(file, place)
    units = root / "etc/systemd/system"
    (units / "boesfs-checks.service").write_text(UNIT % program)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in ("boesfs-checks.service", "boesfsd.service"):
        (wants / unit).unlink(missing_ok=True)
        home = "/etc" if unit == "boesfs-checks.service" else "/usr/lib"
        (wants / unit).symlink_to(f"{home}/systemd/system/{unit}")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc/boesfsd/conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/boesfsd/conf.d/50-vm.conf").write_text(SETTINGS)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/fstab").write_text("")


def _add_module(root: Path, module: Path) -> None:
    """Where DKMS would have it; there are no others."""
    modules = root / "usr/lib/modules" / kernels()[0].release
    (modules / "updates/dkms").mkdir(parents=True)
    shutil.copy2(module, modules / "updates/dkms")
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (modules / name).touch()
    subprocess.run(["chroot", str(root), "depmod", kernels()[0].release], check=True)


def run(program: str = "checks.py", *, installed: bool = True) -> Report:
    """Build what is missing, boot, and wait until the guest has run PROGRAM and is off. Without INSTALLED it finds the
    packages in /srv/deb."""
    build_root()
    build()
    debs = build_deb()
    build_image(debs, build_dkms_module(debs), program, installed=installed)
    console, results = DIRECTORY / "console.log", DIRECTORY / "results.log"
    for file in (console, results):
        file.unlink(missing_ok=True)
    append = "root=/dev/nvme0n1 rootwait rw console=ttyS0 panic=1 oops=panic systemd.show_status=0"
    seconds = power_on(DIRECTORY, IMAGE, kernels()[0].image, append, DEADLINE)
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
