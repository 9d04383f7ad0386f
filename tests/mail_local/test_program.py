"""mail.maildir as another mail server would run it."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mail_local import trace
from mail_local.program import _read_start

TOP = Path(__file__).parent.parent.parent
UID = 54321 if os.geteuid() == 0 else os.getuid()  # nobody's
# Imports first: the interpreter may lie where only root can read.
START = """
import argparse, locale, os, shutil, sys
from mail_local.program import mail_maildir
argparse.ArgumentParser().format_help()
uid = int(sys.argv.pop(1))
if os.getuid() != uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
os.umask(0o777)  # a caller's, with which nothing that is made can be used
sys.exit(mail_maildir())
"""
MAIL = b"Subject: hello\n\nGood morning.\n"


@pytest.fixture
def home():
    path = Path(tempfile.mkdtemp(prefix="smtpd-maildir-", dir="/var/tmp"))
    if os.geteuid() == 0:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(home, *arguments, mail=MAIL, uid=UID, limit="", **environment):
    variables = {"HOME": str(home), "PYTHONPATH": str(TOP), "PATH": os.environ["PATH"], **environment}
    begin = ["prlimit", limit] if limit else []
    return subprocess.run(
        [*begin, sys.executable, "-P", "-c", START, str(uid), *arguments],
        input=mail,
        capture_output=True,
        cwd="/",
        env={name: value for name, value in variables.items() if value is not None},
        timeout=30,
    )


def stored(maildir):
    return [path.read_bytes() for path in (maildir / "new").iterdir()]


def test_the_mail_is_stored_as_it_came(home):
    assert run(home).returncode == 0
    assert stored(home / "Maildir") == [MAIL]
    (path,) = (home / "Maildir/new").iterdir()
    assert re.fullmatch(r"\d+\.[0-9a-f]{16}\.\S+", path.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(home / "Maildir/tmp") == []


def test_the_same_mail_twice_is_two_mails(home):
    run(home)
    run(home)
    assert stored(home / "Maildir") == [MAIL, MAIL]


def test_a_large_mail_that_comes_in_pieces(home):
    mail = MAIL + bytes(range(256)) * 2000
    assert run(home, mail=mail).returncode == 0
    assert stored(home / "Maildir") == [mail]


def test_another_path(home):
    assert run(home, str(home / "mail/bob")).returncode == 0
    assert stored(home / "mail/bob") == [MAIL]


def test_junk(home):
    spam = b"X-Spam: yes\n" + MAIL
    assert run(home, "-j", mail=spam).returncode == 0
    assert stored(home / "Maildir/.Junk") == [spam]
    assert run(home, mail=spam).returncode == 0
    assert stored(home / "Maildir") == [spam]


def test_what_is_no_junk_is_stored_in_the_inbox(home):
    assert run(home, "-j").returncode == 0
    assert stored(home / "Maildir") == [MAIL]
    assert not (home / "Maildir/.Junk").exists()


def test_the_extension_names_a_folder(home):
    run(home)
    (home / "Maildir/.work").mkdir()
    if os.geteuid() == 0:
        os.chown(home / "Maildir/.work", UID, UID)
    assert run(home, EXTENSION="work").returncode == 0
    assert stored(home / "Maildir/.work") == [MAIL]


def test_an_extension_with_a_way_out_stays_inside(home):
    assert run(home, EXTENSION="../../evil").returncode == 0
    assert [path.name for path in home.iterdir()] == ["Maildir"]
    assert stored(home / "Maildir") == [MAIL]


def test_a_relative_path_is_a_temporary_failure(home):
    done = run(home, "Maildir")
    assert done.returncode == 75 and b"absolute" in done.stderr


@pytest.mark.parametrize("missing", ["", None])
def test_a_missing_home_is_a_temporary_failure(home, missing):
    done = run(home, HOME=missing)
    assert done.returncode == 75 and b"not an absolute path" in done.stderr


def test_a_mail_for_which_there_is_no_room_is_a_temporary_failure(home):
    done = run(home, mail=MAIL + b"x" * 20_000, limit="--fsize=8192")
    assert done.returncode == 75 and b"File too large" in done.stderr
    assert [path.name for path in (home / "Maildir").rglob("*") if path.is_file()] == []


def test_a_header_that_comes_in_pieces_is_read_up_to_what_is_searched(monkeypatch):
    mail = io.BytesIO(bytes(range(256)) * 1000)
    monkeypatch.setattr(os, "read", lambda _descriptor, size: mail.read(min(size, 1000)))
    assert _read_start() == mail.getvalue()[: trace.HEADER_MAX]


def test_a_home_that_cannot_be_written_is_a_temporary_failure(home):
    home.chmod(0o500)
    done = run(home)
    assert done.returncode == 75
    assert done.stderr.startswith(f"mail.maildir: {home}/Maildir: permission denied for uid ".encode())


def test_wrong_arguments(home):
    assert run(home, "-x").returncode == 64


def test_help(home):
    done = run(home, "--help")
    assert done.returncode == 0 and b"EXTENSION" in done.stdout
    assert not (home / "Maildir").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is refused to it")
def test_root_is_refused(home):
    done = run(home, uid=0)
    assert done.returncode == 1 and done.stderr
    assert not (home / "Maildir").exists()
