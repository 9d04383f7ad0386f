"""A daemon that dies at the n-th durable step of one of its processes (crashpoint.py), and what it had accepted.

Interpreter   one that imports crashpoint at each start
Load          a mail of each kind of delivery, and who has to have it
"""

import os
import shutil
import smtplib
import socketserver
import sqlite3
import sys
import sysconfig
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

from tests.live import crashpoint
from tests.live.conftest import COMPLETE, TOP, Daemon, empty_maildir, mails

ROLES = ("queue", "agent", "dispatcher", "parent", "nursery", "scheduler", "lookup")
CONF = """
listen on 127.0.0.1 port {port}
action "local" maildir
action "box" mbox
action "far" lmtp "127.0.0.1:{lmtp}"
action "run" mda "{take}"
match from any for domain "here.test" action "local"
match from any for domain "box.test" action "box"
match from any for domain "far.test" action "far"
match from any for domain "run.test" action "run"
"""
TAKE = """#!/bin/sh
# Keeps a mail in a file of its own, whole or not at all.
umask 077
mkdir -p "$HOME/got" && new=$(mktemp "$HOME/got/tmp.XXXXXX") && cat >"$new" && mv "$new" "$HOME/got/mail.${new##*.}"
"""


# A process that the parent starts looks for no .pth file, so it gets crashpoint from what it is executed by.
CHILD = """#!{real} -IS
import sys
sys.path.append({packages!r})
import crashpoint
start = sys.argv.index("-c") + 1
code, sys.argv = sys.argv[start], ["-c", *sys.argv[start + 1 :]]
exec(compile(code, "<string>", "exec"), {{"__name__": "__main__"}})
"""


class Interpreter:
    """As `python -m venv` makes it, with a line more; beside it, what it executes for the processes of the daemon."""

    def __init__(self, directory):
        real = Path(os.path.realpath(sys.executable))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._packages = directory / "lib" / version / "site-packages"
        self._packages.mkdir(parents=True)
        (directory / "bin").mkdir()
        (directory / "pyvenv.cfg").write_text(f"home = {real.parent}\ninclude-system-site-packages = false\n")
        self.path = directory / "bin" / "python"
        self.path.symlink_to(real)
        shutil.copy(crashpoint.__file__, self._packages)
        lines = [sysconfig.get_path("purelib"), str(TOP), "import crashpoint"]
        (self._packages / "crashpoint.pth").write_text("".join(f"{line}\n" for line in lines))
        child = directory / "bin" / crashpoint.CHILD
        child.write_text(CHILD.format(real=real, packages=str(self._packages)))
        child.chmod(0o755)
        self.pages = {role: self._page(role) for role in ROLES}

    def _page(self, role):
        path = self._packages / f"steps-{role}"
        path.write_bytes(bytes(crashpoint.SIZE))
        return crashpoint.Page(path)


class Server(socketserver.ThreadingTCPServer):
    """An LMTP server that takes everything, and remembers the subjects of what it has said 250 to."""

    daemon_threads = allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Session)
        self.taken = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self._talk()
        except OSError:
            pass

    def _talk(self):
        self._say("220 far.test LMTP")
        while line := self.rfile.readline():
            match line[:4].upper().strip():
                case b"LHLO":
                    self._say("250-far.test\r\n250 8BITMIME")
                case b"DATA":
                    self._say("354 go on")
                    content = b"".join(iter(self.rfile.readline, b".\r\n"))
                    self.server.taken[subject(content)] += 1
                    self._say("250 2.0.0 taken")
                case b"QUIT":
                    return self._say("221 bye")
                case _:
                    self._say("250 Ok")
        return None

    def _say(self, text):
        self.wfile.write(f"{text}\r\n".encode())


def subject(content):
    return content.replace(b"\r\n", b"\n").partition(b"\nSubject: ")[2].partition(b"\n")[0].decode()


