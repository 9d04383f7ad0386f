"""The end: what was accepted is safe, what is under way has its time."""

import math
import os
import threading
from types import SimpleNamespace

import pytest

from smtpd.envelope import Outcome, RelayResult
from smtpd.imsg import (
    AddEnvelopes,
    Begin,
    DeleteEnvelopes,
    EndAgent,
    EnvelopeExpanded,
    EnvelopeReplaced,
    EnvelopesTried,
    ExpandEnvelope,
    FindStsRecords,
    KeepTls,
    MarkSuspended,
    MessageStored,
    PostponeEnvelopes,
    RelayTried,
    SchedulingStopped,
    StartAgent,
    Stop,
    StopScheduling,
    StoreMessage,
    StsRecordsFound,
    TlsKept,
)
from smtpd.ipc.channel import Violation
from smtpd.next_hop import StsRow
from smtpd.queue import process, state
from smtpd.queue.delivery import deliveries
from smtpd.queue.delivery.in_flight import Word
from smtpd.queue.store import commit
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import StoreBroken, StoreFull
from tests.queue.conftest import ORIGIN, TERMS, WAIT_MAX, add, command, recipient, relayed
from tests.queue.fault import Faulty, refuse, times
from tests.queue.ram_store import RAMStore
from tests.queue.test_incoming import spool


def run_to_the_end(house):
    late = []
    timer = house.loop.call_later(2 * WAIT_MAX, lambda: (late.append(True), house.loop.stop()))
    house.loop.run_forever()
    timer.cancel()
    assert not late
    assert house.queue.disk.store.called("close")


@pytest.fixture
def watched(make_house):
    return make_house(Faulty(RAMStore()))


def test_an_idle_queue_stops_at_once(watched, capfd):
    watched.say("parent", Begin())
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert capfd.readouterr().err == ""


def test_what_is_being_stored_is_stored_and_answered_first(watched):
    message = watched.reserve()[0]
    watched.submit(message)
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.hear("dispatcher0", MessageStored)


def test_policies_that_a_dispatcher_has_kept_at_its_end_are_waited_for(watched):
    row = StsRow("there.test", "1", "enforce", "mx.there.test", 86_400, 1)
    watched.say("dispatcher0", KeepTls(3, [], [row]))
    asked = watched.hear("lookup", FindStsRecords)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue._stop_at < math.inf)
    watched.turn()
    assert not watched.mail["scheduler"]
    watched.say("lookup", StsRecordsFound(asked.request, [True]))
    run_to_the_end(watched)
    assert watched.hear("dispatcher0", TlsKept) == TlsKept(3, True)


def test_a_spool_file_that_is_being_sealed_is_stored_and_answered_first(watched):
    begun, sealed = threading.Event(), threading.Event()
    watched.spool.faults["seal"] = lambda *_: begun.set() or sealed.wait(WAIT_MAX)
    message = watched.reserve()[0]
    spool(watched, message, b"small")
    watched.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    watched.say("dispatcher0", StoreMessage(7, message, 1, b"", 5))
    watched.until(begun.is_set)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue._scheduler_done)
    watched.loop.call_later(2 * state.POLL_INTERVAL, sealed.set)
    run_to_the_end(watched)
    assert [name for name, *_ in watched.queue.disk.store.calls][-2:] == ["apply", "close"]
    assert watched.hear("dispatcher0", MessageStored)


def test_what_is_with_an_agent_may_end(watched, monkeypatch):
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    errand = watched.receive(agent)
    watched.say("parent", Stop())
    watched.loop.call_later(0.05, watched.answer, agent, errand)
    run_to_the_end(watched)
    assert not watched.queue.disk.store.load([envelope])


def test_orderly_stops_while_a_long_command_runs_hold_no_envelope(make_house, monkeypatch):
    """A try that began and did not end is suspicious only when the daemon has died of it."""
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(deliveries, "SUSPECT_DELAY", 0.0)
    store = Faulty(RAMStore())
    store.apply([add(1, run=0, recipient=command("bob"))])
    for run in (1, 2, 3, 4):
        store.real.run = run
        house = make_house(store)
        house.due(1 << 32 | 1)
        _, agent = house.start_agent()
        assert house.receive(agent).perhaps_delivered
        house.say("parent", Stop())
        run_to_the_end(house)
        (row,) = store.load([1 << 32 | 1])
        assert (row.held, row.troubles, row.perhaps_delivered, row.error) == (False, 0, True, "the daemon was stopped")
        assert row.next_try == row.last_try  # at the next start: the scheduler has no say
        assert not [imsg for imsg, _ in house.mail["scheduler"] if isinstance(imsg, EnvelopesTried)]


