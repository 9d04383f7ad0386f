"""What has to be on the disk before what: the order of writes, commits and answers, for each way that an envelope goes.

A crash may come between any two of these steps.  Before the answer the mail is still the client's; after it, ours.
"""

import errno
import os

import pytest
from msgspec.structs import replace

from smtpd.envelope import Duty, Outcome
from smtpd.imsg import (
    AddEnvelopes,
    DeleteEnvelopes,
    EnvelopeExpanded,
    EnvelopeReplaced,
    EnvelopesEnded,
    EnvelopesScanned,
    EnvelopesSubmitted,
    ExpandEnvelope,
    ExpireEnvelopes,
    LockMailbox,
    MailboxLocked,
    MarkSuspended,
    MessageRefused,
    MessageStored,
    OpenSpoolFile,
    PostponeEnvelopes,
    ScanEnvelopes,
    SpoolFileOpened,
    SpoolFileRefused,
    StoreMessage,
    UnlockMailbox,
)
from smtpd.queue import notices
from smtpd.queue.store import sqlite
from smtpd.queue.store.spool import Spool, lock
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import StoreBroken
from tests.queue.conftest import ORIGIN, TERMS, add, command, recipient

LARGE = os.urandom(100) * 5000

STORED = "commit insert message, insert envelope"
REMOVED = "commit delete envelope, delete message"
CHANGED = "commit update envelope"
FAILED = "commit insert recipient_status, delete envelope"
SCHEDULER_TOLD = "queue tells scheduler: EnvelopesTried"


@pytest.fixture
def house(recorder, make_house):
    made = make_house()
    recorder.forget()
    return made


def spool(house, content=LARGE):
    """A message in a spool file, written and complete, but for the end; its number."""
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    _, descriptor = house.hear("dispatcher0", SpoolFileOpened)
    os.write(descriptor, content)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    return message


def end(house, message):
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))


def store_large(house):
    message = spool(house)
    end(house, message)
    house.hear("dispatcher0", MessageStored)
    house.hear("scheduler", EnvelopesSubmitted)
    return message, message << 32 | 1


def file_of(message):
    return f"content/{message:08x}"


# -- accepted ---------------------------------------------------------------------------


def test_a_small_mail_is_committed_before_any_process_is_told(house, recorder):
    house.store()
    recorder.in_order("begin", STORED, "queue tells dispatcher: MessageStored")
    recorder.in_order(STORED, "queue tells scheduler: EnvelopesSubmitted")


def test_what_a_forward_was_expanded_to_is_committed_with_the_mail(house, recorder):
    house.store([command(), recipient("amy")])
    recorder.in_order(f"{STORED}, insert expanded", "queue tells dispatcher: MessageStored")


def test_a_large_mail_is_durable_with_its_name_before_its_row_and_its_answer(house, recorder):
    message, _ = store_large(house)
    file = file_of(message)
    recorder.in_order(
        f"make {file}",
        f"write {file}",
        f"sync {file}",
        "sync content",
        STORED,
        "queue tells dispatcher: MessageStored",
    )
    recorder.in_order(STORED, "queue tells scheduler: EnvelopesSubmitted")


