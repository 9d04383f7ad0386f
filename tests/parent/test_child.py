"""A process of the daemon: what it has, and what it has not, from its parent."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from smtpd.imsg import TABLE, Configure, EnterSandbox, SandboxEntered
from smtpd.ipc import frame
from smtpd.parent.child import Child, describe_end, title
from smtpd.parent.start.await_child import CannotStart, ChildAnswers, flush
from smtpd.parent.start.spawn import find_common_layout, start


@pytest.fixture
def nursery():
    """The nursery, as it is started: a real process that knows nothing yet."""
    started = start("nursery")
    yield started
    started.kill()
    started.wait()
    started.channel.close()


def soon():
    return time.monotonic() + 10


def receive(children, deadline):
    answers = ChildAnswers(children, None)
    for child in children:
        answers.expect(child, SandboxEntered)
    return answers.next_of(children, deadline)


def configure(channel):
    channel.send(Configure(0, b"\xc0", "/var/empty", "/var/spool/smtpd", False, False))


def test_it_has_four_descriptors_an_environment_of_its_own_and_no_signal_blocked(nursery):
    os.environ["SECRET_OF_THE_PARENT"] = "1"
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, False)
    try:
        configure(nursery.channel)
        nursery.channel.send(EnterSandbox())
        flush(nursery)
        assert isinstance(receive([nursery], soon())[1], SandboxEntered)
        proc = Path(f"/proc/{nursery.pid}")
        names = [os.readlink(entry) for entry in (proc / "fd").iterdir()] if os.geteuid() == 0 else []
        assert not [name for name in names if name == os.readlink(f"/proc/self/fd/{extra}") and name != "/dev/null"]
        if os.geteuid() == 0:
            assert {"0", "1", "2", "3"} <= {entry.name for entry in (proc / "fd").iterdir()}
            environment = dict(word.split("=", 1) for word in (proc / "environ").read_text().split("\0") if word)
            assert set(environment) <= {"PATH", "LANG", "TZ", ""} and "SECRET_OF_THE_PARENT" not in environment
        blocked = [line for line in (proc / "status").read_text().splitlines() if line.startswith("SigBlk")]
        assert int(blocked[0].split()[1], 16) == 0
    finally:
        os.close(extra)
        del os.environ["SECRET_OF_THE_PARENT"]


def test_it_ends_when_its_parent_goes(nursery):
    nursery.channel.close()
    nursery.wait()
    assert os.waitstatus_to_exitcode(nursery.status) != 0


@pytest.mark.parametrize(
    "forged",
    [
        frame.HEADER.pack(60000, 0, 16, 0, 0),
        frame.HEADER.pack(1, 0, 2**31, 0, 0),
        frame.HEADER.pack(1, 0, 17, 0, 0) + b"\xff",
        b"\xff" * 64,
    ],
    ids=["no such imsg", "too long", "no shape", "noise"],
)
def test_a_forged_frame_ends_it_before_it_has_begun(nursery, forged):
    nursery.channel.sock.send(forged)
    with pytest.raises(CannotStart, match="nursery exited with status 1"):
        receive([nursery], soon())


def test_a_descriptor_that_belongs_to_nothing_ends_it(nursery):
    configure(nursery.channel)
    flush(nursery)
    number = next(declared.number for declared in TABLE.declarations if declared.cls is EnterSandbox)
    whole = frame.HEADER.pack(number, 0, frame.SIZE + 1, nursery.channel.peer_id, 0) + b"\x90"
    socket.send_fds(nursery.channel.sock, [whole], [0])
    with pytest.raises(CannotStart, match="nursery exited with status 1"):
        receive([nursery], soon())


def test_a_role_that_there_is_not_is_no_process():
    stranger = start("no-such-role")
    stranger.wait()
    stranger.channel.close()
    assert os.waitstatus_to_exitcode(stranger.status) == 1


def test_a_silent_child_is_waited_for_until_its_deadline_only(nursery):
    with pytest.raises(CannotStart, match="nursery did not answer in time"):
        receive([nursery], time.monotonic() + 0.05)


def ended(status):
    return Child("queue", 0, 0, None, status)


@pytest.mark.parametrize(
    "status, text",
    [
        (0, "exited with status 0"),
        (256, "exited with status 1"),
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV | 0x80, "killed by SIGSEGV"),
        (signal.SIGSYS, "killed by SIGSYS, forbidden system call: the kernel's log does not tell which"),
        (40, "killed by signal 40"),
    ],
)
def test_an_end_is_told_in_words(status, text):
    assert describe_end(ended(status), None) == text


def test_titles():
    assert title("dispatcher", 2) == "dispatcher 2"
    assert title("queue", 0) == "queue"


def test_this_interpreter_is_looked_at(tmp_path):
    assert find_common_layout(sys.executable) is None or "position" in find_common_layout(sys.executable)
    fixed = tmp_path / "python"
    fixed.write_bytes(b"\x7fELF\x02\x01" + bytes(10) + b"\x02\x00")
    assert "not position independent" in find_common_layout(str(fixed))
