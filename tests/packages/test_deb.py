# SPDX-License-Identifier: Apache-2.0
"""The Debian packages: how they are built, what is in them, and their life on a host."""

import hashlib
import re
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from layers import checked, layer_of
from machine import Machine
from packages import DEBIAN, TOP, build_deb, version
from workshop import kernels

from boesfsd import __version__

APP, FUNCTION = "demo", "hello"
MANAGER = "org.boesfs.Faas1 /org/boesfs/Faas1 org.boesfs.Faas1.Manager"
PURGE = "boesfsd boesfsd/remove-functions boolean"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades"


def field(deb: Path, name: str) -> str:
    """What a package says of itself."""
    return subprocess.run(["dpkg-deb", "-f", str(deb), name], check=True, capture_output=True, text=True).stdout.strip()


def listing(deb: Path) -> dict[str, tuple[str, str]]:
    """Mode and owner of each file."""
    said = subprocess.run(["dpkg-deb", "-c", str(deb)], check=True, capture_output=True, text=True).stdout
    rows = (line.split(maxsplit=5) for line in said.splitlines())
    return {row[5].split(" -> ")[0].removeprefix("."): (row[0], row[1]) for row in rows}


def found(debs: Path, name: str) -> Path:
    """The package with this name."""
    (deb,) = debs.glob(f"{name}_*.deb")
    return deb


@pytest.fixture(scope="session")
def layer(debs: Path) -> Path:
    """The packages, at /deb."""
    return layer_of("layer", deb=debs)


def test_versions_are_the_same_everywhere() -> None:
    assert version()[1] == __version__
    assert re.findall(r'^PACKAGE_VERSION="(.+)"', (TOP / "kmod/dkms.conf").read_text(), re.MULTILINE) == [__version__]
    kit = re.findall(r"^fdk==(\S+)", (TOP / "packaging/sources.txt").read_text(), re.MULTILINE)
    assert re.findall(r"^FDK_VERSION := (.+)", (TOP / "Makefile").read_text(), re.MULTILINE) == kit


def test_lintian_has_nothing_to_say(layer: Path) -> None:
    said = checked(layer, "cd /deb; setpriv --reuid=1000 --clear-groups lintian --pedantic --fail-on none *.changes")
    assert said == ""
    for file in (*DEBIAN.glob("*.lintian-overrides"), DEBIAN / "source/lintian-overrides"):
        reasons = [line.startswith("#") for line in file.read_text().splitlines()]
        assert reasons == [True, False] * (len(reasons) // 2), file


def test_what_is_built_elsewhere_at_another_time_of_day_is_the_same(debs: Path, tmp_path: Path) -> None:
    again = build_deb(tmp_path / "deb", place="/var/tmp/another/place", zone="Asia/Tokyo")
    kinds = (".deb", ".dsc", ".xz", ".gz")
    sums = [
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in place.iterdir() if file.suffix in kinds}
        for place in (debs, again)
    ]
    assert sums[0] == sums[1]
    assert len(sums[0]) == 8


def test_nothing_is_writable_by_others_or_set_id(debs: Path) -> None:
    for deb in debs.glob("*.deb"):
        for path, (mode, owner) in listing(deb).items():
            assert owner == "root/root", path
            if mode[0] != "l":
                assert not set("sStT") & set(mode), path
                assert mode[5] + mode[8] == "--", path


def test_python_comes_from_debian(debs: Path) -> None:
    depends = field(found(debs, "boesfsd"), "Depends")
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split("[=<>]", line)[0].lower().replace("pyyaml", "yaml") for line in project}
    assert {f"python3-{name}" for name in names} <= set(re.findall(r"[a-z0-9.-]+", depends))
    copies = [
        path
        for path in listing(found(debs, "boesfsd"))
        if "/python/" in path and "boesfs" not in path.split("python/")[1]
    ]
    assert copies == ["/usr/lib/boesfs/python/"]
    kit = [path for path in listing(found(debs, "boesfs-runtime-python")) if path.endswith(".so")]
    assert kit == []


