# SPDX-License-Identifier: Apache-2.0
"""boesfsctl's verbs that ask boesfsd. This appliance has no BoesFS; tests/vm shows what they do with it."""

import json
from pathlib import Path

import pytest
from lab import FUNCTION, HELLO, BusError, Lab

POLICY = "rules: [{allow: all, on: /tmp/**}]\n"


def boesfsctl(lab: Lab, *words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Its status, and what it prints."""
    done = lab.machine.run(*prefix, "boesfsctl", *words, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def policy(lab: Lab) -> str:
    """A file in the appliance."""
    return f"{lab.source({'p.yaml': POLICY})}/p.yaml"


def test_a_function_without_a_policy_is_told_to_have_none(lab: Lab, app: str) -> None:
    function = lab.deploy(app, {"func.py": HELLO})
    label = f"{app}/{function.name}"
    told = [f"# {label}: no policy of its own", f"# the app {app}: no policy of its own"]
    status, out, _ = boesfsctl(lab, "policy", "show", label)
    assert (status, out.splitlines()) == (0, [*told, "# no table: no policy is enforced"])
    status, out, _ = boesfsctl(lab, "policy", "show", "--json", label)
    assert (status, json.loads(out)) == (0, {"own": "", "app": "", "table": {}})
    assert boesfsctl(lab, "policy", "show", app) == (0, f"# the app {app}: no policy of its own\n", "")
    assert boesfsctl(lab, "policy", "set", "--none", label) == (0, "", "")


def test_what_needs_boesfs_says_so(lab: Lab, app: str, policy: str) -> None:
    function = lab.deploy(app, {"func.py": HELLO})
    label = f"{app}/{function.name}"
    for words in (("show", "--table", label), ("test", label, "read", "/x"), ("diff", "-f", policy, label)):
        status, out, error = boesfsctl(lab, "policy", *words)
        assert (status, out) == (69, ""), (words, error)
        assert "enforcement = boesfs" in error, words
    status, out, error = boesfsctl(lab, "learn", "--call", "x", label)
    assert (status, out) == (69, "")
    assert "enforcement = boesfs" in error


def test_doctor_tells_what_the_host_lacks(lab: Lab) -> None:
    status, out, error = boesfsctl(lab, "doctor", "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert error == ""
    assert status == (1 if [row for row in rows.values() if row["state"] == "error"] else 0)
    for name in ("kernel", "boesfs", "polkit", "runtime-python", "landlock", "enforcement", "listen", "boesfsd"):
        assert rows[name]["state"] == "ok", rows[name]
    said = {name: [state, message, hint] for name, state, message, hint in lab.bus.manager("Check")}
    assert said.items() <= {name: [row["state"], row["message"], row["hint"]] for name, row in rows.items()}.items()
    status, out, _ = boesfsctl(lab, "doctor")
    assert [line.split()[:2] for line in out.splitlines()] == [[row["state"], name] for name, row in rows.items()]


def test_what_cannot_be_learned_is_named(lab: Lab, app: str) -> None:
    function = lab.deploy(app, {"func.py": HELLO})
    label = f"{app}/{function.name}"
    for status, said, words in (
        (4, "nobody", ("--call", "x", f"{app}/nobody")),
        (2, "no APP/FN", ("--call", "x", app)),
        (2, "two ways", ("--call", "x", label, "--", "true")),
        (2, "--call is after", (label, "--call", "x")),
        (2, "/nowhere/x cannot be written", ("-o", "/nowhere/x", "--call", "x", label)),
        (2, "no number from 1 to 3600", ("--seconds", "0", label)),
    ):
        found = boesfsctl(lab, "learn", *words)
        assert (found[0], found[1]) == (status, ""), (words, found)
        assert said in found[2], (words, found)
    for before in ("mine", None):  # what cannot be learned leaves the file as it was
        lab.machine.shell(f"printf {before} > /srv/mine" if before else "rm /srv/mine")
        assert boesfsctl(lab, "learn", "-o", "/srv/mine", "--call", "x", f"{app}/nobody")[0] == 4
        assert lab.machine.shell("cat /srv/mine 2>/dev/null || true") == (before or "")
        assert lab.machine.run("test", "-e", "/srv/mine", check=False).returncode == (0 if before else 1)
    bus = lab.bus
    with pytest.raises(BusError, match="does not learn"):
        bus.call(function.path, FUNCTION, "StopLearning", "ua{sv}", 1, {})


def test_what_cannot_be_meant_is_named(lab: Lab, app: str, policy: str) -> None:
    for status, said, words in (
        (4, "nowhere", ("show", "nowhere")),
        (4, "nowhere", ("show", "nowhere/f")),
        (4, "nobody", ("diff", "-f", policy, f"{app}/nobody")),
        (2, "neither APP nor APP/FN", ("show", "/f")),
        (2, "neither APP nor APP/FN", ("show", f"{app}/")),
        (2, "no APP/FN", ("test", app, "read", "/x")),
        (2, "an app has no table", ("show", "--table", app)),
        (2, "two answers", ("set", "--none", "-f", policy, app)),
        (2, "not said which policy", ("set", app)),
        (2, "/nowhere.yaml cannot be read", ("set", "-f", "/nowhere.yaml", app)),
        (2, "not UTF-8", ("show", "b\udcff/f")),
    ):
        got, out, error = boesfsctl(lab, "policy", *words)
        assert (got, out, error.count("\n")) == (status, "", 1), (words, error)
        assert error.startswith("boesfsctl: "), error
        assert said in error, (words, error)


def test_who_may_not_set_a_policy_is_told(lab: Lab, app: str, policy: str) -> None:
    as_nobody = ("runuser", "-u", "nobody", "--")
    Path(lab.machine.root, policy.lstrip("/")).chmod(0o644)
    status, _, error = boesfsctl(lab, "policy", "set", "-f", policy, app, prefix=as_nobody)
    assert status == 77, error
    assert boesfsctl(lab, "policy", "show", app, prefix=as_nobody)[0] == 0


def test_without_a_bus_it_says_so(lab: Lab) -> None:
    nowhere = ("env", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere")
    status, _, error = boesfsctl(lab, "policy", "show", "a/f", prefix=nowhere)
    assert (status, "The system bus cannot be reached" in error, error.count("\n")) == (70, True, 1), error
