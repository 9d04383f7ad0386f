"""What the dispatcher's threads hand back to its loop: steps of handshakes, and writes to spool files."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from smtpd.dispatcher.inbound import handshake
from smtpd.dispatcher.inbound.content import INLINE_MAX, IncomingContent, MemoryUse
from smtpd.dispatcher.inbound.handshake import HandshakePool
from smtpd.dispatcher.inbound.resources import WRITER_THREADS
from smtpd.imsg import SpoolFileOpened
from smtpd.ipc.log import Log
from smtpd.ipc.loop import prepare
from tests.stress import hasty_threads, rounds, run_until_stopped

CLIENTS, STEPS = 24, 2  # so few that a pipe takes what the log says of them


@pytest.fixture
def loop():
    made = prepare()
    yield made
    made.close()


class Steps:
    """A handshake of so many steps, each in a thread; every other one fails."""

    concluded = False

    def __init__(self, handshakes, number, ended):
        self.network = f"network {number % 5}"
        self._handshakes, self._number, self._ended = handshakes, number, ended
        self._left = STEPS

    def take(self):
        return b"x" * self._number

    def step(self, data):
        assert len(data) == self._number
        if self._number % 2:
            raise RuntimeError("a defect")

    def fail(self, reason):
        raise AssertionError(reason)

    def stepped(self, _outcome):
        self._left -= 1
        if self._left:
            self._handshakes.submit(self)
        else:
            self._ended()


def test_hand_over_every_step_of_a_handshake_comes_back(loop, monkeypatch):
    """And every defect is in the log, told by the thread that met it."""
    reading, writing = os.pipe()
    log = Log(writing)
    log.attach(loop)
    monkeypatch.setattr(handshake, "log", log)
    handshakes, left = HandshakePool(loop), 0

    def ended():
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    with hasty_threads():
        for _ in rounds(8):
            left = CLIENTS
            for number in range(CLIENTS):
                handshakes.submit(Steps(handshakes, number, ended))
            run_until_stopped(loop)
            assert len(handshakes) == 0
            log.flush()
            assert os.read(reading, 1 << 16).count(b": RuntimeError: a defect\n") == CLIENTS // 2 * STEPS * 2
        handshakes.close()
    os.close(reading)
    os.close(writing)


class Opened:
    """Queue, which opens a spool file for each that asks, in the next turn of the loop."""

    def __init__(self, loop, directory):
        self._loop, self._directory = loop, directory

    def ask(self, make, answered):
        request = make(1)
        path = self._directory / f"{request.message}"
        self._loop.call_soon(answered, SpoolFileOpened(1), os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def test_hand_over_every_piece_of_a_mail_is_written_once_and_in_order(loop, tmp_path):
    writers, memory = ThreadPoolExecutor(WRITER_THREADS), MemoryUse()
    pieces = [bytes([number]) * 3000 for number in range(20)]
    outcomes = {}

    def finished(message, outcome):
        assert message not in outcomes
        outcomes[message] = outcome
        if len(outcomes) == CLIENTS:
            loop.stop()

    def feed(content, left):
        if left:
            content.add(left[0])
            loop.call_soon(feed, content, left[1:])
        else:
            content.finish(lambda outcome: finished(content.message, outcome))

    assert len(b"".join(pieces)) > INLINE_MAX
    with hasty_threads():
        for _ in rounds(5):
            outcomes.clear()
            opened = Opened(loop, tmp_path)
            contents = [
                IncomingContent(message, memory, opened, loop, writers, lambda: None)
                for message in range(1, CLIENTS + 1)
            ]
            for content in contents:
                feed(content, pieces)
            run_until_stopped(loop)
            assert set(outcomes.values()) == {b""}
            for content in contents:
                assert (tmp_path / str(content.message)).read_bytes() == b"".join(pieces)
                (tmp_path / str(content.message)).unlink()
                content.close()
            assert memory.used == 0
    writers.shutdown()
