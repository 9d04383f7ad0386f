"""Content that is compressed or encrypted on the disk, and as it came everywhere else."""

import os
import random
import sqlite3

import pytest

from smtpd.envelope import Outcome, RelayResult
from smtpd.errand import Deliver
from smtpd.imsg import (
    AddEnvelopes,
    ContentFetched,
    ContentFileFetched,
    ContentNotOpened,
    ContentOpened,
    DeleteEnvelopes,
    EnvelopesSubmitted,
    FetchContent,
    ForgetMessage,
    MessageRefused,
    MessageStored,
    OpenContent,
    OpenSpoolFile,
    RelayMessage,
    RelayTried,
    SpoolFileOpened,
    StoreMessage,
)
from smtpd.queue import content_feed
from smtpd.queue.store import decoded_content
from smtpd.queue.store.content_codec import Codec
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import ContentDamaged, StoreFull
from smtpd.tls.content_key import parse_keys
from tests.queue.conftest import CONTENT, ORIGIN, TERMS, recipient, relayed

KEYS = parse_keys(b"1" * 64)
CODECS = {
    "compressed": Codec(compresses=True),
    "encrypted": Codec(keys=KEYS),
    "both": Codec(compresses=True, keys=KEYS),
}
SECRET = b"The treasure lies under the third oak.\n"
LARGE = SECRET + b"A line of a mail that is long.\n" * 10_000 + random.Random(7).randbytes(50_000) + SECRET


@pytest.fixture(params=CODECS.values(), ids=CODECS.keys())
def codec(request):
    return request.param


@pytest.fixture
def make(make_house, tmp_path):
    def make(codec):
        return make_house(SQLiteStore(str(tmp_path), codec), dispatchers=1, codec=codec)

    return make


@pytest.fixture
def house(make, codec):
    return make(codec)


def begin(house):
    """A message, and the end of the pipe for its content."""
    message = house.reserve()[0]
    house.say("dispatcher0", OpenSpoolFile(3, message))
    return message, house.hear("dispatcher0", SpoolFileOpened)[1]


def write(house, descriptor, content):
    """As a dispatcher's thread does, which waits where the pipe is full."""
    os.set_blocking(descriptor, False)
    rest = memoryview(content)

    def written():
        nonlocal rest
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            return False
        return True

    house.until(written)


def store_large(house, *recipients, content=LARGE):
    message, descriptor = begin(house)
    write(house, descriptor, content)
    recipients = [*(recipients or [recipient()])]
    house.say("lookup", AddEnvelopes(message, ORIGIN, recipients, TERMS))
    house.say("dispatcher0", StoreMessage(7, message, len(recipients), b"", len(content)))
    house.hear("dispatcher0", MessageStored)
    os.close(descriptor)
    house.hear("scheduler", EnvelopesSubmitted)
    return [message << 32 | number for number in range(1, len(recipients) + 1)]


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "content").iterdir())


def on_the_disk(tmp_path):
    return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def read_at_once(descriptor):
    """As agents and dispatchers read."""
    content = os.pread(descriptor, len(LARGE) * 2, 0)
    os.close(descriptor)
    return content


def shown(house, message):
    house.say("control", OpenContent(6, message))
    _, descriptor = house.hear("control", ContentOpened)
    os.set_blocking(descriptor, False)
    content = bytearray()

    def ended():
        try:
            while piece := os.read(descriptor, 65536):
                content.extend(piece)
        except BlockingIOError:
            return False
        return True

    house.until(ended)
    os.close(descriptor)
    return bytes(content)


# -- what is stored and read ------------------------------------------------------------------------------------------


def test_small_mail_is_coded_in_the_database_and_delivered_as_it_came(house, codec, tmp_path):
    content = CONTENT + SECRET * 20
    (envelope,) = house.store(content=content)
    house.queue.disk.cache.forget(envelope)
    ((coding, size, stored),) = rows(tmp_path)
    assert coding == codec.coding and size == len(content) and stored != content
    assert not codec.has_keys or SECRET[:12] not in on_the_disk(tmp_path)
    assert shown(house, envelope >> 32) == content
    house.due(envelope)
    _, agent = house.start_agent()
    assert house.deliver(agent).content == content
    assert house.tried() == ([envelope], [], [])


def rows(tmp_path):
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        found = connection.execute("SELECT coding, size, content FROM message").fetchall()
    connection.close()
    return found


def test_a_large_mail_is_coded_in_its_file_and_comes_to_agents_as_it_came(house, codec, tmp_path):
    envelopes = store_large(house, recipient(), recipient())
    message = envelopes[0] >> 32
    assert files(tmp_path) == [f"{message:08x}.{codec.coding:x}"]
    assert not codec.has_keys or SECRET[:12] not in on_the_disk(tmp_path)
    assert shown(house, message) == LARGE
    house.due(*envelopes)
    _, agent = house.start_agent()
    for _ in range(2):
        errand, descriptor = house.receive(agent)
        assert isinstance(errand, Deliver) and errand.by_descriptor and errand.size == len(LARGE)
        assert read_at_once(descriptor) == LARGE
        house.answer(agent, errand)
    house.until(lambda: not files(tmp_path))
    assert house.queue.disk.memory.used == 0


