# SPDX-License-Identifier: Apache-2.0
"""What a policy may say and probably does not mean: rules that decide nothing, and places that are not there."""

from collections.abc import Iterator, Sequence, Set

from boesfsd.policy.places import DEPTH, Component, Glob, Place, split
from boesfsd.policy.rules import PLATFORM, Finding, Policy, Program, Rule
from boesfsd.policy.table import Table


def of(policy: Policy, table: Table, mounts: Sequence[str]) -> Iterator[Finding]:
    """In the order of the rules, each once. MOUNTS are the paths where the sandbox has something; none: not known."""
    idle = {id(rule): rule for rule in table.idle}
    if not idle and not mounts:
        return
    known = [split(mount.encode()) for mount in mounts]
    whole: dict[tuple[Component, ...], bool] = {}  # many places have their directory in common
    for rule in policy.rules:
        verdict, place, _ = rule
        if verdict.layer == PLATFORM:
            continue
        above = place.components[:-1]
        found = whole.get(above)
        if found is None:
            found = whole[above] = not known or any(above[: len(mount)] == mount for mount in known)
        if not found and not any(is_inside(place, mount) for mount in known):
            told = "the sandbox has nothing there"
            yield Finding(rule.origin, f"{rule.place}: {told}", f"it has {', '.join(sorted(mounts))}")
        elif id(rule) in idle:
            yield _idle(policy, rule)


def _idle(policy: Policy, rule: Rule) -> Finding:
    verdict, default = rule.verdict, policy.default
    effect = "allows" if verdict.allow else "denies"
    if not verdict.operations:
        problem, remedy = "nobody asks for its operation", "leave it out"
    elif verdict.operations & (default if not verdict.allow else ~default):
        problem, remedy = "other rules decide all that it is about", "leave it out, or make its place more specific"
    else:
        problem = f"it {effect} what the default {effect} already"
        remedy = "leave it out, or change default:"
    return Finding(rule.origin, f"{rule.place}: this rule decides nothing: {problem}", remedy)


def is_inside(place: Place, mount: tuple[bytes, ...]) -> bool:
    """Whether something at or above MOUNT, or below it, can be at PLACE."""
    for component, name in zip(place.components, mount, strict=False):
        if component is DEPTH:
            return True
        if isinstance(component, Glob) and not component.matches(name):
            return False
        if isinstance(component, bytes) and component != name:
            return False
    return True


def missing(policy: Policy, programs: Set[str]) -> Iterator[Finding]:
    """Rules for PROGRAMS, which the sandbox has not, each once."""
    told = set()
    for verdict, _, origin in policy.rules:
        for test in verdict.tests:
            if isinstance(test, Program) and test.path in programs and (origin, test.path) not in told:
                told.add((origin, test.path))
                remedy = "write its path in the sandbox, and deploy again when it is there"
                yield Finding(origin, f"{test.path}: the sandbox has no such program: this rule is for nobody", remedy)
