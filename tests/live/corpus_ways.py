"""Ways into the daemon for mails of tests/corpus: SMTP with DATA and BDAT, sendmail, and `sendmail -bs`.

Each mail has a sender of its own, "way.number@there.test", by which it is found again wherever it was delivered.
What the daemon said, or the exit status of sendmail, is a Result.
"""

import json
import os
import pwd
import random
import re
import socket
import sys
from typing import NamedTuple

from smtpctl.__main__ import main
from tests.corpus import Mail, Refused, expected
from tests.live.conftest import become

WAIT_MAX = 300  # seconds for an answer on a busy machine
GROUP = 20  # mails in a dialogue of `sendmail -bs`


class Result(NamedTuple):
    """`reply` is empty where sendmail said nothing; `status` is that of sendmail; `closed`: the session ended, too."""

    reply: str
    closed: bool = False
    status: int = 0


def sender(way, number):
    return f"{way}.{number}@there.test"


# -- SMTP -----------------------------------------------------------------------------------------------------------


class Client:
    """One connection after the other, for as many mails as each of them can take."""

    def __init__(self, port):
        self._port = port
        self._sock = self._replies = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()

    def by_data(self, way, number, mail, recipients):
        parameters = ("", " BODY=8BITMIME", " SMTPUTF8", " BODY=8BITMIME SMTPUTF8")[number % 4]
        self._begin(sender(way, number) + ">" + parameters, recipients, b"DATA\r\n")
        go_ahead = self._reply()
        assert go_ahead.startswith("354 "), go_ahead
        return self._hand_over(mail.as_data(), 1)

    def by_bdat(self, way, number, mail, recipients, chunks, parameters=""):
        """Commands and chunks in one piece, as a client may that does not wait (RFC 3030 4.2)."""
        self._begin(sender(way, number) + ">" + parameters, recipients)
        return self._hand_over(b"".join(chunks), len(chunks))

    def _begin(self, path, recipients, more=b""):
        if self._sock is None:
            self._connect()
        rcpts = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients)
        self._sock.sendall(f"MAIL FROM:<{path}\r\n{rcpts}".encode() + more)
        for _ in range(1 + len(recipients)):
            reply = self._reply()
            assert reply.startswith("250 "), reply

    def _hand_over(self, content, count):
        """The first of `count` replies that refuses, or the last."""
        try:
            self._sock.sendall(content)
        except ConnectionError:
            pass  # the reply says why
        found = ""
        for _ in range(count):
            reply = self._reply()
            if reply and (not found or found.startswith("250 ")):
                found = reply
        closed = not self._is_there()
        if closed:
            self._close()
        elif not reply.startswith("250 "):
            assert self._command("RSET").startswith("250 ")
        return Result(found, closed)

    def _is_there(self):
        return self._command("NOOP").startswith("250 ")

    def _command(self, line):
        try:
            self._sock.sendall(line.encode() + b"\r\n")
        except ConnectionError:
            pass
        return self._reply()

    def _connect(self):
        self._sock = socket.create_connection(("127.0.0.1", self._port), WAIT_MAX)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._sock.makefile("rb")
        assert self._reply().startswith("220 ")
        assert self._command("EHLO client.test").startswith("250 ")

    def _close(self):
        if self._sock is not None:
            self._replies.close()
            self._sock.close()
            self._sock = None

    def _reply(self):
        """Its last line; nothing where the connection has ended."""
        try:
            while line := self._replies.readline():
                if line[3:4] != b"-":
                    return line.decode()
        except ConnectionError:
            pass
        return ""


def whole(content):
    return [_last(content)]


def cut(content, number):
    """Chunks of sizes that are the same at each run: few large ones, one by one behind an empty last one, tiny ones,
    and between CR and LF and around a dot."""
    rng = random.Random(number)
    if number % 4 == 0:
        return [_chunk(content), _last(b"")]
    if number % 4 == 1:
        places = {rng.randrange(len(content) + 1) for _ in range(8)}
    elif number % 4 == 2:
        places = {*range(0, min(len(content), 60), 1 + number % 3), max(len(content) - 1, 0)}
    else:
        ends = [at + 1 for at in range(min(len(content), 20_000)) if content[at : at + 1] in (b"\r", b".")]
        places = {*ends[:20], *ends[-20:]}
    edges = [0, *sorted(places), len(content)]
    *pieces, last = [content[begin:end] for begin, end in zip(edges, edges[1:], strict=False)]
    return [*map(_chunk, pieces), _last(last)]