def test_nothing_of_a_mail_that_is_still_coming_is_on_the_disk_in_the_clear(make, tmp_path):
    house = make(CODECS["encrypted"])
    message, descriptor = begin(house)
    write(house, descriptor, SECRET * 10_000)
    house.until(lambda: (tmp_path / "content" / files(tmp_path)[0]).stat().st_size > 200_000)
    assert SECRET[:12] not in on_the_disk(tmp_path)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", ForgetMessage(message, 1))
    house.until(lambda: not files(tmp_path))
    with pytest.raises(BrokenPipeError):
        os.write(descriptor, b"more")
    os.close(descriptor)


def test_a_dispatcher_gets_a_large_mail_when_it_asks(house):
    (envelope,) = store_large(house, relayed())
    house.due(envelope)
    imsg = house.hear("dispatcher0", RelayMessage)
    house.say("dispatcher0", FetchContent(5, imsg.attempt))
    _, descriptor = house.hear("dispatcher0", ContentFileFetched)
    assert os.pread(descriptor, len(LARGE) + 1, 0) == LARGE
    with pytest.raises(OSError):
        os.pwrite(descriptor, b"x", 0)
    house.say("dispatcher0", RelayTried(imsg.attempt, [RelayResult(envelope, Outcome.DELIVERED, "250 Ok", 250)]))
    house.until(lambda: not house.queue.relays)
    assert os.pread(descriptor, 10, 0) == b"" and house.queue.disk.memory.used == 0  # whoever keeps the descriptor
    os.close(descriptor)


def test_content_of_a_relayed_mail_stays_until_each_recipient_is_answered(house):
    """The dispatcher may send it to two hosts."""
    a, b = store_large(house, relayed(), relayed("amy@far.test"))
    house.due(a, b)
    imsg = house.hear("dispatcher0", RelayMessage)
    descriptors = []
    for request in (5, 6):
        house.say("dispatcher0", FetchContent(request, imsg.attempt))
        descriptors.append(house.hear("dispatcher0", ContentFileFetched)[1])
    house.say("dispatcher0", RelayTried(imsg.attempt, [RelayResult(a, Outcome.DELIVERED, "250 Ok", 250)]))
    house.until(lambda: len(house.queue.in_flight) == 1)
    assert all(os.pread(descriptor, len(LARGE) + 1, 0) == LARGE for descriptor in descriptors)
    house.say("dispatcher0", RelayTried(imsg.attempt, [RelayResult(b, Outcome.DELIVERED, "250 Ok", 250)]))
    house.until(lambda: not house.queue.relays)
    assert not any(os.pread(descriptor, 1, 0) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def test_small_mail_goes_to_a_dispatcher_as_it_came(house):
    (envelope,) = house.store_due(relayed(), content=SECRET * 9)
    house.queue.disk.cache.forget(envelope)
    imsg = house.hear("dispatcher0", RelayMessage)
    assert imsg.content == SECRET * 9 or house.say("dispatcher0", FetchContent(5, imsg.attempt)) is None
    if not imsg.content:
        assert house.hear("dispatcher0", ContentFetched).content == SECRET * 9


def test_the_words_may_come_and_go(make, make_house, tmp_path):
    """What is queued is read whatever the words are today."""
    envelopes = []
    no_more = Codec(keys=parse_keys(b"none\n" + b"1" * 64))
    for codec in (Codec(), CODECS["compressed"], CODECS["both"], CODECS["encrypted"], no_more):
        house = make(codec)
        envelopes += store_large(house) if codec.is_active else house.store(content=SECRET * 9)
        for envelope in envelopes:
            assert shown(house, envelope >> 32) in (LARGE, SECRET * 9)
    store = SQLiteStore(str(tmp_path))
    Spool(str(tmp_path)).remove_orphans(store, pytest.fail)
    store.close()


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 1, 100_000])
def test_a_length_that_was_not_announced_is_refused(house, tmp_path, more):
    message, descriptor = begin(house)
    write(house, descriptor, LARGE)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE) - more))
    assert house.hear("dispatcher0", MessageRefused).code == 451
    house.until(lambda: not files(tmp_path))
    os.close(descriptor)


def test_a_dispatcher_that_closes_the_pipe_early_has_written_all_of_it(house):
    message, descriptor = begin(house)
    write(house, descriptor, LARGE)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.until(lambda: house.queue.incoming._receiving[message].pipe._reading < 0)
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    assert shown(house, message) == LARGE


def test_a_dispatcher_that_writes_on_changes_nothing(house, tmp_path):
    message, descriptor = begin(house)
    write(house, descriptor, LARGE)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    with pytest.raises(BrokenPipeError):
        os.write(descriptor, b"more")
    os.close(descriptor)
    assert shown(house, message) == LARGE


