"""Log lines of deliveries, in the words that users of OpenSMTPD know.

SID mda delivery evpid=E from=<a> to=<dest> rcpt=<-|as named> user=U delay=D result=Ok|TempFail|PermFail stat=TEXT
SID mta delivery evpid=E from=<a> to=<dest> rcpt=<-|as named> delay=D result=TempFail|PermFail stat=TEXT
delivery|relay: Expire|Remove for E: from=<a>, to=<dest>, rcpt=<-|as named>, delay=D, stat=TEXT

The line of relayed mail that another host has answered is the dispatcher's; here are those that ended before.
"""

from smtpd.envelope import Kind, Outcome, duration_text, envelope_text
from smtpd.ipc.log import quoted
from smtpd.queue.store.store import Envelope

RESULTS = {Outcome.DELIVERED: "Ok", Outcome.DEFERRED: "TempFail", Outcome.FAILED: "PermFail", Outcome.LOOP: "PermFail"}


def attempt_line(envelope: Envelope, log_id: int, outcome: Outcome, stat: str, now: int) -> str:
    """An attempt has ended; `log_id` is that of the agent, 0 when there was none."""
    kind, user = ("mda", f" user={envelope.recipient.user}") if envelope.recipient.kind is Kind.MDA else ("mta", "")
    return (
        f"{log_id:016x} {kind} delivery evpid={envelope_text(envelope.id)} from=<{envelope.origin.sender}>"
        f" to=<{envelope.recipient.destination}> rcpt=<{_named(envelope)}>{user}"
        f" delay={duration_text(now - envelope.created)} result={RESULTS[outcome]}"
        f" stat={stat if stat.isalnum() else quoted(stat)}"
    )


def end_line(envelope: Envelope, what: str, stat: str, now: int) -> str:
    """An envelope has ended without an attempt: `what` is Expire or Remove."""
    kind = "delivery" if envelope.recipient.kind is Kind.MDA else "relay"
    return (
        f"{kind}: {what} for {envelope_text(envelope.id)}: from=<{envelope.origin.sender}>,"
        f" to=<{envelope.recipient.destination}>, rcpt=<{_named(envelope)}>,"
        f" delay={duration_text(now - envelope.created)}, stat={stat}"
    )


def _named(envelope: Envelope) -> str:
    recipient = envelope.recipient
    return "-" if recipient.recipient == recipient.destination else recipient.recipient
