# SPDX-License-Identifier: Apache-2.0
"""What the kernel module and its tests are built with, each a Debian 13 root under build/kernel that is made once, by
the list of what is in it: the workshop with compilers and the headers of two kernels, the guest that the test machines
boot, and, for the long tests only, the builder, which has the kernel's source too and makes a kernel for debugging."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machine import BUILD, SUITE, TOP, mirror
from qemu import build_tools

KERNEL = TOP / "tests/vm/kernel"
KMOD = TOP / "kmod"
BPF = TOP / "bpf"
PLACE = BUILD / "kernel"
WORKSHOP = PLACE / "workshop"
NEWEST = PLACE / "newest"
GUEST = PLACE / "guest"
BUILDER = PLACE / "builder"
DEBUG_CONFIG = KERNEL / "debug.config"
SOURCE, DEBUG_TREE, SMALLEST = "/usr/src/linux", "/usr/src/debug", "/usr/src/smallest"  # in the builder
FLAVOUR = "cloud-amd64"  # ext4 and NVMe are built in: no initrd
WORKSHOP_PACKAGES = (
    *(f"linux-headers-{FLAVOUR}", f"linux-image-{FLAVOUR}", "gcc", "make", "libc6-dev", "clang", "llvm", "bpftool"),
    *("libbpf-dev", "libelf-dev", "zlib1g-dev", "sparse", "binutils", "dkms", "kmod", "python3-cffi", "python3-dev"),
    # what packages are built with, and looked at with
    *("build-essential", "debhelper", "dh-dkms", "dh-python", "libseccomp-dev", "po-debconf", "python3-pbr"),
    *("python3-pip", "python3-setuptools", "python3-shtab", "python3-wheel", "lintian", "rpm", "rpmlint"),
    *("python3-httptools", "python3-jsonschema", "python3-pystemd", "python3-yaml", "python3-dbus-next"),
)
GUEST_PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "libbpf1", "libelf1t64", "attr", "acl", "util-linux", "mount", "kmod"),
    *("e2fsprogs", "xfsprogs", "procps", "strace", "stress-ng", "fio", "apparmor", "python3-cffi-backend"),
)
BUILDER_PACKAGES = (
    *GUEST_PACKAGES,
    *(
        "linux-source",
        "gcc",
        "make",
        "libc6-dev",
        "bc",
        "flex",
        "bison",
        "perl-base",
        "libelf-dev",
        "libssl-dev",
        "pahole",
    ),
    *("xz-utils", "python3", "cargo", "ca-certificates"),
)
KEPT = 300  # builds of the module, those used last; `make mutate` wants some 160 of them
FSX = "fsx@0.3.0"  # the file system exerciser, as a crate


@dataclass(frozen=True)
class Kernel:
    """One that the module is built for: its release, the root and the tree in there to build by, and what to boot."""

    release: str
    root: Path
    tree: str
    image: Path
    modules: Path
    """Its own modules."""

    @property
    def debug(self) -> bool:
        """Whether it checks itself."""
        return self.root == BUILDER


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


def inside(root: Path, *command: str, module: Path | None = None) -> str:
    """A command in ROOT, which has a /proc of its own meanwhile, and MODULE at /src/module; its output. SystemExit
    shows it if it fails."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    if module:
        (root / "src/module").mkdir(parents=True, exist_ok=True)
        script = f'mount --bind {module} "$0/src/module" && {script}'
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


def kernels() -> list[Kernel]:
    """The two that the workshop has headers of; Debian 13's own first."""
    found = []
    for modules in sorted((WORKSHOP / "usr/lib/modules").iterdir()):
        if (modules / "build").exists():
            beside = modules / "vmlinuz"  # either generation of the package has it in a place of its own
            image = beside if beside.exists() else WORKSHOP / f"boot/vmlinuz-{modules.name}"
            found.append(Kernel(modules.name, WORKSHOP, f"/lib/modules/{modules.name}/build", image, modules))
    return found


