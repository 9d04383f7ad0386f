"""Runs a shell command with a mail on its standard input, and judges its exit status.

    mail  --pipe-->  /bin/sh -c LINE sh VALUE…  --exit status-->  CommandResult  --judge-->  done | later | never
                                                --pipes->  the last lines of its output

A value is a positional parameter and never part of the line.  The command has a session of its own, default signals,
umask 077, the given environment and nothing else, descriptors 0, 1 and 2 and no other, the caller's working directory,
and COMMAND_TIMEOUT.  After that, or when the caller hangs up, its process group is killed.

The command is done when its own process has ended.  Processes that it leaves running go on; their output is not read.

Blocks; one thread runs one command.  Knows nothing of mail and changes no user.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

SHELL = "/bin/sh"
COMMAND_TIMEOUT = 300.0
OUTPUT_MAX = 512  # bytes kept of the last lines of output
LINES_MAX = 10  # lines kept

EX_OSERR, EX_TEMPFAIL = 71, 75
SYSEXITS = {  # sysexits.h
    64: "command line usage error",
    65: "data format error",
    66: "cannot open input",
    67: "user unknown",
    68: "host name unknown",
    69: "service unavailable",
    70: "internal software error",
    71: "system error",
    72: "system file missing",
    73: "cannot create output file",
    74: "input/output error",
    75: "temporary failure",
    76: "remote error in protocol",
    77: "permission denied",
    78: "configuration error",
}

_PIECE = 64 * 1024
_TAIL = 8 * 1024  # bytes of a piece that are searched for its last lines
_LAST_PIECES = 16  # pieces read after the end: a process that was left running may write for ever
_PIPE_SIZE = 1024 * 1024  # bytes: a mail that fits into the pipe is complete for the command even if this process dies
_POLL_INTERVAL = 0.05  # seconds, on systems without pidfd


class CommandAbandoned(Exception):
    """The caller has hung up; the command has been killed."""


class CommandVerdict(Enum):
    DONE = "the mail is delivered"
    LATER = "another attempt may succeed"
    NEVER = "another attempt would fail too"


@dataclass(frozen=True)
class CommandResult:
    status: int  # exit status; negative: the signal that killed it
    late: bool = False  # killed after its timeout
    taken: bool = True  # all of the mail went into its pipe
    output: bytes = b""  # the last lines of standard error, or if that is empty of standard output


@dataclass
class OutputTail:
    """The last lines of an output of any length, in the memory of one piece of it."""

    _whole: list[bytes] = field(default_factory=list)
    _begun: bytes = b""

    def add(self, piece: bytes) -> None:
        head, _, rest = (self._begun + piece).rpartition(b"\n")
        head = head.rstrip()[-_TAIL:]
        found = list[bytes]()
        while len(found) < LINES_MAX and (head := head.rstrip()):
            head, _, line = head.rpartition(b"\n")
            found.append(line.strip()[:OUTPUT_MAX])
        self._whole = (self._whole + found[::-1])[-LINES_MAX:]
        self._begun = rest[:OUTPUT_MAX]

    def text(self) -> bytes:
        """As many of the last lines as fit, at least the last one."""
        lines = [line for line in (*self._whole, self._begun.strip()) if line][-LINES_MAX:]
        while len(text := b"\n".join(lines)) > OUTPUT_MAX:
            del lines[0]
        return text


def judge(result: CommandResult) -> tuple[CommandVerdict, str]:
    """The verdict, and the reason in OpenSMTPD's words, without the output."""
    match result:
        case CommandResult(late=True):
            return CommandVerdict.LATER, "terminated; timeout"
        case CommandResult(status=status) if status < 0:
            return CommandVerdict.LATER, f"terminated; signal {-status}"
        case CommandResult(status=0, taken=False):
            return CommandVerdict.LATER, "mda exited prematurely"
        case CommandResult(status=0):
            return CommandVerdict.DONE, ""
        case CommandResult(status=status):
            verdict = CommandVerdict.LATER if status in (EX_OSERR, EX_TEMPFAIL) else CommandVerdict.NEVER
            return verdict, SYSEXITS.get(status, "exited abnormally")


