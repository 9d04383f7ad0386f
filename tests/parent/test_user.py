"""FindUser: one plain word goes down to the nursery, a verdict comes back, and is kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.imsg import AgentRefused, FindUser, LookUpUser, StartAgent, UserFound, UserLookedUp
from smtpd.ipc.channel import Violation
from smtpd.parent import user
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS
from smtpd.slice import USER_NAME
from tests.parent.conftest import LOCAL


@pytest.mark.parametrize("verdict", ["user", "unknown", "root", "daemon", "later"])
def test_a_verdict_is_the_nursery_s(world, verdict):
    world.say("lookup", FindUser(7, "alice"))
    (asked,) = world.hears("nursery")
    assert asked == LookUpUser(asked.request, "alice")
    world.say("nursery", UserLookedUp(asked.request, verdict))
    assert world.hears("lookup") == [UserFound(7, verdict)]


NAMES = ["", "/", "a/b", "../alice", "..", ".", "-rf", "a b", "a\u00e4", "a:b", "$HOME", "a;b", "a" * 64, ".hidden"]


@pytest.mark.parametrize("name", NAMES)
def test_a_malformed_user_name_is_not_looked_up(world, name):
    world.say("lookup", FindUser(1, name))
    assert world.hears("lookup") == [UserFound(1, "unknown")]
    world.say("queue", StartAgent(1, name, "local", Duty.DELIVER))
    assert world.hears("queue") == [AgentRefused(1, True, f"no such user: {name}")]
    assert world.hears("nursery") == []


@given(st.text(max_size=80))
@settings(max_examples=100)
def test_what_is_taken_for_a_name_is_one_plain_word(name):
    if USER_NAME.fullmatch(name):
        assert name.isascii() and name.isprintable() and not set(name) & set(" /:;$`'\"|&<>*?()\\")
        assert name[0] not in ".-" and len(name) < 64


def test_a_name_with_a_control_character_is_the_end_of_lookup(world):
    with pytest.raises(Violation):
        world.say("lookup", FindUser(1, "alice\n"))


def test_a_verdict_is_kept_for_a_minute_also_when_there_is_no_such_user(make_world, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(user.time, "monotonic", lambda: now)
    world = make_world(LOCAL)
    world.say("lookup", FindUser(1, "nobody"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "unknown"))
    now += user.CACHE_SECONDS - 1
    world.say("lookup", FindUser(2, "nobody"))
    assert world.hears("lookup") == [UserFound(1, "unknown"), UserFound(2, "unknown")]
    now += 2
    world.say("lookup", FindUser(3, "nobody"))
    assert world.hears("nursery") == [LookUpUser(asked.request + 1, "nobody")]


def test_later_is_not_kept(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "later"))
    world.say("lookup", FindUser(2, "alice"))
    assert world.hears("nursery") == [LookUpUser(asked.request + 1, "alice")]


def test_what_is_kept_is_bounded(make_world, monkeypatch):
    monkeypatch.setattr(user, "CACHE_MAX", 3)
    world = make_world(LOCAL)
    for number, name in enumerate(["a", "b", "c", "d"]):
        world.say("lookup", FindUser(number, name))
        (asked,) = world.hears("nursery")
        world.say("nursery", UserLookedUp(asked.request, "unknown"))
    world.say("lookup", FindUser(9, "a"))
    assert [imsg.name for imsg in world.hears("nursery")] == ["a"]
    world.say("lookup", FindUser(10, "d"))
    assert world.hears("nursery") == []


def test_the_same_question_twice_is_asked_once(world):
    world.say("lookup", FindUser(1, "alice"))
    world.say("lookup", FindUser(2, "alice"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "user"))
    assert world.hears("lookup") == [UserFound(1, "user"), UserFound(2, "user")]


def test_few_are_asked_at_once_the_others_wait_and_too_many_come_later(world):
    limits = PRIVILEGED_REQUESTS[FindUser]
    for number in range(limits.at_once + limits.waiting + 5):
        world.say("lookup", FindUser(number, f"user{number}"))
    assert len(world.hears("nursery")) == limits.at_once
    assert [imsg.verdict for imsg in world.hears("lookup")] == ["later"] * 5


def test_a_silent_nursery_is_a_temporary_failure_and_its_late_answer_is_dropped(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    world.wait(PRIVILEGED_REQUESTS[FindUser].deadline + 1)
    assert world.hears("lookup") == [UserFound(1, "later")]
    world.say("nursery", UserLookedUp(asked.request, "user"))
    assert world.hears("lookup") == []
