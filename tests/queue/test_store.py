"""What a store does: the same for every one of them."""

import pytest
from msgspec.structs import replace

from smtpd.envelope import Duty, MailParameters, Notify
from smtpd.queue.delivery.notify import status_row
from smtpd.queue.store.recipient_status import ReportAction
from smtpd.queue.store.store import (
    Compound,
    CountAttempt,
    Hold,
    Owe,
    Postpone,
    Quarantine,
    Remove,
    Replace,
    Reschedule,
    StoreNotice,
    Suspend,
    Uncount,
    recipient_key,
)
from tests.queue.conftest import CONTENT, ODD_TERMS, ORIGIN, add, command, envelope, recipient


def lane(kind, action, user, duty, destination, sender):
    return len(f"{kind} {action} {user} {duty} {destination}"), len(sender)


def scheduled(row):
    r = row.recipient
    who = row.origin.user or row.origin.sender
    return row.schedule(*lane(r.kind, r.action, r.user, r.duty, r.destination, who))


EVERYTHING = (0, 2**63 - 1, 1000)
SET_ASIDE = Quarantine(1 << 32 | 1, 9, "makes no sense")


def test_what_was_added_is_read_as_it_was(store):
    odd = envelope(
        7,
        next_try=5,
        last_try=4,
        retries=3,
        troubles=2,
        perhaps_delivered=True,
        held=True,
        suspended=True,
        error="größer als 2³¹ \\ \" ' %",
        recipient=recipient(
            "o'neil; drop table",
            duty=Duty.FORWARDED,
            digest="ab" * 32,
            home="/home/o'neil",
            notify=Notify.SUCCESS | Notify.DELAY,
            original="rfc822;o'neil@here.test",
            sender="SRS0=abcd=xy=there.test=amy@here.test",
        ),
        origin=replace(ORIGIN, tls=True, user="amy"),
        terms=ODD_TERMS,
        is_notice=True,
    )
    added = add(7)
    store.apply([replace(added, envelopes=[odd])])
    assert list(store.load([odd.id])) == [odd]
    assert list(store.envelopes(*EVERYTHING)) == [odd]
    assert store.find_message(7) == added.message
    assert store.sizes([7, 8]) == {7: len(CONTENT)}


def test_the_scheduler_is_told_release_and_priority(store):
    held_back = envelope(3, run=0, next_try=1_100_000, terms=MailParameters(release=1_100_000, priority=-3))
    store.apply([replace(add(3), envelopes=[held_back])])
    (schedule,) = store.schedules(0, 10, lane)
    assert (schedule.release, schedule.next_try, schedule.priority) == (1_100_000, 1_100_000, -3)
    assert schedule == scheduled(held_back)


def test_a_change_of_what_is_not_there_changes_nothing(store):
    id = 9 << 32 | 1
    store.apply(
        [Postpone(id, 1, 1, "", False, 0), Hold(id, 1, "", False), CountAttempt(id), Suspend(id, True), Remove(id)]
    )
    assert list(store.envelopes(*EVERYTHING)) == []


def test_all_changes_or_none(store):
    store.apply([add(1)])
    before = list(store.envelopes(*EVERYTHING))
    with pytest.raises(Exception):  # noqa: B017  (whatever the store calls it)
        store.apply([add(2), Hold(1 << 32 | 1, 5, "held", False), add(1), add(3)])
    assert list(store.envelopes(*EVERYTHING)) == before
    assert store.messages(1, 10) == {1}
    store.apply([add(2), add(3)])
    assert store.messages(1, 10) == {1, 2, 3}


def test_a_message_goes_with_its_last_envelope(store):
    store.apply([add(1, envelopes=2)])
    assert store.apply([Remove(1 << 32 | 1)]) == []
    assert store.find_message(1) is not None
    assert store.apply([Remove(1 << 32 | 2)]) == []
    assert store.find_message(1) is None


def test_a_spool_file_is_left_when_its_message_is_gone_and_not_before(store):
    store.apply([add(1, envelopes=3, content=None), add(2, content=None)])
    assert store.spooled(0, 10) == [(1, 0), (2, 0)]
    assert store.apply([Remove(1 << 32 | 1), Remove(1 << 32 | 3)]) == []
    assert sorted(store.apply([Remove(1 << 32 | 2), Remove(2 << 32 | 1)])) == [1, 2]
    assert store.spooled(0, 10) == []


def test_a_postponed_envelope_remembers_its_last_try(store):
    store.apply([add(1, run=0, held=True)])
    store.apply([Postpone(1 << 32 | 1, 500, 400, "451 later", True, 2)])
    (row,) = store.load([1 << 32 | 1])
    expected = envelope(1, next_try=500, last_try=400, error="451 later", perhaps_delivered=True, troubles=2, retries=1)
    assert row == replace(expected, run=store.run)


