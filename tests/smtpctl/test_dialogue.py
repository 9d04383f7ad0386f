"""sendmail -bs: whatever its lines end with and however much comes at once, and how it ends."""

import os
import re
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpctl import dialogue
from smtpctl.dialogue import MailIncomplete, _pass_mail
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
def talk(control):
    """`talk(input, status, answers)`: the server that it has talked to."""
    servers = []

    def talk(given, status=0, answers=None):
        servers.append(Server({"HELO": "250 hello", "NOOP": "250 ok", **(answers or {})}))
        done = control.call("sendmail", "-bs", "--state", str(control.folder), answers=[servers[-1].opened], **given)
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
def test_the_exit_status_says_what_was_refused(talk, answers, status):
    talk(joined([DIALOGUE[0], "NOOP", *DIALOGUE[1:]]), status, answers)


@pytest.mark.parametrize("given", [["DATA"], ["DATA", *MAIL[:-1]]])
def test_an_input_that_ends_in_a_mail_is_an_error(talk, given):
    assert b"the input ended in the middle of a mail" in talk(joined(given), 65).errors


def test_the_mail_behind_a_refused_data_is_no_command(talk):
    mail = ["RCPT TO:<eve>", "QUIT", "."]
    server = talk(joined(["MAIL FROM:<amy>", "DATA", *mail, "NOOP", "QUIT"]), 70, {"DATA": "503 no recipient"})
    assert server.said == ["MAIL FROM:<amy>", "DATA", "NOOP", "QUIT"]


def test_a_client_that_waits_for_each_answer_gets_it(control):
    server = Server({"DATA": "503 no", "HELO": "250 hello"})
    control.answers[:] = [server.opened]
    command = [sys.executable, "-m", "smtpctl", "sendmail", "--state", str(control.folder), "-bs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP) as process:
        for line, answer in (("", b"220"), ("HELO x\r", b"250"), ("DATA\r\n", b"503"), ("MAIL FROM:<a>\n", b"250")):
            process.stdin.write(line.encode())
            process.stdin.flush()
            assert process.stdout.readline().startswith(answer)
        process.communicate(b"QUIT\n", timeout=20)
    server.end()
    assert process.returncode == 70 and server.said == ["HELO x", "DATA", "MAIL FROM:<a>", "QUIT"]


def test_a_line_end_that_comes_in_two_pieces_is_one(control):
    server = Server({})
    control.answers[:] = [server.opened]
    command = [sys.executable, "-m", "smtpctl", "sendmail", "--state", str(control.folder), "-bs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP) as process:
        process.stdin.write(b"DATA\r")
        process.stdin.flush()
        assert [process.stdout.readline()[:3] for _ in range(2)] == [b"220", b"354"]
        process.communicate(b"\nx\n.\n\r\n.\r\nQUIT\r\n", timeout=20)
    server.end()
    assert process.returncode == 0 and server.said == ["DATA", "QUIT"]


def test_a_server_that_refuses_and_closes_in_the_middle_of_a_mail_has_refused_it(capfdbinary):
    """Nothing waits for an answer then."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = dialogue.Server(theirs)
        ours.sendall(b"500 5.5.2 Line too long\r\n")
        ours.close()
        server.listen()
        with pytest.raises(dialogue.ServerClosed):
            server.listen()
    assert server.refused == {5}
    assert capfdbinary.readouterr().out == b"500 5.5.2 Line too long\r\n"


class Pieces:
    """An Input for _pass_mail."""

    def __init__(self, pieces, line_end):
        self.pieces, self.line_end = list(pieces), line_end
        self.rest = None

    def piece(self):
        return self.pieces.pop(0) if self.pieces else b""

    def give_back(self, text, *, skip_feed):
        self.rest = text + b"".join(self.pieces)


def passed(text, end, cuts=()):
    """What is sent, and what is left; None when the mail does not end."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = Pieces([text[start:stop] for start, stop in zip(places, places[1:], strict=False)], end)
    sent = []
    try:
        _pass_mail(pieces, sent.append)
    except MailIncomplete:
        return None
    return b"".join(sent), pieces.rest


ENDS = [b"\r\n", b"\n", b"\r"]
TEXT = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"..", b"a", b"\r\n.\r\n", b"\n.\n"]), max_size=12).map(
    b"".join
)
CUTS = st.lists(st.integers(0, 40), max_size=4)


