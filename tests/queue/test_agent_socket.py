"""Our end of the socket to an agent: what it answered counts, however it ends; what is watched, and for how long."""

import errno
import os
import socket

import pytest

from smtpd import errand as frames
from smtpd.envelope import Outcome
from smtpd.errand import ReadForward, Result
from smtpd.ipc.channel import LONGEST_PAUSE
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.queue.agents.agent_socket import PACKETS_PER_TURN, AgentSocket, BegunErrand
from tests.ipc.test_refusal import Kernel
from tests.queue.test_agent_queue import Something

ANSWER = Result(7, Outcome.DELIVERED, "Delivered")


class Ends:
    """The socket that is tested, the agent's end of it, and what was heard."""

    def __init__(self, loop):
        one, self.agent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel = Kernel(fileno=one.detach())
        self.heard = []
        self.socket = AgentSocket(loop, self.kernel, 1, self.heard.append, self.gone)

    def gone(self, reason):
        self.heard.append(reason)
        self.socket.close()

    def send(self):
        begun = BegunErrand(Something(7), 1.0)
        self.socket.send(begun, b"frame", None)
        return begun


@pytest.fixture
def loop():
    made = SelectorLoop()
    yield made
    made.close()


@pytest.fixture
def ends(loop):
    made = Ends(loop)
    yield made
    made.agent.close()
    if not made.socket._closed:
        made.socket.close()


def test_what_an_agent_answered_before_it_ended_is_heard_before_its_end(ends):
    ends.agent.send(frames.encode(ANSWER))
    ends.agent.close()
    assert not ends.send().sent
    assert ends.heard == [ANSWER, "it has ended"]


def test_an_agent_to_which_nothing_can_be_sent_has_ended_though_more_of_it_can_be_read(ends):
    for _ in range(PACKETS_PER_TURN + 1):
        ends.agent.send(frames.encode(ANSWER))
    ends.kernel.refuses = errno.EPIPE
    ends.send()
    assert ends.heard == [ANSWER] * PACKETS_PER_TURN + [f"nothing can be sent to it: {os.strerror(errno.EPIPE)}"]


def test_a_request_of_an_agent_breaks_the_protocol(ends):
    ends.agent.send(frames.encode(ReadForward(7)))
    ends.socket._readable()
    assert ends.heard == ["it broke the protocol: a request"]


def test_an_agent_that_leaves_mail_unread_has_answered_all_the_same(ends):
    ends.send()
    ends.agent.send(frames.encode(ANSWER))
    ends.agent.close()  # the next read says ECONNRESET
    ends.socket._readable()
    assert ends.heard == [ANSWER, "it has ended"]


def fill(ends):
    """Until the socket takes no more."""
    count = 0
    while ends.send().sent:
        count += 1
    return count + 1


def test_a_socket_that_has_taken_all_is_not_watched_for_room_any_more(ends, loop):
    count = fill(ends)
    for _ in range(count - 1):
        ends.agent.recv(100)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert ends.agent.recv(100) == b"frame"
    assert not loop.remove_writer(ends.kernel.fileno())


def test_a_socket_that_the_kernel_refuses_to_send_on_is_not_watched_for_room(ends, loop):
    fill(ends)
    ends.kernel.refuses = errno.ETOOMANYREFS
    ends.socket._flush()
    assert not loop.remove_writer(ends.kernel.fileno())
    assert 0 < ends.socket._pause <= LONGEST_PAUSE
