"""Fields of message/delivery-status (RFC 3464 section 2, RFC 6533 section 3), and text of others made safe for them.

    Final-Recipient: rfc822; bob@far.test
    Action: failed
    Status: 5.1.1
    Remote-MTA: dns; mx.far.test
    Diagnostic-Code: smtp; 550 5.1.1 no such user

What another server said is bytes of its choice: each character that does not print becomes visible, a text has a
bounded length, and what is folded goes on behind a space.  So no text ends its field.
"""

import re
from collections.abc import Iterator

from smtpd.header.received import date
from smtpd.header.report_facts import Action, RecipientReport, Report

TEXT_MAX = 2000  # characters of a text of others
LINE_MAX = 76  # characters of a line, where there are spaces
WORD_MAX = 400  # characters of a word: a line may have 998 bytes (RFC 5322 2.1.1), and a character takes up to four

_STATUS = re.compile(r"[245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2})", re.ASCII)
_UNKNOWN_STATUS = {Action.FAILED: "5.0.0", Action.DELAYED: "4.0.0"}


def one_line(text: str) -> str:
    """What prints of `text`, on one line: lines of a reply follow each other, other characters become visible."""
    text = re.sub(r"[\r\n\t ]+", " ", text[: 2 * TEXT_MAX]).strip(" ")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} [...]"


def ascii_line(text: str) -> str:
    """The same, where only ASCII may stand."""
    text = one_line(text)
    return text if text.isascii() else "".join(char if char.isascii() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode()


def lines_of(text: str, width: int = LINE_MAX) -> list[str]:
    """`text` in lines of at most `width` characters, or of one word that is longer."""
    lines: list[str] = []
    line = ""
    for long_word in text.split(" "):
        for at in range(0, len(long_word) or 1, WORD_MAX):
            word = long_word[at : at + WORD_MAX]
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
    return [*lines, line]


def field(name: str, value: str) -> str:
    """A field with its line end; it goes on in lines that begin with a space."""
    first, *more = lines_of(f"{name}: {value}")
    return "".join((f"{first}\n", *(f"  {line}\n" for line in more)))


def timestamp(when: float) -> str:
    """RFC 3464 2.2.5: with a numeric zone."""
    return date(int(when)).removesuffix(" (UTC)")


def status_of(recipient: RecipientReport) -> str:
    """RFC 3463; what is none becomes the general one of the action."""
    return recipient.status if _STATUS.fullmatch(recipient.status) else _UNKNOWN_STATUS.get(recipient.action, "2.0.0")


def delivery_status(report: Report) -> str:
    """A group of fields for the message, and one for each recipient, with an empty line in front of each."""
    return "\n".join(["".join(_of_message(report)), *("".join(_of_recipient(one)) for one in report.recipients)])


def _of_message(report: Report) -> Iterator[str]:
    if report.envelope_id is not None:
        yield field("Original-Envelope-Id", ascii_line(report.envelope_id))
    yield field("Reporting-MTA", f"dns; {ascii_line(report.host)}")
    yield field("Arrival-Date", timestamp(report.arrival))


def _of_recipient(recipient: RecipientReport) -> Iterator[str]:
    if recipient.original is not None:
        kind, _, address = recipient.original.partition(";")
        yield field("Original-Recipient", f"{ascii_line(kind)}; {one_line(address)}")
    kind = "rfc822" if recipient.recipient.isascii() else "utf-8"
    yield field("Final-Recipient", f"{kind}; {one_line(recipient.recipient)}")
    yield field("Action", recipient.action.value)
    yield field("Status", status_of(recipient))
    if recipient.remote is not None:
        yield field("Remote-MTA", f"dns; {ascii_line(recipient.remote)}")
    if recipient.diagnostic is not None:
        yield field("Diagnostic-Code", f"smtp; {ascii_line(recipient.diagnostic)}")
    elif recipient.reason:
        yield field("Diagnostic-Code", f"x-smtpd; {ascii_line(recipient.reason)}")
    if recipient.last_attempt is not None:
        yield field("Last-Attempt-Date", timestamp(recipient.last_attempt))
    if recipient.retry_until is not None and recipient.action is Action.DELAYED:
        yield field("Will-Retry-Until", timestamp(recipient.retry_until))
