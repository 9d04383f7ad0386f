"""Channels on an event loop: each test on uvloop and on the one over selectors."""

import os
import socket

import pytest

from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.channel_set import ChannelSet, connect
from smtpd.ipc.declaration import Table
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.ipc.selector_loop import SelectorLoop

TABLE = Table()


@TABLE.declare("a -> b -> a", limit=2**20)
class Word:
    text: str


@pytest.fixture(params=[prepare, SelectorLoop], ids=["uvloop", "selectors"])
def both(request):
    """A loop, its channels, and the two ends of one, which are not on it yet."""
    loop = request.param()
    if request.param is prepare:
        loop.set_exception_handler(None)  # an exception fails the test, and does not end this process
    channels = ChannelSet(loop)
    one, other = socket.socketpair()
    a, b = Channel(one, TABLE, "a", "b"), Channel(other, TABLE, "b", "a")
    yield loop, channels, a, b
    channels.remove(a)
    channels.remove(b)
    loop.close()


def fail(channel, error):
    raise AssertionError(error)


def turns(loop, count=8):
    """So many turns of the loop, none of which waits."""

    def again(left):
        if left:
            loop.call_soon(again, left - 1)
        else:
            loop.stop()

    loop.call_soon(again, count)
    loop.run_forever()


def test_what_a_channel_brings_goes_to_its_handler_in_order(both):
    loop, channels, a, b = both
    heard = []
    channels.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail)
    channels.add(a, lambda channel, imsg, descriptor: None, fail)
    for word in ("one", "two", "three"):
        a.send(Word(word))
    turns(loop)
    assert heard == ["one", "two", "three"]


def test_what_came_before_a_channel_was_added_comes_first(both):
    loop, channels, a, b = both
    heard = []
    a.send(Word("later"))
    a.flush()
    channels.add(
        b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail, [(Word("one"), None), (Word("two"), None)]
    )
    turns(loop)
    assert heard == ["one", "two", "later"]


def test_what_came_before_is_not_told_of_a_channel_that_was_removed_meanwhile(both):
    loop, channels, _, b = both
    channels.add(b, fail, fail, [(Word("one"), None)])
    channels.remove(b)
    turns(loop)


def test_a_violation_in_what_came_before_is_told_as_any_other(both):
    loop, channels, _, b = both
    told = []

    def refuse(channel, imsg, descriptor):
        raise Violation("never")

    channels.add(b, refuse, lambda channel, error: told.append(str(error)), [(Word("one"), None)])
    turns(loop)
    assert told == ["never"]


def test_an_answer_leaves_without_being_asked_to(both):
    loop, channels, a, b = both
    channels.add(b, lambda channel, imsg, descriptor: channel.send(imsg), fail)
    a.send(Word("ping"))
    a.flush()
    turns(loop)
    assert a.receive()[0][0].text == "ping"


def test_the_rest_of_a_full_socket_is_sent_when_there_is_room_and_blocks_nothing(both):
    loop, channels, a, b = both
    for end in (a, b):
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    heard = []
    channels.add(a, lambda channel, imsg, descriptor: None, fail)
    channels.add(b, lambda channel, imsg, descriptor: heard.append(len(imsg.text)), fail)
    for _ in range(5):
        a.send(Word("x" * 100_000))
    while len(heard) < 5:
        turns(loop)
    assert heard == [100_000] * 5 and a.bytes_waiting == 0


def test_two_that_saturate_each_other_both_get_through(both):
    loop, channels, a, b = both
    heard = {"a": 0, "b": 0}

    def count(channel, imsg, descriptor):
        heard[channel.me] += 1

    for end in (a, b):
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        channels.add(end, count, fail)
        for _ in range(50):
            end.send(Word("x" * 20_000))
    while heard != {"a": 50, "b": 50}:
        turns(loop)


def test_the_end_of_a_channel_is_told_once_after_what_was_still_to_be_read(both):
    loop, channels, a, b = both
    heard = []

    def ended(channel, error):
        heard.append(type(error))
        channels.remove(channel)

    channels.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), ended)
    a.send(Word("last"))
    a.flush()
    a.close()
    b.send(Word("nobody reads this"))
    turns(loop)
    assert heard == ["last", ChannelClosed]
    turns(loop)
    assert heard == ["last", ChannelClosed]


