"""Mail into a mailbox that was locked elsewhere: what is written, and under which lock."""

import fcntl
import mailbox
import os
import socket
import struct
import tempfile
from contextlib import ExitStack, contextmanager

import pytest
from msgspec.structs import replace

from mail_local import mbox
from mail_local.mailbox import STALE_LOCK_AGE, maybe_lock
from smtpd.agent.mailbox import LOCK_TIME, MailboxAgent, MailboxWriter
from smtpd.agent.worker import EX_PROTOCOL
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec, FrameError, ReadForward
from smtpd.parent.mailbox import LOCK_MAX
from tests.agent.conftest import MAIL, UID, Agent, errand, own

TRACE = b"Return-Path: <amy@there.test>\nDelivered-To: bob@here.test\n"


class Parent:
    """Makes, locks and passes the mailbox, as root does."""

    def __init__(self, directory, agent):
        self.path = directory / "bob"
        self.agent = agent
        self.lock = 0
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._stack = ExitStack()
        self._stack.callback(os.close, self._directory)

    @contextmanager
    def locked(self, number=None):
        self.lock = self.lock + 1 if number is None else number
        with ExitStack() as held:
            descriptor = maybe_lock(self._directory, "bob", UID, UID, held)
            assert descriptor is not None
            self.hand_over(self.lock, descriptor)
            yield self.lock

    def hand_over(self, number, *descriptors):
        rights = [(1, 1, struct.pack(f"{len(descriptors)}i", *descriptors))] if descriptors else []
        self.agent.mailbox_socket.sendmsg([struct.pack(">Q", number)], rights)

    def close(self):
        self._stack.close()

    def read_back(self):
        box = mailbox.mbox(self.path, create=False)
        try:
            return [box.get_bytes(key) for key in box.iterkeys()]
        finally:
            box.close()


@pytest.fixture
def spool(home):
    directory = home.parent / "mail"
    directory.mkdir(0o755)
    if os.geteuid() != 0:
        own(directory)
    return directory


@pytest.fixture
def parent(start, spool):
    parent = Parent(spool, start("mbox", ""))
    yield parent
    parent.close()


def to(lock, number=1, **more):
    return replace(errand(number, **more), lock=lock)


def test_a_mail_arrives_in_a_mailbox_of_the_users(parent, spool):
    with parent.locked() as lock:
        result = parent.agent.deliver(to(lock))
    assert (result.outcome, result.text) == (Outcome.DELIVERED, "Delivered")
    assert parent.read_back() == [TRACE + MAIL]
    status = parent.path.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (UID, 0o600)
    assert os.listdir(spool) == ["bob"]
    assert parent.agent.end() == 0


def test_a_mail_is_quoted_and_separated(parent):
    with parent.locked() as lock:
        parent.agent.deliver(to(lock, 1, content=MAIL + b"From here on\nno line end"))
        parent.agent.deliver(to(lock, 2, sender=""))
    assert parent.read_back() == [
        TRACE + MAIL + b">From here on\nno line end\n",
        b"Return-Path: <>\nDelivered-To: bob@here.test\n" + MAIL,
    ]
    assert parent.path.read_bytes().count(b"\nFrom MAILER-DAEMON ") == 1


def test_many_mails_under_one_lock_are_each_answered_and_each_there(parent):
    with parent.locked() as lock:
        for number in range(1, 101):
            parent.agent.send(to(lock, number, content=MAIL + b"%d\n" % number))
        results = [parent.agent.receive() for _ in range(100)]
    assert {result.outcome for result in results} == {Outcome.DELIVERED}
    assert {result.envelope & 0xFF for result in results} == set(range(1, 101))
    assert sorted(parent.read_back()) == sorted(TRACE + MAIL + b"%d\n" % number for number in range(1, 101))


def test_a_large_mail_comes_from_its_descriptor(parent):
    content = b"Subject: large\n\n" + b"From here on\n" * 100_000
    with tempfile.TemporaryFile() as file, parent.locked() as lock:
        file.write(content)
        file.flush()
        result = parent.agent.deliver(to(lock, size=len(content)), file.fileno())
    assert result.outcome is Outcome.DELIVERED
    assert parent.read_back() == [TRACE + content.replace(b"\nFrom ", b"\n>From ")]


