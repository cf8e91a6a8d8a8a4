# SPDX-License-Identifier: Apache-2.0
"""The error table, and that the code uses nothing beside it."""

import re

import pytest
from samples import ROOT

from boesfsd import errors
from boesfsd.errors import TABLE, BoesError
from boesfsd.wire import REASONS


def test_every_row_is_found_under_the_last_part_of_its_d_bus_name() -> None:
    for code, kind in TABLE.items():
        assert kind.name in (errors.PREFIX + code, errors.STANDARD + code)


def test_no_two_rows_share_a_name() -> None:
    text = (ROOT / "boesfsd/errors.py").read_text()
    assert len(TABLE) == len(re.findall(r"^        Kind\(", text, re.MULTILINE))


def test_statuses_are_errors_and_exit_statuses_are_not_success() -> None:
    for kind in TABLE.values():
        assert 400 <= kind.http <= 599
        assert 1 <= kind.exit <= 125
        assert kind.when


def test_every_http_status_of_the_table_has_its_reason_phrase() -> None:
    used = {kind.http for kind in TABLE.values() if not kind.name.startswith(errors.STANDARD)}
    assert used <= REASONS.keys()


def test_every_code_that_is_raised_is_in_the_table() -> None:
    raised = {
        code
        for file in (ROOT / "boesfsd").rglob("*.py")
        for code in re.findall(r"BoesError\(\s*\"([A-Za-z]+)\"", file.read_text())
    }
    assert raised
    assert raised <= TABLE.keys()


def test_every_code_the_agent_answers_with_is_in_the_table() -> None:
    text = (ROOT / "agent/relay.c").read_text()
    codes = set(re.findall(r'\b[45]\d\d, "([A-Z][A-Za-z]+)"', text))
    assert {"FunctionFailed", "InvalidResponse"} & codes
    assert codes <= TABLE.keys()


def test_a_hint_follows_the_message() -> None:
    assert str(BoesError("NoSuchApp", "App x does not exist", hint="make it")) == "App x does not exist. Hint: make it"
    assert str(BoesError("NoSuchApp", "App x does not exist")) == "App x does not exist"


def test_an_unknown_code_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        BoesError("Nonsense", "x")
