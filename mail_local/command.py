"""Running a command that takes a mail: on its standard input; what it thinks of it is its exit status.

    mail  --pipe-->  /bin/sh -c LINE sh VALUE…  --exit status-->  Ending  --judge-->  done | later | never
                                                --pipes->  the last lines of its output, whatever came before

A value is a positional parameter and never part of the line.  The command has a session of its own, default signals,
umask 077, the environment that it is given and nothing else, descriptors 0, 1 and 2 and no other, the caller's
directory, and COMMAND_TIMEOUT.  What is left of its process group then is killed, also when the caller hangs up.

A command is done when it has ended itself.  What it leaves running goes on, with nobody at the other end of its output.

Blocks; one thread may run one command.  Understands no mail and gives nobody other rights.
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
OUTPUT_MAX = 512  # bytes of its last lines
LINES_MAX = 10

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
_LAST_PIECES = 16  # read after the end; one that was left running may write for ever
_ROOM = 1024 * 1024  # bytes of a mail that stand in the pipe at once, and so are not cut short by our own death
_POLL = 0.05  # seconds, where the end of a process is no event


class CommandAbandoned(Exception):
    """Nobody waits for the command any more; it has been killed."""


class CommandVerdict(Enum):
    DONE = "the mail is delivered"
    LATER = "another try may do"
    NEVER = "another try would not"


@dataclass(frozen=True)
class CommandResult:
    status: int  # of its exit; the signal that killed it, negative
    late: bool = False  # killed, as its time was over
    taken: bool = True  # all of the mail went into its pipe
    output: bytes = b""  # its last lines that are not empty: on standard error, or else on standard output


@dataclass
class OutputTail:
    """Of an output of any length: costs no more memory than one piece of it."""

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
        """As many of them as fit, the last one at least."""
        lines = [line for line in (*self._whole, self._begun.strip()) if line][-LINES_MAX:]
        while len(text := b"\n".join(lines)) > OUTPUT_MAX:
            del lines[0]
        return text


def judge(ending: CommandResult) -> tuple[CommandVerdict, str]:
    """What became of the mail, and why (reference 1.6); the output is not part of that."""
    match ending:
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
    """Run it to its end.  Raises Parted when the other side of `parted` hangs up; OSError when it could not be started
    or `content` raises that: then nothing of it is left running."""
    running = RunningCommand(_start(line, parameters, environment), iter(content), hangup)
    try:
        return running.wait(time.monotonic() + seconds)
    except BaseException:
        running.kill()  # before its input ends: it would take half a mail for a whole one
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
    """Whatever the locale is: names and lines come from UTF-8, and leave as the bytes that they were."""
    return text.encode(errors="surrogateescape")


class StartedCommand(NamedTuple):
    process: "subprocess.Popen[bytes]"
    mail: int  # its input; kept, so that what it does not read is no error before its end
    feed: int  # the other end of that
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
            fcntl.fcntl(self._feed, fcntl.F_SETPIPE_SZ, _ROOM)
        self._watched.register(self._feed, select.POLLOUT)
        for descriptor in self._last:
            os.set_blocking(descriptor, False)
            self._watched.register(descriptor, select.POLLIN)
        if hangup is not None:
            self._watched.register(hangup, 0)  # nothing but that it hangs up
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
            for descriptor, _ in self._watched.poll(1000 * (left if self._end >= 0 else min(left, _POLL))):
                self._turn(descriptor)
        for descriptor in self._last:
            for _ in range(_LAST_PIECES):
                if not self._hear(descriptor):
                    break
        output = self._last[self._errors].text() or self._last[self._output].text()
        return CommandResult(self._process.returncode, late, self._has_taken_all(), output)

    def _turn(self, descriptor: int) -> None:
        if descriptor == self._feed:
            self._tell()
        elif descriptor in self._last:
            if self._hear(descriptor) == b"":
                self._watched.unregister(descriptor)
        elif descriptor != self._end:
            raise CommandAbandoned

    def _tell(self) -> None:
        """As much of the mail as goes into the pipe."""
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

    def _hear(self, descriptor: int) -> bytes | None:
        """A piece of output; empty at the end, None when there is none now."""
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return None
        self._last[descriptor].add(piece)
        return piece

    def _has_taken_all(self) -> bool:
        """What found room in its pipe counts as read, whenever it came there: many programs read no more than they
        need, and what they do would be done again and again."""
        if self._feed >= 0:
            self._tell()
        return self._feed < 0

    def kill(self) -> None:
        """With all of its process group.  One that has been waited for has no process id any more."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        for descriptor in (self._mail, self._feed, self._output, self._errors, self._end):
            if descriptor >= 0:
                os.close(descriptor)


def _end_of(pid: int) -> int:
    """A descriptor that is readable when the process has ended; -1 where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1
