"""Which agent an envelope is for, as whom it runs, and how it is treated."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import AGENT_LANE_MAX, NARROW, Duty
from smtpd.queue.agents.routing import AgentRouting, NoAgent
from smtpd.queue.agents.slots import AgentKey
from tests.queue.conftest import ACTIONS, configuration, recipient

ROUTING = AgentRouting(configuration())


@pytest.mark.parametrize(
    "action, duty, user",
    [
        ("local", Duty.DELIVER, "bob"),
        ("box", Duty.DELIVER, "bob"),
        ("run", Duty.DELIVER, "bob"),
        ("far", Duty.DELIVER, "_smtpm"),
        ("virtual", Duty.DELIVER, "vmail"),
        ("local", Duty.FORWARDED, "bob"),
        ("virtual", Duty.FORWARDED, "bob"),
        ("expand", Duty.FORWARDED, "bob"),
        ("local", Duty.ALIASED, "runner"),
        ("virtual", Duty.ALIASED, "runner"),
    ],
)
def test_an_agent_runs_as_the_user_that_the_action_or_the_duty_says(action, duty, user):
    assert ROUTING.get_key(recipient("bob", action, duty=duty)) == AgentKey(user, action, duty)


@pytest.mark.parametrize(
    "odd, reason",
    [
        (recipient(action="old"), 'the configuration has no action "old"'),
        (recipient(action="out"), 'the action "out" delivers nothing (relay)'),
        (recipient(action="expand"), 'the action "expand" delivers nothing (expand-only)'),
        (recipient(action="forward", duty=Duty.FORWARDED), 'the action "forward" delivers nothing (forward-only)'),
        (recipient(action="forward"), 'the action "forward" delivers nothing (forward-only)'),
        (recipient(action="forward", duty=Duty.ALIASED), 'the action "forward" delivers nothing (forward-only)'),
    ],
)
def test_what_the_configuration_gives_no_agent_is_told_with_the_reason(odd, reason):
    with pytest.raises(NoAgent) as told:
        ROUTING.get_key(odd)
    assert str(told.value) == reason


def test_mail_has_its_agent_also_where_commands_of_alias_files_are_not_enabled():
    assert AgentRouting(configuration(alias_commands="")).get_key(recipient()).user == "bob"


def test_commands_of_alias_files_have_no_agent_unless_they_are_enabled():
    off = AgentRouting(configuration(alias_commands=""))
    with pytest.raises(NoAgent, match="alias-commands"):
        off.get_key(recipient(duty=Duty.ALIASED))


@pytest.mark.parametrize(
    "key, slow, command, mailbox, concurrency",
    [
        (AgentKey("bob", "local", Duty.DELIVER), False, False, False, 32),
        (AgentKey("bob", "box", Duty.DELIVER), False, False, True, 32),
        (AgentKey("bob", "", Duty.READ), False, False, False, 32),
        (AgentKey("_smtpm", "far", Duty.DELIVER), True, False, False, 32),
        (AgentKey("bob", "run", Duty.DELIVER), True, True, False, 4),
        (AgentKey("bob", "box", Duty.FORWARDED), True, True, False, 4),
        (AgentKey("runner", "far", Duty.ALIASED), True, True, False, 4),
    ],
)
def test_limits_follow_from_what_an_agent_waits_for(key, slow, command, mailbox, concurrency):
    limits = ROUTING.limits(key)
    assert (limits.slow, limits.command, limits.mailbox, limits.concurrency) == (slow, command, mailbox, concurrency)


# -- lanes ---------------------------------------------------------------------------------

NAMES = st.text(max_size=8)
RECIPIENTS = st.builds(
    recipient,
    st.sampled_from(["bob", "amy"]),
    st.sampled_from([action.name for action in ACTIONS]),
    duty=st.sampled_from([Duty.DELIVER, Duty.FORWARDED, Duty.ALIASED]),
)


@given(RECIPIENTS, RECIPIENTS)
def test_what_shares_an_agent_shares_a_lane_and_nothing_else_does(one, other):
    try:
        keys = ROUTING.get_key(one), ROUTING.get_key(other)
    except NoAgent:
        return
    assert (keys[0] == keys[1]) is (ROUTING.lane_of(one) == ROUTING.lane_of(other))


@given(RECIPIENTS)
def test_the_lane_of_a_slow_agent_is_narrow(one):
    try:
        key = ROUTING.get_key(one)
    except NoAgent:
        return
    assert bool(ROUTING.lane_of(one) & NARROW) is ROUTING.limits(key).slow
    assert ROUTING.lane_of(one) & ~NARROW


def test_what_needs_no_agent_has_no_lane():
    assert ROUTING.lane_of(recipient(duty=Duty.DISCARD)) == 0


@given(NAMES, NAMES, st.integers(-5, 2**40))
def test_any_row_of_the_store_has_a_lane(action, user, duty):
    assert 0 <= ROUTING.lane(action, user, duty) <= AGENT_LANE_MAX


def test_no_lane_of_an_agent_is_that_of_what_needs_none(monkeypatch):
    monkeypatch.setattr(zlib, "crc32", lambda _: NARROW)
    assert ROUTING.lane("local", "bob", Duty.DELIVER) == 1
