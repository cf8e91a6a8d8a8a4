# SPDX-License-Identifier: Apache-2.0
"""Units, drop-ins and object path labels."""

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from samples import FUNCTION_ID, ROOT, command, full_function, function

from boesfsd import units
from boesfsd.units import escape_label, parse_unit, unescape_label

KNOWN = {  # sd_bus_path_encode(3), and object paths of systemd as busctl tree shows them
    "": "_",
    "hello": "hello",
    "ssh.service": "ssh_2eservice",
    "dbus-broker.service": "dbus_2dbroker_2eservice",
    "-.mount": "_2d_2emount",
    "10min": "_310min",
    "a1": "a1",
    "a_b": "a_5fb",
    "_": "_5f",
    "foo@bar:0.socket": "foo_40bar_3a0_2esocket",
    "é": "_c3_a9",
}


@pytest.mark.parametrize(("text", "label"), KNOWN.items())
def test_labels_are_those_of_systemd(text: str, label: str) -> None:
    assert escape_label(text) == label
    assert unescape_label(label) == text


@pytest.mark.parametrize("text", ["0", "00", "9a", "a9", "__", "_31", "a:b@c.d~e", "-" * 255, "A-z_0", "ünï\n\t\0"])
def test_a_label_round_trips_and_is_a_path_element(text: str) -> None:
    label = escape_label(text)
    assert re.fullmatch(r"[A-Za-z0-9_]+", label)
    assert unescape_label(label) == text


@pytest.mark.parametrize("label", ["_6", "_zz", "a_", "_c3", "_ff"])
def test_what_is_no_label_is_a_value_error(label: str) -> None:
    """`a_` would be a second path of the object whose label is `a`."""
    with pytest.raises(ValueError, match=r".*"):
        unescape_label(label)


def test_units_are_named_by_function_and_slot() -> None:
    assert units.service_unit("ID", 3) == "boesfs-fn@ID:3.service"
    assert units.socket_unit("ID", 0) == "boesfs-fn@ID:0.socket"
    assert units.net_unit("ID") == "boesfs-net@ID.service"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("boesfs-fn@ID:3.service", ("ID", 3, "service")),
        ("boesfs-fn@ID:12.socket", ("ID", 12, "socket")),
        ("boesfs-fn@ID.service", None),
        ("boesfs-fn@ID:.service", None),
        ("boesfs-fn@ID:x.service", None),
        ("boesfs-fn@ID:-1.service", None),
        ("boesfs-fn@ID:3.slice", None),
        ("boesfs-fn@ID:3", None),
        ("boesfs-net@ID:3.service", None),
        ("other@ID:3.service", None),
        ("", None),
        ("boesfs-fn@ID:².service", None),
        pytest.param("boesfs-fn@ID:" + "9" * 5000 + ".service", None, id="5000 digits"),
    ],
)
def test_a_unit_name_is_read_back(name: str, parsed: tuple[str, int, str] | None) -> None:
    """GetFunctionByUnit gives it any text that a caller sends."""
    assert parse_unit(name) == parsed


def test_a_name_that_is_made_is_the_name_that_is_read() -> None:
    assert parse_unit(units.socket_unit(FUNCTION_ID, 7)) == (FUNCTION_ID, 7, "socket")
    assert parse_unit(units.service_unit(FUNCTION_ID, 7)) == (FUNCTION_ID, 7, "service")


def test_the_socket_template_listens_where_the_router_connects() -> None:
    template = (ROOT / "units/boesfs-fn@.socket").read_text()
    listen = re.search(r"^ListenStream=(.*)$", template, re.MULTILINE)
    assert listen
    assert listen[1].replace("%i", f"{FUNCTION_ID}:3") == str(units.socket_path(FUNCTION_ID, 3))


def _text(drop_ins: dict[str, str]) -> str:
    return "".join(f"==> {name}\n{text}" for name, text in drop_ins.items())


def test_drop_ins_of_a_plain_function(golden: Callable[[str, str], None]) -> None:
    golden("units-plain.txt", _text(units.drop_ins(function(), 0, 5)))


