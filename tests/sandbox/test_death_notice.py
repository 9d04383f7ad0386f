"""The name of the system call that somebody died of, out of the kernel's log."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd import sandbox
from smtpd.sandbox.seccomp import name_of
from smtpd.sandbox.seccomp_kill import parse_seccomp_kill
from tests.namespace import unshare

TOP = Path(__file__).parent.parent.parent

LINE = (
    "5,441,93510277,-;audit: type=1326 audit(1732180001.401:12): auid=4294967295 uid=64001 gid=64001 "
    'ses=4294967295 subj=kernel pid=812 comm="smtpd: queue" exe="/usr/bin/python3.13" sig=31 arch=c000003e '
    "syscall=59 compat=0 ip=0x7f0a code=0x80000000\n"
)


def test_the_line_of_a_killed_process():
    assert parse_seccomp_kill(LINE.replace('"smtpd: queue"', "736D7470643A207175657565")) == (812, 0xC000003E, 59)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "6,1,2,-;random: crng init done",
        LINE.replace("type=1326", "type=1400"),
        LINE.replace("sig=31", "sig=0"),
        LINE.replace("pid=812", "pid="),
        LINE.split(" arch=")[0],
    ],
)
def test_other_lines_of_the_kernel_log_are_ignored(line):
    assert parse_seccomp_kill(line) is None


def test_a_process_cannot_name_itself_after_another():
    """A comm with a blank is written in hex, so no text of it looks like a field."""
    forged = LINE.replace('"smtpd: queue"', '"pid=1"').replace("pid=812", "pid=813")
    assert parse_seccomp_kill(forged) == (813, 0xC000003E, 59)


@given(st.text())
def test_any_line_can_be_read(line):
    parse_seccomp_kill(line)
    parse_seccomp_kill(LINE[:100] + line)


def test_names_of_system_calls():
    assert name_of(59, 0xC000003E) == "execve"
    assert name_of(11, 0x40000003) == "execve"
    assert name_of(99999, 0xC000003E) == "number 99999"


def test_without_a_log_nothing_is_known():
    assert sandbox.describe_seccomp_kill(1, None) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a pid namespace")
def test_in_a_container_the_log_is_not_asked():
    """Its pids are those of the host, where the same number is somebody else."""
    program = "from smtpd import sandbox; print(sandbox.open_kernel_log())"
    command = [*unshare("--pid", "--fork", "--mount-proc"), sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
    assert done.stdout == "None\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read the kernel's log")
def test_the_log_tells_what_a_process_died_of():
    log = sandbox.open_kernel_log()
    if log is None:
        pytest.skip("the kernel's log cannot be read here: no /dev/kmsg, or pids of a container")
    deadline = time.monotonic() + 7
    found = None
    while found is None and time.monotonic() < deadline:
        child = os.fork()
        if child == 0:
            try:
                sandbox.enter(None, None, "stdio")
                os.execv("/bin/true", ["true"])
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGSYS
        # The kernel writes at most ten such lines in five seconds; others may have used them up.
        found = sandbox.describe_seccomp_kill(child, log, patience=1)
    os.close(log)
    if found is None:
        pytest.skip("the kernel's log did not get to it")
    assert found == "execve"