class Trial:
    """One daemon, and mails to all kinds of users of it; `amy` has a .forward."""

    def __init__(self, ground, bob, amy, bob_home, amy_home):
        self.directory = ground / f"crash-{uuid.uuid4().hex[:8]}"
        self.directory.mkdir()
        self.server = Server()
        self._interpreter = Interpreter(self.directory / "python")
        self.pages = self._interpreter.pages
        take = self.directory / "take"
        take.write_text(TAKE)
        take.chmod(0o755)
        self.bob, self.amy, self._bob_home, self._amy_home = bob, amy, bob_home, amy_home
        forward = amy_home / ".forward"
        forward.write_text(f'\\{amy}, "|{take}"\n')
        shutil.chown(forward, amy)
        conf = CONF.replace("{lmtp}", str(self.server.server_address[1])).replace("{take}", str(take))
        self.daemon = Daemon(ground, conf)
        self.daemon.python = str(self._interpreter.path)
        self.doubles = Counter()
        self.lives = 0

    # -- one point ------------------------------------------------------------------------------------------------

    def crash(self, role, number):
        """Send mail to a daemon whose `role` ends at step `number`, and see that all of it is delivered.  The name of
        the step, or None when there are not so many."""
        if not self.daemon.running():
            self._start()
        page = self.pages[role]
        page.arm(number)
        accepted = self._send()
        self._wait(60)
        _, name = page.read()
        page.arm(0)
        if name and role != "agent":
            assert self.daemon.ended() != 0, name
            self._start()
        self._finish()
        self._check(accepted, f"{role}, step {number}: {name}")
        return name or None

    def _start(self):
        """Some minutes later: a dot-lock that a parent has left behind counts no more."""
        self.lives += 1
        for left in (self.daemon.state / "mail").glob("*.lock"):
            os.utime(left, (0, time.time() - 600))
        for _ in range(3):
            try:
                self.daemon.start()
                return
            except AssertionError:  # on a busy machine a process may be too late
                if "did not answer in time" not in self.daemon.log[-1000:]:
                    raise
        self.daemon.start()

    def _send(self):
        """Subject of each mail -> the recipients that it was accepted for."""
        accepted = {}
        recipients = [*dict.fromkeys(address for address, _ in self._kinds())]
        try:
            with self.daemon.client(20) as client:
                for lines in (1, 300):  # in a row of the database, and in a file of the spool
                    token = uuid.uuid4().hex
                    accepted[token] = set()
                    content = COMPLETE + f"Subject: {token}\r\n\r\n".encode() + (b"x" * 70 + b"\r\n") * lines
                    refused = client.sendmail("amy@there.test", recipients, content)
                    assert all(code // 100 == 4 for code, _ in refused.values()), refused
                    accepted[token] = {*recipients} - {*refused}
        except (OSError, smtplib.SMTPException):
            pass  # it has died, or says that it will
        return accepted

    def _wait(self, seconds):
        """Until all is delivered, or the daemon has died."""
        deadline = time.monotonic() + seconds
        while self._waiting() and time.monotonic() < deadline:
            if any(page.read()[1] for page in self.pages.values()):
                break
            time.sleep(0.02)

    def _waiting(self):
        """Envelopes in the queue."""
        path = self.daemon.state / "spool" / "queue.db"
        try:
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
            try:
                return database.execute("SELECT count(*) FROM envelope").fetchone()[0]
            finally:
                database.close()
        except sqlite3.Error:
            return 1

    def _finish(self):
        for _ in range(60):
            self._wait(1)
            if not self._waiting():
                return
            self.daemon.smtpctl("schedule", "all")  # what was lost with an agent would be tried in ten seconds
        raise AssertionError(f"the queue is not empty:\n{self.daemon.smtpctl('show', 'queue').stdout}{self.daemon.log}")

    # -- what there is ----------------------------------------------------------------------------------------------

    def _check(self, accepted, where):
        for (address, kind), counter in self._kinds().items():
            for token, recipients in accepted.items():
                count = counter[token]
                assert count or address not in recipients, f"{where}: lost, {kind}\n{self.daemon.log[-3000:]}"
                if count > 1:
                    assert not kind.startswith("Maildir"), f"{where}: twice in a {kind}\n{self.daemon.log[-3000:]}"
                    self.doubles[kind] += count - 1
        self._clear()

    def _kinds(self):
        """Each address and what becomes of its mail -> how often each subject is there."""
        return {
            (f"{self.bob}@here.test", "Maildir"): Counter(map(subject, mails(self._bob_home))),
            (f"{self.amy}@here.test", "Maildir of a .forward"): Counter(map(subject, mails(self._amy_home))),
            (f"{self.amy}@here.test", "command of a .forward"): self._taken(self._amy_home),
            (f"{self.bob}@box.test", "mbox"): Counter(self._in_box()),
            (f"{self.bob}@far.test", "LMTP"): self.server.taken,
            (f"{self.bob}@run.test", "command"): self._taken(self._bob_home),
        }

    def _in_box(self):
        path = self._box()
        content = path.read_bytes() if path.exists() else b""
        return [subject(b"\n" + mail) for mail in content.split(b"\nFrom ") if mail]

    def _box(self):
        return self.daemon.state / "mail" / self.bob

    def _taken(self, home):
        return Counter(subject(path.read_bytes()) for path in (home / "got").glob("mail.*"))

    def _clear(self):
        self.server.taken.clear()
        self._box().unlink(missing_ok=True)
        for home in (self._bob_home, self._amy_home):
            empty_maildir(home)
            for path in (home / "got").glob("*"):
                path.unlink()

    def close(self):
        self.daemon.kill()
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.daemon.directory)
        shutil.rmtree(self.directory)
