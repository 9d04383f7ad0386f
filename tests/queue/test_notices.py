"""Notices to senders: who is told what and when, and that each row leads to one notice, wherever the daemon ends."""

import email
import email.policy
import itertools
import os
import shutil

import pytest
from msgspec.structs import replace

from smtpd.envelope import Duty, Kind, MailParameters, Notify, Outcome, Recipient, message_of
from smtpd.imsg import (
    AddEnvelopes,
    Begin,
    EnvelopeExpanded,
    EnvelopeNotExpanded,
    EnvelopeReplaced,
    EnvelopesSubmitted,
    EnvelopesTried,
    ExpandEnvelope,
    MessageStored,
    OpenSpoolFile,
    PostponeEnvelopes,
    SpoolFileOpened,
    StoreMessage,
)
from smtpd.ipc.channel import Violation
from smtpd.queue import notices, process
from smtpd.queue.delivery import conclude, notify
from smtpd.queue.delivery.notify import find_status, is_owed, of_expiry
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.notice_report import HEADER_MAX, WHOLE_MAX, header_of
from smtpd.queue.store.content_codec import Codec
from smtpd.queue.store.recipient_status import ReportAction
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import StoreBroken, StoreFull, StoreNotice
from tests.queue.conftest import CONTENT, ORIGIN, add, envelope, recipient, relayed

REFUSED = "550 5.1.1 No such user here"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(notices, "GATHER_TIME", 0.05)
    monkeypatch.setattr(notices, "RETRY_DELAY", 0.01)


@pytest.fixture
def house(make_house):
    made = make_house(server_name="mx.here.test")
    made.queue.begin()
    return made


def fail(house, *recipients, text=REFUSED, outcome=Outcome.FAILED, **more):
    """A new message whose recipients fail for good; its envelopes."""
    envelopes = house.store([*recipients] or [recipient()], **more)
    house.due(*envelopes)
    _, agent = house.start_agent()
    for _ in envelopes:
        house.answer(agent, house.receive(agent), outcome, text)
    failed = []
    while len(failed) < len(envelopes):
        failed += house.failed()
    return envelopes


def notice(house):
    """The next notice that the scheduler hears of: its row, and what it says."""
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    return row_of(house, schedule.envelope), read(house, schedule.envelope)


def row_of(house, envelope):
    (row,) = house.queue.disk.store.load([envelope])
    return row


def read(house, envelope):
    message = house.queue.disk.store.find_message(message_of(envelope))
    content = message.content
    if content is None:
        content = b"".join(house.spool.pieces(message))
    assert len(content) == message.size
    return email.message_from_bytes(content, policy=email.policy.default)


def groups(said):
    """The fields of message/delivery-status: of the message, and of each recipient."""
    (part,) = (part for part in said.walk() if part.get_content_type() == "message/delivery-status")
    return part.get_payload()


def quiet(house):
    house.until(lambda: house.queue.disk.idle and not len(house.queue.notices))


# -- who is owed what -----------------------------------------------------------------------------

F, D, S = Notify.FAILURE, Notify.DELAY, Notify.SUCCESS
WORDS = [Notify(0), Notify.NEVER, S, F, D, S | F, S | D, F | D, S | F | D]
OWED = {  # RFC 3461 5.2: of each action the values of NOTIFY that ask for it
    ReportAction.FAILED: {Notify(0), F, S | F, F | D, S | F | D},
    ReportAction.DELAYED: {Notify(0), D, S | D, F | D, S | F | D},
    ReportAction.DELIVERED: {S, S | F, S | D, S | F | D},
    ReportAction.RELAYED: {S, S | F, S | D, S | F | D},
    ReportAction.EXPANDED: {S, S | F, S | D, S | F | D},
}


@pytest.mark.parametrize("action, words", [*itertools.product(ReportAction, WORDS)], ids=str)
def test_a_sender_is_owed_what_notify_says_and_what_it_usually_means(action, words):
    one = envelope(1, recipient=recipient(notify=words))
    assert is_owed(one, action) is (words in OWED[action])
    assert not is_owed(replace(one, origin=replace(ORIGIN, sender="")), action)
    assert not is_owed(replace(one, is_notice=True), action)


