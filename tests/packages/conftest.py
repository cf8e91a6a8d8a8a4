# SPDX-License-Identifier: Apache-2.0
"""The packages are built once. A machine to install them in is the appliance without what `make install` puts there."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / name) for name in ("packaging", "tests/vm", "tests/appliance")]
from machine import Machine, build_root, take_out  # noqa: E402
from packages import build_deb  # noqa: E402


@pytest.fixture(scope="session")
def debs() -> Path:
    """The directory with the packages and their source."""
    return build_deb()


@pytest.fixture
def bare(debs: Path) -> Iterator[Machine]:
    """A host that has what the packages depend on; they are in /srv/deb, which apt takes for the archive."""
    build_root()
    with Machine("packages") as machine:
        take_out(machine.root)
        machine.shell("systemctl daemon-reload")
        machine.copy_in(debs, "/srv/deb")
        yield machine
