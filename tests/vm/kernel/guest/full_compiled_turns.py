# SPDX-License-Identifier: Apache-2.0
"""Kernel and oracle for long, while policies take turns: what full_compiled leaves of the million."""

from compiled import agree_while_replaced
from full_compiled import OPERATIONS_OF_A_POLICY
from scene import SCALE, Scene

OPERATIONS = 34_000


def test_kernel_and_oracle_agree_for_long_while_policies_take_turns(s: Scene) -> None:
    agree_while_replaced(s, OPERATIONS * SCALE, each=OPERATIONS_OF_A_POLICY)
