# SPDX-License-Identifier: Apache-2.0
"""The RPMs, as far as a Debian machine allows: docs/packaging.md says what is not run."""

import re
from pathlib import Path

import pytest
from layers import checked, layer_of
from machine import Machine
from packages import SPEC, build_rpm, version

MANAGER = "org.boesfs.Faas1 /org/boesfs/Faas1 org.boesfs.Faas1.Manager"


@pytest.fixture(scope="session")
def layer() -> Path:
    """The packages, at /rpms, and what they are made by, at /spec."""
    return layer_of("layer-rpm", rpms=build_rpm(), spec=SPEC)


def test_rpmlint_has_nothing_to_say(layer: Path) -> None:
    said = checked(layer, "cd /rpms; rpmlint -c /spec/rpmlint.toml *.rpm /spec/boesfsd.spec")
    assert "0 errors, 0 warnings" in said, said


def test_the_version_is_that_of_debian_s(layer: Path) -> None:
    said = checked(layer, "rpm -qp --queryformat '%{NAME} %{VERSION}\\n' /rpms/*.rpm")
    assert set(said.split("\n")[:-1]) == {
        f"{name} {version()[1]}" for name in ("boesfsd", "boesfs-runtime-python", "dkms-boesfs")
    }


def test_no_scriptlet_is_empty(layer: Path) -> None:
    said = checked(layer, "rpm -qp --scripts /rpms/boesfsd-*.x86_64.rpm; rpm -qp --scripts /rpms/dkms-boesfs*.rpm")
    parts = re.split(r"^(\w+) scriptlet .*:\n", said, flags=re.MULTILINE)[1:]
    found = list(zip(parts[::2], parts[1::2], strict=True))
    assert [name for name, _ in found] == [
        *("postinstall", "preuninstall", "postuninstall", "posttrans", "postinstall", "preuninstall")
    ]
    for name, text in found:
        assert len(text.split()) > 5, name
        assert "%{" not in text, name


INSTALL = """
rpm --root /mnt --nodeps -i /rpms/boesfsd-*.x86_64.rpm /rpms/boesfs-runtime-python-*.rpm
rpm --root /mnt --nodeps -V boesfsd boesfs-runtime-python
"""


def test_it_is_installed_and_its_function_answers(layer: Path, bare: Machine) -> None:
    """By rpm, on a Debian, whose Python has its packages elsewhere; its scripts run there, and its units."""
    checked(layer, INSTALL, bare.root)
    bare.shell("mkdir -p /usr/lib64/python3.13")
    bare.shell("ln -s /usr/lib/python3/dist-packages /usr/lib64/python3.13/site-packages")
    bare.shell("systemctl daemon-reload; systemctl enable --now boesfsd")
    bare.shell(f"busctl call {MANAGER} CreateApp 'sa{{sv}}' demo 0")
    example = "/usr/share/doc/boesfsd/examples/hello-python"
    bare.shell(f"busctl call {MANAGER} Deploy 'sssa{{sv}}' demo hello {example} 0")
    call = 'curl -sS -d \'{"name": "rpm"}\' --unix-socket /run/boesfs/by-name/demo/hello http://f/call'
    assert bare.shell(call) == '{"message": "Hello rpm"}'

    bare.shell("systemctl stop boesfsd.socket boesfsd.service 'boesfs-fn@*'")
    checked(layer, "rpm --root /mnt --nodeps -e boesfsd", bare.root)
    assert bare.shell("ls -d /usr/lib/boesfs/python /etc/boesfsd /usr/sbin/boesfsd 2>/dev/null || true") == ""