@pytest.mark.parametrize(
    "action, enhanced, text, status",
    [
        (ReportAction.FAILED, "5.1.1", "550 5.2.2 full", "5.1.1"),
        (ReportAction.FAILED, "", "550 5.2.2 full", "5.2.2"),
        (ReportAction.FAILED, "", "550-5.2.2 full", "5.2.2"),
        (ReportAction.FAILED, "", "5.7.1 no", "5.7.1"),
        (ReportAction.FAILED, "4.2.2", "550 no", "5.0.0"),  # as a server must not say
        (ReportAction.FAILED, "5.01.1", "550 5.1.01 no", "5.0.0"),  # RFC 3463 2: no leading zeros
        (ReportAction.FAILED, "", "550 5.1.1.2 no", "5.0.0"),
        (ReportAction.FAILED, "", "see 5.1.1 of the book", "5.0.0"),
        (ReportAction.FAILED, "5.1.1\n", "550", "5.0.0"),
        (ReportAction.DELAYED, "", "451 4.3.2 later", "4.3.2"),
        (ReportAction.DELAYED, "", "later", "4.0.0"),
        (ReportAction.DELIVERED, "", "Delivered", "2.0.0"),
        (ReportAction.RELAYED, "2.1.5", "250 Ok", "2.1.5"),
    ],
)
def test_the_status_is_that_of_the_other_side_where_it_fits(action, enhanced, text, status):
    assert find_status(action, enhanced, text) == status


@pytest.mark.parametrize(
    "enhanced, text, status",
    [
        ("4.2.2", "452 full", "4.2.2"),
        ("", "452 4.2.1 full", "4.2.1"),
        ("", "no route", "4.4.7"),
        ("5.1.1", "", "4.4.7"),
    ],
)
def test_mail_whose_time_is_over_keeps_the_status_of_its_last_try(enhanced, text, status):
    """RFC 3464 2.3.3: failed, with a status of class 4."""
    assert of_expiry(enhanced, text) == status


def test_the_diagnostic_is_what_the_server_said_and_nothing_of_ours():
    said = AttemptResult(Outcome.DEFERRED, "451 4.3.0 later", 1_000_100, 451, "4.3.0", "mx.far.test")
    row = notify.status_row(envelope(1), ReportAction.FAILED, said, "Expired: 451 4.3.0 later", "4.3.0")
    assert (row.diagnostic, row.remote, row.reason) == ("451 4.3.0 later", "mx.far.test", "Expired: 451 4.3.0 later")
    ours = AttemptResult(Outcome.DEFERRED, "no route", 1_000_100)
    row = notify.status_row(envelope(1), ReportAction.FAILED, ours, "Expired: no route")
    assert (row.diagnostic, row.remote) == ("", "")


# -- a notice ---------------------------------------------------------------------------------------


def test_the_sender_is_told_who_has_not_got_it_and_why(house):
    to = recipient(notify=Notify.FAILURE, original="rfc822;Robert@here.test")
    (failed,) = fail(house, to, terms=MailParameters(envid="QQ314159"))
    row, said = notice(house)
    assert (row.origin.sender, row.origin.address, row.is_notice) == ("", "local", True)
    assert (row.recipient.destination, row.recipient.duty, row.recipient.notify) == (
        ORIGIN.sender,
        Duty.EXPAND,
        Notify.NEVER,
    )
    assert said.get_content_type() == "multipart/report" and said["To"] == ORIGIN.sender
    assert said["From"] == "Mail Delivery System <MAILER-DAEMON@mx.here.test>"
    about, of_bob = groups(said)
    assert (about["Reporting-MTA"], about["Original-Envelope-Id"]) == ("dns; mx.here.test", "QQ314159")
    assert (of_bob["Final-Recipient"], of_bob["Action"]) == ("rfc822; bob@here.test", "failed")
    assert (of_bob["Original-Recipient"], of_bob["Status"]) == ("rfc822; Robert@here.test", "5.1.1")
    assert of_bob["Remote-MTA"] is None and of_bob["Will-Retry-Until"] is None
    assert said.get_payload()[2].get_content_type() == "text/rfc822-headers"
    assert "Subject: hello" in said.get_payload()[2].as_string() and "Hello." not in said.as_string()
    quiet(house)
    store = house.queue.disk.store
    assert store.find_message(message_of(failed)) is None and store.owed(0, 10) == []
    assert house.queue.statistics["bounce.message"] == house.queue.statistics["bounce.envelope"] == 1