def test_what_a_peer_does_not_read_any_more_is_not_tried_again_and_again(both):
    """It has closed that direction only, so its end is not told, and poll says all the time that there is room."""
    loop, channels, a, b = both
    channels.add(b, fail, fail)
    a.sock.shutdown(socket.SHUT_RD)
    tries, flush = [], b.flush
    b.flush = lambda: tries.append(True) or flush()
    b.send(Word("nobody reads this"))
    turns(loop)
    assert len(tries) == 1


def test_nonsense_is_told_as_a_violation(both):
    loop, channels, a, b = both
    heard = []
    channels.add(b, fail, lambda channel, error: heard.append(type(error)))
    a.sock.send(b"\xff" * 8 + b"\0" * 56)
    turns(loop)
    assert heard == [Violation]


def test_a_violation_raised_by_a_handler_is_the_channel_s(both):
    loop, channels, a, b = both
    heard = []

    def handler(channel, imsg, descriptor):
        raise Violation("not now")

    channels.add(b, handler, lambda channel, error: heard.append(str(error)))
    a.send(Word("x"))
    a.flush()
    turns(loop)
    assert heard == ["not now"]


def test_what_was_sent_before_a_channel_came_to_the_loop_leaves(both):
    loop, channels, a, b = both
    a.send(Word("early"))
    heard = []
    channels.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail)
    channels.add(a, fail, fail)
    turns(loop)
    assert heard == ["early"]


def test_nothing_more_is_dispatched_of_a_channel_that_its_handler_has_removed(both):
    loop, channels, a, b = both
    heard = []

    def hear(channel, imsg, descriptor):
        heard.append(imsg.text)
        channels.remove(channel)

    channels.add(b, hear, fail)
    for word in ("one", "two"):
        a.send(Word(word))
    a.flush()
    turns(loop)
    assert heard == ["one"]


def test_a_channel_that_is_removed_is_closed_and_another_may_get_its_number(both):
    loop, channels, a, b = both
    number = b.fileno()
    channels.add(b, fail, fail)
    channels.remove(b)
    assert b.closed
    os.dup2(a.fileno(), number)
    loop.add_reader(number, lambda: None)
    loop.remove_reader(number)
    os.close(number)
    channels.remove(b)  # again: nothing happens


def test_nothing_is_kept_of_a_channel_that_is_removed_while_it_waits_for_room(both):
    loop, channels, a, _ = both
    channels.add(a, fail, fail)
    for _ in range(5):
        a.send(Word("x" * 900_000))
    turns(loop)
    assert channels._writing == {a}
    a.send(Word("more"))
    number = a.fileno()
    channels.remove(a)
    assert not channels._writing and not channels._touched
    assert not loop.remove_reader(number) and not loop.remove_writer(number)


def test_a_full_socket_is_waited_for_without_a_try_after_the_other(both):
    loop, channels, a, b = both
    channels.add(a, fail, fail)
    tries, flush = [], a.flush
    a.flush = lambda: tries.append(True) or flush()
    for _ in range(5):
        a.send(Word("x" * 900_000))
    turns(loop, 20)
    a.send(Word("more"))
    turns(loop)
    assert a.bytes_waiting and len(tries) == 1
    heard = 0
    while heard < 6:
        heard += len(b.receive())
        turns(loop, 1)
    tries.clear()
    turns(loop, 20)
    assert not tries  # there is room, and nothing to be sent
    a.send(Word("again"))
    turns(loop)
    assert b.receive() == [(Word("again"), None)]


# -- a peer that asks and does not read ------------------------------------------------------------------------------


def test_a_peer_that_does_not_read_its_answers_is_not_read_until_it_does(both, monkeypatch):
    """One that is taken over could otherwise have all of our memory."""
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    heard = []

    def answer(channel, imsg, descriptor):
        heard.append(imsg.text)
        channel.send(Word("x" * 50_000))

    channels.add(b, answer, fail, bounded=True)
    for number in range(1000):
        a.send(Word(str(number)))
        a.flush()
    turns(loop, 50)
    assert len(heard) < 50 and b.bytes_waiting < 200_000
    answers = []
    while len(answers) < 1000:
        answers += a.receive()
        a.flush()
        turns(loop)
    assert heard == [str(number) for number in range(1000)] and not b.bytes_waiting


