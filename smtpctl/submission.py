"""SMTP client of sendmail: submits one mail over the socket that smtpd has opened, one command at a time.

    220, EHLO -> MAIL -> RCPT, each -> DATA -> content -> 250 -> QUIT

The mail goes to all recipients or to none: if one is refused nothing is sent, and each refusal is reported.  Replies
become printable as they are read (smtpd/smtp/response.py); commands are single lines, by the types of their parts.
"""

from smtpd.smtp.dot_stuffing import dot_stuffed
from smtpd.smtp.response import Response, ResponseError, ResponseReader

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable

REPLY_TIMEOUT = 600.0  # seconds for an answer; RFC 5321 4.5.3.2.6
PIECE = 64 * 1024


class SubmissionMail:
    """Addresses are as they stand between the angle brackets.

    size                about, in bytes
    ret, envid, notify  RFC 3461; `ret` is FULL or HDRS, `envid` becomes xtext
    """

    __slots__ = ("eight_bit", "envid", "notify", "recipients", "ret", "sender", "size")

    def __init__(
        self,
        sender: str,
        recipients: tuple[str, ...],
        size: int,
        eight_bit: bool = False,
        ret: str = "",
        envid: str = "",
        notify: str = "",
    ):
        self.sender, self.recipients, self.size, self.eight_bit = sender, recipients, size, eight_bit
        self.ret, self.envid, self.notify = ret, _xtext(envid) if envid else "", notify


class SubmissionRefused(Exception):
    """By the server, in its words; nothing has been sent.  `temporary`: later it may not be."""

    def __init__(self, *texts: str, temporary: bool):
        super().__init__(*texts)
        self.texts = texts
        self.temporary = temporary


class ConnectionLost(Exception):
    """The server has closed the connection, or does not speak SMTP."""


class Submission:
    """`show` gets each line of the dialogue, without what it ends in."""

    def __init__(self, sock: "_socket.socket", show: "Callable[[str], None]" = lambda line: None):
        sock.settimeout(REPLY_TIMEOUT)
        self._sock = sock
        self._show = show
        self._responses = ResponseReader()

    def send(self, mail: SubmissionMail, content: "Iterable[bytes]") -> None:
        """Raises SubmissionRefused, ConnectionLost."""
        self._check(self._receive())
        offered = {line.split(" ")[0].upper() for line in self._check(self._command("EHLO localhost")).lines[1:]}
        self._check(self._command(f"MAIL FROM:<{mail.sender}>{_of_mail(mail, offered)}"))
        self._name_recipients(mail, f" NOTIFY={mail.notify}" if mail.notify and "DSN" in offered else "")
        self._check(self._command("DATA"))
        self._check(self._transfer(content))
        self._quit()  # it is done

    def _quit(self) -> None:
        try:
            self._command("QUIT")
        except ConnectionLost:
            pass

    def _name_recipients(self, mail: SubmissionMail, parameter: str) -> None:
        refused: list[tuple[str, Response]] = []
        for recipient in mail.recipients:
            response = self._command(f"RCPT TO:<{recipient}>{parameter}")
            if response.kind != 2:
                refused.append((recipient, response))
            if response.code == 421:  # RFC 5321 3.8: the server has closed
                break
        if not refused:
            return
        self._quit()
        texts = [f"{recipient}: {response}" for recipient, response in refused]
        if len(refused) < len(mail.recipients):
            texts.append("so it was not sent to any")
        raise SubmissionRefused(*texts, temporary=all(response.kind == 4 for _, response in refused))

    def _check(self, response: Response) -> Response:
        if response.kind in (2, 3):
            return response
        raise SubmissionRefused(f"command failed: {response}", temporary=response.kind == 4)

    def _transfer(self, content: "Iterable[bytes]") -> Response:
        try:
            for piece in dot_stuffed(content):
                self._sock.sendall(piece)
        except OSError:
            pass  # the server has ended it, and perhaps said why
        return self._receive()

    def _command(self, line: str) -> Response:
        self._show(f">>> {line}")
        try:
            self._sock.sendall(line.encode() + b"\r\n")
        except OSError as error:
            raise ConnectionLost(f"the connection to smtpd is lost: {error.strerror or error}") from None
        return self._receive()

    def _receive(self) -> Response:
        try:
            while not (response := self._responses.maybe_response()):
                data = self._sock.recv(PIECE)
                if not data:
                    raise ConnectionLost("smtpd closed the connection")
                self._responses.feed(data)
        except OSError as error:
            raise ConnectionLost(f"the connection to smtpd is lost: {error.strerror or error}") from None
        except ResponseError as malformed:
            raise ConnectionLost(f"invalid answer from smtpd: {malformed}") from None
        for line in response.lines:
            self._show(f"<<< {response.code} {line}")
        return response


def _of_mail(mail: SubmissionMail, offered: set[str]) -> str:
    """The parameters, each if it is needed and offered."""
    utf8 = not all(address.isascii() for address in (mail.sender, *mail.recipients))
    wanted = {
        "SIZE": f" SIZE={mail.size}",
        "8BITMIME": " BODY=8BITMIME" if mail.eight_bit else "",
        "SMTPUTF8": " SMTPUTF8" if utf8 else "",
        "DSN": (f" RET={mail.ret}" if mail.ret else "") + (f" ENVID={mail.envid}" if mail.envid else ""),
    }
    return "".join(text for keyword, text in wanted.items() if keyword in offered)


def _xtext(text: str) -> str:
    from smtpd.smtp import xtext  # seldom needed, and loaded before root is given up

    return xtext.encode(text)
