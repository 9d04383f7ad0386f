"""Refusals of recipients: the reply to the client, and the reason for the log.

550 5.1.1, 5.2.1, 5.7.1    unknown user; user who receives no mail; no matching rule
553 5.6.7                  an address needs SMTPUTF8, which the LMTP server lacks
524 5.2.4, 424 4.2.4       expansion failed, permanently or for now
451 4.3.0                  a table or process does not answer, or a forwarding is not allowed
4xx, 5xx                   from an `error:` target
"""

import re
from dataclasses import dataclass

from smtpd.smtp.reply import printable
from smtpd.tables.alias_syntax import ErrorReply

TEXT_MAX = 1024  # characters that an imsg carries (envelope.py)

_ENHANCED = re.compile(r"([45]\.[0-9]{1,3}\.[0-9]{1,3})(?: +|\Z)")  # RFC 3463 2


@dataclass(frozen=True)
class Refusal:
    """`text` is for the client, `reason` (may be empty) for the log."""

    code: int
    enhanced: str
    text: str
    reason: str = ""


class RecipientError(Exception):
    """Refuses the recipient.  `named`: the reply repeats the recipient."""

    def __init__(self, code: int, enhanced: str, text: str, reason: str = "", *, named: bool = True):
        super().__init__(code, enhanced, text)
        self._refusal = Refusal(code, enhanced, text, reason)
        self._named = named

    def refusal(self, recipient: str) -> Refusal:
        said = self._refusal
        text = f"{said.text}: <{recipient}>" if self._named else said.text
        return Refusal(said.code, said.enhanced, text[:TEXT_MAX], said.reason)


def invalid_recipient(enhanced: str) -> RecipientError:
    return RecipientError(550, enhanced, "Invalid recipient")


# RFC 3463 X.2.1: the mailbox exists, and does not accept messages
def disabled_recipient(user: str) -> RecipientError:
    return RecipientError(550, "5.2.1", "Invalid recipient", f"user {user} never receives mail")


# RFC 6531 3.5: 553, mailbox name not allowed; X.6.7 non-ASCII addresses not permitted
def smtputf8_required(whose: str) -> RecipientError:
    return RecipientError(553, "5.6.7", f"{whose} address is not ASCII, and the recipient's server does not take that")


def temporary_failure(reason: str) -> RecipientError:
    return RecipientError(451, "4.3.0", "Temporary failure", reason)


# RFC 3463 X.2.4: mailing list expansion problem
def expansion_failed(text: str, reason: str = "") -> RecipientError:
    return RecipientError(524, "5.2.4", text, reason)


def expansion_deferred(text: str, reason: str = "") -> RecipientError:
    return RecipientError(424, "4.2.4", text, reason)


def from_error_target(error: ErrorReply) -> RecipientError:
    """The refusal of an `error:` in an alias or a .forward, whose text may begin with an enhanced status code."""
    code, text = error.code, printable(error.text.replace("\t", " "))
    if code == 421:
        code = 450  # RFC 5321 3.8: 421 would end the whole session
    enhanced = f"{code // 100}.2.0"  # RFC 3463 3.3: other mailbox status
    if (found := _ENHANCED.match(text)) and found[1][0] == enhanced[0]:
        enhanced, text = found[1], text[found.end() :]
    return RecipientError(code, enhanced, text, named=False)
