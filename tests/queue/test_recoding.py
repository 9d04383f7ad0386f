"""Queued content that gets the key of today, in the background."""

import hashlib
import os

import pytest

from smtpd.envelope import Kind
from smtpd.imsg import (
    Begin,
    ContentNotFetched,
    EnvelopesDue,
    ExpireEnvelopes,
    FetchContent,
    RelayMessage,
)
from smtpd.ipc.log import log
from smtpd.queue import recoding
from smtpd.queue.store.content_codec import Codec
from smtpd.queue.store.decoded_content import ContentHolder
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import AS_IT_CAME, Add, Message, Remove, StoreFull, UnreadableRow
from smtpd.tls.content_key import parse_keys
from tests.queue.conftest import envelope, recipient
from tests.queue.fault import Faulty, times

ONE, OTHER = "1" * 64, "2" * 64
FIRST, SECOND = Codec(keys=parse_keys(ONE.encode())), Codec(keys=parse_keys(f"{OTHER}\n{ONE}".encode()))
ONLY_SECOND = Codec(keys=parse_keys(OTHER.encode()))
DECRYPT = Codec(keys=parse_keys(f"none\n{ONE}".encode()))
SMALL, LARGE = b"Small and secret.\n" * 20, b"Large and secret.\n" * 8000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(recoding, "START_DELAY", 0.0)
    monkeypatch.setattr(recoding, "PAUSE", 0.001)
    monkeypatch.setattr(recoding, "RETRY_DELAY", 0.01)


def fill(tmp_path, codec, count=40, large=3):
    """Mail of an earlier life of the daemon: its messages."""
    store, spool = SQLiteStore(str(tmp_path), codec), Spool(str(tmp_path), codec)
    for id in range(1, count + 1):
        rows = [envelope(id, run=store.run, recipient=recipient())]
        if id <= large:
            file = spool.create_file(id)
            file.write(LARGE)
            digest = file.seal()
            file.close()
            store.apply([Add(Message(id, len(LARGE), digest, None, codec.coding), rows)])
        else:
            store.apply([Add(Message(id, len(SMALL), hashlib.sha256(SMALL).digest(), SMALL), rows)])
    store.close()
    os.close(spool._directory)


@pytest.fixture
def start(make_house, tmp_path):
    def start(codec, store=None):
        house = make_house(store or SQLiteStore(str(tmp_path), codec), dispatchers=1, codec=codec)
        house.say("parent", Begin())
        return house

    return start


def content_of(house, id):
    found = house.queue.disk.store.find_message(id)
    return found.content if found.content is not None else b"".join(house.spool.real.pieces(found))


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "content").iterdir())


def until_coded(house, codec, count=40, large=3):
    coding = codec.coding

    def coded():
        rows = house.queue.disk.store.codings(0, 1000)
        return len(rows) == count and all(found == coding for _, found in rows) and house.queue.disk.idle

    house.until(coded)
    names = {f"{id:08x}" if coding == AS_IT_CAME else f"{id:08x}.{coding:x}" for id in range(1, large + 1)}
    house.until(lambda: set(os.listdir(house.spool.path)) == names)
    for id in range(1, count + 1):
        assert content_of(house, id) == (LARGE if id <= large else SMALL)


@pytest.mark.parametrize(
    "before, after",
    [(FIRST, SECOND), (Codec(), FIRST), (FIRST, DECRYPT)],
    ids=["another key", "a first key", "no key any more"],
)
def test_what_is_queued_gets_the_key_of_today(start, tmp_path, before, after, capfd):
    fill(tmp_path, before)
    house = start(after)
    until_coded(house, after)
    house.until(lambda: "all that there were" in _said(capfd))
    rows = [row[0] or b"" for row in house.queue.disk.store._writer.execute("SELECT content FROM message")]
    stored = [*rows, *(path.read_bytes() for path in (tmp_path / "content").iterdir())]
    assert len(stored) == 43 and any(b"and secret" in each for each in stored) == (not after.encrypts)


