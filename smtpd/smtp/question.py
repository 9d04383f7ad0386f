"""Questions of a session to other processes, and their answers: plain values, no imsgs.

    at STARTTLS      TlsQuestion         ->  TlsAnswer          (or the connection ends)
    at AUTH          PasswordQuestion    ->  PasswordAnswer
                     ScramSeedQuestion   ->  ScramSeedAnswer
                     ScramProofQuestion  ->  ScramProofAnswer
    at MAIL          SenderQuestion      ->  SenderAnswer
                     MessageIdQuestion   ->  MessageIdAnswer    | RefusedAnswer
    at RCPT          RecipientQuestion   ->  RecipientAnswer    | RefusedAnswer
    at end of data   StoreQuestion       ->  StoreAnswer        | RefusedAnswer
    after an error   PauseQuestion       ->  PauseAnswer        (the reply waits so long: the tarpit)

One question at a time; while it is open the session reads no further line.
"""

from enum import Enum

from msgspec import Struct

from smtpd.envelope import MailParameters, Notify, Origin
from smtpd.tls.facts import TlsFacts


class Verdict(Enum):
    YES = "yes"
    NO = "no"
    LATER = "later"


def _without_secrets(question: "PasswordQuestion | ScramProofQuestion") -> str:
    return f"{type(question).__name__}(user={question.user!r})"


class TlsQuestion(Struct, frozen=True):
    """220 has been said in the clear; after its last byte everything is TLS."""


class TlsAnswer(Struct, frozen=True):
    facts: TlsFacts


class PasswordQuestion(Struct, frozen=True):
    user: str
    password: str

    __repr__ = _without_secrets


class PasswordAnswer(Struct, frozen=True):
    verdict: Verdict


class ScramSeedQuestion(Struct, frozen=True):
    user: str


class ScramSeedAnswer(Struct, frozen=True):
    """YES, also for a user that does not exist; or LATER."""

    verdict: Verdict
    salt: bytes = b""
    iterations: int = 0


class ScramProofQuestion(Struct, frozen=True):
    """RFC 5802 3: AuthMessage and ClientProof."""

    user: str
    message: bytes
    proof: bytes

    __repr__ = _without_secrets


class ScramProofAnswer(Struct, frozen=True):
    verdict: Verdict
    signature: bytes = b""


class SenderQuestion(Struct, frozen=True):
    """May this authenticated user send as `sender`?  Complete, or empty for the null sender."""

    user: str
    sender: str


class SenderAnswer(Struct, frozen=True):
    verdict: Verdict


class PauseQuestion(Struct, frozen=True):
    seconds: float


class PauseAnswer(Struct, frozen=True):
    pass


class MessageIdQuestion(Struct, frozen=True):
    """A sender was named: which message id?  `address` and `user`: for their rates."""

    address: str
    user: str


class MessageIdAnswer(Struct, frozen=True):
    """`time`: seconds since 1970, the date of the Received header."""

    message: int
    time: int


class RecipientQuestion(Struct, frozen=True):
    """May this client send to the recipient, and what does it expand to?  `recipient` is complete: it has a domain."""

    message: int
    origin: Origin
    recipient: str
    terms: MailParameters
    notify: Notify
    original: str  # ORCPT, decoded


class RecipientAnswer(Struct, frozen=True):
    """`envelopes`: how many the recipient became."""

    envelopes: int


class StoreQuestion(Struct, frozen=True):
    """All content has been given out: make it durable.

    `size`: bytes given out as Content, the trace header among them.  `envelopes`: sum of what was accepted.
    """

    message: int
    envelopes: int
    size: int


class StoreAnswer(Struct, frozen=True):
    """The message is on the disk."""


class RefusedAnswer(Struct, frozen=True):
    """No, with the reply to the client.  With 421 the session ends."""

    code: int
    enhanced: str
    text: str


Question = (
    TlsQuestion
    | PasswordQuestion
    | ScramSeedQuestion
    | ScramProofQuestion
    | SenderQuestion
    | MessageIdQuestion
    | RecipientQuestion
    | StoreQuestion
    | PauseQuestion
)
Answer = (
    TlsAnswer
    | PasswordAnswer
    | ScramSeedAnswer
    | ScramProofAnswer
    | SenderAnswer
    | MessageIdAnswer
    | RecipientAnswer
    | StoreAnswer
    | PauseAnswer
    | RefusedAnswer
)

# What may come as the answer to which question.
ANSWERS: dict[type[Question], tuple[type[Answer], ...]] = {
    TlsQuestion: (TlsAnswer,),
    PasswordQuestion: (PasswordAnswer,),
    ScramSeedQuestion: (ScramSeedAnswer,),
    ScramProofQuestion: (ScramProofAnswer,),
    SenderQuestion: (SenderAnswer,),
    MessageIdQuestion: (MessageIdAnswer, RefusedAnswer),
    RecipientQuestion: (RecipientAnswer, RefusedAnswer),
    StoreQuestion: (StoreAnswer, RefusedAnswer),
    PauseQuestion: (PauseAnswer,),
}
