# SPDX-License-Identifier: Apache-2.0
"""Goes on where full_compiled ends, in a machine beside it."""

from compiled import agree
from full_compiled import OPERATIONS, OPERATIONS_OF_A_POLICY
from scene import SCALE, Scene


def test_kernel_and_oracle_agree_for_long(s: Scene) -> None:
    seed = OPERATIONS * SCALE // OPERATIONS_OF_A_POLICY
    agree(s, OPERATIONS * SCALE, seed=seed, each=OPERATIONS_OF_A_POLICY)
