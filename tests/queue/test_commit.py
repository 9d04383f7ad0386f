"""Group commit, over a store that fails on order."""

import asyncio
import threading

import pytest

from smtpd.ipc.loop import prepare
from smtpd.queue.store import commit
from smtpd.queue.store.commit import Commits
from smtpd.queue.store.store import (
    Compound,
    CountAttempt,
    Hold,
    RememberTls,
    Remove,
    Reschedule,
    StoreBroken,
    StoreFull,
    Suspend,
)
from tests.queue.conftest import WAIT_MAX, add
from tests.queue.fault import Faulty, broken, refuse, times
from tests.queue.ram_store import RAMStore


class Bench:
    def __init__(self):
        self.loop = prepare()
        self.store = Faulty(RAMStore())
        self.gone, self.given_up = [], []
        self.commits = Commits(self.loop, self.store, self.gone.extend, lambda: self.given_up.append(True))
        self.answers = {}

    def submit(self, *changes, must_succeed=False):
        for change in changes:
            name = len(self.answers)
            self.answers[name] = ...
            self.commits.submit(
                change, lambda error, name=name: self.answers.update({name: error}), must_succeed=must_succeed
            )

    def until(self, condition):
        async def wait():
            async with asyncio.timeout(WAIT_MAX):
                while not condition():
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def run_for(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def run(self):
        self.until(lambda: ... not in self.answers.values())
        return [*self.answers.values()]


@pytest.fixture
def bench():
    made, raised = Bench(), []
    made.loop.set_exception_handler(lambda _loop, context: raised.append(context))
    yield made
    made.loop.close()
    assert not raised


def test_all_that_one_turn_brings_is_one_transaction(bench):
    bench.submit(*(add(n) for n in range(1, 101)))
    assert bench.run() == [None] * 100
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [100]


def test_what_arrives_while_a_commit_runs_goes_into_the_next_one(bench):
    def slow(changes):
        if not bench.store.calls:
            for first, behind in ((2, 21), (21, 51)):  # in two turns of the loop
                bench.loop.call_soon_threadsafe(bench.submit, *(add(n) for n in range(first, behind)))
                while len(bench.answers) < behind - 1:
                    pass

    bench.store.faults["apply"] = slow
    bench.submit(add(1))
    bench.until(lambda: len(bench.answers) == 50 and ... not in bench.answers.values())
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [1, 49]


def test_what_arrives_while_a_commit_runs_does_not_wait_for_more(bench, monkeypatch):
    """Neither a new mail nor the end of a delivery that comes behind it."""
    monkeypatch.setattr(commit, "BATCH_DELAY", 3600.0)
    monkeypatch.setattr(commit, "RETRY_DELAY", 3600.0)
    bench.submit(add(1))
    bench.run()

    def slow(changes):
        if len(bench.store.calls) == 1:
            bench.loop.call_soon_threadsafe(bench.submit, add(3))
            bench.loop.call_soon_threadsafe(lambda: bench.submit(Remove(1 << 32 | 1), must_succeed=True))
            while len(bench.answers) < 4:
                pass

    bench.store.faults["apply"] = slow
    bench.submit(add(2))
    bench.until(lambda: len(bench.answers) == 4 and ... not in bench.answers.values())
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [1, 1, 2]


def test_the_store_is_idle_when_nothing_waits_and_nothing_is_under_way(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 3600.0)
    seen = []
    bench.store.faults["apply"] = lambda _: seen.append((bench.commits.idle, bench.commits.waits_for_room))
    assert (bench.commits.idle, bench.commits.waits_for_room) == (True, False)
    bench.submit(add(1))
    assert (bench.commits.idle, bench.commits.waits_for_room) == (False, False)
    bench.run()
    assert seen == [(False, False)]
    assert (bench.commits.idle, bench.commits.waits_for_room) == (True, False)
    bench.store.faults["apply"] = refuse(StoreFull, 1)
    bench.submit(Remove(1 << 32 | 1), must_succeed=True)
    bench.until(lambda: bench.commits.waits_for_room)
    assert not bench.commits.idle
    bench.store.faults["apply"] = lambda _: seen.append((bench.commits.idle, bench.commits.waits_for_room))
    bench.submit(add(2))
    assert (bench.commits.idle, bench.commits.waits_for_room) == (False, False)
    bench.until(lambda: bench.answers[2] is None)
    assert seen[1:] == [(False, False)]
    assert (bench.commits.idle, bench.commits.waits_for_room) == (False, True)


def test_in_a_transaction_that_fails_each_change_of_an_envelope_has_its_turn(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 3600.0)
    bench.submit(add(1, envelopes=2, content=None))
    bench.run()
    bench.store.faults["apply"] = refuse(ValueError, 2)
    first, second = 1 << 32 | 1, 1 << 32 | 2
    bench.submit(add(2), add(3))
    bench.submit(Suspend(first, True), Suspend(first, False), Remove(first), Remove(second), must_succeed=True)
    assert [type(error) for error in bench.run()] == [type(None), ValueError, *[type(None)] * 5]
    assert bench.gone == [1]


def test_only_the_one_at_fault_is_refused(bench):
    bench.store.faults["apply"] = refuse(ValueError, 3)
    bench.submit(*(add(n) for n in range(1, 6)))
    answers = bench.run()
    assert [type(error) for error in answers] == [type(None), type(None), ValueError, type(None), type(None)]
    assert bench.store.messages(1, 9) == {1, 2, 4, 5}


def test_a_full_disk_refuses_the_mails_that_do_not_fit_and_no_other(bench):
    bench.store.faults["apply"] = refuse(StoreFull, 2)
    bench.submit(add(1), add(2), add(3))
    assert [type(error) for error in bench.run()] == [type(None), StoreFull, type(None)]
    assert not bench.store.called("repair")
    assert bench.commits.idle  # what was refused is not tried again


def test_the_end_of_a_delivery_waits_for_room_and_keeps_its_order(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    id = 1 << 32 | 1
    bench.submit(add(1))
    bench.run()
    bench.store.faults["apply"] = refuse(StoreFull)
    bench.submit(Hold(id, 5, "first", False), must_succeed=True)
    bench.submit(add(2))
    bench.until(lambda: isinstance(bench.answers[2], StoreFull))
    bench.submit(Hold(id, 6, "second", False), Remove(2 << 32 | 1), must_succeed=True)
    bench.until(lambda: bench.commits.waits_for_room)
    assert bench.answers[1] is bench.answers[3] is bench.answers[4] is ...
    bench.store.faults.clear()
    assert bench.run()[1:] == [None, bench.answers[2], None, None]
    assert bench.store.load([id])[0].error == "second"
    assert bench.commits.idle


def test_a_change_that_found_no_room_stays_before_what_was_submitted_later(bench, monkeypatch):
    """For the same envelope in the same transaction, and while that was with the writer."""
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    first, second = 1 << 32 | 1, 1 << 32 | 2
    bench.submit(add(1, envelopes=2))
    bench.run()
    refusals = []

    def fault(changes):
        if not refusals:
            bench.loop.call_soon_threadsafe(lambda: bench.submit(Suspend(second, False), must_succeed=True))
            while len(bench.answers) < 5:
                pass
        if any(isinstance(change, Hold) or change == Suspend(second, True) for change in changes):
            refusals.append(changes)
            if len(refusals) <= 4:  # the transaction, then each of the two alone; the next transaction
                raise StoreFull("no room")

    bench.store.faults["apply"] = fault
    bench.submit(Hold(first, 5, "no such user", False), Suspend(second, True), must_succeed=True)
    bench.submit(Reschedule(first, 77), must_succeed=True)
    assert bench.run() == [None] * 5
    rows = {row.id: row for row in bench.store.load([first, second])}
    assert (rows[first].held, rows[first].next_try) == (False, 77)
    assert not rows[second].suspended
    assert not bench.commits.uncommitted(first)


def test_what_waits_for_room_is_tried_again_at_one_time_however_much_it_is(bench):
    bench.submit(add(1, envelopes=2))
    bench.run()
    bench.store.faults["apply"] = refuse(StoreFull)
    bench.submit(Suspend(1 << 32 | 1, True), must_succeed=True)
    bench.until(lambda: bench.commits.waits_for_room)
    again = bench.commits._again
    bench.submit(Suspend(1 << 32 | 2, True), must_succeed=True)
    assert bench.commits._again is again


def test_a_mail_that_comes_while_a_change_finds_no_room_does_not_wait_with_it(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 3600.0)
    bench.submit(add(1))
    bench.run()

    def fault(changes):
        if len(bench.answers) == 2:
            bench.loop.call_soon_threadsafe(bench.submit, add(2))
            while len(bench.answers) < 3:
                pass
        if any(isinstance(change, Suspend) for change in changes):
            raise StoreFull("no room")

    bench.store.faults["apply"] = fault
    bench.submit(Suspend(1 << 32 | 1, True), must_succeed=True)
    bench.until(lambda: bench.answers.get(2, ...) is None)
    assert bench.commits.waits_for_room
    assert len(bench.commits._later) == 1  # nor is it made a second time


def test_what_comes_while_a_change_waits_for_room_stays_behind_it(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.05)
    envelope = 1 << 32 | 1
    bench.submit(add(1))
    bench.run()
    faults = times(1, StoreFull)
    bench.store.faults["apply"] = lambda changes: faults() if Suspend(envelope, True) in changes else None
    bench.submit(Suspend(envelope, True), must_succeed=True)
    bench.until(lambda: bench.commits.waits_for_room)
    bench.submit(Suspend(envelope, False), must_succeed=True)
    assert bench.run() == [None] * 3
    (row,) = bench.store.load([envelope])
    assert not row.suspended


def test_a_transaction_is_bounded_and_a_long_rest_does_not_wait(bench, monkeypatch):
    monkeypatch.setattr(commit, "BATCH_MAX", 10)
    monkeypatch.setattr(commit, "BATCH_DELAY", 3600.0)
    bench.submit(*(add(n) for n in range(1, 22)))
    assert bench.run() == [None] * 21
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [10, 10, 1]


def test_a_long_log_is_copied_back_after_the_commit(bench, capfd):
    bench.store.real.unsettled = True
    bench.submit(add(1))
    assert bench.run() == [None]
    bench.until(lambda: bench.store.called("settle"))
    assert [name for name, *_ in bench.store.calls] == ["apply", "settle"]
    bench.run_for(0.01)
    assert capfd.readouterr().err == ""


def test_a_log_that_cannot_be_copied_back_now_is_said_and_changes_nothing(bench, capfd):
    bench.store.real.unsettled = True
    bench.store.faults["settle"] = times(1, StoreFull)
    log = ""
    bench.submit(add(1))
    while "store: fault 0" not in log:
        bench.run_for(0.001)
        log += capfd.readouterr().err
    assert bench.run() == [None]
    assert not bench.commits.repairing and not bench.store.called("repair")


def test_a_disk_that_fails_while_the_log_is_copied_back_is_repaired(bench):
    bench.store.real.unsettled = True
    bench.store.faults["settle"] = times(1, StoreBroken)
    bench.submit(add(1))
    assert bench.run() == [None]
    bench.until(lambda: bench.store.called("repair") and not bench.commits.repairing)
    assert not bench.given_up


def test_what_is_not_urgent_waits_for_others(bench, monkeypatch):
    monkeypatch.setattr(commit, "BATCH_DELAY", 3600.0)
    bench.commits.submit(RememberTls(1, [], []), lambda _error: None, urgent=False)
    bench.run_for(0.02)
    assert not bench.store.called("apply")
    bench.submit(add(1))
    assert bench.run() == [None]
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [2]


def test_many_ends_of_deliveries_do_not_wait_for_more(bench, monkeypatch):
    monkeypatch.setattr(commit, "BATCH_DELAY", 3600.0)
    monkeypatch.setattr(commit, "BATCH_FULL", 3)
    bench.submit(add(1, envelopes=3))
    bench.run()
    bench.submit(Remove(1 << 32 | 1), Remove(1 << 32 | 2), must_succeed=True)
    bench.loop.run_until_complete(asyncio.sleep(0.01))
    assert len(bench.store.called("apply")) == 1
    bench.submit(Remove(1 << 32 | 3), must_succeed=True)
    assert bench.run() == [None] * 4
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [1, 3]


def test_the_ends_of_deliveries_are_made_durable_one_after_the_other(bench):
    """Each waits a moment for others, also when there has been such a moment before."""
    bench.submit(add(1, envelopes=3))
    bench.run()
    for number in (1, 2, 3):
        bench.submit(Remove(1 << 32 | number), must_succeed=True)
        bench.run()
    assert [len(changes) for (changes,) in bench.store.called("apply")] == [1, 1, 1, 1]


def test_lasting_changes_are_known_until_they_are_durable(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    id = 1 << 32 | 1
    bench.submit(add(1))
    bench.run()
    bench.store.faults["apply"] = refuse(StoreFull)
    bench.submit(Hold(id, 5, "first", False), Suspend(id, True), must_succeed=True)
    assert bench.commits.uncommitted(id) == [Hold(id, 5, "first", False), Suspend(id, True)]
    bench.until(lambda: bench.commits.waits_for_room)
    assert len(bench.commits.uncommitted(id)) == 2
    bench.store.faults.clear()
    bench.run()
    assert bench.commits.uncommitted(id) == []
    assert not bench.commits._uncommitted  # and nothing is left of it


def test_a_lasting_change_that_is_itself_at_fault_is_told_so(bench):
    bench.store.faults["apply"] = refuse(ValueError)
    bench.submit(Remove(1 << 32 | 1), must_succeed=True)
    assert [type(error) for error in bench.run()] == [ValueError]


def test_a_failing_disk_refuses_all_that_wait_and_the_store_is_mended(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    bench.submit(add(1))
    bench.run()
    bench.store.faults["apply"] = refuse(StoreBroken, 3)
    bench.submit(add(2), add(3), add(4), CountAttempt(1 << 32 | 1))
    bench.submit(Remove(1 << 32 | 1), must_succeed=True)
    answers = bench.run()
    assert [type(error) for error in answers] == [type(None), *[StoreBroken] * 4, type(None)]
    assert bench.store.called("repair") == [[[2, 3, 4]]]
    assert bench.store.messages(1, 9) == set()
    assert not bench.given_up


def test_nothing_is_accepted_while_the_store_is_being_mended_and_nothing_lost(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.05)
    mended = threading.Event()
    bench.store.faults["apply"] = refuse(StoreBroken, 1)
    bench.store.faults["repair"] = lambda doubtful: mended.wait(WAIT_MAX)
    bench.submit(add(1))
    bench.until(lambda: bench.commits.repairing)
    bench.submit(add(2))
    bench.until(lambda: isinstance(bench.answers[1], StoreBroken))
    bench.submit(Remove(9 << 32 | 1), must_succeed=True)
    bench.run_for(0.1)  # it is tried again, and waits on
    mended.set()
    bench.until(lambda: not bench.commits.repairing)
    assert [type(error) for error in bench.run()] == [StoreBroken, StoreBroken, type(None)]
    bench.submit(add(3))
    assert bench.run()[-1] is None


def test_a_disk_that_fails_twice_is_the_end(bench):
    bench.store.faults["apply"] = refuse(StoreBroken)
    bench.submit(add(1))
    bench.until(lambda: bench.store.called("repair") and not bench.commits.repairing)
    bench.submit(add(2))
    bench.until(lambda: bench.given_up)


def test_a_store_that_cannot_be_mended_is_the_end(bench):
    bench.store.faults = {"apply": broken, "repair": broken}
    bench.submit(add(1))
    bench.until(lambda: bench.given_up)


def test_a_spool_file_that_cannot_be_synced_is_a_failing_disk_too(bench):
    bench.submit(add(1))
    bench.commits.failed(StoreBroken("fsync: Input/output error"))
    bench.run()
    bench.until(lambda: not bench.commits.repairing)
    assert isinstance(bench.answers[0], StoreBroken)
    bench.submit(add(2))
    bench.run()
    assert bench.store.messages(1, 9) == {2}
    assert len(bench.store.called("apply")) == 1


def test_what_was_already_with_the_writer_is_taken_back_too(bench):
    """The spool's disk fails while a transaction is under way, and that one fails as well."""

    def fault(changes):
        failed = bench.loop.call_soon_threadsafe(bench.commits.failed, StoreBroken("fsync: Input/output error"))
        while not bench.commits.repairing:
            pass
        del failed
        bench.store.real.apply(changes)
        bench.store.faults.clear()
        raise StoreBroken("in doubt")

    bench.store.faults["apply"] = fault
    bench.submit(add(1))
    bench.run()
    bench.until(lambda: not bench.commits.repairing)
    assert bench.store.called("repair") == [[[]], [[1]]]
    assert bench.store.messages(1, 9) == set()
    assert not bench.given_up


def test_what_was_with_the_writer_when_the_disk_failed_stays_before_what_was_submitted_later(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    id = 1 << 32 | 1
    bench.submit(add(1))
    bench.run()

    def fault(changes):
        bench.loop.call_soon_threadsafe(bench.commits.failed, StoreBroken("fsync: Input/output error"))
        bench.loop.call_soon_threadsafe(bench.commits.failed, StoreBroken("and another one"))
        bench.loop.call_soon_threadsafe(lambda: bench.submit(Suspend(id, False), must_succeed=True))
        while len(bench.answers) < 3:
            pass
        bench.store.faults.clear()
        raise StoreBroken("in doubt")

    bench.store.faults["apply"] = fault
    bench.submit(Suspend(id, True), must_succeed=True)
    bench.until(lambda: len(bench.answers) == 3 and ... not in bench.answers.values())
    (row,) = bench.store.load([id])
    assert not row.suspended
    assert not bench.given_up


def test_spool_files_are_named_when_their_message_is_gone(bench):
    bench.submit(add(1, content=None), add(2))
    bench.run()
    bench.submit(Remove(1 << 32 | 1), Remove(2 << 32 | 1), must_succeed=True)
    bench.run()
    assert bench.gone == [1]


def test_unused_space_is_given_back_when_it_is_quiet(bench, monkeypatch):
    monkeypatch.setattr(commit, "SHRINK_DELAY", 0.01)
    monkeypatch.setattr(commit, "SHRINK_INTERVAL", 0.001)
    steps = iter([True, True, False])
    done = []
    bench.store.real.shrink = lambda: done.append(True) or next(steps)
    bench.submit(add(1))
    bench.until(lambda: len(done) == 3)
    assert bench.run() == [None]
    bench.run_for(0.01)
    assert len(done) == 3


def test_space_is_given_back_that_long_after_the_last_commit(bench):
    for number in (1, 2):
        bench.submit(add(number))
        bench.run()
        if number == 1:
            before = bench.commits._quiet
    assert before.cancelled() and not bench.commits._quiet.cancelled()


def test_the_store_is_not_idle_while_space_is_given_back(bench, monkeypatch):
    monkeypatch.setattr(commit, "SHRINK_DELAY", 0.01)
    idle = []
    bench.store.real.shrink = lambda: idle.append(bench.commits.idle)
    bench.submit(add(1))
    bench.until(lambda: idle)
    assert idle == [False]


def test_a_change_that_comes_while_space_is_given_back_is_made_after_it(bench, monkeypatch):
    monkeypatch.setattr(commit, "SHRINK_DELAY", 0.01)
    bench.store.real.shrink = lambda: False

    def slow():
        bench.loop.call_soon_threadsafe(bench.submit, add(2))
        while len(bench.answers) < 2:
            pass
        bench.store.faults.clear()

    bench.store.faults["shrink"] = slow
    bench.submit(add(1))
    bench.until(lambda: len(bench.answers) == 2 and ... not in bench.answers.values())
    assert [name for name, *_ in bench.store.calls][:3] == ["apply", "shrink", "apply"]


def test_a_disk_that_fails_while_space_is_given_back_is_repaired(bench, monkeypatch):
    monkeypatch.setattr(commit, "SHRINK_DELAY", 0.01)
    bench.store.faults["shrink"] = times(1, StoreBroken)
    bench.submit(add(1))
    bench.until(lambda: bench.store.called("repair") and not bench.commits.repairing)
    assert bench.run() == [None]


def test_no_space_is_given_back_while_a_change_waits_for_room(bench, monkeypatch):
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.1)
    bench.store.real.shrink = lambda: False
    bench.submit(add(1))
    bench.run()
    monkeypatch.setattr(commit, "SHRINK_DELAY", 0.01)
    bench.store.faults["apply"] = times(1, StoreFull)
    bench.submit(Remove(1 << 32 | 1), must_succeed=True)
    assert bench.run() == [None] * 2
    bench.until(lambda: bench.store.called("shrink"))
    assert [name for name, *_ in bench.store.calls] == ["apply", "apply", "shrink"]


# -- changes that belong together -------------------------------------------------------------------------------------


def test_a_compound_stays_whole_when_its_transaction_has_to_be_taken_apart(bench):
    bench.submit(add(1), add(2))
    bench.run()
    bench.store.faults["apply"] = refuse(KeyError, 2)
    one = 1 << 32 | 1
    bench.submit(Compound(one, (Remove(one), add(7))), Suspend(2 << 32 | 1, True), must_succeed=True)
    errors = bench.run()[2:]
    assert errors[0] is None and isinstance(errors[1], KeyError)
    assert bench.store.messages(1, 9) == {2, 7}


@pytest.mark.parametrize("happened", [False, True])
def test_a_compound_is_repeated_after_a_disk_that_failed(bench, monkeypatch, happened):
    """Whether or not the commit that failed has happened."""
    monkeypatch.setattr(commit, "RETRY_DELAY", 0.01)
    bench.submit(add(1))
    bench.run()
    real, failures = bench.store.real.apply, [StoreBroken("Input/output error")]

    def fault(changes):
        if failures and any(isinstance(change, Compound) for change in changes):
            if happened:
                real(changes)
            raise failures.pop()

    bench.store.faults["apply"] = fault
    one = 1 << 32 | 1
    bench.submit(Compound(one, (Hold(one, 9, "no", False), add(7))), must_succeed=True)
    assert bench.run()[1:] == [None] and not bench.given_up
    (held,) = bench.store.load([one])
    assert (held.held, held.retries) == (True, 1) and bench.store.messages(1, 9) == {1, 7}


def test_what_a_compound_changes_is_known_until_it_is_durable(bench, monkeypatch):
    bench.submit(add(1))
    bench.run()
    one = 1 << 32 | 1
    end = Compound(one, (Hold(one, 9, "no", False), add(7)))
    bench.submit(end, must_succeed=True)
    assert bench.commits.uncommitted(one) == [end]
    bench.run()
    assert bench.commits.uncommitted(one) == []
