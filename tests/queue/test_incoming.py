"""Messages on their way in: what is answered when, and what ends the process."""

import errno
import os
import time

import pytest
from msgspec.structs import replace

from smtpd.envelope import INLINE_MAX, Duty
from smtpd.imsg import (
    AddEnvelopes,
    EnvelopesSubmitted,
    ForgetMessage,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    OpenSpoolFile,
    ReserveMessageIds,
    SpoolFileOpened,
    SpoolFileRefused,
    StoreMessage,
)
from smtpd.ipc.channel import Violation
from smtpd.queue import incoming, message_ids, process, state
from smtpd.queue.agents.routing import AgentRouting
from smtpd.queue.store.store import StoreBroken, StoreFull
from tests.queue.conftest import CONTENT, ORIGIN, TERMS, configuration, recipient
from tests.queue.fault import Faulty, broken, refuse, times
from tests.queue.ram_store import RAMStore

LARGE = os.urandom(100) * 5000


def rows(house):
    return list(house.queue.disk.store.envelopes(0, 2**63 - 1, 1000))


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "content").iterdir())


def spool(house, message, content=LARGE, name="dispatcher0"):
    """Write `content` to a spool file as a dispatcher does; the file's descriptor is closed."""
    house.say(name, OpenSpoolFile(3, message))
    answer, descriptor = house.hear(name, SpoolFileOpened)
    assert answer.request == 3
    os.write(descriptor, content)
    os.close(descriptor)


# -- the usual way ------------------------------------------------------------------


def test_a_stored_message_is_on_the_disk_before_it_is_answered(house):
    message = house.reserve()[0]
    house.submit(message, [recipient("bob"), recipient("amy")])
    assert house.hear("dispatcher0", MessageStored).request == 7
    stored = rows(house)
    assert [row.id for row in stored] == [message << 32 | 1, message << 32 | 2]
    assert [row.recipient for row in stored] == [recipient("bob"), recipient("amy")]
    assert stored[0].origin == ORIGIN
    assert stored[0].expires == stored[0].created + 400_000
    assert house.queue.disk.store.find_message(message).content == CONTENT
    schedules = house.hear("scheduler", EnvelopesSubmitted).schedules
    roster = AgentRouting(configuration())
    assert schedules == [row.schedule(roster.lane_of(row.recipient)) for row in stored]


def test_the_scheduler_hears_of_the_envelopes_of_a_moment_together(house, monkeypatch):
    monkeypatch.setattr(state, "SUBMIT_DELAY", 3600.0)
    monkeypatch.setattr(state, "SUBMIT_FULL", 3)
    messages = house.reserve()
    for message in messages[:3]:
        house.submit(message)
        house.hear("dispatcher0", MessageStored)
    schedules = house.hear("scheduler", EnvelopesSubmitted).schedules
    assert [schedule.envelope for schedule in schedules] == [message << 32 | 1 for message in messages[:3]]
    monkeypatch.setattr(state, "SUBMIT_DELAY", 0.0)
    house.submit(messages[3])
    house.hear("dispatcher0", MessageStored)
    assert len(house.hear("scheduler", EnvelopesSubmitted).schedules) == 1


def test_a_message_with_a_release_is_first_tried_then(house):
    release = int(time.time()) + 3600
    house.submit(house.reserve()[0], terms=replace(TERMS, release=release))
    house.hear("dispatcher0", MessageStored)
    (schedule,) = house.hear("scheduler", EnvelopesSubmitted).schedules
    assert schedule.next_try == schedule.release == release
    assert [row.next_try for row in rows(house)] == [release]


def test_envelopes_may_come_after_the_message(house):
    message = house.reserve()[0]
    house.say("dispatcher0", StoreMessage(7, message, 3, CONTENT, len(CONTENT)))
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient("bob")], TERMS))
    house.until(lambda: len(house.queue.incoming) == 1)
    house.turn()
    assert not house.mail["dispatcher0"]
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient("amy"), recipient("eve")], TERMS))
    house.hear("dispatcher0", MessageStored)
    assert len(rows(house)) == 3
    assert len(house.queue.incoming) == 0


def test_a_large_message_lies_in_a_file_and_is_sealed(house, tmp_path):
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    row = house.queue.disk.store.find_message(message)
    assert (row.content, row.size) == (None, len(LARGE))
    assert (tmp_path / "content" / f"{message:08x}").read_bytes() == LARGE


