"""Commands that take a mail: how they may end, and what they cannot do to whoever runs them."""

import errno
import os
import re
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_local import command
from mail_local.command import LINES_MAX, OUTPUT_MAX, CommandAbandoned, CommandResult, CommandVerdict, OutputTail, judge

MAIL = b"Subject: hello\n\nGood morning.\n"
LARGE = [b"x" * 65536] * 64
STUCK = 30.0  # seconds after which a test has failed
READ = "cat > /dev/null; "


def run(line, content=(MAIL,), parameters=(), environment=None, **more):
    return command.run(line, list(parameters), environment or {"PATH": os.defpath}, iter(content), **more)


def ended(pid):
    """Whether that process, not necessarily ours, ends within reason."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(descriptor, "rb", closefd=True):
        return bool(select.select([descriptor], [], [], STUCK)[0])


# -- how it ends: as by OpenSMTPD --------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, verdict, reason",
    [
        ("exit 0", CommandVerdict.DONE, ""),
        ("exit 75", CommandVerdict.LATER, "temporary failure"),
        ("exit 71", CommandVerdict.LATER, "system error"),
        ("exit 67", CommandVerdict.NEVER, "user unknown"),
        ("exit 77", CommandVerdict.NEVER, "permission denied"),
        ("exit 1", CommandVerdict.NEVER, "exited abnormally"),
        ("exit 255", CommandVerdict.NEVER, "exited abnormally"),
        ("nosuchcommand", CommandVerdict.NEVER, "exited abnormally"),
        ("kill -TERM $$", CommandVerdict.LATER, "terminated; signal 15"),
        ("kill -KILL $$", CommandVerdict.LATER, "terminated; signal 9"),
        ("kill -ALRM $$", CommandVerdict.LATER, "terminated; signal 14"),
    ],
)
def test_the_verdict_of_an_exit_status(line, verdict, reason):
    assert judge(run(READ + line)) == (verdict, reason)


def test_it_gets_the_mail(tmp_path):
    assert run(f"cat > {tmp_path}/mail", [b"", b"Subject: a\n", b"", b"\n"]).status == 0
    assert (tmp_path / "mail").read_bytes() == b"Subject: a\n\n"


def test_it_gets_a_large_mail():
    assert run("wc -c", LARGE).output == b"%d" % sum(map(len, LARGE))


def test_a_command_that_reads_slowly():
    assert run("head -c 70000 >/dev/null; sleep 0.05; wc -c", LARGE).output == b"%d" % (sum(map(len, LARGE)) - 70000)


IDLE = pytest.mark.parametrize("line", ["exit 0", "exec 0<&-", "head -c 1 > /dev/null"])


@IDLE
def test_a_command_that_exits_before_it_has_read_a_large_mail_has_not_taken_it(line):
    assert judge(run(line, LARGE)) == (CommandVerdict.LATER, "mda exited prematurely")


@IDLE
def test_a_command_that_does_not_read_a_small_mail_is_not_run_again(line):
    assert judge(run(line, [MAIL])) == (CommandVerdict.DONE, "")


def test_a_command_that_refuses_a_mail_need_not_read_it():
    assert judge(run("exit 67", LARGE)) == (CommandVerdict.NEVER, "user unknown")


def test_a_command_that_reads_to_the_last_byte_and_no_further_has_read_it():
    assert judge(run(f"head -c {len(MAIL)} > /dev/null")) == (CommandVerdict.DONE, "")


def test_a_stuck_command_is_killed_with_its_process_group(tmp_path):
    line = f"trap '' TERM ALRM; sleep 100 & echo $! > {tmp_path}/child; sleep 100"
    assert judge(run(line, seconds=0.3)) == (CommandVerdict.LATER, "terminated; timeout")
    assert ended(int((tmp_path / "child").read_text()))


def test_a_stopped_command_has_not_ended():
    """A stop is news to who waits for a child; it is killed when its time is over."""
    assert judge(run("kill -STOP $$", seconds=0.3)) == (CommandVerdict.LATER, "terminated; timeout")


def test_a_command_that_has_closed_its_output_is_waited_for_without_polling(monkeypatch):
    """The end of its output is to be read all the time."""
    reads, read = [], os.read
    looks, poll = [], subprocess.Popen.poll
    monkeypatch.setattr(os, "read", lambda *arguments: reads.append(arguments) or read(*arguments))
    monkeypatch.setattr(subprocess.Popen, "poll", lambda process: looks.append(process) or poll(process))
    monkeypatch.setattr(command, "_POLL_INTERVAL", 0.001)  # only for kernels without pidfd
    assert run(READ + "exec >&- 2>&-; sleep 0.3; exit 3").status == 3
    assert len(reads) < 20 and len(looks) < 20


def test_a_kernel_without_pidfd_is_no_error(monkeypatch):
    def missing(_pid):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    assert run(READ + "exit 75").status == 75


def test_a_pipe_that_may_not_be_made_larger_will_do(monkeypatch):
    """Ordinary users have a limit (pipe(7), pipe-user-pages-soft)."""

    def refuse(*_arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(command.fcntl, "fcntl", refuse)
    assert judge(run("cat > /dev/null", LARGE)) == (CommandVerdict.DONE, "")


def test_without_pidfd_a_command_is_polled(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert run("sleep 0.1; wc -c; exit 3", LARGE) == CommandResult(3, output=b"%d" % sum(map(len, LARGE)))
    assert run("sleep 100", seconds=0.2).late
    begin = time.monotonic()
    assert run(READ + "exec >&- 2>&-; sleep 0.1; exit 3", seconds=2 * STUCK).status == 3
    assert time.monotonic() - begin < STUCK


def test_a_process_that_has_been_reaped_is_not_killed(monkeypatch):
    """Its number may be that of another one by now."""
    running = command.RunningCommand(command._start("exit 3", [], {}), iter([MAIL]), None)
    assert running.wait(time.monotonic() + STUCK).status == 3
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a process group of another user is killed"))
    running.kill()
    running.close()


def test_a_command_that_leaves_a_child_is_done_when_it_has_ended_itself(tmp_path):
    begin = time.monotonic()
    ending = run(f"{READ} sleep 100 & echo $! > {tmp_path}/child; echo left")
    child = int((tmp_path / "child").read_text())
    os.kill(child, signal.SIGKILL)  # it went on
    assert ending == CommandResult(0, output=b"left")
    assert time.monotonic() - begin < STUCK


def test_a_child_that_writes_for_ever_does_not_delay_the_end(tmp_path):
    ending = run(f"{READ} yes & echo $! > {tmp_path}/child")
    assert ending.status == 0
    assert ended(int((tmp_path / "child").read_text()))  # by SIGPIPE: nobody listens


def test_a_command_is_killed_when_the_caller_hangs_up(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        os.mkfifo(tmp_path / "begun")
        outcome = []

        def wait():
            try:
                run(f"echo $$ > {tmp_path}/begun; sleep 100", hangup=ours)
            except CommandAbandoned:
                outcome.append("parted")

        thread = threading.Thread(target=wait)
        thread.start()
        pid = int((tmp_path / "begun").read_text())
        theirs.close()
        thread.join(STUCK)
        assert outcome == ["parted"]
        assert ended(pid)


def test_a_mail_that_cannot_be_read_is_never_taken_for_a_whole_one(tmp_path):
    def content():
        yield b"Subject: half\n"
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        run(f"cat > /dev/null; touch {tmp_path}/taken", content())
    assert not (tmp_path / "taken").exists()


def test_nothing_stays_open(monkeypatch):
    before = sorted(os.listdir("/proc/self/fd"))
    run("cat")
    run("sleep 100", seconds=0.0)
    with pytest.raises(OSError):
        run("cat", _broken())
    monkeypatch.setattr(command, "SHELL", "/nonexistent")
    with pytest.raises(FileNotFoundError):
        run("cat")
    assert sorted(os.listdir("/proc/self/fd")) == before


def _broken():
    raise OSError("broken")
    yield b""


# -- what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, output",
    [
        ("echo one; echo two; echo; echo '  '", b"one\ntwo"),
        ("echo said; echo one >&2; echo; echo two >&2; echo on", b"one\ntwo"),
        ("seq 100", b"\n".join(b"%d" % number for number in range(101 - LINES_MAX, 101))),
        ("yes $(printf %0200d 7) | head -n 5 >&2; echo out", b"\n".join([b"%0200d" % 7] * 2)),
        ("printf 'no end'", b"no end"),
        ("echo out; echo err >&2", b"err"),
        ("printf '\\n\\n'", b""),
        ("printf ' a \\r\\n'", b"a"),
        ("head -c 100000 /dev/zero | tr '\\0' x", b"x" * OUTPUT_MAX),
        ("head -c 100000 /dev/zero | tr '\\0' x; echo", b"x" * OUTPUT_MAX),
    ],
)
def test_the_last_lines_of_its_output(line, output):
    assert run(READ + line).output == output


def test_a_line_without_its_end_is_one_of_those_that_are_kept():
    output = OutputTail()
    output.add(b"".join(b"%d\n" % number for number in range(LINES_MAX)) + b"the last")
    assert output.text().split(b"\n") == [*(b"%d" % number for number in range(1, LINES_MAX)), b"the last"]


def test_of_a_long_line_its_beginning_is_kept():
    output = OutputTail()
    output.add(b"first\n" + b"x" * 2 * OUTPUT_MAX + b"\n")
    assert output.text() == b"x" * OUTPUT_MAX


def test_no_more_lines_are_held_than_are_kept():
    output = OutputTail()
    for _ in range(10):
        output.add(b"a line\n" * 2 * LINES_MAX)
    assert len(output._whole) == LINES_MAX


def test_all_that_was_printed_before_the_end_is_read(monkeypatch):
    """It may be more than one piece."""
    monkeypatch.setattr(command, "_PIECE", 4)
    started = command._start("printf 'one\\ntwo\\n'", [], {"PATH": os.defpath})
    started.process.wait()
    running = command.RunningCommand(started, iter([MAIL]), None)
    assert running.wait(time.monotonic() + STUCK).output == b"one\ntwo"
    running.close()


def test_a_gigabyte_of_output_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ending = run(f"{READ} head -c 1000000000 /dev/zero; echo; echo done")
    assert ending == CommandResult(0, output=b"done")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB


def test_a_gigabyte_of_lines_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run(f"{READ} yes | head -c 1000000000").output == b"\n".join([b"y"] * LINES_MAX)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@given(st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"a", b"\n")), max_size=12))
@settings(max_examples=200)
def test_the_last_lines_do_not_depend_on_where_the_output_was_cut(pieces):
    cut = OutputTail()
    for piece in pieces:
        cut.add(piece)
    lines = [line.strip() for line in b"".join(pieces).split(b"\n") if line.strip()]
    assert cut.text() == b"\n".join(lines[-LINES_MAX:])


@given(st.lists(st.binary(max_size=2000).map(lambda text: text.replace(b"a", b"\n")), max_size=8))
@settings(max_examples=100)
def test_the_last_lines_are_bounded_and_hold_the_last_one(pieces):
    last = OutputTail()
    for piece in pieces:
        last.add(piece)
    text = last.text()
    assert len(text) <= OUTPUT_MAX and text.count(b"\n") < LINES_MAX
    lines = [line.strip() for line in b"".join(pieces).split(b"\n") if line.strip()]
    assert bool(text) == bool(lines) or len(lines[-1]) > OUTPUT_MAX
    if lines and len(lines[-1]) < OUTPUT_MAX // 2:
        assert text.endswith(lines[-1])


def test_blank_lines_without_end_cost_next_to_nothing():
    begin = time.process_time()
    last = OutputTail()
    for _ in range(1000):
        last.add(b"x\n" + b"\n" * 65534)
    assert last.text() == b"\n".join([b"x"] * LINES_MAX)
    assert time.process_time() - begin < 5


# -- what it is given ----------------------------------------------------------------------------------


def test_values_are_parameters_and_not_part_of_the_line():
    value = "$(echo x);'\"`"
    assert run(READ + 'echo "$#:${1}"', parameters=[value, "b"]).output == b"2:" + value.encode()


def test_bytes_that_are_no_text_come_out_as_they_went_in():
    odd = b"\xff\xe4".decode(errors="surrogateescape")
    assert run(READ + f'printf "%s-%s" "${{1}}" {odd}', parameters=[odd]).output == b"\xff\xe4-\xff\xe4"


def test_its_environment_is_what_it_was_given(tmp_path):
    given = {"PATH": os.defpath, "SENDER": "", "LOCAL": "ä"}
    run(f"{READ} cat /proc/$$/environ > {tmp_path}/environ", environment=given)
    wanted = sorted(f"{name}={value}".encode() for name, value in given.items())
    assert sorted((tmp_path / "environ").read_bytes().split(b"\0")[:-1]) == wanted


def test_it_has_three_descriptors_and_no_other(tmp_path):
    with open("/dev/null") as other:
        os.set_inheritable(other.fileno(), True)
        run(f"{READ} exec ls -l /proc/self/fd > {tmp_path}/descriptors")
    shown = (tmp_path / "descriptors").read_text().splitlines()
    numbers = [line.split(" -> ")[0].split()[-1] for line in shown if " -> " in line and not line.endswith("/fd")]
    assert numbers == ["0", "1", "2"]


def ignored(status):
    """A bit for each signal, lowest first; without 32 and 33, which are the library's own."""
    return int(re.search(r"SigIgn:\t(\w+)\n", status)[1], 16) & ~(3 << 31)


def test_it_has_a_session_of_its_own_and_default_signals(tmp_path):
    """Of those that Python ignores; what whoever starts us ignores, a command may have to."""
    inherited = ignored(Path("/proc/self/status").read_text()) & ~(1 << signal.SIGPIPE - 1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        run(f"{READ} exec cat /proc/self/stat /proc/self/status > {tmp_path}/told")
    finally:
        signal.signal(signal.SIGXFSZ, before)
    told = (tmp_path / "told").read_text()
    pid, _, _, _, group, session, terminal = told.split()[:7]
    assert pid == group == session and terminal == "0"
    assert f"SigBlk:\t{'0' * 16}\n" in told
    assert ignored(told) & ~(inherited & ~(1 << signal.SIGXFSZ - 1)) == 0
    assert "Umask:\t0077\n" in told