def test_a_peer_that_has_read_most_of_its_answers_is_read_again(both, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    b.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    heard = []

    def answer(channel, imsg, descriptor):
        heard.append(imsg.text)
        if imsg.text == "question":
            channel.send(Word("x" * 90_000))

    channels.add(b, answer, fail, bounded=True)
    for text in ("question", "question", "behind"):
        a.send(Word(text))
    a.flush()
    turns(loop)
    assert heard == ["question", "question"] and b.bytes_waiting > 100_000
    answers = []
    while not answers:
        answers += a.receive()
        turns(loop)
    assert heard == ["question", "question", "behind"] and b.bytes_waiting > 50_000


def test_a_peer_that_needs_no_answer_is_read_on(both):
    loop, channels, a, b = both
    heard = []
    channels.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail, bounded=True)
    for text in ("one", "two", "three"):
        a.send(Word(text))
        a.flush()
        turns(loop)
    assert heard == ["one", "two", "three"]


@pytest.mark.parametrize("bounded", [(), ("a",), ("c",)])
def test_of_the_peers_of_a_process_those_that_are_named_are_bounded(both, monkeypatch, bounded):
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    heard = []

    def answer(state, channel, imsg, descriptor):
        heard.append(imsg.text)
        channel.send(Word("x" * 50_000))

    connected = connect(loop, [b], {"a": answer}, None, bounded)
    for number in range(100):
        a.send(Word(str(number)))
    a.flush()
    turns(loop, 50)
    assert (len(heard) < 100) is (bounded == ("a",))
    connected.remove(b)
    log.later = None


def test_nothing_is_kept_of_a_channel_that_is_removed_while_it_is_not_read(both, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    channels.add(b, lambda channel, *_: channel.send(Word("x" * 400_000)), fail, bounded=True)
    a.send(Word(""))
    a.flush()
    turns(loop)
    assert [*channels._unread] == [b]
    channels.remove(b)
    assert not channels._unread and not channels._bounded


def test_the_end_of_a_peer_that_did_not_read_is_noticed(both, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    ended = []

    def end(channel, error):
        ended.append(error)
        channels.remove(channel)

    channels.add(b, lambda channel, *_: channel.send(Word("x" * 400_000)), end, bounded=True)
    for _ in range(10):
        a.send(Word(""))
    a.flush()
    turns(loop)
    assert b.bytes_waiting and not ended
    a.close()
    turns(loop, 50)
    assert [type(error) for error in ended] == [ChannelClosed]


def test_what_a_peer_that_did_not_read_has_sent_before_its_end_is_read(both, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    heard, ended = [], []

    def answer(channel, imsg, descriptor):
        heard.append(imsg.text)
        if imsg.text == "question":
            channel.send(Word("x" * 400_000))

    channels.add(b, answer, lambda channel, error: (ended.append(error), channels.remove(channel)), bounded=True)
    for text in ("question", "result 1", "result 2", "result 3"):
        a.send(Word(text))
    a.flush()
    turns(loop)
    assert heard == ["question"]
    a.close()
    turns(loop, 50)
    assert heard == ["question", "result 1", "result 2", "result 3"]
    assert [type(error) for error in ended] == [ChannelClosed]


def test_a_channel_that_is_not_bounded_is_read_whatever_waits(both, monkeypatch):
    """Two processes that both waited for the other one to read would wait for ever."""
    monkeypatch.setattr("smtpd.ipc.channel_set.UNREAD_MAX", 100_000)
    loop, channels, a, b = both
    heard = []

    def answer(channel, imsg, descriptor):
        heard.append(imsg.text)
        channel.send(Word("x" * 50_000))

    channels.add(b, answer, fail)
    for number in range(100):
        a.send(Word(str(number)))
    a.flush()
    turns(loop, 50)
    assert len(heard) == 100
