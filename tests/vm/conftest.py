# SPDX-License-Identifier: Apache-2.0
"""One boot for all tests. The machine is made of the appliance's root, and its checks speak the appliance's words."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "appliance"))
from vm import Report, run

collect_ignore = ["kernel"]  # runs in machines, see test_kernel.py


@pytest.fixture(scope="session")
def report() -> Report:
    """What the guest said."""
    return run()
