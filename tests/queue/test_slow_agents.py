"""Agents that run commands, or wait for another host: what they cost is bounded, and no quick agent waits for them."""

import random
import socket

import pytest

from smtpd import errand as frames
from smtpd.envelope import Duty
from smtpd.imsg import (
    AgentRefused,
    AgentStarted,
    EndAgent,
    EnvelopesTried,
    ReportStatistics,
    StartAgent,
    StatisticsReported,
)
from smtpd.queue.agents.pool import AGENT_SILENT, RESTART_DELAY, TOO_MANY_SLOW
from smtpd.queue.agents.routing import LMTP_LIMITS, QUICK_LIMITS, SLOW_LIMITS
from smtpd.queue.agents.slots import IDLE_TIMEOUT, SLOTS, WORK_TIME
from smtpd.slice import DeliveryLimits
from tests.queue.conftest import command, recipient
from tests.queue.test_agent_pool import all_tried, closed

FAR = "_smtpm", "far", Duty.DELIVER
OF_AGENT, IN_ALL = 4, 10  # commands, by the configuration of these tests


def nothing_comes(house, agent):
    house.turn()
    with pytest.raises(BlockingIOError):
        agent.recv(1)


def errors(house, envelopes):
    return {house.queue.conclusions._deferred[id].error for id in envelopes}


def test_an_agent_runs_no_more_commands_than_the_configuration_allows(house):
    envelopes = house.store_due(*(recipient("bob", "run") for _ in range(9)))
    _, agent = house.start_agent()
    begun = [house.receive(agent) for _ in range(OF_AGENT)]
    nothing_comes(house, agent)
    for errand in begun:
        house.answer(agent, errand)
    for _ in range(9 - OF_AGENT):
        house.deliver(agent)
    assert all_tried(house, 9)[0] == set(envelopes)


def test_mail_that_no_command_takes_makes_no_room_for_commands(make_house):
    house = make_house(delivery_limits=DeliveryLimits(max_session=1, max_session_per_user=1))
    for _ in range(3):
        house.store_due(recipient("eve"))
        if not house.agents:
            house.start_agent()
        house.deliver(house.agents[0])
        house.tried()
    house.store_due(recipient("amy", "run"), recipient("bob", "run"))
    house.start_agent(2)
    house.turn()
    assert not house.mail["parent"]


def test_all_agents_together_run_no_more_commands_than_the_configuration_allows(house):
    users = ["amy", "bob", "eve"]
    house.store_due(*(command(user, str(n)) for n in range(5) for user in users))
    agents = {}
    for number in (1, 2, 3):
        asked, agent = house.start_agent(number)
        agents[asked.user] = agent
    counts = {"amy": OF_AGENT, "bob": OF_AGENT, "eve": IN_ALL - 2 * OF_AGENT}
    begun = {user: [house.receive(agents[user]) for _ in range(count)] for user, count in counts.items()}
    for user in users:
        nothing_comes(house, agents[user])
    house.answer(agents["amy"], begun["amy"][0])  # whoever waited longest is next, and not who has just had a turn
    assert house.receive(agents["eve"])
    nothing_comes(house, agents["amy"])


def test_commands_that_hang_keep_no_quick_mail_waiting(house):
    """More users than sessions, each with a command that does not end."""
    house.store_due(*(command(f"eve{n}") for n in range(SLOTS + 5)))
    for number in range(IN_ALL):
        house.start_agent(number + 1)
    house.turn()
    assert not house.mail["parent"]
    (envelope,) = house.store_due(recipient("bob"))
    _, agent = house.start_agent(IN_ALL + 1)
    house.deliver(agent)
    assert house.tried() == ([envelope], [], [])


def test_slow_hosts_keep_no_quick_mail_waiting(house):
    house.queue.agents.slow._count = 2
    house.store_due(*(command(f"eve{n}") for n in range(4)), recipient("bob", "far"))
    for number in (1, 2):
        house.start_agent(number)
    (envelope,) = house.store_due(recipient("bob"))
    _, agent = house.start_agent(3)
    house.deliver(agent)
    assert house.tried() == ([envelope], [], [])


