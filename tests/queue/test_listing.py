"""What the scheduler and smtpctl read of the queue: pages, and never more than a page."""

import errno
import fcntl
import os
from itertools import pairwise

import msgspec
import pytest
from msgspec.structs import replace

from smtpd.envelope import Outcome, first_envelope, last_envelope
from smtpd.imsg import (
    AddEnvelopes,
    ContentNotOpened,
    ContentOpened,
    DeleteEnvelopes,
    EnvelopesListed,
    EnvelopesScanned,
    EnvelopesSelected,
    EnvelopesSubmitted,
    ListEnvelopes,
    ListQuarantine,
    MessageStored,
    OpenContent,
    PostponeEnvelopes,
    QuarantineListed,
    ReportStatistics,
    ScanEnvelopes,
    SelectEnvelopes,
    SetVerbose,
    StatisticsReported,
    StoreMessage,
)
from smtpd.ipc.log import log
from smtpd.queue import scan
from smtpd.queue.listing import REASON_MAX
from smtpd.queue.store.store import PAGE, Quarantine, StoreBroken
from smtpd.selection import Selection
from tests.queue.conftest import CONTENT, ORIGIN, TERMS, add, command, envelope, recipient, relayed
from tests.queue.fault import Faulty, broken, times
from tests.queue.ram_store import RAMStore
from tests.queue.test_incoming import LARGE, spool

ALL = 1 << 32, last_envelope(2**31 - 1)


def pages(house, first=ALL[0], last=ALL[1]):
    found = []
    while first:
        house.say("control", ListEnvelopes(4, first, last))
        answer = house.hear("control", EnvelopesListed)
        assert answer.request == 4
        assert len(msgspec.msgpack.encode(answer)) < 1024 * 1024
        found.append(answer.rows)
        first = answer.next
    return found


# -- show queue -------------------------------------------------------------------------


def test_an_entry_has_all_that_a_line_of_show_queue_needs(house):
    (id,) = house.store(terms=replace(TERMS, utf8=True))
    ((entry,),) = pages(house)
    (row,) = house.queue.disk.store.load([id])
    assert entry.schedule == row.schedule()
    assert entry.terms == row.terms and entry.terms.utf8
    assert (entry.origin, entry.recipient) == (ORIGIN, recipient())
    assert (entry.size, entry.inflight, entry.error, entry.last_try) == (len(CONTENT), False, "", 0)


def test_selected_envelopes_are_listed_and_their_ids_told(house):
    (first,), _, (third,) = (house.store([recipient(user)]) for user in ("bob", "mia", "bob"))
    meant = Selection(recipients=["bob@here.test"])
    house.say("control", ListEnvelopes(4, *ALL, meant))
    assert [row.schedule.envelope for row in house.hear("control", EnvelopesListed).rows] == sorted([first, third])
    house.say("control", SelectEnvelopes(5, ALL[0], meant))
    assert house.hear("control", EnvelopesSelected) == EnvelopesSelected(5, sorted([first, third]), 0)


def test_a_queue_that_cannot_be_read_selects_none_and_says_so(make_house):
    store = Faulty(RAMStore())
    house = make_house(store)
    store.faults["select"] = broken
    house.say("control", SelectEnvelopes(5, ALL[0], Selection()))
    answer = house.hear("control", EnvelopesSelected)
    assert answer.envelopes == [] and answer.next == 0 and answer.trouble.startswith("the queue cannot be read: ")


def test_what_is_being_tried_is_inflight(house):
    (id,) = house.store()
    house.due(id)
    house.start_agent()
    ((entry,),) = pages(house)
    assert entry.inflight


def test_pages_of_many_rows_follow_each_other(make_house):
    store = RAMStore()
    store.apply([add(n, envelopes=100) for n in range(1, 26)])
    found = pages(make_house(store))
    assert [len(page) for page in found] == [1000, 1000, 500]
    ids = [entry.schedule.envelope for page in found for entry in page]
    assert all(one < other for one, other in pairwise(ids))
    assert len(ids) == 2500


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, PAGE + 2])
def test_no_row_is_left_out_between_two_pages_whose_ids_follow_each_other(make_house, count):
    store = RAMStore()
    store.apply([add(1, envelopes=count)])
    found = [entry.schedule.envelope for page in pages(make_house(store)) for entry in page]
    assert found == [1 << 32 | number for number in range(1, count + 1)]