def test_recipients_that_fail_together_share_a_notice_and_others_are_not_in_it(house):
    """Two are refused, one is good, and one does not want its sender to be told."""
    users = [recipient("amy"), recipient("bob"), recipient("eve", notify=Notify.NEVER), recipient("joe")]
    envelopes = house.store_due(*users)
    for _ in users:
        asked, agent = house.start_agent(len(house.agents) + 1)
        outcome = Outcome.DELIVERED if asked.user == "joe" else Outcome.FAILED
        house.answer(agent, house.receive(agent), outcome, f"550 5.1.1 no {asked.user}")
    house.until(lambda: not house.queue.disk.store.load(envelopes))
    house.until(lambda: any(isinstance(imsg, EnvelopesSubmitted) for imsg, _ in house.mail["scheduler"]))
    while isinstance(house.mail["scheduler"][0][0], EnvelopesTried):
        house.mail["scheduler"].popleft()
    _, said = notice(house)
    _, *of_recipients = groups(said)
    assert [one["Final-Recipient"] for one in of_recipients] == ["rfc822; amy@here.test", "rfc822; bob@here.test"]
    assert [one["Action"] for one in of_recipients] == ["failed", "failed"]
    quiet(house)
    assert not house.mail["scheduler"]


def test_what_the_other_server_said_stands_in_its_fields(house):
    (one,) = house.store([relayed("bob@far.test", notify=Notify.FAILURE)])
    house.queue.in_flight.add(one)
    result = AttemptResult(Outcome.FAILED, "550-5.7.1 first\n550 5.7.1 (second", 1_000_100, 550, "5.7.1", "mx.far.test")
    conclusion = conclude.of_attempt(row_of(house, one), result, 0, perhaps_delivered=False)
    house.queue.conclusions.conclude(one, conclusion)
    assert house.failed() == [one]
    _, said = notice(house)
    _, of_bob = groups(said)
    assert of_bob["Remote-MTA"] == "dns; mx.far.test" and of_bob["Status"] == "5.7.1"
    assert of_bob["Diagnostic-Code"].startswith("smtp; 550-5.7.1 first")


@pytest.mark.parametrize(
    "ret, size, is_whole",
    [("", 1000, False), ("HDRS", 1000, False), ("FULL", 1000, True), ("FULL", WHOLE_MAX + 1, False)],
)
def test_the_message_comes_back_whole_where_that_is_wanted_and_it_is_small(house, ret, size, is_whole):
    content = CONTENT + b"x" * 70 + b"\n"
    content += b"y" * 79 + b"\n"
    content *= 1 + (size - 1) // len(content)
    content = CONTENT + content[len(CONTENT) : size]
    assert len(content) == size
    if size > 16_000:
        failed = spooled_failure(house, content, MailParameters(ret=ret))
    else:
        (failed,) = fail(house, content=content, terms=MailParameters(ret=ret))
    assert failed
    _, said = notice(house)
    returned = said.get_payload()[2]
    assert returned.get_content_type() == ("message/rfc822" if is_whole else "text/rfc822-headers")
    assert ("Hello." in returned.as_string()) is is_whole


def spooled_failure(house, content, terms):
    """Of a message in a spool file."""
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    _, descriptor = house.hear("dispatcher0", SpoolFileOpened)
    os.write(descriptor, content)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], terms))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(content)))
    house.hear("dispatcher0", MessageStored)
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    house.due(schedule.envelope)
    _, agent = house.start_agent()
    errand, descriptor = house.receive(agent)
    os.close(descriptor)
    house.answer(agent, errand, Outcome.FAILED, REFUSED)
    assert house.failed() == [schedule.envelope]
    return schedule.envelope