def test_a_command_has_its_time_though_others_wait_for_its_place(house):
    house.queue.agents.slow._count = 1
    mails = house.store_due(command("bob"), command("amy"))
    _, agent = house.start_agent(1)
    errand = house.receive(agent)
    house.pass_time(WORK_TIME)
    for _ in range(5):
        house.pass_time(SLOW_LIMITS.patience / 6)
    assert not closed(agent)
    house.answer(agent, errand)
    assert house.hear("scheduler", EnvelopesTried).delivered == [mails[0]]
    assert house.hear("parent", EndAgent).agent == 1
    assert house.start_agent(2)[0].user == "amy"


def test_what_waits_behind_commands_that_hang_is_deferred_and_not_the_commands(house):
    envelopes = house.store_due(*(command("eve", str(n)) for n in range(20)))
    _, agent = house.start_agent()
    begun = [house.begin(agent) for _ in range(OF_AGENT)]
    house.pass_time(QUICK_LIMITS.patience)
    house.turn()
    assert not house.mail["scheduler"]
    house.pass_time(SLOW_LIMITS.patience - QUICK_LIMITS.patience)
    assert all_tried(house, 16)[1] == set(envelopes) - {errand.envelope for errand in begun}
    assert errors(house, envelopes[4:]) == {TOO_MANY_SLOW}
    (more,) = house.store_due(command("eve", "more"))
    assert house.tried() == ([], [more], [])
    for errand in begun:
        house.answer(agent, errand)
    assert all_tried(house, OF_AGENT)[0] == {errand.envelope for errand in begun}


@pytest.fixture
def busy_house(house):
    """All sessions are taken by commands of three users, who have two more waiting."""
    house.hanging = house.store_due(*(command(f"eve{n % 3}", str(n)) for n in range(12)))
    started = [house.start_agent(number) for number in (1, 2, 3)]
    house.agents_started = [agent for _, agent in started]
    house.until(lambda: house.queue.agents.under_way() == IN_ALL)
    for asked, agent in started:
        for number in house.queue.agents.queues[asked.user, asked.action, asked.duty].begun:
            house.until(lambda number=number: _sent(house, number))
            agent.send(frames.encode(frames.InProgress(number)))
            house.until(lambda number=number: house._is_at_work(number))
    return house


def _sent(house, number):
    return any(number in line.begun and line.begun[number].sent for line in house.queue.agents.queues.values())


def test_no_agent_is_started_that_could_do_nothing_for_want_of_a_session(busy_house):
    busy_house.store_due(command("bob"))
    busy_house.turn()
    busy_house.pass_time(IDLE_TIMEOUT)
    assert not busy_house.mail["parent"]
    busy_house.deliver(busy_house.agents_started[0])
    while busy_house.queue.agents.under_way() == IN_ALL:
        busy_house.deliver(busy_house.agents_started[0])
    asked, bobs = busy_house.start_agent(4)
    assert asked.user == "bob"
    busy_house.deliver(bobs)


def test_a_command_that_finds_no_free_slot_in_time_is_deferred(busy_house):
    (waiting,) = busy_house.store_due(command("bob"))
    busy_house.turn()
    busy_house.pass_time(SLOW_LIMITS.patience)
    deferred = all_tried(busy_house, 3)[1]
    assert waiting in deferred and deferred - {waiting} <= set(busy_house.hanging)
    assert errors(busy_house, [waiting]) == {TOO_MANY_SLOW}
    assert ("bob", "local", Duty.FORWARDED) not in busy_house.queue.agents.queues
    busy_house.deliver(busy_house.agents_started[0])
    assert len(all_tried(busy_house, 1)[0]) == 1
    (again,) = busy_house.store_due(command("bob", "again"))
    asked, bobs = busy_house.start_agent(4)
    assert busy_house.deliver(bobs).envelope == again


def test_an_agent_that_comes_when_nothing_waits_for_it_any_more_keeps_no_session(house):
    house.store_due(command("bob"))
    asked = house.hear("parent", StartAgent)
    house.pass_time(SLOW_LIMITS.patience)
    all_tried(house, 1)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    house.agents.append(other)
    house.say("parent", AgentStarted(asked.request, 9), one.detach())
    house.store_due(*(command(f"eve{n % 3}", str(n)) for n in range(12)))
    for number in (1, 2, 3):
        house.start_agent(number)
    house.until(lambda: house.queue.agents.under_way() == IN_ALL)


def test_an_agent_that_is_refused_keeps_no_session(house):
    for _ in range(IN_ALL + 1):
        (envelope,) = house.store_due(command("bob"))
        house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, False, "too many agents"))
        assert house.tried() == ([], [envelope], [])


