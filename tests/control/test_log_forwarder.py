"""The log's way out, with a syslogd that is slow, dies, or is not there; and with processes that lie."""

import os
import re
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.control.log_forwarder import READ_SIZE, READS_AT_END, WAITING_LINES_MAX, LogForwarder, datagram
from smtpd.ipc.log import LINE_MAX
from smtpd.ipc.selector_loop import SelectorLoop

PIDS = {"dispatcher": 11, "queue": 12, "table lies": 0}
SESSION = b"3f86a5cb48e81bff smtp connected address=192.0.2.1 host=<unknown>"
AT = time.mktime((2026, 11, 3, 9, 5, 7, 0, 0, -1))


class Desk:
    """A journal with pipes named `names`, and the other ends of everything."""

    def __init__(self, *names, syslog=True):
        self.loop = SelectorLoop()
        pipes = {name: os.pipe() for name in names}
        self.writing = {name: ends[1] for name, ends in pipes.items()}
        self.asked = 0
        ours, self.syslog = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.syslog.setblocking(False)
        if not syslog:
            ours.close()
        reading = {name: (PIDS[name], ends[0]) for name, ends in pipes.items()}
        self.log_forwarder = LogForwarder(self.loop, reading, ours if syslog else None, self._reopen)

    def _reopen(self):
        self.asked += 1

    def run(self):
        """Until everything that is readable has been read."""
        for _ in range(20):
            self.loop.call_soon(int)  # nothing: but that turn does not wait
            self.loop.turn()

    def write(self, name, data):
        os.write(self.writing[name], data)
        self.run()

    def close(self, name):
        os.close(self.writing.pop(name))
        self.run()

    def said(self):
        found = []
        try:
            while True:
                found.append(self.syslog.recv(65536).decode())
        except (BlockingIOError, OSError):
            return found

    def texts(self):
        return [line.partition("smtpd")[2] for line in self.said()]

    def end(self):
        for name in list(self.writing):
            self.close(name)
        self.log_forwarder._forget_syslog()
        self.syslog.close()
        self.loop.close()


@pytest.fixture
def desk():
    made = Desk("dispatcher", "queue")
    yield made
    made.end()


# -- lines ------------------------------------------------------------------------------------


def test_a_line_becomes_a_datagram_of_syslog():
    assert datagram("queue", 12, b"info: queue ready", AT) == b"<22>Nov  3 09:05:07 smtpd[12]: info: queue ready"


@pytest.mark.parametrize(
    "line, severity",
    [
        (b"info: x", 6),
        (b"warn: x", 4),
        (b"warn: fatal: x", 2),
        (b"debug: x", 7),
        (b"0123 smtp connected", 6),
        (b"warning", 6),
    ],
)
def test_the_first_word_is_the_severity(line, severity):
    assert datagram("queue", 12, line, AT).startswith(b"<%d>" % (16 | severity))


@given(line=st.binary(max_size=3000))
def test_no_byte_of_a_line_can_forge_another_line(line):
    made = datagram("queue", 12, line, AT).decode()
    assert made.isprintable() or all(char >= "\xa0" for char in made if not char.isprintable())
    assert re.match(r"<\d+>Nov  3 09:05:07 smtpd\[12\]: ", made)


def test_lines_come_with_the_pid_of_the_process_at_their_pipe(desk):
    desk.write("queue", b"info: one\nwarn: two\n")
    desk.write("dispatcher", b"smtpd[12]: forged\n")
    assert desk.texts() == ["[12]: info: one", "[12]: warn: queue: two", "[11]: dispatcher: smtpd[12]: forged"]


def test_what_a_program_of_a_table_writes_is_told_from_our_own_lines():
    desk = Desk("table lies")
    for line in (SESSION, b"info: ready", b"warn: fatal: lost child: queue", b"delivery: Remove for 1", b""):
        desk.write("table lies", line + b"\n")
    said = desk.texts()
    assert len(said) == 4 and all(text.startswith(f"[{os.getpid()}]: table lies: ") for text in said)
    desk.end()


