"""One SMTP session of the server: its state, its transaction, and what the commands call.

    FRESH --HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA, BDAT--> DATA, CHUNK --its end--> READY
                      ^                                                  |
                      +------- RSET, HELO, EHLO, or a message that is refused

A command checks what it was told, changes the session by `enter`, and answers by `reply`, `refuse` or `hang_up`.  Where
another process has to decide, it calls `ask`: the session is WAITING until the answer comes.  What the session wants
done is collected as actions (action.py).

What is fed, in which order it is obeyed, and time are the matter of server.py.
"""

from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

from smtpd.envelope import UNKNOWN_NAME, envelope_text, message_text
from smtpd.slice import Limits, ListenerSlice
from smtpd.smtp.action import Action, AppendContent, Ask, Close, CountFailure, DropMessage, Log
from smtpd.smtp.auth import SaslExchange
from smtpd.smtp.chunk import Chunk
from smtpd.smtp.command import loggable
from smtpd.smtp.extension import Offer
from smtpd.smtp.line import LineReader
from smtpd.smtp.question import (
    Answer,
    MessageIdQuestion,
    PauseQuestion,
    Question,
    RecipientQuestion,
    StoreQuestion,
)
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.state import TRANSITIONS, State
from smtpd.smtp.transaction import Transaction
from smtpd.tls.facts import TlsFacts

UNPRODUCTIVE_MAX = 100  # between two mails: NOOP, RSET and the like, and temporary refusals; each more is an error

TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing connection")


class Client(NamedTuple):
    address: str  # numeric
    port: int
    name: str = UNKNOWN_NAME  # verified, in both directions
    local: bool = False  # a program of this host, by a socket that others cannot reach
    uid: int | None = None  # of such a program


class Settings(NamedTuple):
    server_name: str
    max_message_size: int  # bytes, as sent
    limits: Limits
    product: str = "smtpd"


