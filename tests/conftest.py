# SPDX-License-Identifier: Apache-2.0
"""A test that is skipped says why; where BOESFS_REQUIRE is set, as in CI, that is a failure."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures when everything is required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("BOESFS_REQUIRE"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but BOESFS_REQUIRE is set: {report.longrepr}"
    return report