@pytest.mark.parametrize("what", ["sync content/*", "sync content"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_large_mail_that_cannot_be_made_durable_is_refused(house, recorder, what, number):
    message = spool(house)
    recorder.refuse(what, number)
    end(house, message)
    assert house.hear("dispatcher0", MessageRefused).code == (451 if number == errno.EIO else 452)
    house.until(lambda: recorder.happened(f"remove {file_of(message)}"))
    assert not recorder.happened("commit insert*")
    assert not recorder.happened("queue tells dispatcher: MessageStored")


def test_a_spool_file_is_begun_only_where_there_is_room(house, recorder):
    message = house.reserve()[0]
    house.disk_is_full = True
    house.say("dispatcher0", OpenSpoolFile(3, message))
    assert house.hear("dispatcher0", SpoolFileRefused).code == 452
    assert not recorder.happened("make content/*")


def test_room_for_a_spool_file_is_asked_for_again_at_its_end(house, recorder):
    """It grew since, and others with it."""
    message = spool(house)
    house.disk_is_full = True
    house.pass_time(10)
    end(house, message)
    assert house.hear("dispatcher0", MessageRefused).code == 452
    house.until(lambda: recorder.happened(f"remove {file_of(message)}"))
    assert not recorder.happened("sync*")


def test_room_is_asked_for_by_the_size_of_each_mail(house):
    house._statvfs = None
    left = 3 * len(LARGE)
    house.space._left, house.space._until = left, float("inf")
    message = spool(house)
    end(house, message)
    house.hear("dispatcher0", MessageStored)
    assert left - house.space._left >= len(LARGE)


# -- delivered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to",
    [recipient(), recipient(action="far"), recipient(action="run"), command()],
    ids=["maildir", "lmtp", "mda", "forward"],
)
def test_a_delivery_is_told_when_its_row_is_gone_for_good(house, recorder, to):
    house.store_due(to)
    _, agent = house.start_agent()
    errand = house.receive(agent)
    recorder.forget()
    house.answer(agent, errand)
    assert house.tried()[0]
    recorder.in_order("answer DELIVERED", "begin", f"{REMOVED}*", SCHEDULER_TOLD)


def test_a_mailbox_is_locked_before_the_mail_goes_to_its_agent_and_until_it_has_answered(house, recorder):
    house.store_due(recipient(action="box"))
    _, agent = house.start_agent()
    house.say("parent", MailboxLocked(house.hear("parent", LockMailbox).request, 5))
    house.deliver(agent)
    assert house.tried()[0]
    house.hear("parent", UnlockMailbox)
    recorder.in_order(
        "queue tells parent: LockMailbox",
        "parent tells queue: MailboxLocked",
        "errand Deliver",
        "answer DELIVERED",
        "queue tells parent: UnlockMailbox",
    )
    recorder.in_order("answer DELIVERED", REMOVED, SCHEDULER_TOLD)


def test_mail_for_dev_null_is_gone_from_the_disk_before_it_counts_as_delivered(house, recorder):
    house.store_due(recipient(duty=Duty.DISCARD))
    assert house.tried()[0]
    recorder.in_order(STORED, REMOVED, SCHEDULER_TOLD)


def test_a_spool_file_is_removed_only_after_its_row(house, recorder):
    """The other way round a crash would leave a row, and a client's 250, without the mail."""
    message, envelope = store_large(house)
    house.due(envelope)
    _, agent = house.start_agent()
    errand, descriptor = house.receive(agent)
    os.close(descriptor)
    house.answer(agent, errand)
    house.until(lambda: recorder.happened(f"remove {file_of(message)}"))
    recorder.in_order("answer DELIVERED", REMOVED, f"remove {file_of(message)}")


def test_a_spool_file_stays_as_long_as_one_envelope_does(house, recorder):
    message = spool(house)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient("amy")], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 2, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    for number in (1, 2):
        assert not recorder.happened("remove*")
        house.say("scheduler", DeleteEnvelopes([message << 32 | number]))
        house.until(lambda number=number: recorder.happened("commit delete*") == number)
    house.until(lambda: recorder.happened("remove*"))
    recorder.in_order("commit delete*", f"remove {file_of(message)}")


# -- not delivered ----------------------------------------------------------------------------


def test_a_deferral_is_told_at_once_and_the_new_time_written_when_it_is_known(house, recorder):
    (envelope,) = house.store_due(recipient())
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.DEFERRED, "later")
    assert house.tried() == ([], [envelope], [])
    assert not recorder.happened(CHANGED)
    house.say("scheduler", PostponeEnvelopes([(envelope, 2_000_000)]))
    house.until(lambda: recorder.happened(CHANGED))
    recorder.in_order("answer DEFERRED", SCHEDULER_TOLD, "scheduler tells queue: PostponeEnvelopes", CHANGED)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOOP])
