"""What sendmail and `smtpctl show status` load, and what they cost: they are called a thousand times by one script.

A module that is loaded and not named here costs every mail.  Where it is needed seldom, load it where it is needed, but
before root is given up, who may be the only one that can read the files of the interpreter.
"""

import os
import subprocess
import sys
import sysconfig

import pytest

from smtpd.ipc.query import Answer
from tests.smtpctl.conftest import TOP
from tests.smtpctl.server import Server

OF_PYTHON = {"_collections_abc", "_socket", "_stat", "errno", "genericpath", "os", "posixpath", "pwd", "select", "stat"}
ASKING = {
    "smtpd.ipc.signal_disposition",
    "smtpctl",
    "smtpctl.connection",
    "smtpctl.__main__",
    "smtpd",
    "smtpd.ipc",
    "smtpd.ipc.query",
} | {
    "smtpd.config",
    "smtpd.paths",
}
SENDING = {
    "smtpctl.addressing",
    "smtpctl.raw_mail",
    "smtpctl.sendmail_option",
    "smtpctl.simple_address",
    "smtpctl.sendmail",
    "smtpctl.session",
    "smtpctl.submission",
    "smtpctl.visible",
    "smtpd.smtp",
    "smtpd.smtp.line",
    "smtpd.smtp.reply",
    "smtpd.smtp.response",
    "smtpd.smtp.line_ending",
    "smtpd.smtp.dot_stuffing",
}
SHOWING = {"smtpctl.command", "smtpctl.status", "smtpctl.visible", "smtpctl.command_parser"}

MAIL = b"From: Amy A. <amy@here.test>\nTo: Bob <bob@here.test>, carol\nSubject: x\n\nhello\n"
RUNS = 15
BUDGET = 2.5  # times what the interpreter costs that does nothing


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A directory with the programs as they are installed; made as etc/programs.py makes them."""
    folder = tmp_path_factory.mktemp("programs")
    script = (
        "import sys, sysconfig; from etc import programs; sysconfig.get_path = dict({paths}).get; programs.main(['.'])"
    )
    paths = {"scripts": str(folder), "purelib": sysconfig.get_path("purelib")}
    subprocess.run([sys.executable, "-c", script.format(paths=paths)], check=True, cwd=TOP)
    return folder


def call(program, *words, options=("-I", "-S"), mail=MAIL):
    command = [sys.executable, *options, str(program), *words]
    return subprocess.run(command, input=mail, capture_output=True, check=True, timeout=60, cwd="/")


def loaded(program, *words):
    """By it and its child, and not by an interpreter that does nothing."""
    said = call(program, *words, options=("-I", "-S", "-X", "importtime")).stderr.decode()
    nothing = subprocess.run([sys.executable, "-I", "-S", "-X", "importtime", "-c", ""], capture_output=True).stderr
    return names(said) - names(nothing.decode())


def names(said):
    return {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}


@pytest.fixture
def server(control):
    made = []

    def make():
        made.append(Server({}))
        return made[-1].opened

    yield make
    for one in made:
        one.end()


@pytest.mark.parametrize("words", [["-oi", "-t"], ["-f", "amy@here.test", "bob", "carol@here.test"]])
def test_a_usual_mail_loads_only_what_it_needs(programs, control, server, words):
    control.answers[:] = [server()]
    found = loaded(programs / "sendmail", "--state", str(control.folder), *words)
    assert found <= OF_PYTHON | ASKING | SENDING


def test_show_status_loads_only_what_it_needs(programs, control):
    control.answers[:] = [Answer(True, "mda")]
    found = loaded(programs / "smtpctl", "--state", str(control.folder), "show", "status")
    assert found <= OF_PYTHON | ASKING | SHOWING


def cost(mail, *command):
    """Seconds of the processor, its children's with them."""
    with open(mail, "rb") as stdin:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("words", [["sendmail", "-t"], ["smtpctl", "show", "status"]], ids=" ".join)
def test_a_call_costs_little_more_than_the_interpreter(programs, control, server, tmp_path, words):
    mail = tmp_path / "mail"
    mail.write_bytes(MAIL)
    nothing, calls = [], []
    name, *words = words
    for _ in range(RUNS):
        nothing.append(cost(mail, sys.executable, "-c", "pass"))
        control.answers[:] = [Answer(True, "") if name == "smtpctl" else server()]
        calls.append(cost(mail, programs / name, "--state", str(control.folder), *words))
    assert min(calls) <= BUDGET * min(nothing)


def test_the_callers_python_is_not_ours(programs, tmp_path):
    """PYTHONPATH is for the caller's own programs: modules of the same names are not to be taken for ours."""
    (tmp_path / "smtpctl").mkdir()
    (tmp_path / "smtpctl/__main__.py").write_text("raise SystemExit(99)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    done = subprocess.run([programs / "sendmail", "--version"], env=environment, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(b"sendmail (smtpd) ")