def test_a_mail_that_was_here_before_is_a_loop(parent):
    with parent.locked() as lock:
        told = to(lock, content=b"Delivered-To: bob@here.test\n" + MAIL)
        assert parent.agent.deliver(told).outcome is Outcome.LOOP
        assert parent.agent.deliver(to(lock, 2)).outcome is Outcome.DELIVERED
    assert parent.read_back() == [TRACE + MAIL]


# -- locks --------------------------------------------------------------------------------------------


def test_one_lock_after_the_other(parent):
    for number in range(1, 6):
        with parent.locked() as lock:
            assert parent.agent.deliver(to(lock, number)).outcome is Outcome.DELIVERED
    assert len(parent.read_back()) == 5


def test_nothing_is_written_under_a_lock_that_was_given_up(parent):
    with parent.locked() as old:
        parent.agent.deliver(to(old, 1))
    with parent.locked() as lock:
        assert parent.agent.deliver(to(lock, 2)).outcome is Outcome.DELIVERED
        late = parent.agent.deliver(to(old, 3))
        assert (late.outcome, late.text) == (Outcome.DEFERRED, "the lock of the mailbox has been given up")
        assert parent.agent.deliver(to(lock, 4)).outcome is Outcome.DELIVERED
    assert len(parent.read_back()) == 3


def test_a_mail_is_written_under_its_lock_although_another_has_come(parent):
    with tempfile.TemporaryFile() as other, parent.locked() as lock:
        parent.hand_over(lock + 1, other.fileno())
        assert parent.agent.deliver(to(lock)).outcome is Outcome.DELIVERED
    assert parent.read_back() == [TRACE + MAIL]


@pytest.mark.parametrize("lock", [0, 1, 7])
def test_nothing_is_written_under_a_lock_that_never_came(start, lock):
    agent = start("mbox", "")
    result = agent.deliver(to(lock))
    assert result.outcome is Outcome.DEFERRED
    assert result.text == ("the lock of the mailbox has been given up" if lock else "Bad file descriptor")
    assert agent.end() == 0


def test_locks_that_were_not_used_are_passed_over(parent):
    for _ in range(3):
        with parent.locked():
            pass
    with parent.locked() as lock:
        assert parent.agent.deliver(to(lock)).outcome is Outcome.DELIVERED


def test_mails_of_two_locks_in_one_go(parent, spool):
    with parent.locked() as first:
        pass
    with parent.locked() as second:
        for number, lock in enumerate([first, second, second, first], 1):
            parent.agent.send(to(lock, number))
        results = {result.envelope & 0xFF: result.outcome for result in (parent.agent.receive() for _ in range(4))}
    assert results[2] is results[3] is Outcome.DELIVERED and results[4] is Outcome.DEFERRED


def test_the_lock_is_held_until_the_parent_gives_it_up_however_long_the_agent_lives(parent):
    with open(parent.path, "wb") as mine:  # a reader's
        own(parent.path)
        with parent.locked() as lock:
            parent.agent.deliver(to(lock))
            with pytest.raises(BlockingIOError):
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert parent.agent.process.poll() is None


@pytest.mark.parametrize(
    "packet, count", [(b"", 0), (b"1234567", 1), (b"123456789", 1), (b"12345678", 0), (b"12345678", 2)]
)
def test_a_packet_without_a_mailbox_ends_the_agent(start, packet, count):
    agent = start("mbox", "")
    with tempfile.TemporaryFile() as file:
        rights = [(1, 1, struct.pack(f"{count}i", *[file.fileno()] * count))] if count else []
        agent.mailbox_socket.sendmsg([packet], rights)
    agent.send(to(2**63))
    if packet:
        assert agent.process.wait(30) == EX_PROTOCOL
    else:
        assert agent.receive().outcome is Outcome.DEFERRED