def test_a_small_message_may_lie_in_a_file_too(house, tmp_path):
    message = house.reserve()[0]
    spool(house, message, b"small")
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", 5))
    house.hear("dispatcher0", MessageStored)
    assert files(tmp_path) == [f"{message:08x}"]


def test_two_dispatchers_have_ids_and_answers_of_their_own(house):
    one, other = house.reserve("dispatcher0")[0], house.reserve("dispatcher1")[0]
    assert one != other
    house.submit(other, name="dispatcher1", request=21)
    assert house.hear("dispatcher1", MessageStored).request == 21
    house.submit(one, name="dispatcher0", request=22)
    assert house.hear("dispatcher0", MessageStored).request == 22


def test_many_messages_of_one_turn_are_one_commit(make_house):
    store = Faulty(RAMStore())
    house = make_house(store)
    for number, message in enumerate(house.reserve()[:50]):
        house.submit(message, request=number)
    heard = {house.hear("dispatcher0", MessageStored).request for _ in range(50)}
    assert heard == {*range(50)}
    assert len(store.called("apply")) <= 3


def test_ids_that_the_store_has_are_not_handed_out(house):
    first = house.queue.incoming._reservations._next
    (envelope,) = house.store()
    assert envelope >> 32 == first
    house.queue.incoming._reservations._next = first
    ids = house.reserve()
    assert first not in ids
    assert min(ids) > first


# -- forgetting -----------------------------------------------------------------------


def test_a_forgotten_message_leaves_nothing(house, tmp_path):
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", ForgetMessage(message, 1))
    house.until(lambda: len(house.queue.incoming) == 0 and not files(tmp_path))
    assert rows(house) == []


def test_a_tombstone_takes_what_is_still_on_its_way(house):
    message = house.reserve()[0]
    house.say("dispatcher0", ForgetMessage(message, 2))
    house.until(lambda: len(house.queue.incoming) == 1)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.until(lambda: house.queue.incoming._receiving[message].recipients)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.until(lambda: len(house.queue.incoming) == 0)
    assert rows(house) == []


def test_a_message_forgotten_while_its_file_is_being_made_leaves_nothing(house, tmp_path):
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    house.say("dispatcher0", ForgetMessage(message, 0))
    _, descriptor = house.hear("dispatcher0", SpoolFileOpened)
    os.close(descriptor)
    house.until(lambda: len(house.queue.incoming) == 0 and not files(tmp_path))


# -- trouble with the disk --------------------------------------------------------------


def test_below_the_reserve_a_mail_is_refused_with_452(house):
    house.disk_is_full = True
    message, other = house.reserve()[:2]
    house.submit(message)
    refused = house.hear("dispatcher0", MessageRefused)
    assert (refused.request, refused.code, refused.enhanced) == (7, 452, "4.3.1")
    house.say("dispatcher0", OpenSpoolFile(3, other))
    refused = house.hear("dispatcher0", SpoolFileRefused)
    assert (refused.request, refused.code, refused.enhanced) == (3, 452, "4.3.1")
    house.say("dispatcher0", ForgetMessage(other, 0))
    house.until(lambda: len(house.queue.incoming) == 0)


@pytest.mark.parametrize("fault, code", [(StoreFull, 452), (StoreBroken, 451), (ValueError, 451)])
def test_a_commit_that_fails_is_a_4xx_for_its_mail_only(make_house, tmp_path, fault, code):
    store = Faulty(RAMStore())
    house = make_house(store)
    bad, good = house.reserve()[:2]
    store.faults["apply"] = refuse(fault, bad)
    house.submit(bad, request=1)
    refused = house.hear("dispatcher0", MessageRefused)
    assert (refused.request, refused.code) == (1, code)
    house.until(lambda: not house.queue.disk.commits.repairing)
    house.submit(good, request=2)
    assert house.hear("dispatcher0", MessageStored).request == 2
    assert [row.id >> 32 for row in rows(house)] == [good]


def test_a_commit_that_fails_leaves_no_spool_file(make_house, tmp_path):
    store = Faulty(RAMStore())
    store.faults["apply"] = refuse(StoreFull)
    house = make_house(store)
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageRefused)
    house.until(lambda: not files(tmp_path))


