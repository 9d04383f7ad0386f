"""Answers that are kept for a while, and questions that go out once."""

import pytest

from smtpd.ipc.answer_cache import AnswerCache


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fetched():
    return []


@pytest.fixture
def memory(clock, fetched):
    return AnswerCache(fetched.append, clock, 3)


def test_one_question_for_all_callers_at_once(memory, fetched):
    heard = []
    memory.ask("bob", heard.append)
    memory.ask("bob", heard.append)
    memory.ask("amy", heard.append)
    assert (fetched, heard) == (["bob", "amy"], [])
    memory.answer("bob", "user", 60)
    assert heard == ["user", "user"]


def test_an_answer_holds_for_its_time(memory, clock):
    memory.ask("bob", lambda answer: None)
    memory.answer("bob", "user", 60)
    clock.now += 59.9
    assert memory.find("bob") == "user"
    clock.now += 0.1
    assert memory.find("bob") is None
    assert len(memory) == 0


def test_an_answer_of_no_time_is_told_and_forgotten(memory, fetched):
    heard = []
    memory.ask("bob", heard.append)
    memory.answer("bob", "later", 0)
    assert heard == ["later"] and memory.find("bob") is None
    memory.ask("bob", heard.append)
    assert fetched == ["bob", "bob"]


def test_of_too_many_answers_the_oldest_is_forgotten(memory):
    for name in "abcde":
        memory.ask(name, lambda answer: None)
        memory.answer(name, name.upper(), 60)
    assert [memory.find(name) for name in "abcde"] == [None, None, "C", "D", "E"]


def test_a_caller_that_asks_again_in_its_callback_asks_anew(memory, fetched):
    memory.ask("bob", lambda answer: memory.ask("bob", lambda answer: None))
    memory.answer("bob", "later", 0)
    assert fetched == ["bob", "bob"]


def test_answers_may_be_weighed(clock, fetched):
    """A few large ones take the place of many."""
    memory = AnswerCache(fetched.append, clock, 10, len)
    for key, answer in (("a", "x" * 4), ("b", "x" * 4), ("c", "x" * 5)):
        memory.ask(key, lambda answer: None)
        memory.answer(key, answer, 60)
    assert [memory.find(key) is not None for key in "abc"] == [False, True, True]
    memory.forget("b")
    memory.ask("d", lambda answer: None)
    memory.answer("d", "x" * 5, 60)
    assert memory.find("c") and memory.find("d"), "what is forgotten weighs nothing"
    memory.ask("e", lambda answer: None)
    memory.answer("e", "x" * 11, 60)
    assert len(memory) == 0, "nothing has room beside it, and neither has it"


def test_an_answer_that_replaces_another_one_counts_once(clock, fetched):
    memory = AnswerCache(fetched.append, clock, 10, len)
    for _ in range(3):
        memory.ask("a", lambda answer: None)
        memory.answer("a", "x" * 6, 60)
    assert memory.find("a")