_heard = []


def _said(capfd):
    log.flush()
    _heard.append(capfd.readouterr().err)
    return "".join(_heard[-200:])


def test_nothing_is_looked_at_without_the_words(start, tmp_path):
    fill(tmp_path, Codec(), 3, 0)
    store = Faulty(SQLiteStore(str(tmp_path)))
    house = start(Codec(), store)
    house.store()
    assert not store.called("codings")


def test_messages_whose_key_is_missing_stay_as_they_are_and_are_counted(start, tmp_path, capfd):
    fill(tmp_path, FIRST, 5, 2)
    before = files(tmp_path)
    house = start(ONLY_SECOND)
    _heard.clear()
    house.until(lambda: f"key {FIRST.coding:016x} is not configured; messages that wait for it: 5" in _said(capfd))
    assert files(tmp_path) == before


def test_a_full_disk_only_puts_it_off(start, tmp_path):
    fill(tmp_path, FIRST, 6, 2)
    house = start(SECOND)
    house.disk_is_full = True
    house.spool.faults["recode"] = times(2, StoreFull)
    for _ in range(50):
        house.turn()
    house.disk_is_full = False
    house.now += 100  # the free space is looked at again
    until_coded(house, SECOND, 6, 2)


def test_a_message_that_goes_while_its_file_is_coded_leaves_none(start, tmp_path):
    fill(tmp_path, FIRST, 1, 1)
    house = start(SECOND)
    recode = house.spool.real.recode

    def slowly(message):
        digest = recode(message)
        house.queue.disk.store.apply([Remove(1 << 32 | 1)])
        return digest

    house.spool.real.recode = slowly
    house.until(lambda: not files(tmp_path))
    assert house.queue.disk.store.codings(0, 9) == []


def test_a_message_that_was_read_before_its_file_was_coded_is_opened_all_the_same(start, tmp_path):
    fill(tmp_path, FIRST, 1, 1)
    house = start(SECOND)
    old = house.queue.disk.store.find_message(1)
    house.until(lambda: house.queue.disk.store.find_message(1).coding == SECOND.coding and house.queue.disk.idle)
    house.until(lambda: len(files(tmp_path)) == 1)
    opened, holder = [], ContentHolder("bob")
    house.queue.disk.open_content(old, holder, lambda *result: opened.append(result))
    house.until(lambda: opened)
    ((descriptor, error),) = opened
    assert error is None and os.pread(descriptor, len(LARGE) + 1, 0) == LARGE
    os.close(descriptor)
    holder.release()


# -- mail whose key is missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [0, 1], ids=["small", "large"])
@pytest.mark.parametrize("kind", [Kind.MDA, Kind.MTA])
def test_mail_whose_key_is_missing_is_deferred_and_never_expires(start, tmp_path, large, kind):
    fill(tmp_path, FIRST, 1, large)
    id = 1 << 32 | 1
    house = start(ONLY_SECOND)
    if kind is Kind.MTA:
        house.queue.disk.store._writer.execute("UPDATE envelope SET kind = ?, action = 'out'", (int(kind),))
    house.say("scheduler", EnvelopesDue([id]))
    if kind is Kind.MDA:
        house.start_agent()
    elif large:
        imsg = house.hear("dispatcher0", RelayMessage)
        house.say("dispatcher0", FetchContent(5, imsg.attempt))
        house.hear("dispatcher0", ContentNotFetched)
    assert house.tried() == ([], [id], [])
    house.say("scheduler", ExpireEnvelopes([id]))
    house.until(lambda: house.queue.disk.store.load([id])[0].retries == 1)
    (row,) = house.queue.disk.store.load([id])
    assert not isinstance(row, UnreadableRow)
    assert not row.held and f"key {FIRST.coding:016x}, which is not configured" in row.error
