"""Relayed mail between queue and a dispatcher, which the test plays: well, and in the hands of an attacker."""

import os
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import RECIPIENTS_MAX, MailParameters, Outcome, RelayResult, message_of
from smtpd.imsg import (
    AddEnvelopes,
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    DelayDestination,
    DeleteEnvelopes,
    DestinationDelayed,
    DestinationResumed,
    DestinationsFound,
    EnvelopesListed,
    EnvelopesSubmitted,
    EnvelopesTried,
    ExpireEnvelopes,
    FetchContent,
    FindDestinations,
    ListEnvelopes,
    MessageStored,
    PostponeEnvelopes,
    RelayMessage,
    RelayTried,
    ResumeDestination,
    ReturnRecipients,
    StoreMessage,
    TryDestination,
    TryDestinations,
    WithdrawRecipient,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.queue.delivery import relay_carrier
from smtpd.queue.delivery.conclude import TROUBLES_MAX
from smtpd.queue.delivery.destination import DOMAIN_MAX, Delays, Numbers
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import StoreBroken
from tests.queue.conftest import CONTENT, ORIGIN, WAIT_MAX, add, configuration, envelope, recipient, relayed
from tests.queue.fault import Faulty, times
from tests.queue.ram_store import RAMStore
from tests.queue.test_incoming import LARGE, spool

FAR = relayed()
DOMAINS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)


@pytest.fixture
def house(make_house):
    return make_house(dispatchers=1)


def given_message(house, *recipients, **more):
    """Stored and due: what the dispatcher is told, and the envelopes."""
    envelopes = house.store_due(*(recipients or [FAR]), **more)
    return house.hear("dispatcher0", RelayMessage), envelopes


def fetch(house, attempt, kind=ContentFetched):
    house.say("dispatcher0", FetchContent(5, attempt))
    return house.hear("dispatcher0", kind)


def result(envelope, outcome=Outcome.DELIVERED, text="250 2.0.0 Ok", code=250, **more):
    return RelayResult(envelope, outcome, text, code, **more)


def report(house, attempt, *results):
    house.say("dispatcher0", RelayTried(attempt, [*results]))


def results(house):
    told = house.hear("scheduler", EnvelopesTried)
    return told.delivered, told.deferred, told.held, told.returned


def refused(house, imsg, number=0):
    """What becomes of an imsg that no dispatcher of ours sends."""
    channel = house.near["dispatcher", number]
    relays = house.queue.relays
    call = {
        FetchContent: relays.fetch,
        RelayTried: relays.tried,
        ReturnRecipients: relays.give_back,
        DelayDestination: relays.delay,
        ResumeDestination: relays.resume,
    }[type(imsg)]
    with pytest.raises(Violation):
        call(channel, imsg)


# -- the way of a message -------------------------------------------------------------------------------------------


def test_a_message_goes_to_the_dispatcher_with_all_that_the_next_host_is_told(house):
    to = relayed("bob@Far.test", original="rfc822;bob@far.test", notify=2)
    imsg, (id,) = given_message(house, to)
    assert (imsg.message, imsg.sender, imsg.size) == (message_of(id), ORIGIN.sender, len(CONTENT))
    assert (imsg.action, imsg.domain, imsg.terms) == ("out", "far.test", MailParameters())
    (told,) = imsg.recipients
    assert (told.envelope, told.address, told.recipient) == (id, "bob@Far.test", "bob@Far.test")
    assert (told.notify, told.original) == (2, "rfc822;bob@far.test")
    assert fetch(house, imsg.attempt).content == CONTENT
    report(house, imsg.attempt, result(id))
    assert results(house) == ([id], [], [], [])
    assert house.queue.disk.store.load([id]) == [] and not house.queue.relays._of_destination


def test_recipients_of_one_destination_go_together_and_others_by_themselves(house):
    addresses = ["a@far.test", "b@FAR.test.", "c@near.test", "d@far.test"]
    envelopes = house.store_due(*map(relayed, addresses), relayed("e@far.test", "provider"))
    told = [house.hear("dispatcher0", RelayMessage) for _ in range(3)]
    groups = {(imsg.action, imsg.domain): [to.envelope for to in imsg.recipients] for imsg in told}
    a, b, c, d, e = envelopes
    assert groups == {("out", "far.test"): [a, b, d], ("out", "near.test"): [c], ("provider", ""): [e]}
    assert len({imsg.destination for imsg in told}) == len({imsg.attempt for imsg in told}) == 3


def test_recipients_with_different_senders_do_not_share_a_message(house):
    house.store_due(FAR, relayed("amy@far.test", sender="SRS0=x@here.test"))
    told = [house.hear("dispatcher0", RelayMessage) for _ in range(2)]
    assert sorted(imsg.sender for imsg in told) == sorted([ORIGIN.sender, "SRS0=x@here.test"])


def test_a_message_to_many_goes_in_portions(house):
    house.store_due(*(relayed(f"u{number}@far.test") for number in range(2 * RECIPIENTS_MAX + 1)))
    told = [house.hear("dispatcher0", RelayMessage) for _ in range(3)]
    assert [len(imsg.recipients) for imsg in told] == [RECIPIENTS_MAX, RECIPIENTS_MAX, 1]


