"""A connection of relayed mail as the log knows it: its id, what happens to it, and the result of each recipient."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpd.dispatcher.outbound.connection import OutgoingConnection
from smtpd.envelope import Notify, Outcome, RelayRecipient, duration_text, envelope_text
from smtpd.imsg import RelayMessage
from smtpd.ipc.log import log, quoted
from smtpd.relay.action import Connect, RelayAction, Report
from smtpd.relay.task import Task
from smtpd.slice import RelaySlice
from smtpd.smtp.client_action import RecipientResult

RESULT_WORDS = {Outcome.DELIVERED: "Ok", Outcome.DEFERRED: "TempFail"}


@dataclass
class RelaySession:
    """A connection, what it is called in the log, and the recipients of the mail that it sends."""

    connection: OutgoingConnection
    order: Connect
    relay: RelaySlice
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    task: Task | None = None
    recipients: tuple[RelayRecipient, ...] = ()
    messages: int = 0

    def log(self, text: str) -> None:
        log.line(f"{self.id} mta {text}")


Answered = tuple[RelayMessage, RelayRecipient, RecipientResult]


def log_deliveries(session: RelaySession, answered: Sequence[Answered], actions: Sequence[RelayAction]) -> None:
    """A refusal that the relay does not report is not the last word: the mail is tried again."""
    final = {result.envelope for action in actions if isinstance(action, Report) for result in action.results}
    for message, to, result in answered:
        refused = result.outcome is not Outcome.DELIVERED and to.envelope not in final
        word = RESULT_WORDS.get(Outcome.DEFERRED if refused else result.outcome, "PermFail")
        _log_delivery(session, message, to, result, word)


def _log_delivery(
    session: RelaySession, message: RelayMessage, to: RelayRecipient, result: RecipientResult, word: str
) -> None:
    original = to.recipient if to.recipient != to.address else "-"
    address = session.order.path.address
    # RFC 3461 5.2.2: the sender is owed a "relayed" notice, as this host sends none of a delivery.
    unannounced = result.outcome is Outcome.DELIVERED and Notify.SUCCESS in to.notify and not result.dsn
    session.log(
        f"delivery evpid={envelope_text(to.envelope)} from=<{message.sender}> to=<{to.address}> rcpt=<{original}> "
        f'source="{session.connection.source}" relay="{address} ({session.order.hop.name})" '
        f"delay={duration_text(max(0, int(time.time()) - message.created))} "
        f'result="{word}" stat={quoted(result.text)}' + (" dsn=relayed" if unannounced else ""),
    )