def test_a_held_envelope_keeps_its_reason_until_an_administrator_wants_it(store):
    id = 1 << 32 | 1
    store.apply([add(1, run=0, troubles=2)])
    store.apply([Hold(id, 0, "Expired", True)])
    (row,) = store.load([id])
    assert (row.held, row.error, row.run, row.last_try, row.retries, row.troubles) == (True, "Expired", 0, 0, 0, 0)
    store.apply([CountAttempt(id), Hold(id, 600, "no such user", False)])
    (row,) = store.load([id])
    assert (row.held, row.error, row.run, row.last_try, row.retries) == (True, "no such user", store.run, 600, 1)
    assert row.troubles == 0
    assert not row.perhaps_delivered
    store.apply([Reschedule(id, 700)])
    (row,) = store.load([id])
    assert (row.held, row.next_try, row.retries, row.error) == (False, 700, 1, "no such user")
    store.apply([Hold(id, 800, "no such user", True)])
    assert store.load([id])[0].perhaps_delivered


def test_changes_of_one_envelope_are_made_in_their_order(store):
    id = 1 << 32 | 1
    store.apply([add(1)])
    store.apply([Hold(id, 5, "first", False), Reschedule(id, 9), Suspend(id, True), Suspend(id, False)])
    (row,) = store.load([id])
    assert (row.held, row.next_try, row.suspended) == (False, 9, False)
    store.apply([Reschedule(id, 9), Hold(id, 5, "second", False)])
    (row,) = store.load([id])
    assert row.held


def test_a_begun_try_counts_until_its_end_is_known(store):
    id = 1 << 32 | 1
    store.apply([add(1, run=0)])
    store.apply([CountAttempt(id)])
    store.apply([CountAttempt(id)])
    assert store.load([id])[0].troubles == 2
    assert store.load([id])[0].run == 0
    store.apply([Postpone(id, 1, 1, "", False, 0)])
    assert store.load([id])[0].troubles == 0


@pytest.mark.parametrize("run, before", [(0, False), (0, True), (1, False), (1, True)])
def test_a_try_that_was_not_made_counts_no_more_and_a_run_that_ended_with_it_is_remembered(store, run, before):
    id = 1 << 32 | 1
    store.apply([add(1, run=store.run - 1 + run, perhaps_delivered=before)])
    store.apply([CountAttempt(id)])
    for _ in range(2):  # never fewer than none
        store.apply([Uncount(id)])
        (found,) = store.load([id])
        assert (found.troubles, found.run, found.perhaps_delivered) == (0, store.run, before or not run)


def test_what_tells_recipients_apart_stays_what_it_is_on_the_disk():
    """Or what was delivered before an upgrade would be delivered again after it."""
    assert recipient_key(recipient()).hex() == "95cbd36ef907f34481814496244594bd3baf7229a904efa74632d35a4875d3e3"
    keys = {recipient_key(recipient(sender=sender)) for sender in ("", "amy@here.test", "bob@here.test")}
    assert len(keys) == 3


def test_a_scan_finds_what_another_run_left_and_nothing_else(store):
    store.apply([add(n, run=store.run if n % 2 else store.run + 1) for n in range(1, 21)])
    found = []
    while page := store.schedules(found[-1].envelope if found else 0, 3, lane):
        assert len(page) <= 3
        found += page
    assert [schedule.envelope >> 32 for schedule in found] == list(range(2, 21, 2))
    assert found[0] == scheduled(envelope(2))


def test_a_scan_leaves_out_what_was_tried_in_this_run(store):
    store.apply([add(n, run=store.run + 1) for n in (1, 2, 3)])
    store.apply([Postpone(2 << 32 | 1, 1, 1, "", False, 0)])
    assert [schedule.envelope >> 32 for schedule in store.schedules(0, 10, lane)] == [1, 3]


def test_a_page_begins_and_ends_where_it_was_asked_to(store):
    store.apply([add(n, envelopes=3) for n in range(1, 6)])
    ids = [row.id for row in store.envelopes(2 << 32 | 2, 4 << 32 | 1, 100)]
    assert ids == [2 << 32 | 2, 2 << 32 | 3, 3 << 32 | 1, 3 << 32 | 2, 3 << 32 | 3, 4 << 32 | 1]
    assert [row.id for row in store.envelopes(2 << 32 | 2, 4 << 32 | 1, 2)] == ids[:2]


