# SPDX-License-Identifier: Apache-2.0
"""The one table of settings."""

import dataclasses
import json
import re

import jsonschema
import pytest

from boesfsd import options
from boesfsd.model import Settings
from boesfsd.options import STORED, TABLE, parse_cpuset, text_values

ISSUE_KEYS = {
    "memory", "cpu", "cpuset", "tasks", "files", "tmp_size", "log_rate", "timeout", "idle_timeout", "concurrency",
    "network", "ports", "runtime", "config", "replace", "dry-run",
}  # fmt: skip


def test_every_stored_option_is_a_field_of_settings_and_every_field_an_option() -> None:
    assert {option.field for option in STORED.values()} == {field.name for field in dataclasses.fields(Settings)}


def test_every_setting_of_the_issue_has_its_key() -> None:
    assert TABLE.keys() >= ISSUE_KEYS


def test_each_row_says_where_it_takes_effect_and_what_it_means() -> None:
    for key, option in TABLE.items():
        assert option.key == key
        assert option.where in ("unit", "agent", "router", "policy", "deploy")
        assert option.meaning
        assert option.default


@pytest.mark.parametrize("key", [key for key, option in STORED.items() if option.default.isdigit()])
def test_the_default_that_is_shown_is_the_one_that_holds(key: str) -> None:
    assert str(getattr(Settings(), STORED[key].field)) == STORED[key].default


@pytest.mark.parametrize("key", [key for key, option in STORED.items() if option.default.isdigit()])
def test_the_default_is_allowed(key: str) -> None:
    jsonschema.validate(int(STORED[key].default), STORED[key].schema)


def test_the_schemas_are_valid_and_plain_json() -> None:
    schema = options.schema(TABLE)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_the_router_and_deploy_rows_are_just_these() -> None:
    assert {key for key, option in TABLE.items() if option.where == "deploy"} == {"replace", "dry-run"}
    assert {key for key, option in TABLE.items() if option.where == "router"} == {"concurrency"}


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", set()), ("0", {0}), ("0-3", {0, 1, 2, 3}), ("1,3-4", {1, 3, 4}), ("2,2", {2}), ("7-7", {7})],
)
def test_a_cpuset_names_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpuset(text) == cpus
    assert text == "" or re.search(options.CPUSET, text)


@pytest.mark.parametrize("text", ["-", "1-", "-1", "a", "1,,2", "1-2-3", "0 1", "99999", "1,"])
def test_what_is_no_cpuset_does_not_match(text: str) -> None:
    assert not re.search(options.CPUSET, text)


def test_values_of_variables_become_the_text_that_people_expect() -> None:
    assert text_values({"A": True, "B": 8080, "C": 1.5, "D": "x", "E": False}) == {
        "A": "true", "B": "8080", "C": "1.5", "D": "x", "E": "false",
    }  # fmt: skip