def test_drop_ins_of_a_function_with_every_limit(golden: Callable[[str, str], None]) -> None:
    golden("units-full.txt", _text(units.drop_ins(full_function(), 3, 9)))


def test_live_properties_of_a_plain_function() -> None:
    assert units.live_properties(function().settings) == [
        ("MemoryMax", "t", 128 << 20),
        ("TasksMax", "t", 130),
        ("CPUQuotaPerSecUSec", "t", (1 << 64) - 1),
        ("AllowedCPUs", "ay", []),
    ]


def test_live_properties_of_a_function_with_every_limit() -> None:
    assert units.live_properties(full_function().settings) == [
        ("MemoryMax", "t", 256 << 20),
        ("TasksMax", "t", 12),
        ("CPUQuotaPerSecUSec", "t", 500_000),
        ("AllowedCPUs", "ay", [0b1011]),
    ]


@pytest.mark.parametrize(
    ("cpuset", "mask"), [("8", [0, 1]), ("0-15", [255, 255]), ("7,63", [128, 0, 0, 0, 0, 0, 0, 128])]
)
def test_the_mask_of_a_cpuset_is_little_endian(cpuset: str, mask: list[int]) -> None:
    properties = {name: value for name, _, value in units.live_properties(function(cpuset=cpuset).settings)}
    assert properties["AllowedCPUs"] == mask


@pytest.mark.parametrize("cpu", [0.001, 0.01, 0.015, 0.125, 0.5, 1.0, 2.25, 1024.0])
def test_the_quota_in_the_file_is_the_quota_that_is_set_live(cpu: float) -> None:
    deployed = function(cpu=cpu)
    quota = re.search(
        r"^CPUQuota=([0-9.]+)%$", units.drop_ins(deployed, 0, 5)[units.service_unit(FUNCTION_ID, 0)], re.M
    )
    live = {name: value for name, _, value in units.live_properties(deployed.settings)}
    assert quota
    assert round(float(quota[1]) * 10_000) == live["CPUQuotaPerSecUSec"]


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="no systemd here")
def test_an_instance_name_needs_no_escape() -> None:
    instance = units.instance(FUNCTION_ID, 12)
    out = subprocess.run(["systemd-escape", instance], capture_output=True, text=True, check=True).stdout.strip()
    assert out == instance


def test_the_unit_of_a_command_has_the_limits_that_are_wanted_and_its_descriptors() -> None:
    of = command("/bin/echo", "two\nlines", memory=64, cpu=0.5, cpuset="1", tasks=5)
    descriptors = {"plan": 0, "interrupt": 1, "directory0": 2, "stdout": 3}
    found = {name: value for name, _, value in units.command_properties(of, descriptors)}
    assert found["ExtraFileDescriptors"] == [(0, "plan"), (1, "interrupt"), (2, "directory0")]
    assert found["StandardOutputFileDescriptor"] == 3
    assert "StandardInputFileDescriptor" not in found
    assert (found["Description"], found["Slice"]) == ("ann runs /bin/echo two?lines", "boesfs-run.slice")
    assert (found["MemoryMax"], found["MemorySwapMax"], found["TasksMax"]) == (64 << 20, 0, 7)
    assert (found["CPUQuotaPerSecUSec"], found["AllowedCPUs"]) == (500_000, [2])


def test_a_command_without_limits_has_none() -> None:
    found = {name for name, _, _ in units.command_properties(command(), {"plan": 0, "interrupt": 1})}
    assert not found & {"MemoryMax", "MemorySwapMax", "TasksMax", "CPUQuotaPerSecUSec", "AllowedCPUs"}


def test_a_command_s_unit_has_its_number() -> None:
    assert units.command_number(units.command_unit(1 << 31)) == 1 << 31
    for name in ("boesfs-run-x.service", "boesfs-run.slice", "boesfs-run-7.socket", "boesfs-fn@x:0.service"):
        assert units.command_number(name) is None