def test_a_failure_is_told_when_what_the_sender_is_to_be_told_is_on_the_disk(house, recorder, outcome):
    (envelope,) = house.store_due(recipient())
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), outcome, "no such folder")
    assert house.failed() == [envelope]
    recorder.in_order(f"answer {outcome.name}", FAILED, SCHEDULER_TOLD)


def test_what_has_expired_is_told_when_what_the_sender_is_to_be_told_is_on_the_disk(house, recorder):
    (envelope,) = house.store()
    recorder.forget()
    house.say("scheduler", ExpireEnvelopes([envelope]))
    house.hear("scheduler", EnvelopesEnded)
    recorder.in_order("begin", FAILED, "queue tells scheduler: EnvelopesEnded")


def test_an_envelope_without_an_agent_is_told_as_held_when_it_is(house, recorder):
    house.store_due(recipient(action="gone"))
    assert house.tried()[2]
    recorder.in_order(CHANGED, SCHEDULER_TOLD)


def test_what_an_administrator_changes_is_one_transaction(house, recorder):
    (envelope,) = house.store()
    recorder.forget()
    house.say("scheduler", MarkSuspended([envelope], True))
    house.until(lambda: recorder.happened(CHANGED))
    recorder.in_order("begin", CHANGED)


def test_a_removed_mail_leaves_its_file_after_its_row(house, recorder):
    message, envelope = store_large(house)
    house.say("scheduler", DeleteEnvelopes([envelope]))
    house.until(lambda: recorder.happened(f"remove {file_of(message)}"))
    recorder.in_order("scheduler tells queue: DeleteEnvelopes", REMOVED, f"remove {file_of(message)}")


def test_what_replaces_an_envelope_is_there_in_the_commit_that_removes_it(house, recorder):
    house.store_due(command(text="old"))
    _, agent = house.start_agent()
    recorder.forget()
    house.answer(agent, house.receive(agent), Outcome.STALE)
    asked = house.hear("lookup", ExpandEnvelope)
    house.say("lookup", EnvelopeExpanded(asked.request, [command(text="new"), recipient()]))
    house.hear("scheduler", EnvelopeReplaced)
    replaced = "commit delete envelope, insert envelope, delete expanded, insert expanded"
    told = "queue tells scheduler: EnvelopeReplaced"
    recorder.in_order("queue tells lookup: ExpandEnvelope", "begin", replaced, told)


# -- across a start --------------------------------------------------------------------------


def test_the_first_try_of_another_run_is_counted_before_it_begins(recorder, tmp_path, make_house):
    """Or an envelope that brings us down would do so for ever."""
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, run=0)])
    house = make_house(store)
    recorder.forget()
    house.due(1 << 32 | 1)
    _, agent = house.start_agent()
    assert house.deliver(agent).perhaps_delivered
    assert house.tried()[0]
    recorder.in_order(CHANGED, "errand Deliver", "answer DELIVERED", REMOVED, SCHEDULER_TOLD)


def test_a_start_locks_the_spool_opens_counts_itself_and_then_removes_orphans(recorder, tmp_path):
    for descriptor in Spool(str(tmp_path)).create(1):
        os.close(descriptor)
    SQLiteStore(str(tmp_path)).close()
    recorder.forget()
    held = lock(str(tmp_path))
    store = SQLiteStore(str(tmp_path))
    Spool(str(tmp_path)).remove_orphans(store, lambda _text: None)
    recorder.in_order("lock lock", "open database", "remove content/00000001")
    recorder.in_order("lock lock", "begin", "commit update life", "remove content/00000001")
    store.close()
    os.close(held)


def test_a_start_makes_the_directory_of_the_spool_files_durable(recorder, tmp_path):
    os.close(Spool(str(tmp_path))._directory)
    recorder.in_order("make directory content", "sync .")
    recorder.forget()
    os.close(Spool(str(tmp_path))._directory)  # after a crash between the two
    recorder.in_order("make directory content fails", "sync .")