def test_the_longest_addresses_that_there_are_fit_into_a_message(house):
    def longest(number):
        address = f"{number:03}" + "ü" * 1010 + "@far.test"
        return relayed(address, original="y" * 1024, sender="ü" * 1024)

    terms = MailParameters(envid="ü" * 256, submitter="ü" * 1024)
    envelopes = house.store(list(map(longest, range(50))), terms=terms)
    house.due(*envelopes)
    seen = []
    while len(seen) < 50:
        seen += [to.envelope for to in house.hear("dispatcher0", RelayMessage).recipients]
    assert seen == envelopes


def test_each_recipient_has_its_own_result_and_they_may_come_one_by_one(house):
    imsg, (a, b, c) = given_message(house, *map(relayed, ["a@far.test", "b@far.test", "c@far.test"]))
    refused = result(b, Outcome.FAILED, "550 5.1.1 no such user", 550, enhanced="5.1.1", remote="mx.far.test")
    report(house, imsg.attempt, refused)
    assert house.failed() == [b]
    report(house, imsg.attempt, result(a), result(c, Outcome.DEFERRED, "451 4.3.0 later", 451))
    told = house.hear("scheduler", EnvelopesTried)
    if not told.delivered:
        told = house.hear("scheduler", EnvelopesTried)
    house.say("scheduler", PostponeEnvelopes([(c, 5000)]))
    house.until(lambda: [row.id for row in house.queue.disk.store.envelopes(0, 2**63 - 1, 9)] == [c])
    house.until(lambda: house.queue.disk.store.load([c])[0].retries == 1)
    (row,) = house.queue.disk.store.load([c])
    assert (row.held, row.error) == (False, "451 4.3.0 later")
    owed = house.owed(b)
    assert (owed.status, owed.remote, owed.diagnostic) == ("5.1.1", "mx.far.test", "550 5.1.1 no such user")
    assert len(house.queue.relays) == 0


def test_small_content_comes_with_the_message(house):
    imsg, (id,) = given_message(house)
    assert imsg.content == CONTENT
    report(house, imsg.attempt, result(id))
    assert results(house)[0] == [id] and not any(house.queue.relays._ahead.values())


def test_a_dispatcher_that_answers_nothing_has_no_more_than_so_much_content(make_house, monkeypatch):
    """Of several each has its own share."""
    monkeypatch.setattr(relay_carrier, "CONTENT_AHEAD_MAX", 2 * len(CONTENT))
    house = make_house(dispatchers=2)
    house.store_due(*(relayed(f"bob@{number}.test") for number in range(20)))
    house.until(lambda: len(house.mail["dispatcher0"]) + len(house.mail["dispatcher1"]) == 20)
    for name in ("dispatcher0", "dispatcher1"):
        told = [imsg for imsg, _ in house.mail[name]]
        assert [imsg.content for imsg in told] == [CONTENT] * 2 + [b""] * (len(told) - 2)
        house.mail[name].clear()
        assert fetch_of(house, name, told[2]).content == CONTENT
        for imsg in told[1:3]:  # one that came with its content, and one that did not
            house.say(name, RelayTried(imsg.attempt, [result(imsg.recipients[0].envelope)]))
            results(house)
    house.store_due(*(relayed(f"amy@{number}.test") for number in range(20)))
    house.until(lambda: len(house.mail["dispatcher0"]) + len(house.mail["dispatcher1"]) == 20)
    for name in ("dispatcher0", "dispatcher1"):
        assert sum(imsg.content == CONTENT for imsg, _ in house.mail[name]) == 1


def fetch_of(house, name, imsg):
    house.say(name, FetchContent(5, imsg.attempt))
    return house.hear(name, ContentFetched)


@pytest.mark.parametrize("ahead", [True, False])
def test_an_envelope_that_is_removed_is_withdrawn_from_the_dispatcher(house, monkeypatch, ahead):
    """Also when it has no content yet."""
    if not ahead:
        monkeypatch.setattr(relay_carrier, "CONTENT_AHEAD_MAX", 0)
    imsg, (a, b) = given_message(house, FAR, relayed("amy@far.test"))
    assert bool(imsg.content) is ahead
    house.say("scheduler", DeleteEnvelopes([a]))
    assert house.hear("dispatcher0", WithdrawRecipient) == WithdrawRecipient(imsg.attempt, a)
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [a]))
    assert results(house) == ([], [], [], [a])
    house.say("scheduler", DeleteEnvelopes([b]))
    assert house.hear("dispatcher0", WithdrawRecipient) == WithdrawRecipient(imsg.attempt, b)
    house.say("dispatcher0", RelayTried(imsg.attempt, [result(b)]))  # it had been sent already
    assert results(house)[0] == [b]
    assert not any(house.queue.relays._ahead.values())
    house.until(lambda: house.queue.disk.idle)
    assert house.queue.disk.store.load([a, b]) == [] and len(house.queue.relays) == 0


