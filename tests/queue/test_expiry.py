"""When a mail may be tried and until when, by the terms that its client gave."""

import msgspec
import pytest

from smtpd.envelope import Body, MailParameters, Notify, Outcome
from smtpd.imsg import AddEnvelopes, EnvelopesSubmitted, ExpireEnvelopes, MessageStored
from smtpd.ipc.channel import Violation
from smtpd.queue import process
from smtpd.queue.delivery.expiry import EXPIRED, FUTURE_MAX, OVERDUE, expiry, find_fault, is_overdue, why_expired
from tests.queue.conftest import LIFETIME, ORIGIN, TERMS, add, recipient

NOW = 1_800_000_000


@pytest.mark.parametrize(
    "terms, end",
    [
        (MailParameters(), NOW + 100),
        (MailParameters(release=NOW + 1000), NOW + 1100),
        (MailParameters(release=NOW - 1000), NOW + 100),
        (MailParameters(deliver_by=NOW + 50, by_mode="R"), NOW + 50),
        (MailParameters(deliver_by=NOW + 500, by_mode="R"), NOW + 100),
        (MailParameters(deliver_by=NOW + 50, by_mode="N"), NOW + 100),
        (MailParameters(release=NOW + 1000, deliver_by=NOW + 1050, by_mode="R"), NOW + 1050),
    ],
)
def test_time_counts_from_the_release_and_ends_with_deliver_by_where_the_sender_wants_that(terms, end):
    assert expiry(terms, NOW, 100) == end


def test_a_mail_may_be_delivered_up_to_the_second_that_its_sender_has_named():
    terms = MailParameters(deliver_by=NOW, by_mode="R")
    assert [is_overdue(terms, now) for now in (NOW - 1, NOW, NOW + 1)] == [False, False, True]
    assert not is_overdue(MailParameters(deliver_by=NOW, by_mode="N"), NOW + 1)


def test_only_a_time_that_the_sender_has_named_as_the_end_is_called_that():
    named = MailParameters(deliver_by=NOW, by_mode="R")
    assert [why_expired(named, expires) for expires in (NOW, NOW - 1)] == [OVERDUE, EXPIRED]
    assert why_expired(MailParameters(deliver_by=NOW, by_mode="N"), NOW) == EXPIRED


@pytest.mark.parametrize(
    "terms",
    [
        MailParameters(by_mode="R"),
        MailParameters(deliver_by=NOW + 5),
        MailParameters(release=NOW + FUTURE_MAX + 1),
        MailParameters(by_mode="N", deliver_by=NOW + FUTURE_MAX + 1),
        MailParameters(by_mode="N", deliver_by=NOW - FUTURE_MAX - 1),
    ],
    ids=str,
)
def test_impossible_parameters_are_a_fault(terms):
    assert find_fault(terms, [recipient()], NOW)


@pytest.mark.parametrize(
    "terms",
    [MailParameters(ret="full"), MailParameters(by_mode="r", deliver_by=NOW), MailParameters(priority=10)],
    ids=str,
)
def test_words_that_no_client_can_have_said_are_not_even_heard(terms):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(AddEnvelopes(7, ORIGIN, [recipient()], terms)), type=AddEnvelopes)


@pytest.mark.parametrize("notify", [3, 5, 9, 15, 16, 18, 32])
def test_an_impossible_notify_is_a_fault(notify):
    assert find_fault(TERMS, [recipient(), recipient(notify=Notify(notify))], NOW)


@pytest.mark.parametrize("notify", [0, 1, 2, 4, 6, 8, 10, 12, 14])
def test_what_a_client_can_mean_is_no_fault(notify):
    terms = MailParameters(Body.BINARY, True, True, "HDRS", "x", "<>", NOW + FUTURE_MAX, NOW - FUTURE_MAX, "N", True, 9)
    assert find_fault(terms, [recipient(notify=Notify(notify))], NOW) == ""


# -- in the queue ---------------------------------------------------------------------------


def rows(house):
    return list(house.queue.disk.store.envelopes(0, 2**63 - 1, 1000))


def test_what_is_stored_and_scheduled_is_what_the_client_said(house, second):
    terms = MailParameters(Body.EIGHT_BIT, release=second + 3600, priority=4, envid="QQ314159")
    message = house.reserve()[0]
    to = recipient(notify=Notify.FAILURE, original="rfc822;bob@here.test")
    house.submit(message, [to], terms=terms)
    house.hear("dispatcher0", MessageStored)
    (row,) = rows(house)
    assert (row.terms, row.recipient) == (terms, to)
    assert (row.next_try, row.expires) == (terms.release, terms.release + LIFETIME)
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    assert (schedule.release, schedule.next_try, schedule.priority) == (terms.release, terms.release, 4)
    assert (schedule.created, schedule.expires) == (row.created, row.expires)