def call(machine: Machine) -> str:
    """What the function answers on its socket."""
    return machine.shell(
        f'curl -sS --max-time 20 -d \'{{"name": "you"}}\' --unix-socket /run/boesfs/by-name/{APP}/{FUNCTION} http://f/call'
    )


def newer(debs: Path, place: Path) -> Path:
    """boesfsd's package as another build of it would be."""
    subprocess.run(["dpkg-deb", "-R", str(found(debs, "boesfsd")), str(place / "tree")], check=True)
    control = place / "tree/DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", r"\g<0>+1", control.read_text(), flags=re.MULTILINE))
    file = place / "boesfsd_newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(place / "tree"), str(file)], check=True)
    return file


def test_the_life_of_a_package(bare: Machine, debs: Path, tmp_path: Path) -> None:
    """Install, deploy, upgrade and downgrade while it is called, remove, install again, purge."""
    before = set(bare.shell("find / -xdev -not -path '/proc/*' -not -path '/srv/*' | sort").splitlines())
    bare.shell(f"{INSTALL} /srv/deb/boesfsd_*_amd64.deb /srv/deb/boesfs-runtime-python_*.deb", timeout=300)
    assert bare.shell("systemctl is-active boesfsd.service boesfsd.socket").split() == ["active", "active"]
    assert bare.shell("systemctl is-enabled boesfsd.service boesfsd.socket").split() == ["enabled", "enabled"]
    assert bare.shell("dpkg --verify boesfsd boesfs-runtime-python") == ""
    bare.shell("systemd-analyze security --threshold=22 boesfsd.service")

    bare.shell(f"busctl call {MANAGER} CreateApp 'sa{{sv}}' {APP} 0")
    example = "/usr/share/doc/boesfsd/examples/hello-python"
    bare.shell(f"busctl call {MANAGER} Deploy 'sssa{{sv}}' {APP} {FUNCTION} {example} 0")
    assert call(bare) == '{"message": "Hello you"}'
    instance = "systemctl show -P MainPID 'boesfs-fn@*.service'"
    warm, daemon = bare.shell(instance), bare.shell("systemctl show -P MainPID boesfsd")

    path = f"org.boesfs.Faas1 /org/boesfs/Faas1/function/{APP}/{FUNCTION} org.boesfs.Faas1.Function Id"
    identifier = bare.shell(f"busctl get-property {path}").split('"')[1]
    url = f"http://127.0.0.1:8080/invoke/{identifier}"
    loop = (
        f"while [ -e /tmp/on ]; do curl -sS -o /dev/null -w '%{{http_code}}\\n' -d {{}} {url}; done > /tmp/codes 2>&1"
    )
    bare.shell("touch /tmp/on")
    calling = subprocess.Popen(bare.enter("sh", "-c", loop))
    bare.copy_in(newer(debs, tmp_path), "/srv/newer.deb")
    for deb, wanted in (("/srv/newer.deb", f"{version()[0]}+1"), ("/srv/deb/boesfsd_*_amd64.deb", version()[0])):
        bare.shell(f"{INSTALL} {deb}", timeout=300)
        assert bare.shell("dpkg-query -W -f '${Version}' boesfsd") == wanted
        assert bare.shell("systemctl show -P MainPID boesfsd") != daemon
        daemon = bare.shell("systemctl show -P MainPID boesfsd")
        time.sleep(0.5)
    assert bare.shell(instance) == warm
    bare.shell("rm /tmp/on")
    assert calling.wait(30) == 0
    codes = bare.shell("cat /tmp/codes").split()
    assert len(codes) > 50
    assert set(codes) == {"200"}

    bare.shell("DEBIAN_FRONTEND=noninteractive apt-get remove -y boesfsd", timeout=300)
    assert bare.shell("systemctl list-units --all --no-legend 'boesfs*' | grep -v not-found || true") == ""
    assert bare.shell("ls -d /run/boesfs /run/systemd/system/boesfs* /sys/fs/bpf/boesfs 2>/dev/null || true") == ""
    assert bare.shell("ls /var/lib/boesfsd /etc/boesfsd/boesfsd.conf")

    bare.shell(f"{INSTALL} /srv/deb/boesfsd_*_amd64.deb", timeout=300)
    assert call(bare) == '{"message": "Hello you"}'

    bare.shell(f"{INSTALL.split(' apt')[0]} apt-get purge -y boesfsd boesfs-runtime-python", timeout=300)
    assert bare.shell("ls -d /var/lib/boesfsd 2>/dev/null || true") == ""
    after = set(bare.shell("find / -xdev -not -path '/proc/*' -not -path '/srv/*' | sort").splitlines())
    assert sorted(path for path in after - before if "boesfs" in path or "gofs" in path) == []