def test_large_content_comes_as_a_fresh_descriptor_that_cannot_write(house):
    message = house.reserve()[0]
    store = house.queue.disk.store
    content = b"x" * 30_000
    theirs, own = house.queue.disk.spool.create(message)
    os.write(theirs, content)
    digest = house.queue.disk.spool.seal(message, own, len(content))
    made = add(message, content=None, recipient=FAR)
    store.apply([made.__class__(made.message.__class__(message, len(content), digest, None), made.envelopes)])
    house.due(message << 32 | 1)
    imsg = house.hear("dispatcher0", RelayMessage)
    assert imsg.size == len(content)
    for _ in range(2):  # for one host, and for the next
        _, descriptor = fetch(house, imsg.attempt, ContentFileFetched)
        assert os.read(descriptor, 40_000) == content
        with pytest.raises(OSError):
            os.write(descriptor, b"y")
        os.close(descriptor)
    os.close(theirs)
    os.close(own)


def test_a_file_is_opened_when_a_dispatcher_wants_the_content_and_not_before(house):
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [FAR], MailParameters()))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    house.due(message << 32 | 1)
    imsg = house.hear("dispatcher0", RelayMessage)
    assert imsg.size == len(LARGE) and not house.spool.called("open")
    os.close(fetch(house, imsg.attempt, ContentFileFetched)[1])
    assert len(house.spool.called("open")) == 1


def test_an_attempt_is_counted_once_however_often_its_content_is_fetched(make_house, tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, run=0, recipient=FAR)])
    house = make_house(store, dispatchers=1)
    house.due(1 << 32 | 1)
    imsg = house.hear("dispatcher0", RelayMessage)
    for _ in range(3):
        assert fetch(house, imsg.attempt).content == CONTENT
    assert store.load([1 << 32 | 1])[0].troubles == 1


def test_an_uncertain_result_is_kept_as_that(house):
    imsg, (id,) = given_message(house)
    report(house, imsg.attempt, result(id, Outcome.DEFERRED, "connection lost", 0, uncertain=True))
    assert results(house)[1] == [id]
    house.say("scheduler", PostponeEnvelopes([(id, 5000)]))
    house.until(lambda: house.queue.disk.store.load([id])[0].retries == 1)
    assert house.queue.disk.store.load([id])[0].perhaps_delivered


def test_the_lines_of_results_are_the_dispatchers_and_those_of_other_ends_are_ours(house, capfd):
    (other,) = house.store_due(relayed(action="gone"))
    assert results(house)[2] == [other]
    imsg, (id,) = given_message(house)
    report(house, imsg.attempt, result(id))
    assert results(house)[0] == [id]
    log.flush()
    text = capfd.readouterr().err
    assert f"mta delivery evpid={other:016x}" in text and 'no relay action "gone"' in text.replace("\\", "")
    assert f"{id:016x}" not in text


# -- not tried ------------------------------------------------------------------------------------------------------


def test_what_was_not_tried_leaves_no_trace(house):
    imsg, (id,) = given_message(house)
    before = house.queue.disk.store.load([id])
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert results(house) == ([], [], [], [id])
    assert house.queue.disk.store.load([id]) == before
    house.due(id)
    assert house.hear("dispatcher0", RelayMessage).attempt != imsg.attempt


def test_an_envelope_of_another_run_is_counted_and_counts_no_more_when_it_was_not_tried(make_house, tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, run=0, recipient=FAR)])
    house = make_house(store, dispatchers=1)
    id = 1 << 32 | 1
    for _ in range(TROUBLES_MAX + 1):
        house.due(id)
        imsg = house.hear("dispatcher0", RelayMessage)
        house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
        assert results(house) == ([], [], [], [id])
    (row,) = store.load([id])
    assert (row.troubles, row.retries, row.run, row.perhaps_delivered) == (0, 0, store.run, True)


def test_an_envelope_that_brought_the_daemon_down_goes_alone(make_house, tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, 3, run=0, recipient=FAR)])
    store.apply([add(2, run=0, troubles=1, recipient=FAR)])
    house = make_house(store, dispatchers=1)
    house.due(*(1 << 32 | number for number in (1, 2, 3)), 2 << 32 | 1)
    told = [house.hear("dispatcher0", RelayMessage) for _ in range(2)]
    assert sorted(len(imsg.recipients) for imsg in told) == [1, 3]
    assert [row.troubles for row in store.load([1 << 32 | 1, 2 << 32 | 1])] == [1, 2]


def test_a_delayed_destination_is_the_schedulers_matter_and_the_list_of_the_queue_says_why(house):
    imsg, (id,) = given_message(house)
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "Connection refused"))
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert house.hear("scheduler", DestinationDelayed) == DestinationDelayed(imsg.destination, 60)
    assert results(house)[3] == [id]
    house.store([relayed("amy@far.test")])

    def reasons():
        house.say("control", ListEnvelopes(1, 1 << 32, 2**63 - 1))
        return [row.delayed for row in house.hear("control", EnvelopesListed).rows]

    assert reasons() == ["Connection refused"] * 2
    house.now += 61
    assert reasons() == [""] * 2
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "again"))  # nothing of it is under way
    house.turn()
    assert reasons() == [""] * 2 and not house.mail["scheduler"]


