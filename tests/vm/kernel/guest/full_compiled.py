# SPDX-License-Identifier: Apache-2.0
"""Kernel and oracle for long: a million operations with the scale of make soak."""

from compiled import agree, agree_while_replaced
from scene import SCALE, Scene

OPERATIONS, WHILE_REPLACED = 300_000, 34_000


def test_kernel_and_oracle_agree_for_long(s: Scene) -> None:
    agree(s, OPERATIONS * SCALE)


def test_kernel_and_oracle_agree_for_long_while_policies_take_turns(s: Scene) -> None:
    agree_while_replaced(s, WHILE_REPLACED * SCALE)
