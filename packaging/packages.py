# SPDX-License-Identifier: Apache-2.0
"""Builds the packages: `packages.py deb` leaves them, and their source, in build/deb.

They are built in a clean Debian 13 chroot, which has what Build-Depends names and nothing else, without a network, by a
user without rights. The function development kit, which Debian has not, is fetched before by pip, as its hash says, and
is a tarball of its own of the source package.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests/vm"), str(TOP / "tests/appliance")]
from machine import BUILD  # noqa: E402
from workshop import PLACE, WORKSHOP, build_workshop  # noqa: E402

DEBIAN = TOP / "packaging/debian"
SOURCES = TOP / "packaging/sources.txt"
CLEAN = BUILD / "packages"
DEBS, RPMS = BUILD / "deb", BUILD / "rpm"
SPEC = TOP / "packaging/rpm"
# What a release is made of.
SOURCE = (
    *("LICENSES", "Makefile", "README.md", "agent", "boesfsd", "bpf", "docs", "etc", "examples", "kmod", "packaging"),
    *("pyproject.toml", "tests", "units"),
)
BUILDER = "1000"  # a user without rights


def version() -> tuple[str, str, str]:
    """That of the package, the same without Debian's part, and the time of its changelog's entry, in seconds."""
    command = ["dpkg-parsechangelog", "-l", str(DEBIAN / "changelog"), "-S"]
    said, when = (
        subprocess.run([*command, field], check=True, capture_output=True, text=True).stdout.strip()
        for field in ("Version", "Timestamp")
    )
    return said, said.rpartition("-")[0], when


def fetched(name: str) -> Path:
    """The source of what Debian, or Fedora, does not have, from PyPI; pip compares it with its hash."""
    (line,) = (line for line in SOURCES.read_text().splitlines() if line.startswith(f"{name}=="))
    wanted, _, digest = line.partition(" --hash=sha256:")
    file = BUILD / "sources" / f"{wanted.replace('==', '-')}.tar.gz"
    if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        place = BUILD / "sources/new"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "wanted").write_text(line + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary=:all:", "--dest", str(place), "--requirement", str(place / "wanted")]
        subprocess.run(command, check=True)
        (found,) = place.glob("*.tar.gz")
        found.replace(file)
        shutil.rmtree(place)
    return file


def _source(place: Path) -> Path:
    """The source package's parts below PLACE; its directory. Bytes are the same whenever it is made."""
    _, upstream, when = version()
    tree = place / f"boesfsd-{upstream}"
    shutil.rmtree(place, ignore_errors=True)
    tree.mkdir(parents=True)
    built = ("__pycache__", "*.pyc", "*.o", "*.ko", "*.mod", "*.mod.c", "*.so", "vmlinux.h", "_boesfs_bpf.c", ".*")
    without = [f"--exclude={name}" for name in (*built, "packaging/debian")]
    same = ["--sort=name", f"--mtime=@{when}", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"]
    orig = place / f"boesfsd_{upstream}.orig.tar.xz"
    command = ["tar", "-C", str(TOP), *without, *same, f"--transform=s,^,{tree.name}/,", "-cJf", str(orig), *SOURCE]
    subprocess.run(command, check=True)
    subprocess.run(["tar", "-C", str(place), "-xf", str(orig)], check=True)
    kit = place / f"boesfsd_{upstream}.orig-fdk.tar.gz"
    shutil.copyfile(fetched("fdk"), kit)
    (tree / "fdk").mkdir()
    subprocess.run(["tar", "-C", str(tree / "fdk"), "--strip-components=1", "-xf", str(kit)], check=True)
    shutil.copytree(DEBIAN, tree / "debian")
    return tree


def wanted_packages() -> list[str]:
    """Those of Build-Depends, by the names under which they are installed."""
    text = (DEBIAN / "control").read_text()
    listed = re.findall(r"^Build-Depends:\n((?: .*\n)+)", text, re.MULTILINE)[0]
    names = [re.split(r"[ (]", line.strip(), maxsplit=1)[0].rstrip(",") for line in listed.splitlines()]
    real = {"debhelper-compat": "debhelper", "dh-sequence-dkms": "dh-dkms", "dh-sequence-python3": "dh-python"}
    return [real.get(name, name) for name in names if name != "dh-sequence-installsysusers"]


def in_layers(layers: list[Path], upper: Path, script: str, *words: str, beside: Path | None = None) -> str:
    """SCRIPT, in a root of LAYERS, the first over the others, whose changes are left in UPPER; without a network, and
    with BESIDE at /mnt; its output. SystemExit shows that if it fails."""
    for path in (upper, upper.with_name(upper.name + ".work"), upper.with_name(upper.name + ".root")):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={upper}.work"
    more = f'mount --rbind {beside} "$0/mnt" && ' if beside else ""
    outer = (
        f'mount -t overlay boesfs-packages -o {options} "$0" && mount -t proc proc "$0/proc" && '
        f'mount -t tmpfs tmpfs "$0/dev/shm" && {more}exec chroot "$0" sh -ec "$@"'
    )
    command = ["unshare", "--mount", "--net", "--uts", "sh", "-c", outer, f"{upper}.root", script, "sh", *words]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise SystemExit(f"{script.strip().splitlines()[-1]} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def _clean() -> Path:
    """The layer that takes from the workshop what Build-Depends does not name."""
    build_workshop()
    wanted = (PLACE / "workshop.stamp").read_text() + " ".join(wanted_packages())
    stamp, layer = CLEAN / "clean.stamp", CLEAN / "clean"
    if not stamp.exists() or stamp.read_text() != wanted:
        script = """
apt-mark showmanual | xargs apt-mark -qq auto > /dev/null
apt-mark -qq manual build-essential "$@" > /dev/null
apt-get -qq -y --purge autoremove -o APT::AutoRemove::RecommendsImportant=0 -o APT::AutoRemove::SuggestsImportant=0
for tree in /usr/src/linux-headers-*; do
    dpkg -S "$tree" > /dev/null 2>&1 || rm -r "$tree"
done
"""
        in_layers([WORKSHOP], layer, script, *wanted_packages())
        stamp.write_text(wanted)
    return layer


def build_deb(out: Path = DEBS, *, place: str = "/build", zone: str = "UTC") -> Path:
    """The packages, in OUT. They are the same wherever (PLACE) and in whatever time ZONE they are built."""
    clean = _clean()
    tree = _source(CLEAN / "source")
    upper = CLEAN / "build"
    script = f"""
mkdir -p {place}
mv /source/* {place}/
chown -R {BUILDER}:{BUILDER} {place}
cd {place}/{tree.name}
dpkg-checkbuilddeps
export HOME=/nonexistent TZ={zone}
exec setpriv --reuid={BUILDER} --regid={BUILDER} --clear-groups dpkg-buildpackage -us -uc
"""
    source = CLEAN / "in/source"
    shutil.rmtree(source.parent, ignore_errors=True)
    source.parent.mkdir()
    tree.parent.rename(source)
    in_layers([source.parent, clean, WORKSHOP], upper, script)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in (upper / place.lstrip("/")).iterdir():
        if file.is_file():
            shutil.copy2(file, out)
    for name in (upper, source.parent):
        shutil.rmtree(name)
    return out


def build_rpm(out: Path = RPMS) -> Path:
    """The same as RPMs, in OUT, built on Debian; its packages have other names, so nobody asks what the spec needs."""
    build_workshop()
    upper, given = CLEAN / "build-rpm", CLEAN / "in-rpm"
    _source(CLEAN / "source-rpm")
    shutil.rmtree(given, ignore_errors=True)
    (given / "rpm/SOURCES").mkdir(parents=True)
    for file in (*(CLEAN / "source-rpm").glob("*.orig.tar.xz"), fetched("fdk"), fetched("dbus-next")):
        shutil.copy2(file, given / "rpm/SOURCES")
    for name in ("boesfsd.spec", "macros.fallback"):
        shutil.copy2(SPEC / name, given / "rpm")
    script = f"""
chown -R {BUILDER}:{BUILDER} /rpm
export HOME=/rpm SOURCE_DATE_EPOCH={version()[2]}
exec setpriv --reuid={BUILDER} --regid={BUILDER} --clear-groups rpmbuild -ba --nodeps --load /rpm/macros.fallback \\
    --define "_topdir /rpm" --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" \\
    --define "clamp_mtime_to_source_date_epoch 1" /rpm/boesfsd.spec
"""
    in_layers([given, WORKSHOP], upper, script)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in (upper / "rpm").glob("*RPMS/**/*.rpm"):
        shutil.copy2(file, out)
    for name in (upper, given, CLEAN / "source-rpm"):
        shutil.rmtree(name)
    return out


if __name__ == "__main__":
    for kind in sys.argv[1:]:
        print(f"{kind}: in {os.path.relpath({'deb': build_deb, 'rpm': build_rpm}[kind]())}")
