"""StartAgent, EndAgent: who may have how many agents, and what neither queue nor nursery may say."""

import os
import socket

import pytest

from smtpd.envelope import Duty
from smtpd.imsg import (
    TABLE,
    AgentEnded,
    AgentForked,
    AgentMailboxSocket,
    AgentNotForked,
    AgentRefused,
    AgentStarted,
    EndAgent,
    FindUser,
    ForkAgent,
    KillAgent,
    LockMailbox,
    StartAgent,
    UnlockMailbox,
    UserLookedUp,
)
from smtpd.ipc.channel import Violation
from smtpd.parent import agent
from smtpd.parent.agent import AGENTS_PER_USER_MAX
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS
from smtpd.slice import Account, AgentSlice, Method


def test_an_agent_is_forked_with_what_the_configuration_says(world):
    world.say("queue", StartAgent(3, "alice", "local", Duty.DELIVER))
    (asked,) = world.hears("nursery")
    assert asked == ForkAgent(asked.request, "alice", None, "maildir", "~/Maildir", "", True, False, "+", [])
    world.say("nursery", AgentForked(asked.request, 4711, 1000, 1000), os.open("/dev/null", os.O_RDONLY))
    assert world.hears("queue") == [AgentStarted(3, 1)]


@pytest.mark.parametrize("verdict, permanent", [("unknown", True), ("root", True), ("daemon", True), ("later", False)])
def test_a_user_who_may_not_receive_is_refused_for_good_and_trouble_for_now(world, verdict, permanent):
    world.say("queue", StartAgent(3, "alice", "local", Duty.DELIVER))
    (asked,) = world.hears("nursery")
    world.say("nursery", AgentNotForked(asked.request, verdict, "why"))
    ((refused),) = world.hears("queue")
    assert (refused.request, refused.permanent) == (3, permanent)


def test_one_user_has_few_agents_and_does_not_use_up_the_others(world):
    for number in range(AGENTS_PER_USER_MAX):
        assert world.start_agent(number) == [AgentStarted(number, number + 1)]
    world.say("queue", StartAgent(90, "alice", "local", Duty.DELIVER))
    assert world.hears("queue") == [AgentRefused(90, False, "too many agents")]
    assert world.start_agent(91, "bob") == [AgentStarted(91, AGENTS_PER_USER_MAX + 1)]
    world.say("nursery", AgentEnded(1000, 0))
    assert world.start_agent(92) == [AgentStarted(92, AGENTS_PER_USER_MAX + 2)]


def test_the_user_of_an_action_has_agents_for_each_action_that_names_him(make_world):
    actions = [AgentSlice(f"action{number}", Method.MDA, "true", user="vmail") for number in range(3)]
    world = make_world(*actions)
    for number in range(3 * AGENTS_PER_USER_MAX):
        (told,) = world.start_agent(number, "vmail", f"action{number % 3}")
        assert isinstance(told, AgentStarted)
    world.say("queue", StartAgent(99, "vmail", "action0", Duty.DELIVER))
    assert world.hears("queue") == [AgentRefused(99, False, "too many agents")]


def test_all_together_they_are_bounded(world, monkeypatch):
    monkeypatch.setattr(agent, "AGENTS_MAX", 2)
    world.start_agent(1, "a")
    world.start_agent(2, "b")
    world.say("queue", StartAgent(3, "c", "local", Duty.DELIVER))
    assert world.hears("queue") == [AgentRefused(3, False, "too many agents")]


def test_a_refused_agent_is_not_counted(world, monkeypatch):
    monkeypatch.setattr(agent, "AGENTS_MAX", 1)
    for number in range(3):
        world.say("queue", StartAgent(number, "alice", "local", Duty.DELIVER))
        (asked,) = world.hears("nursery")
        world.say("nursery", AgentNotForked(asked.request, "later", "why"))
        assert world.hears("queue") == [AgentRefused(number, False, "why")]


def test_an_agent_that_comes_too_late_is_killed(world):
    world.say("queue", StartAgent(3, "alice", "local", Duty.DELIVER))
    (asked,) = world.hears("nursery")
    world.wait(PRIVILEGED_REQUESTS[StartAgent].deadline + 1)
    ((refused),) = world.hears("queue")
    assert not refused.permanent
    world.say("nursery", AgentForked(asked.request, 4711, 1000, 1000), os.open("/dev/null", os.O_RDONLY))
    assert world.hears("nursery") == [KillAgent(4711)]
    assert world.hears("queue") == []