def test_results_that_a_dispatcher_left_unread_when_it_ended_are_read_first(watched):
    """The parent has us stop when the dispatchers have ended; mail that they have delivered is not sent again."""
    envelopes = watched.store_due(relayed("a@one.test"), relayed("b@two.test"))
    watched.until(lambda: sum(len(watched.mail[name]) for name in ("dispatcher0", "dispatcher1")) == 2)
    watched.queue.stop()
    for name in ("dispatcher0", "dispatcher1"):
        for imsg, _ in watched.mail[name]:
            (to,) = imsg.recipients
            watched.say(name, RelayTried(imsg.attempt, [RelayResult(to.envelope, Outcome.DELIVERED, "250 Ok", 250)]))
        watched.far[name].flush()
        watched._board.remove(watched.far[name])
    run_to_the_end(watched)
    assert not watched.queue.disk.store.load(envelopes)


def test_a_dispatcher_that_has_ended_without_a_result_is_not_waited_for(watched):
    watched.store_due(relayed())
    watched.until(lambda: watched.mail["dispatcher0"] or watched.mail["dispatcher1"])
    for name in ("dispatcher0", "dispatcher1"):
        watched._board.remove(watched.far[name])
    watched.until(lambda: all(watched.near["dispatcher", number].closed for number in (0, 1)))
    began = watched.loop.time()
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.loop.time() - began < state.STOP_TIMEOUT


def test_a_dispatcher_that_does_not_end_is_not_waited_for_long(watched, monkeypatch):
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    (envelope,) = watched.store_due(relayed())
    watched.until(lambda: watched.mail["dispatcher0"] or watched.mail["dispatcher1"])
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope])


def test_an_agent_that_does_not_end_is_not_waited_for_long(watched, monkeypatch):
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.receive(agent)
    watched.say("parent", Stop())
    run_to_the_end(watched)
    (found,) = watched.queue.disk.store.load([envelope])
    assert (found.error, found.perhaps_delivered) == ("the daemon was stopped", True)


def test_a_full_disk_does_not_keep_us_from_stopping(watched, monkeypatch):
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(commit, "RETRY_DELAY", 60)
    (envelope,) = watched.store()
    watched.queue.disk.store.faults["apply"] = refuse(StoreFull)
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.deliver(agent)
    watched.until(lambda: watched.queue.disk.commits.waits_for_room)
    watched.say("parent", Stop())
    run_to_the_end(watched)


def test_a_stop_waits_for_a_full_disk_to_have_room(watched, monkeypatch):
    """Mail that is delivered would be delivered again at the next start."""
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    (envelope,) = watched.store()
    watched.queue.disk.store.faults["apply"] = refuse(StoreFull)
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.deliver(agent)
    watched.until(lambda: watched.queue.disk.commits.waits_for_room)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue._scheduler_done)
    watched.loop.call_later(3 * state.POLL_INTERVAL, watched.queue.disk.store.faults.clear)
    run_to_the_end(watched)
    assert not watched.queue.disk.store.load([envelope])


def test_nothing_new_is_begun_while_we_stop(watched, monkeypatch):
    monkeypatch.setattr(state, "STOP_TIMEOUT", 0.05)
    one, two = watched.store([recipient("bob"), recipient("amy")])
    watched.due(one)
    _, agent = watched.start_agent()
    errand = watched.receive(agent)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue.agents._stopping)
    watched.due(two)
    run_to_the_end(watched)
    assert [imsg for imsg, _ in watched.mail["parent"]] == [EndAgent(1)]
    assert errand.envelope == one


def test_an_agent_that_is_being_started_does_not_keep_us_from_stopping(watched):
    (envelope,) = watched.store_due(recipient())
    watched.hear("parent", StartAgent)
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope])


def test_a_stop_waits_for_what_takes_the_place_of_an_envelope(watched):
    watched.store_due(command("bob", "old"))
    _, agent = watched.start_agent()
    watched.answer(agent, watched.receive(agent), Outcome.STALE, "")
    asked = watched.hear("lookup", ExpandEnvelope)
    go_on = threading.Event()
    watched.queue.disk.store.faults["expanded"] = lambda *_: go_on.wait(WAIT_MAX) and None
    watched.say("lookup", EnvelopeExpanded(asked.request, [recipient("amy")]))
    watched.until(lambda: watched.queue.reexpansions.under_way)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue.agents._stopping)
    watched.loop.call_later(3 * state.POLL_INTERVAL, go_on.set)
    run_to_the_end(watched)
    told = [imsg for imsg, _ in watched.mail["scheduler"]]
    assert [type(imsg) for imsg in told] == [EnvelopeReplaced, StopScheduling]