def test_escape_sequences_are_made_visible_again(desk):
    desk.write("dispatcher", b"from=<\x1b[2J\r\x9b>\n")
    assert desk.texts() == ["[11]: dispatcher: from=<\\033[2J\\015\\x9b>"]


def test_a_line_cut_anywhere_arrives_whole(desk):
    for byte in b"info: one\ninfo: two\n":
        desk.write("queue", bytes([byte]))
    assert desk.texts() == ["[12]: info: one", "[12]: info: two"]


def test_a_line_without_end_does_not_grow_without_end(desk):
    for _ in range(40):
        desk.write("queue", b"x" * LINE_MAX)
    assert all(len(rest) <= LINE_MAX for rest in desk.log_forwarder._begun.values())
    assert all(len(line) < LINE_MAX + 100 for line in desk.said())


def test_the_last_words_of_a_process_are_not_lost(desk):
    desk.write("queue", b"fatal: no mem")
    desk.close("queue")
    assert desk.texts() == ["[12]: queue: fatal: no mem"]
    desk.write("dispatcher", b"goes on\n")
    assert desk.texts() == ["[11]: dispatcher: goes on"]


def test_what_is_in_the_pipes_at_the_end_is_passed_on(desk):
    os.write(desk.writing["queue"], b"a line\n" * 5000)
    desk.log_forwarder.finish()
    assert len(desk.log_forwarder._kept) + len(desk.said()) + desk.log_forwarder.dropped == 5000


def test_a_process_that_never_stops_writing_does_not_prevent_the_end(monkeypatch, desk):
    desk.close("dispatcher")
    plain, pieces = os.read, []

    def read(descriptor, size):
        os.write(desk.writing["queue"], b"x" * 1000 + b"\n")
        pieces.append(size)
        assert len(pieces) <= READS_AT_END
        return plain(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    desk.log_forwarder.finish()
    monkeypatch.undo()
    assert pieces == [READ_SIZE] * READS_AT_END


# -- syslogd --------------------------------------------------------------------------------------


def test_a_syslogd_that_is_full_is_waited_for_and_told_what_it_missed(desk):
    for _ in range(4):
        desk.write("queue", b"a line\n" * 1000)
    assert len(desk.log_forwarder._kept) == WAITING_LINES_MAX and desk.log_forwarder.dropped > 1000
    dropped = desk.log_forwarder.dropped
    lines = []
    while desk.log_forwarder._kept:
        lines += desk.texts()
        desk.run()
    lines += desk.texts()
    assert lines.count("[12]: queue: a line") == 4000 - dropped
    assert f"[{os.getpid()}]: warn: control: {dropped} log lines were dropped" in lines


def test_a_syslogd_that_went_away_is_asked_for_once_and_gets_what_came_meanwhile(desk):
    desk.syslog.close()
    desk.write("queue", b"one\n")
    desk.write("queue", b"two\n")
    assert desk.asked == 1
    ours, desk.syslog = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    desk.syslog.setblocking(False)
    desk.log_forwarder.take_syslog(ours)
    desk.write("queue", b"three\n")
    assert desk.texts() == ["[12]: queue: one", "[12]: queue: two", "[12]: queue: three"]


def test_a_syslogd_that_goes_away_twice_is_asked_for_twice(desk):
    desk.syslog.close()
    desk.write("queue", b"one\n")
    ours, desk.syslog = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    desk.syslog.close()
    desk.log_forwarder.take_syslog(ours)
    assert desk.asked == 2


def test_a_syslogd_that_was_never_there_is_asked_for_at_the_first_line():
    desk = Desk("queue", syslog=False)
    assert desk.asked == 0
    desk.write("queue", b"one\n")
    assert desk.asked == 1
    desk.end()
