"""What is stored is what mail readers find that others wrote: mutt, s-nail, Dovecot, Python's mailbox."""

import os
import shutil

import pytest

from tests.live import dovecot, reader
from tests.live.conftest import until
from tests.unique import free_port

CONF = """
listen on 127.0.0.1 port {port}
action "box" mbox
action "tree" maildir "%{{user.directory}}/tree"
match from any for domain "box.test" action "box"
match from any for domain "tree.test" action "tree"
"""

LETTERS = {
    "plain": b"hello\nworld\n",
    "empty": b"",
    "from": b"From here one sees the sea.\n\nFrom there too.\nNot From here.\n>From quoted already\n",
    "dots": b".\n..\n.hidden\n",
    "bytes": bytes(range(128, 256)) + b"\n",
    "long": b"y" * 5000 + b"\n" + b"From y" * 900 + b"\n",
    "separator": b"From amy@there.test Sat Nov 21 09:16:04 2026\nSubject: forged\n\nnot a mail\n",
    "large": b"line\nFrom line\n" * 20_000,
}


@pytest.fixture
def stored(make_daemon, users, alice):
    """`stored(domain, prepare)`: all letters sent, and where they are then."""
    daemon = make_daemon(CONF).start()

    def store(domain, prepare=lambda directory: None):
        prepare(daemon.state / "mail")
        for subject, body in LETTERS.items():
            content = f"Subject: {subject}\r\n\r\n".encode() + body.replace(b"\n", b"\r\n")
            daemon.send(f"{alice}@{domain}", content)
        place = daemon.state / "mail" / alice if domain == "box.test" else users.home(alice) / "tree"
        until(lambda: place.exists() and len(reader.by_python(place)) == len(LETTERS), what="all mails")
        return place

    yield store
    assert daemon.stop() == 0


def found_by(place, name, where, scratch, ground):
    """Reader -> what it found; Dovecot, which writes, is the last."""
    found = {"python": reader.by_python(place)}
    if not reader.missing("mutt"):
        found["mutt"] = reader.by_mutt(place, scratch)
    if place.is_file() and not reader.missing("s-nail"):
        found["s-nail"] = reader.by_s_nail(place, scratch)
    if not dovecot.MISSING:
        server = dovecot.Dovecot(ground / f"dovecot-of-{scratch.name}", free_port(), name)
        server.add_reader(name, where)
        server.start()
        try:
            found["dovecot"] = reader.by_dovecot(server, name)
        finally:
            server.kill()
    return found


def plain():
    return sorted((subject, body.rstrip(b"\n")) for subject, body in LETTERS.items())


def quoted():
    """What begins as a mailbox begins its mails has a sign in front."""
    return sorted((subject, (b"\n" + body).replace(b"\nFrom ", b"\n>From ")[1:]) for subject, body in plain())


def directory_of_root(path):
    """As OpenBSD has it."""
    assert path.stat().st_mode & 0o7777 == 0o755 and path.owner() == "root"


def directory_of_group_mail(path):
    """As Debian has it."""
    shutil.chown(path, group="mail")
    path.chmod(0o2775)


@pytest.mark.parametrize("prepare", [directory_of_root, directory_of_group_mail])
def test_every_reader_finds_in_a_mailbox_what_was_sent(stored, alice, tmp_path, ground, prepare):
    box = stored("box.test", prepare)
    assert box.owner() == alice and box.stat().st_mode & 0o777 == 0o600
    until(lambda: os.listdir(box.parent) == [alice], what="the end of the lock")
    found = found_by(box, alice, f"mbox:~/mail:INBOX={box}", tmp_path, ground)
    assert {program: mails == quoted() for program, mails in found.items()} == dict.fromkeys(found, True)


def test_every_reader_finds_in_a_maildir_what_was_sent(stored, alice, tmp_path, ground):
    tree = stored("tree.test")
    found = found_by(tree, alice, f"maildir:{tree}", tmp_path, ground)
    assert {program: mails == plain() for program, mails in found.items()} == dict.fromkeys(found, True)
