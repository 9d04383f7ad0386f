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

from dataclasses import dataclass, field
from enum import Enum

from smtpd.envelope import Notify, Origin, Terms
from smtpd.tls.facts import Facts


class Verdict(Enum):
    YES = "yes"
    NO = "no"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Encrypt:
    """The go-ahead has been said in the clear; from its last byte on everything is TLS."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    facts: Facts


@dataclass(frozen=True, slots=True)
class CheckPassword:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasswordChecked:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class BeginScram:
    user: str


@dataclass(frozen=True, slots=True)
class ScramBegun:
    """YES, also for a user who does not exist; or LATER."""

    verdict: Verdict
    salt: bytes = b""
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class FinishScram:
    """RFC 5802 3: AuthMessage and ClientProof."""

    user: str
    message: bytes = field(repr=False)
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ScramFinished:
    verdict: Verdict
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class CheckSender:
    """May this authenticated user send as `sender`?  Complete, or empty for the null sender."""

    user: str
    sender: str


@dataclass(frozen=True, slots=True)
class SenderChecked:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Waited:
    pass


@dataclass(frozen=True, slots=True)
class BeginMessage:
    """A sender was named: which message id will it be?  `address` and `user`: whose rates it counts for."""

    address: str
    user: str


@dataclass(frozen=True, slots=True)
class MessageBegun:
    """`time`: seconds since 1970, the date of the Received header."""

    message: int
    time: int


@dataclass(frozen=True, slots=True)
class AcceptRecipient:
    """Who is it for, and may this client send there?  `recipient` is complete: it has a domain."""

    message: int
    origin: Origin
    recipient: str
    terms: Terms
    notify: Notify
    original: str  # ORCPT, decoded


@dataclass(frozen=True, slots=True)
class RecipientAccepted:
    """`envelopes`: how many it became."""

    envelopes: int


@dataclass(frozen=True, slots=True)
class StoreContent:
    """All content has been given out: make it durable.

    `size`: bytes given out as Content, the trace header among them.  `envelopes`: sum of what was accepted.
    """

    message: int
    envelopes: int
    size: int


@dataclass(frozen=True, slots=True)
class ContentStored:
    """It is on the disk."""


@dataclass(frozen=True, slots=True)
class Refused:
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
