"""Appending to a file of a user's own."""

import fcntl
import mailbox
import os
import struct
import threading
from contextlib import closing

import pytest

from mail_local import mailbox as mailbox_library
from mail_local import mbox
from mail_local.mboxfile import LOCK_TIMEOUT, MailboxError, append

MAIL = b"Subject: hello\n\nFrom here one sees the sea.\n"
UID = os.geteuid()


def mail(content=(MAIL,), sender="amy@there.test"):
    return mbox.MboxMail(sender, 1700000000.0, iter(content))


def messages(file):
    with closing(mailbox.mbox(file)) as box:
        return list(box)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "archive"


def test_a_file_is_made_for_the_user_alone(file):
    append(str(file), mail())
    assert file.stat().st_mode & 0o777 == 0o600
    (found,) = messages(file)
    assert found.get_from().startswith("amy@there.test ")
    assert found.get_payload() == ">From here one sees the sea.\n"


def test_nothing_stays_open(file):
    before = os.listdir("/proc/self/fd")
    append(str(file), mail())
    with pytest.raises(MailboxError):
        append(str(file.parent) + "/.", mail())
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_is_there_keeps_what_it_has(file):
    file.write_bytes(b"From old\n\nold\n")
    file.chmod(0o640)
    append(str(file), mail())
    assert file.read_bytes().startswith(b"From old\n\nold\n\nFrom amy@there.test ")
    assert file.stat().st_mode & 0o777 == 0o640


def test_its_name_is_the_users_choice(tmp_path):
    for name in (".archive", "a b", "x.lock", "-f", "é"):
        append(str(tmp_path / name), mail())
        assert (tmp_path / name).stat().st_size > len(MAIL)


def test_a_directory_on_the_way_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "mail").symlink_to("disk")
    append(str(tmp_path / "mail/archive"), mail())
    assert (tmp_path / "disk/archive").exists()


def test_a_link_is_not_followed_to_another_file_of_the_users(tmp_path, file):
    keys = tmp_path / "authorized_keys"
    keys.write_bytes(b"precious")
    file.symlink_to(keys)
    with pytest.raises(MailboxError, match="symbolic link"):
        append(str(file), mail())
    assert keys.read_bytes() == b"precious"


def test_a_link_to_nothing_makes_nothing(tmp_path, file):
    file.symlink_to(tmp_path / "new")
    with pytest.raises(MailboxError):
        append(str(file), mail())
    assert not (tmp_path / "new").exists()


def test_a_file_with_a_second_name_is_refused(tmp_path, file):
    file.write_bytes(b"precious")
    os.link(file, tmp_path / "other")
    with pytest.raises(OSError, match=f"the mailbox has a second hard link: '{file}'"):
        append(str(file), mail())
    assert file.read_bytes() == b"precious"


def test_a_fifo_is_refused_without_waiting_for_a_reader(file):
    os.mkfifo(file)
    with pytest.raises(MailboxError, match="regular"):
        append(str(file), mail())


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full"])
def test_a_device_is_refused(path):
    with pytest.raises(MailboxError, match="regular"):
        append(path, mail())


@pytest.mark.parametrize(
    "path, error, reason",
    [
        ("", MailboxError, "not the name of a file"),
        ("/", MailboxError, "not the name of a file"),
        ("x/", MailboxError, "not the name of a file"),
        (".", MailboxError, "the mailbox is not a regular file"),
        ("/nonexistent/x", FileNotFoundError, "/nonexistent"),
    ],
)
def test_what_is_no_file(tmp_path, monkeypatch, path, error, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=reason):
        append(path, mail())
    assert os.listdir(tmp_path) == []


def test_a_name_without_a_directory_is_one_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    append("archive", mail())
    assert os.listdir(tmp_path) == ["archive"]


@pytest.mark.skipif(UID != 0, reason="needs root: a file of somebody else's")
def test_a_file_of_another_user_is_refused(file):
    file.touch()
    os.chown(file, 54321, 54321)
    with pytest.raises(MailboxError, match="belongs to uid 54321, expected uid 0"):
        append(str(file), mail())


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_world_writable_directory_is_not_used(tmp_path, file, mode):
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError):
        append(str(file), mail())
    assert not file.exists()


def test_a_lock_of_another_program_is_waited_for_but_not_for_ever(file):
    file.touch()
    with file.open("r+b") as held:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        with pytest.raises(BlockingIOError) as raised:
            append(str(file), mail(), lock_timeout=0.05)
    assert raised.value.filename == str(file)
    append(str(file), mail())
    assert file.stat().st_size > 0


def test_a_lock_is_waited_for_as_long_as_for_a_file_and_not_as_for_a_mailbox(file, monkeypatch):
    waits = []
    monkeypatch.setattr(mailbox_library, "_tries", lambda seconds: waits.append(seconds) or iter([None]))
    append(str(file), mail())
    append(str(file), mail(), lock_timeout=7.0)
    assert waits == [LOCK_TIMEOUT, 7.0]


def test_there_is_no_dot_lock(tmp_path, file):
    (tmp_path / "archive.lock").touch()
    append(str(file), mail(), lock_timeout=0.05)
    assert (tmp_path / "archive.lock").exists()


def test_of_a_mail_that_breaks_off_nothing_stays(file):
    def content():
        yield MAIL
        raise OSError("broken")

    append(str(file), mail())
    before = file.read_bytes()
    with pytest.raises(OSError, match="broken"):
        append(str(file), mail(content()))
    assert file.read_bytes() == before


def test_many_at_once_are_all_there_and_whole(file):
    threads = [threading.Thread(target=append, args=(str(file), mail([MAIL * 50]))) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [message.as_string() for message in messages(file)]
    assert len(found) == 7 and len(set(found)) == 1