def test_agents_with_nothing_to_run_make_room_for_those_that_have_a_session(house):
    house.queue.agents.slow._count = 1
    for number, user in enumerate(("amy", "bob", "eve"), 1):
        house.store_due(command(user))
        if number > 1:
            assert house.hear("parent", EndAgent).agent == number - 1
        asked, agent = house.start_agent(number)
        assert asked.user == user
        house.deliver(agent)
        house.tried()


def test_agents_that_are_lost_give_their_command_slots_back(busy_house):
    for agent in busy_house.agents_started:
        agent.close()
    all_tried(busy_house, 12)
    for _ in range(3):
        assert busy_house.hear("parent", EndAgent)
    busy_house.store_due(*(command(f"user{n % 3}", str(n)) for n in range(12)))
    for number in (4, 5, 6):
        busy_house.start_agent(number)
    busy_house.until(lambda: busy_house.queue.agents.under_way() == IN_ALL)


def test_the_next_agent_of_a_user_finds_a_session_kept_for_it(house):
    house.store_due(*(command("bob", str(n)) for n in range(OF_AGENT + 2)))
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    agent.close()
    assert house.hear("parent", EndAgent)
    asked = house.hear("parent", StartAgent)
    all_tried(house, OF_AGENT)
    house.store_due(*(command(f"eve{n % 3}", str(n)) for n in range(12)))
    for number in (2, 3, 4):
        house.start_agent(number)
    house.until(lambda: house.queue.agents.under_way() == IN_ALL - 1)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    house.agents.append(other)
    house.say("parent", AgentStarted(asked.request, 5), one.detach())
    other.setblocking(False)
    assert house.receive(other)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_agents_do_no_session_is_lost_and_none_is_made(house, seed):
    """Each session is free, used by a command, or kept for an agent that is being started."""
    source, alive, most = random.Random(seed), [], 0
    mails = house.store([command(source.choice("abcdef"), str(number)) for number in range(500)])
    for _ in range(100):
        match source.choice(["mail", "mail", "answer", "answer", "die", "time"]):
            case "mail":
                house.due(*(mails.pop() for _ in range(source.randint(1, 20)) if mails))
            case "answer" if alive:
                answer_some(house, source.choice(alive))
            case "die" if alive:
                alive.pop(source.randrange(len(alive))).close()
            case "time":
                house.pass_time(source.choice([1, RESTART_DELAY, SLOW_LIMITS.patience]))
        for _ in range(5):
            house.turn()
        alive += play_parent(house, source)
        lines = house.queue.agents.queues.values()
        used = sum(len(line.begun) + line.reserves_command for line in lines)
        most = max(most, used)
        assert used + house.queue.agents._commands._free == IN_ALL
        assert all(
            line.agent or line.reserves_command or key in wanting(house)
            for key, line in house.queue.agents.queues.items()
        )
    assert most == IN_ALL


def wanting(house):
    return house.queue.agents._commands._wanting


def play_parent(house, source):
    """Start what is asked for, but not always."""
    started = []
    while house.mail["parent"]:
        imsg, _ = house.mail["parent"].popleft()
        if isinstance(imsg, StartAgent) and source.random() < 0.2:
            house.say("parent", AgentRefused(imsg.request, False, "too many agents"))
        elif isinstance(imsg, StartAgent):
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            house.say("parent", AgentStarted(imsg.request, 1), one.detach())
            other.setblocking(False)
            house.agents.append(other)
            started.append(other)
    return started


def answer_some(house, agent):
    """A little of what it has been sent."""
    for _ in range(3):
        try:
            packet = agent.recv(frames.PACKET_MAX)
        except (BlockingIOError, ConnectionResetError):
            return
        if not packet:
            return
        try:
            agent.send(frames.encode(frames.InProgress(frames.decode(packet).envelope)))
            house.answer(agent, frames.decode(packet))
        except BrokenPipeError:
            return


def test_a_command_that_is_never_answered_ends_with_its_agent(house):
    (envelope,) = house.store_due(command("eve"))
    _, agent = house.start_agent()
    house.begin(agent)
    house.pass_time(QUICK_LIMITS.deadline)
    assert not closed(agent)
    house.pass_time(SLOW_LIMITS.deadline - QUICK_LIMITS.deadline)
    assert house.tried() == ([], [envelope], [])
    assert house.hear("parent", EndAgent)