def test_an_order_for_a_destination_reaches_its_dispatcher_before_the_mail(house):
    house.say("scheduler", TryDestinations([2, 4]))
    assert [house.hear("dispatcher0", TryDestination) for _ in range(2)] == [TryDestination(2), TryDestination(4)]


def test_a_resumed_destination(house):
    imsg, _ = given_message(house)
    house.say("dispatcher0", ResumeDestination(imsg.destination))  # it is not delayed
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "no"))
    house.say("dispatcher0", ResumeDestination(imsg.destination))
    house.hear("scheduler", DestinationDelayed)
    assert house.hear("scheduler", DestinationResumed) == DestinationResumed(imsg.destination)
    assert not house.mail["scheduler"] and not house.queue.delays.find_reason(imsg.destination)


def test_the_number_of_a_destination_is_the_lane_that_the_scheduler_knows(house):
    message = house.reserve()[0]
    house.submit(message, [FAR, relayed("amy@FAR.test."), recipient("bob")])
    house.hear("dispatcher0", MessageStored)
    far, same, local = house.hear("scheduler", EnvelopesSubmitted).schedules
    house.due(far.envelope)
    assert house.hear("dispatcher0", RelayMessage).destination == far.lane == same.lane
    assert far.sender and far.sender == same.sender and local.sender == 0


def test_the_sender_is_told_the_reason_of_a_destination_that_was_delayed_until_the_mail_expired(house):
    imsg, (id,) = given_message(house)
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "Connection refused"))
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert results_after_delay(house) == [id]
    house.say("scheduler", ExpireEnvelopes([id], imsg.destination))
    house.until(lambda: not house.queue.disk.store.load([id]))
    owed = house.owed(id)
    assert (owed.status, owed.reason, owed.remote) == ("4.4.7", "Expired: Connection refused", "")


def results_after_delay(house):
    house.hear("scheduler", DestinationDelayed)
    return results(house)[3]


# -- ends that are the queue's own ----------------------------------------------------------------------------------


def test_content_that_is_damaged_holds_its_envelopes_and_the_dispatcher_forgets_the_attempt(house):
    imsg, (a, b) = given_message(house, FAR, relayed("amy@far.test"))
    for id in (a, b):
        house.queue.disk.cache.forget(id)
    house.queue.disk.store._writer.execute("UPDATE message SET content = x'41'")
    fetch(house, imsg.attempt, ContentNotFetched)
    held = []
    while len(held) < 2:
        held += results(house)[2]
    assert held == [a, b]
    report(house, imsg.attempt, result(a))  # it did not know yet
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [b]))
    fetch(house, imsg.attempt, ContentNotFetched)
    assert len(house.queue.relays) == 0


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("end", [RelayTried, ReturnRecipients])
def test_a_dispatcher_may_answer_for_what_it_still_fetches(house, end, damaged):
    imsg, (id,) = given_message(house)
    house.queue.disk.cache.forget(id)
    if damaged:
        house.queue.disk.store._writer.execute("UPDATE message SET content = x'41'")
    channel, relays = house.near["dispatcher", 0], house.queue.relays
    relays.fetch(channel, FetchContent(5, imsg.attempt))
    if end is RelayTried:
        relays.tried(channel, RelayTried(imsg.attempt, [result(id, Outcome.DEFERRED, "timeout", 0)]))
    else:
        relays.give_back(channel, ReturnRecipients(imsg.attempt, [id]))
    assert house.hear("dispatcher0", ContentNotFetched).request == 5
    told = results(house)
    assert told == (([], [id], [], []) if end is RelayTried else ([], [], [], [id]))
    refused(house, FetchContent(6, imsg.attempt))
    assert len(relays) == 0 and not relays._over


def test_the_content_is_fetched_by_the_next_envelope_when_the_first_is_answered_meanwhile(house):
    imsg, (a, b) = given_message(house, FAR, relayed("amy@far.test"))
    house.queue.disk.cache.forget(a)
    house.queue.disk.cache.forget(b)
    channel, relays = house.near["dispatcher", 0], house.queue.relays
    relays.fetch(channel, FetchContent(5, imsg.attempt))
    relays.tried(channel, RelayTried(imsg.attempt, [result(a, Outcome.FAILED, "no", 550)]))
    assert house.hear("dispatcher0", ContentFetched) == ContentFetched(5, CONTENT)
    report(house, imsg.attempt, result(b))
    house.until(lambda: not house.queue.disk.store.load([a, b]))
    assert house.owed(a).reason == "no"
    assert not house.mail["dispatcher0"] and len(relays) == 0


