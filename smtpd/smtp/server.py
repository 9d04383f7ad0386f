"""The server's side of an SMTP session, without I/O: bytes, answers and "now" go in, actions come out.

    FRESH --HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA, BDAT--> DATA, CHUNK --its end--> READY
                      ^                                                  |
                      +------- RSET, HELO, EHLO, or a message that is refused

    verb       the commands             greeting   HELO, STARTTLS, XCLIENT       mail      MAIL, RCPT
    login      AUTH                     content    DATA, BDAT                    extension what EHLO announces

At many of these somebody else decides: the session is WAITING, keeps what it was fed beyond, and goes on by itself when
the answer comes.  The driver must not read from the socket while `session.waiting`; what it has read already it may
feed.

A session holds no more than it is fed at once, one command line, and the recipients of one message.  "now" is the
seconds of any clock that only goes forward; `tick(now)` is where time is noticed.
"""

from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

from smtpd.envelope import envelope_text, message_text
from smtpd.slice import Limits, ListenerSlice
from smtpd.smtp import command, content, login
from smtpd.smtp.action import Action, AppendContent, Ask, Close, CountFailure, DropMessage, Log, Say
from smtpd.smtp.auth import SaslExchange
from smtpd.smtp.content import Chunk
from smtpd.smtp.extension import Offer
from smtpd.smtp.line import LineReader
from smtpd.smtp.masking import loggable
from smtpd.smtp.question import (
    ANSWERS,
    Answer,
    MessageIdAnswer,
    MessageIdQuestion,
    PauseQuestion,
    Question,
    RecipientAnswer,
    RecipientQuestion,
    StoreAnswer,
    StoreQuestion,
    TlsQuestion,
)
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.state import TRANSITIONS, State
from smtpd.smtp.transaction import Transaction
from smtpd.smtp.verb import UNKNOWN, VERBS
from smtpd.tls.facts import TlsFacts

UNPRODUCTIVE_MAX = 100  # between two mails: NOOP, RSET and the like, and temporary refusals; each more is an error

SPOKE_EARLY = Reply(554, "5.5.1", "You spoke before the banner")
TIMEOUT = Reply(421, "4.4.2", "Timeout, closing connection")
TOO_LONG_A_SESSION = Reply(421, "4.4.2", "Session lasted too long, closing connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing connection")
TOO_MANY_ERRORS_OF_ADDRESS = Reply(421, "4.7.0", "Too many errors from your address, closing connection")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, closing connection")
INTERNAL_ERROR = Reply(421, "4.3.0", "Internal error, closing connection")


class Client(NamedTuple):
    address: str  # numeric
    port: int
    name: str = "<unknown>"  # verified, in both directions
    local: bool = False  # a program of this host, by a socket that others cannot reach
    uid: int | None = None  # of such a program


class Settings(NamedTuple):
    server_name: str
    max_message_size: int  # bytes, as sent
    limits: Limits
    product: str = "smtpd"


