"""Envelopes that are due: to the user's agent, and back to the scheduler when it is durable."""

import os
import re
import socket
import threading

import pytest
from msgspec.structs import replace

from smtpd import errand as frames
from smtpd.envelope import Duty, Kind, Outcome
from smtpd.imsg import (
    AddEnvelopes,
    AgentRefused,
    DeleteEnvelopes,
    EndAgent,
    EnvelopesDue,
    EnvelopesEnded,
    EnvelopesSubmitted,
    EnvelopesTried,
    ExpireEnvelopes,
    MarkSuspended,
    MessageStored,
    OpenSpoolFile,
    PostponeEnvelopes,
    ReportStatistics,
    ScanEnvelopes,
    SpoolFileOpened,
    StartAgent,
    StatisticsReported,
    StoreMessage,
)
from smtpd.ipc.channel import Violation
from smtpd.queue import process
from smtpd.queue.delivery import deliveries, delivery_log, in_flight
from smtpd.queue.delivery.conclude import ERROR_MAX
from smtpd.queue.store import commit, sqlite
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove, StoreBroken, StoreFull, UnreadableRow
from tests.queue.conftest import CONTENT, ORIGIN, TERMS, WAIT_MAX, add, command, recipient
from tests.queue.fault import Faulty, broken, refuse, times
from tests.queue.ram_store import RAMStore
from tests.queue.test_incoming import LARGE, spool


def row(house, envelope):
    (found,) = house.queue.disk.store.load([envelope])
    return found


@pytest.fixture
def faulty(make_house):
    """A house whose store fails on order."""
    return make_house(Faulty(RAMStore()))


# -- the usual way ------------------------------------------------------------------


def test_a_mail_goes_to_the_agent_of_its_user_and_action(house, capfd):
    (envelope,) = house.store()
    house.due(envelope)
    asked, agent = house.start_agent()
    assert (asked.user, asked.action, asked.duty) == ("bob", "local", Duty.DELIVER)
    errand = house.receive(agent)
    assert errand == frames.Deliver(
        envelope=envelope,
        created=errand.created,
        size=len(CONTENT),
        sender="amy@there.test",
        recipient="bob@here.test",
        destination="bob@here.test",
        extension="",
        content=CONTENT,
        by_descriptor=False,
        perhaps_delivered=False,
        user="bob",
    )
    house.answer(agent, errand)
    assert house.tried() == ([envelope], [], [])
    assert not house.queue.disk.store.load([envelope])
    assert house.queue.disk.store.find_message(envelope >> 32) is None
    line = capfd.readouterr().err.splitlines()[-1]
    session, _, rest = line.partition(" ")
    assert len(session) == 16
    assert rest.startswith(f"mda delivery evpid={envelope:016x} from=<amy@there.test> to=<bob@here.test> rcpt=<-> ")
    assert re.search(r"user=bob delay=\ds result=Ok stat=Delivered$", rest)


def test_the_first_delivery_reads_nothing(faulty):
    (envelope,) = faulty.store()
    store = faulty.queue.disk.store
    store.calls.clear()
    faulty.due(envelope)
    _, agent = faulty.start_agent()
    faulty.deliver(agent)
    assert faulty.tried() == ([envelope], [], [])
    assert {call[0] for call in store.calls} <= {"apply", "shrink"}


def test_what_is_not_in_the_cache_is_read(house):
    (envelope,) = house.store()
    house.queue.disk.cache.forget(envelope)
    house.due(envelope)
    _, agent = house.start_agent()
    assert house.deliver(agent).content == CONTENT
    assert house.tried() == ([envelope], [], [])


def test_an_envelope_that_makes_no_frame_costs_itself_and_no_descriptor(house, monkeypatch):
    """Our own code raises when the content is open already."""
    content = os.urandom(50_000)
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    _, descriptor = house.hear("dispatcher0", SpoolFileOpened)
    os.write(descriptor, content)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(content)))
    house.hear("dispatcher0", MessageStored)
    house.hear("scheduler", EnvelopesSubmitted)

    def encode(_errand):
        raise UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed")

    with monkeypatch.context() as patched:
        patched.setattr(frames, "encode", encode)
        house.due(message << 32 | 1)
        house.start_agent()
        assert house.tried() == ([], [message << 32 | 1], [])
    house.until(lambda: not house.queue.agents.under_way())  # its agent may have the next one
    open_ones = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
    assert not [path for path in open_ones if f"{message:08x}" in path]


