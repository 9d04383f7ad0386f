"""The end of a dispatcher: queue gets to know what became of each mail."""

import socket
import threading

import pytest

from smtpd.dispatcher import process
from smtpd.envelope import Outcome, RelayResult
from smtpd.imsg import TABLE, RelayTried
from smtpd.ipc.channel import Channel, ChannelClosed

WAIT_MAX = 10.0  # seconds that a test waits for what has to come
RESULTS = 5000  # far more than a socket has room for


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    near, far = Channel(one, TABLE, "dispatcher", "queue"), Channel(other, TABLE, "queue", "dispatcher")
    yield near, far
    for channel in (near, far):
        if not channel.closed:
            channel.close()


def test_queue_gets_all_results_before_the_dispatcher_ends(ends, monkeypatch):
    near, far = ends
    flush, full = near.flush, threading.Event()
    monkeypatch.setattr(near, "flush", lambda: flush() or full.set())
    for number in range(1, RESULTS + 1):
        near.send(RelayTried(number, [RelayResult(number << 32, Outcome.DELIVERED, "250 2.0.0 Ok", 250)]))
    heard = []

    def read():
        full.wait(WAIT_MAX)
        far.sock.setblocking(True)
        try:
            while True:
                heard.extend(imsg.attempt for imsg, _ in far.receive())
        except ChannelClosed:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    process.flush_results(near)
    near.close()
    reader.join()
    assert heard == [*range(1, RESULTS + 1)]


@pytest.mark.parametrize("which", [0, 1])
def test_a_dispatcher_ends_without_queue_too(ends, which):
    near, _ = ends
    near.send(RelayTried(1, [RelayResult(1 << 32, Outcome.DELIVERED, "250 2.0.0 Ok", 250)]))
    ends[which].close()
    process.flush_results(near)
