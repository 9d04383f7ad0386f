"""A queue whose content is compressed or encrypted on the disk."""

import random

import pytest

from tests.live.conftest import COMPLETE, CONF, empty_maildir, mails, until

SMALL = b"Subject: small\r\n\r\n" + b"Nothing much happens here.\r\n" * 100
LARGE = (
    b"Subject: large\r\n\r\n"
    + b"".join(b"Line %d of a long mail.\r\n" % number for number in range(8_000))
    + random.Random(3).randbytes(40_000).hex("\n", 30).encode().replace(b"\n", b"\r\n")
    + b"\r\n"
)
COMMAND = 'action "local" mda "cat > ~/taken-$$ && mkdir -p ~/Maildir/new && mv ~/taken-$$ ~/Maildir/new/"\n'


def spool_bytes(daemon):
    """All that the daemon has on the disk for its queue, as it lies there now."""
    return b"".join(path.read_bytes() for path in (daemon.state / "spool").rglob("*") if path.is_file())


def pause_and_send(daemon, user, *contents):
    daemon.smtpctl("pause", "mda")
    for content in contents:
        daemon.send(f"{user}@here.test", content)


def envelopes(daemon):
    return [line.split("|")[0] for line in daemon.smtpctl("show", "queue").stdout.splitlines()]


def texts(home):
    """Of the mails that were delivered, without what was added in front."""
    return sorted((mail[mail.index(b"Subject: ") :] for mail in mails(home)), key=len)


def expected(*contents):
    return sorted((content.replace(b"\r\n", b"\n") for content in contents), key=len)


@pytest.mark.parametrize("delivery", ["maildir", "mbox", "command"])
def test_compressed_mail_is_small_on_the_disk_and_delivered_as_it_came(make_daemon, users, alice, letterbox, delivery):
    conf = CONF.replace("maildir", "mbox") if delivery == "mbox" else CONF
    if delivery == "command":
        conf = CONF.replace('action "local" maildir\n', COMMAND)
        assert conf != CONF
    daemon = make_daemon("queue compression\n" + conf)
    daemon.start()
    pause_and_send(daemon, alice, SMALL, LARGE)
    (file,) = (daemon.state / "spool/content").iterdir()
    assert file.stat().st_size < 0.6 * len(LARGE)
    for id, content in zip(envelopes(daemon), (SMALL, LARGE), strict=True):
        shown = daemon.smtpctl("show", "message", id).stdout
        assert shown[shown.index("Subject: ") :] == content.decode().replace("\r\n", "\n")
    daemon.kill()
    daemon.start()  # what a crash leaves is what was stored
    if delivery == "mbox":
        box = daemon.state / "mail" / alice
        until(lambda: box.exists() and box.read_bytes().count(b"\nSubject: ") == 2, what="delivery")
        assert LARGE.replace(b"\r\n", b"\n") in box.read_bytes()
    else:
        until(lambda: len(mails(letterbox)) == 2, what="delivery")
        assert texts(letterbox) == expected(SMALL, LARGE)
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    assert not [*(daemon.state / "spool/content").iterdir()] and COMPLETE
    empty_maildir(users.home(alice))
    assert daemon.stop() == 0