def test_a_page_of_large_rows_ends_before_its_limit(make_house):
    store = RAMStore()
    long = "ü" * 1000
    rows = [
        replace(envelope(n, error=long), recipient=replace(recipient(), recipient=long, destination=long))
        for n in range(1, 601)
    ]
    store.apply([replace(add(n), envelopes=[row]) for n, row in enumerate(rows, 1)])
    found = pages(make_house(store))
    assert len(found) > 1
    assert [entry.schedule.envelope for page in found for entry in page] == [row.id for row in rows]


def test_one_message_is_listed_alone(make_house):
    store = RAMStore()
    store.apply([add(n, envelopes=3) for n in (1, 2, 3)])
    (page,) = pages(make_house(store), first_envelope(2), last_envelope(2))
    assert [entry.schedule.envelope >> 32 for entry in page] == [2, 2, 2]


def test_exactly_one_page_has_no_next(make_house):
    store = RAMStore()
    store.apply([add(1, envelopes=PAGE)])
    house = make_house(store)
    assert [len(page) for page in pages(house, *ALL)][0] == PAGE
    assert [len(page) for page in pages(house, 1 << 32 | 1, 1 << 32 | PAGE)] == [PAGE]


def test_an_empty_queue_is_one_empty_page(house):
    assert pages(house) == [[]]


def test_a_row_that_makes_no_sense_is_not_listed(house):
    one, two = house.store([recipient("bob"), recipient("amy")])
    house.queue.disk.store._writer.execute("UPDATE envelope SET kind = 77 WHERE id = ?", (one,))
    ((entry,),) = pages(house)
    assert entry.schedule.envelope == two


def test_a_message_whose_size_makes_no_sense_ends_neither_us_nor_control(house):
    """Control would call it a breach of the rules."""
    (one,) = house.store()
    house.queue.disk.store._writer.execute("UPDATE message SET size = -1")
    ((entry,),) = pages(house)
    assert (entry.schedule.envelope, entry.size) == (one, 0)


def test_a_row_that_makes_our_code_raise_is_left_out(house, monkeypatch, capfd):
    one, two = house.store([recipient("bob"), recipient("amy")])
    entry_of = house.queue.listing._entry

    def raising(row, sizes):
        if row.id == one:
            raise KeyError("a mistake of ours")
        return entry_of(row, sizes)

    monkeypatch.setattr(house.queue.listing, "_entry", raising)
    ((entry,),) = pages(house)
    assert entry.schedule.envelope == two
    assert f"envelope {one:016x}: KeyError" in capfd.readouterr().err


def test_a_quarantine_that_makes_no_sense_says_so(house):
    house.queue.disk.store._writer.execute("INSERT INTO quarantine (envelope, at, reason) VALUES (1, 2, NULL)")
    house.say("control", ListQuarantine(5))
    answer = house.hear("control", QuarantineListed)
    assert answer.rows == [] and "cannot be read" in answer.trouble


def test_what_is_said_of_the_quarantine_is_as_long_as_an_imsg_carries(make_house):
    store = Faulty(RAMStore())
    store.real._quarantine.append((1, 2, "odd" * 1000))
    house = make_house(store)
    house.say("control", ListQuarantine(5))
    assert house.hear("control", QuarantineListed) == QuarantineListed(5, [(1, 2, ("odd" * 1000)[:REASON_MAX])], "")

    def fail(*_arguments):
        raise StoreBroken("x" * 5000)

    store.faults["quarantine"] = fail
    house.say("control", ListQuarantine(6))
    assert len(house.hear("control", QuarantineListed).trouble) == 512


def test_a_size_that_makes_no_sense_keeps_no_envelope_from_being_listed(make_house, monkeypatch):
    store = RAMStore()
    store.apply([add(1), add(2)])
    monkeypatch.setattr(store, "sizes", lambda messages: {1: "large", 2: len(CONTENT)})
    assert [entry.size for entry in pages(make_house(store))[0]] == [0, len(CONTENT)]


def test_a_store_that_cannot_be_read_says_so(make_house):
    store = Faulty(RAMStore())
    store.faults = {"envelopes": broken, "quarantine": broken, "find_message": broken}
    house = make_house(store)
    house.say("control", ListEnvelopes(4, *ALL))
    answer = house.hear("control", EnvelopesListed)
    assert (answer.rows, answer.next) == ([], 0) and "cannot be read" in answer.trouble
    house.say("control", ListQuarantine(5))
    answer = house.hear("control", QuarantineListed)
    assert answer.rows == [] and "cannot be read" in answer.trouble
    house.say("control", OpenContent(6, 1))
    assert house.hear("control", ContentNotOpened).reason.startswith("message 00000001 cannot be read: ")