@pytest.mark.parametrize("compressed", [False, True])
def test_a_large_notice_is_in_a_spool_file_and_the_file_of_the_message_goes(make_house, tmp_path, compressed):
    codec = Codec(compresses=compressed)
    store = SQLiteStore(str(tmp_path), codec)
    house = make_house(store, server_name="mx.here.test", codec=codec)
    house.queue.begin()
    content = CONTENT + b"z" * 70 * 1 + b"\n" + (b"y" * 79 + b"\n") * 300
    before = spooled_failure(house, content, MailParameters(ret="FULL"))
    row, said = notice(house)
    assert house.queue.disk.store.find_message(message_of(row.id)).content is None
    assert said.get_payload()[2].get_content_type() == "message/rfc822"
    quiet(house)
    assert [name[:8] for name in os.listdir(house.spool.path)] == [f"{message_of(row.id):08x}"]
    assert message_of(before) != message_of(row.id)


def test_a_message_whose_content_is_damaged_has_a_notice_without_it(house):
    (one,) = house.store()
    house.queue.disk.store._writer.execute("UPDATE message SET content = x'00'")
    house.due(one)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.FAILED, REFUSED)
    assert house.failed() == [one]
    _, said = notice(house)
    assert groups(said)[1]["Status"] == "5.1.1" and not said.get_payload()[2].get_payload().strip()


@pytest.mark.parametrize(
    "content, header",
    [
        (b"A: b\nC: d\n\nbody\n", b"A: b\nC: d\n"),
        (b"A: b\nC: d\n", b"A: b\nC: d\n"),
        (b"\nbody", b""),
        (b"A: b\nC: cut her", b"A: b\n"),
        (b"all in one line", b""),
        (b"", b""),
    ],
)
def test_the_header_is_returned_in_whole_lines(content, header):
    assert header_of(content) == header


def test_of_a_huge_header_a_part_is_returned(house):
    content = (b"X-Line: " + b"x" * 91 + b"\n") * 160 + b"\nbody\n"
    assert len(content) < HEADER_MAX
    fail(house, content=content)
    _, said = notice(house)
    assert len(said.as_bytes()) < HEADER_MAX + 4096


def test_a_notice_about_mail_that_requires_tls_requires_it_too_and_returns_no_body(house):
    """RFC 8689 5"""
    fail(house, terms=MailParameters(require_tls=True, ret="FULL"))
    row, said = notice(house)
    assert row.terms.require_tls and "Hello." not in said.as_string()


# -- never ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [Notify.NEVER, Notify.SUCCESS, Notify.DELAY, Notify.SUCCESS | Notify.DELAY])
def test_a_failure_that_nobody_wants_to_know_is_a_line_in_the_log(house, words, capfd):
    (one,) = fail(house, recipient(notify=words))
    quiet(house)
    assert house.queue.disk.store.owed(0, 10) == [] and house.queue.disk.store.find_message(message_of(one)) is None
    assert not house.mail["scheduler"] and "result=PermFail" in capfd.readouterr().err


def test_the_null_sender_is_never_told(house):
    message = house.reserve()[0]
    house.say("lookup", AddEnvelopes(message, replace(ORIGIN, sender=""), [recipient()], MailParameters()))
    house.say("dispatcher0", StoreMessage(7, message, 1, CONTENT, len(CONTENT)))
    house.hear("dispatcher0", MessageStored)
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    house.due(schedule.envelope)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.FAILED, REFUSED)
    assert house.failed() == [schedule.envelope]
    quiet(house)
    assert not house.mail["scheduler"] and house.queue.disk.store.find_message(message) is None


# -- the way of a notice ----------------------------------------------------------------------------


def expanding(house):
    """A notice that is due, and what lookup is asked."""
    fail(house)
    row, _ = notice(house)
    house.due(row.id)
    return row, house.hear("lookup", ExpandEnvelope)