def _is_open(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_a_large_mail_goes_as_a_fresh_descriptor(house, tmp_path):
    content = os.urandom(50_000)
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    _, descriptor = house.hear("dispatcher0", SpoolFileOpened)
    os.write(descriptor, content)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient(), recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 2, b"", len(content)))
    house.hear("dispatcher0", MessageStored)
    house.hear("scheduler", EnvelopesSubmitted)
    house.due(message << 32 | 1, message << 32 | 2)
    _, agent = house.start_agent()
    for _ in range(2):
        errand, descriptor = house.receive(agent)
        assert (errand.by_descriptor, errand.content, errand.size) == (True, b"", len(content))
        with open(descriptor, "rb") as file:
            assert file.read() == content
        house.answer(agent, errand)
    house.until(lambda: not (tmp_path / "content" / f"{message:08x}").exists())
    open_ones = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
    assert not [path for path in open_ones if f"{message:08x}" in path]


def test_results_wait_for_the_disk(faulty, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    (envelope,) = faulty.store()
    store = faulty.queue.disk.store
    store.faults["apply"] = refuse(StoreFull)
    faulty.due(envelope)
    _, agent = faulty.start_agent()
    faulty.deliver(agent)
    faulty.until(lambda: faulty.queue.disk.commits.waits_for_room)
    assert not faulty.mail["scheduler"]
    store.faults.clear()
    assert faulty.tried() == ([envelope], [], [])


def test_a_try_knows_what_is_not_durable_yet(faulty, monkeypatch):
    """The disk is full: what the last try has shown is on its way to the disk, and the administrator does not wait."""
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    first, second = faulty.store([recipient(), recipient()])
    faulty.due(first)
    _, agent = faulty.start_agent(1)
    faulty.deliver(agent)
    assert faulty.tried() == ([first], [], [])
    faulty.due(second)
    assert not faulty.receive(agent).perhaps_delivered
    agent.close()
    assert faulty.tried() == ([], [second], [])
    store = faulty.queue.disk.store
    store.faults["apply"] = refuse(StoreFull)
    faulty.say("scheduler", PostponeEnvelopes([(second, 2_000_000)]))
    faulty.until(lambda: faulty.queue.disk.commits.waits_for_room)
    faulty.due(second)
    faulty.hear("parent", EndAgent)
    _, agent = faulty.start_agent(2)
    assert faulty.receive(agent).perhaps_delivered
    store.faults.clear()
    faulty.until(lambda: faulty.queue.disk.commits.idle)
    assert row(faulty, second).perhaps_delivered


def test_a_finished_delivery_is_not_repeated_when_its_commit_fails(faulty, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    (envelope,) = faulty.store()
    faults = [StoreFull("1"), StoreBroken("2"), StoreFull("3")]

    def fault(changes):
        if any(isinstance(change, Remove) for change in changes) and faults:
            raise faults.pop(0)

    faulty.queue.disk.store.faults["apply"] = fault
    faulty.due(envelope)
    _, agent = faulty.start_agent()
    faulty.deliver(agent)
    assert faulty.tried() == ([envelope], [], [])
    agent.setblocking(False)
    with pytest.raises(BlockingIOError):
        agent.recv(10)
    assert not faults


# -- what else can become of it ---------------------------------------------------------


def test_a_deferred_mail_keeps_the_reason_and_the_time(house):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DEFERRED, "disk quota exceeded")
    assert house.tried() == ([], [envelope], [])
    house.say("scheduler", PostponeEnvelopes([(envelope, 1_234_567_890)]))
    house.until(lambda: row(house, envelope).retries)
    found = row(house, envelope)
    assert (found.next_try, found.error, found.held) == (1_234_567_890, "disk quota exceeded", False)
    assert found.last_try >= found.created
    assert not found.perhaps_delivered
    house.due(envelope)
    assert not house.deliver(agent).perhaps_delivered


@pytest.mark.parametrize(
    "outcome, text, error",
    [(Outcome.FAILED, "no such folder", "no such folder"), (Outcome.LOOP, "whatever", "Loop detected")],
)
def test_the_sender_of_a_permanent_failure_is_to_be_told_the_reason(house, outcome, text, error):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), outcome, text)
    assert house.failed() == [envelope]
    assert house.owed(envelope).reason == error


@pytest.mark.parametrize("error", ["disk quota exceeded", "quota " * 200])
def test_the_sender_of_an_expired_mail_is_to_be_told_the_last_error(house, error):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DEFERRED, error)
    house.tried()
    house.say("scheduler", ExpireEnvelopes([envelope]))
    assert house.hear("scheduler", EnvelopesEnded).envelopes == [envelope]
    assert house.owed(envelope).reason == f"Expired: {error}"[:ERROR_MAX]
    assert house.owed(envelope).last_try > 0