def test_others_take_the_place_of_an_envelope_and_the_message_stays(store):
    store.apply([add(1, content=None)])
    others = [envelope(1, 2**31 + 5), envelope(1, 2**31 + 6)]
    assert store.apply([Replace(1 << 32 | 1, b"", "bob", others)]) == []
    assert list(store.envelopes(*EVERYTHING)) == others
    assert store.apply([Remove(others[0].id)]) == []
    assert store.apply([Remove(others[1].id)]) == [1]


def test_recipients_of_a_forward_are_known_as_long_as_the_message_is_there(store):
    mailbox, one, two = recipient("bob"), command("bob", "one"), command("bob", "two")
    first, second, third = 1 << 32 | 1, 1 << 32 | 2, 1 << 32 | 2**31
    added = add(1, content=None)
    store.apply([replace(added, envelopes=[envelope(1, 1, recipient=mailbox), envelope(1, 2, recipient=one)])])
    assert store.expanded(1) == {recipient_key(mailbox): "", recipient_key(one): ""}
    store.apply([Remove(first)])  # delivered
    assert store.expanded(1) == {recipient_key(mailbox): "", recipient_key(one): ""}
    store.apply([Replace(second, recipient_key(one), "bob", [envelope(1, 2**31, recipient=two)])])
    assert store.expanded(1) == {recipient_key(mailbox): "", recipient_key(two): "bob"}
    store.apply([Suspend(third, True), add(2)])
    assert store.expanded(1) == {recipient_key(mailbox): "", recipient_key(two): "bob"}
    assert store.apply([Remove(third, recipient_key(two))]) == [1]
    assert store.expanded(1) == {}


def test_a_recipient_is_identified_by_the_forward_that_named_it_and_not_by_its_user(store):
    one, carol = command("bob", "one"), recipient("carol")
    store.apply([replace(add(1), envelopes=[envelope(1, 1, recipient=one)])])
    store.apply([Replace(1 << 32 | 1, recipient_key(one), "bob", [envelope(1, 2**31, recipient=carol)])])
    assert store.expanded(1) == {recipient_key(carol): "bob"}


def test_an_envelope_that_goes_undelivered_is_not_known_any_more(store):
    one, two = command("bob", "one"), command("bob", "two")
    added = add(1)
    store.apply([replace(added, envelopes=[envelope(1, 1, recipient=one), envelope(1, 2, recipient=two)])])
    store.apply([Remove(1 << 32 | 1, recipient_key(one))])
    assert store.expanded(1) == {recipient_key(two): ""}


def test_several_that_go_undelivered_together_are_none_of_them_known_any_more(store):
    wanted = [command("bob", text) for text in ("one", "two", "three")]
    rows = [envelope(1, number, recipient=each) for number, each in enumerate(wanted, 1)]
    store.apply([replace(add(1), envelopes=rows)])
    store.apply([Remove(row.id, recipient_key(row.recipient)) for row in rows[:2]])
    assert store.expanded(1) == {recipient_key(wanted[2]): ""}
    assert [row.id for row in store.envelopes(*EVERYTHING)] == [rows[2].id]


def test_of_messages_without_a_forward_no_recipients_are_kept(store):
    store.apply([add(1, envelopes=2)])
    assert store.expanded(1) == {}


def test_nothing_takes_the_place_of_an_envelope_that_is_gone(store):
    store.apply([Replace(1 << 32 | 1, b"", "bob", [envelope(1, 2)])])
    assert list(store.envelopes(*EVERYTHING)) == []


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("wish", ["remove", "set aside", "suspend", "suspend and resume"])
def test_what_an_administrator_wants_of_an_envelope_goes_for_its_successors(store, wish, together):
    """In one transaction with the replacement or in one before it; `suspend` behind it changes nothing more."""
    store.apply([add(1, 1), add(2, 1)])
    id = 1 << 32 | 1
    wishes = {
        "remove": [Remove(id)],
        "set aside": [Quarantine(id, 5, "damaged")],
        "suspend": [Suspend(id, True)],
        "suspend and resume": [Suspend(id, True), Suspend(id, False)],
    }
    others = [envelope(1, 8), envelope(1, 9)]
    changes = [*wishes[wish], Replace(id, b"", "bob", others), Suspend(id, True), Remove(2 << 32 | 1)]
    for part in [changes] if together else [[change] for change in changes]:
        store.apply(part)
    left = [(row.id & 0xFFFFFFFF, row.suspended) for row in store.envelopes(*EVERYTHING)]
    gone = wish in ("remove", "set aside")
    assert left == ([] if gone else [(8, wish == "suspend"), (9, wish == "suspend")])