def test_what_a_scan_tells_is_told_before_the_end_of_its_page(recorder, tmp_path, make_house):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(number, run=0) for number in (1, 2, 3)])
    house = make_house(store)
    recorder.forget()
    house.say("scheduler", ScanEnvelopes(0))
    assert len(house.hear("scheduler", EnvelopesSubmitted).schedules) == 3
    assert house.hear("scheduler", EnvelopesScanned).last == 3 << 32 | 1
    recorder.in_order("queue tells scheduler: EnvelopesSubmitted", "queue tells scheduler: EnvelopesScanned")


# -- a failing disk -----------------------------------------------------------------------------


def test_a_repair_opens_anew_copies_the_log_and_checks_before_anything_is_written(recorder, tmp_path):
    """What a failed fsync left in the log may be in memory only: nothing may be appended to it."""
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1), add(2)])
    recorder.forget()
    store.repair([1])
    recorder.in_order(
        "close reader",
        "close database",
        "open database",
        "checkpoint TRUNCATE",
        "check",
        "commit delete envelope, delete message",
    )
    assert [row.id for row in store.envelopes(0, 2**63 - 1, 10)] == [2 << 32 | 1]
    assert (tmp_path / "queue.db-wal").stat().st_size < 64 * 1024
    store.close()


def test_a_mail_that_was_refused_while_the_disk_failed_is_taken_back_before_others_are_stored(house, recorder):
    one = spool(house)
    recorder.refuse("sync content/*")
    end(house, one)
    house.hear("dispatcher0", MessageRefused)
    house.until(lambda: not house.queue.disk.commits.repairing)
    recorder.in_order("queue tells dispatcher: MessageRefused", "close database", "checkpoint TRUNCATE", "check")
    store_large(house)
    recorder.in_order("check", STORED, "queue tells dispatcher: MessageStored")


def test_a_store_that_is_in_use_by_another_reader_is_not_called_repaired(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    store, other = SQLiteStore(str(tmp_path)), SQLiteStore(str(tmp_path))
    store.apply([add(1)])
    other._reader.execute("BEGIN")
    other._reader.execute("SELECT * FROM envelope").fetchone()
    with pytest.raises(StoreBroken, match="in use"):
        store.repair([])
    other.close()
    store.close()


# -- notices to senders -------------------------------------------------------------------------


NOTICE = "commit delete recipient_status, insert message, insert envelope, delete message"


@pytest.fixture
def told_at_once(house, monkeypatch):
    monkeypatch.setattr(notices, "GATHER_TIME", 0.01)
    house.queue.begin()
    return house


def test_a_notice_is_told_when_it_is_on_the_disk_and_what_it_tells_is_not_any_more(told_at_once, recorder):
    """A crash before NOTICE leaves the rows, a crash behind it the notice: never both, never none."""
    house = told_at_once
    envelopes = house.store([recipient()])
    recorder.forget()
    house.due(*envelopes)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.FAILED, "no such folder")
    house.failed()
    house.hear("scheduler", EnvelopesSubmitted)
    recorder.in_order("answer FAILED", FAILED, SCHEDULER_TOLD, NOTICE, "queue tells scheduler: EnvelopesSubmitted")


def test_a_large_notice_is_in_its_file_before_it_is_on_the_disk(told_at_once, recorder):
    house = told_at_once
    content = b"Subject: x\n\n" + (b"y" * 79 + b"\n") * 190
    envelopes = house.store([recipient()], content=content, terms=replace(TERMS, ret="FULL"))
    recorder.forget()
    house.due(*envelopes)
    _, agent = house.start_agent()
    house.answer(agent, house.receive(agent), Outcome.FAILED, "no such folder")
    house.failed()
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    assert house.queue.disk.store.find_message(schedule.envelope >> 32).content is None
    file = f"content/{schedule.envelope >> 32:08x}"
    recorder.in_order(
        FAILED, f"make {file}", f"sync {file}", "sync content", NOTICE, "queue tells scheduler: EnvelopesSubmitted"
    )