def test_the_sender_of_a_mail_that_expires_without_a_try_of_this_run_is_to_be_told_of_none(house):
    (envelope,) = house.store()
    house.say("scheduler", ExpireEnvelopes([envelope]))
    assert house.hear("scheduler", EnvelopesEnded).envelopes == [envelope]
    found = house.owed(envelope)
    assert (found.reason, found.status, found.last_try) == ("Expired", "4.4.7", 0)


def test_an_expired_mail_that_an_administrator_wants_tried_stays(house):
    """It is due again before queue has read what has expired."""
    (envelope,) = house.store()
    house.queue.disk.cache.forget(envelope)
    house.say("scheduler", ExpireEnvelopes([envelope]))
    house.due(envelope)
    _, agent = house.start_agent()
    house.deliver(agent)
    assert house.tried() == ([envelope], [], [])
    house.until(lambda: house.queue.disk.idle)
    assert not house.mail["scheduler"] and not house.queue.disk.store.owed(0, 10)


def test_an_administrator_changes_what_is_not_under_way(house):
    one, two = house.store([recipient("bob"), recipient("amy")])
    house.say("scheduler", PostponeEnvelopes([(one, 77)]))
    house.say("scheduler", MarkSuspended([one], True))
    house.say("scheduler", DeleteEnvelopes([two]))
    house.until(lambda: row(house, one).suspended and not house.queue.disk.store.load([two]))
    found = row(house, one)
    assert (found.next_try, found.retries, found.last_try) == (77, 0, 0)


def test_a_mail_removed_after_a_deferred_try_is_gone(house):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DEFERRED, "later")
    house.tried()
    house.say("scheduler", DeleteEnvelopes([envelope]))
    house.until(lambda: not house.queue.disk.store.load([envelope]))
    house.until(lambda: not house.queue.conclusions._deferred)


def test_an_agent_has_no_say_in_how_the_log_calls_a_delivery(house, capfd):
    house.store_due(recipient())
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DELIVERED, "to another user")
    house.tried()
    assert capfd.readouterr().err.endswith("result=Ok stat=Delivered\n")


def test_an_action_that_is_gone_holds_the_mail_and_says_so(house, capfd):
    (envelope,) = house.store([recipient("bob", action="old")])
    house.due(envelope)
    assert house.tried() == ([], [], [envelope])
    assert row(house, envelope).error == 'the configuration has no action "old"'
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_mail_for_dev_null_needs_no_agent(house, capfd):
    (envelope,) = house.store_due(recipient("bob", duty=Duty.DISCARD))
    assert house.tried() == ([envelope], [], [])
    assert not house.queue.disk.store.load([envelope])
    assert not house.mail["parent"]
    assert re.search(r"user=bob delay=\ds result=Ok stat=Discarded", capfd.readouterr().err)


def test_an_action_that_delivers_nothing_holds_the_mail_and_says_so(house):
    (envelope,) = house.store_due(recipient("bob", action="expand"))
    assert house.tried() == ([], [], [envelope])
    assert row(house, envelope).error == 'the action "expand" delivers nothing (expand-only)'


def test_an_agent_of_an_action_with_a_user_is_told_whose_mail_it_is(house):
    house.store_due(
        recipient("bob", "virtual", home="/srv/mail/bob"), recipient("amy", "virtual", home="/srv/mail/amy")
    )
    asked, agent = house.start_agent()
    assert (asked.user, asked.action) == ("vmail", "virtual")
    errands = [house.deliver(agent) for _ in range(2)]
    assert [(errand.user, errand.home) for errand in errands] == [("bob", "/srv/mail/bob"), ("amy", "/srv/mail/amy")]


def test_the_agent_of_a_command_is_told_its_digest_and_nothing_of_its_line(house):
    wanted = command("bob", "vacation")
    house.store_due(wanted)
    asked, agent = house.start_agent()
    assert (asked.user, asked.action, asked.duty) == ("bob", "local", Duty.FORWARDED)
    assert house.deliver(agent).digest == wanted.digest


def test_what_the_queue_does_not_know_is_gone(house):
    house.due(1 << 32 | 1, 2 << 32 | 1)
    assert house.tried() == ([1 << 32 | 1, 2 << 32 | 1], [], [])


def test_a_user_that_does_not_exist_any_more_is_a_failure(house):
    (envelope,) = house.store()
    house.due(envelope)
    house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, True, "no such user"))
    assert house.failed() == [envelope]
    assert house.owed(envelope).reason == "no such user"


def test_an_agent_that_cannot_be_started_now_defers_the_mail(house):
    (envelope,) = house.store()
    house.due(envelope)
    house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, False, "too many agents"))
    assert house.tried() == ([], [envelope], [])


