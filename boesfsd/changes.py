# SPDX-License-Identifier: Apache-2.0
"""What a deployment changes and what is to be known of it, as rows for who asked: what is done, to what, which."""

from boesfsd import units
from boesfsd.model import Change, Function
from boesfsd.options import STORED
from boesfsd.policy.sources import Compiled


def deployed(existing: Function | None, function: Function) -> list[Change]:
    """By FUNCTION instead of EXISTING."""
    socket = units.socket_unit(function.id, 0)
    if existing is None:
        return [
            ("create", "function", function.label),
            ("create", "code", function.digest),
            ("start", "socket", socket),
        ]
    changes: list[Change] = [("update", "function", function.label)]
    if existing.digest != function.digest:
        changes.append(("update", "code", function.digest))
    changes += [
        ("update", "setting", option.key)
        for option in STORED.values()
        if getattr(existing.settings, option.field) != getattr(function.settings, option.field)
    ]
    if existing.policy != function.policy:
        changes.append(("update", "policy", function.label))
    return changes


def warnings(compiled: Compiled | None) -> list[Change]:
    """What a policy probably does not mean, as rows of a change list."""
    return [("warning", "policy", str(finding)) for finding in compiled.findings] if compiled else []
