"""The window of a requester."""

import pytest

from smtpd.ipc.channel import Violation
from smtpd.ipc.question import Questions


class Wire:
    """What a channel looks like to Questions: a place that takes imsgs."""

    peer = "b"

    def __init__(self):
        self.sent = []

    def send(self, imsg):
        self.sent.append(imsg)


class Answer:
    def __init__(self, request):
        self.request = request


def test_what_is_over_the_count_waits_for_an_answer():
    questions, answers = Questions(wire := Wire(), count=2), []
    for word in "xyz":
        questions.ask(lambda request, word=word: (request, word), lambda imsg, word=word: answers.append(word))
    assert [word for _, word in wire.sent] == ["x", "y"]
    assert questions.full
    questions.answer(Answer(wire.sent[1][0]))
    assert [word for _, word in wire.sent] == ["x", "y", "z"]
    assert answers == ["y"]


def test_what_is_over_the_bytes_waits_for_an_answer():
    questions = Questions(wire := Wire(), count=100, size=1000)
    for _ in range(3):
        questions.ask(lambda request: request, lambda imsg: None, size=600)
    assert len(wire.sent) == 2  # the window is looked at before, not behind: one question of any size passes
    questions.answer(Answer(wire.sent[0]))
    assert len(wire.sent) == 3


def test_an_answer_that_nobody_asked_for_is_a_violation():
    with pytest.raises(Violation):
        Questions(Wire()).answer(Answer(1))


def test_an_answer_comes_once():
    questions = Questions(wire := Wire())
    questions.ask(lambda request: request, lambda imsg: None)
    questions.answer(Answer(wire.sent[0]))
    with pytest.raises(Violation):
        questions.answer(Answer(wire.sent[0]))