def test_functions_are_kept_by_who_wants_them(bare: Machine) -> None:
    bare.shell(f"{INSTALL} /srv/deb/boesfsd_*_amd64.deb", timeout=300)
    bare.shell(f"busctl call {MANAGER} CreateApp 'sa{{sv}}' {APP} 0")
    bare.shell(f"echo '{PURGE} false' | debconf-set-selections")
    bare.shell("DEBIAN_FRONTEND=noninteractive apt-get purge -y boesfsd", timeout=300)
    assert "code" in bare.shell("ls /var/lib/boesfsd").split()
    bare.shell(f"{INSTALL} /srv/deb/boesfsd_*_amd64.deb", timeout=300)
    assert f'"{APP}"' in bare.shell(f"busctl call {MANAGER} ListApps")


DKMS = "dpkg -i /deb/boesfs-dkms_*.deb"
NO_HEADERS = "rm -r /usr/src/linux-headers* /lib/modules/*/build"
NO_BTF = "rm /usr/src/linux-headers*/vmlinux"
OLD = "mv /lib/modules/6.12* /lib/modules/6.1.0-old"


def test_dkms_builds_for_each_kernel_that_has_headers(layer: Path) -> None:
    """With BTF, signed, and nothing is left of it when it is purged."""
    script = f"""
{DKMS}
for module in /lib/modules/*/updates/dkms/boesfs.ko.xz; do
    cd /tmp
    xz -dc $module > boesfs.ko
    echo $(modinfo -F name boesfs.ko) $(modinfo -F sig_id boesfs.ko) $(readelf -SW boesfs.ko | grep -o ' .BTF ')
done
dkms status
dpkg --purge boesfs-dkms
ls -d /usr/src/boesfs-* /var/lib/dkms/boesfs /lib/modules/*/updates/dkms/boesfs* 2> /dev/null | sed 's/^/left: /'
"""
    said = checked(layer, script)
    assert said.count("boesfs PKCS#7 .BTF") == len(kernels()) == 2
    assert "left: " not in said
    for kernel in kernels():
        assert f"boesfs/{__version__}, {kernel.release}, x86_64: installed" in said


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        (NO_HEADERS, "No kernel headers were found, skipping module build"),
        (NO_BTF, "/build has no vmlinux, the kernel's BTF: use headers that have it"),
        (OLD, "boesfs: Linux 6.1.0-old is too old: BoesFS needs 6.9; boesfsd works on it with enforcement = landlock"),
    ],
)
def test_a_kernel_that_it_cannot_be_built_for_is_told_and_breaks_nothing(
    layer: Path, without: str, sentence: str
) -> None:
    said = checked(layer, f"{without}\n{DKMS}\ndpkg-query -W -f '${{db:Status-Status}}' boesfs-dkms")
    assert sentence in said
    assert said.endswith("installed")
    assert "6.1.0-old/updates" not in said
