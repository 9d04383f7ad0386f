"""Command lines: their discipline, verbs, and the parameters of MAIL and RCPT.

byte 0      what is offered, bit by bit
the rest    lines of a client
"""

from smtpd.envelope import Origin
from smtpd.slice import Limits
from smtpd.smtp import command
from smtpd.smtp.extension import Offer
from smtpd.smtp.line import COMMAND_LINE_MAX, LineReader
from smtpd.smtp.question import RecipientQuestion
from smtpd.smtp.reply import CommandRefused
from tests.fuzz import invariants

NOON = 1795243823
ORIGIN = Origin("", "192.0.2.1", "<unknown>", "there.test", "mx.here.test", "", True)


def fuzz(data: bytes) -> None:
    offered, data = data[:1] or b"\0", data[1:]
    lines, refused = _lines(data, len(data) or 1)
    assert _lines(data, 1) == (lines, refused)
    offer = _offer(offered[0])
    for line in lines:
        assert len(line) <= COMMAND_LINE_MAX and not {b"\r", b"\n", b"\0"} & {line[n : n + 1] for n in range(len(line))}
        _obey(line, offer, utf8=bool(offered[0] & 16))


def _lines(data: bytes, step: int) -> tuple[list[bytes], str]:
    reader, lines = LineReader(), []
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        try:
            while (line := reader.maybe_line()) is not None:
                lines.append(line)
        except CommandRefused as refused:
            invariants.check_refusal(refused)
            assert refused.close
            return lines, refused.reply.text
    return lines, ""


def _offer(bits: int) -> Offer:
    return Offer(
        1000,
        Limits(),
        dsn=not bits & 1,
        hold=86400 * bool(bits & 2),
        require_tls=bool(bits & 4),
        starttls=bool(bits & 8),
    )


def _obey(line: bytes, offer: Offer, *, utf8: bool) -> None:
    try:
        verb, argument = command.split_command(line)
        assert verb.isascii() and verb == verb.upper()
        if verb == "MAIL":
            asked = command.parse_mail(argument, offer, NOON)
            assert asked.size >= 0
            assert asked.terms.utf8 or asked.sender.isascii()
            invariants.check_question(
                RecipientQuestion(1, ORIGIN, str(asked.sender), asked.terms, command.Notify(0), "")
            )
        elif verb == "RCPT":
            named = command.parse_rcpt(argument, offer, utf8=utf8)
            assert named.recipient.local and (utf8 or named.recipient.isascii())
            invariants.check_question(
                RecipientQuestion(
                    1, ORIGIN, str(named.recipient), command.MailParameters(), named.notify, named.original
                )
            )
        else:
            name = command.parse_helo(argument)
            assert 0 < len(name) <= 256 and name.isascii() and name.isprintable()
    except CommandRefused as refused:
        invariants.check_refusal(refused)
