"""For all tests: where CI runs, a test that was skipped is a failure."""

import os

import pytest
import torch

ALLOWED = "no real cases of"


@pytest.fixture
def in_double_precision():
    """Build and draw in double precision.

    In single precision two ways to one number differ by as much as processors do.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Say in one line what was skipped."""
    reasons = sorted(set(_reasons(terminalreporter)))
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(reasons))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail where ``FEDSEG_NO_SKIPS`` is set and anything but real data was missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("FEDSEG_NO_SKIPS") and exitstatus == 0 and reporter is not None:
        missing = [reason for reason in _reasons(reporter) if ALLOWED not in reason]
        if missing:
            session.exitstatus = 1


def _reasons(reporter):
    for report in reporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            yield report.longrepr[2].removeprefix("Skipped: ")