def build_builder() -> None:
    """Debian 13 with the source of its kernel, what that is built with, and fsx. It can be booted as a guest too."""
    wanted = _digest(SUITE, FSX, *BUILDER_PACKAGES)
    stamp = PLACE / "builder.stamp"
    if _fresh(stamp, wanted):
        return
    print("Making the builder, with the kernel's source", flush=True)
    shutil.rmtree(BUILDER, ignore_errors=True)
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--include=" + ",".join(BUILDER_PACKAGES)]
    subprocess.run([*command, SUITE, str(BUILDER), mirror()], check=True)
    (archive,) = (BUILDER / "usr/src").glob("linux-source-*.tar.xz")
    inside(
        BUILDER, "sh", "-c", f"cd /usr/src && tar -xf {archive.name} && rm {archive.name} && mv linux-source-* linux"
    )
    for name in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copyfile(f"/{name}", BUILDER / name)
    inside(BUILDER, "cargo", "install", "--quiet", "--locked", "--root", "/usr/local", FSX)
    for name in ("root/.cargo", "var/lib/apt", "var/cache/apt", "usr/share/doc"):
        shutil.rmtree(BUILDER / name, ignore_errors=True)
    for name in ("t", "scratch"):
        (BUILDER / name).mkdir()
    stamp.write_text(wanted)


def build_debug_kernel() -> Kernel:
    """Debian's source with KASAN, lockdep, kmemleak, fault injection; SystemExit names an option that is not taken."""
    build_builder()
    tree = BUILDER / DEBUG_TREE.lstrip("/")
    stamp = PLACE / "debug.stamp"
    options = re.findall(r"^CONFIG_.*", DEBUG_CONFIG.read_text(), re.MULTILINE)
    wanted = _digest((PLACE / "builder.stamp").read_text(), *options)
    make = ("make", "-s", "-C", SOURCE, f"O={DEBUG_TREE}", f"-j{os.cpu_count()}")
    if not _fresh(stamp, wanted):
        print("Building the kernel for debugging; this takes a while", flush=True)
        for place in (tree, BUILDER / "src"):  # and the modules for what was there before
            shutil.rmtree(place, ignore_errors=True)
        tree.mkdir()
        (tree / "wanted").write_text("\n".join(options) + "\n")
        inside(BUILDER, *make, f"KCONFIG_ALLCONFIG={DEBUG_TREE}/wanted", "allnoconfig")
        taken = (tree / ".config").read_text().splitlines()
        if missing := [option for option in options if option not in taken]:
            raise SystemExit(f"{DEBUG_CONFIG}: not taken, for want of what they depend on: {', '.join(missing)}")
        inside(BUILDER, *make, "bzImage", "modules")
        stamp.write_text(wanted)
    release = (tree / "include/config/kernel.release").read_text().strip()
    return Kernel(release, BUILDER, DEBUG_TREE, tree / "arch/x86/boot/bzImage", tree / "no-modules")


def prepare_smallest_kernel() -> None:
    """Linux's smallest configuration up to where the kernel's own files are compiled: tests/bench/vm.py does that."""
    build_builder()
    tree = BUILDER / SMALLEST.lstrip("/")
    stamp = PLACE / "smallest.stamp"
    wanted = _digest((PLACE / "builder.stamp").read_text())
    if _fresh(stamp, wanted):
        return
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for target in ("tinyconfig", "prepare"):
        inside(BUILDER, "make", "-s", "-C", SOURCE, f"O={SMALLEST}", target)
    stamp.write_text(wanted)


