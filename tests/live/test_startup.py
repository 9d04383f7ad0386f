"""What a start makes, with the modes that it needs, and a start that is stopped before it is complete."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from functools import partial

import pytest

from tests.live.conftest import PYTHON, become, empty_maildir, mails, until
from tests.queue.test_schema import SCHEMA_2
from tests.trusted import OPTIONS

BOTH = """
listen on 127.0.0.1 port {port}
action "maildir" maildir
action "mbox" mbox
match from any for domain "maildir.test" action "maildir"
match from any for domain "mbox.test" action "mbox"
"""

# The same whatever the umask of the process that starts the daemon.
STATE = {
    "": 0o755,
    "empty": 0o755,
    "mail": 0o755,
    "mail/USER": 0o600,
    "offline": 0o1733,
    "smtpd.pid": 0o644,
    "smtpd.sock": 0o666,
    "spool": 0o700,
    "spool/content": 0o700,
    "spool/lock": 0o600,
    "spool/queue.db": 0o600,
    "spool/queue.db-shm": 0o600,
    "spool/queue.db-wal": 0o600,
}
MAILDIR = {"": 0o700, "cur": 0o700, "new": 0o700, "tmp": 0o700, "new/MAIL": 0o600}


def modes(top, names):
    """Mode of everything below `top` by its path; a name that differs each time is replaced by another one."""
    found = {"": stat.S_IMODE(top.stat().st_mode)}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        for part, instead in names.items():
            name = name.replace(part, instead)
        found[name] = stat.S_IMODE(path.lstat().st_mode)
    return found


@pytest.mark.parametrize("umask", ["0000", "0002", "0022", "0077"])
def test_modes_do_not_depend_on_the_umask(make_daemon, users, umask):
    user = users.make("smtpd-umask")
    daemon = make_daemon(BOTH).start(prefix=["sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    for domain in ("maildir.test", "mbox.test"):
        daemon.send(f"{user}@{domain}", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: daemon.log.count("stat=Delivered") == 2, what="delivery")
    until(lambda: not (daemon.state / "mail" / f"{user}.lock").exists(), what="the end of the lock")
    assert modes(daemon.state, {user: "USER"}) == STATE
    maildir = users.home(user) / "Maildir"
    (mail,) = (maildir / "new").iterdir()
    assert modes(maildir, {mail.name: "MAIL"}) == MAILDIR
    assert daemon.stop() == 0


def test_a_spool_of_an_earlier_version_is_brought_up_to_date_and_a_copy_stays(make_daemon, users, alice):
    daemon = make_daemon(BOTH)
    daemon.start()
    assert daemon.stop() == 0
    database = daemon.state / "spool/queue.db"
    owner = database.stat()
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.executescript(SCHEMA_2)
    connection.close()
    os.chown(database, owner.st_uid, owner.st_gid)
    database.chmod(0o600)
    daemon.start()
    assert "queue.db is of schema 2 and is brought up to date; a copy stays as queue.db.schema2" in daemon.log
    copy = database.with_name("queue.db.schema2")
    with sqlite3.connect(f"file:{copy}?immutable=1", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM envelope").fetchone() == (2,)
    connection.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and copy.stat().st_uid == owner.st_uid
    assert len(daemon.smtpctl("show", "queue").stdout.splitlines()) == 2
    empty_maildir(users.home(alice))
    daemon.send(f"{alice}@maildir.test", b"Subject: after\r\n\r\nx\r\n")
    until(lambda: mails(users.home(alice)), what="delivery")


@pytest.mark.parametrize("children", range(1, 8))
def test_an_interrupted_start_leaves_nothing(make_daemon, children):
    """As ^C at a terminal: the whole process group has the signal, as soon as so many children were seen."""
    daemon = make_daemon()
    command = [PYTHON, "-m", "smtpd", "-d", "--state", str(daemon.state), "-f", str(daemon.conf), *OPTIONS]
    with daemon.log_path.open("ab") as log:
        daemon.process = subprocess.Popen(command, stderr=log, cwd="/", start_new_session=True)
    until(lambda: len(daemon.descendants()) >= children, what=f"the start of {children} processes")
    os.killpg(daemon.process.pid, signal.SIGINT)
    assert daemon.ended() == 0, daemon.log
    assert "Traceback" not in daemon.log
    assert daemon.log.endswith(("info: SIGINT: the start is given up\n", "info: exiting\n"))
    assert not (daemon.state / "smtpd.pid").exists()
    assert not (daemon.state / "smtpd.sock").exists()


@pytest.fixture
def sticky(ground):
    """A directory where everybody may make files, and nobody may take away another's: as /tmp."""
    made = ground / "sticky"
    made.mkdir()
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def has_mail(home, subject):
    return any(f"Subject: {subject}\n".encode() in mail for mail in mails(home))


def test_a_state_below_a_sticky_directory(make_daemon, users, alice, sticky):
    daemon = make_daemon()
    daemon.state = sticky / "state"
    for subject in ("first", "second"):  # made, and found
        daemon.start()
        daemon.send(f"{alice}@here.test", f"Subject: {subject}\r\n\r\nx\r\n".encode())
        until(partial(has_mail, users.home(alice), subject), what="delivery")
        assert daemon.stop() == 0
    empty_maildir(users.home(alice))


@pytest.mark.skipif(bool(OPTIONS), reason="with --insecure-paths, which this checkout needs, nobody looks")
def test_a_state_that_another_user_has_made_below_a_sticky_directory(make_daemon, alice, sticky):
    daemon = make_daemon()
    daemon.state = sticky / "state"
    assert become(alice, lambda: os.mkdir(daemon.state) or 0) == 0
    with pytest.raises(AssertionError, match=r"fatal: /.*/state belongs to uid \d+, not to root"):
        daemon.start()


LONGEST = """
listen on 127.0.0.1 port {{port}} tag "{tag}"
mda wrapper "{wrapper}" "{comment} %{{{{mda}}}}"
action "{action}" mda "cat > mail; : {filling}" wrapper "{wrapper}"
match tag "{tag}" from any for any action "{action}"
"""


def test_the_longest_words_that_are_accepted_carry_a_mail(make_daemon, users):
    """In letters of three bytes: all that a recipient and its agent are told of the configuration."""
    user = users.make("smtpd-longest")
    words = {"tag": "€" * 32, "wrapper": "w" * 256, "action": "€" * 256, "comment": f": {'€' * 2000};"}
    daemon = make_daemon(LONGEST.format(filling="€" * 2050, **words)).start()
    daemon.send(f"{user}@here.test", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: "stat=Delivered" in daemon.log, what="delivery")
    assert (users.home(user) / "mail").read_text().endswith("\nx\n")
