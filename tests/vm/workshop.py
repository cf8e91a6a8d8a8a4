# SPDX-License-Identifier: Apache-2.0
"""Where the kernel module is built, and the small machines that test it. The workshop is a Debian 13 root with the
headers of its kernel and of the newest one in backports; a guest is another, without systemd, that runs test functions
from its init and switches itself off. Both are made once, by the list of what is in them."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import BUILD, SUITE, TOP, mirror
from vm import build_tools, qemu

KERNEL = TOP / "tests/vm/kernel"
KMOD = TOP / "kmod"
PLACE = BUILD / "kernel"
WORKSHOP = PLACE / "workshop"
NEWEST = PLACE / "newest"
GUEST = PLACE / "guest"
FLAVOUR = "cloud-amd64"  # ext4 and NVMe are built in: no initrd
WORKSHOP_PACKAGES = (
    *(f"linux-headers-{FLAVOUR}", f"linux-image-{FLAVOUR}", "gcc", "make", "libc6-dev", "clang", "llvm", "bpftool"),
    *("libbpf-dev", "libelf-dev", "zlib1g-dev", "sparse", "binutils"),
)
GUEST_PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "libbpf1", "libelf1t64", "attr", "acl", "util-linux", "mount", "kmod"),
    *("e2fsprogs", "procps", "strace", "stress-ng", "fio", "apparmor"),
)
BROKEN = ("BUG:", "WARNING:", "Oops", "Call Trace", "refcount", "KFENCE", "Kernel panic", "detected stalls")
IMAGE_SIZE = 6 << 30  # sparse; the tests work on the root's ext4
DEADLINE = 900.0  # seconds for one machine


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


def _digest(*things: object) -> str:
    digest = hashlib.sha256()
    for thing in things:
        if isinstance(thing, Path):
            for file in sorted(p for p in thing.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
                digest.update(f"{file.relative_to(thing)} {file.stat().st_mode & 0o111}\n".encode() + file.read_bytes())
        else:
            digest.update(str(thing).encode() + b"\0")
    return digest.hexdigest()


def _fresh(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


def inside(root: Path, *command: str) -> str:
    """A command in ROOT, which has a /proc of its own meanwhile; its output. CalledProcessError shows it."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, str(root), *command]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build_workshop() -> None:
    """Debian 13 with compilers, and headers of both kernels."""
    wanted = _digest(SUITE, "with the newest image", *WORKSHOP_PACKAGES)
    stamp = PLACE / "workshop.stamp"
    if _fresh(stamp, wanted):
        return
    for place in (WORKSHOP, NEWEST):
        shutil.rmtree(place, ignore_errors=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--include=" + ",".join(WORKSHOP_PACKAGES)]
    subprocess.run([*command, SUITE, str(WORKSHOP), mirror()], check=True)
    # two packages of one name are not installed together: those of backports are laid beside
    newest = f"--include=linux-headers-{FLAVOUR},linux-image-{FLAVOUR}"
    command = ["mmdebstrap", "--quiet", "--variant=extract", newest]
    command.append(f'--aptopt=APT::Default-Release "{SUITE}-backports"')
    sources = [f"deb {mirror()} {suite} main" for suite in (SUITE, f"{SUITE}-backports")]
    subprocess.run([*command, SUITE, str(NEWEST), *sources], check=True)
    for pattern in ("usr/src/linux-*", "usr/lib/linux-kbuild-*", "usr/lib/modules/*"):
        for path in NEWEST.glob(pattern):
            path.rename(WORKSHOP / path.relative_to(NEWEST))
    shutil.rmtree(NEWEST)
    stamp.write_text(wanted)


def releases() -> list[str]:
    """The kernels that the workshop has headers of; Debian 13's own first."""
    return sorted(path.name for path in (WORKSHOP / "usr/lib/modules").iterdir() if (path / "build").exists())


def build_module(release: str, source: Path = KMOD, *make: str) -> Path:
    """boesfs.ko for a kernel. A warning is an error."""
    build_workshop()
    wanted = _digest(source, release, *make)
    place = WORKSHOP / "src" / f"kmod-{wanted[:16]}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.o", "*.ko", ".*"))
        words = ["make", "-s", "-C", f"/lib/modules/{release}/build", f"M=/src/{place.name}", *make, "modules"]
        said = inside(WORKSHOP, *words)
        if "warning:" in said or not (place / "boesfs.ko").exists():
            raise SystemExit(f"kmod on {release}:\n{said}")
        (place / "done").touch()
    return place / "boesfs.ko"


def build_policy() -> Path:
    """The tests' programs, loader and tools."""
    build_workshop()
    wanted = _digest(KERNEL / "policy", (KMOD / "boesfs_abi.h").read_text(), (KERNEL / "fsbench.c").read_text())
    place = WORKSHOP / "src" / f"policy-{wanted[:16]}"
    if (place / "done").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(KERNEL / "policy", place)
    shutil.copy2(KMOD / "boesfs_abi.h", place)
    shutil.copy2(KERNEL / "fsbench.c", place / "tool_fsbench.c")
    script = f"""
set -e
cd /src/{place.name}
bpftool btf dump file /usr/src/linux-headers-{releases()[0]}/vmlinux format c > vmlinux.h
for file in *.bpf.c; do
    clang -O2 -g -target bpf -Wall -D__TARGET_ARCH_x86 -I. -c $file -o ${{file%.c}}.o
done
gcc -O2 -Wall -Werror -Wno-stringop-truncation -I. -o loader loader.c -lbpf
for file in tool_*.c; do
    gcc -O2 -Wall -Werror -static -o ${{file%.c}} $file
done
"""
    inside(WORKSHOP, "sh", "-c", script)
    (place / "done").touch()
    return place


