"""Actions: what a session wants its driver to do, as it has no socket, no file and no log.

Say             write to the client; at most one in what a call returns, so a group of commands has its replies in one
                segment
AppendContent   to the message that is being received
Ask             put a question to another process; its answer comes back by `ServerSession.answer`
DropMessage     the message will not be completed: drop content and envelopes
CountFailure    the client has failed once more, in a command or a login
Log             write a line to the log
Close           write out all replies, then close
"""

import re

from msgspec import Struct

from smtpd.smtp.question import Question

_BARE = re.compile(r"[!#-\[\]-~]+")  # values without quotes
_SPECIAL = re.compile(r'["\\]|[^ -~]')


class Say(Struct, frozen=True):
    data: bytes


class AppendContent(Struct, frozen=True):
    """Line ends are LF, dots are unstuffed."""

    data: bytes


class Ask(Struct, frozen=True):
    question: Question


class DropMessage(Struct, frozen=True):
    """`envelopes`: how many were accepted; some may still be on their way."""

    message: int
    envelopes: int


class CountFailure(Struct, frozen=True):
    address: str


class Close(Struct, frozen=True):
    reason: str


class Log(Struct, frozen=True):
    event: str
    fields: dict[str, str | int] = {}

    def __str__(self) -> str:
        """`message msgid=1a2b3c4d size=512`; values with blanks in quotes, quotes and controls in them escaped."""
        return " ".join([self.event, *(f"{key}={_value(value)}" for key, value in self.fields.items())])


Action = Say | AppendContent | Ask | DropMessage | CountFailure | Log | Close


def _value(value: str | int) -> str:
    text = str(value)
    if _BARE.fullmatch(text):
        return text
    return '"' + _SPECIAL.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
