"""A .forward by way of the user's own agent."""

import pytest

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome
from smtpd.errand import FORWARD_MAX
from smtpd.imsg import AgentRefused, EndAgent, ForwardRead, ReadForward, StartAgent
from smtpd.ipc.log import visible
from smtpd.queue.agents.forward import DEADLINE, REASON_MAX


def ask(house, user="bob", request=11, action=""):
    house.say("lookup", ReadForward(request, user, action))


def answered(house, agent, verdict, content=b""):
    errand = house.receive(agent)
    assert isinstance(errand, frames.ReadForward)
    agent.send(frames.encode(frames.ForwardText(errand.request, verdict, content)))
    return house.hear("lookup", ForwardRead)


def test_the_bytes_of_a_forward_go_to_lookup_as_they_are(house):
    ask(house)
    asked, agent = house.start_agent()
    assert (asked.user, asked.action, asked.duty) == ("bob", "", Duty.READ)
    answer = answered(house, agent, "text", b"amy@there.test\n\xff\x00")
    assert answer == ForwardRead(11, "text", b"amy@there.test\n\xff\x00", "")


def test_a_user_of_a_userbase_has_an_agent_of_that_action(house):
    ask(house, action="virtual")
    asked, agent = house.start_agent()
    assert (asked.user, asked.action, asked.duty) == ("bob", "virtual", Duty.READ)
    assert answered(house, agent, "none") == ForwardRead(11, "none", b"", "")


@pytest.mark.parametrize("verdict", ["none", "unsafe", "later"])
def test_other_verdicts_bring_their_reason(house, verdict):
    ask(house)
    _, agent = house.start_agent()
    assert answered(house, agent, verdict, b"because\n") == ForwardRead(11, verdict, b"", "because\\012")


def test_a_forward_of_the_largest_size_passes(house):
    ask(house)
    _, agent = house.start_agent()
    assert answered(house, agent, "text", b"x" * FORWARD_MAX).content == b"x" * FORWARD_MAX


def test_a_longer_forward_is_nonsense_of_its_agent(house):
    ask(house)
    _, agent = house.start_agent()
    assert answered(house, agent, "text", b"x" * (FORWARD_MAX + 1)).verdict == "later"


def test_one_agent_reads_many_times(house):
    ask(house)
    _, agent = house.start_agent()
    answered(house, agent, "none")
    ask(house, request=12)
    assert answered(house, agent, "none").request == 12
    assert not house.mail["parent"]


def test_the_same_request_number_twice_is_two_questions(house):
    ask(house)
    ask(house)
    _, agent = house.start_agent()
    answered(house, agent, "none")
    answered(house, agent, "none")


def test_a_user_who_is_gone_is_refused_and_one_who_is_late_later(house):
    for permanent, verdict in ((True, "refused"), (False, "later")):
        ask(house)
        request = house.hear("parent", StartAgent).request
        house.say("parent", AgentRefused(request, permanent, "no such user"))
        assert house.hear("lookup", ForwardRead) == ForwardRead(11, verdict, b"", "no such user")


def test_an_agent_that_hangs_costs_its_user_a_later_in_time(house):
    ask(house)
    _, agent = house.start_agent()
    house.receive(agent)
    house.pass_time(DEADLINE)
    assert house.hear("lookup", ForwardRead).verdict == "later"
    house.hear("parent", EndAgent)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (2 * REASON_MAX)])
def test_whatever_an_agent_gives_as_its_reason_costs_no_other(house, content):
    ask(house)
    _, agent = house.start_agent()
    reason = answered(house, agent, "unsafe", content).reason
    assert reason == visible(content.decode(errors="replace"))[:REASON_MAX]


def test_an_agent_that_never_comes_costs_its_user_a_later_in_time(house):
    ask(house)
    house.hear("parent", StartAgent)
    house.pass_time(DEADLINE - 1)
    assert not house.mail["lookup"]
    house.pass_time(1)
    assert house.hear("lookup", ForwardRead).verdict == "later"


@pytest.mark.parametrize("answer", ["a result", "nonsense", "nothing"])
def test_an_agent_that_answers_something_else_costs_its_user_a_later(house, answer):
    ask(house)
    _, agent = house.start_agent()
    errand = house.receive(agent)
    if answer == "a result":
        agent.send(frames.encode(frames.Result(errand.request, Outcome.DELIVERED, "")))
    elif answer == "nonsense":
        agent.send(b"root: /bin/sh")
    else:
        agent.close()
    assert house.hear("lookup", ForwardRead).verdict == "later"