def build_guest() -> None:
    """What a test machine boots, but for the tests."""
    wanted = _digest(SUITE, *GUEST_PACKAGES)
    stamp = PLACE / "guest.stamp"
    if _fresh(stamp, wanted):
        return
    shutil.rmtree(GUEST, ignore_errors=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=" + ",".join(GUEST_PACKAGES)]
    subprocess.run([*command, SUITE, str(GUEST), mirror()], check=True)
    for name in ("usr/share/doc", "usr/share/locale", "var/lib/apt", "var/cache/apt", "usr/share/man"):
        shutil.rmtree(GUEST / name, ignore_errors=True)
    for name in ("t", "scratch"):
        (GUEST / name).mkdir()
    stamp.write_text(wanted)


def build() -> Path:
    """All that a machine needs; the module of Debian 13's own kernel. One process at a time builds."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_tools()
        build_workshop()
        build_guest()
        build_policy()
        return build_module(releases()[0])


def vmlinuz(release: str) -> Path:
    """The kernel to boot, where either generation of the package has it."""
    beside = WORKSHOP / f"usr/lib/modules/{release}/vmlinuz"
    return beside if beside.exists() else WORKSHOP / f"boot/vmlinuz-{release}"


def _image(place: Path, names: Sequence[str], modules: dict[str, Path], release: str) -> Path:
    """The guest with tests and modules as an ext4 image. The guest's root is not written to."""
    tests = place / "t"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(KERNEL / "guest", tests, ignore=shutil.ignore_patterns("__pycache__"))
    policy = build_policy()
    for file in (*policy.glob("*.bpf.o"), *policy.glob("tool_*"), policy / "loader", KMOD / "boesfs_abi.h"):
        if file.suffix != ".c":
            shutil.copy2(file, tests / file.name.removeprefix("tool_"))
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
    kernel_modules = place / "upper/usr/lib/modules"
    kernel_modules.mkdir(parents=True)
    shutil.copytree(WORKSHOP / "usr/lib/modules" / release, kernel_modules / release, symlinks=True)
    options = f"lowerdir={GUEST},upperdir={overlay[0]},workdir={overlay[1]}"
    script = (
        f'mount -t overlay boesfs-guest -o {options} "$0" && PATH=$PATH:/usr/sbin:/sbin '
        f'mke2fs -q -F -t ext4 -O verity -E lazy_itable_init=1 -d "$0" {image}'
    )
    subprocess.run(["unshare", "--mount", "sh", "-c", script, str(overlay[2])], check=True)
    for path in overlay:
        shutil.rmtree(path)
    return image


def tree() -> Path:
    """A part of the kernel's tree as an archive: what the headers' package has of include/linux."""
    file = PLACE / "tree.tar"
    if not file.exists():
        source = next((WORKSHOP / "usr/src").glob("linux-headers-6*-common"))
        subprocess.run(["tar", "-C", str(source / "include"), "-cf", str(file), "linux"], check=True)
    return file


def boot(name: str, tests: Sequence[str], modules: dict[str, Path], *, release: str = "", icount: bool = False) -> Run:
    """Run tests (MODULE.FUNCTION) in a machine of their own; MODULES are files that come along, by name. RELEASE is the
    kernel's, Debian 13's own if not said. With ICOUNT the clock counts instructions."""
    release = release or releases()[0]
    place = PLACE / "machines" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    image = _image(place, tests, modules, release)
    console, results = place / "console.log", place / "results.log"
    if icount:
        pace = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
    else:
        pace = ["-accel", "tcg,thread=multi", "-smp", "2"]
    # ext4's initialising of inode tables in the background would be measured too
    append = "root=/dev/nvme0n1 rw rootflags=noinit_itable init=/t/init console=ttyS0 panic=1 oops=panic nokaslr"
    append += " quiet loglevel=5"
    command = [
        *qemu(), *pace, "-cpu", "max", "-m", "2G",
        "-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot",
        "-serial", f"file:{console}", "-serial", f"file:{results}",
        "-drive", f"file={image},if=none,id=disk,format=raw,cache=unsafe", "-device", "nvme,drive=disk,serial=boesfs",
        "-kernel", str(vmlinuz(release)), "-append", append,
    ]  # fmt: skip
    begun = time.monotonic()
    with (place / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    run = Run(seconds=time.monotonic() - begun)
    run.console = console.read_text(errors="replace") if console.exists() else (place / "qemu.log").read_text()
    for line in results.read_text(errors="replace").splitlines() if results.exists() else ():
        if line.startswith("RESULT "):
            said = json.loads(line.removeprefix("RESULT "))
            run.results[said["name"]] = said
    image.unlink()
    return run


def boot_all(groups: dict[str, Sequence[str]], newest: Sequence[str] = ()) -> dict[str, Run]:
    """Machines beside each other, as many as there are CPUs; the one named `newest` has the newest kernel."""
    build()
    modules = {release: {"boesfs.ko": build_module(release)} for release in releases()}
    own, last = releases()[0], releases()[-1]
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        runs = {name: pool.submit(boot, name, tests, modules[own]) for name, tests in groups.items()}
        if newest:
            runs["newest"] = pool.submit(boot, "newest", newest, modules[last], release=last)
        return {name: run.result() for name, run in runs.items()}
