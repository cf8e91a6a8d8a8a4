# SPDX-License-Identifier: Apache-2.0
"""What doctor says of hosts that lack something; tests/appliance and tests/vm have hosts that do not."""

import json
import shutil
from pathlib import Path

import pytest

from boesfsd import ctl, doctor, runtimes
from boesfsd.config import Config

RELEASE = "6.12.107+deb13-cloud-amd64"
BOESFS, LANDLOCK = Config(enforcement="boesfs"), Config(enforcement="landlock")
RUNTIMES = runtimes.load(Path(__file__).resolve().parents[2] / "etc/runtimes")
FILES = {
    "sys/kernel/btf/vmlinux": "",
    "sys/module/boesfs/parameters/abi": "12\n",
    "sys/module/module/parameters/sig_enforce": "N\n",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "sys/fs/bpf/boesfs/boesfsd": "",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700\n",
    f"lib/modules/{RELEASE}/updates/dkms/boesfs.ko.xz": "",
    f"lib/modules/{RELEASE}/build/vmlinux": "",
    "usr/src/boesfs-0.1.0/dkms.conf": "",
    "usr/bin/pahole": "",
    "usr/bin/python3": "",
    "usr/lib/polkit-1/polkitd": "",
    "usr/lib/boesfs/runtimes/python/bin/fdk": "",
    "usr/lib/python3/dist-packages/httptools/__init__.py": "",
}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """One that lacks nothing."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def told(root: Path, settings: Config = BOESFS, release: str = RELEASE) -> dict[str, tuple[str, str, str]]:
    """State, message and hint of each row; the disk is this machine's."""
    rows = doctor.of_host(settings, RUNTIMES, release, root)
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows if row[0] != "disk"}


def test_who_lacks_nothing_is_told_so(host: Path) -> None:
    found = told(host)
    assert {state for state, _, _ in found.values()} == {"ok"}
    assert list(found) == ["kernel", "btf", "module", "signatures", "bpffs", "program", "polkit", "runtime-python"]
    assert found["module"][1] == "boesfs is loaded, ABI 12"
    assert not [hint for _, _, hint in found.values() if hint]


@pytest.mark.parametrize(
    ("without", "name", "state", "message", "hint"),
    [
        ("sys/kernel/btf", "btf", "error", "The kernel has no BTF", "boot one with CONFIG_DEBUG_INFO_BTF"),
        ("sys/module/boesfs", "module", "error", "boesfs is built and not loaded", "systemctl restart boesfs-setup"),
        ("sys/fs/bpf/boesfs", "program", "error", "is not in the kernel", "systemctl restart boesfs-setup"),
        ("proc/self/mountinfo", "bpffs", "error", "No bpffs is mounted on /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf"),
        ("usr/lib/polkit-1", "polkit", "warning", "only root may", "apt install polkitd"),
        ("usr/bin/python3", "runtime-python", "error", "It lacks /usr/bin/python3", "apt install --reinstall"),
        ("usr/lib/boesfs/runtimes/python/bin/fdk", "runtime-python", "error", "/bin/fdk", "boesfs-runtime-python"),
        ("usr/lib/python3", "runtime-python", "error", "dist-packages/httptools", "boesfs-runtime-python"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_with_what_mends_it(
    host: Path, without: str, name: str, state: str, message: str, hint: str
) -> None:
    take(host / without)
    found = told(host)
    assert (found[name][0], message in found[name][1], hint in found[name][2]) == (state, True, True), found[name]
    assert [other for other, row in found.items() if row[0] != "ok"] == [name]


@pytest.mark.parametrize(
    ("without", "message", "hint"),
    [
        ("usr/src/boesfs-0.1.0", "its package is not installed", "apt install boesfs-dkms"),
        (f"lib/modules/{RELEASE}/build", "its headers are not installed", f"apt install linux-headers-{RELEASE}"),
        (f"lib/modules/{RELEASE}/build/vmlinux", "its headers have no BTF", "install headers that have vmlinux"),
        ("usr/bin/pahole", "pahole is not installed", "apt install pahole && dkms autoinstall"),
        ("usr/share/nothing", "it was not built", "dkms autoinstall"),
    ],
)
def test_why_there_is_no_module(host: Path, without: str, message: str, hint: str) -> None:
    for path in ("sys/module/boesfs", f"lib/modules/{RELEASE}/updates", without):
        take(host / path)
    state, said, mends = told(host)["module"]
    assert (state, said.endswith(message), mends.startswith(hint)) == ("error", True, True), (said, mends)
    assert RELEASE in said


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sys/module/module/parameters/sig_enforce", "Y\n"),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
    ],
)
def test_a_kernel_that_wants_signatures_is_told_until_it_has_loaded_the_module(
    host: Path, file: str, text: str
) -> None:
    (host / file).write_text(text)
    assert told(host)["signatures"][0] == "ok"
    take(host / "sys/module/boesfs")
    state, _, hint = told(host)["signatures"]
    assert (state, hint.startswith("mokutil --import /var/lib/dkms/mok.pub")) == ("error", True)


def test_an_old_kernel_is_told_by_what_is_asked_of_it(host: Path) -> None:
    for release in ("6.8.12", "5.19.0-1"):
        assert told(host, BOESFS, release)["kernel"][0] == "error"
        state, message, _ = told(host, LANDLOCK, release)["kernel"]
        assert (state, "confined by Landlock" in message) == ("ok", True)
    assert told(host, BOESFS, "6.9.0-rc1")["kernel"] == ("ok", "Linux 6.9.0-rc1", "")
    assert "module" not in told(host, LANDLOCK)


def test_what_only_root_sees_is_said(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert told(host)["program"] == (
        "warning",
        "Only root sees whether programs are in /sys/fs/bpf/boesfs",
        "ask as root",
    )


@pytest.mark.parametrize(("free", "state"), [(1 << 30, "ok"), (1 << 29, "warning"), (1 << 25, "error")])
def test_a_disk_that_is_nearly_full_is_told(host: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = shutil._ntuple_diskusage(1 << 40, 0, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (row,) = (row for row in doctor.of_host(BOESFS, RUNTIMES, RELEASE, host) if row[0] == "disk")
    assert row[1:3] == (state, f"{free >> 20} MiB are free for functions below /var/lib/boesfsd")


def test_a_host_without_a_runtime_is_told(host: Path) -> None:
    (row,) = (row for row in doctor.of_host(BOESFS, {}, RELEASE, host) if row[0].startswith("runtime"))
    assert row == ("runtimes", "error", "No runtime is installed", "apt install boesfs-runtime-python")


def test_boesfsctl_tells_what_it_sees_though_boesfsd_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever the unit tests run, there is none."""
    assert ctl.main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {"kernel", "polkit", "disk", "controllers", "user-namespaces", "favordynmods"} < {row["id"] for row in rows}
    assert (rows[-1]["id"], rows[-1]["state"], rows[-1]["hint"][:17]) == ("boesfsd", "error", "systemctl restart")
    assert ctl.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[row["state"], row["id"]] for row in rows]


def take(path: Path) -> None:
    """It is there no more, if it was."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
