"""What holds for agents of all kinds."""

import os
import signal

import pytest

from smtpd.agent.process import prepare
from smtpd.errand import AgentSpec


def test_a_reader_that_went_and_a_limit_are_errors_and_not_the_end():
    """As any new program, an agent begins with signals that would kill it."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        prepare(AgentSpec("forward"), "bob", "/nonexistent")
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        os.close(writing)
    finally:
        for number, action in before.items():
            signal.signal(number, action)
