"""A command that is not in the user's .forward any more: what the user wants now takes its place."""

import threading

import pytest
from msgspec.structs import replace

from smtpd.envelope import COUNTER_MAX, Duty, Outcome, message_of
from smtpd.imsg import (
    DeleteEnvelopes,
    EndAgent,
    EnvelopeExpanded,
    EnvelopeNotExpanded,
    EnvelopeReplaced,
    EnvelopesTried,
    ExpandEnvelope,
    MarkSuspended,
    PostponeEnvelopes,
    Stop,
)
from smtpd.ipc.channel import Violation
from smtpd.queue import process, state
from smtpd.queue.agents.routing import AgentRouting
from smtpd.queue.delivery import reexpansion
from smtpd.queue.delivery.reexpansion import SUCCESSORS_MAX, UPPER_HALF
from smtpd.queue.store import commit
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove, Replace, StoreBroken, StoreFull, Suspend
from tests.queue.conftest import CONTENT, ORIGIN, WAIT_MAX, command, configuration, recipient
from tests.queue.conftest import envelope as row_of
from tests.queue.fault import Faulty, broken, refuse, times
from tests.queue.ram_store import RAMStore


def stale(house, agent):
    """The agent does not find what its next errand is for; lookup is asked what the user wants."""
    house.answer(agent, house.receive(agent), Outcome.STALE, "")
    return house.hear("lookup", ExpandEnvelope)


def expanded(house, asked, *recipients):
    house.say("lookup", EnvelopeExpanded(asked.request, [*recipients]))


def of_bob(recipient):
    """It comes out of the .forward of bob, who was named to the server."""
    return replace(recipient, recipient="bob@here.test")


def replaced(house):
    """What the scheduler is told to stand in the place of the stale envelope."""
    return house.hear("scheduler", EnvelopeReplaced).schedules


def rows(house):
    return house.queue.disk.store.envelopes(0, 2**63 - 1, 1000)


@pytest.fixture
def agent(house):
    """Of bob, for commands out of his .forward, with one mail."""
    (house.envelope,) = house.store_due(command("bob", "old"))
    return house.start_agent()[1]


def test_lookup_is_asked_for_what_the_envelope_was_for(house, agent):
    asked = stale(house, agent)
    assert (asked.origin, asked.recipient) == (ORIGIN, command("bob", "old"))


def test_new_envelopes_take_the_place_of_the_old_one(house, agent):
    (before,) = rows(house)
    wanted = [command("bob", "new"), recipient("amy")]
    expanded(house, stale(house, agent), *wanted)
    schedules = replaced(house)
    after = rows(house)
    assert {row.recipient for row in after} == set(wanted)
    assert {schedule.envelope for schedule in schedules} == {row.id for row in after}
    for row in after:
        assert message_of(row.id) == message_of(before.id)
        assert (row.created, row.expires, row.origin) == (before.created, before.expires, before.origin)
        assert (row.run, row.retries, row.next_try) == (before.run, 0, 0)
        assert AgentRouting(configuration()).lane_of(row.recipient) in {schedule.lane for schedule in schedules}
    assert house.queue.disk.store.find_message(message_of(before.id)).content == CONTENT


def test_new_envelopes_are_delivered_as_any_other(house, agent):
    expanded(house, stale(house, agent), recipient("amy"))
    (schedule,) = replaced(house)
    house.due(schedule.envelope)
    asked, amys = house.start_agent(2)
    assert asked.user == "amy"
    assert house.deliver(amys).content == CONTENT
    assert house.tried() == ([schedule.envelope], [], [])
    assert rows(house) == []


def test_no_new_envelope_has_an_id_that_one_of_its_message_ever_had(house):
    """The id is part of a file's name in a Maildir: a second mail of that name would be taken for the first."""
    envelopes = house.store_due(command("bob", "old"), recipient("amy"))
    for number in (1, 2):
        asked, agent = house.start_agent(number)
        if asked.user == "amy":
            house.deliver(agent)
        else:
            bobs = agent
    house.tried()
    expanded(house, stale(house, bobs), of_bob(recipient("amy")))
    (schedule,) = replaced(house)
    assert schedule.envelope not in envelopes
    assert schedule.envelope & 0xFFFFFFFF >= UPPER_HALF


def test_two_stale_commands_of_a_mail_become_what_the_user_wants_once(house):
    house.store_due(command("bob", "one"), command("bob", "two"))
    _, agent = house.start_agent()
    for _ in range(2):
        expanded(house, stale(house, agent), command("bob", "new"))
    house.until(lambda: [row.recipient for row in rows(house)] == [command("bob", "new")])
    assert len(replaced(house)) == 1
    assert replaced(house) == []