@pytest.mark.parametrize("large", [False, True])
def test_a_message_that_makes_our_code_raise_is_refused_alone(house, monkeypatch, tmp_path, capfd, large):
    def mistake(*_):
        raise KeyError("a mistake of ours")

    with monkeypatch.context() as patched:
        patched.setattr(incoming, "expiry", mistake)
        message = house.reserve()[0]
        if large:
            spool(house, message)
            house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
            house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
        else:
            house.submit(message)
        assert house.hear("dispatcher0", MessageRefused).code == 451
    assert "KeyError" in capfd.readouterr().err
    house.until(lambda: not files(tmp_path))
    house.store()


def test_a_spool_file_of_another_length_is_refused(house, tmp_path):
    message = house.reserve()[0]
    spool(house, message, LARGE[:-1])
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    assert house.hear("dispatcher0", MessageRefused).code == 451
    house.until(lambda: not files(tmp_path))
    assert rows(house) == []
    assert not house.queue.disk.commits.repairing  # it is no fault of the disk, of which a second one ends the daemon


def test_a_spool_file_that_cannot_be_synced_is_refused_and_the_store_is_mended(make_house):
    store = Faulty(RAMStore())
    house = make_house(store)
    house.spool.faults["seal"] = broken
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    assert house.hear("dispatcher0", MessageRefused).code == 451
    house.until(lambda: store.called("repair") and not house.queue.disk.commits.repairing)


def test_a_spool_file_that_cannot_be_made_is_refused(house, tmp_path):
    (tmp_path / "content").rmdir()
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    assert house.hear("dispatcher0", SpoolFileRefused).code == 451


def test_ids_wait_for_a_store_that_cannot_be_read(make_house, monkeypatch):
    monkeypatch.setattr(message_ids, "RETRY_DELAY", 0.01)
    store = Faulty(RAMStore())
    store.faults["messages"] = times(2, StoreBroken)
    house = make_house(store)
    house.say("dispatcher0", ReserveMessageIds(5))
    answer = house.hear("dispatcher0", MessageIdsReserved)
    assert answer.request == 5 and answer.ids


# -- what none of ours would say ----------------------------------------------------------


def say(house, imsg, role="dispatcher", number=0):
    getattr(process, f"from_{role}")(house.queue, house.near[role, number], imsg, None)


@pytest.fixture
def mine(house):
    return house.reserve("dispatcher0")[0]


def store(message, envelopes=1, content=CONTENT, size=None):
    return StoreMessage(7, message, envelopes, content, len(content) if size is None else size)


def test_an_id_of_another_dispatcher_is_fatal(house, mine):
    for imsg in (store(mine), OpenSpoolFile(1, mine), ForgetMessage(mine, 0)):
        with pytest.raises(Violation):
            say(house, imsg, number=1)


def test_an_id_that_was_not_handed_out_is_fatal(house, mine):
    for imsg in (store(mine + 100_000), OpenSpoolFile(1, mine + 100_000), ForgetMessage(mine + 100_000, 0)):
        with pytest.raises(Violation):
            say(house, imsg)
    with pytest.raises(Violation):
        say(house, AddEnvelopes(mine + 100_000, ORIGIN, [recipient()], TERMS), "lookup")


def test_more_envelopes_than_announced_are_fatal(house, mine):
    say(house, AddEnvelopes(mine, ORIGIN, [recipient(), recipient()], TERMS), "lookup")
    with pytest.raises(Violation):
        say(house, store(mine, 1))


def test_more_envelopes_than_announced_are_fatal_also_afterwards(house, mine):
    say(house, store(mine, 2))
    with pytest.raises(Violation):
        say(house, AddEnvelopes(mine, ORIGIN, [recipient()] * 3, TERMS), "lookup")


def test_envelopes_of_a_message_that_is_stored_are_fatal(house):
    (envelope,) = house.store()
    with pytest.raises(Violation):
        say(house, AddEnvelopes(envelope >> 32, ORIGIN, [recipient()], TERMS), "lookup")


def test_a_second_end_is_fatal(house, mine):
    say(house, store(mine, 2))
    for imsg in (store(mine, 2), ForgetMessage(mine, 2), OpenSpoolFile(1, mine)):
        with pytest.raises(Violation):
            say(house, imsg)


def test_a_second_spool_file_is_fatal(house, mine):
    spool(house, mine)
    with pytest.raises(Violation):
        say(house, OpenSpoolFile(1, mine))


