"""The end of an envelope: what each result comes to, and that changes that belong together are one transaction."""

import pytest
from msgspec.structs import replace

from smtpd.envelope import Kind, Notify, Outcome, Recipient
from smtpd.errand import FrameError
from smtpd.imsg import DeleteEnvelopes, EnvelopesTried, MarkSuspended, PostponeEnvelopes
from smtpd.ipc.channel import Violation
from smtpd.queue.delivery import conclude, delivery_log
from smtpd.queue.delivery.attempt import Attempt
from smtpd.queue.delivery.conclude import ERROR_MAX, TROUBLES_MAX, Conclusion
from smtpd.queue.delivery.in_flight import Word
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.recipient_status import ReportAction
from smtpd.queue.store.store import Add, Compound, Hold, Remove, UnreadableRow
from tests.queue.conftest import ORIGIN, add, envelope, recipient, relayed

NOW = 1_000_100
ONE = envelope(1)
NULL = replace(ORIGIN, sender="")
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
def test_what_has_failed_goes_and_its_sender_is_to_be_told(outcome, before):
    conclusion = of_attempt(AttemptResult(outcome, "no such user", NOW), perhaps_delivered=before)
    owe, remove = conclusion.changes
    assert remove == Remove(ONE.id) and conclusion.word is Word.FAILED
    assert (owe.envelope, owe.status.action, owe.status.reason) == (ONE.id, ReportAction.FAILED, "no such user")


@pytest.mark.parametrize("before", [False, True])
def test_what_an_administrator_can_mend_is_held_with_its_reason(before):
    conclusion = of_attempt(AttemptResult(Outcome.FAILED, "no action", NOW, ours=True), perhaps_delivered=before)
    assert conclusion.changes == (Hold(ONE.id, NOW, "no action", before),) and conclusion.word is Word.HELD


@pytest.mark.parametrize("origin, notify", [(ORIGIN, Notify.NEVER), (NULL, Notify(0)), (NULL, Notify.FAILURE)])
def test_what_has_failed_and_nobody_is_to_be_told_of_goes_with_a_line_in_the_log(origin, notify):
    one = envelope(1, origin=origin, recipient=recipient(notify=notify))
    conclusion = of_attempt(AttemptResult(Outcome.FAILED, "no such user", NOW), one)
    assert conclusion.changes == (Remove(one.id),) and conclusion.word is Word.FAILED and not conclusion.double
    assert 'result=PermFail stat="Error (no such user)"' in conclusion.line


@pytest.mark.parametrize("how", ["failed", "expired"])
def test_a_notice_that_fails_is_held_and_is_a_double_failure(how):
    one = envelope(1, origin=NULL, is_notice=True)
    if how == "failed":
        conclusion = of_attempt(AttemptResult(Outcome.FAILED, "no such user", NOW), one)
    else:
        _, conclusion = conclude.of_expiry(one, "no such user")
    (hold,) = conclusion.changes
    assert isinstance(hold, Hold) and "no such user" in hold.error
    assert conclusion.word is Word.HELD and conclusion.double


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("how", [{}, UNKNOWN, UNSENT])
def test_what_is_deferred_waits_for_the_scheduler(before, how):
    one = envelope(1, troubles=2)
    conclusion = of_attempt(AttemptResult(Outcome.DEFERRED, "try later", NOW, **how), one, before)
    assert not conclusion.changes and conclusion.word is Word.DEFERRED
    perhaps_delivered = before or how is UNKNOWN
    troubles = 2 if how is UNSENT else 0  # what was not given away shows nothing of the envelope
    deferred = conclusion.deferred
    assert (deferred.envelope, deferred.result.at, deferred.error) == (one, NOW, "try later")
    assert (deferred.perhaps_delivered, deferred.troubles) == (perhaps_delivered, troubles)


def test_an_error_of_our_own_holds_an_envelope_in_the_end():
    for troubles in range(TROUBLES_MAX):
        conclusion = conclude.of_fault(envelope(1, troubles=troubles), KeyError(), NOW)
        if troubles < TROUBLES_MAX - 1:
            assert conclusion.deferred[2:] == ("internal error: KeyError", True, troubles + 1, False)
        else:
            assert conclusion.changes == (Hold(ONE.id, NOW, "internal error: KeyError", True),)


def test_a_reason_is_kept_as_far_as_a_row_may_hold_it():
    text = "\udc80\x00" + "x" * 2000
    (hold,) = of_attempt(AttemptResult(Outcome.FAILED, text, NOW, ours=True)).changes
    (owe, _) = of_attempt(AttemptResult(Outcome.FAILED, text, NOW)).changes
    for kept in (hold.error, owe.status.reason):
        assert kept.startswith("\\udc80") and "\x00" not in kept and len(kept) == ERROR_MAX


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
    told = [house.hear("scheduler", EnvelopesTried) for _ in range(2)]
    lists = [(imsg.delivered, imsg.deferred, imsg.failed) for imsg in told]
    assert [sum(some, []) for some in zip(*lists, strict=True)] == [[one], [two], [three]]
    owed = house.owed(three)
    assert (owed.status, owed.remote, owed.diagnostic) == ("5.1.1", "mx.there.test", "550 5.1.1 No such user")
    log = capfd.readouterr().err
    assert log.count("0000000000001234 mda delivery") == 3 and 'stat="Error (451 4.3.0 Later)"' in log


def missing_content(house, meanwhile):
    """An envelope that is due and has no content; `meanwhile` is called when that was found, before it is told."""
    (one,) = house.store()
    house.queue.disk.cache.forget(one)
    house.queue.disk.store._writer.execute("DELETE FROM message")
    find = house.queue.disk.find_message

    def found(message, done):
        house.queue.disk.find_message = find
        find(message, lambda *result: (done(*result), meanwhile()))

    house.queue.disk.find_message = found
    house.due(one)
    return one


