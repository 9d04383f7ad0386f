"""Mail that is handed in while the daemon does not run: kept by sendmail, and sent when it runs."""

import os
import pwd
import re
import stat

import pytest

from smtpctl.offline_file import pack_head
from smtpctl.submission import SubmissionMail
from tests.live.conftest import become, empty_maildir, mails, until
from tests.live.test_sendmail import sendmail

MAIL = b"Subject: offline\n\nhello\n"


@pytest.fixture
def daemon(make_daemon, users, alice, bob):
    """One that has run before, and does not now."""
    for name in (alice, bob):
        empty_maildir(users.home(name))
        for path in users.home(name).glob("dead.letter*"):
            path.unlink()
    made = make_daemon().start()
    assert made.stop() == 0
    return made


def folder(daemon):
    return daemon.state / "offline"


def names(daemon):
    return sorted(path.name for path in folder(daemon).iterdir())


def kept(sender="amy@there.test", *recipients, content=MAIL, size=None):
    """What sendmail writes."""
    return pack_head(SubmissionMail(sender, recipients, 0), len(content) if size is None else size) + content


def put(daemon, user, content, name=None, mode=0o600):
    """As that user: a file in the directory."""
    name = name or os.urandom(16).hex()

    def write():
        descriptor = os.open(folder(daemon) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        os.write(descriptor, content)
        os.fchmod(descriptor, mode)
        return 0

    if user is None:
        write()
    else:
        assert become(user, write) == 0
    return name


def test_a_mail_is_kept_and_sent_when_the_daemon_runs(daemon, users, alice, bob):
    status, said = sendmail(daemon, alice, bob, mail=MAIL)
    assert (status, said) == (
        0,
        "sendmail: smtpd doesn't seem to be running: the mail is kept, and sent when it runs\n",
    )
    (name,) = names(daemon)
    found = (folder(daemon) / name).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, pwd.getpwnam(alice).pw_uid)
    assert list(users.home(alice).glob("dead.letter*")) == []
    daemon.start()
    until(lambda: mails(users.home(bob)), what="delivery")
    (content,) = mails(users.home(bob))
    uid = pwd.getpwnam(alice).pw_uid
    assert re.search(rf"\nReceived: by localhost \(smtpd, from userid {uid}\);\n\t".encode(), content)
    assert re.search(rf"\nFrom: {alice}@\S+\n".encode(), content)
    assert content.count(b"\nDate: ") == 1 and content.endswith(b"\n\nhello\n")
    until(lambda: names(daemon) == [], what="removal")
    assert re.search(rf"mail of uid {uid} that was kept offline is handed in", daemon.log)
    assert daemon.stop() == 0


def test_root_s_mail_is_kept_and_sent(daemon, users, bob):
    date = b"Date: Sat, 21 Nov 2026 06:50:23 +0000\n"
    assert sendmail(daemon, "root", "-f", "root@here.test", bob, mail=date + MAIL)[0] == 0
    daemon.start()
    until(lambda: mails(users.home(bob)), what="delivery")
    (content,) = mails(users.home(bob))
    assert b"\n" + date in content and b"from userid 0" in content
    until(lambda: names(daemon) == [], what="removal")
    assert daemon.stop() == 0


def test_no_user_can_list_the_directory_or_remove_another_s_mail(daemon, alice, bob):
    assert sendmail(daemon, alice, bob)[0] == 0
    (name,) = names(daemon)

    def attack():
        refused = 0
        for attempt in (os.listdir, os.scandir):
            try:
                attempt(folder(daemon))
            except PermissionError:
                refused += 1
        path = folder(daemon) / name
        for attempt in (os.unlink, lambda path: path.read_bytes(), lambda path: os.rename(path, f"{path}.refused")):
            try:
                attempt(path)
            except PermissionError:
                refused += 1
        return refused

    assert become(bob, attack) == 5
    assert names(daemon) == [name]


