"""The part of a notice that people read.  Programs should read the fields; some read this, so its sentences stay."""

from collections.abc import Iterator

from smtpd.header.report_facts import Action, RecipientReport, Report
from smtpd.header.report_field import lines_of, one_line, timestamp

WIDTH = 72

WHAT = {
    Action.FAILED: "It could not be delivered to, and will not be tried again for:",
    Action.DELAYED: "It has not been delivered yet to:",
    Action.DELIVERED: "It has been delivered to:",
    Action.RELAYED: "It has been passed on to a server that does not say whether it is delivered, for:",
    Action.EXPANDED: "It has been passed on to several recipients, in the place of:",
}
ADVICE = {
    Action.FAILED: "If an address is misspelt, send the mail again to the right one.  Otherwise ask the recipient in"
    " another way, or write to {postmaster} and enclose this notice.",
    Action.DELAYED: "You need not send it again: it will be tried on, and you will hear of it if it cannot be delivered"
    " at all.",
}
ONLY_HEADER = "The header of your mail is enclosed, and not all of it."


def text(report: Report, is_whole: bool) -> str:
    """`is_whole`: all of the message is enclosed."""
    host = one_line(report.host)
    paragraphs = [f"This is the mail server {host}.", f"It received a mail of yours on {timestamp(report.arrival)}."]
    actions = [action for action in Action if any(one.action is action for one in report.recipients)]
    for action in actions:
        paragraphs.append(WHAT[action])
        paragraphs += ["\n".join(_recipient(one)) for one in report.recipients if one.action is action]
    paragraphs += [ADVICE[action].format(postmaster=f"postmaster@{host}") for action in actions if action in ADVICE]
    if report.is_whole and not is_whole:
        paragraphs.append(ONLY_HEADER)
    return "\n\n".join("\n".join(_wrapped(one)) for one in paragraphs) + "\n"


def _wrapped(paragraph: str) -> list[str]:
    return [paragraph] if paragraph.startswith("  ") else lines_of(paragraph, WIDTH)


def _recipient(recipient: RecipientReport) -> Iterator[str]:
    yield f"  {one_line(recipient.recipient)}"
    if recipient.diagnostic is not None and recipient.remote is not None:
        said = f"{one_line(recipient.remote)} said: {one_line(recipient.diagnostic)}"
    else:
        said = one_line(recipient.diagnostic or recipient.reason)
    yield from (f"    {line}" for line in lines_of(said, WIDTH) if line)
    if recipient.retry_until is not None and recipient.action is Action.DELAYED:
        yield f"    It will be tried until {timestamp(recipient.retry_until)}."
