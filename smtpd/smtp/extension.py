"""The extensions that a session offers: EHLO announces them, MAIL and RCPT allow their parameters."""

from datetime import UTC, datetime
from typing import NamedTuple

from smtpd.slice import UNLIMITED, Limits

MAX_LIMIT = 999_999  # RFC 9422 4: six digits


class Offer(NamedTuple):
    max_message_size: int
    limits: Limits
    dsn: bool = True
    hold: int = 0  # seconds that FUTURERELEASE may ask for; 0: not offered
    require_tls: bool = False
    starttls: bool = False
    mechanisms: tuple[str, ...] = ()  # of AUTH
    xclient: str = ""  # its attributes

    def keywords(self, date: int) -> list[str]:
        """The lines of EHLO.  `date`: seconds since 1970."""
        words = [
            "8BITMIME",  # RFC 6152
            "ENHANCEDSTATUSCODES",  # RFC 2034
            f"SIZE {0 if self.max_message_size == UNLIMITED else self.max_message_size}",  # RFC 1870 3
            "DSN" if self.dsn else "",  # RFC 3461
            "PIPELINING",  # RFC 2920
            "CHUNKING",  # RFC 3030
            "BINARYMIME",
            "SMTPUTF8",  # RFC 6531
            f"LIMITS MAILMAX={_limit(self.limits.max_mails)} RCPTMAX={_limit(self.limits.max_rcpt)}",  # RFC 9422
            "DELIVERBY",  # RFC 2852
            "MT-PRIORITY",  # RFC 6710
            f"FUTURERELEASE {self.hold} {_date(date + self.hold)}" if self.hold else "",  # RFC 4865
            "REQUIRETLS" if self.require_tls else "",  # RFC 8689
            "STARTTLS" if self.starttls else "",  # RFC 3207
            " ".join(("AUTH", *self.mechanisms)) if self.mechanisms else "",  # RFC 4954
            f"XCLIENT {self.xclient}" if self.xclient else "",
            "HELP",
        ]
        return [word for word in words if word]


def _limit(number: int) -> int:
    return min(number, MAX_LIMIT)


def _date(date: int) -> str:
    return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
