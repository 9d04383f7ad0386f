"""A mail of the corpus: what a sender has, and what the documented rules make of it.

    Same       the body that is delivered is the one that was sent, in lines that end with LF, the last one too
    Encoded    kept in another transfer encoding: decoded it is the same
    Changed    another body, by the named rule
    Refused    no mail: the reply, by the named rule; `closes`: the session ends, too

`content` is what a program writes, byte for byte.  Where `raw` is False its line ends are LF, and a client on the way
makes CRLF of them; where it is True, nobody touches it but to stuff dots and to put the final one.

Ways: "data", "bdat", and "binarymime" for BDAT with BODY=BINARYMIME, over SMTP; "sendmail" on this host.
"""

from dataclasses import dataclass

WAYS = ("data", "bdat", "binarymime", "sendmail")


@dataclass(frozen=True)
class Same:
    body: bytes


@dataclass(frozen=True)
class Encoded:
    rule: str
    body: bytes  # decoded


@dataclass(frozen=True)
class Changed:
    rule: str
    body: bytes


@dataclass(frozen=True)
class Refused:
    rule: str
    code: int
    enhanced: str
    closes: bool = False


Outcome = Same | Encoded | Changed | Refused


@dataclass(frozen=True)
class Mail:
    family: str
    name: str
    content: bytes
    raw: bool = False

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}"

    def as_data(self) -> bytes:
        """What a client sends behind DATA, with stuffed dots and the final one."""
        text = self._with_crlf()
        if text and not text.endswith(b"\r\n"):
            text += b"\r\n"
        stuffed = text.replace(b"\r\n.", b"\r\n..")
        return (b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n"

    def as_chunk(self) -> bytes:
        """What a client sends behind BDAT, in one chunk or in many."""
        return self._with_crlf()

    def _with_crlf(self) -> bytes:
        return self.content if self.raw else self.content.replace(b"\n", b"\r\n")
