"""The daemon of an ordinary user: the same code path, one uid for all, and that user's own mail only."""

import contextlib
import mailbox
import os
import pwd
import re
import shlex
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from smtpd.config.file_permission import has_private_group
from tests.live.certificate import Authority
from tests.live.conftest import CONF, Daemon, mails, running, started, until
from tests.live.encrypted import Client, serial_of

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="runs as an ordinary user only")


# Not ~/Maildir: whoever runs this may have mail there.
OWN = CONF.replace("maildir\n", 'maildir "{directory}/Maildir"\n')


TLS = """
pki mx.here.test cert "{directory}/mx.crt"
pki mx.here.test key "{directory}/mx.key"
""" + OWN.replace("port {port}\n", "port {port} tls-require pki mx.here.test\n")


# Every way that ends in this user's hands; the home with the .forward is not the real one.
EVERY = """
table people file:{directory}/people
table aliases file:{directory}/aliases
listen on 127.0.0.1 port {port}
action "box" mbox
action "command" mda "cat > {directory}/home/%{{dest.user}}"
action "forward" maildir userbase <people>
action "alias" maildir alias <aliases>
alias-commands user {me}
match from any for domain "box.test" action "box"
match from any for domain "command.test" action "command"
match from any for domain "forward.test" action "forward"
match from any for domain "alias.test" action "alias"
"""


@pytest.fixture
def ground():
    if (Path(me().pw_dir) / ".forward").exists():
        pytest.skip("this user has a .forward, and mail would go where it says")
    made = Path(tempfile.mkdtemp(prefix="smtpd-", dir=me().pw_dir))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def own(ground):
    """A daemon of this user, which stores mail beside its own state."""
    with running(ground, OWN, "--insecure-paths") as daemon:
        yield daemon


@pytest.fixture
def every(ground):
    daemon = Daemon(ground, EVERY.replace("{me}", me().pw_name))
    home = daemon.directory / "home"
    home.mkdir(mode=0o700)
    (daemon.directory / "people").write_text(f"{me().pw_name} {me().pw_uid}:{me().pw_gid}:{home}\n")
    (daemon.directory / "aliases").write_text(f'list: "|cat > {daemon.directory}/listed"\n')
    with started(daemon, "--insecure-paths"):
        yield daemon


@pytest.fixture
def encrypted(ground):
    """A daemon that has a key, and what it shows."""
    daemon = Daemon(ground, TLS)
    daemon.authority = Authority("here")
    daemon.authority.issue("mx.here.test").write(daemon.directory, "mx")
    with started(daemon, "--insecure-paths"):
        yield daemon


def me():
    return pwd.getpwuid(os.geteuid())


def subjects(path):
    """Of a mailbox in one file."""
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        return [mail["subject"] for mail in box]


def test_a_mail_to_oneself_is_delivered(own):
    own.send(f"{me().pw_name}@here.test", b"Subject: mine\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(own.directory), what="delivery")
    assert mail.endswith(b"\nSubject: mine\n\nx\n")


def test_a_state_may_be_writable_by_ones_own_group(ground):
    """As mkdir makes it, where the umask is 0002."""
    daemon = Daemon(ground, OWN)
    daemon.state.mkdir()
    daemon.state.chmod(0o775)
    if not has_private_group(str(daemon.state), daemon.state.stat()):
        pytest.skip("this user has no group of its own")
    with started(daemon, "--insecure-paths"):
        daemon.send(f"{me().pw_name}@here.test", b"Subject: mine\r\n\r\nx\r\n")
        until(lambda: mails(daemon.directory), what="delivery")


def test_a_large_mail_to_oneself_is_delivered(own):
    own.send(f"{me().pw_name}@here.test", b"Subject: large\r\n\r\n" + b"line\r\n" * 100_000)
    (mail,) = until(lambda: mails(own.directory), what="delivery")
    assert mail.count(b"line\n") == 100_000


def test_a_mailbox_of_ones_own_lies_below_the_state(every):
    for name in ("one", "two"):
        every.send(f"{me().pw_name}@box.test", f"Subject: {name}\r\n\r\nFrom here\r\n".encode())
    path = every.state / "mail" / me().pw_name
    until(lambda: every.log.count("stat=Delivered") == 2, what="delivery")
    assert sorted(subjects(path)) == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600
    until(lambda: not path.with_name(path.name + ".lock").exists(), what="the end of the lock")


def test_a_command_gets_a_mail(every):
    every.send(f"{me().pw_name}@command.test", b"Subject: run\r\n\r\nx\r\n")
    until(lambda: "stat=Delivered" in every.log, what="delivery")
    assert (every.directory / "home" / me().pw_name).read_bytes().endswith(b"\nSubject: run\n\nx\n")


def test_a_command_of_an_alias_gets_a_mail(every):
    """The alias file is this user's, as all of the configuration is."""
    every.send("list@alias.test", b"Subject: listed\r\n\r\nx\r\n")
    until(lambda: "result=" in every.log, what="a result")
    assert "stat=Delivered" in every.log
    assert (every.directory / "listed").read_bytes().endswith(b"\nSubject: listed\n\nx\n")


@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_a_forward_as_this_users_umask_makes_it(every, umask):
    home = every.directory / "home"
    (home / ".forward").write_text(f"{home}/archive\n")
    (home / ".forward").chmod(0o666 & ~umask)
    home.chmod(0o777 & ~umask)
    every.send(f"{me().pw_name}@forward.test", b"Subject: mine\r\n\r\nx\r\n")
    until(lambda: "result=" in every.log, what="a result")
    assert "stat=Delivered" in every.log
    assert "\nSubject: mine\n" in (home / "archive").read_text()


def test_a_command_and_a_file_of_a_forward_get_a_mail(every):
    home = every.directory / "home"
    command = f"cat > {shlex.quote(str(home / 'taken'))}"
    (home / ".forward").write_text(f'"|{command}", {home}/file\n')
    every.send(f"{me().pw_name}@forward.test", b"Subject: mine\r\n\r\nx\r\n")
    until(lambda: every.log.count("stat=Delivered") == 2, what="delivery")
    assert (home / "taken").read_bytes().endswith(b"\nSubject: mine\n\nx\n")
    assert subjects(home / "file") == ["mine"]
    assert mails(home) == []


def send_encrypted(daemon, subject):
    """The serial number of the certificate that was shown."""
    with Client(daemon.port).starttls() as client:
        client.begin_mail(f"{me().pw_name}@here.test").command("DATA")
        assert client.command(f"Subject: {subject}\r\n\r\nx\r\n.").startswith("250")
        return serial_of(client)


def test_a_mail_to_oneself_comes_over_tls(encrypted):
    send_encrypted(encrypted, "encrypted")
    (mail,) = until(lambda: mails(encrypted.directory), what="delivery")
    assert b" with ESMTPS id " in mail and b"\nSubject: encrypted\n" in mail


def test_a_new_certificate_is_taken_at_a_hup(encrypted):
    before = send_encrypted(encrypted, "old")
    new = encrypted.authority.issue("mx.here.test", kind="rsa")
    new.write(encrypted.directory, "mx")
    encrypted.process.send_signal(signal.SIGHUP)
    until(lambda: encrypted.log.count("certificates of 1 pki loaded") == 2, what="the reload")
    assert send_encrypted(encrypted, "new") == new.serial != before


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