def test_an_envelope_that_is_being_tried_is_not_tried_again(house):
    (envelope,) = house.store()
    house.due(envelope)
    house.hear("parent", StartAgent)
    with pytest.raises(Violation):
        process.from_scheduler(house.queue, house.near["scheduler", 0], EnvelopesDue([envelope]), None)


def test_many_results_of_one_turn_are_told_together(house):
    envelopes = house.store([recipient() for _ in range(30)])
    house.due(*envelopes)
    _, agent = house.start_agent()
    for errand in [house.receive(agent) for _ in range(30)]:
        house.answer(agent, errand)
    told = []
    while sum(len(imsg.delivered) for imsg in told) < 30:
        told.append(house.hear("scheduler", EnvelopesTried))
    assert len(told) < 10


# -- perhaps delivered --------------------------------------------------------------------


def restarted(make_house, store, run=1):
    """The same store in another life."""
    store.run = run + 1
    return make_house(store)


def test_a_mail_of_another_run_is_perhaps_delivered_until_it_is_delivered(make_house):
    store = RAMStore()
    store.apply([add(1, run=1)])
    house = restarted(make_house, store)
    house.due(1 << 32 | 1)
    _, agent = house.start_agent()
    errand = house.receive(agent)
    assert errand.perhaps_delivered
    house.answer(agent, errand, Outcome.DEFERRED, "later")
    house.tried()
    house.say("scheduler", PostponeEnvelopes([(1 << 32 | 1, 5)]))
    house.until(lambda: store.load([1 << 32 | 1])[0].retries)
    house.due(1 << 32 | 1)
    assert house.receive(agent).perhaps_delivered  # the agent may have failed before it could look


def test_a_mail_whose_agent_was_lost_with_it_is_perhaps_delivered(house):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.receive(agent)
    agent.close()
    assert house.tried() == ([], [envelope], [])
    house.say("scheduler", PostponeEnvelopes([(envelope, 5)]))
    house.until(lambda: row(house, envelope).retries)
    assert row(house, envelope).perhaps_delivered
    house.pass_time(60)
    house.due(envelope)
    house.hear("parent", EndAgent)
    _, agent = house.start_agent()
    assert house.deliver(agent).perhaps_delivered


# -- one bad mail costs one mail ------------------------------------------------------------


def test_an_envelope_that_brings_us_down_is_held_after_three_starts(make_house, monkeypatch):
    monkeypatch.setattr(deliveries, "SUSPECT_DELAY", 0.0)
    store = RAMStore()
    store.apply([add(1, run=1), add(2, run=1)])
    for run in (1, 2, 3):  # each time it is with an agent when the daemon dies
        house = restarted(make_house, store, run)
        house.due(1 << 32 | 1)
        _, agent = house.start_agent()
        house.receive(agent)
        assert store.load([1 << 32 | 1])[0].troubles == run
    house = restarted(make_house, store, 4)
    house.due(1 << 32 | 1, 2 << 32 | 1)
    _, agent = house.start_agent()
    house.deliver(agent)
    delivered, held = [], []
    while not (delivered and held):
        told = house.hear("scheduler", EnvelopesTried)
        delivered, held = delivered + told.delivered, held + told.held
    assert (delivered, held) == ([2 << 32 | 1], [1 << 32 | 1])
    assert store.load([1 << 32 | 1])[0].held


def test_a_try_that_no_agent_had_neither_adds_to_the_troubles_of_an_envelope_nor_takes_from_them(make_house):
    store = RAMStore()
    store.apply([add(1, run=store.run, troubles=1)])
    house = make_house(store)
    id = 1 << 32 | 1
    house.due(id)
    house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, False, "too many agents"))
    assert house.tried() == ([], [id], [])
    house.say("scheduler", PostponeEnvelopes([(id, 5)]))
    house.until(lambda: row(house, id).retries == 1)
    assert row(house, id).troubles == 1
    house.due(id)
    _, agent = house.start_agent()
    house.receive(agent)
    agent.close()
    assert house.tried() == ([], [id], [])
    house.say("scheduler", PostponeEnvelopes([(id, 6)]))
    house.until(lambda: row(house, id).retries == 2)
    assert row(house, id).troubles == 0


def test_a_full_disk_does_not_keep_mail_of_another_run_from_being_delivered(make_house):
    store = Faulty(RAMStore())
    store.apply([add(1, run=5)])
    house = make_house(store)
    store.faults["apply"] = refuse(StoreFull)
    house.due(1 << 32 | 1)
    _, agent = house.start_agent()
    assert house.receive(agent).envelope == 1 << 32 | 1
    store.faults.clear()


