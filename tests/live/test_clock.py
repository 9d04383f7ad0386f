"""A queue that another clock has written: the daemon was stopped, the clock was set, and it starts again.

The machine's clock is everybody's, so the rows are moved instead, as far as the clock would have been.
"""

import contextlib
import sqlite3

from tests.live.conftest import mails, started, until

YEAR = 365 * 86400


# What the clock had written of each of three mails while it was ahead.
MOVED = [
    (2 * YEAR, ("created", "expires", "next_try", "last_try")),
    (YEAR, ("created", "expires")),
    (YEAR, ("next_try",)),
]


def move(daemon):
    with contextlib.closing(sqlite3.connect(daemon.state / "spool/queue.db")) as database, database:
        ids = [id for (id,) in database.execute("SELECT id FROM envelope")]
        for id, (seconds, names) in zip(ids, MOVED, strict=True):
            changes = ", ".join(f"{name} = {name} + {seconds}" for name in names)
            database.execute(f"UPDATE envelope SET {changes} WHERE id = ?", (id,))


def test_mail_from_the_future_is_tried_at_once_and_keeps_its_time(make_daemon, users):
    carol = users.make("smtpd-carol")
    obstacle = users.home(carol) / "Maildir"
    obstacle.write_bytes(b"")
    daemon = make_daemon()
    with started(daemon):
        for _ in MOVED:
            daemon.send(f"{carol}@here.test", b"Subject: early\r\n\r\nx\r\n")
        until(lambda: daemon.log.count("TempFail") >= len(MOVED), what="a first try of each")
        daemon.stop()
        move(daemon)
        before = daemon.log.count("TempFail")
        daemon.start()
        until(lambda: daemon.log.count("TempFail") >= before + len(MOVED), what="a try of each")
        assert "Expire" not in daemon.log
        obstacle.unlink()
        daemon.smtpctl("schedule", "all")
        until(lambda: len(mails(users.home(carol))) == len(MOVED), what="the delivery")
        until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
