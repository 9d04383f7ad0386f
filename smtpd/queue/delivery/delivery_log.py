"""Log lines of deliveries, in the words that users of OpenSMTPD know.

SID mda delivery evpid=E from=<a> to=<dest> rcpt=<-|as named> user=U delay=D result=Ok|TempFail|PermFail stat=TEXT
delivery: Expire|Remove for E: from=<a>, to=<dest>, rcpt=<-|as named>, delay=D, stat=TEXT
"""

from smtpd.envelope import Outcome, envelope_text
from smtpd.ipc.log import quoted
from smtpd.queue.store.store import Envelope

RESULTS = {Outcome.DELIVERED: "Ok", Outcome.DEFERRED: "TempFail", Outcome.FAILED: "PermFail", Outcome.LOOP: "PermFail"}


def attempt_line(envelope: Envelope, log_id: int, outcome: Outcome, stat: str, now: int) -> str:
    """An attempt has ended; `log_id` is that of the agent, 0 when there was none."""
    return (
        f"{log_id:016x} mda delivery evpid={envelope_text(envelope.id)} from=<{envelope.origin.sender}>"
        f" to=<{envelope.recipient.destination}> rcpt=<{_named(envelope)}> user={envelope.recipient.user}"
        f" delay={duration(now - envelope.created)} result={RESULTS[outcome]}"
        f" stat={stat if stat.isalnum() else quoted(stat)}"
    )


def end_line(envelope: Envelope, what: str, stat: str, now: int) -> str:
    """An envelope has ended without an attempt: `what` is Expire or Remove."""
    return (
        f"delivery: {what} for {envelope_text(envelope.id)}: from=<{envelope.origin.sender}>,"
        f" to=<{envelope.recipient.destination}>, rcpt=<{_named(envelope)}>,"
        f" delay={duration(now - envelope.created)}, stat={stat}"
    )


def _named(envelope: Envelope) -> str:
    recipient = envelope.recipient
    return "-" if recipient.recipient == recipient.destination else recipient.recipient


def duration(seconds: int) -> str:
    """0s, 39s, 5m57s, 1d2h3m4s."""
    text = ""
    rest = max(0, seconds)
    for letter, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= length:
            text += f"{rest // length}{letter}"
        rest %= length
    return text or "0s"
