"""What a child is handed before its sandbox, and that nothing else comes in this way."""

import os
import socket
import sys

import pytest

from smtpd.boot import Handed, _take_all, command
from smtpd.imsg import TABLE, Begin, EnterSandbox, TakeSigningSocket
from smtpd.ipc.channel import Channel, ChannelClosed, Violation


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    parent, child = Channel(ours, TABLE, "parent", "crypto"), Channel(theirs, TABLE, "crypto", "parent")
    yield parent, child
    parent.close()
    child.close()


def test_signing_sockets_come_with_the_number_of_their_dispatcher(ends):
    parent, child = ends
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for number, (one, _) in zip((1, 1, 2), pairs, strict=True):
        parent.send(TakeSigningSocket(number), os.dup(one.fileno()))
    parent.send(EnterSandbox())
    parent.flush()
    handed = Handed(child)
    _take_all(handed, "crypto", None)
    assert [number for number, _ in handed.signing] == [1, 1, 2]
    for (_, theirs), (_, other) in zip(handed.signing, pairs, strict=True):
        other.send(b"packet")
        assert theirs.recv(100) == b"packet"
        theirs.close()
    for pair in pairs:
        for end in pair:
            end.close()


def test_what_comes_later_does_not_come_before_the_sandbox(ends):
    parent, child = ends
    parent.send(Begin())
    parent.flush()
    with pytest.raises(Violation, match="unexpected Begin"):
        _take_all(Handed(child), "crypto", None)


def test_what_comes_with_the_order_to_enter_the_sandbox_is_not_lost_unseen(ends):
    parent, child = ends
    parent.send(EnterSandbox())
    parent.send(Begin())
    parent.flush()
    with pytest.raises(Violation, match="Begin from parent before SandboxEntered"):
        _take_all(Handed(child), "crypto", None)


def test_without_a_parent_nothing_is_waited_for(ends):
    parent, child = ends
    parent.close()
    with pytest.raises(ChannelClosed):
        _take_all(Handed(child), "crypto", None)


def test_a_process_is_a_fresh_interpreter_that_looks_nowhere_but_in_its_own_places():
    assert command("queue", "-f", "x") == [sys.executable, "-I", "-P", "-m", "smtpd", "-x", "queue", "-f", "x"]
