"""The bytes of one client, in the clear or encrypted, and when to read more of them.

    transport --- data ---> open --> plaintext           what the session is fed
    transport <-- write --- say  <-- plaintext           what the session says

Without a link both sides are the same bytes.

The client may end what it sends (FIN, or close_notify of TLS) and go on reading: what came before is all there ever
was, and it is answered.  TLS 1.3 has it so (RFC 8446 6.1).  RFC 5246 7.2.1 wants pending writes thrown away instead;
but a client of TLS 1.2 that does not read any more loses nothing by an answer, and one that does would send its mail
again without it.
"""

import asyncio

from smtpd.tls.connection import TlsConnection


class ClientStream:
    def __init__(self, transport: asyncio.Transport):
        self.transport = transport
        self.link: TlsConnection | None = None
        self._unread = False  # what came behind the handshake is still in the link
        self.client_reads = True  # what is written does not pile up
        self.reading = True
        self.eof = False  # FIN has come

    @property
    def ended(self) -> bool:
        """Nothing more comes from the client, and all that came has been opened; it may still read."""
        return not self._unread and (self.eof or (self.link is not None and self.link.closed))

    def encrypt(self, link: TlsConnection) -> None:
        """From here on everything goes through `link`.  Some of it may have come with the handshake: open it."""
        self.link, self._unread = link, True

    def open(self, data: bytes) -> bytes:
        """The plaintext that `data` completes.  Raises Failed."""
        if self.link is None:
            return data
        self._unread = False
        self.link.feed(data)
        try:
            return self.link.read()
        finally:
            self.flush()

    def say(self, data: bytes) -> None:
        if self.link is None:
            self.transport.write(data)
        else:
            self.link.write(data)
            self.flush()

    def flush(self) -> None:
        """Send what TLS itself has to say, and what it has encrypted."""
        assert self.link is not None
        output = self.link.take_output()
        if output:
            self.transport.write(output)

    def pause(self) -> None:
        if self.reading and not self.transport.is_closing():
            self.reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.reading and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()

    def close(self, *, all_read: bool) -> None:
        """After the last word has been written; the caller has to abort what the client does not end in time.

        More may be on its way to us, and a close with bytes unread is a reset, which can overtake that word: so unless
        `all_read`, or FIN has come, only our side is closed, and whoever reads throws away what still comes.
        """
        if self.link is not None:
            self.link.close()
            self.flush()
        if all_read or self.eof or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.resume()
