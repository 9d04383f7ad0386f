"""What a client's session is given, and what it wants done: it has no socket, no clock and no file.

ClientSettings, ClientMail      given

Say               write to the server
StartTls          begin the TLS handshake, now
ReadContent       feed the content of the mail, from its beginning
RecipientResult   what became of one recipient of the mail: exactly one for each
Ready             a mail may be begun
End               write out all that was said, then close; nothing follows
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Struct

from smtpd.envelope import MailParameters, Notify, Outcome
from smtpd.smtp.action import Say
from smtpd.smtp.client_state import REPLY_TIMEOUT, ClientState
from smtpd.tls.facts import TlsFacts

NO_PARAMETERS = MailParameters()
NO_NOTIFY = Notify(0)


class Starttls(Enum):
    NEVER = "never"
    IF_OFFERED = "where the server offers it; if it is refused, the session goes on in the clear"
    REQUIRED = "required"


class AuthError(Exception):
    """A login cannot go on; the argument says why, without a secret."""


class Exchange(Protocol):
    """One login by one mechanism: see client_auth.py."""

    def command(self) -> bytes: ...

    def answer(self, challenge: str) -> bytes: ...

    def check_success(self) -> None: ...


class Login(Protocol):
    """Credentials, and what they are used by.  A protocol, so that a client that never logs in, as that of LMTP, loads
    no cryptography."""

    user: str

    def exchanges(self, offered: list[str], facts: TlsFacts) -> list[Exchange]:
        """By the mechanisms that both sides have, the best first."""


class ClientSettings(NamedTuple):
    """`name`: of this host, for EHLO.  With `login` AUTH is required, over TLS with a verified certificate."""

    name: str
    lmtp: bool = False
    starttls: Starttls = Starttls.IF_OFFERED
    login: Login | None = None  # client_auth.ClientLogin
    chunking: bool = True  # send content by BDAT where the server has CHUNKING
    timeouts: Mapping[ClientState, float] = REPLY_TIMEOUT


class ClientRecipient(NamedTuple):
    """`original`: ORCPT, decoded, with its type in front."""

    address: str
    notify: Notify = NO_NOTIFY
    original: str = ""


class ClientMail(NamedTuple):
    """One message for one server.  `sender` is empty for the null sender; `recipients`: at least one."""

    sender: str
    recipients: tuple[ClientRecipient, ...]
    size: int  # bytes, with LF line ends
    parameters: MailParameters = NO_PARAMETERS
    eight_bit: bool | None = None  # the content has bytes beyond ASCII; None: not known


class StartTls(Struct, frozen=True):
    """Answered by `tls_started`, or by `lost`."""


class ReadContent(Struct, frozen=True):
    """Answered by calls of `content` with the content from its beginning, while `wants` is not 0, and one of
    `content_end`, then `written`.  May come several times for one mail, each time for another transaction."""


class RecipientResult(Struct, frozen=True):
    """DELIVERED, DEFERRED or FAILED.

    text       the reply, or why there is none: printable ASCII
    command    which the reply answers: MAIL, RCPT, DATA, BDAT; empty for none
    local      decided here, of what the server offers: another server may offer more
    uncertain  the mail has been sent completely and was not answered: it may have been delivered
    dsn        the server has taken over the duty to notify the sender (RFC 3461 5.2.1)
    """

    recipient: int  # its place in the mail
    outcome: Outcome
    code: int
    enhanced: str
    text: str
    command: str = ""
    local: bool = False
    uncertain: bool = False
    dsn: bool = False


class Ready(Struct, frozen=True):
    pass


class EndKind(Enum):
    QUIT = "QUIT"
    REFUSED = "the server refused the session"
    SHUTDOWN = "the server ended the session"
    TLS = "STARTTLS was not possible"
    AUTH = "the login was not possible"
    TIMEOUT = "the server did not answer in time"
    PROTOCOL = "the server broke the protocol"
    LOST = "the connection was lost"
    GIVEN_UP = "the session was given up"


class End(Struct, frozen=True):
    """`state`: in which the session ended.  `code`, `enhanced`: of the reply that ended it; 0 and empty for none."""

    kind: EndKind
    state: ClientState
    text: str
    code: int = 0
    enhanced: str = ""


ClientAction = Say | StartTls | ReadContent | RecipientResult | Ready | End
