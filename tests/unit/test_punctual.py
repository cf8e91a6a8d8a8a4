# SPDX-License-Identifier: Apache-2.0
"""The tests' own bounds of time: what is late each time fails, and nothing else is tried again."""

import pytest
from punctual import TRIES, LateError, punctual, took


def tried(*seconds: float) -> int:
    """How often a test is run that takes so many SECONDS each time, and has between 1 and 2."""
    runs = iter(seconds)
    count = 0

    @punctual
    def test() -> None:
        nonlocal count
        count += 1
        took(next(runs), 2, at_least=1)

    try:
        test()
    finally:
        assert next(runs, None) is None
    return count


def test_what_is_in_time_runs_once() -> None:
    assert tried(1.5) == 1


def test_a_test_that_is_late_is_tried_again() -> None:
    assert tried(9, 2, 1.5) == TRIES


def test_a_test_that_is_late_each_time_fails() -> None:
    with pytest.raises(LateError, match=r"after 9\.000 s, which is not within 2 s"):
        tried(9, 9, 9)


def test_what_comes_too_early_fails_at_once() -> None:
    with pytest.raises(AssertionError, match="already") as error:
        tried(0.5)
    assert not isinstance(error.value, LateError)
