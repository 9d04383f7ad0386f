"""What every test leaves behind as it found it."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from smtpd.ipc.log import log
from tests.recorder import recorded
from tests.trusted import UNTRUSTED

# How long an example takes depends on what else the machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_terminal_summary(terminalreporter):
    if UNTRUSTED:
        terminalreporter.write_line(f"daemons were started with --insecure-paths: {UNTRUSTED}")
    if path := os.environ.get("TEST_RESULT"):  # for the last lines of tests/run.sh
        numbers, _ = terminalreporter.build_summary_stats_line()
        Path(path).write_text(", ".join(text for text, _ in numbers))


@pytest.fixture(autouse=True)
def own_log():
    """A loop that a test has closed must not be asked to flush the log of the next one."""
    yield
    for replaced in ("line", "trouble"):  # by a test that has failed before it put them back
        vars(log).pop(replaced, None)
    log.later = None
    log.flush()
    log.verbose = False


@pytest.fixture
def recorder(tmp_path):
    """Records the order of what is done to files below `tmp_path`, and of what is sent: tests/recorder.py."""
    with recorded(tmp_path) as made:
        yield made