def test_what_users_put_there_reaches_no_other_user(daemon, users, alice, bob):
    """Links, fifos, another user's file, a file of the daemon's users, a mode that lets others write."""
    secret = daemon.directory / "secret"  # on the same file system, readable by root only
    secret.write_bytes(kept("root@here.test", f"{alice}@here.test", content=b"Subject: secret\n\nx\n"))
    secret.chmod(0o600)
    place = folder(daemon)
    os.link(secret, place / ("1" * 32))  # as where fs.protected_hardlinks is 0
    good = kept("amy@here.test", f"{bob}@here.test")

    def attack():
        os.symlink(secret, place / ("2" * 32))
        os.mkfifo(place / ("3" * 32), 0o600)
        os.mkdir(place / ("4" * 32), 0o700)
        os.symlink(place, place / ("5" * 32))
        return 0

    assert become(alice, attack) == 0
    put(daemon, "_smtpq", good)
    put(daemon, alice, good, mode=0o666)
    wanted = put(daemon, bob, good)
    daemon.start()
    until(lambda: mails(users.home(bob)), what="delivery of the one that is right")
    until(lambda: wanted not in names(daemon), what="its removal")
    for reason in ("more than one link", "it belongs to a process of the daemon", "its mode is not 0600"):
        until(lambda reason=reason: f"is refused: {reason}" in daemon.log, what=reason)
    until(lambda: "4 files are no mail" in daemon.log, what="a count of what is no mail")
    assert len(mails(users.home(bob))) == 1 and mails(users.home(alice)) == []
    assert len(names(daemon)) == 7
    assert daemon.stop() == 0


HUGE = 1 << 40


def test_files_that_are_no_mail_are_set_aside_with_their_reason(daemon, users, alice, bob):
    to_bob = f"{bob}@here.test"
    reasons = {
        put(daemon, alice, b"root:x:0:0\n"): "not written by sendmail",
        put(daemon, alice, kept("amy@here.test", to_bob, size=HUGE)): "incomplete, or changed",
        put(daemon, alice, kept("amy@here.test>\r\nRSET", to_bob)): "malformed address",
        put(daemon, alice, kept("amy@here.test", "nobody-at-all@here.test")): "550",
    }
    head = pack_head(SubmissionMail("amy@here.test", (to_bob,), 0), 1 << 29)

    def huge():
        descriptor = os.open(folder(daemon) / ("7" * 32), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, head)
        os.ftruncate(descriptor, len(head) + (1 << 29))
        return 0

    assert become(alice, huge) == 0
    reasons["7" * 32] = "552"
    put(daemon, bob, kept("amy@here.test", to_bob))
    daemon.start()
    until(lambda: sum(name.endswith(".refused") for name in names(daemon)) >= 4, what="the end of all but one")
    for name, reason in reasons.items():
        pattern = rf"{name} of uid \d+ is .*{reason}"
        until(lambda pattern=pattern: re.search(pattern, daemon.log), what=reason)
    assert len(mails(users.home(bob))) == 1
    assert "Traceback" not in daemon.log
    assert daemon.stop() == 0


def test_while_no_session_is_given_the_mail_stays(daemon, alice, bob):
    assert sendmail(daemon, alice, bob)[0] == 0
    daemon.start("-P", "smtp", "-v")
    until(lambda: re.search(r"offline mail [0-9a-f]{32} of uid \d+: later", daemon.log), what="an attempt")
    assert len(names(daemon)) == 1
    assert daemon.stop() == 0


def test_the_directory_of_another_user_ends_the_start(daemon, alice):
    os.chown(folder(daemon), pwd.getpwnam(alice).pw_uid, 0)
    with pytest.raises(AssertionError, match="offline belongs to uid"):
        daemon.start()


def test_a_directory_without_the_sticky_bit_ends_the_start(daemon):
    folder(daemon).chmod(0o733)
    with pytest.raises(AssertionError, match="could remove each other's mail"):
        daemon.start()


def test_a_directory_where_users_may_not_write_is_said(daemon):
    folder(daemon).chmod(0o755)
    daemon.start()
    assert "sendmail keeps no mail" in daemon.log
    assert daemon.stop() == 0
