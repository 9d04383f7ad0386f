"""Descriptors that travel with a frame which does not leave in one piece."""

import os
import socket

import pytest

from smtpd.ipc.channel import Channel
from smtpd.ipc.declaration import Table

TABLE = Table()


@TABLE.declare("a -> b", descriptor=True, limit=200_000)
class Hand:
    data: bytes


@pytest.fixture
def narrow():
    """Two channels over a socket that takes a few kilobytes at a time."""
    one, other = socket.socketpair()
    for end in (one, other):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    a, b = Channel(one, TABLE, "a", "b"), Channel(other, TABLE, "b", "a")
    yield a, b
    a.close()
    b.close()


def test_a_descriptor_goes_once_with_a_frame_that_goes_in_parts(narrow):
    a, b = narrow
    ends = [os.pipe() for _ in range(3)]
    for _, writing in ends:
        a.send(Hand(bytes(100_000)), writing)
    assert not a.flush()
    received, flushes = [], 1
    while len(received) < 3:
        a.flush()
        flushes += 1
        received += b.receive()
    assert flushes > 10
    assert len({descriptor for _, descriptor in received}) == 3
    for (reading, _), (_, descriptor) in zip(ends, received, strict=True):
        os.write(descriptor, b"x")
        os.close(descriptor)
        assert os.read(reading, 10) == b"x"
        assert os.read(reading, 1) == b""  # no other copy is left anywhere
        os.close(reading)


def test_what_was_sent_in_part_is_not_closed_before_it_has_left(narrow):
    a, _ = narrow
    reading, writing = os.pipe()
    a.send(Hand(bytes(10)), writing)
    os.fstat(writing)
    a.flush()
    with pytest.raises(OSError):
        os.fstat(writing)
    os.close(reading)