def test_a_descriptor_that_is_no_file_is_not_written_to(start):
    agent = start("mbox", "")
    reading, writing = os.pipe()
    agent.mailbox_socket.sendmsg([struct.pack(">Q", 1)], [(1, 1, struct.pack("i", writing))])
    result = agent.deliver(to(1))
    assert (result.outcome, result.text) == (Outcome.DEFERRED, "the mailbox is not a regular file")
    os.close(reading)
    os.close(writing)


# -- trouble --------------------------------------------------------------------------------------------


def test_a_mail_that_does_not_fit_is_taken_back_and_the_others_stay(spool, home):
    agent = Agent(home, "mbox", "", limits=["RLIMIT_FSIZE=8192"])
    parent = Parent(spool, agent)
    with parent.locked() as lock:
        for number in range(1, 6):
            agent.send(to(lock, number, content=MAIL + b"x" * (20000 if number == 3 else 10)))
        results = {
            result.envelope & 0xFF: (result.outcome, result.text) for result in (agent.receive() for _ in range(5))
        }
    assert results.pop(3) == (Outcome.DEFERRED, "File too large")
    assert {outcome for outcome, _ in results.values()} == {Outcome.DELIVERED}
    assert len(parent.read_back()) == 4
    assert agent.end() == 0
    parent.close()


def test_a_spool_file_that_is_too_short_is_taken_back(parent):
    with tempfile.TemporaryFile() as file, parent.locked() as lock:
        file.write(MAIL)
        file.flush()
        assert parent.agent.deliver(to(lock, 1, size=5000), file.fileno()).outcome is Outcome.DEFERRED
        assert parent.agent.deliver(to(lock, 2)).outcome is Outcome.DELIVERED
    assert parent.read_back() == [TRACE + MAIL]


def test_content_that_cannot_be_read_defers_that_mail(writer):
    (result,) = writer.execute([(to(1, size=10), os.open("/", os.O_RDONLY))])
    assert (result.outcome, result.text) == (Outcome.DEFERRED, "Is a directory")


def test_a_mail_that_was_half_written_when_the_agent_was_killed_spoils_no_other(start, parent, spool):
    with parent.locked():
        parent.path.write_bytes(b"From amy@there.test Sat Nov 21 09:16:04 2026\nSubject: ha")
        own(parent.path)
        parent.agent.kill()
    second = Parent(spool, start("mbox", ""))
    with second.locked() as lock:
        assert second.agent.deliver(to(lock)).outcome is Outcome.DELIVERED
    assert second.read_back() == [b"Subject: ha\n", TRACE + MAIL]
    second.close()


def test_a_packet_without_a_mail_ends_the_agent(start):
    agent = start("mbox", "")
    agent.send(ReadForward(1))
    assert agent.process.wait(30) == EX_PROTOCOL


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: looks into a process that cannot be inspected")
def test_no_descriptor_stays_behind(parent):
    with parent.locked() as lock:
        parent.agent.deliver(to(lock, 1))
    before = len(os.listdir(f"/proc/{parent.agent.process.pid}/fd"))
    for number in range(2, 20):
        with parent.locked() as lock:
            assert parent.agent.deliver(to(lock, number)).outcome is Outcome.DELIVERED
    assert len(os.listdir(f"/proc/{parent.agent.process.pid}/fd")) == before


# -- a slow disk -----------------------------------------------------------------------------------------

RATE = 1000.0  # bytes in a second


class Disk:
    """A clock that writing and syncing move on, as a disk of that RATE would; what is written waits for the sync."""

    def __init__(self, monkeypatch):
        self.now, self._dirty = 1000.0, 0
        pwrite, fsync = os.pwrite, os.fsync

        def write(descriptor, data, at):
            self._dirty += len(data)
            return pwrite(descriptor, data, at)

        def sync(descriptor):
            self.now += self._dirty / RATE
            self._dirty = 0
            fsync(descriptor)

        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture
