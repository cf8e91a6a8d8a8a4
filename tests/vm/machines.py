# SPDX-License-Identifier: Apache-2.0
"""The small machines that test the kernel module: an image, a boot, what became of it. The guest has no systemd; it
runs test functions from its init and switches itself off."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import TOP
from qemu import power_on, text_of
from workshop import GUEST, KERNEL, KMOD, PLACE, Kernel, build_bpf, build_module, build_policy, kernels

BROKEN = (
    *("BUG:", "WARNING:", "Oops", "Call Trace", "refcount", "KFENCE", "Kernel panic", "detected stalls"),
    *("unreferenced object", "lockdep is off"),
)
# Under load QEMU loses a second CPU's timer once in some hundred boots, before anything of ours is there.
BEGUN, BOOTS = "the tests begin", 3
IMAGE_SIZE = 12 << 30  # sparse; the tests work on the root's ext4


@dataclass
class Run:
    """What a machine left: results by test, and its console."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    console: str = ""
    seconds: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Lines in which the kernel complains."""
        return [line for line in self.console.splitlines() if any(word in line for word in BROKEN)]


def _pack(archive: Path) -> None:
    """What tests need of boesfsd, and the random policies of the unit tests, where Python can import it from."""
    with zipfile.ZipFile(archive, "w") as out:
        for name in ("__init__.py", "errors.py", "model.py", "config.py", "kernel.py"):
            out.write(TOP / "boesfsd" / name, f"boesfsd/{name}")
        for file in (TOP / "boesfsd/policy").glob("*.py"):
            out.write(file, f"boesfsd/policy/{file.name}")
        out.write(TOP / "tests/unit/policies.py", "policies.py")


def _image(place: Path, names: Sequence[str], modules: dict[str, Path], kernel: Kernel, root: Path) -> Path:
    """The guest with tests and modules as an ext4 image. The guest's root is not written to."""
    tests = place / "t"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(KERNEL / "guest", tests, ignore=shutil.ignore_patterns("__pycache__"))
    policy = build_policy()
    for file in (*policy.glob("*.bpf.o"), *policy.glob("tool_*"), policy / "loader", KMOD / "boesfs_abi.h"):
        if file.suffix != ".c":
            shutil.copy2(file, tests / file.name.removeprefix("tool_"))
    for name in ("boesfs_policy.bpf.o", "_boesfs_bpf.abi3.so"):
        shutil.copy2(build_bpf() / name, tests)
    _pack(tests / "boesfsd.zip")
    for name, file in modules.items():
        shutil.copy2(file, tests / name)
        if name.endswith(".ko"):
            subprocess.run(["strip", "-g", str(tests / name)], check=True)
    without = ["objcopy", "--remove-section", ".BTF", "--remove-section", ".BTF.base"]
    subprocess.run([*without, str(tests / "boesfs.ko"), str(tests / "no-btf.ko")], check=True)
    (tests / "names").write_text(" ".join(names))
    image = place / "root.ext4"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(IMAGE_SIZE)
    overlay = [place / "upper", place / "work", place / "root"]
    for path in overlay:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    shutil.copytree(tests, place / "upper/t")
    if kernel.modules.exists():
        shutil.copytree(kernel.modules, place / "upper/usr/lib/modules" / kernel.release, symlinks=True)
    options = f"lowerdir={root},upperdir={overlay[0]},workdir={overlay[1]}"
    script = (
        f'mount -t overlay boesfs-guest -o {options} "$0" && PATH=$PATH:/usr/sbin:/sbin '
        f'mke2fs -q -F -t ext4 -O verity -E lazy_itable_init=1 -d "$0" {image}'
    )
    subprocess.run(["unshare", "--mount", "sh", "-c", script, str(overlay[2])], check=True)
    for path in overlay:
        shutil.rmtree(path)
    return image


def boot(
    name: str,
    tests: Sequence[str],
    modules: dict[str, Path],
    *,
    kernel: Kernel | None = None,
    root: Path = GUEST,
    icount: bool = False,
    deadline: float = 900,
    memory: str = "",
) -> Run:
    """Run tests (MODULE.FUNCTION) in a machine of their own; MODULES are files that come along, by name. KERNEL is
    Debian 13's own if not said. With ICOUNT the clock counts instructions. DEADLINE is in seconds, MEMORY as QEMU
    takes it."""
    kernel = kernel or kernels()[0]
    place = PLACE / "machines" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    image = _image(place, tests, modules, kernel, root)
    # ext4's initialising of inode tables in the background would be measured too
    append = "root=/dev/nvme0n1 rw rootflags=noinit_itable init=/t/init console=ttyS0 panic=1 oops=panic nokaslr"
    append += f" quiet loglevel=5 BOESFS_SCALE={os.environ.get('BOESFS_SCALE', '1')}"
    memory = memory or ("3G" if kernel.debug else "2G")
    run = Run()
    for _ in range(BOOTS):
        run.seconds = power_on(place, image, kernel.image, append, deadline, icount=icount, memory=memory, sign=BEGUN)
        run.console = text_of(place / "console.log")
        if BEGUN in run.console:
            break
        print(f"vm: {name} did not come to its tests, see {place}/console.log", file=sys.stderr)
    for line in text_of(place / "results.log").splitlines():
        if line.startswith("RESULT "):
            said = json.loads(line.removeprefix("RESULT "))
            run.results[said["name"]] = said
    image.unlink()
    return run


def boot_all(
    groups: dict[str, Sequence[str]], on: Callable[[str], Kernel], extra: dict[str, Path], deadline: float = 900
) -> dict[str, Run]:
    """A machine for each group of tests, as many at a time as there are CPUs, with the kernel that ON names for it."""
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        runs = {}
        for name, tests in groups.items():
            kernel = on(name)
            files = {"boesfs.ko": build_module(kernel), **extra}
            runs[name] = pool.submit(boot, name, tests, files, kernel=kernel, deadline=deadline)
        return {name: run.result() for name, run in runs.items()}
