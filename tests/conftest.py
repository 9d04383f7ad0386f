"""What every test leaves behind as it found it."""

import gc
import os
import traceback
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from smtpd.ipc.log import log
from tests import once
from tests.recorder import recorded
from tests.trusted import UNTRUSTED

# How long an example takes depends on what else the machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# The files that take longest, which are begun first, so that none is left alone in the end.
LONGEST = "live/tls_scan live/corpus live/death live/tls_flood live/takeover live/forged live/tls_key live/tls_reload"
LONGEST += " live/tls_protocol live/load live/mbox live/kill sandbox/siege smtpctl/smtpctl queue/delivery smtp/talk"
LONGEST += " scheduler/policy config/common_mistakes corpus/corpus queue/incoming queue/reexpansion queue/slow_agents"
FIRST = {Path(__file__).parent / f"{file.replace('/', '/test_')}.py": n for n, file in enumerate(LONGEST.split())}


# The exceptions among the parameters of tests.
parameters = []


def pytest_collection_modifyitems(items):
    calls = [item.callspec for item in items if hasattr(item, "callspec")]
    parameters[:] = [value for call in calls for value in call.params.values() if isinstance(value, BaseException)]
    items.sort(key=lambda item: FIRST.get(item.path, len(FIRST)))


def pytest_collection_finish():
    """A collection of garbage in a test then looks at what that test has made, and not at fourteen thousand tests."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    if UNTRUSTED:
        terminalreporter.write_line(f"daemons were started with --insecure-paths: {UNTRUSTED}")
    if path := os.environ.get("TEST_RESULT"):  # for the last lines of tests/run.sh
        numbers, _ = terminalreporter.build_summary_stats_line()
        Path(path).write_text(", ".join(text for text, _ in numbers))


def pytest_ignore_collect(collection_path):
    """TEST_ONCE=without: not what is run once; TEST_ONCE=only: nothing else."""
    wanted = os.environ.get("TEST_ONCE")
    if wanted and collection_path.suffix == ".py" and (collection_path in once.FILES) == (wanted == "without"):
        return True
    return None


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("TEST_ONCE") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """A test that is run once must not do what depends on the user."""
    if item.path not in once.FILES:
        return (yield)
    with once.Watch() as item.watch:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    yield
    if hasattr(item, "watch") and (found := {*item.watch.found, *once.words_of_module(item.path)}):
        pytest.fail(f"it may depend on the user, so it has to run as root too (tests/once.py): {sorted(found)}")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    """Frees what a test had that raised its own parameter: an exception holds the frames in which it was raised, and a
    parameter stays for as long as there are tests."""
    for error in parameters:
        error.__traceback__ = error.__context__ = None


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