@pytest.mark.parametrize("together", [True, False])
def test_what_an_administrator_has_removed_is_not_made_anew(store, together):
    """The user wants what others of the message are for; an administrator has removed the envelope meanwhile."""
    made = add(1, 2)
    rows = [replace(made.envelopes[0], recipient=command("bob")), made.envelopes[1]]
    store.apply([replace(made, envelopes=rows)])
    key = recipient_key(rows[0].recipient)
    changes = [Remove(rows[0].id), Remove(rows[0].id, key)]
    for part in [changes] if together else [[change] for change in changes]:
        store.apply(part)
    assert key in store.expanded(1)


def test_an_id_that_is_taken_already_changes_nothing(store):
    store.apply([add(1, envelopes=2)])
    before = list(store.envelopes(*EVERYTHING))
    with pytest.raises(Exception):  # noqa: B017  (whatever the store calls it)
        store.apply([Replace(1 << 32 | 1, b"", "bob", [envelope(1, 3), envelope(1, 2)])])
    assert list(store.envelopes(*EVERYTHING)) == before


def test_what_is_set_aside_keeps_its_message(store):
    store.apply([add(1, envelopes=2)])
    store.apply([Quarantine(1 << 32 | 1, 77, "odd"), Remove(1 << 32 | 2)])
    assert list(store.envelopes(*EVERYTHING)) == []
    assert store.find_message(1) is not None
    assert list(store.quarantine(10)) == [(1 << 32 | 1, 77, "odd")]


def test_what_was_refused_in_doubt_is_taken_back(store):
    store.apply([add(1, envelopes=2), add(2), add(3)])
    store.repair([1, 3, 99])
    assert store.messages(1, 10) == {2}
    store.apply([add(1)])


def test_ids_of_the_largest_message_fit(store):
    largest = 2**31 - 1
    id = largest << 32 | 2**32 - 1
    store.apply([replace(add(largest), envelopes=[envelope(largest, 2**32 - 1)])])
    assert [row.id for row in store.load([id])] == [id]
    assert store.apply([Remove(id)]) == []
    assert store.find_message(largest) is None


# -- changes that belong together -------------------------------------------------------------------------------------


def test_the_changes_of_a_compound_happen_together(store):
    store.apply([add(1, envelopes=2)])
    one, two = 1 << 32 | 1, 1 << 32 | 2
    store.apply([Compound(one, (Remove(one), add(7))), Compound(two, (Hold(two, 9, "no", False), add(8)))])
    assert {row.id: row.held for row in store.envelopes(*EVERYTHING)} == {
        two: True,
        7 << 32 | 1: False,
        8 << 32 | 1: False,
    }
    assert store.apply([Remove(two)]) == [] and store.find_message(1) is None


def test_a_compound_that_has_happened_does_not_happen_again(store):
    """After a commit that failed nobody knows: so it is repeated."""
    store.apply([add(1, envelopes=2)])
    one, two = 1 << 32 | 1, 1 << 32 | 2
    ends = [
        Compound(one, (Remove(one), add(7))),
        Compound(two, (Postpone(two, 50, 9, "later", False, 0), add(8))),
    ]
    store.apply(ends)
    before = list(store.envelopes(*EVERYTHING))
    store.apply(ends)
    store.apply([Remove(8 << 32 | 1)])
    assert [row for row in before if row.id >> 32 != 8] == list(store.envelopes(*EVERYTHING))
    assert {row.id: row.retries for row in before}[two] == 1


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("end", [Remove(1 << 32 | 1), Replace(1 << 32 | 1, b"", "bob", [envelope(1, 3)]), SET_ASIDE])
def test_nothing_of_a_compound_happens_to_an_envelope_that_is_gone(store, together, end):
    store.apply([add(1, envelopes=2)])
    one = 1 << 32 | 1
    changes = [end, Compound(one, (Hold(one, 9, "no", False), add(7)))]
    for part in [changes] if together else [[change] for change in changes]:
        store.apply(part)
    left = [2, 3] if isinstance(end, Replace) else [2]
    assert [row.id for row in store.envelopes(*EVERYTHING)] == [1 << 32 | number for number in left]


@pytest.mark.parametrize("change", [CountAttempt(1 << 32 | 1), Suspend(1 << 32 | 1, True), Reschedule(1 << 32 | 1, 7)])
def test_a_compound_happens_behind_other_changes_of_its_envelope(store, change):
    store.apply([add(1)])
    one = 1 << 32 | 1
    store.apply([change, Compound(one, (Remove(one), add(7)))])
    assert [row.id for row in store.envelopes(*EVERYTHING)] == [7 << 32 | 1]


