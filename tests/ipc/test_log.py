"""Log lines: nothing that came by mail forges one, and nothing waits for a reader."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.ipc.log import Log, attributed, quoted, visible


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
def test_a_line_says_who_wrote_it_where_it_has_to(name, line, shown):
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
    assert f"{dropped} log lines were dropped" in text and "again" in text
    os.close(reading)
    os.close(writing)


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
