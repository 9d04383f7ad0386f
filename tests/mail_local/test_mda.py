"""mail.mda and mail.mboxfile as another mail server would run them."""

import mailbox
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
UID = 54321 if os.geteuid() == 0 else os.getuid()  # nobody's
# Imports first: the interpreter may lie where only root can read.
START = """
import argparse, locale, os, shutil, sys
from mail_local import mail_mboxfile, mail_mda
argparse.ArgumentParser().format_help()
name, uid = sys.argv.pop(1), int(sys.argv.pop(1))
program = getattr({"mail_mda": mail_mda, "mail_mboxfile": mail_mboxfile}[name], name)
if os.getuid() != uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
if name == "mail_mboxfile":
    os.umask(0o777)  # a caller's, with which nothing that is made can be used
sys.exit(program())
"""
MAIL = b"Subject: hello\n\nGood morning.\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is refused to it")


@pytest.fixture
def home():
    path = Path(tempfile.mkdtemp(prefix="smtpd-mda-", dir="/var/tmp"))
    if os.geteuid() == 0:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(program, *arguments, mail=MAIL, uid=UID, home="/", limit=""):
    begin = ["prlimit", limit] if limit else []
    return subprocess.run(
        [*begin, sys.executable, "-P", "-c", START, program, str(uid), *arguments],
        input=mail,
        capture_output=True,
        cwd=home,
        env={"PYTHONPATH": str(TOP), "PATH": os.environ["PATH"]},
        timeout=30,
    )


# -- mail.mda ------------------------------------------------------------------------------------


def test_the_command_gets_the_mail_and_says_what_it_says(home):
    done = run("mail_mda", "cat > mail; echo out; echo err >&2", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    assert (home / "mail").read_bytes() == MAIL


@pytest.mark.parametrize("status", [0, 1, 67, 75, 255])
def test_its_exit_status_is_that_of_the_command(status):
    assert run("mail_mda", f"exit {status}").returncode == status


def test_a_command_that_is_killed_has_no_status():
    assert run("mail_mda", "kill -9 $$").returncode == 75


def test_a_pipe_that_breaks_ends_a_command_as_it_would_in_a_shell(home):
    run("mail_mda", "(yes; echo $? > status) | head -c 1", home=home)
    assert (home / "status").read_text() == "141\n"  # SIGPIPE


def test_a_shell_that_cannot_be_started_is_a_temporary_failure():
    done = run("mail_mda", "true", limit="--nproc=0")
    assert done.returncode == 75 and done.stderr.startswith(b"mail.mda: "), done.stderr


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["-x", "a"]])
def test_wrong_arguments_of_mail_mda(arguments):
    assert run("mail_mda", *arguments).returncode == 1


@needs_root
def test_root_runs_no_command(home):
    done = run("mail_mda", "touch run", uid=0, home=home)
    assert done.returncode == 1 and b"root" in done.stderr
    assert not (home / "run").exists()


# -- mail.mboxfile --------------------------------------------------------------------------------


def test_the_mail_is_appended(home):
    for sender in ("amy@there.test", "eve@there.test"):
        assert run("mail_mboxfile", "-f", sender, str(home / "archive")).returncode == 0
    with closing(mailbox.mbox(home / "archive")) as box:
        one, two = box
    assert one.get_from().startswith("amy@there.test ") and two.get_from().startswith("eve@there.test ")
    assert one.as_bytes() == two.as_bytes() == MAIL
    assert (home / "archive").stat().st_mode & 0o777 == 0o600


def test_a_relative_path_is_below_the_working_directory(home):
    assert run("mail_mboxfile", "archive", home=home).returncode == 0
    assert (home / "archive").exists()


def test_no_sender_is_the_mailer_daemon(home):
    run("mail_mboxfile", "-f", "", "archive", home=home)
    assert (home / "archive").read_bytes().startswith(b"From MAILER-DAEMON ")


def test_an_envelope_line_in_front_is_left_out(home):
    run("mail_mboxfile", "archive", home=home, mail=b"From amy Sat Nov 21 09:16:04 2026\n" + MAIL)
    assert (home / "archive").read_bytes().count(b"From ") == 1


def test_each_line_that_begins_with_from_is_quoted(home):
    run("mail_mboxfile", "archive", home=home, mail=MAIL + b"From a\nFrom b\n")
    assert (home / "archive").read_bytes().endswith(b"\n>From a\n>From b\n\n")


def test_a_link_is_trouble_and_not_followed(home):
    (home / "archive").symlink_to("other")
    done = run("mail_mboxfile", "archive", home=home)
    assert done.returncode == 75 and b"symbolic link" in done.stderr
    assert not (home / "other").exists()


def test_a_file_that_would_grow_too_large_is_trouble_and_left_as_it_was(home):
    run("mail_mboxfile", "archive", home=home)
    before = (home / "archive").read_bytes()
    done = run("mail_mboxfile", "archive", home=home, mail=MAIL + b"x" * 20000, limit="--fsize=8192")
    assert done.returncode == 75 and b"too large" in done.stderr
    assert (home / "archive").read_bytes() == before


@needs_root
def test_a_full_disk_is_trouble_and_leaves_nothing(home):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=16k,uid={UID},mode=700", "tmpfs", home], check=True)
    try:
        assert run("mail_mboxfile", "archive", home=home, mail=MAIL + b"x" * 100_000).returncode == 75
        assert (home / "archive").read_bytes() == b""
        assert run("mail_mboxfile", "archive", home=home).returncode == 0
    finally:
        subprocess.run(["umount", "-l", home], check=True)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["-x", "a"]])
def test_wrong_arguments_of_mail_mboxfile(arguments):
    assert run("mail_mboxfile", *arguments).returncode == 64


@needs_root
def test_root_writes_no_file(home):
    assert run("mail_mboxfile", "archive", uid=0, home=home).returncode == 1
    assert not (home / "archive").exists()
