"""mail.maildir as another mail server would run it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


def run(home, *arguments, mail=MAIL, uid=UID, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", START, str(uid), *arguments],
        input=mail,
        capture_output=True,
        cwd="/",
        env={"HOME": str(home), "PYTHONPATH": str(TOP), "PATH": os.environ["PATH"], **environment},
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


def test_a_missing_home_is_a_temporary_failure(home):
    assert run(home, HOME="").returncode == 75


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