def run(
    line: str,
    parameters: list[str],
    environment: Mapping[str, str],
    content: Iterable[bytes],
    *,
    hangup: socket.socket | None = None,
    seconds: float = COMMAND_TIMEOUT,
) -> CommandResult:
    """Run the command to its end.  Raises CommandAbandoned when the other side of `hangup` hangs up; OSError when the
    command cannot be started or `content` raises OSError.  Then its process group has been killed."""
    running = RunningCommand(_start(line, parameters, environment), iter(content), hangup)
    try:
        return running.wait(time.monotonic() + seconds)
    except BaseException:
        running.kill()  # before its input is closed: it would take half a mail for a complete one
        raise
    finally:
        running.close()


def _start(line: str, parameters: list[str], environment: Mapping[str, str]) -> "StartedCommand":
    with ExitStack() as opened:
        mail, feed = _pipe(opened)
        output, printed = _pipe(opened)
        errors, told = _pipe(opened)
        process = subprocess.Popen(
            [_bytes(text) for text in (SHELL, "-c", line, "sh", *parameters)],
            stdin=mail,
            stdout=printed,
            stderr=told,
            env={_bytes(name): _bytes(value) for name, value in environment.items()},
            start_new_session=True,
            umask=0o077,
        )
        os.close(printed)
        os.close(told)
        opened.pop_all()
    return StartedCommand(process, mail, feed, output, errors)


def _pipe(opened: ExitStack) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _bytes(text: str) -> bytes:
    """Independent of the locale: names and lines were decoded from UTF-8 and become the same bytes again."""
    return text.encode(errors="surrogateescape")


class StartedCommand(NamedTuple):
    process: "subprocess.Popen[bytes]"
    mail: int  # read end of its standard input: kept open, so that an unread mail is no EPIPE before its end
    feed: int  # write end
    output: int
    errors: int


class RunningCommand:
    """A command under way."""

    def __init__(self, started: StartedCommand, content: Iterator[bytes], hangup: socket.socket | None):
        self._process, self._mail, self._feed, self._output, self._errors = started
        self._content = content
        self._piece = memoryview(b"")
        self._last = {self._errors: OutputTail(), self._output: OutputTail()}
        self._watched = select.poll()
        os.set_blocking(self._feed, False)
        with suppress(OSError, AttributeError):
            fcntl.fcntl(self._feed, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._watched.register(self._feed, select.POLLOUT)
        for descriptor in self._last:
            os.set_blocking(descriptor, False)
            self._watched.register(descriptor, select.POLLIN)
        if hangup is not None:
            self._watched.register(hangup, 0)  # POLLHUP only
        self._end = _end_of(self._process.pid)
        if self._end >= 0:
            self._watched.register(self._end, select.POLLIN)

    def wait(self, deadline: float) -> CommandResult:
        late = False
        while self._process.poll() is None:
            left = deadline - time.monotonic()
            late = left <= 0
            if late:
                self.kill()
                break
            for descriptor, _ in self._watched.poll(1000 * (left if self._end >= 0 else min(left, _POLL_INTERVAL))):
                self._handle(descriptor)
        for descriptor in self._last:
            for _ in range(_LAST_PIECES):
                if not self._read_output(descriptor):
                    break
        output = self._last[self._errors].text() or self._last[self._output].text()
        return CommandResult(self._process.returncode, late, self._has_taken_all(), output)

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._feed:
            self._write_mail()
        elif descriptor in self._last:
            if self._read_output(descriptor) == b"":
                self._watched.unregister(descriptor)
        elif descriptor != self._end:
            raise CommandAbandoned

    def _write_mail(self) -> None:
        """Write as much of the mail as the pipe takes."""
        try:
            while True:
                while not self._piece:
                    self._piece = memoryview(next(self._content))
                self._piece = self._piece[os.write(self._feed, self._piece) :]
        except BlockingIOError:
            pass
        except StopIteration:
            self._watched.unregister(self._feed)
            os.close(self._feed)
            self._feed = -1

    def _read_output(self, descriptor: int) -> bytes | None:
        """A piece of output; empty at the end, None if there is none now."""
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return None
        self._last[descriptor].add(piece)
        return piece

    def _has_taken_all(self) -> bool:
        """A mail that fits into the pipe counts as read: many programs read no more than they need, and would otherwise
        be run again and again."""
        if self._feed >= 0:
            self._write_mail()
        return self._feed < 0

    def kill(self) -> None:
        """Kill its process group, unless the process has been reaped: then the pid may belong to another one."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        for descriptor in (self._mail, self._feed, self._output, self._errors, self._end):
            if descriptor >= 0:
                os.close(descriptor)


def _end_of(pid: int) -> int:
    """A pidfd, readable when the process has ended; -1 on systems without."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1
