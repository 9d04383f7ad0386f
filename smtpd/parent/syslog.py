"""Connections to syslogd: one for control, which passes on what all processes log, and one kept for the last line."""

import contextlib
import os
import socket

SYSLOG = "/dev/log"
_MAIL_CRITICAL = 2 << 3 | 2  # facility mail, severity critical (RFC 3164 4.1.1)


class Syslog:
    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def connect(self) -> int | None:
        """A descriptor for control; None when no syslogd listens.  A second one is kept for log_directly."""
        with contextlib.ExitStack() as undone:
            try:
                made = undone.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                made.setblocking(False)
                made.connect(SYSLOG)
                descriptor = os.dup(made.fileno())
            except OSError:
                return None
            undone.pop_all()
        if self._socket is not None:
            self._socket.close()
        self._socket = made
        return descriptor

    def log_directly(self, text: str) -> None:
        """Why the daemon ends: when control is the process that died, nothing passes the log on."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(f"<{_MAIL_CRITICAL}>smtpd[{os.getpid()}]: {text}".encode())