def test_what_others_of_the_forward_were_for_is_not_made_again(house):
    """`\\bob, "|old"`: one of them is delivered, the user mends the other, and another time."""
    mailbox, _ = house.store_due(recipient("bob"), command("bob", "old"))
    for number in (1, 2):
        asked, agent = house.start_agent(number)
        if asked.duty is Duty.DELIVER:
            house.deliver(agent)
        else:
            commands = agent
    assert house.tried() == ([mailbox], [], [])
    for text in ("newer", "newest"):
        expanded(house, stale(house, commands), recipient("bob"), command("bob", text))
        (schedule,) = replaced(house)
        assert [row.recipient for row in rows(house)] == [command("bob", text)]
        house.due(schedule.envelope)


def test_a_command_that_is_put_back_is_run(house, agent):
    """From X to Y, to X and to Y again, while the mail waits: each of them was replaced undelivered."""
    wanted = ["Y", "X", "Y", "X"]
    for text in wanted:
        expanded(house, stale(house, agent), command("bob", text))
        (schedule,) = replaced(house)
        house.due(schedule.envelope)
    assert house.deliver(agent).digest == command("bob", "X").digest
    assert house.tried() == ([schedule.envelope], [], [])
    assert rows(house) == []


def test_a_command_that_was_not_run_is_not_taken_for_run(house):
    """An envelope that went, as another one has all that its user wants, was not delivered either."""
    house.store_due(command("bob", "one"), command("bob", "two"))
    _, agent = house.start_agent()
    first, second = house.receive(agent), house.receive(agent)
    house.answer(agent, first, Outcome.STALE, "")
    expanded(house, house.hear("lookup", ExpandEnvelope), command("bob", "two"))
    assert replaced(house) == []
    house.answer(agent, second, Outcome.STALE, "")
    expanded(house, house.hear("lookup", ExpandEnvelope), command("bob", "one"))
    replaced(house)
    assert [row.recipient for row in rows(house)] == [command("bob", "one")]


def test_what_a_forward_was_expanded_to_is_known_after_a_restart(make_house, tmp_path):
    house = make_house()
    mailbox, run = house.store([recipient("bob"), command("bob", "old")])
    house.due(mailbox)
    _, agent = house.start_agent()
    house.deliver(agent)
    house.tried()
    store = house.queue.disk.store
    house.queue.disk.store.close()
    house = make_house(type(store)(str(tmp_path)))
    house.due(run)
    _, agent = house.start_agent()
    expanded(house, stale(house, agent), recipient("bob"), command("bob", "new"))
    house.until(lambda: [row.recipient for row in rows(house)] == [command("bob", "new")])


def test_what_another_user_wants_of_the_same_mail_is_another_matter(house):
    house.store_due(command("bob", "one"), command("amy", "one"))
    for number in (1, 2):
        _, agent = house.start_agent(number)
        asked = stale(house, agent)
        expanded(house, asked, replace(recipient("carol"), recipient=asked.recipient.recipient))
    house.until(lambda: {row.recipient.user for row in rows(house)} == {"carol"})
    assert {row.recipient.recipient for row in rows(house)} == {"bob@here.test", "amy@here.test"}


def test_a_forward_that_changes_all_the_time_makes_no_flood_of_one_mail(house):
    """Each try finds another file, with as many lines as it may have."""
    house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    first = [command("bob", f"first {n}") for n in range(SUCCESSORS_MAX)]
    expanded(house, stale(house, agent), *first)
    schedules = replaced(house)
    house.due(schedules[0].envelope)
    expanded(house, stale(house, agent), *(command("bob", f"second {n}") for n in range(SUCCESSORS_MAX)))
    assert len(house.tried()[1]) == 1
    assert len(rows(house)) == SUCCESSORS_MAX


def test_a_command_that_is_named_again_is_not_taken_for_delivered(house, agent):
    """The user has put it back since its agent looked."""
    house.store_due(command("amy", "old"))
    _, of_amy = house.start_agent(2)
    (before,) = [row for row in rows(house) if row.recipient == command("amy", "old")]
    expanded(house, stale(house, of_amy), command("amy", "old"))
    (schedule,) = replaced(house)
    assert schedule.envelope != before.id
    assert [row.recipient for row in rows(house) if row.id == schedule.envelope] == [command("amy", "old")]