def test_a_full_disk_ends_the_pipe(house, tmp_path, monkeypatch):
    """The dispatcher's thread hears it, and its client gets 452."""

    def full(_file, _content):
        raise StoreFull("No space left on device")

    monkeypatch.setattr("smtpd.queue.store.spool.CodedFile.write", full)
    message, descriptor = begin(house)
    with pytest.raises(BrokenPipeError):
        write(house, descriptor, LARGE * 3)
    os.close(descriptor)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    assert house.hear("dispatcher0", MessageRefused).code == 452
    house.until(lambda: not files(tmp_path))


def test_a_file_that_was_changed_holds_the_mail_and_is_not_shown(house, codec, tmp_path):
    (envelope,) = store_large(house)
    (name,) = files(tmp_path)
    stored = bytearray((tmp_path / "content" / name).read_bytes())
    stored[len(stored) // 2] ^= 1
    (tmp_path / "content" / name).write_bytes(stored)
    house.say("control", OpenContent(6, envelope >> 32))
    assert "changed" in house.hear("control", ContentNotOpened).reason
    house.due(envelope)
    house.start_agent()
    assert house.tried() == ([], [], [envelope])
    assert house.queue.disk.memory.used == 0


def test_a_row_that_was_changed_is_damage(house, tmp_path):
    (envelope,) = house.store(content=SECRET * 20)
    store = house.queue.disk.store
    store._writer.execute("UPDATE message SET content = substr(content, 2)")
    with pytest.raises(ContentDamaged):
        store.find_message(envelope >> 32)


def test_files_of_mail_that_was_not_accepted_go_at_the_next_start(make, codec, tmp_path):
    house = make(codec)
    (envelope,) = store_large(house)
    spool = Spool(str(tmp_path), codec)
    for message in (0x700, 0x701):
        spool.create_file(message).close()
    (tmp_path / "content" / f"{envelope >> 32:08x}.abc").touch()  # a coding that was not committed
    (tmp_path / "content" / "other").touch()
    said = []
    spool.remove_orphans(house.queue.disk.store, said.append)
    assert files(tmp_path) == [f"{envelope >> 32:08x}.{codec.coding:x}", "other"]
    assert said == ["removed 3 spool files of messages that were never accepted"]
    os.close(spool._directory)


def test_a_mail_removed_while_it_is_decoded_is_not_delivered(house):
    (envelope,) = store_large(house)
    house.due(envelope)
    house.say("scheduler", DeleteEnvelopes([envelope]))
    house.until(lambda: house.queue.disk.idle and not house.queue.disk.store.load([envelope]))
    if len(house.queue.in_flight):
        _, agent = house.start_agent()
        with pytest.raises(BlockingIOError):
            agent.recv(10)
    house.until(lambda: not house.queue.disk.memory.used)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_what_agents_have_at_a_time_is_bounded_and_the_rest_waits(house, monkeypatch):
    monkeypatch.setattr(house.queue.disk.memory, "_most", 2 * len(LARGE))
    monkeypatch.setattr(house.queue.disk.memory, "_share", 2 * len(LARGE))
    envelopes = store_large(house, *[recipient()] * 5)
    house.due(*envelopes)
    _, agent = house.start_agent()
    got = [house.receive(agent) for _ in range(2)]
    for left in reversed(range(len(envelopes))):
        assert house.queue.disk.memory.used <= 2 * len(LARGE)
        errand, descriptor = got.pop(0)
        assert read_at_once(descriptor) == LARGE
        house.answer(agent, errand)
        if left > 1:
            got.append(house.receive(agent))
    house.until(lambda: not house.queue.disk.memory.used)


def test_mail_that_finds_no_memory_in_time_is_deferred(house, monkeypatch):
    monkeypatch.setattr(decoded_content, "WAIT_MAX", 0.01)
    monkeypatch.setattr(house.queue.disk.memory, "_share", len(LARGE))
    first, second = store_large(house, recipient(), recipient())
    house.due(first, second)
    _, agent = house.start_agent()
    errand, descriptor = house.receive(agent)
    assert house.tried() == ([], [second], [])
    assert "too much large mail" in house.queue.conclusions._deferred[second].error
    house.answer(agent, errand)
    assert house.tried() == ([first], [], [])
    assert os.pread(descriptor, 1, 0) == b""
    os.close(descriptor)


def test_content_that_is_shown_to_readers_who_do_not_read_has_few_places(house, monkeypatch):
    monkeypatch.setattr(content_feed, "FEEDS_MAX", 2)
    (envelope,) = store_large(house)
    descriptors = []
    for _ in range(2):
        house.say("control", OpenContent(6, envelope >> 32))
        descriptors.append(house.hear("control", ContentOpened)[1])
    house.say("control", OpenContent(6, envelope >> 32))
    assert "too many" in house.hear("control", ContentNotOpened).reason
    for descriptor in descriptors:
        os.close(descriptor)
    house.until(lambda: house.queue.listing._feeds.has_room)
    assert shown(house, envelope >> 32) == LARGE