def test_an_envelope_that_makes_our_code_raise_is_deferred_and_held_the_third_time(house, capfd):
    bad, good = house.store([recipient("eve"), recipient("bob")])
    give = house.queue.agents.give

    def explosive(key, attempt):
        """Raises as a mistake of ours would, in the midst of the one envelope."""
        if attempt.number == bad:
            attempt.envelope = replace(attempt.envelope, origin=None)
        give(key, attempt)

    house.queue.agents.give = explosive
    house.due(bad)
    _, agent = house.start_agent(1)
    assert house.tried() == ([], [bad], [])
    house.due(good)
    _, other = house.start_agent(2)
    house.deliver(other)
    assert house.tried() == ([good], [], [])
    log = capfd.readouterr().err
    assert f"envelope {bad:016x}: AttributeError" in log and "Traceback" in log
    for troubles in (1, 2):
        house.say("scheduler", PostponeEnvelopes([(bad, 5)]))
        house.until(lambda troubles=troubles: row(house, bad).troubles == troubles)
        house.due(bad)
        result = house.tried()
    assert result == ([], [], [bad])
    assert row(house, bad).error == "internal error: AttributeError"


def explosive(function, bad):
    """`function`, with a mistake that shows at whatever concerns the user `bad`."""

    def raising(*arguments, **named):
        if any(bad in str(argument) for argument in arguments):
            raise KeyError("a mistake of ours")
        return function(*arguments, **named)

    return raising


@pytest.mark.parametrize("where", ["get_key", "limits"])
def test_an_envelope_that_cannot_be_matched_to_an_agent_costs_itself(house, capfd, monkeypatch, where):
    """Before its try is counted, too: or each start would end with it."""
    routing = house.queue.deliveries._carriers[Kind.MDA]._routing
    monkeypatch.setattr(routing, where, explosive(getattr(routing, where), "eve"))
    bad, good = house.store([recipient("eve"), recipient("bob")])
    house.due(bad, good)
    assert house.tried() == ([], [bad], [])
    _, agent = house.start_agent()
    house.deliver(agent)
    assert house.tried() == ([good], [], [])
    assert f"envelope {bad:016x}: KeyError" in capfd.readouterr().err
    for troubles in (1, 2):
        house.say("scheduler", PostponeEnvelopes([(bad, 5)]))
        house.until(lambda troubles=troubles: row(house, bad).troubles == troubles)
        house.due(bad)
        result = house.tried()
    assert result == ([], [], [bad])
    assert row(house, bad).error == "internal error: KeyError"


@pytest.mark.parametrize("agent", ["started", "refused"])
def test_one_that_joined_a_queue_before_our_code_raised_has_one_end(house, monkeypatch, capfd, agent):
    give = house.queue.agents.give

    def give_and_raise(key, attempt):
        give(key, attempt)
        if attempt.envelope.recipient.extension:
            raise KeyError("a mistake of ours")

    monkeypatch.setattr(house.queue.agents, "give", give_and_raise)
    bad, good = house.store([replace(recipient("bob"), extension="bad"), recipient("bob")])
    house.due(bad, good)
    assert house.tried() == ([], [bad], [])
    if agent == "refused":
        house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, False, "too many agents"))
        assert house.tried() == ([], [good], [])
    else:
        assert house.deliver(house.start_agent()[1]).envelope == good
        assert house.tried() == ([good], [], [])
    assert capfd.readouterr().err.count("Traceback") == 1


def test_what_the_log_cannot_say_of_one_envelope_ends_nothing(house, capfd, monkeypatch):
    monkeypatch.setattr(delivery_log, "end_line", explosive(delivery_log.end_line, "eve"))
    for imsg in (ExpireEnvelopes, DeleteEnvelopes):
        envelopes = house.store([recipient("eve"), recipient("bob")])
        house.say("scheduler", imsg(envelopes))
        house.until(lambda envelopes=envelopes: not house.queue.disk.store.load(envelopes))
        house.until(lambda: house.queue.disk.idle)
        house.mail["scheduler"].clear()
        log = ""
        while "KeyError" not in log or "<bob@here.test>" not in log:
            house.turn()
            log += capfd.readouterr().err


def test_what_the_log_cannot_say_of_one_that_no_agent_gets_costs_that_one(house, capfd, monkeypatch):
    """Its content is missing, which is so after each start."""
    monkeypatch.setattr(delivery_log, "attempt_line", explosive(delivery_log.attempt_line, "eve"))
    (bad,) = house.store([recipient("eve")])
    house.queue.disk.cache.forget(bad)
    house.queue.disk.store._writer.execute("DELETE FROM message")
    house.due(bad)
    house.start_agent()
    assert house.tried() == ([], [bad], [])
    assert row(house, bad).held is False and "KeyError" in capfd.readouterr().err


