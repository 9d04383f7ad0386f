"""Programs whose caller ignores the end of children and blocks every signal: what a shell, a supervisor or another
mail server may have left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mail_local.test_mda import START as MAIL_PROGRAM
from tests.mail_local.test_mda import UID

TOP = Path(__file__).parent.parent.parent


def careless():
    """Before exec: as little as possible of what a program expects of its signals."""
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGQUIT):  # a shell may have started these tests in the background
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def run(*words, **more):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP)}
    return subprocess.run(
        [sys.executable, *words], preexec_fn=careless, cwd="/", env=environment, timeout=60, capture_output=True, **more
    )


@pytest.mark.parametrize("status", [0, 75, 100])
def test_the_status_of_a_command_is_not_lost(status):
    """What has failed would count as delivered."""
    done = run("-c", MAIL_PROGRAM, "mail_mda", str(UID), f"exit {status}", input=b"")
    assert done.returncode == status, done.stderr


# Imports first: the interpreter may lie where only root can read.
START = """
import argparse, encodings.idna, importlib, locale, os, shutil, sys
module, name, uid = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
program = getattr(importlib.import_module(module), name)
argparse.ArgumentParser().format_help()
if os.getuid() != uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
sys.exit(program())
"""


@pytest.mark.parametrize(
    "program, arguments, status",
    [
        (("mail_local.program", "mail_local"), ["bob"], 75),
        (("mail_local.program", "mail_maildir"), ["/nonexistent/Maildir"], -signal.SIGTERM),
        (("mail_local.mail_mboxfile", "mail_mboxfile"), ["/nonexistent/mbox"], 75),
        (("mail_local.mail_lmtp", "mail_lmtp"), ["-d", "/nonexistent/lmtp", "-u"], -signal.SIGTERM),
    ],
)
def test_a_mail_that_does_not_come_to_an_end_can_be_given_up(program, arguments, status):
    """By a caller that blocked SIGTERM for itself."""
    started = subprocess.Popen(
        [sys.executable, "-c", START, *program, str(UID), *arguments],
        preexec_fn=careless,
        stdin=subprocess.PIPE,
        pipesize=4096,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP), "USER": "bob"},
    )
    with started:
        started.stdin.write(b"x" * 40_000)  # more than this pipe holds: it is reading
        started.stdin.flush()
        started.send_signal(signal.SIGTERM)
        try:
            assert started.wait(30) == status
        finally:
            started.kill()


STATE = """
import signal
from smtpd.ipc.signal_disposition import reset_signals
reset_signals()
ignored = {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}
print(sorted(n.name for n in ignored), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""


def test_what_a_caller_may_have_meant_stays():
    done = run("-c", STATE, text=True)
    assert done.stdout == "['SIGHUP', 'SIGPIPE', 'SIGXFSZ'] []\n", done.stderr