class Session:
    """Attributes with an underscore are for this module and server.py, the others for the commands too."""

    __slots__ = (
        "_actions",
        "_begun",
        "_dismissal",
        "_epoch",
        "_heard",
        "_in_auth",
        "_replies",
        "_resume",
        "_unproductive_commands",
        "_urgent",
        "chunk",
        "client",
        "command",
        "command_is_secret",
        "errors",
        "esmtp",
        "facts",
        "failed_logins",
        "helo",
        "id",
        "lines",
        "listener",
        "login",
        "mails",
        "may_xclient",
        "name",
        "offer",
        "question",
        "reply_may_wait",
        "sasl_exchange",
        "settings",
        "state",
        "transaction",
        "user",
    )

    def __init__(
        self,
        id: int,
        listener: ListenerSlice,
        *,
        client: Client,
        settings: Settings,
        facts: TlsFacts | None = None,
        name: str = "",
        may_xclient: bool = False,
    ):
        self.id = id
        self.listener = listener
        self.client = client
        self.settings = settings
        self.facts = facts  # of TLS; None: in the clear
        self.name = name or listener.hostname or settings.server_name
        self.may_xclient = may_xclient
        self.state = State.FRESH
        self.helo = ""
        self.esmtp = False
        self.offer: Offer  # since HELO
        self.user = ""  # that the client has authenticated as
        self.login = ""  # that it tries to authenticate as
        self.sasl_exchange: SaslExchange | None = None  # the AUTH that is under way
        self.failed_logins = 0
        self.transaction: Transaction | None = None
        self.chunk: Chunk | None = None  # that is being read
        self.mails = 0  # stored
        self.errors = 0
        self.lines = LineReader()
        self.question: Question | None = None  # the open one
        self.command = b""  # the line that is being obeyed
        self.command_is_secret = False  # the line may be a part of an AUTH dialogue
        self.reply_may_wait = False  # for the replies to the next commands
        self._resume: Callable[[Answer], None] | None = None  # takes the answer to the open question
        self._unproductive_commands = 0
        self._begun = self._heard = inf  # seconds; until the greeting no time passes
        self._epoch = 0.0  # of "now", in seconds since 1970
        self._actions: list[Action] = []
        self._replies: list[bytes] = []
        self._urgent = False  # a reply among them may not wait for the next command
        self._in_auth = False  # AUTH was the last known command: an unknown one may be the rest of its dialogue
        self._dismissal: tuple[Reply, str] | None = None  # as soon as the open question is answered

    @property
    def address(self) -> str:
        return "local" if self.client.local else self.client.address

    @property
    def date(self) -> int:
        """Seconds since 1970; a second that has begun counts as a whole one: nothing is released too early."""
        return ceil(self._epoch + self._heard)

    @property
    def waiting(self) -> bool:
        """Read no further from the socket."""
        return self.state is State.WAITING

    @property
    def closed(self) -> bool:
        """Nothing more is taken from the client.  A question that is still open has to be answered all the same."""
        return self.state is State.CLOSED

    def enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"from {self.state.name} to {state.name}")
        self.state = state

    def ask(self, question: Question, resume: Callable[[Answer], None]) -> None:
        """`resume` takes the answer, in the state WAITING, and enters another one."""
        self.question, self._resume = question, resume
        self.enter(State.WAITING)
        self._actions.append(Ask(question))

    # Replies

    def say_banner(self) -> None:
        self.reply(Reply(220, "", f"{self.name} ESMTP {self.settings.product}"))

    def reply(self, reply: Reply) -> None:
        self.say(reply.data)

    def say(self, data: bytes) -> None:
        """A reply as it is sent."""
        self._replies.append(data)
        self._urgent = self._urgent or not self.reply_may_wait  # RFC 2920 3.2: others must leave at once

    def refuse(self, reply: Reply, *, close: bool = False) -> None:
        command = "(...)" if self.command_is_secret else loggable(self.command)
        self.log("failed-command", command=command, result=reply.text)
        if reply.code >= 500:
            self.errors += 1
            self.count_failure()
        else:
            self._count_unproductive_command()
        if self.errors > self.settings.limits.max_errors:
            self.hang_up(TOO_MANY_ERRORS, "too-many-errors")
        elif close or reply.code == 421:  # RFC 5321 4.2.3: a server that says 421 closes
            self.hang_up(reply, "refused")
        elif reply.code >= 500 and self.errors > self.settings.limits.tarpit_after:
            self._delay(reply)
        else:
            self.reply(reply)

    def hang_up(self, reply: Reply, reason: str) -> None:
        self.reply(reply)
        self.leave(reason)
        self._actions.append(Close(reason))

    def leave(self, reason: str) -> None:
        """The session is over.  An open question that makes something is settled when its answer comes (server.py)."""
        if not isinstance(self.question, MessageIdQuestion | RecipientQuestion | StoreQuestion):
            self.question = None
            self.drop()
        self.enter(State.CLOSED)
        self.log("disconnected", reason=reason)

    # Counters and the log

    def count_unproductive(self) -> None:
        """The command does not lead to a mail.  Raises CommandRefused, of one too many."""
        self._count_unproductive_command()
        if self.errors > self.settings.limits.max_errors:
            raise CommandRefused(421, "4.7.0", "Too many commands without a mail")

    def count_failure(self) -> None:
        """For the rates of the client's address."""
        if not self.client.local:
            self._actions.append(CountFailure(self.client.address))

    def log(self, event: str, **fields: str | int) -> None:
        self._actions.append(Log(event, fields))

    # The transaction

    def get_transaction(self) -> Transaction:
        assert self.transaction is not None, self.state
        return self.transaction

    def give_out(self, data: bytes) -> None:
        """Content of the transaction."""
        self._actions.append(AppendContent(data))

    def finish(self) -> None:
        """The transaction is stored."""
        self.end_stored()
        self.mails += 1
        self._unproductive_commands = 0

    def end_stored(self) -> None:
        """Log the message of the transaction, which is stored, and its envelopes."""
        self._log_message(self.get_transaction())
        self.transaction = None

    def drop(self) -> None:
        """End the transaction, if there is one, without a message."""
        if self.transaction is not None:
            self.forget(self.transaction)
            self.transaction = None

    def forget(self, transaction: Transaction) -> None:
        """It will not be stored; it may still be read to its end."""
        if not transaction.forgotten:
            transaction.forgotten = True
            self._actions.append(DropMessage(transaction.message, transaction.envelopes))

    # Below: not for the commands

    def _delay(self, reply: Reply) -> None:
        """The tarpit: a client that makes error after error probes for something."""
        before = self.state
        if not self.settings.limits.tarpit:
            self.reply(reply)
            return

        def say(answer: Answer) -> None:
            self.enter(before)
            self.reply(reply)

        self.ask(PauseQuestion(self.settings.limits.tarpit), say)

    def _count_unproductive_command(self) -> None:
        self._unproductive_commands += 1
        if self._unproductive_commands > UNPRODUCTIVE_MAX:
            self.errors += 1

    def _log_message(self, transaction: Transaction) -> None:
        self.log(
            "message",
            msgid=message_text(transaction.message),
            size=transaction.size,
            nrcpt=len(transaction.recipients),
            proto=transaction.protocol,
        )
        source = f"<{transaction.origin.sender}>"
        for recipient, envelope in transaction.recipients:
            self.log("envelope", evpid=envelope_text(envelope), **{"from": source, "to": f"<{recipient}>"})
