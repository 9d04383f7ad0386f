"""sendmail -bs: SMTP between standard input and output and the server, until one of them ends.

    stdin   --a command, with CRLF--> server         its answer is awaited before the next command is sent
    stdout  <------its answer-------- server
    stdin   --a mail, with CRLF-----> server         behind 354, to the line with a dot
    stdin   --bytes, as they are----> server         behind BDAT

So the whole dialogue may come in one piece, as `printf ... | sendmail -bs` writes it, and with LF line ends: a bare LF
or CR ends a line of a command and of a mail.  Where DATA is refused and a mail comes behind it all the same, the mail
is skipped, so that none of its lines is taken for a command.

A mail ends with a dot in a line whose ends are as that of the DATA command: a program doubles the dots behind the line
ends that it knows, and the mail that it has been given may hold others.  A dot behind one of those is doubled here, or
what follows it could be commands that the mail's author has written (SMTP smuggling).

    exit status   0   nothing was refused            70, 75   something was; 75: later it may not be
                  65  the input ended in a mail      75       the server is gone
"""

import os
import re
import select
import sys

from smtpctl.sendmail_option import DATAERR, OK, SOFTWARE, TEMPFAIL, SendmailError
from smtpctl.submission import PIECE
from smtpd.smtp.response import Response, ResponseError, ResponseReader

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

MAX_LINE = 64 * 1024  # bytes of a command that are given to the server, which refuses it

_LINE_END = re.compile(rb"\r\n|\r|\n")
# By the end of the line with DATA: the end of the mail, and the other line ends, where a dot comes behind them.
_MAIL_ENDS = {
    b"\r\n": re.compile(rb"\r\n\.\r\n"),
    b"\n": re.compile(rb"\n\.\r?\n"),
    b"\r": re.compile(rb"\r\.\r\n?"),
}
_FOREIGN_ENDS = {
    b"\r\n": re.compile(rb"(?:\r|(?<!\r)\n)(?=\.)"),
    b"\n": re.compile(rb"\r(?=\.)"),
    b"\r": re.compile(rb"\n(?=\.)"),
}
_PERHAPS_MAIL_END = re.compile(rb"(?:\r\n?|\n)(?:\.\r?)?\Z")
_DOT_ALONE = re.compile(rb"\n\.(?=\n|\Z)")  # at the end of a piece its line end comes next
_CHUNK = re.compile(rb"BDAT[ \t]+([0-9]{1,18})([ \t]+LAST)?[ \t]*\Z", re.IGNORECASE)  # RFC 3030 2


class ServerClosed(Exception):
    """The server has closed."""


class MailIncomplete(Exception):
    """The input has ended in the middle of a mail."""


class Server:
    """`refused` holds the kinds of the answers that were no: 4 or 5."""

    def __init__(self, sock: "_socket.socket"):
        self.refused: set[int] = set()
        self._sock = sock
        self._responses = ResponseReader()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError:
            pass  # what it has said is still to be read

    def wait(self) -> bool:
        """Until there is something to hear."""
        return bool(select.select([self._sock.fileno()], [], []))

    def answer(self) -> int:
        """Its code.  Raises ServerClosed."""
        while not (response := self._maybe_response()):
            self.listen()
        return response.code

    def listen(self) -> None:
        """What it says goes to standard output as it is.  Raises ServerClosed."""
        try:
            data = self._sock.recv(PIECE)
        except OSError:
            data = b""
        if not data:
            while self._maybe_response():  # said in the middle of a mail, so that nothing has waited for it
                pass
            raise ServerClosed
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        self._responses.feed(data)

    def end(self) -> None:
        """Nothing more will be sent; hear the rest."""
        try:
            self._sock.shutdown(1)
            while True:
                self.listen()
        except (OSError, ServerClosed):
            pass

    def _maybe_response(self) -> Response | None:
        try:
            response = self._responses.maybe_response()
        except ResponseError:
            raise ServerClosed from None
        if response and response.kind > 3:
            self.refused.add(response.kind)
        return response