def writer(tmp_path):
    """A hand, and a mailbox that is locked for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open(tmp_path / "bob", "a+b") as opened, ours, theirs:
        ours.sendmsg([struct.pack(">Q", 1)], [(1, 1, struct.pack("i", opened.fileno()))])
        made = MailboxWriter(theirs)
        yield made
        os.close(made._mailbox)


def test_no_lock_is_held_for_long_whatever_waits_and_however_slow_the_disk_is(tmp_path, disk, writer):
    """Without a bound these would take 320 seconds: longer than the parent waits until it kills in the middle."""
    begun, outcomes = disk.now, []
    for batch in range(8):  # each costs 40 seconds
        mails = [to(1, 4 * batch + number, content=b"x\n" * 5000) for number in range(4)]
        outcomes += [result.outcome for result in writer.execute([(told, -1) for told in mails])]
    assert disk.now - begun < LOCK_TIME + 45 < LOCK_MAX < STALE_LOCK_AGE
    assert outcomes == [Outcome.DELIVERED] * 4 + [Outcome.DEFERRED] * 28
    text = (tmp_path / "bob").read_bytes()
    assert text.count(b"From amy@there.test ") == 4 and text.endswith(b"x\n\n")


def test_within_a_batch_none_but_the_first_is_begun_when_it_is_late(tmp_path, monkeypatch, disk, writer):

    def slow(descriptor, data, at, pwrite=os.pwrite):
        disk.now += LOCK_TIME / 2
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", slow)
    results = writer.execute([(to(1, number), -1) for number in range(4)])
    assert [result.outcome for result in results] == [Outcome.DELIVERED, *[Outcome.DEFERRED] * 3]
    assert {result.text for result in results[1:]} == {mbox.LOCK_TIME_OVER}
    assert (tmp_path / "bob").read_bytes().count(b"From amy@there.test ") == 1


def test_the_first_batch_under_a_lock_is_begun_whenever_it_comes(disk, writer):
    writer._receive_locks(1)
    disk.now += LOCK_TIME + 1
    (result,) = writer.execute([(to(1), -1)])
    assert result.outcome is Outcome.DELIVERED


def test_the_first_batch_under_each_further_lock_is_begun_whenever_it_comes(tmp_path, disk):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open(tmp_path / "bob", "a+b") as opened, ours, theirs:
        writer = MailboxWriter(theirs)
        for lock in (1, 2):
            ours.sendmsg([struct.pack(">Q", lock)], [(1, 1, struct.pack("i", opened.fileno()))])
            writer._receive_locks(lock)
            disk.now += LOCK_TIME + 1
            (result,) = writer.execute([(to(lock, lock), -1)])
            assert result.outcome is Outcome.DELIVERED
        os.close(writer._mailbox)


def test_a_packet_of_which_descriptors_were_lost_is_refused(tmp_path):
    """There was room for one of several."""

    class Truncated:
        def recvmsg(self, *_):
            return struct.pack(">Q", 1), [(1, 1, struct.pack("i", opened.fileno()))], socket.MSG_CTRUNC, None

    with open(tmp_path / "bob", "a+b") as opened, pytest.raises(FrameError):
        MailboxWriter(Truncated()).execute([(to(1), -1)])


@pytest.mark.parametrize("lock, outcome", [(1, Outcome.DELIVERED), (9, Outcome.DEFERRED)])
def test_the_content_of_a_mail_is_closed_whatever_becomes_of_it(writer, lock, outcome):
    with tempfile.TemporaryFile() as file:
        file.write(MAIL)
        file.flush()
        descriptor = os.dup(file.fileno())
        (result,) = writer.execute([(to(lock, size=len(MAIL)), descriptor)])
    assert result.outcome is outcome
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_exception_in_our_code_defers_that_batch_and_names_the_place(writer, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(mbox, "store", lambda *_: 1 / 0)
        (result,) = writer.execute([(to(1), -1)])
    assert result.outcome is Outcome.DEFERRED and "ZeroDivisionError" in result.text
    (result,) = writer.execute([(to(1, 2), -1)])
    assert result.outcome is Outcome.DELIVERED


def test_without_a_socket_for_mailboxes_there_is_no_executor():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ValueError):
        MailboxAgent(AgentSpec("mbox", ""), "bob", "/").make_executor(ours, None)
