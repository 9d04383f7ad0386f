"""What a child is handed before its sandbox, and that nothing else comes in this way."""

import os
import socket
import subprocess
import sys

import pytest

import smtpd
from smtpd.boot import SEARCH_PATH, Handed, _take_all, command
from smtpd.imsg import TABLE, Begin, EnterSandbox, TakeSigningSocket
from smtpd.ipc.channel import Channel, ChannelClosed, Violation

TOP = os.path.dirname(os.path.dirname(smtpd.__file__))


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    parent, child = Channel(ours, TABLE, "parent", "crypto"), Channel(theirs, TABLE, "crypto", "parent")
    yield parent, child
    parent.close()
    child.close()


def test_signing_sockets_come_with_the_number_of_their_dispatcher(ends):
    parent, child = ends
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for number, (one, _) in zip((1, 1, 2), pairs, strict=True):
        parent.send(TakeSigningSocket(number), os.dup(one.fileno()))
    parent.send(EnterSandbox())
    parent.flush()
    handed = Handed(child)
    _take_all(handed, "crypto", None)
    assert [number for number, _ in handed.signing] == [1, 1, 2]
    for (_, theirs), (_, other) in zip(handed.signing, pairs, strict=True):
        other.send(b"packet")
        assert theirs.recv(100) == b"packet"
        theirs.close()
    for pair in pairs:
        for end in pair:
            end.close()


def test_what_comes_later_does_not_come_before_the_sandbox(ends):
    parent, child = ends
    parent.send(Begin())
    parent.flush()
    with pytest.raises(Violation, match="unexpected Begin"):
        _take_all(Handed(child), "crypto", None)


def test_what_comes_with_the_order_to_enter_the_sandbox_is_not_lost_unseen(ends):
    parent, child = ends
    parent.send(EnterSandbox())
    parent.send(Begin())
    parent.flush()
    with pytest.raises(Violation, match="Begin from parent before SandboxEntered"):
        _take_all(Handed(child), "crypto", None)


def test_without_a_parent_nothing_is_waited_for(ends):
    parent, child = ends
    parent.close()
    with pytest.raises(ChannelClosed):
        _take_all(Handed(child), "crypto", None)


def test_a_process_looks_for_code_where_its_parent_does_and_nowhere_else(tmp_path):
    """Neither where the environment says, nor in the directory that it was started in."""
    (tmp_path / "smtpd.py").write_text("print('foreign code')")
    program, *options, start, minus_x, role, minus_f, file = command("config", "-f", "/nowhere/smtpd.conf")
    assert (program, options) == (sys.executable, ["-I", "-S", "-c"])
    assert (minus_x, role, minus_f, file) == ("-x", "config", "-f", "/nowhere/smtpd.conf")
    shown = f"{start.partition('from ')[0]}\nimport smtpd, uvloop; print(sys.path, sys.flags.isolated, smtpd.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [program, *options, shown], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{SEARCH_PATH} 1 {smtpd.__file__}\n"
    assert all(os.path.isabs(place) and place != os.path.dirname(sys.executable) for place in SEARCH_PATH)


def test_the_directory_of_the_program_is_not_searched(tmp_path):
    """It is the first place of a program that was started by its path, as .venv/bin/smtpd."""
    program = tmp_path / "program"
    program.write_text(f"import sys; sys.path.append({TOP!r})\nfrom smtpd.boot import SEARCH_PATH; print(SEARCH_PATH)")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert TOP in done.stdout and str(tmp_path) not in done.stdout