def test_a_compound_of_which_one_change_cannot_be_made_changes_nothing(store):
    store.apply([add(1, envelopes=2)])
    one = 1 << 32 | 1
    before = list(store.envelopes(*EVERYTHING))
    impossible = replace(add(7), envelopes=[envelope(1, 2)])  # an id that is taken
    with pytest.raises(Exception):  # noqa: B017  (whatever the store calls it)
        store.apply([Compound(one, (Remove(one), impossible))])
    assert list(store.envelopes(*EVERYTHING)) == before and store.find_message(7) is None


# -- what senders are to be told ------------------------------------------------------------------


def status(id, action=ReportAction.FAILED, **changes):
    return replace(status_row(envelope(id >> 32), action, None, "no such user", "5.1.1"), envelope=id, **changes)


def failed(id, **changes):
    """The end of an envelope whose sender is to be told."""
    return Compound(id, (Owe(id, status(id, **changes)), Remove(id)))


def notice_of(*statuses, id=99):
    keys = tuple((one.envelope, int(one.action)) for one in statuses)
    return StoreNotice(keys[0][0], keys, add(id, is_notice=True))


def test_a_message_stays_until_its_sender_has_been_told(store):
    one, two = 1 << 32 | 1, 1 << 32 | 2
    store.apply([add(1, 2)])
    store.apply([failed(one)])
    store.apply([failed(two)])
    assert store.find_message(1) is not None and list(store.envelopes(*EVERYTHING)) == []
    assert (store.owed(0, 10), store.owed(1, 10)) == ([1], [])
    assert list(store.statuses(1, 10)) == [status(one), status(two)]
    assert list(store.statuses(1, 1)) == [status(one)]
    store.apply([notice_of(status(one))])
    assert store.find_message(1) is not None and list(store.statuses(1, 10)) == [status(two)]
    store.apply([notice_of(status(two), id=98)])
    assert store.find_message(1) is None and store.owed(0, 10) == []
    assert [(row.id >> 32, row.is_notice) for row in store.envelopes(*EVERYTHING)] == [(98, True), (99, True)]


def test_a_message_that_has_other_envelopes_stays_after_its_notice(store):
    one, two = 1 << 32 | 1, 1 << 32 | 2
    store.apply([add(1, 2)])
    store.apply([failed(one)])
    store.apply([notice_of(status(one))])
    assert store.find_message(1) is not None and [row.id for row in store.load([one, two])] == [two]
    store.apply([Remove(two)])
    assert store.find_message(1) is None


def test_a_spool_file_goes_with_the_last_row_of_what_is_to_be_told(store):
    store.apply([add(1, content=None)])
    assert store.apply([failed(1 << 32 | 1)]) == []
    assert [id for id, _ in store.spooled(0, 10)] == [1]
    assert store.apply([notice_of(status(1 << 32 | 1))]) == [1]


def test_an_end_and_a_notice_that_are_repeated_change_nothing(store):
    """As after a transaction that has happened and whose commit has failed."""
    one = 1 << 32 | 1
    store.apply([add(1)])
    for _ in range(2):
        store.apply([failed(one)])
    assert list(store.statuses(1, 10)) == [status(one)]
    for _ in range(2):
        store.apply([notice_of(status(one))])
    store.apply([failed(one), notice_of(status(one), id=98)])  # nothing of that is owed any more
    assert [row.id >> 32 for row in store.envelopes(*EVERYTHING)] == [99]
    assert store.owed(0, 10) == [] and store.messages(1, 100) == {99}


def test_what_an_administrator_has_removed_before_is_not_told(store):
    one = 1 << 32 | 1
    store.apply([add(1)])
    store.apply([Remove(one), failed(one)])
    assert store.owed(0, 10) == [] and store.find_message(1) is None


def test_several_ends_and_notices_of_a_message_in_one_transaction(store):
    one, two, three = (1 << 32 | number for number in (1, 2, 3))
    store.apply([add(1, 3)])
    store.apply([failed(one)])
    store.apply([failed(two), notice_of(status(one)), Remove(three)])
    assert list(store.statuses(1, 10)) == [status(two)] and store.find_message(1) is not None
    store.apply([notice_of(status(two), id=98)])
    assert store.messages(1, 100) == {98, 99}


def test_a_failed_notice_leaves_all_as_it_was(store):
    one = 1 << 32 | 1
    store.apply([add(1), add(99)])
    store.apply([failed(one)])
    clash = replace(notice_of(status(one), id=98), add=replace(add(98), envelopes=add(99).envelopes))
    with pytest.raises(Exception, match="already|UNIQUE"):
        store.apply([clash])
    assert store.owed(0, 10) == [1] and store.messages(1, 100) == {1, 99}
