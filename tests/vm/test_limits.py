# SPDX-License-Identifier: Apache-2.0
"""The product on a kernel of its own: limits as it enforces them with all cgroup v2 controllers, which a container on a
machine with cgroup v1 cannot show, and files as BoesFS shows them. One boot; each check that is made in there is a test
here."""

import learn_checks  # noqa: F401 (as the next)
import limits_checks  # noqa: F401 (their checks are in the list by that)
import policy_checks  # noqa: F401
import promise_checks  # noqa: F401
import pytest
import run_checks  # noqa: F401
import uninstall_checks  # noqa: F401
from bench import names
from vm import Report


def holds(report: Report, name: str) -> None:
    assert name in report.results, f"no result: the VM ended after {report.seconds:.0f} s\n{report.console[-3000:]}"
    ok, detail = report.results[name]
    assert ok, f"{detail}\n{report.journal[-3000:]}"


@pytest.mark.parametrize("name", names("limits_checks"))
def test_on_a_kernel_of_its_own(report: Report, name: str) -> None:
    holds(report, name)


@pytest.mark.parametrize(
    "name",
    [name for module in ("policy", "learn", "run", "promise", "uninstall") for name in names(f"{module}_checks")],
)
def test_with_boesfs(report: Report, name: str) -> None:
    holds(report, name)


def test_the_kernel_has_nothing_to_complain_of(report: Report) -> None:
    assert report.console
    assert report.broken == []