@pytest.mark.parametrize("end", [RelayTried, ReturnRecipients])
def test_an_envelope_that_queue_has_ended_is_not_ended_a_second_time_by_the_dispatcher(make_house, end):
    store = Faulty(RAMStore())
    house = make_house(store, dispatchers=1)
    imsg, (a, b) = given_message(house, FAR, relayed("amy@far.test"))
    for id in (a, b):
        house.queue.disk.cache.forget(id)
    store.faults["find_message"] = times(1, StoreBroken)
    house.say("dispatcher0", FetchContent(5, imsg.attempt))
    assert house.hear("dispatcher0", WithdrawRecipient) == WithdrawRecipient(imsg.attempt, a)  # it is tried once more
    assert house.hear("dispatcher0", ContentFetched).content == CONTENT  # by the second one
    assert results(house) == ([], [a], [], [])
    if end is RelayTried:
        report(house, imsg.attempt, result(a), result(b))
    else:
        house.say("dispatcher0", ReturnRecipients(imsg.attempt, [a, b]))
    assert results(house) == (([b], [], [], []) if end is RelayTried else ([], [], [], [b]))
    house.until(lambda: house.queue.disk.idle)
    assert [row.id for row in store.load([a, b])] == ([a] if end is RelayTried else [a, b])
    assert not house.mail["scheduler"]


def test_as_many_go_into_one_message_as_there_is_room_for_their_addresses(house, monkeypatch):
    size = 2 * len(FAR.recipient)
    monkeypatch.setattr(relay_carrier, "ADDRESS_BYTES_MAX", 2 * size)
    house.store_due(*(relayed(f"b{number}b@far.test") for number in range(5)))
    told = [house.hear("dispatcher0", RelayMessage) for _ in range(3)]
    assert [len(imsg.recipients) for imsg in told] == [2, 2, 1]


def test_the_name_of_a_domain_is_as_long_as_a_dispatcher_is_told(house):
    house.store_due(relayed("bob@" + "a." * 500 + "test"))
    assert len(house.hear("dispatcher0", RelayMessage).domain) == DOMAIN_MAX


def test_without_a_dispatcher_relayed_mail_is_held(make_house):
    store = RAMStore()
    store.run = 2
    store.apply([add(1, run=1, recipient=FAR)])
    house = make_house(store, dispatchers=0)
    house.due(1 << 32 | 1)
    assert results(house)[2] == [1 << 32 | 1]


def test_attempts_that_queue_has_ended_are_kept_for_their_dispatcher_in_a_bounded_number(house, monkeypatch):
    monkeypatch.setattr(relay_carrier, "OVER_KEPT", 2)
    attempts = []
    for number in range(4):
        imsg, (id,) = given_message(house, relayed(f"u{number}@far.test"))
        attempts.append(imsg.attempt)
        house.queue.disk.cache.forget(id)
        house.queue.disk.store._writer.execute("UPDATE message SET content = x'41'")
        fetch(house, imsg.attempt, ContentNotFetched)
        assert results(house)[2] == [id]
    assert [*house.queue.relays._over] == attempts[2:]


def test_files_are_opened_for_a_dispatcher_only_as_far_as_it_takes_them(house, monkeypatch):
    monkeypatch.setattr(relay_carrier, "UNREAD_DESCRIPTORS_MAX", 3)
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [FAR], MailParameters()))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    house.due(message << 32 | 1)
    imsg = house.hear("dispatcher0", RelayMessage)
    channel, relays = house.near["dispatcher", 0], house.queue.relays
    with monkeypatch.context() as patched:
        patched.setattr(channel, "flush", lambda: False)  # the dispatcher takes nothing
        for request in range(1, 20):
            relays.fetch(channel, FetchContent(request, imsg.attempt))
            house.until(lambda: relays._groups[imsg.attempt].fetching is None)
            if relays._groups[imsg.attempt].paused:
                break
        assert channel.descriptors_waiting == 4
    channel.wake(channel)
    for _ in range(request):
        os.close(house.hear("dispatcher0", ContentFileFetched)[1])


def test_a_delayed_destination_may_be_delayed_again(house):
    imsg, (id,) = given_message(house)
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "Connection refused"))
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert results_after_delay(house) == [id]
    house.say("dispatcher0", DelayDestination(imsg.destination, 120, "Connection timed out"))
    assert house.hear("scheduler", DestinationDelayed) == DestinationDelayed(imsg.destination, 120)
    assert house.queue.delays.find_reason(imsg.destination) == "Connection timed out"


def test_an_action_that_does_not_relay_any_more_holds_its_mail(house):
    (id,) = house.store_due(relayed(action="local"))
    assert results(house) == ([], [], [id], [])
    assert house.queue.disk.store.load([id])[0].error == 'the configuration has no relay action "local"'


def test_an_envelope_that_our_own_code_fails_on_costs_only_itself(house, monkeypatch):
    numbers = house.queue.relays._numbers
    real = numbers.destination

    def fail(action, address):
        if address.startswith("bad"):
            raise RuntimeError("bad")
        return real(action, address)

    bad, good = house.store([relayed("bad@far.test"), FAR])
    monkeypatch.setattr(numbers, "destination", fail)
    house.due(bad, good)
    assert results(house)[1] == [bad]
    assert [to.envelope for to in house.hear("dispatcher0", RelayMessage).recipients] == [good]


