# SPDX-License-Identifier: Apache-2.0
"""Kernel and oracle for long, and full_compiled_on goes on: a million operations with the scale of make soak."""

from compiled import agree
from scene import SCALE, Scene

OPERATIONS, OPERATIONS_OF_A_POLICY = 150_000, 300


def test_kernel_and_oracle_agree_for_long(s: Scene) -> None:
    agree(s, OPERATIONS * SCALE, each=OPERATIONS_OF_A_POLICY)