def test_a_notice_is_expanded_as_mail_of_this_host_and_others_take_its_place(house):
    row, asked = expanding(house)
    assert (asked.origin, asked.recipient) == (row.origin, row.recipient)
    local = Recipient(ORIGIN.sender, "amy@here.test", "local", Kind.MDA, "amy", "", notify=Notify.NEVER)
    far = Recipient(ORIGIN.sender, ORIGIN.sender, "out", Kind.MTA, "", "", notify=Notify.NEVER)
    house.say("lookup", EnvelopeExpanded(asked.request, [local, far]))
    replaced = house.hear("scheduler", EnvelopeReplaced)
    assert replaced.envelope == row.id and len(replaced.schedules) == 2
    rows = house.queue.disk.store.load([schedule.envelope for schedule in replaced.schedules])
    assert [(one.recipient, one.is_notice) for one in rows] == [(local, True), (far, True)]
    assert house.queue.disk.store.load([row.id]) == []


@pytest.mark.parametrize("permanent", [True, False])
def test_a_notice_that_no_rule_takes_is_held_and_one_that_cannot_be_expanded_now_is_tried_again(
    house, permanent, capfd
):
    row, asked = expanding(house)
    house.say("lookup", EnvelopeNotExpanded(asked.request, permanent, "550 5.7.1 Invalid recipient"))
    assert house.tried() == (([], [], [row.id]) if permanent else ([], [row.id], []))
    if permanent:
        held = row_of(house, row.id)
        assert held.held and held.error == "550 5.7.1 Invalid recipient"
        assert house.queue.statistics["bounce.failed"] == 1
        assert "a notice that cannot be delivered is held" in capfd.readouterr().err
        quiet(house)
        assert not house.mail["scheduler"] and house.queue.disk.store.owed(0, 10) == []
        return
    house.say("scheduler", PostponeEnvelopes([(row.id, 5)]))
    house.until(lambda: row_of(house, row.id).retries == 1)
    house.due(row.id)
    assert house.hear("lookup", ExpandEnvelope).recipient == row.recipient


def test_a_notice_that_its_recipient_refuses_is_held_and_makes_no_other(house):
    row, asked = expanding(house)
    to = recipient("amy", notify=Notify.NEVER)
    house.say("lookup", EnvelopeExpanded(asked.request, [to]))
    (schedule,) = house.hear("scheduler", EnvelopeReplaced).schedules
    house.due(schedule.envelope)
    _, agent = house.start_agent(2)
    house.answer(agent, house.receive(agent), Outcome.FAILED, REFUSED)
    assert house.tried() == ([], [], [schedule.envelope])
    quiet(house)
    assert house.queue.disk.store.owed(0, 10) == [] and not house.mail["scheduler"]
    assert house.queue.statistics["bounce.failed"] == 1


@pytest.mark.parametrize("duty", [Duty.EXPAND, Duty.READ])
def test_lookup_cannot_have_a_notice_expanded_without_end(house, duty):
    _, asked = expanding(house)
    expanded = EnvelopeExpanded(asked.request, [recipient(duty=duty)])
    with pytest.raises(Violation, match="no delivery"):
        process.from_lookup(house.queue, house.near["lookup", 0], expanded, None)


def test_many_failures_are_few_notices_at_a_time(house, monkeypatch):
    """UNDER_WAY_MAX of them, however many wait; and those that did not fit wait in the database."""
    monkeypatch.setattr(notices, "WAITING_MAX", 5)
    monkeypatch.setattr(notices, "UNDER_WAY_MAX", 2)
    most, begin = [], house.queue.notices._read

    def read(message):
        most.append(len(house.queue.notices._under_way))
        assert len(house.queue.notices._waiting) <= 5
        begin(message)

    house.queue.notices._read = read
    store = house.queue.disk.store
    store.apply([add(number, run=0) for number in range(1, 21)])
    house.due(*(number << 32 | 1 for number in range(1, 21)))
    _, agent = house.start_agent()
    for _ in range(20):
        house.answer(agent, house.receive(agent), Outcome.FAILED, REFUSED)
    house.until(lambda: house.queue.statistics["bounce.message"] == 20)
    quiet(house)
    assert max(most) == 2 and store.owed(0, 100) == []