def test_envelopes_of_a_message_that_our_code_cannot_give_to_a_dispatcher_have_all_an_end(house, monkeypatch):
    envelopes = house.store([FAR, relayed("amy@far.test")])
    channel, relays = house.near["dispatcher", 0], house.queue.relays

    def fail(_imsg):
        raise UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed")

    with monkeypatch.context() as patched:
        patched.setattr(channel, "send", fail)
        house.due(*envelopes)
        assert results(house) == ([], envelopes, [], [])
    assert len(relays) == 0 and not relays._of_destination and not house.queue.in_flight
    house.say("scheduler", PostponeEnvelopes([(id, 5000) for id in envelopes]))
    house.until(lambda: all(row.troubles for row in house.queue.disk.store.load(envelopes)))
    house.due(envelopes[0])
    assert [to.envelope for to in house.hear("dispatcher0", RelayMessage).recipients] == envelopes[:1]


def test_a_violation_of_ours_is_no_matter_of_an_envelope(house, monkeypatch):
    """An imsg over its limit ends the daemon, or its envelopes would be tried until they are held."""

    def fail(_imsg):
        raise Violation("RelayMessage of 9999999 bytes is over its limit")

    given_message(house)
    (attempt,) = house.queue.in_flight.attempts()
    relays = house.queue.relays
    monkeypatch.setattr(house.near["dispatcher", 0], "send", fail)
    relays.carry(attempt)
    with pytest.raises(Violation):
        relays._give_collected()
    assert not attempt.over


@pytest.mark.parametrize("which", [0, 1])
def test_an_envelope_that_is_removed_while_it_is_counted_keeps_no_other_one_from_its_dispatcher(make_house, which):
    store = Faulty(RAMStore())
    store.run = 2
    store.apply([add(1, 2, run=1, recipient=FAR)])
    house = make_house(store, dispatchers=1)
    removed = threading.Event()
    store.faults["apply"] = lambda _: removed.wait(WAIT_MAX) and None
    a, b = 1 << 32 | 1, 1 << 32 | 2
    house.due(a, b)
    gone, stays = (a, b) if which == 0 else (b, a)
    house.until(lambda: house.queue.in_flight.maybe_attempt(gone))
    house.say("scheduler", DeleteEnvelopes([gone]))
    house.until(lambda: house.queue.in_flight.maybe_attempt(gone).removed)
    removed.set()
    assert results(house) == ([gone], [], [], [])
    imsg = house.hear("dispatcher0", RelayMessage)
    assert [to.envelope for to in imsg.recipients] == [stays] and imsg.size == len(CONTENT)


def test_what_was_not_tried_writes_nothing(make_house):
    store = Faulty(RAMStore())
    house = make_house(store, dispatchers=1)
    imsg, (id,) = given_message(house)
    house.until(lambda: house.queue.disk.idle)
    writes = len(store.called("apply"))
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert results(house)[3] == [id]
    house.until(lambda: house.queue.disk.idle)
    assert len(store.called("apply")) == writes


def test_a_file_that_is_opened_for_an_envelope_answered_meanwhile_is_closed(house, monkeypatch):
    imsg, (a,) = given_message(house)
    channel, relays = house.near["dispatcher", 0], house.queue.relays
    group = relays._groups[imsg.attempt]
    reading, writing = os.pipe()
    relays._fetched(group, group.attempts[a], channel, None, reading)
    with pytest.raises(OSError):
        os.fstat(reading)
    os.close(writing)
    relays._fetched(group, group.attempts[a], channel, None, None)  # and where there is none


def test_a_destination_may_be_delayed_as_long_as_anything_of_it_is_under_way(house):
    one, (a,) = given_message(house)
    two, (b,) = given_message(house, relayed("amy@far.test"))
    assert one.destination == two.destination
    report(house, one.attempt, result(a))
    house.until(lambda: len(house.queue.relays) == 1)
    house.say("dispatcher0", DelayDestination(two.destination, 60, "Connection refused"))
    house.say("dispatcher0", ReturnRecipients(two.attempt, [b]))
    house.until(lambda: len(house.queue.relays) == 0)
    told = [imsg for imsg, _ in house.mail["scheduler"]]
    assert DestinationDelayed(two.destination, 60) in told
    assert not house.queue.relays._of_destination


def test_an_interrupted_attempt_is_perhaps_delivered_at_the_next_start(house):
    imsg, (id,) = given_message(house)
    fetch(house, imsg.attempt)
    house.queue.deliveries.stop()
    house.queue.deliveries.end()
    house.until(lambda: house.queue.disk.idle)
    (row,) = house.queue.disk.store.load([id])
    assert (row.retries, row.troubles, row.run) == (0, 0, house.queue.disk.store.run)


# -- a dispatcher in the hands of an attacker -----------------------------------------------------------------------


def test_a_dispatcher_answers_for_nothing_that_it_was_not_given(make_house):
    house = make_house(dispatchers=2)
    ids = house.store_due(*(relayed(f"a@{number}.test") for number in range(8)))
    house.until(lambda: len(house.mail["dispatcher0"]) + len(house.mail["dispatcher1"]) == 8)
    mine, others = ([imsg for imsg, _ in house.mail[name]] for name in ("dispatcher0", "dispatcher1"))
    assert {imsg.destination % 2 for imsg in mine} <= {0} and {imsg.destination % 2 for imsg in others} <= {1}
    given_to = {id: imsg.attempt for imsg in (*mine, *others) for id in [imsg.recipients[0].envelope]}
    for imsg in others:
        (theirs,) = imsg.recipients
        refused(house, FetchContent(1, imsg.attempt))
        refused(house, RelayTried(imsg.attempt, [result(theirs.envelope)]))
        refused(house, ReturnRecipients(imsg.attempt, [theirs.envelope]))
        refused(house, DelayDestination(imsg.destination, 9, "no"))
        refused(house, ResumeDestination(imsg.destination))
        for own in mine:
            refused(house, RelayTried(own.attempt, [result(theirs.envelope)]))
    refused(house, FetchContent(1, max(given_to.values()) + 1))
    assert {row.id for row in house.queue.disk.store.load(ids)} == {*ids} and not house.mail["scheduler"]


