"""A transaction: one message on its way in, from MAIL until it is stored or dropped.

A transaction is never cleaned for reuse: RSET drops it, the next MAIL makes another one, so nothing of a refused
message is left over for the next.

    DataReader, ChunkReader  -->  Editor (header/editor.py)  -->  content to be stored, the trace line first
"""

from smtpd.envelope import MailParameters, Origin, envelope_id
from smtpd.header.editor import HeaderEditor
from smtpd.header.received import protocol_word
from smtpd.smtp.chunk import ChunkReader
from smtpd.smtp.data import DataReader
from smtpd.smtp.reply import Reply


class Transaction:
    """`size`: bytes of content given out.  `forgotten`: the message is refused, and only read to its end.
    `recipients`: those that were accepted, and the id of the first envelope of each."""

    __slots__ = (
        "_editor",
        "_trace",
        "announced",
        "envelopes",
        "forgotten",
        "message",
        "origin",
        "protocol",
        "reader",
        "recipients",
        "size",
        "terms",
        "time",
    )

    def __init__(self, message: int, time: int, origin: Origin, terms: MailParameters, editor: HeaderEditor):
        self.message = message
        self.time = time  # when it began, in seconds since 1970
        self.origin = origin
        self.terms = terms
        known = origin.user != "" or origin.address == "local"  # the kernel tells the user of a program of this host
        self.protocol = protocol_word(esmtp=origin.esmtp, utf8=terms.utf8, tls=origin.tls, auth=known)
        self.recipients: list[tuple[str, int]] = []
        self.envelopes = 0
        self.size = 0
        self.announced = 0  # bytes that BDAT has announced
        self.forgotten = False
        self.reader: DataReader | ChunkReader | None = None  # None: no content yet
        self._editor = editor
        self._trace = b""  # the Received header, until it goes out with the first content

    @property
    def fault(self) -> Reply | None:
        """Why the message cannot be taken: a fault that the reader finds, or one of the header."""
        if self.reader is not None and self.reader.fault:
            return self.reader.fault
        fault = self._editor.fault
        return Reply(*fault.value) if fault else None

    def add_recipient(self, recipient: str, envelopes: int) -> None:
        """`envelopes`: how many lookup made of it; they were added to the message in this order."""
        self.recipients.append((recipient, envelope_id(self.message, self.envelopes + 1)))
        self.envelopes += envelopes

    def begin_content(self, reader: DataReader | ChunkReader, trace: bytes) -> None:
        self.reader = reader
        self._trace = trace

    def take(self, content: bytes, *, ended: bool) -> bytes:
        """Content of the reader in, content to be stored out; nothing once there is a fault."""
        edited = self._editor.feed(content)
        if ended:
            edited += self._editor.end()
        if not (edited or ended) or self.fault:
            return b""
        edited, self._trace = self._trace + edited, b""
        self.size += len(edited)
        return edited
