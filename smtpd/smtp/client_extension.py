"""The extensions that a server offers: the lines of its answer to EHLO (RFC 5321 4.1.1.1).

250-mx.there.test           the first line names the server
250-size 35882577           keywords in any case, and their values
250-AUTH=PLAIN LOGIN        as old servers write AUTH
250 LIMITS RCPTMAX=100      RFC 9422
"""

import re

from smtpd.smtp.response import Response

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


class Extensions:
    """None before EHLO.  `limits`: of RFC 9422, as MAILMAX and RCPTMAX."""

    __slots__ = ("_offered", "limits")

    def __init__(self, response: Response | None = None):
        self._offered: dict[str, str] = {}
        for line in response.lines[1:] if response else ():
            if line[:5].upper() == "AUTH=":
                line = line.replace("=", " ", 1)
            keyword, _, value = line.partition(" ")
            self._offered[keyword.upper()] = " ".join(filter(None, (self._offered.get(keyword.upper()), value.strip())))

        self.limits = dict(filter(None, map(_maybe_limit, self.words("LIMITS"))))

    def has(self, keyword: str) -> bool:
        return keyword in self._offered

    def words(self, keyword: str) -> list[str]:
        """The words behind a keyword, in capitals."""
        return self._offered.get(keyword, "").upper().split()

    def number(self, keyword: str) -> int:
        """The first word behind a keyword, as of SIZE; 0 where there is no number."""
        first, *_ = *self.words(keyword), ""
        return int(first) if _NUMBER.fullmatch(first) else 0


def _maybe_limit(word: str) -> tuple[str, int] | None:
    name, _, value = word.partition("=")
    return (name, int(value)) if _NUMBER.fullmatch(value) and int(value) > 0 else None
