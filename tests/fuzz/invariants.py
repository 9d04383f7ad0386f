"""Invariants of all output, whatever the input:

a reply       printable lines with CRLF, one code, of the length that RFC 5321 allows
a refusal     4xx or 5xx, with an enhanced code of the same class
a question    fits the imsg that carries it: its receiver would end the daemon over one that does not
a log line    one line, printable
a trace       the lines of Received, as many as we write, and nothing that goes on with them
"""

import ipaddress
import re
from collections import Counter
from functools import partial

import msgspec

from smtpd.dispatcher.inbound.lookup_questions import LookupQuestions
from smtpd.imsg import TABLE
from smtpd.smtp.question import (
    MessageIdQuestion,
    PasswordQuestion,
    Question,
    RecipientQuestion,
    ScramProofQuestion,
    ScramSeedQuestion,
    SenderQuestion,
)
from smtpd.smtp.reply import CommandRefused

MAX_REPLY = 512  # bytes; RFC 5321 4.5.3.1.5
MAX_CHALLENGE = 12288  # bytes; RFC 4954 4

_REPLY = re.compile(rb"([2-5][0-9]{2})(?:[ -])([ -~]*)\r\n")
_ENHANCED = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3} ")
_WITHOUT_ENHANCED = (b"334", b"354")
_LOG = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
_TRACE = re.compile(
    rb"Received: (?:from [!-~]+ \([!-~]+ \[[!-~]+\]\)\n\t)?"
    rb"by [!-~]+ \(smtpd\) with [A-Z0-9]+ id [0-9a-f]{8}(?: \([!-~]+\)(?: auth=(?:no|yes user=[!-~]+))?)?"
    rb"(?:\n\tfor <[^\x00-\x1f\x7f]+>)?;\n"
    rb"\t[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} \+0000 \(UTC\)\n(?![ \t])"
)


def check_replies(said: bytes) -> None:
    """What is written at once: whole replies."""
    at, before = 0, b""
    while at < len(said):
        found = _REPLY.match(said, at)
        assert found, said
        line, code = found[0], found[1]
        assert len(line) <= (MAX_CHALLENGE if code == b"334" else MAX_REPLY), line
        assert not before or code == before, said
        before = code if line[3:4] == b"-" else b""
        if code[:1] in b"45":
            enhanced = _ENHANCED.match(found[2])
            assert enhanced and enhanced[1] == code[:1], line
        at = found.end()
    assert not before, said


def check_refusal(refused: CommandRefused) -> None:
    assert 400 <= refused.reply.code < 600
    check_replies(refused.reply.data)


def check_log(line: str) -> None:
    assert _LOG.fullmatch(line), repr(line)


def check_question(question: Question) -> None:
    if isinstance(
        question, RecipientQuestion | PasswordQuestion | ScramSeedQuestion | ScramProofQuestion | SenderQuestion
    ):
        sent: list = []
        LookupQuestions(_Wire(sent), Counter(), 1, _unanswered).ask(question, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
        check_imsg(sent[0])
    elif isinstance(question, MessageIdQuestion):
        assert question.address


def check_imsg(imsg: msgspec.Struct) -> None:
    encoded = msgspec.msgpack.encode(imsg)
    assert len(encoded) <= TABLE.by_class[type(imsg)].limit
    assert msgspec.msgpack.decode(encoded, type=type(imsg)) == imsg


def get_untraced(content: bytes) -> bytes:
    """The content of a message behind our trace line."""
    found = _TRACE.match(content)
    assert found, content[:600]
    return content[found.end() :]


def is_mapped(address: str) -> bool:
    """An IPv4 address that is written as one of IPv6, where no rule for IPv4 would find it."""
    return bool(getattr(ipaddress.ip_address(address), "ipv4_mapped", None))


class _Wire:
    """To lookup, which never answers."""

    def __init__(self, sent: list):
        self._sent = sent

    def ask(self, make: partial, answered: object) -> None:
        self._sent.append(make(1))


def _unanswered(answer: object) -> None:
    raise AssertionError(answer)
