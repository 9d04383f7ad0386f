"""sendmail -bs: whatever its lines end with and however much comes at once, and how it ends."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl.dialogue import Unfinished, _pass_mail
from smtpd.ipc.query import Answer
from tests.smtpctl.conftest import TOP
from tests.smtpctl.server import Server

MAIL = ["Subject: x", "", "hello", "..dot", "."]
DIALOGUE = ["HELO x", "MAIL FROM:<amy>", "RCPT TO:<bob>", "DATA", *MAIL, "QUIT"]
COMMANDS = ["HELO x", "MAIL FROM:<amy>", "RCPT TO:<bob>", "DATA", "QUIT"]
CONTENT = b"Subject: x\r\n\r\nhello\r\n..dot\r\n"


def joined(lines, end="\n"):
    return "".join(line + end for line in lines).encode()


@pytest.fixture
def talk(desk):
    """`talk(input, status, answers)`: the server that it has talked to."""
    servers = []

    def talk(given, status=0, answers=None):
        servers.append(Server({"HELO": "250 hello", "NOOP": "250 ok", **(answers or {})}))
        done = desk.call("sendmail", "-bs", "--state", str(desk.folder), answers=[servers[-1].opened], **given)
        servers[-1].end()
        assert done.returncode == status, done.stderr
        servers[-1].shown, servers[-1].errors = done.stdout, done.stderr
        return servers[-1]

    def start(given, *more):
        return talk({"input": given, "text": False}, *more)

    return start


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_dialogue_in_one_piece(talk, end):
    server = talk(joined(DIALOGUE, end))
    assert (server.said, server.content) == (COMMANDS, CONTENT)
    assert server.shown.startswith(b"220 mx.test\r\n250 hello\r\n") and server.shown.endswith(b"221 bye\r\n")


def test_the_last_line_needs_no_end(talk):
    assert talk(joined(DIALOGUE)[:-1]).said == COMMANDS


def test_it_ends_with_its_input(talk):
    assert talk(b"HELO x\nNOOP").said == ["HELO x", "NOOP"]


def test_an_empty_mail(talk):
    assert talk(b"DATA\n.\nQUIT\n").content == b""


@pytest.mark.parametrize(
    "answers, status",
    [
        ({"MAIL": "550 no"}, 70),
        ({"RCPT": "450 later"}, 75),
        ({".": "452 full"}, 75),
        ({".": "554 no"}, 70),
        ({"RCPT": "450 later", ".": "554 no"}, 70),
        ({"NOOP": "500 what"}, 70),
        ({"": "421 full"}, 75),
        ({"RCPT": ""}, 75),
        ({".": ""}, 75),
    ],
)
def test_it_ends_with_what_was_refused(talk, answers, status):
    talk(joined([DIALOGUE[0], "NOOP", *DIALOGUE[1:]]), status, answers)


@pytest.mark.parametrize("given", [["DATA"], ["DATA", *MAIL[:-1]]])
def test_an_input_that_ends_in_a_mail_is_told(talk, given):
    assert b"the input ended in the middle of a mail" in talk(joined(given), 65).errors


def test_the_mail_behind_a_refused_data_is_no_command(talk):
    mail = ["RCPT TO:<eve>", "QUIT", "."]
    server = talk(joined(["MAIL FROM:<amy>", "DATA", *mail, "NOOP", "QUIT"]), 70, {"DATA": "503 no recipient"})
    assert server.said == ["MAIL FROM:<amy>", "DATA", "NOOP", "QUIT"]


def test_who_waits_for_each_answer_gets_it(desk):
    server = Server({"DATA": "503 no", "HELO": "250 hello"})
    desk.answers[:] = [server.opened]
    command = [sys.executable, "-m", "smtpctl", "sendmail", "--state", str(desk.folder), "-bs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP) as process:
        for line, answer in (("", b"220"), ("HELO x\r", b"250"), ("DATA\r\n", b"503"), ("MAIL FROM:<a>\n", b"250")):
            process.stdin.write(line.encode())
            process.stdin.flush()
            assert process.stdout.readline().startswith(answer)
        process.communicate(b"QUIT\n", timeout=20)
    server.end()
    assert process.returncode == 70 and server.said == ["HELO x", "DATA", "MAIL FROM:<a>", "QUIT"]


class Pieces:
    """An Input for _pass_mail."""

    def __init__(self, pieces):
        self.pieces = list(pieces)
        self.rest = None

    def piece(self):
        return self.pieces.pop(0) if self.pieces else b""

    def give_back(self, text, *, skip_feed):
        self.rest = (b"\n" if skip_feed else b"") + text


TEXT = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"..", b"a", b"\r\n.\r\n", b"\n.\n"]), max_size=12).map(
    b"".join
)


@settings(max_examples=500)
@given(TEXT, st.lists(st.integers(0, 40), max_size=4))
def test_a_mail_ends_at_its_dot_however_it_is_cut(text, cuts):
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in zip(places, places[1:], strict=False)]
    sent = []
    if b"." not in lines[:-1]:
        with pytest.raises(Unfinished):
            _pass_mail(Pieces(pieces), sent.append)
        return
    _pass_mail(Pieces(pieces), sent.append)
    assert b"".join(sent) == b"\r\n".join([*lines[: lines.index(b".") + 1], b""])


def test_a_chunk_is_passed_byte_for_byte(desk):
    ours, theirs = socket.socketpair()
    heard = bytearray()

    def serve():
        with ours:
            ours.sendall(b"220 mx\r\n")
            while b"\r\n" not in heard:
                heard.extend(ours.recv(100))
            while len(heard) < 8 + 6:
                heard.extend(ours.recv(100))
            ours.sendall(b"250 ok\r\n")
            while data := ours.recv(100):
                heard.extend(data)

    thread = threading.Thread(target=serve)
    thread.start()
    options = {"input": b"BDAT 6\r\n\r\n\0\r\n.BDAT 3 LAST\n", "text": False}
    answers = [Answer(True, "", os.dup(theirs.fileno()))]
    theirs.close()
    done = desk.call("sendmail", "-bs", "--state", str(desk.folder), answers=answers, **options)
    thread.join(10)
    assert bytes(heard) == b"BDAT 6\r\n\r\n\0\r\n.BDAT 3 LAST\r\n"
    assert done.returncode == 65