def test_each_of_several_dispatchers_answers_for_its_own_whatever_their_numbers_are(make_house):
    """Of several the first has the number 1, of one it is 0."""
    house = make_house(dispatchers=2)
    for channel in house.queue.relays._dispatchers:
        channel.number += 1
    ids = house.store_due(*(relayed(f"a@{number}.test") for number in range(8)))
    house.until(lambda: len(house.mail["dispatcher0"]) + len(house.mail["dispatcher1"]) == 8)
    for name in ("dispatcher0", "dispatcher1"):
        for imsg, _ in house.mail[name]:
            house.say(name, DelayDestination(imsg.destination, 9, "no"))
            house.say(name, FetchContent(1, imsg.attempt))
            house.say(name, RelayTried(imsg.attempt, [result(imsg.recipients[0].envelope)]))
    house.until(lambda: house.queue.disk.store.load(ids) == [])
    assert len(house.queue.relays) == 0


@pytest.mark.parametrize("again", [RelayTried, ReturnRecipients, FetchContent])
def test_nothing_can_be_said_twice(house, again):
    imsg, (a, b) = given_message(house, FAR, relayed("amy@far.test"))
    report(house, imsg.attempt, result(a))
    results(house)
    if again is FetchContent:
        house.queue.disk.cache.forget(b)
        house.queue.relays.fetch(house.near["dispatcher", 0], FetchContent(1, imsg.attempt))
        refused(house, FetchContent(2, imsg.attempt))
    else:
        refused(house, again(imsg.attempt, [result(a) if again is RelayTried else a]))
        report(house, imsg.attempt, result(b))
        results(house)
        refused(house, again(imsg.attempt, [result(b) if again is RelayTried else b]))
        refused(house, FetchContent(1, imsg.attempt))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_dispatcher_says_in_whatever_order_its_word_counts_once_for_what_it_has(make_house, seed):
    house, source = make_house(dispatchers=2), random.Random(seed)
    ids = house.store_due(*(relayed(f"u{number}@d{number % 5}.test") for number in range(12)))
    house.until(lambda: sum(len(house.mail[f"dispatcher{number}"]) for number in (0, 1)) == 5)
    attempts = [[imsg for imsg, _ in house.mail[f"dispatcher{number}"]] for number in (0, 1)]
    every = [imsg for given in attempts for imsg in given]
    relays, answered = house.queue.relays, set()
    for _ in range(300):
        number = source.randrange(2)
        channel = house.near["dispatcher", number]
        attempt = source.choice([*(imsg.attempt for imsg in every), 99, 1 << 40])
        envelope = source.choice([*ids, ids[0] + 100])
        destination = source.choice([*(imsg.destination for imsg in every), source.randrange(1, 1 << 63)])
        own = {to.envelope for imsg in attempts[number] if imsg.attempt == attempt for to in imsg.recipients}
        outcome, imsg = source.choice([*Outcome]), source.randrange(5)
        try:
            match imsg:
                case 0:
                    relays.fetch(channel, FetchContent(1, attempt))
                    assert own
                case 1:
                    relays.tried(channel, RelayTried(attempt, [result(envelope, outcome)]))
                    assert envelope in own - answered and outcome is not Outcome.STALE
                    answered.add(envelope)
                case 2:
                    relays.give_back(channel, ReturnRecipients(attempt, [envelope]))
                    assert envelope in own - answered
                    answered.add(envelope)
                case 3:
                    relays.delay(channel, DelayDestination(destination, 60, "no"))
                    assert destination % 2 == number
                case 4:
                    relays.resume(channel, ResumeDestination(destination))
                    assert destination % 2 == number
        except Violation:  # the daemon would end here; the test goes on with what may be left of it
            if imsg == 1 and outcome is Outcome.STALE:
                answered |= {envelope} & own
        if source.random() < 0.2:
            house.turn()
    house.until(lambda: house.queue.disk.idle)
    house.turn()
    told = [imsg for imsg, _ in house.mail["scheduler"] if isinstance(imsg, EnvelopesTried)]
    counted = [id for imsg in told for part in (imsg.delivered, imsg.deferred, imsg.held, imsg.returned) for id in part]
    assert len(counted) == len(set(counted)) and set(counted) <= answered
    assert len(relays) <= 5 and len(house.queue.delays._delayed) <= 5


@pytest.mark.parametrize("odd", [{"outcome": Outcome.STALE}, {"code": 1}, {"code": 199}])
def test_a_result_that_cannot_be_is_refused(house, odd):
    imsg, (id,) = given_message(house)
    refused(house, RelayTried(imsg.attempt, [result(id, **odd)]))


