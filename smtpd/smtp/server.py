"""The server's side of an SMTP session, without I/O: bytes, answers and "now" go in, actions come out.

    FRESH --HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA --CRLF.CRLF--> READY
                      ^                                                                |
                      +-------- RSET, HELO, EHLO, or a message that is refused --------+

At MAIL, RCPT and the end of data another process decides: the session is WAITING, keeps what it was fed beyond, and goes
on by itself when the answer comes.  The driver must not read from the socket while `session.waiting`; what it has read
already it may feed.

A session holds no more than it is fed at once, and one command line.  "now" is the seconds of any clock that only goes
forward; `tick(now)` is where time is noticed, nothing else needs it.

Not understood: STARTTLS, AUTH, CHUNKING, DSN.  EHLO a second time is a RSET (RFC 5321 4.1.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from smtpd.config.model import Limits
from smtpd.config.slice import ListenerSlice
from smtpd.envelope import Origin, message_text
from smtpd.header.block import Fault, HeaderCheck
from smtpd.header.received import protocol_word, received
from smtpd.smtp import command
from smtpd.smtp.action import Action, Ask, Close, Content, Forget, Log, Say
from smtpd.smtp.address import Address
from smtpd.smtp.data import DataReader
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
from smtpd.smtp.reply import Refuse, Reply, printable

MAX_IDLE_COMMANDS = 100  # between two mails: NOOP, RSET and the like, and temporary refusals; each more is an error

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


class State(Enum):
    FRESH = "waiting for HELO"
    READY = "greeted, no mail begun"
    MAIL = "have a sender"
    RCPT = "have a sender and a recipient"
    DATA = "receiving the message"
    WAITING = "another process is deciding; read no further line"
    CLOSED = "the session is over"


TRANSITIONS = {
    State.FRESH: {State.READY, State.CLOSED},
    State.READY: {State.READY, State.WAITING, State.CLOSED},
    State.MAIL: {State.READY, State.WAITING, State.CLOSED},
    State.RCPT: {State.READY, State.WAITING, State.DATA, State.CLOSED},
    State.DATA: {State.READY, State.WAITING, State.CLOSED},
    State.WAITING: {State.READY, State.MAIL, State.RCPT, State.CLOSED},
    State.CLOSED: set(),
}


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


@dataclass(slots=True)
class Transaction:
    """One message on its way in: from MAIL until it is stored, or forgotten."""

    message: int
    time: int  # seconds since 1970
    origin: Origin
    utf8: bool
    data: DataReader
    header: HeaderCheck
    recipients: int = 0
    recipient: str = ""  # the last accepted
    envelopes: int = 0
    pending: bytes = b""  # trace header not yet given out
    size: int = 0  # bytes given out
    fault: Refuse | None = None  # why it will be refused when it has been read to its end


class Session:
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
        self._transaction: Transaction | None = None
        self._question: Question | None = None
        self._mail: command.Mail | None = None  # of MAIL, while its BeginMessage is open
        self._lines = LineReader()
        self._actions: list[Action] = []
        self._replies: list[bytes] = []
        self._urgent = False  # a reply among them may not wait for the next command
        self._stopping = False
        self._begun = 0.0
        self._heard = 0.0
