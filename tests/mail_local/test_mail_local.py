"""mail.local as another mail server would run it."""

import ctypes
import errno
import mailbox
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mail_local.program import _find_user
from smtpd import PRODUCT, VERSION

TOP = Path(__file__).parent.parent.parent
ROOT = os.geteuid() == 0
USER = "nobody" if ROOT else pwd.getpwuid(os.getuid()).pw_name
UID = pwd.getpwnam(USER).pw_uid
# Imports first: the interpreter may lie where only root can read.
START = """
import argparse, locale, os, pwd, resource, shutil, sys
from mail_local.program import mail_local
argparse.ArgumentParser().format_help()
uid, limit, files, directory = int(sys.argv.pop(1)), int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
if os.getuid() != uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
os.umask(0o777)  # a caller's, with which nothing that is made can be used
sys.exit(mail_local(directory, lock_timeout=0.0))
"""
MAIL = b"Subject: hello\n\nGood morning.\n"


@pytest.fixture
def spool():
    path = Path(tempfile.mkdtemp(prefix="smtpd-mbox-", dir="/var/tmp"))
    if ROOT:
        os.chown(path, UID, -1)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def command(spool, *arguments, uid=UID, limit=0, files=0):
    return [sys.executable, "-P", "-c", START, str(uid), str(limit), str(files), str(spool), *arguments]


ENVIRONMENT = {"PYTHONPATH": str(TOP), "PATH": os.environ["PATH"]}


def run(spool, *arguments, mail=MAIL, **more):
    return subprocess.run(
        command(spool, *arguments, **more), input=mail, capture_output=True, cwd="/", env=ENVIRONMENT, timeout=30
    )


def stored(path):
    box = mailbox.mbox(path, create=False)
    try:
        return [box.get_bytes(key) for key in box.iterkeys()]
    finally:
        box.close()


def test_the_mail_is_appended(spool):
    done = run(spool, "-f", "amy@there.test", USER)
    assert (done.returncode, done.stderr) == (0, b"")
    assert run(spool, "-l", USER, mail=b"second").returncode == 0
    assert stored(spool / USER) == [MAIL, b"second\n"]
    assert (spool / USER).read_bytes().startswith(b"From amy@there.test ")
    assert b"\n\nFrom %s " % USER.encode() in (spool / USER).read_bytes()
    assert os.listdir(spool) == [USER]
    assert (spool / USER).stat().st_mode & 0o777 == 0o600


def test_the_null_sender(spool):
    assert run(spool, "-f", "", USER).returncode == 0
    assert (spool / USER).read_bytes().startswith(b"From MAILER-DAEMON ")


def test_a_large_mail_that_comes_in_pieces(spool):
    mail = MAIL + b"From the sea\n" * 200_000
    assert run(spool, USER, mail=mail).returncode == 0
    assert stored(spool / USER) == [mail.replace(b"\nFrom ", b"\n>From ")]


def test_the_envelope_line_of_another_server_is_replaced(spool):
    assert run(spool, "-f", "amy@there.test", USER, mail=b"From eve Sat Nov 21 12:00:00 2026\n" + MAIL).returncode == 0
    assert stored(spool / USER) == [MAIL]


def test_a_header_field_that_looks_like_an_envelope_line_is_kept(spool):
    assert run(spool, USER, mail=b"From : eve@there.test\n" + MAIL).returncode == 0
    assert stored(spool / USER) == [b">From : eve@there.test\n" + MAIL]


def test_a_sender_with_a_mail_of_its_own(spool):
    assert run(spool, "-f", "amy\n\nFrom eve Sat Nov 21 12:00:00 2026\nSubject: forged", USER).returncode == 0
    assert stored(spool / USER) == [MAIL]


def test_several_users_get_the_mail_one_by_one(spool):
    done = run(spool, "no-such-user", USER, USER)
    assert done.returncode == 67 and b"no-such-user: no such user" in done.stderr
    assert stored(spool / USER) == [MAIL, MAIL]


def test_no_number_of_users_needs_more_than_a_few_descriptors(spool):
    assert run(spool, *[USER] * 20, files=16).returncode == 0
    assert stored(spool / USER) == [MAIL] * 20


def test_a_temporary_failure_is_the_exit_status_of_several(spool):
    (spool / f"{USER}.lock").touch()
    assert run(spool, USER, "no-such-user").returncode == 75


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", ".", ""])
def test_a_path_is_no_user(spool, name):
    assert run(spool, name).returncode == 67
    assert os.listdir(spool) == []


def test_what_is_no_mailbox_is_refused(spool):
    (spool / USER).symlink_to("victim")
    done = run(spool, USER)
    assert done.returncode == 73 and b"symbolic link" in done.stderr
    assert os.listdir(spool) == [USER]


def test_no_right_to_make_a_mailbox(spool):
    spool.chmod(0o500)
    done = run(spool, USER)
    told = f"mail.local: {USER}: there is no mailbox, and it cannot be created: permission denied for uid {UID}\n"
    assert done.returncode == 73 and done.stderr == told.encode()


def test_no_right_to_make_a_dot_lock_is_said_and_can_be_done_without(spool):
    run(spool, USER)
    spool.chmod(0o500)  # as /var/mail is for its users, there by root
    done = run(spool, USER)
    assert done.returncode == 75 and b"cannot create the dot-lock" in done.stderr
    assert run(spool, "-L", USER).returncode == 0
    assert stored(spool / USER) == [MAIL, MAIL]