def test_the_quarantine_shows_what_when_and_why(house):
    (id,) = house.store()
    house.queue.disk.store.apply([Quarantine(id, 99, "odd")])
    house.say("control", ListQuarantine(5))
    answer = house.hear("control", QuarantineListed)
    assert (answer.request, answer.rows, answer.trouble) == (5, [(id, 99, "odd")], "")


def test_a_row_that_sqlite_quotes_in_the_reason_does_not_end_control(house):
    """What cannot be decoded stands in its message as it is."""
    (id,) = house.store()
    reason = "Could not decode to UTF-8 column 'sender' with text 'a\x01\n" + "x" * 2000
    house.queue.disk.store.apply([Quarantine(id, 99, reason)])
    house.say("control", ListQuarantine(5))
    ((_, _, told),) = house.hear("control", QuarantineListed).rows
    assert told.startswith("Could not decode to UTF-8 column 'sender' with text 'a\\001\\012xxx")


# -- show message ---------------------------------------------------------------------------


def read(answer):
    _, descriptor = answer
    with open(descriptor, "rb") as file:
        return file.read()


@pytest.mark.parametrize("content", [b"x", CONTENT, os.urandom(16 * 1024)])
def test_content_comes_by_descriptor(house, content):
    (id,) = house.store(content=content)
    for _ in range(2):
        house.queue.disk.cache.forget(id)
        house.say("control", OpenContent(6, id >> 32))
        answer = house.hear("control", ContentOpened)
        assert answer[0].request == 6
        assert read(answer) == content


def test_content_that_no_pipe_can_be_had_for_is_not_opened(house, monkeypatch):
    (id,) = house.store()

    def none(_flags):
        raise OSError(errno.ENFILE, "Too many open files in system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe2", none)
        house.say("control", OpenContent(6, id >> 32))
        assert house.hear("control", ContentNotOpened).reason.endswith("Too many open files in system")
    assert content_of(house, id) == CONTENT


def test_content_that_a_small_pipe_cannot_hold_is_not_cut_short(house, monkeypatch):
    """The user of very many pipes gets small ones."""
    (id,) = house.store(content=bytes(16 * 1024))
    pipe2 = os.pipe2

    def small(flags):
        ends = pipe2(flags)
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, 4096)
        return ends

    monkeypatch.setattr(os, "pipe2", small)
    before = len(os.listdir("/proc/self/fd"))
    house.say("control", OpenContent(6, id >> 32))
    assert house.hear("control", ContentNotOpened).reason.endswith("there is no room in a pipe")
    assert len(os.listdir("/proc/self/fd")) == before


def test_large_content_comes_by_a_descriptor_that_only_reads(house):
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    house.say("control", OpenContent(6, message))
    answer = house.hear("control", ContentOpened)
    with pytest.raises(OSError):
        os.write(answer[1], b"x")
    assert read(answer) == LARGE


def test_large_content_that_cannot_be_opened_says_so(house, tmp_path):
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    (tmp_path / "content" / f"{message:08x}").unlink()
    house.say("control", OpenContent(4, message))
    assert "cannot be read" in house.hear("control", ContentNotOpened).reason


def test_a_message_that_is_not_there_is_an_empty_pipe(house):
    house.say("control", OpenContent(6, 77))
    assert read(house.hear("control", ContentOpened)) == b""


def content_of(house, id):
    house.say("control", OpenContent(6, id >> 32))
    return read(house.hear("control", ContentOpened))


@pytest.mark.parametrize("end", ["delivered", "removed", "delivered after a retry"])
def test_the_content_of_mail_that_is_gone_is_not_shown(house, end):
    (id,) = house.store()
    if end == "removed":
        assert content_of(house, id) == CONTENT
        house.say("scheduler", DeleteEnvelopes([id]))
        house.until(lambda: house.queue.disk.idle and not house.queue.disk.store.load([id]))
    else:
        house.due(id)
        _, agent = house.start_agent()
        if end != "delivered":
            house.answer(agent, house.receive(agent), Outcome.DEFERRED, "no")
            house.tried()
            house.say("scheduler", PostponeEnvelopes([(id, 1)]))
            house.until(lambda: house.queue.disk.idle)
            assert content_of(house, id) == CONTENT
            house.due(id)
        house.deliver(agent)
        house.tried()
        house.until(lambda: house.queue.disk.idle)
    assert content_of(house, id) == b""
    assert len(house.queue.disk.cache) == 0


# -- the scan at the start --------------------------------------------------------------------