class Session:
    """One connection.  The methods that return actions are the driver's; it obeys them in their order.

    The others are for the commands, which stand in modules of their own."""

    __slots__ = (
        "_actions",
        "_begun",
        "_dismissal",
        "_epoch",
        "_heard",
        "_unproductive_commands",
        "_line",
        "_question",
        "_replies",
        "_resume",
        "_secretive",
        "_urgent",
        "_verb",
        "chunk",
        "client",
        "errors",
        "esmtp",
        "exchange",
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
        self.user = ""  # as whom the client has authenticated
        self.login = ""  # as whom it tries to
        self.exchange: SaslExchange | None = None  # the AUTH that is under way
        self.failed_logins = 0
        self.transaction: Transaction | None = None
        self.chunk: Chunk | None = None  # that is being read
        self.mails = 0  # stored
        self.errors = 0
        self.lines = LineReader()
        self._unproductive_commands = 0
        self._begun = self._heard = inf  # seconds; until the greeting no time passes
        self._epoch = 0.0  # of "now", in seconds since 1970
        self._question: Question | None = None
        self._resume: Callable[[Answer], None] | None = None  # takes its answer
        self._line = b""  # the command that is being obeyed
        self._verb = UNKNOWN
        self._secretive = False  # AUTH was the last command: what nobody knows may be the rest of its dialogue
        self._actions: list[Action] = []
        self._replies: list[bytes] = []
        self._urgent = False  # one of them may not wait for the next command
        self._dismissal: tuple[Reply, str] | None = None  # as soon as the open question is answered

    # What the driver calls

    @property
    def waiting(self) -> bool:
        """Read no further from the socket."""
        return self.state is State.WAITING

    @property
    def closed(self) -> bool:
        """Nothing more is taken from the client.  A question that is still open has to be answered all the same."""
        return self.state is State.CLOSED

    @property
    def asking(self) -> bool:
        """A question is open."""
        return self._question is not None

    def greeting(self, now: float, early: bool, date: float) -> list[Action]:
        """The banner.  Nothing may be fed before it.  `early`: the client did not wait.  `date`: seconds since 1970."""
        self._begun = self._heard = now
        self._epoch = date - now
        whose = {} if self.client.uid is None else {"uid": self.client.uid}
        self.log("connected", address=self.address, host=self.client.name, **whose)
        if early:  # RFC 5321 3.1, 4.3.1
            self.log("bad-input", result=SPOKE_EARLY.text)
            self.count_failure()
            self.hang_up(SPOKE_EARLY, "early-talker")
        else:
            self.say_banner()
        return self._take_actions()

    def receive(self, data: bytes, now: float) -> list[Action]:
        """Any bytes: part of a command, a group of commands, content."""
        self._heard = now
        if self.state is State.WAITING:
            if not isinstance(self._question, TlsQuestion):  # RFC 3207 4.2: nothing more in the clear
                self.lines.feed(data)
        elif self.state is not State.CLOSED:
            self.lines.feed(data)
            self._proceed()
        return self._take_actions()

    def answer(self, answer: Answer, now: float) -> list[Action]:
        """The answer to the open question, also when the session is over by now."""
        self._heard = now  # the client does not pay for the time that we took
        question, self._question = self._question, None
        resume, self._resume = self._resume, None
        if self.closed:
            self._settle(answer)
        elif question is None or resume is None or not isinstance(answer, ANSWERS[type(question)]):
            raise TypeError(f"{type(answer)} is no answer to {type(question)}")
        else:
            resume(answer)
            if self._dismissal and not self.closed:
                self.hang_up(*self._dismissal)
            self._proceed()
        return self._take_actions()

    def tick(self, now: float) -> list[Action]:
        """Every second or so: has the client been silent, or here, for too long?  Our own thinking does not count."""
        if not (self.waiting or self.closed):
            if now - self._heard >= self.settings.limits.timeout:
                self.hang_up(TIMEOUT, "timeout")
            elif now - self._begun >= self.settings.limits.max_seconds:
                self.hang_up(TOO_LONG_A_SESSION, "timeout")
        return self._take_actions()

    def shutdown(self) -> list[Action]:
        """The daemon stops."""
        return self._dismiss(SHUTTING_DOWN, "shutdown")

    def expel(self) -> list[Action]:
        """Too much was refused to this client's address, here or in other sessions."""
        return self._dismiss(TOO_MANY_ERRORS_OF_ADDRESS, "too-many-errors")

    def failed(self) -> list[Action]:
        """A method of this session raised: it costs this session and no other."""
        if any(isinstance(action, Ask) for action in self._actions):
            self._question = None  # it was never asked
        self._actions = [action for action in self._actions if isinstance(action, DropMessage | Log)]
        if self.closed:
            self._actions.append(Close("internal-error"))
        else:
            self.hang_up(INTERNAL_ERROR, "internal-error")
        return self._take_actions()

    def aborted(self, reason: str = "disconnect") -> list[Action]:
        """The connection is gone."""
        self._replies.clear()
        if not self.closed:
            self._leave(reason)
        return self._take_actions()

    # The way in: lines, and content

    def _proceed(self) -> None:
        try:
            while self.state not in (State.WAITING, State.CLOSED) and self._step():
                pass
        except CommandRefused as refused:  # not even a line: what follows cannot be told apart
            self.log("bad-input", result=refused.reply.text)
            self.count_failure()
            self.hang_up(refused.reply, "bad-input")

    def _step(self) -> bool:
        """One line, or all content that is there; False when there is nothing to go on with."""
        if self.state is State.DATA:
            return content.read_data(self)
        if self.state is State.CHUNK:
            return content.read_chunk(self)
        if self.state is State.AUTH:
            line = self.lines.maybe_line(login.MAX_RESPONSE, "5.5.6")  # RFC 4954 6
            if line is not None:
                login.receive(self, line)
        else:
            line = self.lines.maybe_line()
            if line is not None:
                self._obey(line)
        return line is not None

    def _obey(self, line: bytes) -> None:
        self._line, self._verb = line, UNKNOWN
        try:
            word, argument = command.split_command(line)
            self._verb = VERBS.get(word, UNKNOWN)
            if self._verb is not UNKNOWN:
                self._secretive = word == "AUTH"
            self._check_order(word, argument)
            self._verb.obey(self, argument)
        except CommandRefused as refused:
            self.refuse(refused.reply, close=refused.close)

    def _check_order(self, word: str, argument: str) -> None:
        verb = self._verb
        if verb.last and not self.lines.is_empty():  # RFC 2920 3.1: content must not be taken for commands
            raise CommandRefused(503, "5.5.1", f"Nothing may follow {word} before its answer", close=True)
        if self.state not in verb.states:
            raise CommandRefused(503, "5.5.1", f"{word} not allowed: {self.state.value}")
        if argument and not verb.argument:
            raise CommandRefused(500, "5.5.4", f"{word} takes no argument")
        if verb.unproductive:
            self.unproductive()

    # What the commands call

    @property
    def address(self) -> str:
        return "local" if self.client.local else self.client.address

    @property
    def date(self) -> int:
        """Seconds since 1970, the one that has begun counted whole: nothing is released too early."""
        return ceil(self._epoch + self._heard)

    def enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"from {self.state.name} to {state.name}")
        self.state = state

    def ask(self, question: Question, resume: Callable[[Answer], None]) -> None:
        """`resume` takes the answer, in the state WAITING, and enters another one."""
        self._question, self._resume = question, resume
        self.enter(State.WAITING)
        self._actions.append(Ask(question))

    def unproductive(self) -> None:
        """A command that brings no mail nearer.  Raises CommandRefused, of one too many."""
        self._count_unproductive_command()
        if self.errors > self.settings.limits.max_errors:
            raise CommandRefused(421, "4.7.0", "Too many commands without a mail")

    def say_banner(self) -> None:
        self.reply(Reply(220, "", f"{self.name} ESMTP {self.settings.product}"))

    def reply(self, reply: Reply) -> None:
        self.say(reply.data)

    def say(self, data: bytes) -> None:
        """A reply as it is sent."""
        self._replies.append(data)
        self._urgent = self._urgent or not self._verb.reply_may_wait  # RFC 2920 3.2: others must leave at once

    def refuse(self, reply: Reply, *, close: bool = False) -> None:
        self.log("failed-command", command=self._loggable(), result=reply.text)
        if reply.code >= 500:
            self.errors += 1
            self.count_failure()
        else:
            self._count_unproductive_command()
        if self.errors > self.settings.limits.max_errors:
            self.hang_up(TOO_MANY_ERRORS, "too-many-errors")
        elif close or reply.code == 421:  # RFC 5321 4.2.3: 421 is said by who closes
            self.hang_up(reply, "refused")
        elif reply.code >= 500 and self.errors > self.settings.limits.tarpit_after:
            self._keep_back(reply)
        else:
            self.reply(reply)

    def count_failure(self) -> None:
        if not self.client.local:
            self._actions.append(CountFailure(self.client.address))

    def hang_up(self, reply: Reply, reason: str) -> None:
        self.reply(reply)
        self._leave(reason)
        self._actions.append(Close(reason))

    def log(self, event: str, **fields: str | int) -> None:
        self._actions.append(Log(event, fields))

    def get_transaction(self) -> Transaction:
        assert self.transaction is not None, self.state
        return self.transaction

    def give_out(self, data: bytes) -> None:
        """Content of the transaction."""
        self._actions.append(AppendContent(data))

    def finish(self) -> None:
        """The transaction is stored."""
        self._log_message(self.get_transaction())
        self.transaction = None
        self.mails += 1
        self._unproductive_commands = 0

    def drop(self) -> None:
        """The transaction, if there is one."""
        if self.transaction is not None:
            self.forget(self.transaction)
            self.transaction = None

    def forget(self, transaction: Transaction) -> None:
        """It will not be stored; it may still be read to its end."""
        if not transaction.forgotten:
            transaction.forgotten = True
            self._actions.append(DropMessage(transaction.message, transaction.envelopes))

    # The way out

    def _keep_back(self, reply: Reply) -> None:
        """Who makes mistake after mistake is looking for something."""
        before = self.state
        if not self.settings.limits.tarpit:
            self.reply(reply)
            return

        def say(answer: Answer) -> None:
            self.enter(before)
            self.reply(reply)

        self.ask(PauseQuestion(self.settings.limits.tarpit), say)

    def _dismiss(self, reply: Reply, reason: str) -> list[Action]:
        """A message that is being stored is answered first, or it would be sent twice."""
        if isinstance(self._question, StoreQuestion):
            self._dismissal = (reply, reason)
        elif not self.closed:
            self.hang_up(reply, reason)
        return self._take_actions()

    def _settle(self, answer: Answer) -> None:
        """The client left while this was being asked: what was stored stays, the rest is taken back."""
        match answer:
            case MessageIdAnswer():
                self._actions.append(DropMessage(answer.message, 0))
            case RecipientAnswer():
                self.get_transaction().envelopes += answer.envelopes
            case StoreAnswer():
                self._log_message(self.get_transaction())
                self.transaction = None
        self.drop()

    def _count_unproductive_command(self) -> None:
        self._unproductive_commands += 1
        if self._unproductive_commands > UNPRODUCTIVE_MAX:
            self.errors += 1

    def _leave(self, reason: str) -> None:
        if not isinstance(self._question, MessageIdQuestion | RecipientQuestion | StoreQuestion):
            self._question = None
            self.drop()  # otherwise _settle sees to it
        self.enter(State.CLOSED)
        self.log("disconnected", reason=reason)

    def _take_actions(self) -> list[Action]:
        """What is to be said stands first: it never promises what is asked for behind it."""
        actions, self._actions = self._actions, []
        if self._replies and not self._may_hold_replies():
            actions.insert(0, Say(b"".join(self._replies)))
            self._replies.clear()
            self._urgent = False
        return actions

    def _may_hold_replies(self) -> bool:
        """While more of a group is there, the answers to its MAIL, RCPT and RSET wait to leave in one segment."""
        if self._urgent or self.state is not State.WAITING or isinstance(self._question, PauseQuestion):
            return False
        return self.lines.has_line()

    def _loggable(self) -> str:
        if self._secretive and self._verb is UNKNOWN:
            return "(...)"
        return loggable(self._line)

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