def test_the_store_is_closed_once_however_long_the_disk_takes(watched, monkeypatch):
    """The scheduler has answered, and is not waited for a second time."""
    monkeypatch.setattr(state, "SCHEDULER_STOP_TIMEOUT", 0.02)
    go_on, done = threading.Event(), watched.queue.conclusions.write_deferred
    written = []
    watched.queue.conclusions.write_deferred = lambda: (written.append(1), done())
    watched.queue.disk.work(lambda: go_on.wait(WAIT_MAX), lambda *_: None)
    watched.say("parent", Stop())
    watched.loop.call_later(0.06, go_on.set)
    run_to_the_end(watched)
    assert written == [1] and len(watched.queue.disk.store.called("close")) == 1


def test_each_second_errands_that_waited_too_long_are_looked_for(watched, monkeypatch):
    ticks, again = [], []
    monkeypatch.setattr(watched.queue.agents, "tick", lambda: ticks.append("agents"))
    monkeypatch.setattr(watched.queue.lmtp_features, "tick", lambda: ticks.append("features"))
    monkeypatch.setattr(watched.loop, "call_later", lambda seconds, call: again.append((seconds, call)))
    watched.queue._every_second()
    assert ticks == ["agents", "features"] and again == [(1.0, watched.queue._every_second)]


@pytest.mark.parametrize("peer", ["parent", "dispatcher", "lookup", "scheduler", "control"])
def test_what_no_process_of_ours_sends_is_fatal(watched, peer):
    with pytest.raises(Violation):
        getattr(process, f"from_{peer}")(watched.queue, watched.near[peer, 0], StopScheduling(), None)


def test_nothing_is_relayed_any_more_while_we_stop(watched):
    (envelope,) = watched.store([relayed()])
    watched.scheduler_hangs = True
    watched.say("parent", Stop())
    watched.hear("scheduler", StopScheduling)
    watched.due(envelope)
    watched.say("scheduler", SchedulingStopped())
    run_to_the_end(watched)
    assert envelope not in watched.queue.in_flight
    assert not watched.mail["dispatcher0"] and not watched.mail["dispatcher1"]


def test_an_envelope_whose_row_comes_after_the_stop_is_not_begun(watched):
    (envelope,) = watched.store()
    watched.queue.disk.cache.forget(envelope)
    stopped = threading.Event()
    watched.queue.disk.store.faults["load"] = lambda *_: stopped.wait(WAIT_MAX) and None
    watched.due(envelope)
    watched.until(lambda: envelope in watched.queue.in_flight)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue._scheduler_done)
    stopped.set()
    run_to_the_end(watched)
    assert not watched.mail["parent"]
    assert watched.queue.disk.store.load([envelope])


def test_a_store_that_is_not_closed_in_order_is_in_the_log_and_the_end_all_the_same(watched, capfd):
    watched.queue.disk.store.faults["close"] = times(1, StoreBroken)
    watched.say("parent", Stop())
    watched.loop.run_forever()
    assert "the store was not closed in order: fault 0" in capfd.readouterr().err


# -- the start ---------------------------------------------------------------------------------


def test_a_damaged_page_of_messages_does_not_keep_us_from_starting(tmp_path, capfd):
    """Which files belong to no message cannot be told then: all of them stay."""
    store, spool = SQLiteStore(str(tmp_path)), Spool(str(tmp_path))
    _, own = spool.create(7)
    store._reader.execute("PRAGMA query_only = OFF")
    store._reader.execute("DROP TABLE message")
    process.clear(store, spool)
    assert os.listdir(spool.path) == ["00000007"]
    assert "cannot be told" in capfd.readouterr().err
    store.close()


@pytest.mark.parametrize("error", [StoreBroken, StoreFull, OSError])
def test_a_disk_that_fails_keeps_us_from_starting(error):
    store, spool = Faulty(RAMStore()), SimpleNamespace(remove_orphans=times(1, error))
    with pytest.raises(error):
        process.clear(store, spool)


# -- what the scheduler has to say yet --------------------------------------------------------


def row(house, envelope):
    (found,) = house.queue.disk.store.load([envelope])
    return found


@pytest.fixture
def deferred(watched):
    """An envelope whose attempt was deferred; the scheduler has been told, and has not answered yet."""
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.receive(agent)
    agent.close()
    assert watched.tried() == ([], [envelope], [])
    return envelope


def test_a_deferral_is_written_with_the_time_that_the_scheduler_names(watched, deferred):
    watched.scheduler_hangs = True
    watched.say("parent", Stop())
    watched.hear("scheduler", StopScheduling)
    watched.say("scheduler", PostponeEnvelopes([(deferred, 2_000_000_000)]))
    watched.say("scheduler", SchedulingStopped())
    run_to_the_end(watched)
    found = row(watched, deferred)
    assert (found.next_try, found.retries, found.perhaps_delivered) == (2_000_000_000, 1, True)
    assert found.error.startswith("the agent was lost")


