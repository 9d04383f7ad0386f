"""What every test leaves behind as it found it."""

import pytest

from smtpd.ipc.log import log


@pytest.fixture(autouse=True)
def own_log():
    """A loop that a test has closed must not be asked to flush the log of the next one."""
    yield
    log.later = None
    log.flush()
    log.verbose = False
