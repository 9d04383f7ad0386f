"""Memory for decoded content: bounded, divided among owners, and given back."""

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.queue.store import decoded_content
from smtpd.queue.store.decoded_content import ContentHolder, ContentMemory

MOST, SHARE = 1000, 250


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def ask(memory, owner, size, answers):
    memory.ask(owner, size, lambda granted: answers.append((owner, size, granted)))


def test_an_owner_with_its_share_waits_and_others_do_not(loop):
    memory, answers = ContentMemory(loop, MOST, SHARE), []
    ask(memory, "eve", 200, answers)
    ask(memory, "eve", 200, answers)
    ask(memory, "amy", 200, answers)
    assert answers == [("eve", 200, True), ("amy", 200, True)]
    memory.give_back("eve", 200)
    assert answers[2:] == [("eve", 200, True)]


def test_content_larger_than_a_share_goes_alone(loop):
    memory, answers = ContentMemory(loop, MOST, SHARE), []
    ask(memory, "amy", 600, answers)
    ask(memory, "amy", 1, answers)
    assert len(answers) == 1
    memory.give_back("amy", 600)
    assert len(answers) == 2


def test_content_larger_than_all_waits_until_there_is_no_other(loop):
    memory, answers = ContentMemory(loop, MOST, SHARE), []
    ask(memory, "amy", 100, answers)
    ask(memory, "bob", 5000, answers)
    assert len(answers) == 1
    memory.give_back("amy", 100)
    assert answers[1:] == [("bob", 5000, True)]


def test_who_waits_too_long_hears_so(loop, monkeypatch):
    monkeypatch.setattr(decoded_content, "WAIT_MAX", 0.01)
    memory, answers = ContentMemory(loop, MOST, SHARE), []
    ask(memory, "eve", 250, answers)
    ask(memory, "eve", 250, answers)
    loop.run_until_complete(asyncio.sleep(0.05))
    assert answers == [("eve", 250, True), ("eve", 250, False)]
    memory.give_back("eve", 250)
    assert len(answers) == 2 and memory.used == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 300), st.integers(0, 9)), max_size=40))
def test_no_order_of_requests_exceeds_the_bound_or_forgets_one(requests):
    loop = asyncio.new_event_loop()  # for timers only: it does not run
    memory, answers, held = ContentMemory(loop, MOST, SHARE), [], []
    seen = 0
    for owner, size, back in requests:
        ask(memory, owner, size, answers)
        held += answers[seen:]
        seen = len(answers)
        assert memory.used <= MOST and memory.used == sum(size for _, size, _ in held)
        for one in "abcdef":
            sizes = [size for owner, size, _ in held if owner == one]
            assert sum(sizes) <= SHARE or len(sizes) == 1
        if held and back < 3:
            owner, size, _ = held.pop(back % len(held))
            memory.give_back(owner, size)
            held += answers[seen:]
            seen = len(answers)
    while held:
        owner, size, _ = held.pop()
        memory.give_back(owner, size)
        held += answers[seen:]
        seen = len(answers)
    assert len(answers) == len(requests) and memory.used == 0
    loop.close()


def test_what_is_released_is_empty_for_whoever_still_has_it():
    descriptor, given_back = os.memfd_create("content"), []
    os.write(descriptor, b"secret")
    holder = ContentHolder("amy")
    holder.keep(descriptor, lambda: given_back.append(1))
    holder.release()
    holder.release()
    assert os.pread(descriptor, 10, 0) == b"" and given_back == [1] and holder.is_over
    os.close(descriptor)
