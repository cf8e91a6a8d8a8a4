# SPDX-License-Identifier: Apache-2.0
"""Bounds of time in tests: kept as they are promised, on machines that pause now and then."""

import functools
from collections.abc import Callable
from typing import ParamSpec

Given = ParamSpec("Given")

TRIES = 3
"""A fault of the product is late each time; a machine that gives its processors to others is not."""


class LateError(AssertionError):
    """Something came true outside its bounds of time."""


def took(seconds: float, at_most: float, at_least: float = 0) -> None:
    """SECONDS are more than AT_LEAST and fewer than AT_MOST.

    LateError: they are too many; AssertionError: too few, which no busy machine explains
    """
    assert seconds > at_least, f"after {seconds:.3f} s already, not {at_least} s"
    if seconds >= at_most:
        raise LateError(f"after {seconds:.3f} s, which is not within {at_most} s")


def punctual(test: Callable[Given, None]) -> Callable[Given, None]:
    """Have TEST repeated, up to three times in all, as long as all that is wrong is that it was late."""

    @functools.wraps(test)
    def repeated(*args: Given.args, **kwargs: Given.kwargs) -> None:
        for _ in range(TRIES - 1):
            try:
                return test(*args, **kwargs)
            except LateError as late:
                print(f"once more: {late}")
        return test(*args, **kwargs)

    return repeated