def test_the_last_word_on_dot_locks_counts(spool):
    (spool / f"{USER}.lock").touch()
    assert run(spool, "-L", "-l", USER).returncode == 75
    assert run(spool, "-l", "-L", USER).returncode == 0


@pytest.mark.parametrize("mode", [0o2775, 0o755], ids=["Debian", "OpenBSD"])
@pytest.mark.skipif(not ROOT, reason="needs root: a directory of root's")
def test_the_mail_directories_of_systems(spool, mode):
    os.chown(spool, 0, 8)
    spool.chmod(mode)
    assert run(spool, USER).returncode == 73
    assert run(spool, USER, uid=0).returncode == 0
    assert (spool / USER).stat().st_uid == UID
    done = run(spool, USER)
    assert done.returncode == 75 and b"cannot create the dot-lock" in done.stderr
    assert run(spool, "-L", USER).returncode == 0
    assert stored(spool / USER) == [MAIL, MAIL]


@pytest.mark.skipif(not ROOT, reason="needs root: becomes one user and writes to another")
def test_another_users_mailbox_is_neither_made_nor_written(spool):
    os.chown(spool, 0, UID)
    spool.chmod(0o775)
    done = run(spool, "root")
    assert done.returncode == 73 and b"only root" in done.stderr
    assert os.listdir(spool) == []
    assert run(spool, "root", uid=0).returncode == 0
    done = run(spool, "-L", "root")
    told = f"mail.local: root: {spool}/root: permission denied for uid {UID}\n"
    assert done.returncode == 75 and done.stderr == told.encode()
    assert stored(spool / "root") == [MAIL]


def test_a_world_writable_directory_is_a_temporary_failure(spool):
    spool.chmod(0o777)
    assert run(spool, USER).returncode == 75
    assert os.listdir(spool) == []


def test_a_missing_directory_is_a_temporary_failure(spool):
    assert run(spool / "gone", USER).returncode == 75


def test_a_mail_for_which_there_is_no_room_is_taken_back(spool):
    run(spool, USER)
    done = run(spool, USER, mail=b"x" * 5000, limit=1000)
    assert done.returncode == 75 and b"File too large" in done.stderr
    assert stored(spool / USER) == [MAIL]
    assert os.listdir(spool) == [USER]


def test_no_room_for_a_copy(spool):
    done = run(spool, USER, mail=b"x" * 2_000_000, limit=1_500_000)
    assert done.returncode == 71 and b"File too large" in done.stderr
    assert os.listdir(spool) == []


def test_no_room_for_the_last_bytes_of_a_copy(spool, tmp_path):
    """They may wait in memory until the copy is read."""
    size = 17 * 65536 + 100  # read in whole pieces, and a last one that is small
    (tmp_path / "mail").write_bytes(b"x" * size)
    with open(tmp_path / "mail", "rb") as mail:
        program = subprocess.Popen(
            command(spool, USER, limit=size - 50), stdin=mail, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
        assert program.wait(30) == 71
    assert os.listdir(spool) == []


def test_nothing_is_locked_while_the_mail_is_still_coming(spool):
    program = subprocess.Popen(command(spool, USER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    program.stdin.write(MAIL)
    program.stdin.flush()
    assert run(spool, USER, mail=b"the second\n").returncode == 0
    program.communicate()
    assert program.returncode == 0
    assert stored(spool / USER) == [b"the second\n", MAIL]


def test_sigterm_ends_it_with_a_temporary_failure(spool):
    program = subprocess.Popen(command(spool, USER), stdin=subprocess.PIPE, env=ENVIRONMENT)
    program.stdin.write(b"x" * 1_000_000)  # more than a pipe holds: it is reading
    program.send_signal(signal.SIGTERM)
    assert program.wait(30) == 75
    program.stdin.close()
    assert os.listdir(spool) == []


@pytest.mark.parametrize("arguments", [(), ("-x", USER), ("-f",)])
def test_wrong_arguments(spool, arguments):
    done = run(spool, *arguments)
    assert done.returncode == 64 and done.stderr.startswith(b"mail.local: ")


def test_version(spool):
    done = run(spool, "--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"mail.local ({PRODUCT}) {VERSION}\n")


def test_help(spool):
    done = run(spool, "--help")
    assert done.returncode == 0 and b"dot-lock" in done.stdout
    assert os.listdir(spool) == []


# -- the user database --------------------------------------------------------------------------


def answers(monkeypatch, number, address=None):
    """Make getpwnam(3) answer, with that errno."""

    def getpwnam(_name):
        ctypes.set_errno(number)
        return address

    monkeypatch.setattr("mail_local.program._libc", SimpleNamespace(getpwnam=getpwnam))


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ECONNREFUSED])
def test_a_user_database_that_does_not_answer_is_a_temporary_failure(monkeypatch, number):
    answers(monkeypatch, number)
    with pytest.raises(OSError, match="the user database does not answer"):
        _find_user("no-such-user")


def test_a_user_database_that_answers_only_the_second_time_is_a_temporary_failure(monkeypatch):
    answers(monkeypatch, 0, address=1)
    with pytest.raises(OSError, match="the user database does not answer"):
        _find_user("no-such-user")


def test_an_error_of_an_earlier_call_is_none_of_the_user_database(monkeypatch):
    ctypes.set_errno(errno.EIO)
    monkeypatch.setattr("mail_local.program._libc", SimpleNamespace(getpwnam=lambda _name: None))
    assert _find_user("no-such-user") is None
