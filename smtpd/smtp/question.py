"""What a session asks of the other processes, and what they answer: plain values, no imsgs.

    at STARTTLS      Encrypt            ->  Encrypted               (or the connection ends)
    at AUTH          CheckPassword      ->  PasswordChecked
                     BeginScram         ->  ScramBegun
                     FinishScram        ->  ScramFinished
    at MAIL          CheckSender        ->  SenderChecked
                     BeginMessage       ->  MessageBegun       | Refused
    at RCPT          AcceptRecipient    ->  RecipientAccepted  | Refused
    at end of data   StoreContent       ->  ContentStored      | Refused
    after an error   Wait               ->  Waited                  (the reply is kept back so long)

One question at a time; while it is open the session reads no further line.
"""

from enum import Enum

from msgspec import Struct

from smtpd.envelope import Notify, Origin, Terms
from smtpd.tls.facts import Facts


class Verdict(Enum):
    YES = "yes"
    NO = "no"
    LATER = "later"


def _without_secrets(question: "CheckPassword | FinishScram") -> str:
    return f"{type(question).__name__}(user={question.user!r})"


class Encrypt(Struct, frozen=True):
    """The go-ahead has been said in the clear; from its last byte on everything is TLS."""


class Encrypted(Struct, frozen=True):
    facts: Facts


class CheckPassword(Struct, frozen=True):
    user: str
    password: str

    __repr__ = _without_secrets


class PasswordChecked(Struct, frozen=True):
    verdict: Verdict


class BeginScram(Struct, frozen=True):
    user: str


class ScramBegun(Struct, frozen=True):
    """YES, also for a user who does not exist; or LATER."""

    verdict: Verdict
    salt: bytes = b""
    iterations: int = 0


class FinishScram(Struct, frozen=True):
    """RFC 5802 3: AuthMessage and ClientProof."""

    user: str
    message: bytes
    proof: bytes

    __repr__ = _without_secrets


class ScramFinished(Struct, frozen=True):
    verdict: Verdict
    signature: bytes = b""


class CheckSender(Struct, frozen=True):
    """May this authenticated user send as `sender`?  Complete, or empty for the null sender."""

    user: str
    sender: str


class SenderChecked(Struct, frozen=True):
    verdict: Verdict


class Wait(Struct, frozen=True):
    seconds: float


class Waited(Struct, frozen=True):
    pass


class BeginMessage(Struct, frozen=True):
    """A sender was named: which message id will it be?  `address` and `user`: whose rates it counts for."""

    address: str
    user: str


class MessageBegun(Struct, frozen=True):
    """`time`: seconds since 1970, the date of the Received header."""

    message: int
    time: int


class AcceptRecipient(Struct, frozen=True):
    """Who is it for, and may this client send there?  `recipient` is complete: it has a domain."""

    message: int
    origin: Origin
    recipient: str
    terms: Terms
    notify: Notify
    original: str  # ORCPT, decoded


class RecipientAccepted(Struct, frozen=True):
    """`envelopes`: how many it became."""

    envelopes: int


class StoreContent(Struct, frozen=True):
    """All content has been given out: make it durable.

    `size`: bytes given out as Content, the trace header among them.  `envelopes`: sum of what was accepted.
    """

    message: int
    envelopes: int
    size: int


class ContentStored(Struct, frozen=True):
    """It is on the disk."""


class Refused(Struct, frozen=True):
    """No, and what to tell the client.  With 421 the session ends."""

    code: int
    enhanced: str
    text: str


Question = (
    Encrypt
    | CheckPassword
    | BeginScram
    | FinishScram
    | CheckSender
    | BeginMessage
    | AcceptRecipient
    | StoreContent
    | Wait
)
Answer = (
    Encrypted
    | PasswordChecked
    | ScramBegun
    | ScramFinished
    | SenderChecked
    | MessageBegun
    | RecipientAccepted
    | ContentStored
    | Waited
    | Refused
)

# What may come as the answer to which question.
ANSWERS: dict[type[Question], tuple[type[Answer], ...]] = {
    Encrypt: (Encrypted,),
    CheckPassword: (PasswordChecked,),
    BeginScram: (ScramBegun,),
    FinishScram: (ScramFinished,),
    CheckSender: (SenderChecked,),
    BeginMessage: (MessageBegun, Refused),
    AcceptRecipient: (RecipientAccepted, Refused),
    StoreContent: (ContentStored, Refused),
    Wait: (Waited,),
}