def test_one_that_is_stale_each_time_is_not_asked_about_without_end(house, agent):
    """Each try finds another line, or a lookup makes one up."""
    for number in range(SUCCESSORS_MAX):
        expanded(house, stale(house, agent), command("bob", f"new {number}"))
        (schedule,) = replaced(house)
        house.due(schedule.envelope)
    expanded(house, stale(house, agent), command("bob", "one more"))
    assert len(house.tried()[1]) == 1
    assert [row.recipient for row in rows(house)] == [command("bob", f"new {SUCCESSORS_MAX - 1}")]


def test_nor_does_one_that_names_other_users_each_time(house):
    """Else a user of the system sends many copies of one mail to all the others, and is not counted for it."""
    house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    first = [command("bob", "new"), *(of_bob(recipient(f"first{n}")) for n in range(SUCCESSORS_MAX - 1))]
    expanded(house, stale(house, agent), *first)
    schedules = replaced(house)
    house.due(schedules[0].envelope)
    expanded(house, stale(house, agent), *(of_bob(recipient(f"second{n}")) for n in range(SUCCESSORS_MAX)))
    assert len(house.tried()[1]) == 1
    assert len(rows(house)) == SUCCESSORS_MAX


@pytest.mark.parametrize("permanent", [False, True])
def test_what_cannot_be_expanded_is_deferred_or_fails_with_the_reason(house, agent, permanent):
    asked = stale(house, agent)
    house.say("lookup", EnvelopeNotExpanded(asked.request, permanent, "no such user"))
    if permanent:
        assert house.failed() == [house.envelope]
        assert house.owed(house.envelope).reason == "no such user"
        return
    assert house.tried() == ([], [house.envelope], [])
    house.say("scheduler", PostponeEnvelopes([(house.envelope, 5)]))
    house.until(lambda: rows(house)[0].error == "no such user")
    assert not rows(house)[0].held


def test_a_command_that_the_alias_file_does_not_name_any_more_is_held(house):
    (envelope,) = house.store_due(command("bob", "old", duty=Duty.ALIASED))
    asked, agent = house.start_agent()
    assert asked.user == "runner"
    house.answer(agent, house.receive(agent), Outcome.STALE, "")
    assert house.tried() == ([], [], [envelope])
    assert rows(house)[0].error == "the alias file does not name this any more"


def test_an_agent_that_calls_a_mailbox_stale_is_dropped(house):
    (envelope,) = house.store_due(recipient("eve"))
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.STALE, "")
    assert house.tried() == ([], [envelope], [])
    assert house.hear("parent", EndAgent)
    assert not house.mail["lookup"]


