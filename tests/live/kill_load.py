"""Load for a daemon that is killed: clients that send, users who edit their .forward, a reader of Maildirs.

Every mail has a token of its own as subject.  A client that does not hear 250 sends again, with another token.
"""

import contextlib
import hashlib
import os
import pwd
import random
import smtplib
import threading
import time
import uuid
from dataclasses import dataclass, field

from smtpd.slice import LMTP_USER
from tests.live.conftest import COMPLETE
from tests.mail_local import lmtp_server

CONF = """
smtp limit max-mails 100000
listen on 127.0.0.1 port {{port}}
table people {{{{ "lmtp-user" = "{uid}:{gid}:/nonexistent" }}}}
action "box" mbox
action "home" maildir
action "lmtp" lmtp "{lmtp}" userbase <people>
match from any for domain "box.test" action "box"
match from any for domain "home.test" action "home"
match from any for domain "lmtp.test" action "lmtp"
"""
SIZES = [1, 1, 1, 30, 30, 600, 3000]  # lines of content: in the database, in a spool file
PAUSE = 0.3  # seconds between mails of one client, at the most
RUN = "f=$(mktemp ran/part.XXXXXX) && cat >$f && {slow}mv $f ran/{name}.${{f#ran/part.}}"
X, Y = ('"|' + RUN.format(name=name, slow=slow) + '"' for name, slow in (("X", ""), ("Y", "sleep 0.1; ")))


@dataclass(frozen=True)
class Sent:
    recipients: tuple  # names of places
    body: bytes  # SHA-256, with LF


@dataclass
class Place:
    """Where a recipient's mail goes.  `forms` are what its .forward is changed to, one after the other."""

    name: str
    address: str
    user: str  # whose agents deliver
    home: object
    exactly_once: bool  # its Maildir
    forms: list = field(default_factory=list)
    commands: bool = False


def places_of(users, names):
    """One of each kind; `names` are users of the system, a fresh one for each but LMTP."""
    plain, box, runs, copies, several = names

    def place(name, user, forms=(), *, domain="home.test", exactly_once=True):
        return Place(name, f"{user}@{domain}", user, users.home(user), exactly_once, [*forms], bool(forms))

    made = [
        place("maildir", plain),
        place("mbox", box, domain="box.test", exactly_once=False),
        Place("lmtp", "lmtp-user@lmtp.test", LMTP_USER, None, False),
        place("command", runs, [X, Y], exactly_once=False),
        place("copies", copies, [f"\\{copies}, {X}", f"\\{copies}, {Y}"]),
        place("several", several, [f"\\{several}, {X}, {Y}", f"\\{several}, {Y}", f"\\{several}, {X}"]),
    ]
    for one in made:
        if one.forms:
            (one.home / "ran").mkdir()
            own(one.home / "ran", one.user)
    return {one.name: one for one in made}


def own(path, user):
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


class Background:
    """Threads that do `step()` over and over until `stop()`."""

    def __init__(self, step, count=1):
        self.ended = threading.Event()
        self.troubles = []
        self._step = step
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self.ended.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  (told by the test)
                self.troubles.append(repr(error))

    def stop(self):
        self.ended.set()
        for thread in self._threads:
            thread.join()


class Clients:
    """`accepted` got its 250; of what is in `unheard` no answer came after the final dot; all else was refused."""

    def __init__(self, daemon, places, seed):
        self.daemon, self.places = daemon, places
        self.accepted, self.unheard, self.refused = {}, {}, 0
        self._random = random.Random(seed)

    def step(self):
        try:
            with smtplib.SMTP("127.0.0.1", self.daemon.port, local_hostname="c.test", timeout=20) as client:
                client.ehlo()
                for _ in range(5):
                    self._send(client)
                    time.sleep(self._random.random() * PAUSE)
        except (OSError, smtplib.SMTPException):
            time.sleep(0.05)

    def _send(self, client):
        token = uuid.uuid4().hex
        wanted = self._random.sample(sorted(self.places), self._random.randint(1, 4))
        lines = b"%s\r\n" % (b"x" * 60) * self._random.choice(SIZES)
        client.mail("a@there.test")
        taken = [name for name in wanted if client.rcpt(self.places[name].address)[0] == 250]
        if not taken:
            client.rset()
            self.refused += 1
            return
        sent = Sent(tuple(taken), hashlib.sha256(lines.replace(b"\r\n", b"\n")).digest())
        self.unheard[token] = sent
        code, _ = client.data(COMPLETE + f"Subject: {token}\r\n\r\n".encode() + lines)
        del self.unheard[token]
        if code == 250:
            self.accepted[token] = sent
        else:
            self.refused += 1


class Editors:
    """Users who change their .forward to the next form and back, as an editor does: a new file in its place."""

    def __init__(self, places):
        self.places = [place for place in places.values() if place.forms]
        self.edits = 0
        for place in self.places:
            self._write(place)

    def step(self):
        time.sleep(random.random() * 0.3)
        self._write(random.choice(self.places))

    def _write(self, place):
        place.forms.append(place.forms.pop(0))
        new = place.home / ".forward.new"
        new.write_text(place.forms[0] + "\n")
        own(new, place.user)
        new.rename(place.home / ".forward")
        self.edits += 1


class Reader:
    """Moves what is new to cur/, with flags; of some it keeps what it has read, and deletes them."""

    def __init__(self, places):
        self.places = [place for place in places.values() if place.exactly_once]
        self.read = {place.name: [] for place in self.places}  # (when it was written, when it was deleted, content)
        self.moved = self.deleted = 0

    def step(self):
        time.sleep(0.02)
        for place in self.places:
            new = place.home / "Maildir/new"
            with contextlib.suppress(FileNotFoundError):  # no mail has come yet
                for name in os.listdir(new):
                    self._take(place, new / name)

    def _take(self, place, path):
        fate = random.random()
        if fate < 0.3:
            return  # for the next round
        seen = path.parent.parent / "cur" / (path.name + ":2," + random.choice(["", "S", "RS", "FS"]))
        path.rename(seen)
        self.moved += 1
        if fate < 0.5:
            content, written = seen.read_bytes(), seen.stat().st_mtime
            seen.unlink()
            self.read[place.name].append((written, time.time(), content))
            self.deleted += 1


def token_of(content):
    return content.partition(b"\nSubject: ")[2].partition(b"\n")[0].decode()


class Noted(list):
    """What an LMTP server has taken, and when."""

    def append(self, mail):
        super().append((time.time(), mail))


def lmtp():
    server = lmtp_server.Server(limit=100)
    server.mails = Noted()
    return server