def test_delays_of_destinations_that_nothing_is_under_way_to_are_not_kept(house):
    for number in range(1, 5000):
        house.queue.relays.delay(house.near["dispatcher", 0], DelayDestination(number, 9, "no"))
        house.queue.relays.resume(house.near["dispatcher", 0], ResumeDestination(number))
    house.turn()
    assert not house.queue.delays._delayed and not house.mail["scheduler"]


# -- numbers --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["out", "provider", "gone"]), DOMAINS), min_size=2, max_size=2), st.text())
def test_destinations_have_one_number_if_they_are_the_same(both, local):
    numbers = Numbers(configuration())
    one, other = (numbers.destination(action, f"{local}@{domain}") for action, domain in both)
    assert 1 <= one.number < 2**60
    assert (one.number == other.number) is ((one.action, one.domain) == (other.action, other.domain))
    assert (one.domain == "") >= (one.action == "provider")


def test_an_administrator_names_a_destination_by_its_domain_or_its_action(house):
    def found(name):
        house.say("control", FindDestinations(1, name))
        return house.hear("control", DestinationsFound).destinations

    numbers = house.queue.relays._numbers
    assert found("FAR.test.") == [numbers.destination("out", "x@far.test").number]
    assert found("provider") == [
        numbers.destination("out", "x@provider").number,
        numbers.destination("provider", "x@any.test").number,
    ]


def test_a_destination_that_is_given_again_is_not_delayed_any_more(house):
    """An administrator has resumed it, at the scheduler."""
    imsg, (id,) = given_message(house)
    house.say("dispatcher0", DelayDestination(imsg.destination, 60, "no"))
    house.say("dispatcher0", ReturnRecipients(imsg.attempt, [id]))
    assert results_after_delay(house) == [id]
    house.due(id)
    house.hear("dispatcher0", RelayMessage)
    assert house.queue.delays.find_reason(imsg.destination) == ""


def test_numbers_cannot_be_known_in_advance():
    assert Numbers(configuration()).destination("out", "x@far.test") != Numbers(configuration()).destination(
        "out", "x@far.test"
    )


def test_a_sender_who_has_logged_in_is_one_whatever_address_is_used():
    numbers = Numbers(configuration())

    def of(sender, user=""):
        origin = ORIGIN.__class__(sender, *[getattr(ORIGIN, name) for name in ORIGIN.__struct_fields__[1:-1]], user)
        return numbers.lane_of(envelope(1, origin=origin, recipient=FAR))[1]

    assert of("a@x.test", "amy") == of("b@x.test", "amy") != of("a@x.test") == of("A@X.test") != of("b@x.test")
    assert of("")


def test_no_destination_and_no_sender_has_the_number_that_stands_for_none(monkeypatch):
    numbers = Numbers(configuration())
    monkeypatch.setattr(numbers, "_hash", lambda text, size: 0)
    assert numbers.lane("out", "bob@far.test", "amy@there.test") == (1, 1)


def test_a_delay_that_is_over_is_not_kept():
    now = 0.0
    delays = Delays(lambda: now)
    delays.delay(1, 9, "Connection refused")
    assert delays.find_reason(1)
    now = 9.0
    assert delays.find_reason(1) == "" and not delays._delayed


def test_reasons_are_kept_for_a_bounded_number_of_destinations(monkeypatch):
    monkeypatch.setattr("smtpd.queue.delivery.destination.REASONS_KEPT", 3)
    delays = Delays(lambda: 0.0)
    for number in range(1, 6):
        delays.delay(number, 9, str(number))
    assert [delays.find_reason(number) for number in range(1, 6)] == ["", "", "3", "4", "5"]
    delays.delay(3, 9, "again")
    delays.delay(6, 9, "6")
    assert [delays.find_reason(number) for number in range(3, 7)] == ["again", "", "5", "6"]


def test_an_address_names_no_destination():
    """Or the mail of all its domain would be removed."""
    numbers = Numbers(configuration())
    assert numbers.find("far.test") and numbers.find("bob@far.test") == [] == numbers.find("@far.test")


def test_content_waits_for_a_dispatcher_only_as_far_as_it_reads(house, monkeypatch):
    monkeypatch.setattr(relay_carrier, "UNREAD_BYTES_MAX", 10 * len(CONTENT))
    imsg, (id,) = given_message(house)
    channel, relays = house.near["dispatcher", 0], house.queue.relays
    monkeypatch.setattr(channel, "flush", lambda: False)  # the dispatcher reads nothing
    for request in range(1, 100):
        relays.fetch(channel, FetchContent(request, imsg.attempt))
        house.turn()
        if relays._groups[imsg.attempt].paused:
            break
    refused(house, FetchContent(1000, imsg.attempt))  # the one that waits is under way
    assert request < 20 and channel.bytes_waiting < 20 * len(CONTENT)
    monkeypatch.undo()
    channel.wake(channel)
    for answered in range(1, request + 1):
        assert house.hear("dispatcher0", ContentFetched).request == answered
    report(house, imsg.attempt, result(id))
    assert results(house)[0] == [id]
