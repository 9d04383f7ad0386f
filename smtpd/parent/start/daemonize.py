"""Detach from the caller: descriptors, signals, working directory and session are not inherited."""

import os
import signal
from collections.abc import Callable

from smtpd.ipc.signal_disposition import reset_signals
from smtpd.parent.daemon import DEFERRED_SIGNALS

EX_FAILED = 1


def daemonize(foreground: bool, kept: int = 0) -> Callable[[], None]:
    """Close what the caller left open, and leave the caller's session unless in the foreground.  `kept`: so many
    descriptors from 3 on are ours.

    Call what is returned when the start has succeeded: until then the process that was started waits, so that its exit
    status and its stderr tell.
    """
    os.closerange(3 + kept, os.sysconf("SC_OPEN_MAX"))
    _open_standard_descriptors()
    reset_signals(DEFERRED_SIGNALS)
    os.umask(0o022)
    os.chdir("/")
    return (lambda: None) if foreground else _leave_session()


def _open_standard_descriptors() -> None:
    """0 is /dev/null; 1 and 2 too where they are closed, so that no socket of ours gets such a number."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
    if null > 2:
        os.close(null)


def _leave_session() -> Callable[[], None]:
    reading, writing = os.pipe()
    if os.fork() != 0:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the user who waits for the start may interrupt it
        os._exit(0 if os.read(reading, 1) else EX_FAILED)
    os.close(reading)
    os.setsid()
    os.dup2(0, 1)  # a caller that reads our stdout to its end, as ssh does, must not wait for the daemon

    def started() -> None:
        os.write(writing, b"\0")
        os.close(writing)

    return started
