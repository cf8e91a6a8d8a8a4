# SPDX-License-Identifier: Apache-2.0
"""Hosts that are set up in their own way: without polkit, with a rule of their own for it, without space."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import OwnLab
from lab import ERROR, FUNCTION, HELLO, MANAGER, ROOT, Bus, BusError, Deployed, Lab, wait_for

STANDARD = "org.freedesktop.DBus.Error."


@pytest.mark.xdist_group("polkit")
def test_without_polkit_only_root_may_change_anything(own_lab: OwnLab) -> None:
    with own_lab("no-polkit", prepare="systemctl mask --runtime polkit.service; systemctl stop polkit") as lab:
        app = lab.app()
        function = lab.deploy(app, HELLO)
        assert function.call(b"x").text == "hello"
        nobody = Bus(lab.machine, "nobody")
        assert nobody.get(function.path, FUNCTION, "Name") == function.name
        for member, signature, body in (
            ("CreateApp", "sa{sv}", ["x", {}]),
            ("RemoveApp", "s", [app]),
            ("Deploy", "sssa{sv}", [app, "g", function.source, {}]),
            ("Remove", "ss", [app, function.name]),
            ("Cancel", "s", ["x"]),
        ):
            with pytest.raises(BusError) as caught:
                nobody.manager(member, signature, *body)
            assert caught.value.name == f"{STANDARD}AccessDenied"
        nobody.close()


RULE = """\
polkit.addRule(function(action, subject) {
    var granted = ["org.boesfs.faas1.deploy", "org.boesfs.faas1.control"];
    if (subject.isInGroup("deployers") && granted.indexOf(action.id) >= 0)
        return polkit.Result.YES;
});
"""


def granted(bus: Bus, calls: list[tuple[str, str, str, str, list[Any]]]) -> list[str]:
    """The members of CALLS that were not refused for want of authorisation."""
    members = []
    for path, interface, member, signature, body in calls:
        try:
            bus.call(path, interface, member, signature, *body)
        except BusError as error:
            if error.name == f"{STANDARD}InteractiveAuthorizationRequired":
                continue
            raise
        members.append(member)
    return members


@pytest.mark.xdist_group("polkit")
def test_a_polkit_rule_grants_a_group_what_it_names_and_nothing_else(own_lab: OwnLab) -> None:
    users = "groupadd deployers; useradd -G deployers rosa; useradd tom"
    rule = f"cat > /etc/polkit-1/rules.d/50-own.rules <<'END'\n{RULE}END"
    with own_lab("polkit-rule", prepare=f"{users}\n{rule}") as lab:
        app = lab.app()
        function = lab.deploy(app, HELLO)
        calls: list[tuple[str, str, str, str, list[Any]]] = [
            (ROOT, MANAGER, "Deploy", "sssa{sv}", [app, "hers", function.source, {}]),
            (ROOT, MANAGER, "CreateApp", "sa{sv}", ["x", {}]),
            (ROOT, MANAGER, "Remove", "ss", [app, function.name]),
            (function.path, FUNCTION, "Stop", "", []),
            (function.path, FUNCTION, "Start", "", []),
        ]
        rosa, tom = Bus(lab.machine, "rosa"), Bus(lab.machine, "tom")
        assert granted(tom, calls) == []
        assert granted(rosa, calls) == ["Deploy", "Stop", "Start"]
        assert [row[1] for row in lab.bus.manager("ListFunctions", "s", "")] == [function.name, "hers"]
        assert [row[0] for row in lab.bus.manager("ListApps")] == [app]
        assert function.call(b"x").text == "hello"
        rosa.close()
        tom.close()


@pytest.fixture(scope="module")
def small(own_lab: OwnLab) -> Iterator[Lab]:
    """A machine with 4 MB under /var/lib/boesfsd."""
    with own_lab("small", tmpfs=["/var/lib/boesfsd:size=4M"]) as lab:
        yield lab


def full(lab: Lab) -> None:
    """Leave no byte."""
    lab.machine.shell("dd if=/dev/zero of=/var/lib/boesfsd/ballast bs=4k 2>/dev/null", check=False)


def space(lab: Lab) -> None:
    """Make room again."""
    lab.machine.shell("rm -f /var/lib/boesfsd/ballast")


@pytest.mark.xdist_group("disk")
def test_a_full_disk_refuses_code_with_no_space_and_neighbours_go_on(small: Lab) -> None:
    app = small.app()
    function = small.deploy(app, HELLO)
    source = small.source({"func.py": HELLO, "big": b"x" * (8 << 20)})
    with pytest.raises(BusError) as caught:
        small.bus.manager("Deploy", "sssa{sv}", app, "big", source, {})
    assert caught.value.name == f"{ERROR}NoSpace"
    assert "/var/lib/boesfsd" in caught.value.text
    assert small.machine.shell("ls /var/lib/boesfsd/stage") == ""
    assert function.call(b"x").text == "hello"
    small.bus.manager("RemoveApp", "s", app)


def first_error(lab: Lab, app: str, member: str, signature: str, body: list[Any]) -> str:
    """What a member ends in when it is repeated: SQLite may still have room in what it has."""
    for number in range(40):
        names = [f"{body[0]}{number}"] if member == "CreateApp" else [app, f"{body[1]}{number}"]
        try:
            lab.bus.manager(member, signature, *names, *body[len(names) :])
        except BusError as error:
            return error.name
    return ""


@pytest.mark.xdist_group("disk")
def test_a_disk_without_a_byte_refuses_every_change_with_no_space_and_serves_on(small: Lab) -> None:
    app = small.app()
    function = small.deploy(app, HELLO)
    full(small)
    try:
        for member, signature, body in (
            ("CreateApp", "sa{sv}", ["another", {}]),
            ("Deploy", "sssa{sv}", [app, "second", function.source, {}]),
            ("Deploy", "sssa{sv}", [app, "third", small.source({"func.py": HELLO + "# other\n"}), {}]),
        ):
            assert first_error(small, app, member, signature, body) == f"{ERROR}NoSpace"
        assert function.call(b"x").text == "hello"
        small.machine.run("systemctl", "restart", "boesfsd")
        assert function.call(b"x").text == "hello"
        full(small)
    finally:
        space(small)
    assert small.bus.manager("CreateApp", "sa{sv}", "after", {})
    names = [row[1] for row in small.bus.manager("ListFunctions", "s", app)]
    assert function.name in names
    for name in names:
        assert (
            Deployed(small, app, name, "", small.bus.manager("GetFunction", "ss", app, name), []).call(b"x").status
            == 200
        )
    small.bus.manager("RemoveApp", "s", app)
    wait_for(lambda: small.machine.shell("ls /var/lib/boesfsd/code") == "")
