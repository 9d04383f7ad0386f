"""What a disk, a reader and a kernel can do in the middle of a delivery: nothing is cut short, nothing is left open."""

import errno
import os
from contextlib import ExitStack

import pytest

from mail_local import mailbox, maildir, mbox, openat2
from mail_local.maildir import EarlierDeliveries, Maildir, MaildirMail
from tests.recorder import recorded

UID, GID = os.getuid(), os.getgid()


@pytest.fixture
def root(tmp_path):
    maildir.make(str(tmp_path / "box"))
    return tmp_path / "box"


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def append(directory, content=b"one\n"):
    with mailbox.locked(directory, "bob", UID, GID, lock_timeout=0.0) as descriptor:
        return mbox.store(descriptor, [mbox.MboxMail("amy@there.test", 0, (content,))])


def test_a_disk_that_takes_a_byte_at_a_time_gets_all_of_a_mail(root, directory, tmp_path, monkeypatch):
    """As a disk does that has just become full, or a file that reaches a limit."""
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:1])))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: pwrite(descriptor, bytes(data[:1]), at))
    box = Maildir(str(root), EarlierDeliveries("host"))
    assert box.store([MaildirMail("name", (b"Subject: hello\n", b"\nhello\n"))]) == [""]
    box.close()
    assert append(directory, b"Subject: hello\n\nhello\n") == [""]
    monkeypatch.undo()
    assert (root / "new/name").read_bytes() == b"Subject: hello\n\nhello\n"
    assert (tmp_path / "bob").read_bytes().endswith(b"\nSubject: hello\n\nhello\n\n")


@pytest.mark.parametrize("what", [None, "write box/*", "sync box/*", "move *", "make box/*"])
def test_a_maildir_leaves_no_descriptor_whatever_fails(root, tmp_path, what):
    os.mkdir(root / ".work")
    before = descriptors()
    with recorded(tmp_path) as recorder:
        if what:
            recorder.refuse(what, times=3)
        box = Maildir(str(root), EarlierDeliveries("host"))
        reasons = box.store(
            [
                MaildirMail("1.E1.host", (b"x",)),
                MaildirMail("1.E2.host", (b"x",), extension="work"),
                MaildirMail("1.E3.host", (b"x",), junk=True),
                MaildirMail("1.E4.host", (b"x",), extension="none"),
            ]
        )
        box.close()
    assert bool(what) == any(reasons)
    assert descriptors() == before


@pytest.mark.parametrize("what", [None, "make bob", "sync .", "lock bob", "make bob.lock", "write bob", "sync bob"])
def test_a_mailbox_leaves_no_descriptor_and_no_lock_whatever_fails(directory, tmp_path, what):
    before = descriptors()
    with recorded(tmp_path) as recorder:
        if what:
            recorder.refuse(what)
        if what in (None, "write bob", "sync bob"):
            assert bool(append(directory)[0]) == bool(what)
        else:
            with pytest.raises(OSError) as raised:
                append(directory)
            assert raised.value.errno == errno.EIO and raised.value.filename in ("bob", "bob.lock")
    assert descriptors() == before
    assert not (tmp_path / "bob.lock").exists()
    assert append(directory) == [""]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_lock_that_fails_is_not_reported_as_held(directory, tmp_path, number):
    append(directory)
    with recorded(tmp_path) as recorder, pytest.raises(OSError) as raised:
        recorder.refuse("lock bob", number)
        append(directory)
    assert raised.value.errno == number


def test_a_lock_that_cannot_be_given_up_ends_with_its_descriptor_and_the_mail_counts(directory, tmp_path):
    before = descriptors()
    with recorded(tmp_path) as recorder:
        recorder.refuse("unlock bob", errno.ENOLCK)
        assert append(directory) == [""]
    assert descriptors() == before


def test_a_second_name_that_is_made_between_look_and_use_is_seen(directory, tmp_path, monkeypatch):
    """Or somebody could lead mail into another file of the user's."""
    append(directory)
    before, plain = (tmp_path / "bob").read_bytes(), openat2.open

    def linked(name, flags, *rest, **more):
        if name == "bob" and not flags & os.O_PATH:
            (tmp_path / "second").hardlink_to(tmp_path / "bob")
        return plain(name, flags, *rest, **more)

    monkeypatch.setattr(openat2, "open", linked)
    open_before = descriptors()
    with pytest.raises(OSError, match="second hard link: 'bob'"):
        append(directory)
    assert (tmp_path / "bob").read_bytes() == before
    assert descriptors() == open_before


def test_a_mailbox_that_is_replaced_between_look_and_use_leaves_no_descriptor(directory, tmp_path, monkeypatch):
    append(directory)
    before, plain = descriptors(), openat2.open

    def replaced(name, flags, *rest, **more):
        if name == "bob" and not flags & os.O_PATH:
            (tmp_path / "other").touch(0o600)
            (tmp_path / "other").rename(tmp_path / "bob")
        return plain(name, flags, *rest, **more)

    monkeypatch.setattr(openat2, "open", replaced)
    with ExitStack() as held:
        assert mailbox.maybe_lock(directory, "bob", UID, GID, held) is None
    assert descriptors() == before
