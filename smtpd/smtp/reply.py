"""Replies of the server: a code, an enhanced code (RFC 3463), one or more lines of text.

    Reply(550, "5.1.1", "no such user").data   ->   b"550 5.1.1 no such user\\r\\n"

Text may come from a client or a name server.  So what is not printable ASCII is sent as `?`, and a line is cut at the
length that the RFC allows: no input can end a reply, begin another one, or overflow a reader.
"""

REPLY_LINE_MAX = 512  # RFC 5321 4.5.3.1.5, CRLF included


class Reply:
    """`enhanced` is empty where RFC 2034 has none: the banner, the replies to HELO and EHLO, and 3xx."""

    __slots__ = ("code", "data", "text")

    def __init__(self, code: int, enhanced: str, *lines: str):
        words = f"{printable(enhanced)} " if enhanced else ""
        room = REPLY_LINE_MAX - len(f"{code} {words}\r\n")
        if not (
            is_printable("".join(lines)) and max(map(len, lines)) <= room
        ):  # seldom true; all lines are checked in one go
            lines = tuple(printable(line)[:room] for line in lines)
        *first, last = lines
        self.code = code
        self.text = f"{code} {words}{last}"  # the last line, as a log shows it
        more = f"{code}-{words}"
        head = f"{more}{f'\r\n{more}'.join(first)}\r\n" if first else ""
        self.data = f"{head}{self.text}\r\n".encode()

    def __repr__(self) -> str:
        return f"Reply({self.text!r})"


class CommandRefused(Exception):
    """The command is wrong or not permitted: raised anywhere below a command, caught in server.py, and replied.

    With `close` the session ends: what the client sends after this cannot be understood any more.
    """

    def __init__(self, code: int, enhanced: str, text: str, *, close: bool = False):
        super().__init__(code, enhanced, text)
        self.reply = Reply(code, enhanced, text)
        self.close = close


def printable(text: str) -> str:
    """The text with a `?` for everything that is not printable ASCII."""
    return text if is_printable(text) else "".join(char if " " <= char <= "~" else "?" for char in text)


def is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
