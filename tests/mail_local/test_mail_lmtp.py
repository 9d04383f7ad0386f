"""mail.lmtp as another mail server would run it."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.mail_local.lmtp_server import Server

TOP = Path(__file__).parent.parent.parent
UID = 54321 if os.geteuid() == 0 else os.getuid()  # nobody's
# Imports first: the interpreter may lie where only root can read.
START = """
import argparse, encodings.idna, locale, os, resource, shutil, sys
from mail_local.mail_lmtp import mail_lmtp
argparse.ArgumentParser().format_help()
uid, files = int(sys.argv.pop(1)), int(sys.argv.pop(1))
if os.getuid() != uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
sys.exit(mail_lmtp())
"""
MAIL = b"Subject: hello\n\n.Good morning.\n"
WIRED = b"Subject: hello\r\n\r\n.Good morning.\r\n"


@pytest.fixture
def serve():
    servers = []

    def serve_one(**more):
        servers.append(Server(**more))
        return servers[-1]

    yield serve_one
    for server in servers:
        server.stop()


def run(*arguments, mail=MAIL, uid=UID, limit="", files=0, **environment):
    begin = ["prlimit", limit] if limit else []
    variables = {"USER": "bob", "RECIPIENT": "bob@here.test", "SENDER": "amy@there.test", **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        [*begin, sys.executable, "-P", "-c", START, str(uid), str(files), *arguments],
        input=mail,
        capture_output=True,
        cwd="/",
        env={"PYTHONPATH": str(TOP), "PATH": os.environ["PATH"], **variables},
        timeout=30,
    )


@pytest.mark.parametrize("option, recipient", [("-u", "bob"), ("-r", "bob@here.test")])
def test_the_mail_is_delivered(serve, option, recipient):
    server = serve()
    done = run("-d", server.target, option)
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.mails == [(1, "amy@there.test", [recipient], WIRED)]
    assert server.ended.acquire(timeout=10)  # with QUIT


def test_over_a_socket_of_the_file_system(serve):
    """In a directory that every user may enter: those of pytest are for the one who runs it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        server = serve(family=socket.AF_UNIX, address=f"{directory}/lmtp")
        assert run("-d", server.target, "-u").returncode == 0
        assert len(server.mails) == 1


@pytest.mark.parametrize("arguments, sender", [(["-f", "eve@there.test"], "eve@there.test"), (["-f", ""], "")])
def test_the_sender_is_an_argument(serve, arguments, sender):
    server = serve()
    assert run("-d", server.target, "-u", *arguments).returncode == 0
    assert server.mails[0][1] == sender


def test_without_a_sender_it_is_the_null_sender(serve):
    server = serve()
    assert run("-d", server.target, "-u", SENDER=None).returncode == 0
    assert server.mails[0][1] == ""


def test_lines_that_end_with_both_and_no_line_end_at_the_end(serve):
    server = serve()
    assert run("-d", server.target, "-u", mail=b"a: b\r\n\r\n.\r\nx\ry").returncode == 0
    assert server.mails[0][3] == b"a: b\r\n\r\n.\r\nx\r\ny\r\n"


def test_no_return_path_of_the_mail_is_sent(serve):
    """The server adds the one that counts."""
    server = serve()
    assert run("-d", server.target, "-u", mail=b"Return-Path: <amy@there.test>\n" + MAIL).returncode == 0
    assert server.mails[0][3] == WIRED


def test_a_large_mail(serve):
    server = serve()
    mail = MAIL + b".line\n" * 500_000
    assert run("-d", server.target, "-u", mail=mail).returncode == 0
    assert server.mails[0][3] == mail.replace(b"\n", b"\r\n")


def test_a_server_that_closes_after_quit_has_the_mail_once(serve):
    server = serve(closes="quit")
    assert run("-d", server.target, "-u").returncode == 0
    assert len(server.mails) == 1


def test_a_server_that_closes_after_its_answer_has_the_mail_once(serve):
    server = serve(closes="used")
    assert run("-d", server.target, "-u").returncode == 0


def test_a_server_that_closes_without_an_answer_is_tried_later(serve):
    done = run("-d", serve(closes="dot").target, "-u")
    assert done.returncode == 75 and b"may arrive twice" in done.stderr


@pytest.mark.parametrize(
    "answers, status",
    [
        ({"accepts": {"bob": "550 5.1.1 no such user"}}, 69),
        ({"accepts": {"bob": "450 4.2.1 later"}}, 75),
        ({"answers": {"bob": "552 5.2.2 full"}}, 69),
        ({"answers": {"bob": "452 4.2.2 full"}}, 75),
    ],
)
def test_what_the_server_says_is_the_exit_status(serve, answers, status):
    done = run("-d", serve(**answers).target, "-u")
    assert done.returncode == status
    assert next(iter(next(iter(answers.values())).values())).encode() in done.stderr


def test_without_a_server_the_mail_is_deferred():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        done = run("-d", "{}:{}".format(*sock.getsockname()), "-u")
    assert done.returncode == 75 and b"Connection refused" in done.stderr


def test_no_room_for_a_copy(serve):
    server = serve()
    done = run("-d", server.target, "-u", mail=b"x" * 2_000_000, limit="--fsize=1500000")
    assert done.returncode == 71 and b"File too large" in done.stderr
    assert server.connections == 0


def test_a_name_that_cannot_be_looked_up_now_is_tried_later():
    done = run("-d", "nowhere.test", "-u", files=3)
    assert done.returncode == 75 and done.stderr.startswith(b"mail.lmtp: "), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-u"],
        ["-d", "a:b:c", "-u"],
        ["-d", "127.0.0.1"],
        ["-d", "127.0.0.1", "-r", "-u"],
        ["-d", "x", "-u", "more"],
    ],
)
def test_wrong_arguments(arguments):
    assert run(*arguments).returncode == 64


@pytest.mark.parametrize("option, variable", [("-u", "USER"), ("-r", "RECIPIENT")])
def test_no_recipient(option, variable):
    done = run("-d", "127.0.0.1", option, **{variable: ""})
    assert done.returncode == 64 and variable.encode() in done.stderr


def test_a_recipient_with_a_command_in_it_is_refused(serve):
    server = serve()
    assert run("-d", server.target, "-u", USER="bob>\r\nDATA").returncode == 69
    assert run("-d", server.target, "-u", "-f", "amy>\r\nDATA").returncode == 69
    assert server.mails == []


def test_help():
    done = run("--help")
    assert done.returncode == 0 and b"RECIPIENT" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is refused to it")
def test_root_is_refused(serve):
    server = serve()
    done = run("-d", server.target, "-u", uid=0)
    assert done.returncode == 75 and b"root" in done.stderr
    assert server.mails == []