def test_a_slow_host_that_answers_now_and_then_is_not_given_up(house):
    """The last of what the agent has may have to wait there for longer than one mail may take."""
    envelopes = house.store_due(*(recipient(f"user{n}", "far") for n in range(3)))
    asked, agent = house.start_agent()
    assert asked.user == "_smtpm"
    for _ in range(3):
        errand = house.begin(agent)
        house.pass_time(SLOW_LIMITS.deadline - 30)
        house.answer(agent, errand)
        house.turn()
    assert all_tried(house, 3)[0] == set(envelopes)


# -- an agent that is at work in one hand is alive ------------------------------------------------------------


def test_a_command_that_takes_long_keeps_no_other_mail_of_its_user_waiting(house):
    (long,) = house.store_due(command("bob", "long"))
    _, agent = house.start_agent()
    errand = house.begin(agent)
    for number in range(4):
        house.pass_time(SLOW_LIMITS.patience + 5)
        (other,) = house.store_due(command("bob", str(number)))
        house.answer(agent, house.begin(agent))
        assert house.tried() == ([other], [], [])
    house.answer(agent, errand)
    assert house.tried() == ([long], [], [])
    assert not closed(agent)


def test_an_agent_that_is_at_work_with_nothing_it_was_given_is_found(house):
    """Stopped by its user, before it began anything."""
    envelopes = house.store_due(command("eve", "one"), command("eve", "two"))
    _, agent = house.start_agent()
    house.receive(agent)
    house.pass_time(SLOW_LIMITS.patience - 1)
    assert not closed(agent)
    house.pass_time(1)
    assert all_tried(house, 2)[1] == set(envelopes)
    assert house.hear("parent", EndAgent)


def test_one_that_stops_after_an_answer_is_found_too(house):
    first, second = house.store_due(command("eve", "one"), command("eve", "two"))
    _, agent = house.start_agent()
    errand = house.begin(agent)
    house.pass_time(SLOW_LIMITS.patience * 2)
    house.answer(agent, errand)
    assert house.tried() == ([first], [], [])
    house.pass_time(SLOW_LIMITS.patience - 1)
    assert not closed(agent)
    house.pass_time(1)
    assert house.tried() == ([], [second], [])
    assert house.hear("parent", EndAgent)