def test_a_row_that_our_code_cannot_read_does_not_keep_its_page_from_being_read(make_house, monkeypatch, tmp_path):
    house = make_house()
    monkeypatch.setattr(sqlite, "envelope_of", explosive(sqlite.envelope_of, "eve"))
    bad, good = house.store([recipient("eve"), recipient("bob")])
    house.queue.disk.cache.forget(bad)
    house.queue.disk.cache.forget(good)
    house.due(bad, good)
    _, agent = house.start_agent()
    house.deliver(agent)
    told = [house.hear("scheduler", EnvelopesTried) for _ in range(2)]
    assert sorted((imsg.delivered, imsg.held) for imsg in told) == [([], [bad]), ([good], [])]
    assert [entry[0] for entry in house.queue.disk.store.quarantine(5)] == [bad]


def test_a_row_without_a_lane_does_not_keep_the_scan_from_the_others(make_house, monkeypatch, tmp_path):
    store = SQLiteStore(str(tmp_path))
    users = ["amy", "eve", "bob"]
    store.apply([add(message, run=0, recipient=recipient(user)) for message, user in enumerate(users, 1)])
    house = make_house(store)
    monkeypatch.setattr(house.queue.scan, "_lane_of", explosive(house.queue.scan._lane_of, "eve"))
    house.say("scheduler", ScanEnvelopes(0))
    schedules = house.hear("scheduler", EnvelopesSubmitted).schedules
    assert [schedule.envelope for schedule in schedules] == [1 << 32 | 1, 3 << 32 | 1]
    house.until(lambda: [entry[0] for entry in store.quarantine(5)] == [2 << 32 | 1])


def test_content_that_is_missing_or_damaged_holds_the_mail(house):
    for sql, reason in (
        ("DELETE FROM message", "the content is missing"),
        ("UPDATE message SET content = 'x'", "the content was changed after it was stored"),
        ("UPDATE message SET size = size + 1", "the size was changed after the content was stored"),
        ("UPDATE message SET content = NULL, size = -1", "the content was changed after it was stored"),
    ):
        (envelope,) = house.store()
        house.queue.disk.cache.forget(envelope)
        writer = house.queue.disk.store._writer
        writer.execute(sql.replace("'x'", "CAST('x' AS BLOB)"))
        house.due(envelope)
        if not house.queue.agents.queues:
            house.start_agent()
        assert house.tried() == ([], [], [envelope])
        assert row(house, envelope).error == reason


def test_a_row_that_makes_no_sense_goes_to_the_quarantine(house):
    bad, good = house.store([recipient("bob"), recipient("bob")])
    for envelope in (bad, good):
        house.queue.disk.cache.forget(envelope)
    house.queue.disk.store._writer.execute("UPDATE envelope SET kind = 77 WHERE id = ?", (bad,))
    house.due(bad, good)
    _, agent = house.start_agent()
    house.deliver(agent)
    held, delivered = [], []
    while not (held and delivered):
        told = house.hear("scheduler", EnvelopesTried)
        held, delivered = held + told.held, delivered + told.delivered
    assert (held, delivered) == ([bad], [good])
    assert [entry[0] for entry in house.queue.disk.store.quarantine(5)] == [bad]


def test_a_store_that_cannot_be_read_defers(faulty):
    (envelope,) = faulty.store()
    faulty.queue.disk.cache.forget(envelope)
    faulty.queue.disk.store.faults["load"] = broken
    faulty.due(envelope)
    assert faulty.tried() == ([], [envelope], [])


def test_a_row_that_cannot_be_read_now_keeps_what_is_known_of_it(make_house):
    store = Faulty(RAMStore())
    store.apply([add(1, run=1, troubles=2, error="over quota")])
    house = make_house(store)
    (before,) = store.load([1 << 32 | 1])
    store.faults["load"] = broken
    house.due(1 << 32 | 1)
    assert house.tried() == ([], [1 << 32 | 1], [])
    store.faults.clear()
    house.say("scheduler", PostponeEnvelopes([(1 << 32 | 1, 5)]))
    house.until(lambda: store.load([1 << 32 | 1]) == [replace(before, next_try=5)])


# -- what cannot be read or written ---------------------------------------------------------


def reason_kept(house, envelope):
    """Of an envelope that was deferred, after the scheduler has answered."""
    house.say("scheduler", PostponeEnvelopes([(envelope, 5)]))
    house.until(lambda: row(house, envelope).next_try == 5)
    return row(house, envelope).error


