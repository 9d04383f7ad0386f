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