@settings(max_examples=500)
@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a"]), max_size=8), st.sampled_from(ENDS), CUTS)
def test_a_mail_ends_at_its_dot_however_it_is_cut(lines, end, cuts):
    found = passed(b"".join(line + end for line in lines), end, cuts)
    if b"." not in lines:
        assert found is None
        return
    count = lines.index(b".") + 1
    sent = b"".join(line + b"\r\n" for line in lines[:count])
    assert found == (sent, b"".join(line + end for line in lines[count:]))


@settings(max_examples=1000)
@given(TEXT, st.sampled_from(ENDS), CUTS)
@example(b"\r\n.\n\r\n.\r\n", b"\r\n", [4])
@example(b"\r\n.\n.\n\r\n.\r\n", b"\r\n", [5])
def test_smuggling_in_a_mail_the_server_finds_its_end_where_its_writer_has_put_it(text, end, cuts):
    dot = re.compile({b"\r\n": rb"\r\n\.\r\n", b"\n": rb"\n\.\r?\n", b"\r": rb"\r\.\r\n?"}[end])
    written = dot.search(end + text)
    found = passed(text, end, cuts)
    assert (found is None) == (written is None)
    if not found:
        return
    sent, rest = found
    read = b"\r\n" + sent
    assert read.find(b"\r\n.\r\n") == len(read) - 5
    assert b"\r" not in read.replace(b"\r\n", b"") and b"\n" not in read.replace(b"\r\n", b"")
    assert rest.lstrip(b"\n") == (end + text)[written.end() :].lstrip(b"\n")


@pytest.mark.parametrize("dot", ["\r.\r\n", "\n.\n", "\n.\r\n", "\r\n.\n", "\r\n.\r"])
def test_smuggling_what_stands_in_a_mail_is_no_command(talk, dot):
    """A program that knows CRLF only has doubled no other dot."""
    mail = f"Subject: x\r\n\r\nhello{dot}MAIL FROM:<eve>\r\nRCPT TO:<bob>\r\nDATA\r\nx\r\n.\r\n"
    server = talk(joined(DIALOGUE[:4], "\r\n") + mail.encode() + b"QUIT\r\n")
    assert server.said == COMMANDS
    assert b"\r\n..\r\nMAIL FROM:<eve>\r\n" in server.content


@pytest.mark.parametrize("blanks", [b"", b" \t"], ids=["plain", "blanks"])
def test_a_chunk_is_passed_byte_for_byte(control, blanks):
    ours, theirs = socket.socketpair()
    heard = bytearray()

    def serve():
        with ours:
            ours.sendall(b"220 mx\r\n")
            while b"\r\n" not in heard:
                heard.extend(ours.recv(100))
            while len(heard) < len(blanks) + 8 + 6 and (data := ours.recv(100)):
                heard.extend(data)
            ours.sendall(b"250 ok\r\n")
            while data := ours.recv(100):
                heard.extend(data)

    thread = threading.Thread(target=serve)
    thread.start()
    options = {"input": blanks + b"BDAT 6\r\n\r\n\0\r\n.BDAT 3 LAST\n", "text": False}
    answers = [Answer(True, "", os.dup(theirs.fileno()))]
    theirs.close()
    done = control.call("sendmail", "-bs", "--state", str(control.folder), answers=answers, **options)
    thread.join(10)
    assert bytes(heard) == blanks + b"BDAT 6\r\n\r\n\0\r\n.BDAT 3 LAST\r\n"
    assert done.returncode == 65