def scanned(house):
    """All that a scan submits, page by page as the scheduler asks."""
    found, after = [], 0
    while True:
        house.say("scheduler", ScanEnvelopes(after))
        while True:
            house.until(lambda: house.mail["scheduler"])
            imsg, _ = house.mail["scheduler"].popleft()
            if isinstance(imsg, EnvelopesScanned):
                break
            assert isinstance(imsg, EnvelopesSubmitted)
            found += imsg.schedules
        if not imsg.last:
            return found
        assert imsg.last > after
        after = imsg.last


def test_a_scan_submits_what_was_there_and_not_what_is_new(make_house):
    store = RAMStore()
    store.run = 2
    store.apply([add(n, run=1) for n in range(1, 2501)])
    house = make_house(store)
    house.queue.incoming._reservations._next = 5000
    house.store()
    assert [schedule.envelope >> 32 for schedule in scanned(house)] == [*range(1, 2501)]


def test_a_page_is_submitted_before_it_is_said_to_be_scanned(make_house):
    store = RAMStore()
    store.run = 2
    store.apply([add(1, run=1)])
    house = make_house(store)
    house.say("scheduler", ScanEnvelopes(0))
    house.hear("scheduler", EnvelopesSubmitted)
    assert house.hear("scheduler", EnvelopesScanned).last == 1 << 32 | 1


def test_an_empty_spool_is_scanned_at_once(house):
    assert scanned(house) == []


def test_a_row_that_makes_no_sense_is_set_aside_and_the_scan_goes_on(house):
    house.queue.disk.store.apply([add(n, run=0) for n in (1, 2, 3)])
    house.queue.disk.store._writer.execute("UPDATE envelope SET kind = 77 WHERE id = ?", (2 << 32 | 1,))
    assert [schedule.envelope >> 32 for schedule in scanned(house)] == [1, 3]
    house.until(lambda: house.queue.disk.store.quarantine(5))
    assert scanned(house)[1].envelope >> 32 == 3


def test_a_page_may_end_with_a_row_that_makes_no_sense(house):
    house.queue.disk.store.apply([add(n, run=0) for n in (1, 2)])
    house.queue.disk.store._writer.execute("UPDATE envelope SET kind = 77 WHERE id = ?", (2 << 32 | 1,))
    assert [schedule.envelope >> 32 for schedule in scanned(house)] == [1]
    house.until(lambda: house.queue.disk.store.quarantine(5))


def test_the_lane_of_an_envelope_is_the_same_when_it_is_scanned(house):
    """Or relayed mail would go without regard for the limits and delays of its destination after a start."""
    recipients = [relayed("bob@far.test"), relayed("bob@far.test", "provider"), recipient("bob"), command("bob")]
    login = replace(ORIGIN, user="amy")
    house.queue.disk.store.apply([add(number, run=0, recipient=to) for number, to in enumerate(recipients, 1)])
    house.queue.disk.store.apply([add(5, run=0, recipient=recipients[0], origin=login)])
    found = [(schedule.lane, schedule.sender) for schedule in scanned(house)]
    numbers, lanes = house.queue.relays._numbers, house.queue.agents._routing
    sender, of_login = (numbers.lane("out", "", name)[1] for name in (ORIGIN.sender, "amy"))
    assert found == [
        (numbers.destination("out", "bob@far.test").number, sender),
        (numbers.destination("provider", "bob@far.test").number, sender),
        (lanes.lane_of(recipients[2]), 0),
        (lanes.lane_of(recipients[3]), 0),
        (numbers.destination("out", "bob@far.test").number, of_login),
    ]


def test_a_scan_that_fails_goes_on_later(make_house, monkeypatch):
    monkeypatch.setattr(scan, "RETRY_DELAY", 0.01)
    store = Faulty(RAMStore())
    store.apply([add(1, run=5)])
    store.faults["schedules"] = times(2, StoreBroken)
    assert len(scanned(make_house(store))) == 1


# -- numbers ------------------------------------------------------------------------------------


def test_statistics_have_the_keys_of_the_reference(house):
    one, two = house.store([recipient("bob"), recipient("amy")])
    house.due(one, two)
    _, agent = house.start_agent()
    house.receive(agent)
    house.say("control", ReportStatistics(8))
    answer = house.hear("control", StatisticsReported)
    assert answer.request == 8
    assert answer.counters == {
        "mda.envelope": 2,
        "mda.pending": 1,
        "mda.running": 1,
        "mda.user": 2,
        "queue.evpcache.load.hit": 2,
        "queue.evpcache.size": 1,
    }


def test_the_log_is_made_verbose(house):
    house.say("control", SetVerbose(True))
    house.until(lambda: log.verbose)
    house.say("control", SetVerbose(False))
    house.until(lambda: not log.verbose)
