"""What the server answers: a code, an enhanced code (RFC 3463), one or more lines of text.

    Reply(550, "5.1.1", "no such user").data   ->   b"550 5.1.1 no such user\\r\\n"

Text may hold what a client or a name server wrote.  So whatever is not printable ASCII leaves as `?`, and a line is cut
at the length the RFC allows: no input can end a reply, begin another one, or overflow a reader.
"""

import re

MAX_LINE = 512  # RFC 5321 4.5.3.1.5, CRLF included

_UNPRINTABLE = re.compile(r"[^ -~]")


class Reply:
    """`enhanced` is empty where RFC 2034 wants none: the banner, the answers to HELO and EHLO, and 3xx."""

    __slots__ = ("code", "data", "text")

    def __init__(self, code: int, enhanced: str, *lines: str):
        words = f"{enhanced} " if enhanced else ""
        *first, last = lines
        self.code = code
        self.text = _cut(f"{code} {words}{last}")  # the last line, as a log shows it
        self.data = "".join([_cut(f"{code}-{words}{line}") + "\r\n" for line in first] + [self.text, "\r\n"]).encode()

    def __repr__(self) -> str:
        return f"Reply({self.text!r})"


class Refuse(Exception):
    """The client is wrong, or may not: raised anywhere below a command, caught once, answered.

    With `close` nothing the client sends after this can be understood any more: the session ends.
    """

    def __init__(self, code: int, enhanced: str, text: str, *, close: bool = False):
        super().__init__(code, enhanced, text)
        self.reply = Reply(code, enhanced, text)
        self.close = close


def _cut(line: str) -> str:
    return printable(line)[: MAX_LINE - 2]


def printable(text: str) -> str:
    """The text with a `?` for everything that is not printable ASCII."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub("?", text)