def test_the_time_of_an_errand_is_its_own_however_many_others_are_answered(house):
    (hanging,) = house.store_due(command("eve", "hangs"))
    _, agent = house.start_agent()
    house.begin(agent)
    for number in range(int(SLOW_LIMITS.deadline // 60)):
        house.pass_time(60)
        (other,) = house.store_due(command("eve", str(number)))
        house.answer(agent, house.begin(agent))
        assert house.tried() == ([other], [], [])
    house.pass_time(SLOW_LIMITS.deadline % 60)
    assert house.tried() == ([], [hanging], [])
    assert house.hear("parent", EndAgent)


def test_what_has_not_been_begun_yet_is_not_late(house):
    """The agent has a single hand: its user may have no more threads."""
    envelopes = house.store_due(*(command("bob", str(number)) for number in range(OF_AGENT)))
    _, agent = house.start_agent()
    for _ in envelopes:
        errand = house.begin(agent)
        house.pass_time(SLOW_LIMITS.deadline - 1)
        house.answer(agent, errand)
        house.turn()
    assert all_tried(house, OF_AGENT)[0] == set(envelopes)
    assert not closed(agent)


@pytest.mark.parametrize("action, duty", [("local", Duty.FORWARDED), ("run", Duty.DELIVER)])
def test_the_time_of_a_command_is_not_prolonged(house, action, duty):
    (envelope,) = house.store_due(command("eve", action=action, duty=duty))
    _, agent = house.start_agent()
    errand = house.begin(agent)
    agent.send(frames.encode(frames.InProgress(errand.envelope)))
    assert house.tried() == ([], [envelope], [])
    assert house.hear("parent", EndAgent)


def test_a_quick_agent_is_not_at_work_but_done(house):
    (envelope,) = house.store_due(recipient("eve"))
    _, agent = house.start_agent()
    errand = house.receive(agent)
    agent.send(frames.encode(frames.InProgress(errand.envelope)))
    assert house.tried() == ([], [envelope], [])


def test_a_mail_that_a_server_takes_slowly_has_time_as_long_as_it_goes_on_and_not_for_ever(house):
    (envelope,) = house.store_due(recipient("bob", "far"))
    _, agent = house.start_agent()
    errand = house.begin(agent)
    for _ in range(int(LMTP_LIMITS.most // 300)):
        house.pass_time(300)
        assert not closed(agent)
        agent.send(frames.encode(frames.InProgress(errand.envelope)))
        house.until(lambda: house.queue.agents.queues[FAR].begun[errand.envelope].until > house.now)
    house.pass_time(LMTP_LIMITS.most % 300 + 1)
    assert house.tried() == ([], [envelope], [])
    assert house.hear("parent", EndAgent)


def test_a_server_that_says_nothing_any_more_is_given_up(house):
    (envelope,) = house.store_due(recipient("bob", "far"))
    _, agent = house.start_agent()
    house.begin(agent)
    house.pass_time(LMTP_LIMITS.deadline)
    assert house.tried() == ([], [envelope], [])


def test_a_disk_of_one_user_that_hangs_keeps_no_other_user_of_the_same_agent_waiting(house):
    (hanging,) = house.store_due(recipient("bob", "virtual"))
    asked, agent = house.start_agent()
    assert asked.user == "vmail"
    house.receive(agent)
    house.pass_time(QUICK_LIMITS.patience + 5)
    (other,) = house.store_due(recipient("amy", "virtual"))
    house.deliver(agent)
    assert house.tried() == ([other], [], [])
    house.pass_time(QUICK_LIMITS.deadline)
    assert house.tried() == ([], [hanging], [])


def test_envelopes_of_one_message_come_to_their_agent_one_after_the_other(house):
    envelopes = house.store_due(*(recipient(f"user{n}", "far") for n in range(20)))
    _, agent = house.start_agent()
    errands = [house.receive(agent) for _ in range(20)]
    assert [errand.envelope for errand in errands] == envelopes
    assert [errand.user for errand in errands] == [f"user{n}" for n in range(20)]


def test_a_command_of_an_alias_file_runs_as_the_user_for_that(house):
    (envelope,) = house.store_due(command("root", "sort", duty=Duty.ALIASED))
    asked = house.hear("parent", StartAgent)
    assert (asked.user, asked.action, asked.duty) == ("runner", "local", Duty.ALIASED)
    house.say("parent", AgentRefused(asked.request, True, "no such user"))
    assert house.failed() == [envelope]


def test_statistics_count_slow_agents_too(house):
    house.store_due(*(command("bob", str(n)) for n in range(6)), recipient("bob"), recipient("amy"))
    for number in (1, 2, 3):
        house.start_agent(number)
    house.until(lambda: house.queue.agents.under_way() == OF_AGENT + 2)
    house.say("control", ReportStatistics(1))
    counters = house.hear("control", StatisticsReported).counters
    told = {key: counters[f"mda.{key}"] for key in ("envelope", "pending", "running", "user")}
    assert told == {"envelope": 8, "pending": 2, "running": OF_AGENT + 2, "user": 2}


def test_no_agent_is_started_for_a_command_that_waits_while_we_stop(busy_house):
    busy_house.store_due(command("bob"))
    busy_house.turn()
    busy_house.queue.agents.stop()
    busy_house.deliver(busy_house.agents_started[0])
    busy_house.turn()
    assert not busy_house.mail["parent"]


@pytest.mark.parametrize("at_work, reason", [(False, AGENT_SILENT), (True, TOO_MANY_SLOW)])
def test_what_finds_no_room_with_a_slow_agent_says_whether_that_is_at_work(house, monkeypatch, at_work, reason):
    monkeypatch.setattr(house.queue.agents, "tick", lambda: None)
    house.store_due(*(command("bob", str(n)) for n in range(OF_AGENT)))
    _, agent = house.start_agent()
    for _ in range(OF_AGENT):
        errand = house.receive(agent)
    if at_work:
        agent.send(frames.encode(frames.InProgress(errand.envelope)))
        house.until(lambda: house._is_at_work(errand.envelope))
    house.now += SLOW_LIMITS.patience
    (late,) = house.store_due(command("bob", "late"))
    assert house.tried() == ([], [late], [])
    assert errors(house, [late]) == {reason}
