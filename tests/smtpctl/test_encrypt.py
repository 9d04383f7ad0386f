"""What is kept of a password, as smtpctl prints it; no daemon runs."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from smtpd.tables.credential import Argon2, parse_credential
from smtpd.tables.scram import Verifier

TOP = Path(__file__).parent.parent.parent


def smtpctl(*words, stdin=b"", **options):
    command = [sys.executable, "-m", "smtpctl", "--state", "/nowhere", *words]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=20, cwd=TOP, **options)


@pytest.mark.parametrize("words, kind", [(["encrypt"], Argon2), (["--scram", "enc"], Verifier)])
def test_each_line_is_a_password(words, kind):
    done = smtpctl(*reversed(words), stdin="sesame\ns\u00e4cret \nlast".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    made = [parse_credential(line) for line in done.stdout.decode().splitlines()]
    assert all(isinstance(credential, kind) for credential in made)
    for credential, password in zip(made, ("sesame", "s\u00e4cret ", "last"), strict=True):
        assert credential.check(password.encode()) and not credential.check(password.strip().encode() + b"x")


@pytest.mark.parametrize("words, kind", [(["encrypt", "sesame"], Argon2), (["encrypt", "--scram", "sesame"], Verifier)])
def test_a_password_on_the_command_line(words, kind):
    made = parse_credential(smtpctl(*words).stdout.decode().strip())
    assert isinstance(made, kind) and made.check(b"sesame")


def test_as_json():
    made = json.loads(smtpctl("-j", "encrypt", "sesame").stdout)
    assert parse_credential(made["credential"]).check(b"sesame")


@pytest.mark.parametrize(
    "stdin", [b"\n", b"sesame\r\n", b"ses\0ame\n", b"\xff\xfesesame\n", b"sesame" * 200 + b"\n"], ids=repr
)
def test_what_no_client_can_send_is_no_password(stdin):
    done = smtpctl("encrypt", stdin=stdin)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"smtpctl: ") and b"sesame" not in done.stderr


def test_what_no_client_can_send_on_the_command_line():
    assert smtpctl("encrypt", b"sesame\xff").returncode == 1


def typed(*passwords):
    """What is printed when these are typed on a terminal, each when it is asked for."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "smtpctl", "encrypt"]
    pipes = {"stdin": follower, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=TOP, start_new_session=True, bufsize=0, **pipes) as child:
        os.close(follower)
        error = b""
        for password in passwords:
            while not error.endswith(b": "):
                piece = child.stderr.read(1)
                assert piece, error
                error += piece
            os.write(leader, f"{password}\n".encode())
            error += b"\n"
        out, rest = child.communicate(timeout=20)
    os.close(leader)
    return child.returncode, out.decode(), (error + rest).decode()


def test_on_a_terminal_it_is_asked_for_twice():
    status, out, error = typed("sesame", "sesame")
    assert (status, error.count("password: "), error.count("again: ")) == (0, 1, 1)
    assert parse_credential(out.strip()).check(b"sesame")


@pytest.mark.parametrize("passwords", [("sesame", "other"), ("", "")])
def test_what_is_typed_wrongly(passwords):
    status, out, error = typed(*passwords)
    assert (status, out) == (1, "") and "sesame" not in error and "other" not in error
