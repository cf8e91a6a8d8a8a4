# SPDX-License-Identifier: Apache-2.0
"""Limits as a kernel with all cgroup v2 controllers enforces them, which a container on a machine with cgroup v1 cannot
show. One boot; each check that checks.py makes in there is a test here."""

import pytest
from checks import NAMES
from vm import Report


@pytest.mark.parametrize("name", NAMES)
def test_on_a_kernel_of_its_own(report: Report, name: str) -> None:
    assert name in report.results, f"no result: the VM ended after {report.seconds:.0f} s\n{report.console[-3000:]}"
    ok, detail = report.results[name]
    assert ok, f"{detail}\n{report.journal[-3000:]}"


def test_the_kernel_has_nothing_to_complain_of(report: Report) -> None:
    assert report.console
    assert report.broken == []
