"""One message on its way in: from MAIL until it is stored, or forgotten.

A transaction is begun, never cleaned: RSET drops it, the next MAIL makes another one, so nothing of a refused message
can be left over for the next.
"""

from smtpd.envelope import Origin, message_text
from smtpd.header.block import HeaderCheck
from smtpd.header.received import protocol_word, received
from smtpd.smtp.data import DataReader
from smtpd.smtp.reply import Reply

TOO_BIG = (552, "5.3.4", "Message size exceeds limit")  # RFC 1870 6.2, 6.3


class Transaction:
    """`size`: bytes of content given out.  `forgotten`: it cannot be taken, and is only read to its end."""

    __slots__ = (
        "_data",
        "_header",
        "_recipient",
        "_time",
        "_trace",
        "envelopes",
        "forgotten",
        "message",
        "origin",
        "recipients",
        "size",
        "utf8",
    )

    def __init__(self, message: int, time: int, origin: Origin, *, utf8: bool, max_size: int):
        self.message = message
        self.origin = origin
        self.utf8 = utf8
        self.recipients = 0
        self.envelopes = 0
        self.size = 0
        self.forgotten = False
        self._recipient = ""  # the last that was accepted
        self._time = time
        self._trace = b""  # the Received header, until it goes out with the first content
        self._data = DataReader(max_size)
        self._header = HeaderCheck()

    @property
    def protocol(self) -> str:
        return protocol_word(esmtp=self.origin.esmtp, utf8=self.utf8)

    @property
    def ended(self) -> bool:
        return self._data.ended

    @property
    def rest(self) -> bytes:
        """What the client sent behind the message."""
        return self._data.rest

    @property
    def fault(self) -> Reply | None:
        """Why the message cannot be taken; size before header, whatever shows first."""
        if self._data.too_big:
            return Reply(*TOO_BIG)
        fault = self._header.fault
        return Reply(*fault.value) if fault else None

    def add_recipient(self, recipient: str, envelopes: int) -> None:
        self.recipients += 1
        self.envelopes += envelopes
        self._recipient = recipient

    def begin_content(self, product: str) -> None:
        origin = self.origin
        self._trace = received(
            helo=origin.helo,
            client=origin.client,
            address=origin.address,
            server=origin.hostname,
            product=product,
            protocol=self.protocol,
            message=message_text(self.message),
            recipient=self._recipient if self.recipients == 1 else "",
            epoch=self._time,
        )

    def take(self, data: bytes) -> bytes:
        """Bytes from the client in, content to be stored out, the trace header first.  Raises Refuse."""
        content = self._data.feed(data)
        self._header.feed(content)
        if self.fault or not (content or self.ended):
            return b""
        content, self._trace = self._trace + content, b""
        self.size += len(content)
        return content
