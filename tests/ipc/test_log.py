"""Log lines: nothing that came by mail forges one, and nothing waits for a reader."""

import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.ipc import log as log_module
from smtpd.ipc.log import LINE_MAX, WRITE_MAX, Log, attributed, encoded, quoted, visible
from smtpd.ipc.loop import prepare
from tests.stress import hasty_threads, join, rounds, run_until_stopped


def test_a_line_break_in_a_value_is_made_visible():
    assert visible("a\nb\x1b[2J\x7f\x9b") == "a\\012b\\033[2J\\177\\233"


def test_a_quote_in_a_value_is_escaped():
    assert quoted('say "hi" \\') == '"say \\"hi\\" \\\\"'


@given(st.text())
def test_no_text_makes_a_second_line(text):
    assert len(visible(text).splitlines()) <= 1
    assert not any(ord(char) < 32 for char in visible(text))


@pytest.mark.parametrize(
    "name, line, shown",
    [
        ("queue", "3f86a5cb48e81bff mda delivery evpid=1", "3f86a5cb48e81bff mda delivery evpid=1"),
        ("dispatcher 2", "3f86a5cb48e81bff smtp connected x", "3f86a5cb48e81bff smtp connected x"),
        ("queue", "delivery: Remove for 1: x", "delivery: Remove for 1: x"),
        ("scheduler", "info: mda paused", "info: mda paused"),
        ("parent", "warn: fatal: lost child: queue", "warn: fatal: lost child: queue"),
        ("queue", "warn: fatal: no spool", "warn: queue: fatal: no spool"),
        ("dispatcher 2", "debug: x", "debug: dispatcher 2: x"),
        ("queue", "Fatal Python error: Aborted", "queue: Fatal Python error: Aborted"),
        ("table t", "info: ready", "table t: info: ready"),
        ("queue", "", "queue: "),
    ],
)
def test_a_line_names_its_process_where_needed(name, line, shown):
    assert attributed(name, line) == shown


@given(st.text())
def test_no_line_of_a_program_is_taken_for_ours(line):
    assert attributed("table t", line) == f"table t: {line}"


def test_a_full_pipe_counts_what_it_drops_and_says_so_later():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    log = Log(writing)
    for _ in range(100):
        log.line("x" * 1000)
    assert log.dropped > 0
    dropped = log.dropped
    while True:
        try:
            os.read(reading, 1 << 16)
        except BlockingIOError:
            break
    log.line("again")
    text = os.read(reading, 1 << 16).decode()
    assert text == f"again\nwarn: {dropped} log lines were dropped\n"
    os.close(reading)
    os.close(writing)


@pytest.fixture
def paper(monkeypatch):
    """What a log has written; `takes` says of each write how many bytes of it are taken, and then all."""
    reading, writing = os.pipe()

    class Paper:
        def __init__(self):
            self.text, self.takes = b"", []
            self.log = Log(writing)
            self.log.later = lambda flush: None

        def write(self, _descriptor, data):
            if self.takes and (taken := self.takes.pop(0)) is not None:
                data = data[:taken]
                if not data:
                    raise BlockingIOError
            self.text += data
            return len(data)

    made = Paper()
    monkeypatch.setattr(log_module.os, "write", made.write)
    yield made
    monkeypatch.undo()
    os.close(reading)
    os.close(writing)


def test_what_was_dropped_is_counted_whatever_leaves_behind_it(paper):
    for number in range(6):
        paper.log.line(f"{number}" + "x" * 1500)
    paper.takes = [0, None, None]  # two lines in each
    paper.log.flush()
    assert [line[:30] for line in paper.text.decode().splitlines()] == [
        *(f"{number}" + "x" * 29 for number in range(2, 6)),
        "warn: 2 log lines were dropped",
    ]
    assert paper.log.dropped == 0


