"""What a session asks of the other processes, and what they answer: plain values, no imsgs.

    at MAIL          BeginMessage       ->  MessageBegun       | Refused
    at RCPT          AcceptRecipient    ->  RecipientAccepted  | Refused
    at end of data   StoreContent       ->  ContentStored      | Refused

One question at a time; while it is open the session reads no further line.
"""

from dataclasses import dataclass

from smtpd.envelope import Origin


@dataclass(frozen=True, slots=True)
class BeginMessage:
    """A sender was named: which message id will it be?"""


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
    utf8: bool  # the client said SMTPUTF8


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


Question = BeginMessage | AcceptRecipient | StoreContent
Answer = MessageBegun | RecipientAccepted | ContentStored | Refused
