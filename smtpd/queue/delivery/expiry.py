"""Expiry and release of envelopes, derived from the parameters of MAIL.

    release       not tried before; all its time counts from then                      RFC 4865
    deliver_by R  given up then, whatever time is left                                 RFC 2852
    deliver_by N  kept, for the notice to the sender
    the rest      for others: the scheduler, the agents, notices to the sender

The session has checked them against its limits; values that no session can have sent are refused here once more.
"""

from collections.abc import Iterable

from smtpd.envelope import MailParameters, Notify, Recipient

FUTURE_MAX = 10**9 + 86400  # seconds; nine digits of them is the most that a client can write, and clocks are set

_NOTIFY = {Notify.NEVER, *range(0, 16, 2)}  # RFC 3461 4.1: NEVER stands alone
EXPIRED, OVERDUE = "Expired", "Expired (deliver-by time)"


def find_fault(terms: MailParameters, recipients: Iterable[Recipient], now: int) -> str:
    """Why no session can have sent this; empty when one can."""
    if bool(terms.by_mode) is not bool(terms.deliver_by):
        return "half of a DELIVERBY"
    if terms.release > now + FUTURE_MAX or (terms.deliver_by and abs(terms.deliver_by - now) > FUTURE_MAX):
        return "a time that is too far away"
    if any(to.notify not in _NOTIFY for to in recipients):
        return "an impossible NOTIFY"
    return ""


def expiry(terms: MailParameters, created: int, lifetime: int) -> int:
    """When an envelope expires, in seconds since 1970."""
    end = max(created, terms.release) + lifetime
    return min(end, terms.deliver_by) if terms.by_mode == "R" else end


def is_overdue(terms: MailParameters, now: int) -> bool:
    """The sender does not want it delivered any more."""
    return terms.by_mode == "R" and terms.deliver_by < now


def why_expired(terms: MailParameters, expires: int) -> str:
    return OVERDUE if terms.by_mode == "R" and expires == terms.deliver_by else EXPIRED
