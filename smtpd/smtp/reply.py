"""What the server answers: a code, an enhanced code (RFC 3463), one or more lines of text.

    Reply(550, "5.1.1", "no such user").data   ->   b"550 5.1.1 no such user\\r\\n"

Text may hold what a client or a name server wrote.  So whatever is not printable ASCII leaves as `?`, and a line is cut
at the length the RFC allows: no input can end a reply, begin another one, or overflow a reader.
"""

REPLY_LINE_MAX = 512  # RFC 5321 4.5.3.1.5, CRLF included


class Reply:
    """`enhanced` is empty where RFC 2034 wants none: the banner, the answers to HELO and EHLO, and 3xx."""

    __slots__ = ("code", "data", "text")

    def __init__(self, code: int, enhanced: str, *lines: str):
        words = f"{printable(enhanced)} " if enhanced else ""
        room = REPLY_LINE_MAX - len(f"{code} {words}\r\n")
        if not (is_printable("".join(lines)) and max(map(len, lines)) <= room):  # seldom: looked at all at once
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
    """The client is wrong, or may not: raised anywhere below a command, caught once, answered.

    With `close` nothing the client sends after this can be understood any more: the session ends.
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
