"""One process's log lines on their way out: a descriptor that is never waited for.

Under -d and a service manager it is stderr, otherwise a pipe to control, which names the process by the pipe and not by
the line.  Lines gather during a turn of the loop and leave in one write; what a full pipe does not take is dropped and
counted, and the count is logged when there is room again.
"""

import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

TYPE_CHECKING = False  # most that log load no event loop
if TYPE_CHECKING:
    from smtpd.ipc.event_loop import EventLoop

# A pipe that polls writable takes this much without blocking (POSIX PIPE_BUF), even a stderr that is shared.
WRITE_MAX = 4096
LINE_MAX = 2048  # bytes of a line, with its end

_CONTROL = {code: f"\\{code:03o}" for code in (*range(32), 127, *range(0x80, 0xA0), 0x2028, 0x2029)}
_CONTROL |= {0xDC00 + byte: f"\\{byte:03o}" for byte in range(0x80, 0x100)}  # of what is not UTF-8 (PEP 383)


def visible(text: str) -> str:
    """`text` with control characters and bytes that are not UTF-8 as \\ooo, so that no mail can forge a line."""
    return text if text.isprintable() else text.translate(_CONTROL)


FATAL = "warn: fatal: "  # how the line begins that says why the daemon ends
PARENT_NAME, PROGRAM_PREFIX = "parent", "table "  # names of writers of the log: ours, those of programs of tables
# Of a session, an attempt, or an envelope: as OpenSMTPD's users know them, without a severity.
_KNOWN = re.compile(r"[0-9a-f]{16} (?:smtp|mda|mta) |(?:delivery|relay): ")


def attributed(name: str, line: str) -> str:
    """`line` of the process `name`, for a log that several write to.  The lines that OpenSMTPD has stay as they are;
    others say who wrote them, behind the severity.  What a program of a table writes is never taken for ours."""
    severity, _, rest = line.partition(" ")
    if name.startswith(PROGRAM_PREFIX):
        return f"{name}: {line}"
    if name == PARENT_NAME or severity == "info:" or _KNOWN.match(line):
        return line
    if severity in ("warn:", "debug:"):
        return f"{severity} {name}: {rest}"
    return f"{name}: {line}"


def quoted(text: str) -> str:
    """A value for key="value": visible, with quotes and backslashes escaped."""
    return '"' + visible(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class Log:
    """The log of one process.  `later(flush)` is asked to call flush at the end of the turn; until a loop runs, lines
    leave at once."""

    def __init__(self, descriptor: int = 2):
        self.descriptor = descriptor
        self.verbose = False
        self.later: Callable[[Callable[[], None]], object] | None = None
        self._thread = 0  # of the loop
        self._hand_over: Callable[[Callable[[str], None], str], object] | None = None  # from other threads
        self._lines: list[bytes] = []
        self._scheduled = False
        self.dropped = 0
        self._cut = False  # what was written last did not end with a line
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def attach(self, loop: "EventLoop") -> None:
        """From here on lines gather during a turn of `loop`, whose thread calls this; other threads may log as well."""
        self.later = loop.call_soon
        self._thread, self._hand_over = threading.get_ident(), loop.call_soon_threadsafe

    def line(self, text: str) -> None:
        if self.later is not None and self._hand_over is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop has been closed
                self._hand_over(self.line, text)
            return
        self._lines.append(encoded(text))
        if self.later is None:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self.later(self.flush)

    def info(self, text: str) -> None:
        self.line(f"info: {text}")

    def warn(self, text: str) -> None:
        self.line(f"warn: {text}")

    def debug(self, text: str) -> None:
        if self.verbose:
            self.line(f"debug: {text}")

    def trouble(self, what: str, error: BaseException) -> None:
        """Our own code raised while it handled `what`: the traceback, a line each."""
        self.warn(f"{what}: {type(error).__name__}: {error}")
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.line(f"warn: {what}: {line}")

    def flush(self) -> None:
        self._scheduled = False
        lines, self._lines = self._lines, []
        piece = bytearray()
        for line in lines:
            if len(piece) + len(line) > WRITE_MAX:
                self._write(piece)
                piece = bytearray()
            piece += line
        if piece:
            self._write(piece)
        if dropped := self.dropped:
            notice = bytearray(b"warn: %d log lines were dropped\n" % dropped)
            if self._put(notice) == len(notice):
                self.dropped -= dropped

    def _write(self, piece: bytearray) -> None:
        """Some lines; those of them that do not leave are counted."""
        self.dropped += piece.count(b"\n", self._put(piece))

    def _put(self, piece: bytearray) -> int:
        """How many bytes of it were written: all or none, but perhaps some where the log is a file on a full disk."""
        data = b"\n" + piece if self._cut else piece
        try:
            written = os.write(self.descriptor, data) if self._poll.poll(0) else 0
        except OSError:
            return 0
        if written:
            self._cut = data[written - 1 : written] != b"\n"
        return max(0, written - (len(data) - len(piece)))


def encoded(text: str) -> bytes:
    """One line, of at most LINE_MAX bytes with its end, which a pipe takes as a whole."""
    if len(text) < LINE_MAX and text.isascii() and text.isprintable():  # so are nearly all
        return text.encode() + b"\n"
    line = visible(text[:LINE_MAX])[:LINE_MAX].encode(errors="backslashreplace")
    if len(line) >= LINE_MAX:
        line = line[: LINE_MAX - 1].decode(errors="ignore").encode()
    return line + b"\n"


log = Log()


def take_tracebacks(log: Log) -> None:
    """An uncaught exception goes to the log as well, not only to a stderr that may be closed."""

    def excepthook(_kind: type[BaseException], error: BaseException, _traceback: object) -> None:
        log.later = None
        log.trouble("fatal", error)

    sys.excepthook = excepthook
