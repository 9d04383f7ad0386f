"""The log's way out: a pipe from each process, and one socket to syslogd.

    pipe of queue --> lines, made visible --> "<20>Nov 21 09:00:01 smtpd[4711]: warn: queue: …" --> /dev/log

RFC 3164, facility mail; the severity is the line's first word (`warn:`, `debug:`, otherwise info), and that of what
ends the daemon is critical.  Name and pid of a process belong to its pipe, so that none can speak for another.  What is
in a line may have come by mail and through a process that was taken over: control characters are escaped here, even if
the sender has done it.

Nothing waits for syslogd.  While it is full or away, so many lines are kept; beyond that they are counted, and the
count is logged when there is room again.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable

from smtpd.ipc.event_loop import EventLoop
from smtpd.ipc.log import FATAL, LINE_MAX, attributed, visible

READ_SIZE = 64 * 1024  # bytes read from a pipe at a time
READS_AT_END = 16  # read at the end: as much as a pipe can be made to hold (pipe(7), pipe-max-size)
WAITING_LINES_MAX = 1000  # lines that wait for syslogd
_FACILITY = 2 << 3  # mail; RFC 3164 4.1.1
_SEVERITIES = {b"warn:": 4, b"debug:": 7}
_INFO, _CRITICAL = 6, 2
_FATAL = FATAL.encode()
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class LogForwarder:
    """`pipes`: process -> its pid, and the reading end of its pipe.  `reopen` asks for a new socket to syslogd;
    `take_syslog` gets it."""

    def __init__(
        self,
        loop: EventLoop,
        pipes: dict[str, tuple[int, int]],
        syslog: socket.socket | None,
        reopen: Callable[[], None],
    ):
        self._loop = loop
        self._reopen = reopen
        self._syslog: socket.socket | None = None
        self._asked = self._writing = False
        self._kept: deque[bytes] = deque()
        self.dropped = 0
        self._pids = {name: pid or os.getpid() for name, (pid, _) in pipes.items()}
        self._pipes = {name: pipe for name, (_, pipe) in pipes.items()}
        self._begun: dict[str, bytes] = {}  # lines without their end
        if syslog is not None:
            self.take_syslog(syslog)
        for name, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            loop.add_reader(pipe, self._read, name, pipe)

    # -- in ------------------------------------------------------------------------------

    def _read(self, name: str, pipe: int) -> bool:
        """Take what one read brings.  False when that was nothing."""
        try:
            piece = os.read(pipe, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        *lines, rest = (self._begun.pop(name, b"") + piece).split(b"\n")
        if not piece or len(rest) > LINE_MAX:
            lines, rest = [*lines, rest], b""  # it ended in the middle of a line, or that line has no end
        if rest:
            self._begun[name] = rest
        for line in lines:
            if line:
                self._pass_on(datagram(name, self._pids[name], line, time.time()))
        if not piece:
            self._loop.remove_reader(pipe)
            os.close(self._pipes.pop(name))
        return bool(piece)

    def finish(self) -> None:
        """Pass on what the pipes hold, without waiting for more.  A table's program, or what it left running, may go on
        writing for ever."""
        for name, pipe in list(self._pipes.items()):
            for _ in range(READS_AT_END):
                if not self._read(name, pipe):
                    break

    # -- out -------------------------------------------------------------------------------

    def take_syslog(self, sock: socket.socket) -> None:
        self._forget_syslog()
        sock.setblocking(False)
        self._syslog, self._asked = sock, False
        self._write()

    def _pass_on(self, line: bytes) -> None:
        if len(self._kept) < WAITING_LINES_MAX:
            self._kept.append(line)
        else:
            self.dropped += 1
        if not self._writing:
            self._write()

    def _write(self) -> None:
        """Send what is kept, as far as syslogd takes it."""
        try:
            while self._syslog is not None and self._kept:
                self._syslog.send(self._kept[0])
                self._kept.popleft()
                self._tell_dropped()
        except BlockingIOError:
            self._wait_for_room(True)
            return
        except OSError:
            self._forget_syslog()  # refused, not connected: syslogd has gone, and took its socket along
        self._wait_for_room(False)
        if self._syslog is None and not self._asked:
            self._asked = True
            self._reopen()

    def _tell_dropped(self) -> None:
        if self.dropped and len(self._kept) < WAITING_LINES_MAX:
            line = f"warn: {self.dropped} log lines were dropped".encode()
            self._kept.append(datagram("control", os.getpid(), line, time.time()))
            self.dropped = 0

    def _wait_for_room(self, waiting: bool) -> None:
        if waiting is not self._writing and self._syslog is not None:
            self._writing = waiting
            if waiting:
                self._loop.add_writer(self._syslog.fileno(), self._write)
            else:
                self._loop.remove_writer(self._syslog.fileno())

    def _forget_syslog(self) -> None:
        if self._syslog is not None:
            self._wait_for_room(False)
            self._syslog.close()
            self._syslog = None


def datagram(name: str, pid: int, line: bytes, now: float) -> bytes:
    """One line of the process `name`, as syslogd takes it."""
    severity = _CRITICAL if line.startswith(_FATAL) else _SEVERITIES.get(line.partition(b" ")[0], _INFO)
    text = attributed(name, visible(line[:LINE_MAX].decode(errors="backslashreplace")))
    # RFC 3164 4.1.2: English months, the day padded with a blank.
    at = time.localtime(now)
    stamp = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"<{_FACILITY | severity}>{stamp} smtpd[{pid}]: {text}".encode(errors="backslashreplace")