def test_a_try_that_cannot_be_counted_is_not_made(make_house):
    store = Faulty(RAMStore())
    store.apply([add(1, run=5)])
    house = make_house(store)
    store.faults["apply"] = times(1, ValueError)
    house.due(1 << 32 | 1)
    _, agent = house.start_agent()
    assert house.tried() == ([], [1 << 32 | 1], [])
    with pytest.raises(BlockingIOError):
        agent.recv(1)
    assert reason_kept(house, 1 << 32 | 1) == "the queue cannot be written: fault 0"


def test_content_that_cannot_be_read_now_defers(faulty):
    (envelope,) = faulty.store()
    faulty.queue.disk.cache.forget(envelope)
    faulty.queue.disk.store.faults["find_message"] = times(1, StoreBroken)
    faulty.due(envelope)
    faulty.start_agent()
    assert faulty.tried() == ([], [envelope], [])
    assert reason_kept(faulty, envelope) == "the queue cannot be read: fault 0"
    assert not row(faulty, envelope).perhaps_delivered  # no agent had it


@pytest.fixture
def spooled(house):
    """A message whose content is in a spool file: its envelope."""
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    house.hear("scheduler", EnvelopesSubmitted)
    return message << 32 | 1


def test_a_spool_file_that_cannot_be_opened_now_defers(house, spooled):
    house.spool.faults["open"] = times(1, TimeoutError)
    house.due(spooled)
    house.start_agent()
    assert house.tried() == ([], [spooled], [])
    assert reason_kept(house, spooled).startswith("the spool cannot be read: ")
    assert not row(house, spooled).perhaps_delivered


def test_a_spool_file_that_was_changed_holds_the_mail(house, spooled, tmp_path):
    (tmp_path / "content" / f"{spooled >> 32:08x}").write_bytes(LARGE[:-1] + b"?")
    house.due(spooled)
    house.start_agent()
    assert house.tried() == ([], [], [spooled])
    assert row(house, spooled).held


def test_a_mail_removed_while_its_spool_file_is_opened_has_not_failed(house, spooled, capfd):
    removed = threading.Event()
    house.spool.faults["open"] = lambda *_: removed.wait(WAIT_MAX) and broken()
    house.due(spooled)
    house.start_agent()
    house.say("scheduler", DeleteEnvelopes([spooled]))
    house.until(lambda: not house.queue.disk.store.load([spooled]))
    removed.set()
    assert house.tried() == ([spooled], [], [])
    assert "result=" not in capfd.readouterr().err


def test_a_mail_removed_while_its_spool_file_is_opened_is_not_delivered(house, spooled):
    opened, removed, open_file = threading.Event(), threading.Event(), house.spool.real.open
    descriptors = []

    def open_slowly(*arguments):
        descriptors.append(open_file(*arguments))
        opened.set()
        removed.wait(WAIT_MAX)
        return descriptors[0]

    house.spool.real.open = open_slowly
    house.due(spooled)
    _, agent = house.start_agent()
    house.until(opened.is_set)
    house.say("scheduler", DeleteEnvelopes([spooled]))
    house.until(lambda: not house.queue.disk.store.load([spooled]))
    removed.set()
    assert house.tried() == ([spooled], [], [])
    with pytest.raises(BlockingIOError):
        agent.recv(10)
    with pytest.raises(OSError):
        os.fstat(descriptors[0])


def test_a_row_that_cannot_be_set_aside_is_held_all_the_same(make_house, tmp_path, capfd):
    house = make_house(Faulty(SQLiteStore(str(tmp_path))))
    (envelope,) = house.store()
    house.queue.disk.cache.forget(envelope)
    house.queue.disk.store.real._writer.execute("UPDATE envelope SET kind = 77")
    house.queue.disk.store.faults["apply"] = times(1, ValueError)
    house.due(envelope)
    assert house.tried() == ([], [], [envelope])
    assert f"envelope {envelope:016x}: ValueError" in capfd.readouterr().err


def test_a_mail_is_removed_also_when_the_log_cannot_say_whose_it_was(faulty, capfd):
    (envelope,) = faulty.store()
    faulty.queue.disk.store.faults["load"] = times(1, StoreBroken)
    faulty.say("scheduler", DeleteEnvelopes([envelope]))
    faulty.until(lambda: not faulty.queue.disk.store.real.load([envelope]))
    assert "envelopes cannot be read, for the log: fault 0" in capfd.readouterr().err


