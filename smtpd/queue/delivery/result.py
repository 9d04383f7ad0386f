"""The result of an attempt, in words that are the same for every carrier."""

from typing import NamedTuple

from smtpd.envelope import Outcome
from smtpd.ipc.log import visible

ERROR_MAX = 512  # characters of an error that are kept


class AttemptResult(NamedTuple):
    """What an attempt came to for one envelope.

    `code`, `enhanced` and `remote` are for notices to the sender.  The carrier of local mail leaves them empty, as an
    agent does not tell them but in its text.
    """

    outcome: Outcome
    text: str  # the reply or the error, as `show queue` has it
    at: int  # when, in seconds since 1970
    code: int = 0  # SMTP reply code; 0: no server has replied
    enhanced: str = ""  # enhanced status code, RFC 3463; empty: none
    remote: str = ""  # the host that has replied; empty: no other host was asked
    sent: bool = True  # the mail was given away; otherwise the result shows nothing of it
    answered: bool = True  # by the side that has the mail; otherwise it may be delivered, whatever the outcome
    logged: bool = False  # by the process that has spoken with the other host
    ours: bool = False  # of a failure: the fault is this host's, and an administrator can mend it


def bounded(reason: str) -> str:
    """As much of `reason` as a row may hold, of characters that it may hold."""
    return visible(reason.encode(errors="backslashreplace").decode())[:ERROR_MAX]