def test_an_agent_that_was_still_in_line_when_it_became_too_late_is_not_counted(world, monkeypatch):
    monkeypatch.setattr(agent, "AGENTS_MAX", PRIVILEGED_REQUESTS[StartAgent].at_once + 1)
    for number in range(PRIVILEGED_REQUESTS[StartAgent].at_once + 1):
        world.say("queue", StartAgent(number, f"user{number}", "local", Duty.DELIVER))
    world.wait(PRIVILEGED_REQUESTS[StartAgent].deadline + 1)
    for asked in world.hears("nursery"):
        world.say("nursery", AgentNotForked(asked.request, "later", "why"))
    world.hears("queue")
    world.say("queue", StartAgent(99, "zoe", "local", Duty.DELIVER))
    assert [imsg.user for imsg in world.hears("nursery")] == ["zoe"]


# -- EndAgent ---------------------------------------------------------------------


def test_an_agent_is_killed_by_its_number(world):
    world.start_agent(1, pid=4711)
    world.say("queue", EndAgent(1))
    assert world.hears("nursery") == [KillAgent(4711)]


def test_an_agent_that_has_ended_in_the_meantime_is_no_error(world):
    world.start_agent(1, pid=4711)
    world.say("nursery", AgentEnded(4711, 9))
    world.say("queue", EndAgent(1))
    assert world.hears("nursery") == []


# -- forged --------------------------------------------------------------------------


def test_a_service_that_the_configuration_does_not_enable_is_fatal_when_asked(make_world):
    start = StartAgent(1, "a", "local", Duty.DELIVER)
    for who, imsg in (("lookup", FindUser(1, "alice")), ("queue", start), ("queue", EndAgent(1))):
        with pytest.raises(Violation, match="does not enable"):
            make_world().say(who, imsg)


@pytest.mark.parametrize("imsg", [LockMailbox(1, 1), UnlockMailbox(1)])
def test_without_an_mbox_there_are_no_mailboxes_to_ask_for(world, imsg):
    world.start_agent(1)
    with pytest.raises(Violation, match="does not enable"):
        world.say("queue", imsg)


@pytest.mark.parametrize("number", [0, -1, 2, 2**40])
def test_an_agent_that_there_never_was_is_fatal(world, number):
    world.start_agent(1)
    with pytest.raises(Violation, match="unknown"):
        world.say("queue", EndAgent(number))


@pytest.mark.parametrize(
    "imsg, descriptor",
    [
        (UserLookedUp(99, "user"), False),
        (AgentForked(99, 4711, 1000, 1000), True),
        (AgentNotForked(99, "later", ""), False),
        (AgentEnded(4711, 0), False),
    ],
)
def test_an_answer_to_no_question_is_fatal(world, imsg, descriptor):
    with pytest.raises(Violation):
        world.say("nursery", imsg, os.open("/dev/null", os.O_RDONLY) if descriptor else None)


PEOPLE = AgentSlice("people", Method.MAILDIR, "~/Maildir", accounts={"alice": Account(2000, 2000, "/home/alice")})


@pytest.mark.parametrize("uid, gid", [(0, 2000), (2001, 2000), (2000, 2001)])
def test_a_nursery_that_changed_its_user_is_fatal(make_world, uid, gid):
    with pytest.raises(Violation, match=f"uid {uid}"):
        make_world(PEOPLE).start_agent(1, "alice", "people", ids=(uid, gid))


def test_an_agent_that_is_root_is_fatal(world):
    with pytest.raises(Violation, match="uid 0"):
        world.start_agent(1, ids=(0, 0))


def test_a_mailbox_socket_for_an_agent_that_has_no_use_for_it_is_fatal(world):
    world.say("queue", StartAgent(1, "alice", "local", Duty.DELIVER))
    (asked,) = world.hears("nursery")
    world.say("nursery", AgentMailboxSocket(4711), socket.socket(socket.AF_UNIX).detach())
    with pytest.raises(Violation, match="mailbox socket"):
        world.say("nursery", AgentForked(asked.request, 4711, 1000, 1000), os.open("/dev/null", os.O_RDONLY))
    world.agents._mailbox_socket[1].close()


def test_an_answer_of_the_wrong_kind_is_fatal(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    with pytest.raises(Violation):
        world.say("nursery", AgentNotForked(asked.request, "later", ""))


@pytest.mark.parametrize(
    "who, imsg", [("lookup", StartAgent(1, "alice", "local", Duty.DELIVER)), ("queue", FindUser(1, "alice"))]
)
def test_a_request_that_only_another_process_may_make_is_fatal(world, who, imsg):
    """At the sending end too: a process that was not taken over cannot even say it."""
    with pytest.raises(Violation, match="may not send"):
        world.say(who, imsg)
    number = TABLE.by_class[type(imsg)].number
    end, to = world.theirs[who], world.ours[who]
    end.sock.send(number.to_bytes(2, "big") + b"\0\0" + (16).to_bytes(4, "big") + bytes(8))
    with pytest.raises(Violation, match="may not send"):
        to.receive()
