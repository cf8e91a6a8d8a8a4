# SPDX-License-Identifier: Apache-2.0
"""What SetPolicy and ComparePolicy are given, and what D-Bus can carry; tests/vm has policies that judge."""

import pytest

from boesfsd import live
from boesfsd.bus import connection
from boesfsd.bus.connection import Variant
from boesfsd.errors import BoesError
from boesfsd.model import PolicyBlock, PolicyFiles


def test_a_policy_is_a_block_or_the_originals_two_files_or_none() -> None:
    assert live.read_policy("rules: []", {"file": "p.yaml"}, live.SETTING) == PolicyBlock("p.yaml", "rules: []")
    files = {"model": "[m]", "model-file": "m.conf", "file": "p.csv"}
    assert live.read_policy("p, /a", files, live.SETTING) == PolicyFiles("m.conf", "[m]", "p.csv", "p, /a")
    assert live.read_policy("", {}, live.SETTING) is None


def test_an_empty_file_is_not_none() -> None:
    with pytest.raises(BoesError, match="yaml is empty"):
        live.read_policy("", {"file": "p.yaml"}, live.SETTING)
    assert live.read_policy("", {"model": ""}, live.SETTING) is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strickt": True}, "unknown key strickt"),
        ({"app": True}, "unknown key app"),
        ({"strict": "yes"}, "strict: must be a boolean"),
        ({"model": 1}, "model: must be a string"),
    ],
)
def test_options_that_cannot_be_meant_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(BoesError, match=said):
        live.read_policy("rules: []", given, live.SETTING)


def test_a_policy_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLICY_MAX", 10)
    with pytest.raises(BoesError, match="csv is over"):
        live.read_policy("p, /a", {"model": "[model]", "file": "m.csv"}, live.SETTING)


def test_what_is_too_long_to_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_ROWS", 3)
    assert live._bounded(lambda: ["a"] * 3) == ["a"] * 3
    with pytest.raises(BoesError, match="over 3 lines"):
        live._bounded(lambda: ["a"] * 4)
    monkeypatch.setattr(live, "MOST_TEXT", 100)
    with pytest.raises(BoesError, match="of text"):
        live._bounded(lambda: ["a" * 200])


def test_what_d_bus_does_not_carry_is_escaped_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = ["a\udcff", ["n\0l", {"é": Variant("s", "x\udc00")}], 5]
    clean = connection._sendable(body)
    assert (clean[0], clean[1][0], clean[2]) == ("a\\udcff", "n\\x00l", 5)
    assert clean[1][1]["é"].value == "x\\udc00"
    monkeypatch.setattr(connection, "LONGEST", 1000)
    with pytest.raises(BoesError, match="which D-Bus does not carry"):
        connection._sendable([["a" * 100] * 10])
