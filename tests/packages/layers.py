# SPDX-License-Identifier: Apache-2.0
"""Commands beside what was built, in a Debian 13 that has the tools for it."""

import subprocess
from pathlib import Path

from packages import CLEAN, in_layers
from workshop import WORKSHOP


def layer_of(name: str, **trees: Path) -> Path:
    """A directory for `checked`, in which TREES are copied, each by its name."""
    place = CLEAN / name
    subprocess.run(["rm", "-rf", str(place)], check=True)
    place.mkdir(parents=True)
    for part, tree in trees.items():
        subprocess.run(["cp", "-r", str(tree), str(place / part)], check=True)
    return place


def checked(layer: Path, script: str, beside: Path | None = None) -> str:
    """What SCRIPT says in a Debian with LAYER over it, and BESIDE at /mnt; it is shown if it fails. What it changes
    counts for nothing."""
    return in_layers([layer, WORKSHOP], CLEAN / f"{layer.name}-check", script, beside=beside)
