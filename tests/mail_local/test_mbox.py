"""Mails in an mbox: read back by a reader of somebody else's making, taken back when they do not fit, side by side."""

import mailbox
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_local import maildir
from mail_local.mailbox import locked
from mail_local.mbox import MboxMail, envelope_line, framed, store

TOP = Path(__file__).parent.parent.parent
UID, GID = os.getuid(), os.getgid()
NOON = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
EMPTY_LINE = b"\n"

awkward = st.lists(
    st.sampled_from(
        [b"From ", b"From", b">From ", b"Fr", b"om ", b" ", b"\n", b"\n\n", b"\r\n", b"\r", b"\0", b"x", b"\xff"]
    )
    | st.binary(max_size=20)
).map(b"".join)


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def mail(content, sender="amy@there.test"):
    return MboxMail(sender, NOON, (content,))


@contextmanager
def bob(directory, **more):
    with locked(directory, "bob", UID, GID, **{"lock_timeout": 0.0, **more}) as descriptor:
        yield descriptor


def deliver(directory, *contents, **more):
    with bob(directory, **more) as descriptor:
        return store(descriptor, [mail(content) for content in contents])


def read_back(path):
    box = mailbox.mbox(path, create=False)
    try:
        return [box.get_bytes(key) for key in box.iterkeys()]
    finally:
        box.close()


def quoted(content):
    """What a reader gets: the line that was not ended is, and what would begin a mail does not."""
    ended = content if not content or content.endswith(b"\n") else content + b"\n"
    return re.sub(rb"^From ", b">From ", ended, flags=re.MULTILINE)


def cut(content, places):
    """In pieces that end at these places, empty ones among them."""
    ends = sorted(place % (len(content) + 1) for place in places)
    return [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]


# What is written