@pytest.mark.parametrize(
    "envelopes, content, size",
    [(0, CONTENT, None), (1, CONTENT, 5), (1, b"", 0), (1, b"", 5), (1, b"x" * (INLINE_MAX + 1), None)],
    ids=["no envelope", "another length", "nothing", "a file that is not there", "more than is sent in an imsg"],
)
def test_content_that_cannot_be_is_fatal(house, mine, envelopes, content, size):
    with pytest.raises(Violation):
        say(house, store(mine, envelopes, content, size))


def test_content_beside_a_spool_file_is_fatal(house, mine):
    spool(house, mine)
    with pytest.raises(Violation):
        say(house, store(mine))


def test_an_envelope_that_no_mail_can_have_is_fatal(house):
    message = house.reserve()[0]
    added = AddEnvelopes(message, ORIGIN, [recipient("bob", duty=Duty.READ)], TERMS)
    with pytest.raises(Violation):
        process.from_lookup(house.queue, house.near["lookup", 0], added, None)


def test_other_parameters_than_before_are_fatal(house, mine):
    """One MAIL has one set of them: which ones would the envelopes get?"""
    say(house, AddEnvelopes(mine, ORIGIN, [recipient()], TERMS), "lookup")
    say(house, AddEnvelopes(mine, ORIGIN, [recipient()], TERMS), "lookup")
    with pytest.raises(Violation):
        say(house, AddEnvelopes(mine, ORIGIN, [recipient()], replace(TERMS, envid="other")), "lookup")


def test_a_second_spool_file_is_fatal_while_the_first_is_being_made(house, mine):
    say(house, OpenSpoolFile(1, mine))
    with pytest.raises(Violation):
        say(house, OpenSpoolFile(2, mine))
    house.hear("dispatcher0", SpoolFileOpened)


def test_as_much_as_an_imsg_may_bring_is_stored_in_the_row(house, mine):
    house.submit(mine, content=b"x" * INLINE_MAX)
    house.hear("dispatcher0", MessageStored)
    assert house.queue.disk.store.find_message(mine).content == b"x" * INLINE_MAX


def test_no_spool_file_is_begun_while_the_store_is_repaired(house, mine, tmp_path):
    house.queue.disk.commits.repairing = True
    say(house, OpenSpoolFile(1, mine))
    assert house.hear("dispatcher0", SpoolFileRefused).code == 451
    house.queue.disk.commits.repairing = False
    assert files(tmp_path) == []


def test_nothing_is_sealed_or_committed_while_the_store_is_repaired(house, mine, tmp_path):
    spool(house, mine)
    house.queue.disk.commits.repairing = True
    say(house, AddEnvelopes(mine, ORIGIN, [recipient()], TERMS), "lookup")
    say(house, StoreMessage(7, mine, 1, b"", len(LARGE)))
    assert house.hear("dispatcher0", MessageRefused).code == 451
    assert not house.spool.called("seal")
    house.queue.disk.commits.repairing = False
    house.until(lambda: files(tmp_path) == [])


def test_a_spool_file_without_a_byte_is_fatal(house, mine):
    spool(house, mine, b"")
    with pytest.raises(Violation):
        say(house, StoreMessage(7, mine, 1, b"", 0))


@pytest.mark.parametrize(
    "number, code", [(errno.ENOSPC, 452), (errno.EDQUOT, 452), (errno.EIO, 451), (errno.EMFILE, 451)]
)
def test_a_spool_file_that_cannot_be_made_is_refused_for_what_it_is(house, mine, number, code):
    def fault(_message):
        raise OSError(number, os.strerror(number))

    house.spool.faults["create"] = fault
    say(house, OpenSpoolFile(1, mine))
    assert house.hear("dispatcher0", SpoolFileRefused).code == code


@pytest.mark.parametrize("end", [MessageStored, MessageRefused])
def test_no_descriptor_of_a_spool_file_stays(house, end):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for message in house.reserve()[:3]:
        spool(house, message)
        house.disk_is_full = end is MessageRefused
        house.pass_time(10)
        house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
        house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
        house.hear("dispatcher0", end)
        house.disk_is_full = False
        house.pass_time(10)
        house.until(lambda: len(house.queue.incoming) == 0)
        counts.append(descriptors())
    assert counts[1] == counts[2]
