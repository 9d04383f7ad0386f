"""The server's side of an SMTP session, without I/O: bytes, answers and "now" go in, actions come out.

    FRESH --HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA --CRLF.CRLF--> READY
                      ^                                                                |
                      +-------- RSET, HELO, EHLO, or a message that is refused --------+

At MAIL, RCPT and the end of data another process decides: the session is WAITING, keeps what it was fed beyond, and
goes on by itself when the answer comes.  The driver must not read from the socket while `session.waiting`; what it has
read already it may feed.

A session holds no more than it is fed at once, and one command line.  "now" is the seconds of any clock that only goes
forward; `tick(now)` is where time is noticed.

Not understood: STARTTLS, AUTH, CHUNKING, DSN.  EHLO a second time is a RSET (RFC 5321 4.1.4).
"""

import re
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from smtpd.config.model import Limits
from smtpd.config.slice import ListenerSlice
from smtpd.envelope import Origin, message_text
from smtpd.smtp import command
from smtpd.smtp.action import Action, Ask, Close, Content, Forget, Log, Say
from smtpd.smtp.address import Address
from smtpd.smtp.line import LineReader
from smtpd.smtp.question import (
    AcceptRecipient,
    Answer,
    BeginMessage,
    ContentStored,
    MessageBegun,
    Question,
    RecipientAccepted,
    Refused,
    StoreContent,
)
from smtpd.smtp.reply import Refuse, Reply
from smtpd.smtp.state import COMMANDING, GREETED, IN_MAIL, TRANSITIONS, State
from smtpd.smtp.transaction import TOO_BIG, Transaction

MAX_IDLE_COMMANDS = 100  # between two mails: NOOP, RSET and the like, and temporary refusals; each more is an error
MAX_LOGGED = 256  # bytes of a command

_MECHANISM = re.compile(r"AUTH [A-Z0-9_-]{1,20}(?= )", re.ASCII)  # RFC 4422 3.1

OK = Reply(250, "2.0.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Destination address valid: Recipient ok")
GO_AHEAD = Reply(354, "", 'Enter mail, end with "." on a line by itself')
CANNOT_VERIFY = Reply(252, "2.0.0", "Cannot VRFY user, but will accept the message and try")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(
    214,
    "2.0.0",
    "This is smtpd",
    "Commands: HELO EHLO MAIL RCPT DATA RSET NOOP QUIT HELP VRFY",
    "Trouble with mail of this host: write to postmaster at it",
    "End of HELP info",
)
TIMEOUT = Reply(421, "4.4.2", "Timeout, closing connection")
TOO_LONG_A_SESSION = Reply(421, "4.4.2", "Session lasted too long, closing connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing connection")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, closing connection")
INTERNAL_ERROR = Reply(421, "4.3.0", "Internal error, closing connection")


class Client(NamedTuple):
    address: str  # numeric
    port: int
    name: str = "<unknown>"  # verified, in both directions
    local: bool = False  # a program of this host, by a socket that others cannot reach


class Settings(NamedTuple):
    server_name: str
    max_message_size: int  # bytes, as sent
    limits: Limits
    product: str = "smtpd"


