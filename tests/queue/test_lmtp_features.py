"""What an LMTP server takes, by way of the agent of its action."""

import pytest

from smtpd import errand as frames
from smtpd.envelope import Duty
from smtpd.imsg import AgentRefused, AskServerForUtf8, EndAgent, ServerAnswered, StartAgent
from smtpd.queue.agents.lmtp_features import DEADLINE, REASON_MAX
from tests.queue.conftest import recipient


def ask(house, action="far", request=11):
    house.say("lookup", AskServerForUtf8(request, action))


def answered(house, agent, verdict, reason=""):
    errand = house.receive(agent)
    assert isinstance(errand, frames.ProbeServer)
    agent.send(frames.encode(frames.ServerProbed(errand.request, verdict, reason)))
    return house.hear("lookup", ServerAnswered)


@pytest.mark.parametrize("verdict", frames.SERVERS)
def test_the_agent_of_the_action_is_asked(house, verdict):
    ask(house)
    asked, agent = house.start_agent()
    assert (asked.user, asked.action, asked.duty) == ("_smtpm", "far", Duty.DELIVER)
    assert answered(house, agent, verdict, "refused\n") == ServerAnswered(11, verdict, "refused\\012")


def test_the_agent_that_delivers_answers_beside_that(house):
    house.store_due(recipient(action="far"))
    _, agent = house.start_agent()
    errand = house.receive(agent)
    ask(house)
    assert answered(house, agent, "ascii").verdict == "ascii"
    house.answer(agent, errand)


def test_a_long_reason_is_cut(house):
    ask(house)
    _, agent = house.start_agent()
    assert answered(house, agent, "later", "x" * frames.TEXT_MAX).reason == "x" * REASON_MAX


@pytest.mark.parametrize("action", ["local", "run", "gone", ""])
def test_an_action_without_a_server_has_none_to_ask(house, action):
    ask(house, action)
    answer = house.hear("lookup", ServerAnswered)
    assert answer.verdict == "later" and action in answer.reason
    assert not house.mail["parent"]


def test_without_an_agent_it_is_known_later(house):
    ask(house)
    request = house.hear("parent", StartAgent).request
    house.say("parent", AgentRefused(request, False, "too many agents"))
    assert house.hear("lookup", ServerAnswered) == ServerAnswered(11, "later", "too many agents")


def test_a_server_that_is_silent_is_known_later_and_what_it_says_then_is_not_wanted(house):
    ask(house)
    _, agent = house.start_agent()
    errand = house.receive(agent)
    house.pass_time(DEADLINE - 1)
    house.queue.lmtp_features.tick()
    house.turn()
    assert not house.mail["lookup"]
    house.pass_time(1)
    house.queue.lmtp_features.tick()
    assert house.hear("lookup", ServerAnswered).verdict == "later"
    ask(house, request=12)
    second = house.receive(agent)
    agent.send(frames.encode(frames.ServerProbed(errand.request, "utf8", "")))
    agent.send(frames.encode(frames.ServerProbed(second.request, "ascii", "")))
    assert house.hear("lookup", ServerAnswered) == ServerAnswered(12, "ascii", "")
    assert not house.mail["lookup"]


@pytest.mark.parametrize("nonsense", [frames.ForwardText(1, "none", b""), frames.ServerProbed(99, "utf8", "")])
def test_an_agent_that_answers_something_else_is_dropped(house, nonsense):
    ask(house)
    _, agent = house.start_agent()
    house.receive(agent)
    agent.send(frames.encode(nonsense))
    assert house.hear("lookup", ServerAnswered).verdict == "later"
    assert house.hear("parent", EndAgent)