def test_more_recipients_than_a_notice_names_have_another_one(house, monkeypatch):
    monkeypatch.setattr(notices, "NOTICE_RECIPIENTS_MAX", 2)
    fail(house, *[recipient()] * 5)
    named = [len(groups(notice(house)[1])) - 1 for _ in range(3)]
    assert sorted(named) == [1, 2, 2]
    quiet(house)
    assert house.queue.disk.store.owed(0, 10) == []


# -- the disk, and the end of the daemon ------------------------------------------------------------


def test_a_notice_waits_for_room_on_the_disk_and_comes_once(house):
    store, apply, full = house.queue.disk.store, house.queue.disk.store.apply, [True]

    def picky(changes):
        if full[0] and any(isinstance(change, StoreNotice) for change in changes):
            raise StoreFull("no space left on device")
        return apply(changes)

    store.apply = picky
    fail(house)
    house.until(lambda: house.queue.disk.commits.waits_for_room)
    assert store.owed(0, 10)
    full[0] = False
    _, said = notice(house)
    assert groups(said)[1]["Action"] == "failed"
    quiet(house)
    assert store.owed(0, 10) == [] and not house.mail["scheduler"]


@pytest.mark.parametrize("happened", [True, False])
def test_a_disk_that_fails_with_a_notice_leaves_one(house, happened, capfd):
    store, apply, fails = house.queue.disk.store, house.queue.disk.store.apply, [True]

    def failing(changes):
        if fails[0] and any(isinstance(change, StoreNotice) for change in changes):
            fails[0] = False
            if happened:
                apply(changes)
            raise StoreBroken("input/output error")
        return apply(changes)

    store.apply = failing
    fail(house)
    row, _ = notice(house)
    quiet(house)
    assert [one.id for one in store.envelopes(0, 2**63 - 1, 10)] == [row.id]
    assert store.owed(0, 10) == [] and not house.mail["scheduler"]


def test_what_cannot_be_read_now_is_told_later(house, monkeypatch):
    store = house.queue.disk.store
    real, failures = store.statuses, [StoreBroken("input/output error")]

    def statuses(message, limit):
        if failures:
            raise failures.pop()
        return real(message, limit)

    monkeypatch.setattr(store, "statuses", statuses)
    fail(house)
    _, said = notice(house)
    assert groups(said)[1]["Action"] == "failed"


def test_a_notice_that_our_own_code_cannot_make_costs_no_other(house, monkeypatch, capfd):
    real = notices.compose_notice

    def explosive(host, rows, *more):
        if "eve" in rows[0].recipient:
            raise KeyError("a mistake of ours")
        return real(host, rows, *more)

    monkeypatch.setattr(notices, "compose_notice", explosive)
    (bad,) = fail(house, recipient("eve"))
    quiet(house)
    assert "a mistake of ours" in capfd.readouterr().err
    assert house.queue.disk.store.owed(0, 10) == [message_of(bad)]  # for the next start
    house.store_due(recipient("bob"))
    _, agent = house.start_agent(2)
    house.answer(agent, house.receive(agent), Outcome.FAILED, REFUSED)
    assert house.failed()
    _, said = notice(house)
    assert groups(said)[1]["Final-Recipient"] == "rfc822; bob@here.test"


def test_what_was_owed_when_the_daemon_ended_is_told_at_the_next_start(make_house, monkeypatch, tmp_path):
    monkeypatch.setattr(notices, "GATHER_TIME", 1000.0)
    first = make_house(server_name="mx.here.test")
    first.queue.begin()
    fail(first)
    shutil.copytree(tmp_path, tmp_path / "again")
    second = make_house(SQLiteStore(str(tmp_path / "again")), tmp_path / "again", server_name="mx.here.test")
    assert not second.mail["scheduler"]
    second.say("parent", Begin())
    row, said = notice(second)
    assert groups(said)[1]["Status"] == "5.1.1" and row.is_notice
    quiet(second)
    assert second.queue.disk.store.owed(0, 10) == []


def test_no_notice_begins_when_the_daemon_stops(house):
    house.queue.notices.stop()
    (one,) = fail(house)
    quiet(house)
    assert house.queue.disk.store.owed(0, 10) == [message_of(one)] and not house.mail["scheduler"]
