"""What has become of every mail after all those kills: lost, changed, doubled, and what explains a double."""

import hashlib
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tests.live.kill_load import token_of

SECOND = 1.5  # a mailbox has the second in which a mail was written, and a batch is written with one time
GOES_ON = 5.0  # that a command or a server, whose agent was killed, may take to its end, on a busy machine
LATE = 60.0  # seconds after which a delivery that has been made must have been made known, on a busy machine


class Copy(NamedTuple):
    when: float  # it was written
    kind: str
    body: bytes  # SHA-256
    gone: float | None  # when the reader deleted it


@dataclass
class Kill:
    when: float
    kind: str
    victims: list  # (title, pid)
    vital: bool  # the end of the daemon
    over: float = 0.0  # when that had come

    def concerns(self, place):
        titles = {f"agent of {place.user}", *(["other"] if place.commands else [])}
        return self.vital or any(title in titles for title, _ in self.victims)

    def __str__(self):
        titles = Counter(title for title, _ in self.victims)
        return f"{self.kind} ({', '.join(titles) if len(titles) < 5 else f'{len(self.victims)} processes'})"


@dataclass
class Verdict:
    lost: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    unexplained: list = field(default_factory=list)
    doubles: list = field(default_factory=list)  # lines to print
    counts: Counter = field(default_factory=Counter)

    @property
    def violations(self):
        return (
            [f"lost: {line}" for line in self.lost]
            + [f"changed: {line}" for line in self.changed]
            + [f"doubled: {line}" for line in self.unexplained]
        )


def arrivals(places, reader, server, mail_directory):
    """(place, kind of copy) -> token -> copies."""
    found = defaultdict(lambda: defaultdict(list))

    def add(place, kind, when, content, gone=None):
        body = content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
        token = token_of(content.replace(b"\r\n", b"\n"))
        found[place, kind][token].append(Copy(when, kind, hashlib.sha256(body).digest(), gone))

    for place in places.values():
        if place.exactly_once:
            for part in ("new", "cur"):
                for path in (place.home / "Maildir" / part).glob("*"):
                    add(place.name, "maildir", path.stat().st_mtime, path.read_bytes())
            for when, gone, content in reader.read[place.name]:
                add(place.name, "maildir", when, content, gone)
        if place.commands:
            for path in (place.home / "ran").glob("[XY].*"):
                add(place.name, path.name[0], path.stat().st_mtime, path.read_bytes())
        if place.name == "mbox":
            for when, content in mails_of_box(mail_directory / place.user):
                add(place.name, "mbox", when, content)
    for when, (_, _, _, content) in server.mails:
        add("lmtp", "lmtp", when, content)
    return found


def mails_of_box(path):
    """(when, content) of each mail."""
    for piece in (b"\n" + path.read_bytes().removesuffix(b"\n")).split(b"\nFrom ")[1:]:
        line, _, content = piece.partition(b"\n")
        written = time.strptime(line.decode().split(" ", 1)[1])
        yield time.mktime(written), content


def judge(clients, places, found, kills):
    verdict = Verdict()
    known = {**clients.accepted, **clients.unheard}
    for (name, kind), tokens in found.items():
        for token, copies in tokens.items():
            _check_content(verdict, name, kind, token, copies, known.get(token))
    for token, sent in clients.accepted.items():
        for name in sent.recipients:
            _find_lost(verdict, token, places[name], found)
            verdict.counts[f"{name} accepted"] += 1
    arrived = {token for tokens in found.values() for token, copies in tokens.items() if copies}
    verdict.counts["perhaps accepted twice"] = len(arrived & clients.unheard.keys())
    verdict.counts["refused and delivered"] = len(arrived - known.keys())
    _judge_doubles(verdict, places, found, kills)
    return verdict


def _check_content(verdict, name, kind, token, copies, sent):
    """Leaves those of `copies` that are whole."""
    if sent is None:
        return
    whole = [copy for copy in copies if copy.body == sent.body]
    if len(whole) < len(copies):
        if kind == "mbox":  # a kill in the midst of it; the next mail begins on a line of its own
            verdict.counts["torn in the mailbox"] += 1
        else:
            verdict.changed.append(f"{token} in {name}, {kind}")
        copies[:] = whole


def _find_lost(verdict, token, place, found):
    if place.exactly_once and not found[place.name, "maildir"][token]:
        verdict.lost.append(f"{token} of the Maildir of {place.name}")
    if place.commands and not (found[place.name, "X"][token] or found[place.name, "Y"][token]):
        verdict.lost.append(f"{token} of the commands of {place.name}")
    if place.name in ("mbox", "lmtp") and not found[place.name, place.name][token]:
        verdict.lost.append(f"{token} of {place.name}")


def _judge_doubles(verdict, places, found, kills):
    merged = defaultdict(lambda: defaultdict(list))
    for (name, kind), tokens in found.items():
        # Of a .forward with one command at a time, both are copies of one.
        group = "command" if kind in ("X", "Y") and name != "several" else kind
        for token, copies in tokens.items():
            merged[name, group][token] += copies
    for (name, kind), tokens in merged.items():
        place = places[name]
        for token, copies in tokens.items():
            copies.sort(key=lambda copy: copy.when)
            for first, second in pairwise(copies):
                verdict.counts[f"{name} {kind} doubled"] += 1
                _explain(verdict, place, kind, token, first, second, kills)


def _explain(verdict, place, kind, token, first, second, kills):
    """A kill before queue had made known what was delivered; in a Maildir that is none, but for a reader who has taken
    the mail away before the next try looks for it."""
    since = first.when - {"mbox": SECOND, "maildir": 0.0}.get(kind, GOES_ON)
    until = second.when + (SECOND if kind == "mbox" else 0.0)
    between = [kill for kill in kills if kill.when <= until and since <= kill.over and kill.concerns(place)]
    between.sort(key=lambda kill: abs(kill.when - first.when))
    line = f"{place.name}, {token}: {first.kind}, "
    if not between:
        before = [kill for kill in kills if kill.when < second.when and kill.concerns(place)]
        line += f"the last kill {before[-1].when - first.when:+.2f} s {before[-1]}, " if before else "no kill, "
    else:
        line += f"{between[0].when - first.when:+.2f} s {between[0]}, "
    explained = bool(between) and between[0].when - first.when < LATE
    if kind == "maildir":
        verdict.counts["deleted by the reader before the next try"] += first.gone is not None
        explained = explained and first.gone is not None and first.gone < second.when
        line += "" if first.gone is None else f"{first.gone - first.when:+.2f} s deleted by the reader, "
    line += f"{second.when - first.when:+.2f} s {second.kind}"
    (verdict.doubles if explained else verdict.unexplained).append(line)
