"""What a sender is to be told of a recipient: when, and the row that says it (RFC 3461 4.1 and 5.2).

    NOTIFY          none      FAILURE   SUCCESS   DELAY     NEVER
    failed          owed      owed      -         -         -
    delayed         owed      -         -         owed      -
    delivered       -         -         owed      -         -
    relayed         -         -         owed      -         -
    expanded        -         -         owed      -         -

Nothing is owed to the null sender, and nothing for a notice, whatever NOTIFY says: no notice leads to another one.

The status is that of the other host, where it has said one.  Of mail whose time is over it stays 4.x.x (RFC 3464
2.3.3).
"""

import re

from smtpd.envelope import Notify, Outcome
from smtpd.queue.delivery.result import AttemptResult, bounded
from smtpd.queue.store.recipient_status import RecipientStatus, ReportAction
from smtpd.queue.store.store import Envelope

# RFC 3463
LOOP = "5.4.6"
TIME_IS_OVER = "4.4.7"
DELIVER_BY_IS_OVER = "5.4.7"  # RFC 2852 4.1.4

_WANTED = {
    ReportAction.FAILED: Notify.FAILURE,
    ReportAction.DELAYED: Notify.DELAY,
    ReportAction.DELIVERED: Notify.SUCCESS,
    ReportAction.RELAYED: Notify.SUCCESS,
    ReportAction.EXPANDED: Notify.SUCCESS,
}
_USUAL = Notify.FAILURE | Notify.DELAY  # for a client that has not said
_CLASSES = {ReportAction.FAILED: "5", ReportAction.DELAYED: "4"}  # of a status; of all others: 2
_DEFAULT = {ReportAction.FAILED: "5.0.0", ReportAction.DELAYED: "4.0.0"}
# RFC 3463 2: no leading zeros.  Behind a reply code, or at the beginning.
_ENHANCED = re.compile(r"(?:\A|\b[245][0-9]{2}[ -])([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))(?![0-9.])")


def is_owed(envelope: Envelope, action: ReportAction) -> bool:
    if envelope.is_notice or not envelope.origin.sender:
        return False
    return bool((envelope.recipient.notify or _USUAL) & _WANTED[action])


def status_row(
    envelope: Envelope, action: ReportAction, result: AttemptResult | None, reason: str, status: str = ""
) -> RecipientStatus:
    """`result`: of the last try; `status`: where it is not the one of that."""
    recipient, terms = envelope.recipient, envelope.terms
    code = result.code if result is not None else 0
    last_try = result.at if result is not None and result.sent else envelope.last_try
    return RecipientStatus(
        envelope=envelope.id,
        action=action,
        created=envelope.created,
        last_try=last_try,
        expires=envelope.expires,
        sender=envelope.origin.sender,
        envid=terms.envid,
        ret=terms.ret,
        require_tls=terms.require_tls,
        recipient=recipient.recipient,
        original=recipient.original,
        status=status or find_status(action, result.enhanced if result is not None else "", reason),
        reason=reason,
        remote=result.remote if result is not None and code else "",
        diagnostic=bounded(result.text) if result is not None and code else "",
    )


def find_status(action: ReportAction, enhanced: str, text: str) -> str:
    """RFC 3463: the first that fits the action, of `enhanced` and of what `text` says."""
    found = _ENHANCED.search(text)
    for status in (enhanced, found[1] if found else ""):
        if status[:1] == _CLASSES.get(action, "2") and _ENHANCED.fullmatch(status):
            return status
    return _DEFAULT.get(action, "2.0.0")


def of_failure(result: AttemptResult) -> str:
    """The status of a result that is none of another host; empty: what its text says."""
    return LOOP if result.outcome is Outcome.LOOP else ""


def of_expiry(enhanced: str, text: str) -> str:
    """The status of mail whose time is over: that of the last try, in the same form as for find_status."""
    status = find_status(ReportAction.DELAYED, enhanced, text)
    return TIME_IS_OVER if status == _DEFAULT[ReportAction.DELAYED] else status
