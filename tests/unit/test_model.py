# SPDX-License-Identifier: Apache-2.0
"""Ids and names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import app, function

from boesfsd import model, units
from boesfsd.errors import BoesError
from boesfsd.model import check_app_name, check_function_name, new_id

BAD = ["", "x" * 256, "x" * 300, ".", "..", "a/b", "/", "é", "a\n", "\n", "a b", "a\0", "a\t", "a%", "a\\", "²"]


def test_an_id_has_26_characters_of_crockfords_alphabet() -> None:
    for _ in range(1000):
        assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", new_id())


def test_ids_do_not_repeat() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_ids_sort_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1_000_000_000_000_000_000, 1_000_000_000_000_000_000 + 100 * 1_000_000, 1_000_000))
    monkeypatch.setattr(model.time, "time_ns", lambda: next(times))
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(ids)


def test_an_id_begins_with_its_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.time, "time_ns", lambda: 1_469_918_176_385 * 1_000_000)
    assert new_id().startswith("01ARYZ6S41")  # the example of the ULID specification, 10 characters of time


@pytest.mark.parametrize("check", [check_app_name, check_function_name])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused(check: Callable[[str], str], name: str) -> None:
    with pytest.raises(BoesError) as refused:
        check(name)
    assert refused.value.code == "InvalidArgs"
    assert "name" in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("name", ["a.b", "a:b", "a@b", "a~b"])
def test_only_a_function_may_have_dots_colons_at_signs_and_tildes(name: str) -> None:
    assert check_function_name(name) == name
    with pytest.raises(BoesError, match=r"letters, digits, _ and -"):
        check_app_name(name)


@pytest.mark.parametrize("check", [check_app_name, check_function_name])
@pytest.mark.parametrize("name", ["a", "A-Z_9", "-", "_", "0", "x" * model.NAME_MAX])
def test_a_good_name_comes_back(check: Callable[[str], str], name: str) -> None:
    assert check(name) == name


def test_the_longest_allowed_name_fits_every_file_that_is_named_by_it(tmp_path: Path) -> None:
    """units.BY_NAME/APP/FUNCTION: beyond NAME_MAX the kernel says ENAMETOOLONG, after the store has the row."""
    name = check_function_name("x" * model.NAME_MAX)
    (tmp_path / name).symlink_to("/nowhere")


def test_the_longest_socket_path_fits_sun_path() -> None:
    assert len(str(units.socket_path(new_id(), 999))) <= 107


def test_an_app_has_a_slice_below_boesfs_slice() -> None:
    assert re.fullmatch(r"boesfs-[0-9A-Z]{26}\.slice", app().slice)  # no further dash: that would be a level more


def test_a_label_is_app_and_function() -> None:
    assert function().label == "shop/hello"
