"""What a notice reports: facts, as queue knows them.  How they are written is in report.py."""

from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """RFC 3464 2.3.3."""

    FAILED = "failed"  # it will not be tried again
    DELAYED = "delayed"  # it will
    DELIVERED = "delivered"
    RELAYED = "relayed"  # to a server that reports nothing
    EXPANDED = "expanded"  # to several recipients


@dataclass(frozen=True)
class RecipientReport:
    """Times in seconds since 1970."""

    recipient: str  # as it was accepted
    original: str | None  # ORCPT of RFC 3461, decoded: its type, a semicolon, the address
    action: Action
    status: str  # RFC 3463, "5.1.1"
    reason: str  # in our words, or as the server said it
    remote: str | None  # the name of the other server, if one spoke
    diagnostic: str | None  # its reply, with the code; lines may be separated by any line end
    last_attempt: float | None
    retry_until: float | None  # used for what is delayed


@dataclass(frozen=True)
class Report:
    host: str  # the name of this server
    to: str  # the sender of the message
    envelope_id: str | None  # ENVID of RFC 3461, decoded
    arrival: float
    recipients: tuple[RecipientReport, ...]  # at least one
    content: bytes  # of the message, with LF line ends: all of it, or its header
    is_whole: bool  # all of it
    now: float
    id: str  # of this notice, of letters, digits and dots