class Session:
    """One connection.  The methods that return actions are the driver's; it obeys them in their order."""

    __slots__ = (
        "_actions",
        "_begun",
        "_heard",
        "_idle_commands",
        "_line",
        "_lines",
        "_mail",
        "_question",
        "_replies",
        "_stopping",
        "_transaction",
        "_urgent",
        "_verb",
        "client",
        "errors",
        "esmtp",
        "helo",
        "id",
        "listener",
        "mails",
        "name",
        "settings",
        "state",
    )

    def __init__(self, id: int, listener: ListenerSlice, *, client: Client, settings: Settings):
        self.id = id
        self.listener = listener
        self.client = client
        self.settings = settings
        self.name = listener.hostname or settings.server_name
        self.state = State.FRESH
        self.helo = ""
        self.esmtp = False
        self.mails = 0  # stored
        self.errors = 0
        self._idle_commands = 0
        self._begun = self._heard = inf  # seconds; until the greeting no time passes
        self._transaction: Transaction | None = None
        self._question: Question | None = None
        self._mail: command.Mail | None = None  # what MAIL said, while BeginMessage is open
        self._lines = LineReader()
        self._line = b""  # the command that is being obeyed
        self._verb = UNKNOWN
        self._actions: list[Action] = []
        self._replies: list[bytes] = []
        self._urgent = False  # one of them may not wait for the next command
        self._stopping = False  # 421 as soon as the open question is answered

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

    def greeting(self, now: float) -> list[Action]:
        """The banner.  Nothing may be fed before it."""
        self._begun = self._heard = now
        self._log("connected", address=self._address, host=self.client.name)
        self._reply(Reply(220, "", f"{self.name} ESMTP {self.settings.product}"))
        return self._take_actions()

    def receive(self, data: bytes, now: float) -> list[Action]:
        """Any bytes: part of a command, a group of commands, content."""
        self._heard = now
        if not self.closed:
            self._lines.feed(data)
            self._proceed()
        return self._take_actions()

    def answer(self, answer: Answer, now: float) -> list[Action]:
        """The answer to the open question, also when the session is over by now."""
        self._heard = now  # the client does not pay for the time that we took
        question, self._question = self._question, None
        if self.closed:
            self._settle(answer)
        else:
            self._resume(question, answer)
            if self._stopping:
                self._hang_up(SHUTTING_DOWN, "shutdown")
            self._proceed()
        return self._take_actions()

    def tick(self, now: float) -> list[Action]:
        """Every second or so: has the client been silent, or here, for too long?  Our own thinking does not count."""
        if not (self.waiting or self.closed):
            if now - self._heard >= self.settings.limits.timeout:
                self._hang_up(TIMEOUT, "timeout")
            elif now - self._begun >= self.settings.limits.max_seconds:
                self._hang_up(TOO_LONG_A_SESSION, "timeout")
        return self._take_actions()

    def shutdown(self) -> list[Action]:
        """The daemon stops.  A message that is being stored is answered first, or it would be sent twice."""
        if isinstance(self._question, StoreContent):
            self._stopping = True
        elif not self.closed:
            self._hang_up(SHUTTING_DOWN, "shutdown")
        return self._take_actions()

    def failed(self) -> list[Action]:
        """A method of this session raised: it costs this session and no other."""
        if any(isinstance(action, Ask) for action in self._actions):
            self._question = None  # it was never asked
        self._actions = [action for action in self._actions if isinstance(action, Forget | Log)]
        if self.closed:
            self._actions.append(Close("internal-error"))
        else:
            self._hang_up(INTERNAL_ERROR, "internal-error")
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
        except Refuse as refused:  # not even a line: what follows cannot be told apart
            self._log("bad-input", result=refused.reply.text)
            self._hang_up(refused.reply, "bad-input")

    def _step(self) -> bool:
        """One line, or all content that is there; False when there is nothing to go on with."""
        if self.state is State.DATA:
            return self._read_content(self._get_transaction())
        line = self._lines.maybe_line()
        if line is None:
            return False
        self._obey(line)
        return True

    def _obey(self, line: bytes) -> None:
        self._line, self._verb = line, UNKNOWN
        try:
            word, argument = command.command(line)
            self._verb = VERBS.get(word, UNKNOWN)
            self._check_order(word, argument)
            self._verb.obey(self, argument)
        except Refuse as refused:
            self._refuse(refused.reply, close=refused.close)

    def _check_order(self, word: str, argument: str) -> None:
        verb = self._verb
        if verb.last and not self._lines.is_empty():  # RFC 2920 3.1: content must not be taken for commands
            raise Refuse(503, "5.5.1", f"Nothing may follow {word} before its answer", close=True)
        if self.state not in verb.states:
            raise Refuse(503, "5.5.1", f"{word} not allowed: {self.state.value}")
        if argument and not verb.argument:
            raise Refuse(500, "5.5.4", f"{word} takes no argument")
        if verb.idle:
            self._count_idle_command()
            if self.errors > self.settings.limits.max_errors:
                raise Refuse(421, "4.7.0", "Too many commands without a mail")

    def _read_content(self, transaction: Transaction) -> bool:
        data = self._lines.take_rest()
        if not data:
            return False
        content = transaction.take(data)
        if content:
            self._actions.append(Content(content))
        elif transaction.fault:
            self._forget(transaction)
        if not transaction.ended:
            return False
        self._lines.feed(transaction.rest)
        self._end_content(transaction)
        return True

    def _end_content(self, transaction: Transaction) -> None:
        fault = transaction.fault
        if fault is None:
            self._ask(StoreContent(transaction.message, transaction.envelopes, transaction.size))
        else:
            self._drop()
            self.enter(State.READY)
            self._refuse(fault)

    # The commands, RFC 5321 4.1.1

    def _helo(self, argument: str) -> None:
        self._greet(argument, esmtp=False)

    def _ehlo(self, argument: str) -> None:
        size = f"SIZE {self.settings.max_message_size}"  # RFC 1870
        self._greet(argument, "8BITMIME", "ENHANCEDSTATUSCODES", size, "PIPELINING", "SMTPUTF8", "HELP", esmtp=True)

    def _greet(self, argument: str, *keywords: str, esmtp: bool) -> None:
        self.helo = command.helo(argument)
        self.esmtp = esmtp
        self._drop()
        self.enter(State.READY)
        hello = f"{self.name} Hello {self.helo} [{self._address}], pleased to meet you"
        self._reply(Reply(250, "", hello, *keywords))

    def _mail_from(self, argument: str) -> None:
        if self.mails >= self.settings.limits.max_mails:
            raise Refuse(452, "4.5.3", "Too many messages in this session")
        self._mail = command.mail(argument)
        if self._mail.size > self.settings.max_message_size:
            raise Refuse(*TOO_BIG)
        self._ask(BeginMessage())

    def _rcpt_to(self, argument: str) -> None:
        transaction = self._get_transaction()
        if transaction.recipients >= self.settings.limits.max_rcpt:
            raise Refuse(452, "4.5.3", "Too many recipients")  # RFC 5321 4.5.3.1.10
        recipient = self._complete(command.rcpt(argument, utf8=transaction.utf8))
        self._ask(AcceptRecipient(transaction.message, transaction.origin, recipient, transaction.utf8))

    def _data(self, argument: str) -> None:
        if self.state is State.MAIL:
            raise Refuse(503, "5.5.4", "DATA not allowed: no recipient was accepted")
        self._get_transaction().begin_content(self.settings.product)
        self.enter(State.DATA)
        self._reply(GO_AHEAD)

    def _rset(self, argument: str) -> None:
        self._drop()
        if self.state is not State.FRESH:
            self.enter(State.READY)
        self._reply(OK)

    def _quit(self, argument: str) -> None:
        self._hang_up(BYE, "quit")

    def _noop(self, argument: str) -> None:
        self._reply(OK)

    def _help(self, argument: str) -> None:
        self._reply(HELP)

    def _vrfy(self, argument: str) -> None:
        if not argument:
            raise Refuse(501, "5.5.4", "Syntax: VRFY name")
        self._reply(CANNOT_VERIFY)  # RFC 5321 3.5.3: who exists is not told

    def _not_implemented(self, argument: str) -> None:
        raise Refuse(502, "5.5.1", "Command not implemented")

    def _not_offered(self, argument: str) -> None:
        raise Refuse(503, "5.5.1", "Not offered here")

    def _not_smtp(self, argument: str) -> None:
        """A browser was made to carry somebody's commands, in the body of a form."""
        raise Refuse(500, "5.5.1", "This is no HTTP server", close=True)

    def _unknown(self, argument: str) -> None:
        raise Refuse(500, "5.5.1", "Command unrecognized")

    # The answers of other processes

    def _resume(self, question: Question | None, answer: Answer) -> None:
        match question, answer:
            case BeginMessage(), MessageBegun():
                self._begin(answer)
            case AcceptRecipient(), RecipientAccepted():
                self._get_transaction().add_recipient(question.recipient, answer.envelopes)
                self.enter(State.RCPT)
                self._reply(RECIPIENT_OK)
            case StoreContent(), ContentStored():
                self._finish(self._get_transaction())
            case AcceptRecipient(), Refused():
                self.enter(State.RCPT if self._get_transaction().recipients else State.MAIL)
                self._refuse(Reply(answer.code, answer.enhanced, answer.text))
            case BeginMessage() | StoreContent(), Refused():
                self._drop()
                self.enter(State.READY)
                self._refuse(Reply(answer.code, answer.enhanced, answer.text))
            case _:
                raise TypeError(f"{answer} is no answer to {question}")

    def _begin(self, begun: MessageBegun) -> None:
        assert self._mail is not None
        origin = Origin(
            sender=self._complete(self._mail.sender),
            address=self._address,
            client=self.client.name,
            helo=self.helo,
            hostname=self.name,
            tag=self.listener.tag,
            esmtp=self.esmtp,
        )
        size = self.settings.max_message_size
        self._transaction = Transaction(begun.message, begun.time, origin, utf8=self._mail.utf8, max_size=size)
        self.enter(State.MAIL)
        self._reply(OK)

    def _finish(self, transaction: Transaction) -> None:
        """Only here is a message said to be taken: it is on the disk."""
        self._log_message(transaction)
        self.mails += 1
        self._idle_commands = 0
        self._transaction = None
        self.enter(State.READY)
        text = message_text(transaction.message)
        self._reply(Reply(250, "2.0.0", f"{text} Message accepted for delivery"))

    def _settle(self, answer: Answer) -> None:
        """The client left while this was being asked: what was stored stays, the rest is taken back."""
        match answer:
            case MessageBegun():
                self._actions.append(Forget(answer.message, 0))
            case RecipientAccepted():
                self._get_transaction().envelopes += answer.envelopes
            case ContentStored():
                self._log_message(self._get_transaction())
                self._transaction = None
        self._drop()

    def _drop(self) -> None:
        if self._transaction is not None:
            self._forget(self._transaction)
            self._transaction = None

    def _forget(self, transaction: Transaction) -> None:
        if not transaction.forgotten:
            transaction.forgotten = True
            self._actions.append(Forget(transaction.message, transaction.envelopes))

    def _get_transaction(self) -> Transaction:
        assert self._transaction is not None, self.state
        return self._transaction

    def _complete(self, address: Address) -> str:
        """An address without a domain is one of ours."""
        if address.local and not address.domain:
            address = Address(address.local, self.name)
        return str(address)

    # The way out

    def enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"from {self.state.name} to {state.name}")
        self.state = state

    def _ask(self, question: Question) -> None:
        self._question = question
        self.enter(State.WAITING)
        self._actions.append(Ask(question))

    def _reply(self, reply: Reply) -> None:
        self._replies.append(reply.data)
        self._urgent = self._urgent or not self._verb.grouped  # RFC 2920 3.2: others must leave at once

    def _refuse(self, reply: Reply, *, close: bool = False) -> None:
        self._log("failed-command", command=_loggable(self._line), result=reply.text)
        if reply.code >= 500:
            self.errors += 1
        else:
            self._count_idle_command()
        if self.errors > self.settings.limits.max_errors:
            self._hang_up(TOO_MANY_ERRORS, "too-many-errors")
        elif close or reply.code == 421:  # RFC 5321 4.2.3: 421 is said by who closes
            self._hang_up(reply, "refused")
        else:
            self._reply(reply)

    def _count_idle_command(self) -> None:
        self._idle_commands += 1
        if self._idle_commands > MAX_IDLE_COMMANDS:
            self.errors += 1

    def _hang_up(self, reply: Reply, reason: str) -> None:
        self._reply(reply)
        self._leave(reason)
        self._actions.append(Close(reason))

    def _leave(self, reason: str) -> None:
        if self._question is None:  # otherwise _settle sees to it
            self._drop()
        self.enter(State.CLOSED)
        self._log("disconnected", reason=reason)

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
        return self.waiting and not self._urgent and self._lines.has_line()

    @property
    def _address(self) -> str:
        return "local" if self.client.local else self.client.address

    def _log(self, event: str, **fields: str | int) -> None:
        self._actions.append(Log(event, fields))

    def _log_message(self, transaction: Transaction) -> None:
        self._log(
            "message",
            msgid=message_text(transaction.message),
            size=transaction.size,
            nrcpt=transaction.recipients,
            proto=transaction.protocol,
        )


