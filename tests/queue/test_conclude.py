"""The end of an envelope: what each result comes to, and that changes that belong together are one transaction."""

import pytest

from smtpd.envelope import Kind, Outcome
from smtpd.queue.delivery import conclude
from smtpd.queue.delivery.attempt import Attempt
from smtpd.queue.delivery.conclude import ERROR_MAX, TROUBLES_MAX, Conclusion
from smtpd.queue.delivery.expiry import EXPIRED
from smtpd.queue.delivery.in_flight import Word
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.store import Add, Compound, Hold, Remove
from tests.queue.conftest import add, envelope, recipient

NOW = 1_000_100
ONE = envelope(1)
UNKNOWN = {"sent": True, "answered": False}  # the mail was given away, and no answer came
UNSENT = {"sent": False, "answered": False}


def of_attempt(result, one=ONE, perhaps_delivered=False):
    return conclude.of_attempt(one, result, 0, perhaps_delivered=perhaps_delivered)


def test_what_is_delivered_is_removed():
    conclusion = of_attempt(AttemptResult(Outcome.DELIVERED, "250 2.0.0 Ok", NOW, 250, "2.0.0", "mx.there.test"))
    assert conclusion.changes == (Remove(ONE.id),) and conclusion.word is Word.DELIVERED
    assert 'result=Ok stat="250 2.0.0 Ok"' in conclusion.line


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOOP])
@pytest.mark.parametrize("before", [False, True])
def test_what_has_failed_is_held_with_its_reason(outcome, before):
    conclusion = of_attempt(AttemptResult(outcome, "no such user", NOW), perhaps_delivered=before)
    assert conclusion.changes == (Hold(ONE.id, NOW, "no such user", before),) and conclusion.word is Word.HELD


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("how", [{}, UNKNOWN, UNSENT])
def test_what_is_deferred_waits_for_the_scheduler(before, how):
    one = envelope(1, troubles=2)
    conclusion = of_attempt(AttemptResult(Outcome.DEFERRED, "try later", NOW, **how), one, before)
    assert not conclusion.changes and conclusion.word is Word.DEFERRED
    perhaps_delivered = before or how is UNKNOWN
    troubles = 2 if how is UNSENT else 0  # what was not given away shows nothing of the envelope
    assert conclusion.deferred == (NOW, "try later", perhaps_delivered, troubles, EXPIRED)


def test_an_error_of_our_own_holds_an_envelope_in_the_end():
    for troubles in range(TROUBLES_MAX):
        conclusion = conclude.of_fault(envelope(1, troubles=troubles), KeyError(), NOW)
        if troubles < TROUBLES_MAX - 1:
            assert conclusion.deferred == (NOW, "internal error: KeyError", True, troubles + 1, EXPIRED)
        else:
            assert conclusion.changes == (Hold(ONE.id, NOW, "internal error: KeyError", True),)


def test_a_reason_is_kept_as_far_as_a_row_may_hold_it():
    (hold,) = of_attempt(AttemptResult(Outcome.FAILED, "\udc80\x00" + "x" * 2000, NOW)).changes
    assert hold.error.startswith("\\udc80") and "\x00" not in hold.error and len(hold.error) == ERROR_MAX


def test_stale_is_no_end():
    with pytest.raises(AssertionError):
        of_attempt(AttemptResult(Outcome.STALE, "", NOW))


# -- another carrier than the agents ----------------------------------------------------------------------------------


class Courier:
    """Takes attempts, and ends them when the test says so."""

    def __init__(self):
        self.taken = []
        self.contents = []

    def carry(self, attempt: Attempt):
        self.taken.append(attempt)
        attempt.prepare(0x1234, lambda message, descriptor: self.contents.append(message))


@pytest.fixture
def courier(house, monkeypatch):
    made = Courier()
    monkeypatch.setitem(house.queue.deliveries._carriers, Kind.MDA, made)
    return made


def test_any_carrier_gets_the_content_and_says_what_became_of_it(house, courier, capfd):
    one, two, three = house.store_due(recipient("amy"), recipient("bob"), recipient("eve"))
    house.until(lambda: len(courier.contents) == 3)
    results = [
        AttemptResult(Outcome.DELIVERED, "250 2.0.0 Ok", NOW, 250, "2.0.0", "mx.there.test"),
        AttemptResult(Outcome.DEFERRED, "451 4.3.0 Later", NOW, 451, "4.3.0", "mx.there.test"),
        AttemptResult(Outcome.FAILED, "550 5.1.1 No such user", NOW, 550, "5.1.1", "mx.there.test"),
    ]
    for attempt, result in zip(courier.taken, results, strict=True):
        attempt.finish(result)
        attempt.finish(result)  # a second end is none
    told = [sum(lists, []) for lists in zip(house.tried(), house.tried(), strict=True)]
    assert told == [[one], [two], [three]]
    (held,) = house.queue.disk.store.load([three])
    assert held.held and held.error == "550 5.1.1 No such user"
    log = capfd.readouterr().err
    assert log.count("0000000000001234 mda delivery") == 3 and 'stat="Error (451 4.3.0 Later)"' in log


def test_the_changes_of_one_end_are_one_transaction(house):
    """As for a notice of what has failed: there is no moment without the one and without the other."""
    (one,) = house.store()
    notice = add(0x7FFFFFF0)
    batches, apply = [], house.queue.disk.store.apply
    house.queue.disk.store.apply = lambda changes: (batches.append([*changes]), apply(changes))[1]
    house.due(one)
    house.until(lambda: one in house.queue.in_flight)
    house.queue.conclusions.conclude(one, Conclusion((Remove(one), notice), Word.DELIVERED))
    assert house.tried() == ([one], [], [])
    assert batches == [[Compound(one, (Remove(one), notice))]]
    assert isinstance(notice, Add) and house.queue.disk.store.load([notice.envelopes[0].id]) == notice.envelopes