def test_a_carrier_that_was_answered_is_not_told_that_there_is_nothing_to_carry(house, courier):
    def answered():
        courier.taken[0].finish(AttemptResult(Outcome.DEFERRED, "451 4.3.0 Later", NOW))

    one = missing_content(house, answered)
    assert house.tried() == ([], [one], [])
    house.until(lambda: house.queue.disk.idle)
    assert courier.contents == []


def test_a_carrier_that_asks_a_second_time_is_told_once(house, courier):
    """As an agent was lost before the content was there, and the errand waits for the next one."""

    def ask_again():
        courier.taken[0].prepare(0x5678, lambda message, descriptor: courier.contents.append("second"))

    one = missing_content(house, ask_again)
    assert house.tried() == ([], [], [one])
    assert courier.contents == ["second"]


def test_a_carrier_that_wants_the_content_of_what_is_over_is_told_so(house, courier):
    house.store_due(recipient())
    house.until(lambda: courier.contents)
    courier.taken[0].finish(AttemptResult(Outcome.DEFERRED, "451 4.3.0 Later", NOW))
    messages = []
    courier.taken[0].count(messages.append)
    assert not messages  # not in the midst of the question
    house.until(lambda: messages)
    assert messages == [None]


def test_an_attempt_that_is_over_has_no_second_end_when_our_own_code_raises(house, courier, capfd):
    (one,) = house.store_due(recipient())
    house.until(lambda: courier.contents)

    def fail():
        raise KeyError("a mistake of ours")

    courier.taken[0].finish(AttemptResult(Outcome.DELIVERED, "250 2.0.0 Ok", NOW))
    courier.taken[0].run_guarded(fail)
    assert house.tried() == ([one], [], [])
    house.until(lambda: house.queue.disk.idle)
    assert house.queue.disk.store.load([one]) == [] and not house.queue.conclusions._deferred
    assert "a mistake of ours" in capfd.readouterr().err


@pytest.mark.parametrize("error", [Violation, FrameError])
def test_what_another_process_does_wrong_is_no_matter_of_the_envelope(house, courier, error):
    (one,) = house.store_due(recipient())
    house.until(lambda: courier.contents)

    def fail():
        raise error("an impossible answer")

    with pytest.raises(error):
        courier.taken[0].run_guarded(fail)
    assert not courier.taken[0].over and not house.mail["scheduler"]


def test_the_lines_of_envelopes_that_end_without_an_attempt():
    named = envelope(1, recipient=Recipient("info@here.test", "bob@here.test", "local", Kind.MDA, "bob", ""))
    far = envelope(1, recipient=relayed("bob@far.test"))
    assert delivery_log.end_line(named, "Expire", "Expired", named.created + 100) == (
        "delivery: Expire for 0000000100000001: from=<amy@there.test>, to=<bob@here.test>, rcpt=<info@here.test>,"
        " delay=1m40s, stat=Expired"
    )
    assert delivery_log.end_line(far, "Remove", "Removed by administrator", far.created) == (
        "relay: Remove for 0000000100000001: from=<amy@there.test>, to=<bob@far.test>, rcpt=<->,"
        " delay=0s, stat=Removed by administrator"
    )


def test_the_line_of_an_attempt_names_the_user_of_local_mail():
    far = envelope(1, recipient=relayed("bob@far.test"))
    lines = [delivery_log.attempt_line(one, 0x12, Outcome.FAILED, "no", NOW) for one in (ONE, far)]
    assert lines == [
        "0000000000000012 mda delivery evpid=0000000100000001 from=<amy@there.test> to=<bob@here.test> rcpt=<->"
        " user=bob delay=1m40s result=PermFail stat=no",
        "0000000000000012 mta delivery evpid=0000000100000001 from=<amy@there.test> to=<bob@far.test> rcpt=<->"
        " delay=1m40s result=PermFail stat=no",
    ]


def test_a_row_is_set_aside_with_as_much_of_the_reason_as_is_kept(house, capfd):
    (one,) = house.store()
    capfd.readouterr()
    house.queue.conclusions.quarantine(UnreadableRow(one, "odd" * ERROR_MAX))
    house.until(lambda: house.queue.disk.store.quarantine(5))
    ((id, _, reason),) = house.queue.disk.store.quarantine(5)
    assert (id, reason) == (one, ("odd" * ERROR_MAX)[:ERROR_MAX])
    house.until(lambda: house.queue.disk.idle)
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_what_an_administrator_orders_is_one_line_in_the_log_or_none(house, capfd):
    one, two = house.store([recipient("amy"), recipient("bob")])
    capfd.readouterr()
    house.say("scheduler", MarkSuspended([two], True))
    house.say("scheduler", DeleteEnvelopes([one]))
    house.until(lambda: [row.suspended for row in house.queue.disk.store.load([one, two])] == [True])
    house.until(lambda: house.queue.disk.idle)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.partition(": ")[2].startswith(f"Remove for {one:016x}")


def test_the_cache_has_no_envelope_that_an_administrator_has_changed(house):
    one, two = house.store([recipient("amy"), recipient("bob")])
    cache = house.queue.disk.cache
    assert cache.maybe_envelope(one) and cache.maybe_envelope(two)
    house.say("scheduler", MarkSuspended([one], True))
    house.say("scheduler", PostponeEnvelopes([(two, 77)]))
    house.until(lambda: cache.maybe_envelope(one) is None and cache.maybe_envelope(two) is None)


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
