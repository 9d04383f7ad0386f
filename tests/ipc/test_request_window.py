"""The window of a requester."""

import socket

import pytest

from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.declaration import Table
from smtpd.ipc.request_window import RequestWindow

TABLE = Table()


@TABLE.declare("a -> b")
class Say:
    request: int
    word: str


@TABLE.declare("b -> a", answers=Say)
class Said:
    request: int


@TABLE.declare("b -> a")
class Happened:
    request: int


class Pair:
    """Somebody who asks, and the other end."""

    def __init__(self):
        one, other = socket.socketpair()
        self.near, self.far = Channel(one, TABLE, "a", "b"), Channel(other, TABLE, "b", "a")
        self.heard = []

    def asked(self):
        """All words that have arrived there by now."""
        self.near.flush()
        self.heard += [imsg for imsg, _ in self.far.receive()]
        return [imsg.word for imsg in self.heard]


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.near.close()
    made.far.close()


def say(word):
    return lambda request: Say(request, word)


def test_what_is_over_the_count_waits_for_an_answer(pair):
    questions, answers = RequestWindow(pair.near, count=2), []
    for word in "xyz":
        questions.ask(say(word), lambda imsg, word=word: answers.append(word))
    assert pair.asked() == ["x", "y"]
    assert questions.full
    questions.answer(Said(pair.heard[1].request))
    assert pair.asked() == ["x", "y", "z"]
    assert answers == ["y"]


def test_what_is_over_the_bytes_waits_for_an_answer(pair):
    questions = RequestWindow(pair.near, count=100, size=1000)
    for word in "xyz":
        questions.ask(say(word), lambda imsg: None, size=600)
    assert pair.asked() == ["x", "y"]  # the window is looked at before, not behind: one question of any size passes
    questions.answer(Said(pair.heard[0].request))
    assert pair.asked() == ["x", "y", "z"]


def test_an_answer_without_a_question_is_a_violation(pair):
    with pytest.raises(Violation):
        RequestWindow(pair.near).answer(Said(1))


def test_an_answer_comes_once(pair):
    questions = RequestWindow(pair.near)
    questions.ask(say("x"), lambda imsg: None)
    pair.asked()
    questions.answer(Said(pair.heard[0].request))
    with pytest.raises(Violation):
        questions.answer(Said(pair.heard[0].request))


def test_what_is_no_answer_to_this_kind_of_question_is_a_violation(pair):
    questions = RequestWindow(pair.near)
    questions.ask(say("x"), lambda imsg: None)
    pair.asked()
    with pytest.raises(Violation):
        questions.answer(Happened(pair.heard[0].request))


def test_one_answer_makes_room_for_all_that_fit_in_their_order(pair):
    questions = RequestWindow(pair.near, size=1000)
    for word, size in (("large", 900), ("x", 200), ("y", 300), ("z", 300), ("last", 300)):
        questions.ask(say(word), lambda imsg: None, size=size)
    assert pair.asked() == ["large", "x"] and len(questions) == 5
    questions.answer(Said(pair.heard[0].request))
    assert pair.asked() == ["large", "x", "y", "z", "last"]
    assert questions.full and len(questions) == 4


def test_a_window_that_is_used_to_the_last_byte_is_full(pair):
    questions = RequestWindow(pair.near, size=1000)
    questions.ask(say("x"), lambda imsg: None, size=999)
    assert not questions.full
    questions.ask(say("y"), lambda imsg: None, size=1)
    assert questions.full


def test_a_question_that_cannot_be_encoded_takes_no_place_in_the_window(pair):
    questions = RequestWindow(pair.near, count=1, size=1000)
    with pytest.raises(TypeError):
        questions.ask(say(object()), lambda imsg: None, size=1000)
    assert not questions.full and len(questions) == 0
    questions.ask(say("x"), lambda imsg: None)
    assert pair.asked() == ["x"]


def test_a_number_that_is_under_way_is_not_given_to_another_question(pair, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.request_window.ID_MAX", 4)
    questions = RequestWindow(pair.near)
    for word in "abcd":
        questions.ask(say(word), lambda imsg: None)
    pair.asked()
    for imsg in pair.heard[0], pair.heard[2]:
        questions.answer(Said(imsg.request))
    for word in "ef":
        questions.ask(say(word), lambda imsg: None)
    pair.asked()
    assert [imsg.request for imsg in pair.heard] == [1, 2, 3, 4, 1, 3]