@pytest.mark.parametrize(
    "second_terms", [MailParameters(priority=1), MailParameters(release=NOW), MailParameters(Body.BINARY)], ids=str
)
def test_other_parameters_for_the_second_recipient_are_fatal(house, second_terms):
    message = house.reserve()[0]
    lookup = house.near["lookup", 0]
    process.from_lookup(house.queue, lookup, AddEnvelopes(message, ORIGIN, [recipient()], TERMS), None)
    process.from_lookup(house.queue, lookup, AddEnvelopes(message, ORIGIN, [recipient()], MailParameters()), None)
    with pytest.raises(Violation, match="other terms"):
        process.from_lookup(house.queue, lookup, AddEnvelopes(message, ORIGIN, [recipient()], second_terms), None)


def test_a_release_at_the_end_of_all_time_is_fatal(house):
    message = house.reserve()[0]
    added = AddEnvelopes(message, ORIGIN, [recipient()], MailParameters(release=2**40))
    with pytest.raises(Violation, match="too far away"):
        process.from_lookup(house.queue, house.near["lookup", 0], added, None)


def test_a_mail_whose_deliver_by_time_ends_says_so(house, second):
    (envelope,) = house.store_due(recipient(), terms=MailParameters(deliver_by=second + 100, by_mode="R"))
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DEFERRED, "no space")
    assert house.tried() == ([], [envelope], [])
    house.say("scheduler", ExpireEnvelopes([envelope]))
    house.until(lambda: not rows(house))
    owed = house.owed(envelope)
    assert (owed.status, owed.reason) == ("5.4.7", "Expired (deliver-by time): no space")


def test_nothing_is_delivered_after_its_deliver_by_time(house, second):
    """As when the daemon was down at that time."""
    (envelope,) = house.store_due(recipient(), terms=MailParameters(deliver_by=second - 1, by_mode="R"))
    assert house.failed() == [envelope]
    owed = house.owed(envelope)
    assert (owed.status, owed.reason, owed.last_try) == ("5.4.7", "Expired (deliver-by time)", 0)


def test_a_mail_that_is_overdue_keeps_the_reason_of_its_last_attempt(house, second):
    terms = MailParameters(deliver_by=second - 5, by_mode="R")
    house.queue.disk.store.apply([add(1, run=0, terms=terms, error="disk quota exceeded")])
    house.due(1 << 32 | 1)
    assert house.failed() == [1 << 32 | 1]
    assert house.owed(1 << 32 | 1).reason == "Expired (deliver-by time): disk quota exceeded"


def test_a_mail_whose_sender_only_wants_to_be_told_is_delivered_later_too(house, second):
    (envelope,) = house.store_due(recipient(), terms=MailParameters(deliver_by=second - 1, by_mode="N"))
    _, agent = house.start_agent()
    assert house.deliver(agent).envelope == envelope


# -- SMTPUTF8 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("utf8", [True, False])
def test_an_agent_is_told_whether_mail_said_smtputf8(house, utf8):
    house.store_due(recipient(), terms=MailParameters(utf8=utf8))
    _, agent = house.start_agent()
    assert house.receive(agent).utf8 is utf8


# -- priority -----------------------------------------------------------------------------------


def test_what_waits_for_an_agent_goes_by_priority_and_then_as_it_came(house):
    """Four commands of a user may run at a time."""
    order = {house.store_due(recipient(action="run"), terms=MailParameters(priority=p))[0]: p for p in (0, 0, 0, 0)}
    _, agent = house.start_agent()
    begun = [house.receive(agent) for _ in range(4)]
    order |= {
        house.store_due(recipient(action="run"), terms=MailParameters(priority=p))[0]: p for p in (-1, 0, 3, 3, 0, 9)
    }
    house.until(lambda: house.queue.agents.waiting() == 6)
    for errand in begun:
        house.answer(agent, errand)
    after = [house.receive(agent) for _ in range(4)]
    for errand in after:
        house.answer(agent, errand)
    after += [house.receive(agent) for _ in range(2)]
    assert [order[errand.envelope] for errand in after] == [9, 3, 3, 0, 0, -1]
    for priority in (3, 0):
        same = [errand.envelope for errand in after if order[errand.envelope] == priority]
        assert same == sorted(same)