def test_a_mail_in_a_new_mailbox(directory, tmp_path):
    assert deliver(directory, b"Subject: hello\n\nFrom here on\n") == [""]
    assert (tmp_path / "bob").read_bytes() == (
        b"From amy@there.test Sat Nov 21 12:00:00 2026\nSubject: hello\n\n>From here on\n\n"
    )
    assert stat.S_IMODE((tmp_path / "bob").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["bob"]


@pytest.mark.parametrize("content", [b"Subject: hello\n\nno line end", b"Subject: hello\n\na line end\n"])
def test_an_empty_line_ends_each_mail(directory, tmp_path, content):
    """Also the last one: other programs append too."""
    assert deliver(directory, content) == [""]
    assert (tmp_path / "bob").read_bytes().partition(b"\n")[2] == content.rstrip(b"\n") + b"\n\n"


@given(st.lists(awkward, min_size=1, max_size=5), st.text(max_size=30))
@settings(max_examples=200, deadline=None)
@example([b"From a\nFrom b\n\nFrom c", b"", b"\n", b"\n\n\n"], "")
def test_a_reader_finds_each_mail_that_was_written(contents, sender):
    with tempfile.NamedTemporaryFile() as file:
        assert store(file.fileno(), [mail(content, sender) for content in contents]) == [""] * len(contents)
        assert read_back(file.name) == [quoted(content) for content in contents]
        box = mailbox.mbox(file.name)
        assert all(message.get_from().endswith(" Sat Nov 21 12:00:00 2026") for message in box)  # and ASCII
        box.close()


@given(awkward, st.lists(st.integers(0, 200), max_size=10))
@settings(max_examples=200)
def test_the_pieces_a_mail_comes_in_make_no_difference(content, places):
    assert b"".join(framed(MboxMail("", NOON, cut(content, places)))) == b"".join(framed(mail(content, "")))


def test_a_from_line_cut_at_each_place_is_quoted():
    content = b"x\nFrom y\n\nFrom z\n"
    for place in range(len(content) + 1):
        written = b"".join(framed(MboxMail("", NOON, cut(content, [place])))).partition(b"\n")[2]
        assert written == quoted(content) + EMPTY_LINE
    one_by_one = b"".join(framed(MboxMail("", NOON, cut(content, range(len(content))))))
    assert one_by_one.partition(b"\n")[2] == quoted(content) + EMPTY_LINE


def test_a_large_mail_is_never_in_memory():
    pieces = (b"From " * 50_000 + b"\n" for _ in range(40))
    assert max(map(len, framed(MboxMail("", NOON, pieces)))) < 300_000


@pytest.mark.parametrize(
    "sender, seen",
    [
        ("amy@there.test", b"amy@there.test"),
        ("", b"MAILER-DAEMON"),
        ('"amy b"@there.test', b'"amy?b"@there.test'),
        ("amy\nFrom: root", b"amy?From:?root"),
        ("amy\r\0\x7f", b"amy???"),
        ("jos\u00e9@there.test", b"jos?@there.test"),
        ("amy\udcff@there.test", b"amy?@there.test"),  # a byte that is no text, as an argument
        ("a" * 1000, b"a" * 256),
    ],
)
def test_no_sender_forges_an_envelope_line(sender, seen):
    assert envelope_line(sender, NOON) == b"From " + seen + b" Sat Nov 21 12:00:00 2026\n"


@pytest.mark.parametrize("torn", [b"From a b\nhalf a li", b"From a b\nhalf a mail\n", b"\n", b"x"])
def test_after_a_torn_mail_the_next_one_begins_behind_an_empty_line(directory, tmp_path, torn):
    (tmp_path / "bob").write_bytes(torn)
    assert deliver(directory, b"whole\n", b"another\n") == ["", ""]
    assert read_back(tmp_path / "bob")[-2:] == [b"whole\n", b"another\n"]
    assert (
        (tmp_path / "bob")
        .read_bytes()
        .startswith(torn.rstrip(b"\n") + b"\n\nFrom amy@" if torn.strip() else b"\n\nFrom ")
    )


# Trouble while it is written


@contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_takes_back_the_mail_that_does_not_fit_and_no_other(directory, tmp_path):
    deliver(directory, b"old\n")
    with file_size_limit(1000):
        reasons = deliver(directory, b"first\n", b"large\n" * 1000, b"last\n")
    assert reasons == ["", "File too large", ""]
    assert read_back(tmp_path / "bob") == [b"old\n", b"first\n", b"last\n"]
    assert os.listdir(tmp_path) == ["bob"]


def test_an_fsync_that_fails_takes_back_all(directory, tmp_path, monkeypatch):
    deliver(directory, b"old\n")
    before = (tmp_path / "bob").read_bytes()

    def fsync(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        assert deliver(directory, b"one\n", b"two\n") == ["Input/output error"] * 2
    assert (tmp_path / "bob").read_bytes() == before


def test_content_that_ends_too_early_is_taken_back(directory, tmp_path):
    with tempfile.TemporaryFile() as short, bob(directory) as descriptor:
        short.write(b"12345")
        short.flush()
        torn = MboxMail("", NOON, maildir.pieces_of(short.fileno(), 6))
        assert store(descriptor, [torn, mail(b"whole\n")]) == ["content ends after 5 of 6 bytes", ""]
    assert read_back(tmp_path / "bob") == [b"whole\n"]


def test_sigterm_takes_back_a_mail_that_was_begun(directory, tmp_path):
    def content():
        yield b"half a mail"
        raise SystemExit(75)

    deliver(directory, b"old\n")
    before = (tmp_path / "bob").read_bytes()
    with pytest.raises(SystemExit), bob(directory) as descriptor:
        store(descriptor, [mail(b"whole\n"), MboxMail("", NOON, content())])
    assert (tmp_path / "bob").read_bytes() == before
    assert os.listdir(tmp_path) == ["bob"]


# Together

WRITER = """
import os, sys
from mail_local.mailbox import locked
from mail_local.mbox import MboxMail, store
directory = os.open(sys.argv[1], os.O_RDONLY)
for number in range(25):
    content = (f"Subject: {sys.argv[2]}.{number}\\n\\n".encode(), b"From a mail\\n" * 2000, b"end")
    with locked(directory, "bob", os.getuid(), os.getgid()) as descriptor:
        assert store(descriptor, [MboxMail("amy@there.test", 0, content)]) == [""]
"""


def test_writers_and_a_locking_reader_side_by_side(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    writers = [
        subprocess.Popen([sys.executable, "-P", "-c", WRITER, str(tmp_path), str(number)], env=environment)
        for number in range(4)
    ]
    subjects = looked = 0
    while looked < 50 and any(writer.poll() is None for writer in writers):
        found = locked_look(tmp_path / "bob")
        if found is not None:
            assert len(found) >= subjects
            subjects, looked = len(found), looked + 1
    assert [writer.wait(30) for writer in writers] == [0] * 4
    assert sorted(locked_look(tmp_path / "bob")) == sorted(f"{w}.{n}" for w in range(4) for n in range(25))
    assert os.listdir(tmp_path) == ["bob"]


def locked_look(path):
    """The subjects of all mails, none of them torn; None when a writer has locked."""
    box = mailbox.mbox(path)
    try:
        box.lock()
        messages = list(box)
        assert all(message.get_payload() == ">From a mail\n" * 2000 + "end\n" for message in messages)
        return [message["subject"] for message in messages]
    except mailbox.ExternalClashError:
        return None
    finally:
        box.close()