class Input:
    """Standard input.  While it is waited for, the server is listened to."""

    def __init__(self, server: Server):
        self._server = server
        self._text = b""
        self.line_end = b"\n"  # of the line that was read last; behind a CR, certain when more has come
        self._ended = False
        self._skip_feed = False  # the CR of the last line has been taken for its end; an LF belongs to it

    def maybe_line(self) -> bytes | None:
        """Without its line end; None behind the last one.  Raises ServerClosed."""
        while not (found := _LINE_END.search(self._text)) and len(self._text) <= MAX_LINE and self._read():
            pass
        if not found:
            return self._take(len(self._text)) or None
        line = self._text[: found.start()]
        self._take(found.end())
        self.line_end = found[0]
        self._skip_feed = found[0] == b"\r" and not self._text
        return line

    def piece(self, count: int = PIECE) -> bytes:
        """Up to `count` of the next bytes; none at the end.  Raises ServerClosed."""
        if not self._text:
            self._read()
        return self._take(count)

    def give_back(self, text: bytes, *, skip_feed: bool) -> None:
        self._text, self._skip_feed = text + self._text, skip_feed and not text

    def has_more(self) -> bool:
        """Whether the writer has gone on without reading the last answer."""
        if not self._text and not self._ended and select.select([0], [], [], 0)[0]:
            self._read()
        return bool(self._text)

    def _take(self, count: int) -> bytes:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _read(self) -> bool:
        """Whether something came before the end."""
        while not self._ended:
            ready, _, _ = select.select([0, self._server.fileno()], [], [])
            if self._server.fileno() in ready:
                self._server.listen()
            if 0 not in ready:
                continue
            data = os.read(0, PIECE)
            self._ended = not data
            if self._skip_feed:
                if data.startswith(b"\n"):
                    data, self.line_end = data[1:], b"\r\n"
                self._skip_feed = False
            self._text += data
            if data:
                return True
        return False


def relay(sock: "_socket.socket") -> int:
    """The exit status.  Raises SendmailError."""
    server = Server(sock)
    try:
        server.answer()
        _converse(Input(server), server)
    except MailIncomplete:
        raise SendmailError(
            _status(server) or DATAERR, "the input ended in the middle of a mail, which is not sent"
        ) from None
    except ServerClosed:
        raise SendmailError(_status(server) or TEMPFAIL, "smtpd closed the connection") from None
    finally:
        sock.close()
    return _status(server)


def _status(server: Server) -> int:
    if not server.refused:
        return OK
    return SOFTWARE if 5 in server.refused else TEMPFAIL


def _converse(given: Input, server: Server) -> None:
    """Raises MailIncomplete, ServerClosed."""
    begun = False  # a mail, whose last chunk has not come
    while (line := given.maybe_line()) is not None:
        server.send(line + b"\r\n")
        chunk = _CHUNK.match(line.lstrip(b" \t"))  # as the server reads it
        if chunk:
            _pass_chunk(given, server, int(chunk[1]))
        verb = line.strip()[:4].upper()
        # Asked before the answer is shown: behind it, more is what a client says that has read it.
        goes_on = verb == b"DATA" and server.wait() and given.has_more()
        code = server.answer()
        if chunk:
            begun = code == 250 and not chunk[2]
        elif code == 354:
            _pass_mail(given, server.send)
            server.answer()
        elif goes_on:
            _pass_mail(given, lambda data: None)
        elif verb == b"RSET":
            begun = False
        if code in (221, 421):
            return
    if begun:
        raise MailIncomplete
    server.end()


def _pass_chunk(given: Input, server: Server, size: int) -> None:
    while size:
        piece = given.piece(min(size, PIECE))
        if not piece:
            raise MailIncomplete
        server.send(piece)
        size -= len(piece)


def _pass_mail(given: Input, send: "Callable[[bytes], None]") -> None:
    """To the line with a dot, and with it; as lines that end in CRLF."""
    held: bytes | None = None
    first = 2  # the dot may stand in the first line; bytes that are not of the mail
    while piece := given.piece():
        end = given.line_end
        text = (end if held is None else held) + piece
        found = _MAIL_ENDS[end].search(text)
        if found:
            given.give_back(text[found.end() :], skip_feed=text.endswith(b"\r"))
            send((_with_crlf(text[: found.start()], end) + b"\r\n.\r\n")[first:])
            return
        perhaps = _PERHAPS_MAIL_END.search(text)
        cut = perhaps.start() if perhaps else len(text)
        held = text[cut:]
        if cut:
            send(_with_crlf(text[:cut], end)[first:])
            first = 0
    raise MailIncomplete


def _with_crlf(text: bytes, end: bytes) -> bytes:
    """No line of it is a dot alone, nor begins with one that its writer did not know to begin a line."""
    text = _FOREIGN_ENDS[end].sub(rb"\g<0>.", text)
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return _DOT_ALONE.sub(b"\n..", lines).replace(b"\n", b"\r\n")