def test_a_notice_that_is_dropped_comes_later_with_the_sum(paper):
    paper.takes = [0, 0, 0, 0]
    paper.log.line("one")
    paper.log.flush()
    paper.log.line("two")
    paper.log.flush()
    assert paper.log.dropped == 2 and not paper.text
    paper.log.line("three")
    paper.log.flush()
    assert paper.text == b"three\nwarn: 2 log lines were dropped\n"


@pytest.mark.parametrize("taken", range(1, 12))
def test_of_what_leaves_by_halves_whole_lines_count_and_the_next_begins_a_line(paper, taken):
    for line in ("one", "two", "four"):
        paper.log.line(line)
    paper.takes = [taken, 0]
    paper.log.flush()
    whole = b"one\ntwo\nfour\n"[:taken].count(b"\n")
    assert paper.log.dropped == 3 - whole
    paper.log.line("five")
    paper.log.flush()
    *_, behind, notice = paper.text.decode().splitlines()
    assert behind == "five" and notice == f"warn: {3 - whole} log lines were dropped"


@given(st.text(max_size=3000))
def test_no_line_is_longer_than_what_a_pipe_takes_in_one_piece(text):
    line = encoded(text)
    assert len(line) <= LINE_MAX < WRITE_MAX and line.endswith(b"\n") and line.count(b"\n") == 1
    assert visible(text).startswith(line.decode()[:-1]) or not text.isprintable()


@pytest.mark.parametrize("character, shown", [("x", "x"), ("é", "é"), ("\U0001f600", "\U0001f600"), ("\t", "\\011")])
def test_a_line_that_is_too_long_is_cut_behind_a_whole_character(character, shown):
    text = encoded(character * 3000).decode()
    assert text == (shown * 3000)[: len(text) - 1] + "\n"
    assert LINE_MAX - 4 < len(text.encode()) <= LINE_MAX


def test_debug_lines_are_logged_when_that_is_wanted(paper):
    paper.log.debug("one")
    paper.log.verbose = True
    paper.log.debug("two")
    paper.log.flush()
    assert paper.text == b"debug: two\n"


def test_an_exception_of_our_own_is_logged_with_its_traceback_each_line_by_itself(paper):
    try:
        raise KeyError("bob")
    except KeyError as error:
        paper.log.trouble("session 7", error)
    paper.log.flush()
    first, *more = paper.text.decode().splitlines()
    assert first == "warn: session 7: KeyError: 'bob'"
    assert more[0] == "warn: session 7: Traceback (most recent call last):"
    assert all(line.startswith("warn: session 7: ") for line in more) and more[-1].endswith("KeyError: 'bob'")


def test_an_exception_that_ends_the_process_is_in_the_log_at_once(paper, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    log_module.take_tracebacks(paper.log)
    error = KeyError("bob")
    sys.excepthook(KeyError, error, None)
    assert paper.text.startswith(b"warn: fatal: KeyError: 'bob'\n")


def test_lines_of_one_turn_leave_together():
    reading, writing = os.pipe()
    log, turns = Log(writing), []
    log.later = turns.append
    log.info("one")
    log.warn("two")
    assert len(turns) == 1
    turns[0]()
    assert os.read(reading, 100) == b"info: one\nwarn: two\n"
    os.close(reading)
    os.close(writing)


def test_hand_over_lines_of_other_threads_leave_at_once_and_whole():
    """In a loop that has nothing else to do."""
    loop = prepare()
    reading, writing = os.pipe()
    log, came = Log(writing), []
    log.attach(loop)

    def read():
        came.extend(os.read(reading, 1 << 16).splitlines())
        if len(came) == 4 * 20:
            loop.stop()

    def write(name):
        for number in range(20):
            log.info(f"{name} {number}")

    loop.add_reader(reading, read)
    with hasty_threads():
        for _ in rounds(20):
            came.clear()
            threads = [threading.Thread(target=write, args=(name,), daemon=True) for name in "abcd"]
            for thread in threads:
                thread.start()
            run_until_stopped(loop)
            join(threads)
            assert sorted(came) == sorted(b"info: %c %d" % (name, number) for name in b"abcd" for number in range(20))
    loop.close()
    os.close(reading)
    os.close(writing)