def _chunk(content):
    return b"BDAT %d\r\n%s" % (len(content), content)


def _last(content):
    return b"BDAT %d LAST\r\n%s" % (len(content), content)


# -- sendmail -------------------------------------------------------------------------------------------------------


def in_child(user, work, directory):
    """A child that becomes this user, and writes what `work` returns to a new directory, for `results`."""
    directory.mkdir(mode=0o700)
    os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
    pid = os.fork()
    if pid:
        return pid

    def run():
        (directory / "results").write_text(json.dumps(work()))
        return 0

    os._exit(become(user, run))


def results(pid, directory):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return {int(number): Result(**found) for number, found in json.loads((directory / "results").read_text()).items()}


def sendmail(state, user, directory, words, content):
    """Exit status, and all that it said; called by that user."""
    letter, said = directory / "letter", directory / "said"
    letter.write_bytes(content)
    for number, path, flags in ((0, letter, os.O_RDONLY), (1, said, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(1, 2)
    os.environ["HOME"] = pwd.getpwnam(user).pw_dir
    with (
        open(0, closefd=False) as sys.stdin,
        open(1, "w", closefd=False) as sys.stdout,
        open(2, "w", closefd=False) as sys.stderr,
    ):
        status = main(["sendmail", "--state", str(state), *words])
    return status, said.read_text(errors="replace")


def by_sendmail(state, user, directory, way, mails, recipients):
    """A call for each."""
    found = {}
    for number, mail in mails:
        words = ["-f", sender(way, number)]
        words += ["-t"] if way == "sendmail-t" else ["-i", *recipients]
        content = as_resent(mail, recipients).content if way == "sendmail-t" else mail.content
        status, said = sendmail(state, user, directory, words, content)
        reply = re.match(r"sendmail: command failed: ([^\n]*)", said)
        found[number] = Result(reply[1] if reply else said, status=status)._asdict()
    return found


def by_bs(state, user, directory, way, mails, recipients):
    """A call for several; each gets the reply to its end."""
    found = {}
    for numbers, text in dialogues(way, mails, recipients):
        status, said = sendmail(state, user, directory, ["-bs"], text)
        replies = re.split(r"^354 .*\n", said, flags=re.MULTILINE)[1:]
        assert len(replies) == len(numbers), said
        for number, reply in zip(numbers, replies, strict=True):
            found[number] = Result(reply.splitlines()[0], status=status)._asdict()
    return found


def as_resent(mail, recipients):
    """The mail with recipients for `sendmail -t` in front, in a field that is not sent on."""
    return Mail(mail.family, mail.name, b"Resent-Bcc: " + ", ".join(recipients).encode() + b"\n" + mail.content)


def by_lines(mail):
    """The mail as `sendmail -bs` reads it: any line end is one."""
    text = mail.content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return Mail(mail.family, mail.name, text)


def dialogues(way, mails, recipients):
    """Several mails in each, with all three line ends; what is refused has one of its own."""
    group = []
    for number, mail in mails:
        if isinstance(expected(by_lines(mail), "data"), Refused):
            yield [number], _dialogue(way, [(number, mail)], recipients)
            continue
        group.append((number, mail))
        if len(group) == GROUP:
            yield [number for number, _ in group], _dialogue(way, group, recipients)
            group = []
    if group:
        yield [number for number, _ in group], _dialogue(way, group, recipients)


def _dialogue(way, group, recipients):
    lines = ["EHLO client.test\n"]
    text = b""
    rcpts = "".join(f"RCPT TO:<{recipient}>\n" for recipient in recipients)
    for number, mail in group:
        begin = f"{''.join(lines)}MAIL FROM:<{sender(way, number)}>\n{rcpts}DATA\n".encode()
        end = (b"\n", b"\r\n", b"\r")[number % 3]
        text += (begin + by_lines(mail).as_data().replace(b"\r\n", b"\n")).replace(b"\n", end)
        lines = []
    return text + b"QUIT\n"
