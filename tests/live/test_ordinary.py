"""The daemon of an ordinary user: the same code path, one uid for all, and that user's own mail only."""

import os
import pwd
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.live.conftest import CONF, mails, running, until

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="runs as an ordinary user only")


# Not ~/Maildir: whoever runs this may have mail there.
OWN = CONF.replace("maildir\n", 'maildir "{directory}/Maildir"\n')


@pytest.fixture
def own():
    """A daemon of this user, which stores mail beside its own state."""
    if (Path(me().pw_dir) / ".forward").exists():
        pytest.skip("this user has a .forward, and mail would go where it says")
    ground = tempfile.mkdtemp(prefix="smtpd-", dir=me().pw_dir)
    try:
        with running(ground, OWN, "--insecure-paths") as daemon:
            yield daemon
    finally:
        shutil.rmtree(ground)


def me():
    return pwd.getpwuid(os.geteuid())


def test_a_mail_to_oneself_is_delivered(own):
    own.send(f"{me().pw_name}@here.test", b"Subject: mine\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(own.directory), what="delivery")
    assert mail.endswith(b"\nSubject: mine\n\nx\n")


def test_a_large_mail_to_oneself_is_delivered(own):
    own.send(f"{me().pw_name}@here.test", b"Subject: large\r\n\r\n" + b"line\r\n" * 100_000)
    (mail,) = until(lambda: mails(own.directory), what="delivery")
    assert mail.count(b"line\n") == 100_000


def test_other_users_are_refused(own):
    with own.client() as client:
        client.ehlo()
        client.mail("amy@there.test")
        assert client.rcpt("root@here.test")[0] == 550
        assert client.rcpt("mail@here.test")[0] == 550


def test_the_filter_and_no_new_privileges_hold_all_the_same(own):
    for title, pid in own.pids().items():
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), title
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE), title


def test_what_does_not_hold_is_said(own):
    assert "not root" in own.log


def test_smtpctl_obeys_the_owner_of_the_daemon(own):
    assert "SMTP running" in own.smtpctl("show", "status").stdout


def test_the_queue_survives_a_stop(own):
    own.smtpctl("pause", "mda")
    own.send(f"{me().pw_name}@here.test", b"Subject: later\r\n\r\nx\r\n")
    assert own.stop() == 0
    own.start("--insecure-paths")
    until(lambda: mails(own.directory), what="delivery")