class Verb(NamedTuple):
    obey: Callable[[Session, str], None]
    states: tuple[State, ...] = COMMANDING
    argument: bool = True  # may have one
    idle: bool = False  # brings no mail nearer
    last: bool = False  # nothing may be sent behind it before its answer
    grouped: bool = False  # its answer may wait for those to the next commands


UNKNOWN = Verb(Session._unknown)
VERBS = {
    "HELO": Verb(Session._helo, idle=True),
    "EHLO": Verb(Session._ehlo, idle=True),
    "MAIL": Verb(Session._mail_from, GREETED, grouped=True),
    "RCPT": Verb(Session._rcpt_to, IN_MAIL, grouped=True),
    "DATA": Verb(Session._data, IN_MAIL, argument=False, last=True),
    "RSET": Verb(Session._rset, argument=False, idle=True, grouped=True),
    "QUIT": Verb(Session._quit, argument=False),
    "NOOP": Verb(Session._noop, idle=True),
    "HELP": Verb(Session._help, argument=False, idle=True),
    "VRFY": Verb(Session._vrfy, idle=True),
    "EXPN": Verb(Session._not_implemented),
    "STARTTLS": Verb(Session._not_offered),
    "AUTH": Verb(Session._not_offered),
    **dict.fromkeys(("GET", "POST", "PUT", "HEAD", "CONNECT"), Verb(Session._not_smtp)),
}


def _loggable(line: bytes) -> str:
    """The command as it may stand in a log: without what looks like a password."""
    text = line[:MAX_LOGGED].decode("utf-8", "replace")
    if text[:4].upper() != "AUTH":
        return text
    mechanism = _MECHANISM.match(text)
    return (mechanism[0] if mechanism else text[:4]) + " (...)"
