"""Where each process's log goes: our stderr, or a pipe for each that control reads.

    -d          process --2--> stderr
    otherwise   process --2--> pipe, never waited for --> control --> /dev/log

The pipe is what names a process in the log, so none can speak for another; a program that answers for a table has one
of its own as well.  Until control reads, a start that fails is told on the stderr that we were started with; so is that
there is no syslogd.
"""

import contextlib
import os

from smtpd.imsg import TakeLog, TakeSyslog
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import FATAL, PARENT_NAME, attributed, log
from smtpd.parent.syslog import SYSLOG, Syslog

_OF_NO_FAILURE = ("info: ", "debug: ")


class StderrLog:
    """All processes write to the one descriptor."""

    syslog = None

    def writing_end(self, _name: str) -> int:
        return 2

    def set_pid(self, _name: str, _pid: int) -> None:
        pass

    def hand_to(self, _control: Channel) -> None:
        pass

    def started(self) -> None:
        pass

    def give_up(self) -> None:
        pass


class LogPipes:
    """Our own descriptor 2 becomes a pipe like the others' at once; the one that was there is kept for a failure."""

    def __init__(self) -> None:
        self._terminal = os.dup(2)
        self._reading: dict[str, int] = {}
        self._pids: dict[str, int] = {}
        self.syslog = Syslog()
        own = self.writing_end(PARENT_NAME)
        self.set_pid(PARENT_NAME, os.getpid())
        os.dup2(own, 2)
        os.close(own)

    def writing_end(self, name: str) -> int:
        """A descriptor for the process called `name` to write to; the caller closes it when that process has it."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reading[name] = reading
        return writing

    def set_pid(self, name: str, pid: int) -> None:
        """What is written to the pipe of that name is from the process `pid`; without one, it is a program's, which may
        be started again and again."""
        self._pids[name] = pid

    def hand_to(self, control: Channel) -> None:
        """The reading ends, and syslog.  Ours stay open until the start has succeeded."""
        for name, reading in self._reading.items():
            control.send(TakeLog(name, self._pids.get(name, 0)), os.dup(reading))
        syslog = self.syslog.connect()
        if syslog is None:
            text = f"no syslogd listens at {SYSLOG} yet: start one, or smtpd with -d"
            log.warn(text)
            self._tell(f"warn: {text}")
        else:
            control.send(TakeSyslog(), syslog)

    def started(self) -> None:
        for reading in self._reading.values():
            os.close(reading)
        self._reading.clear()
        os.close(self._terminal)

    def give_up(self) -> None:
        """The start has failed, and what was said about it is still in the pipes: it goes to the caller of smtpd, and
        the reason to syslog too."""
        log.flush()
        if (syslog := self.syslog.connect()) is not None:
            os.close(syslog)
        for name, reading in self._reading.items():
            for line in _lines_in(reading):
                if not line.startswith(_OF_NO_FAILURE):
                    self._tell(attributed(name, line))
                if line.startswith(FATAL):
                    self.syslog.log_directly(attributed(name, line))

    def _tell(self, line: str) -> None:
        """The caller of smtpd, on the stderr that it gave us.  It may have closed that: no reason to fail."""
        with contextlib.suppress(OSError):
            os.write(self._terminal, f"smtpd: {line}\n".encode())


def _lines_in(pipe: int) -> list[str]:
    """What can be read from `pipe` without waiting."""
    found = bytearray()
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(pipe, 65536):
            found += piece
    return found.decode(errors="backslashreplace").splitlines()