@pytest.mark.parametrize("scheduler", ["hangs", "gone"])
def test_a_deferral_is_written_without_a_scheduler_too(watched, deferred, monkeypatch, scheduler):
    most = state.SCHEDULER_STOP_TIMEOUT
    if scheduler == "hangs":
        monkeypatch.setattr(state, "SCHEDULER_STOP_TIMEOUT", 0.05)
        watched.scheduler_hangs = True
    else:
        channel = watched.far["scheduler"]
        watched.loop.remove_reader(channel.fileno())
        channel.close()
        watched.until(lambda: watched.queue.scheduler.closed)
    watched.say("parent", Stop())
    began = watched.loop.time()
    run_to_the_end(watched)
    assert watched.loop.time() - began < most  # one that is gone is not waited for
    found = row(watched, deferred)
    assert (found.next_try, found.retries, found.perhaps_delivered) == (found.last_try, 1, True)
    assert found.error.startswith("the agent was lost")


def test_what_an_attempt_brings_while_we_stop_is_told_before_the_scheduler_is_stopped(watched):
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    errand = watched.receive(agent)
    watched.scheduler_hangs = True
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue.agents._stopping)
    watched.answer(agent, errand, Outcome.DEFERRED, "over quota")
    assert watched.tried() == ([], [envelope], [])
    watched.hear("scheduler", StopScheduling)
    watched.say("scheduler", PostponeEnvelopes([(envelope, 77)]))
    watched.say("scheduler", SchedulingStopped())
    run_to_the_end(watched)
    assert (row(watched, envelope).next_try, row(watched, envelope).error) == (77, "over quota")


def test_what_an_administrator_has_ordered_is_written_before_the_end(watched):
    """The order is on its way when the daemon stops; it may be read after that."""
    one, two = watched.store([recipient("bob"), recipient("amy")])
    watched.scheduler_hangs = True
    watched.say("parent", Stop())
    watched.hear("scheduler", StopScheduling)
    for imsg in (DeleteEnvelopes([one]), MarkSuspended([two], True), SchedulingStopped()):
        watched.say("scheduler", imsg)
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([one]) == []
    assert row(watched, two).suspended


def test_an_order_whose_rows_are_still_being_read_is_carried_out_before_the_end(watched):
    (envelope,) = watched.store()
    read = threading.Event()
    watched.queue.disk.store.faults["load"] = lambda *_: read.wait(WAIT_MAX) and None
    watched.say("scheduler", DeleteEnvelopes([envelope]))
    watched.until(lambda: not watched.queue.disk.idle)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue._scheduler_done)
    watched.loop.call_later(2 * state.POLL_INTERVAL, read.set)
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope]) == []


def test_an_attempt_that_waits_for_lookup_is_not_counted_against_its_envelope(make_house):
    """It was counted when it began, and nobody has told what became of it: three stops would hold it."""
    store = Faulty(RAMStore())
    store.apply([add(1, run=0, recipient=command("bob"))])
    house = make_house(store)
    house.due(1 << 32 | 1)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.STALE)
    asked = house.hear("lookup", ExpandEnvelope)
    assert row(house, 1 << 32 | 1).troubles == 1
    house.say("parent", Stop())
    house.hear("scheduler", StopScheduling)
    house.say("lookup", EnvelopeExpanded(asked.request, [recipient()]))
    run_to_the_end(house)
    found = row(house, 1 << 32 | 1)
    assert (found.troubles, found.error) == (0, "the daemon was stopped")


def test_a_scheduler_that_stops_and_was_not_told_to_is_fatal(watched):
    with pytest.raises(Violation):
        process.from_scheduler(watched.queue, watched.near["scheduler", 0], SchedulingStopped(), None)


def test_answers_of_the_scheduler_are_written_before_the_end(watched):
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.answer(agent, watched.receive(agent), Outcome.DEFERRED, "later")
    watched.tried()
    watched.say("scheduler", PostponeEnvelopes([(envelope, 77)]))
    watched.until(lambda: watched.queue.disk.store.called("apply")[1:])
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope])[0].next_try == 77


def test_results_of_the_turn_in_which_we_stop_are_told_before_the_scheduler_is_asked_to_stop(house):
    """It answers them first: when to try again what was deferred."""
    (envelope,) = house.store()
    house.queue.in_flight.add(envelope)
    house.queue.in_flight.tell(envelope, Word.DEFERRED)
    house.scheduler_hangs = True
    house.queue.stop()
    assert house.tried() == ([], [envelope], [])
    house.hear("scheduler", StopScheduling)
