"""Threads of the disk, and how what they finish comes back to the loop."""

import threading

import pytest

from smtpd.ipc.loop import prepare
from smtpd.queue.store.disk_threads import DiskThreads
from tests.stress import hasty_threads, rounds, run_until_stopped

THREADS = 8


@pytest.fixture
def loop():
    made = prepare()
    yield made
    made.close()


def test_a_thread_that_waits_for_work_keeps_no_process_from_its_end(loop):
    workers = DiskThreads(loop, "waits")
    workers.ask(lambda: None, lambda *_: loop.stop())
    run_until_stopped(loop)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "waits"] == [True]


def test_an_answer_belongs_to_its_question(loop):
    workers, answers = DiskThreads(loop, "test", 2), {}

    def done(name, result, error):
        answers[name] = result, type(error)
        if len(answers) == 2:
            loop.stop()

    workers.ask(lambda: 1 + 1, lambda *answer: done("sum", *answer))
    workers.ask(lambda: 1 / 0, lambda *answer: done("defect", *answer))
    run_until_stopped(loop)
    assert answers == {"sum": (2, type(None)), "defect": (None, ZeroDivisionError)}
    assert workers.under_way == 0


def test_without_a_thread_it_is_an_error_and_with_one_it_is_done_by_that(loop, monkeypatch):
    """At the limit of processes."""
    workers, answers, start = DiskThreads(loop, "test", 3), [], threading.Thread.start

    def none(_thread):
        raise RuntimeError("can't start new thread")

    def done(result, error):
        answers.append((result, type(error)))
        if len(answers) in (1, 4):
            loop.stop()

    monkeypatch.setattr(threading.Thread, "start", none)
    workers.ask(lambda: "never", done)
    assert not answers  # not in the midst of the question
    run_until_stopped(loop)
    monkeypatch.setattr(threading.Thread, "start", start)
    workers.ask(lambda: "one", done)
    monkeypatch.setattr(threading.Thread, "start", none)
    workers.ask(lambda: "two", done)
    workers.ask(lambda: "three", done)
    run_until_stopped(loop)
    assert answers == [(None, BlockingIOError), *((word, type(None)) for word in ("one", "two", "three"))]
    assert workers.under_way == 0


def test_there_are_never_more_threads_than_were_asked_for(loop):
    workers, go, answers = DiskThreads(loop, "few", 2), threading.Event(), []

    def done(_result, error):
        answers.append(error)
        if len(answers) == 10:
            loop.stop()

    for _ in range(10):
        workers.ask(lambda: go.wait(10.0), done)
    few = [thread for thread in threading.enumerate() if thread.name == "few"]
    assert len(few) == 2 and all(thread.daemon for thread in few)  # none keeps the process from ending
    go.set()
    run_until_stopped(loop)
    assert answers == [None] * 10


def test_hand_over_no_answer_is_forgotten_when_several_threads_finish_at_once(loop):
    workers, left = DiskThreads(loop, "test", THREADS), 0

    def done(_result, _error):
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    with hasty_threads():
        for _ in rounds(1000):
            left = THREADS
            for _ in range(THREADS):
                workers.ask(int, done)
            run_until_stopped(loop)
    assert workers.under_way == 0