def test_a_change_that_the_store_refuses_is_in_the_log(faulty, capfd):
    (envelope,) = faulty.store()
    faulty.queue.disk.store.faults["apply"] = times(1, ValueError)
    faulty.say("scheduler", MarkSuspended([envelope], True))
    log = ""
    while f"envelope {envelope:016x}: ValueError" not in log:
        faulty.turn()
        log += capfd.readouterr().err


@pytest.mark.parametrize("result", ["delivered", "deferred", "held"])
def test_more_results_than_an_imsg_carries_are_told_in_several(faulty, monkeypatch, result):
    monkeypatch.setattr(in_flight, "RESULTS_MAX", 2)
    if result == "delivered":  # their rows are gone
        envelopes = [message << 32 | 1 for message in range(1, 6)]
    else:
        envelopes = faulty.store([recipient() for _ in range(5)])
    for envelope in envelopes:
        faulty.queue.disk.cache.forget(envelope)
    if result == "deferred":
        faulty.queue.disk.store.faults["load"] = broken
    if result == "held":
        monkeypatch.setattr(
            faulty.queue.disk.store.real, "load", lambda ids: [UnreadableRow(id, "odd") for id in ids], raising=False
        )
    faulty.due(*envelopes)
    told = [faulty.hear("scheduler", EnvelopesTried) for _ in range(3)]
    assert [len(imsg.delivered + imsg.deferred + imsg.held) for imsg in told] == [2, 2, 1]
    assert {id for imsg in told for id in getattr(imsg, result)} == {*envelopes}


def test_results_of_several_kinds_are_told_in_several_imsgs_when_one_cannot_carry_them(faulty, monkeypatch):
    monkeypatch.setattr(in_flight, "RESULTS_MAX", 2)
    told = [1 << 32 | number for number in range(1, 6)]
    for id, word in zip(told, in_flight.Word, strict=True):
        faulty.queue.in_flight.add(id)
        faulty.queue.in_flight.tell(id, word)
    imsgs = [faulty.hear("scheduler", EnvelopesTried) for _ in range(5)]
    assert [[*imsg.delivered, *imsg.deferred, *imsg.held, *imsg.returned, *imsg.failed] for imsg in imsgs] == [
        [id] for id in told
    ]
    lists = imsgs[0].delivered, imsgs[1].deferred, imsgs[2].held, imsgs[3].returned, imsgs[4].failed
    assert [*lists] == [[id] for id in told]


def test_more_envelopes_than_a_read_brings_are_each_read_and_tried_once(house, monkeypatch):
    monkeypatch.setattr(deliveries, "PAGE", 2)
    envelopes = house.store([recipient() for _ in range(5)])
    for envelope in envelopes:
        house.queue.disk.cache.forget(envelope)
    pages, load = [], house.queue.disk.load
    monkeypatch.setattr(house.queue.disk, "load", lambda page, done: (pages.append(page), load(page, done)))
    house.due(*envelopes)
    _, agent = house.start_agent()
    assert sorted(house.receive(agent).envelope for _ in envelopes) == envelopes
    assert pages == [envelopes[:2], envelopes[2:4], envelopes[4:]]


def test_loads_of_envelopes_are_counted_by_where_they_were_found(house):
    envelopes = house.store([recipient(f"u{number}") for number in range(5)])
    for envelope in envelopes[:2]:
        house.queue.disk.cache.forget(envelope)
    house.due(*envelopes)
    house.until(lambda: len(house.queue.in_flight) == 5)
    house.say("control", ReportStatistics(1))
    counted = house.hear("control", StatisticsReported).counters
    assert (counted["queue.evpcache.load.hit"], counted["queue.evpcache.load.missed"]) == (3, 2)


# -- the log ----------------------------------------------------------------------------------


def test_what_an_agent_says_forges_no_log_line(house, capfd):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    errand = house.receive(agent)
    house.answer(agent, errand, Outcome.DEFERRED, 'over"\nwarn: forged result=Ok \x1b[2J')
    house.tried()
    lines = [line for line in capfd.readouterr().err.splitlines() if "mda delivery" in line]
    assert len(lines) == 1
    assert 'result=TempFail stat="Error (over\\"' in lines[0]
    assert "\x1b" not in lines[0]
    house.say("scheduler", PostponeEnvelopes([(envelope, 5)]))
    house.until(lambda: row(house, envelope).retries)


def test_sockets_of_agents_are_not_inherited(house):
    (envelope,) = house.store()
    house.due(envelope)
    house.start_agent()
    house.until(lambda: house.queue.agents.queues and next(iter(house.queue.agents.queues.values())).agent)
    (line,) = house.queue.agents.queues.values()
    assert not line.agent._sock.get_inheritable()
    assert line.agent._sock.type == socket.SOCK_SEQPACKET