def test_old_and_new_change_place_in_one_commit(make_house, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    house = make_house(Faulty(RAMStore()))
    (envelope,) = house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    asked = stale(house, agent)
    house.queue.disk.store.faults["apply"] = refuse(StoreFull)
    expanded(house, asked, recipient("amy"), recipient("carol"))
    house.until(lambda: house.queue.disk.commits.waits_for_room)
    assert [row.id for row in rows(house)] == [envelope]
    assert not house.mail["scheduler"]
    house.queue.disk.store.faults.clear()
    assert len(replaced(house)) == 2
    (changes,) = [c for (c,) in house.queue.disk.store.called("apply") if any(isinstance(one, Replace) for one in c)]
    assert len(changes) == 1


def test_new_envelopes_that_cannot_be_stored_leave_the_old_one_for_another_try(make_house, capfd):
    house = make_house(Faulty(RAMStore()))
    (envelope,) = house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    asked = stale(house, agent)
    house.queue.disk.store.faults["apply"] = refuse(ValueError)
    expanded(house, asked, recipient("amy"))
    assert house.tried() == ([], [envelope], [])
    house.queue.disk.store.faults.clear()
    house.say("scheduler", PostponeEnvelopes([(envelope, 5)]))
    house.until(lambda: rows(house)[0].retries)
    house.due(envelope)
    expanded(house, stale(house, agent), recipient("amy"))
    house.until(lambda: [row.recipient for row in rows(house)] == [recipient("amy")])
    assert "ValueError" in capfd.readouterr().err


# -- what an administrator wants meanwhile ----------------------------------------------------------------------------


def test_an_envelope_that_makes_our_code_raise_costs_itself_and_lets_its_message_go_on(house, monkeypatch, capfd):
    house.store_due(command("bob", "one"), command("amy", "one"))
    key = reexpansion.recipient_key

    def raising(recipient):
        if recipient.user == "bob":
            raise KeyError("a mistake of ours")
        return key(recipient)

    monkeypatch.setattr(reexpansion, "recipient_key", raising)
    agents = {asked.user: agent for asked, agent in (house.start_agent(number) for number in (1, 2))}
    for user, agent in sorted(agents.items(), reverse=True):
        expanded(house, stale(house, agent), command(user, "new"))
    deferred = house.tried()[1]
    assert len(deferred) == len(replaced(house)) == 1
    assert "KeyError" in capfd.readouterr().err


def test_an_envelope_that_was_removed_meanwhile_has_no_successor(house, agent):
    asked = stale(house, agent)
    house.say("scheduler", DeleteEnvelopes([house.envelope]))
    house.until(lambda: not rows(house))
    expanded(house, asked, recipient("amy"))
    assert replaced(house) == []
    assert rows(house) == []


@pytest.mark.parametrize("suspended", [True, False])
def test_a_suspended_envelope_has_suspended_successors(house, agent, suspended):
    asked = stale(house, agent)
    house.say("scheduler", MarkSuspended([house.envelope], True))
    house.say("scheduler", MarkSuspended([house.envelope], suspended))
    house.until(lambda: house.queue.disk.commits.idle and rows(house)[0].suspended is suspended)
    expanded(house, asked, recipient("amy"), command("bob", "new"))
    assert [schedule.suspended for schedule in replaced(house)] == [suspended, suspended]
    assert [row.suspended for row in rows(house)] == [suspended, suspended]


@pytest.mark.parametrize("first", ["wish", "successors"])
@pytest.mark.parametrize("wish", ["remove", "suspend"])
def test_what_an_administrator_wants_while_the_disk_is_full(make_house, tmp_path, monkeypatch, wish, first):
    """The wish and the replacement are committed in one transaction, in the order in which they came."""
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    house = make_house(Faulty(SQLiteStore(str(tmp_path))))
    (envelope,) = house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    asked = stale(house, agent)
    house.queue.disk.store.faults["apply"] = refuse(StoreFull)
    wanted = DeleteEnvelopes([envelope]) if wish == "remove" else MarkSuspended([envelope], True)
    kind = Remove if wish == "remove" else Suspend
    steps = [
        (lambda: house.say("scheduler", wanted), kind),
        (lambda: expanded(house, asked, recipient("amy")), Replace),
    ]
    for step, change in steps if first == "wish" else reversed(steps):
        step()
        house.until(lambda change=change: change in map(type, house.queue.disk.commits.uncommitted(envelope)))
    house.queue.disk.store.faults.clear()
    schedules = replaced(house)
    if first == "wish" and wish == "remove":
        assert schedules == [] and rows(house) == []
    else:  # a scheduler that hears of successors knows what it had wanted
        assert [schedule.suspended for schedule in schedules] == [first == "wish"]
        assert [row.suspended for row in rows(house)] == [first == "wish"]


def test_an_envelope_that_was_removed_before_an_agent_had_it_is_not_tried(house):
    """It waits in line; another envelope keeps the content where it is."""
    first, second, third = house.store_due(*(command("bob", text) for text in ("one", "two", "three")))
    house.say("scheduler", DeleteEnvelopes([second]))
    house.until(lambda: len(rows(house)) == 2)
    _, agent = house.start_agent()
    assert {house.deliver(agent).envelope for _ in range(2)} == {first, third}
    told = set()
    while told != {first, second, third}:
        told |= {*house.hear("scheduler", EnvelopesTried).delivered}


def test_an_envelope_that_was_removed_is_not_called_a_mail_without_content(house, capfd):
    (envelope,) = house.store_due(command("bob", "one"))
    house.say("scheduler", DeleteEnvelopes([envelope]))
    house.until(lambda: not rows(house))
    house.start_agent()
    assert house.tried() == ([envelope], [], [])
    assert "PermFail" not in capfd.readouterr().err


def test_successors_that_cannot_be_read_are_told_all_the_same(make_house):
    house = make_house(Faulty(RAMStore()))
    house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    asked = stale(house, agent)
    house.queue.disk.store.faults["load"] = broken
    expanded(house, asked, recipient("amy"))
    (schedule,) = replaced(house)
    assert [row.id for row in rows(house)] == [schedule.envelope]


def test_a_replacement_for_which_the_message_cannot_be_read_is_made_later(make_house):
    house = make_house(Faulty(RAMStore()))
    (envelope,) = house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    house.queue.disk.store.faults["expanded"] = times(1, StoreBroken)
    expanded(house, stale(house, agent), recipient("amy"))
    assert house.tried() == ([], [envelope], [])
    assert [row.id for row in rows(house)] == [envelope]


def test_of_no_more_messages_than_so_many_the_replacements_are_counted(house, monkeypatch):
    monkeypatch.setattr(reexpansion, "ROUNDS_KEPT", 2)
    for number in range(4):
        house.store_due(command("bob", "old"))
        if not number:
            _, agent = house.start_agent()
        expanded(house, stale(house, agent), recipient("amy"))
        replaced(house)
        assert len(house.queue.reexpansions._rounds) == min(number + 1, 2)


def test_replacements_are_forgotten_first_where_there_was_none_for_the_longest_time(house, monkeypatch):
    monkeypatch.setattr(reexpansion, "ROUNDS_KEPT", 2)
    monkeypatch.setattr(reexpansion, "SUCCESSORS_MAX", 2)
    counts, one, two, three = house.queue.reexpansions._counts_another, *map(row_of, (1, 2, 3))
    assert [counts(row) for row in (one, two, one, three)] == [True] * 4
    assert not counts(one)
    assert counts(three) and not counts(three)


def test_what_others_have_already_is_no_replacement_that_counts(house):
    """However often the user has changed the file before."""
    one, _ = house.store([command("bob", "old"), recipient("amy")])
    house.queue.reexpansions._rounds[message_of(one), "bob"] = SUCCESSORS_MAX
    house.due(one)
    _, agent = house.start_agent()
    expanded(house, stale(house, agent), recipient("amy"))
    assert replaced(house) == []


def test_a_message_goes_with_an_envelope_in_whose_place_comes_nothing(house, agent):
    (row,) = rows(house)
    expanded(house, stale(house, agent))
    assert replaced(house) == [] and rows(house) == []
    assert house.queue.disk.store.find_message(message_of(row.id)) is None


def test_nothing_is_under_way_when_the_last_replacement_is_made(house, agent):
    expanded(house, stale(house, agent), recipient("amy"))
    house.until(lambda: house.queue.reexpansions.under_way)
    replaced(house)
    assert not house.queue.reexpansions.under_way and not house.queue.in_flight


@pytest.mark.parametrize("drawn", ["lowest", "highest"])
def test_counters_of_successors_are_in_the_upper_half_whatever_is_drawn(house, agent, monkeypatch, drawn):
    monkeypatch.setattr(reexpansion.secrets, "randbelow", lambda limit: 0 if drawn == "lowest" else limit - 1)
    users = [recipient(f"u{number}") for number in range(SUCCESSORS_MAX)]
    expanded(house, stale(house, agent), *map(of_bob, users))
    counters = [schedule.envelope & COUNTER_MAX for schedule in replaced(house)]
    assert len({*counters}) == SUCCESSORS_MAX and min(counters) >= UPPER_HALF and max(counters) <= COUNTER_MAX
    assert {row.id >> 32 for row in rows(house)} == {rows(house)[0].id >> 32}


def test_a_replacement_that_a_stop_did_not_wait_for_is_not_told(make_house, monkeypatch):
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    house = make_house(Faulty(RAMStore()))
    house.store_due(command("bob", "old"))
    _, agent = house.start_agent()
    stopped = threading.Event()
    house.queue.disk.store.faults["expanded"] = lambda *_: stopped.wait(WAIT_MAX) and None
    expanded(house, stale(house, agent), recipient("amy"))
    house.until(lambda: house.queue.reexpansions.under_way)
    house.say("parent", Stop())
    house.until(lambda: house.queue._scheduler_done)
    stopped.set()
    house.loop.run_forever()
    assert [row.recipient for row in rows(house)] == [recipient("amy")]
    assert not [imsg for imsg, _ in house.mail["scheduler"] if isinstance(imsg, EnvelopeReplaced)]


def test_no_more_questions_wait_for_lookup_than_it_may_have(house):
    count = reexpansion.QUESTIONS_MAX + 3
    house.store_due(*(command("bob", f"old {n}") for n in range(count)))
    _, agent = house.start_agent()
    for _ in range(count):
        house.answer(agent, house.receive(agent), Outcome.STALE, "")
    house.until(lambda: len(house.queue.to_lookup) == count)
    house.turn()
    asked = [imsg for imsg, _ in house.mail["lookup"]]
    assert len(asked) == reexpansion.QUESTIONS_MAX
    for imsg in asked:
        house.say("lookup", EnvelopeNotExpanded(imsg.request, False, "later"))
    house.until(lambda: len(house.mail["lookup"]) == count)


def test_an_expansion_without_a_question_is_fatal(house):
    with pytest.raises(Violation):
        process.from_lookup(house.queue, house.near["lookup", 0], EnvelopeExpanded(5, [recipient()]), None)
