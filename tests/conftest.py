"""What every test leaves behind as it found it."""

import gc
import os
import traceback
import warnings
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Frees what a failed test had in its hands: sockets, databases, directories.  Its frames live on in the traceback
    until some later test fails, and their ResourceWarnings would be errors of the test that runs just then."""
    report = yield
    if report.failed and not item.config.getoption("usepdb"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            clear_frames(call.excinfo.value)
            gc.collect()
    return report


def clear_frames(error):
    """Of that exception, and of all that it is made of or was raised in the course of."""
    todo, seen = [error], set()
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        todo += [error.__context__, error.__cause__, *getattr(error, "exceptions", ())]


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