def _forget(builds: Path) -> None:
    """Those of the module that nobody has used for long."""
    with contextlib.suppress(FileNotFoundError):  # another thread forgets as well
        for done in sorted(builds.glob("kmod-*/done"), key=lambda done: done.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(done.parent)


def build_module(kernel: Kernel, source: Path = KMOD, *make: str, like: Path | None = None) -> Path:
    """boesfs.ko for a kernel. A warning is an error. LIKE is one that was made so from nearly the same source."""
    build_workshop()
    wanted = _digest(source, kernel.release, *make)
    place = kernel.root / "src" / f"kmod-{wanted[:16]}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        if like:  # what is not newer is not made again, since all are made at the same place
            shutil.copytree(like.parent, place)
            (place / "done").unlink()
            for file in source.iterdir():
                if file.read_bytes() != (place / file.name).read_bytes():
                    shutil.copy(file, place)
        else:
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.o", "*.ko", ".*"))
        said = inside(kernel.root, "make", "-s", "-C", kernel.tree, "M=/src/module", *make, "modules", module=place)
        if "warning:" in said or not (place / "boesfs.ko").exists():
            raise SystemExit(f"kmod on {kernel.release}:\n{said}")
        _forget(place.parent)
    (place / "done").touch()  # made, or used again
    return place / "boesfs.ko"


def build_policy() -> Path:
    """The tests' programs, loader and tools."""
    build_workshop()
    used = (KMOD / "boesfs_abi.h", BPF / "boesfs.bpf.h")
    wanted = _digest(KERNEL / "policy", *(file.read_text() for file in used), (KERNEL / "fsbench.c").read_text())
    place = WORKSHOP / "src" / f"policy-{wanted[:16]}"
    if (place / "done").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(KERNEL / "policy", place)
    for file in used:
        shutil.copy2(file, place)
    shutil.copy2(KERNEL / "fsbench.c", place / "tool_fsbench.c")
    script = f"""
set -e
cd /src/{place.name}
bpftool btf dump file /usr/src/linux-headers-{kernels()[0].release}/vmlinux format c > vmlinux.h
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


def build_bpf() -> Path:
    """The product's policy program, and boesfsd's way to libbpf."""
    build_workshop()
    abi = KMOD / "boesfs_abi.h"
    wanted = _digest(BPF, abi.read_text())
    place = WORKSHOP / "src" / f"bpf-{wanted[:16]}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(BPF, place)
        shutil.copy2(abi, place)
        vmlinux = f"/usr/src/linux-headers-{kernels()[0].release}/vmlinux"
        inside(WORKSHOP, "make", "-s", "-C", f"/src/{place.name}", "ABI=.", f"VMLINUX={vmlinux}")
        (place / "done").touch()
    return place


def build_examples() -> Path:
    """The program of docs/programs.md, by its own commands; and for the checks one with another limit, one that the
    verifier refuses, one with a name of its own, and one that is none."""
    build_workshop()
    text = (TOP / "docs/programs.md").read_text()
    commands = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[0].split("boesfsctl ")[0]
    headers, example = (KMOD / "boesfs_abi.h", BPF / "boesfs.bpf.h"), TOP / "examples/programs/quota.bpf.c"
    wanted = _digest(TOP / "examples/programs", commands, *(file.read_text() for file in headers))
    place = WORKSHOP / "src" / f"examples-{wanted[:16]}"
    if (place / "done").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    source = example.read_text()
    (place / "quota.bpf.c").write_text(source)
    (place / "small.bpf.c").write_text("#define MOST 4096\n" + source)
    (place / "wild.bpf.c").write_text(source.replace("if (!sum || ", "if ("))
    (place / "other.bpf.c").write_text(source.replace(".flags = ", '.name = "other", .flags = '))
    (place / "none.bpf.c").write_text("int nothing;\n")
    shutil.rmtree(WORKSHOP / "usr/include/boesfs", ignore_errors=True)
    (WORKSHOP / "usr/include/boesfs").mkdir()
    for file in headers:
        shutil.copy2(file, WORKSHOP / "usr/include/boesfs")
    vmlinux = f"/usr/src/linux-headers-{kernels()[0].release}/vmlinux"
    dump, compiling = commands.replace("/sys/kernel/btf/vmlinux", vmlinux).strip().splitlines()
    names = sorted(file.name.removesuffix(".bpf.c") for file in place.glob("*.bpf.c"))
    script = [f"cd /src/{place.name}", dump, *(compiling.replace("quota", name) for name in names)]
    inside(WORKSHOP, "sh", "-ec", "\n".join(script))
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
    """All that the short tests' machines need; the module of Debian 13's own kernel. One process at a time builds."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_tools()
        build_workshop()
        build_guest()
        build_policy()
        build_bpf()
        return build_module(kernels()[0])


def tree() -> Path:
    """A part of the kernel's tree as an archive: what the headers' package has of include/linux."""
    file = PLACE / "tree.tar"
    if not file.exists():
        source = next((WORKSHOP / "usr/src").glob("linux-headers-6*-common"))
        subprocess.run(["tar", "-C", str(source / "include"), "-cf", str(file), "linux"], check=True)
    return file
