"""The byte stream of one client, in the clear or in TLS, and when to read more of it.

    transport --- data ---> open --> plaintext           what the session is fed
    transport <-- write --- say  <-- plaintext           what the session says

Without TLS both sides are the same bytes.

A client may end its side (FIN, or close_notify of TLS) and go on reading: everything that came before is answered.  TLS
1.3 has it so (RFC 8446 6.1).  RFC 5246 7.2.1 has pending writes thrown away instead; but a client of TLS 1.2 that reads
no more loses nothing by an answer, and a client that reads would send its mail again without one.
"""

import asyncio

from smtpd.tls.connection import TlsConnection


class ClientStream:
    def __init__(self, transport: asyncio.Transport):
        self.transport = transport
        self.tls: TlsConnection | None = None
        self._unread = False  # the TlsConnection holds bytes that came right behind the handshake
        self.client_reads = True  # written bytes do not pile up
        self.reading = True
        self.eof = False  # FIN has come

    @property
    def ended(self) -> bool:
        """The client sends no more, and all that came has been decrypted; it may still read."""
        return not self._unread and (self.eof or (self.tls is not None and self.tls.closed))

    def encrypt(self, tls: TlsConnection) -> None:
        """From here on everything goes through `tls`, which may hold bytes that came with the handshake."""
        self.tls, self._unread = tls, True

    def open(self, data: bytes) -> bytes:
        """The plaintext that `data` completes.  Raises connection.TlsFailed."""
        if self.tls is None:
            return data
        self._unread = False
        self.tls.feed(data)
        try:
            return self.tls.read()
        finally:
            self.flush()

    def say(self, data: bytes) -> None:
        if self.tls is None:
            self.transport.write(data)
        else:
            self.tls.write(data)
            self.flush()

    def flush(self) -> None:
        """Send the records that are ready: of TLS itself, and with encrypted data."""
        assert self.tls is not None
        output = self.tls.take_output()
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
        """After the last reply has been written.  The caller has to abort when the client does not close in time.

        More bytes may be on their way, and a close with bytes unread is a reset, which can overtake that reply: so
        unless `all_read`, or FIN has come, only this side is closed, and what still comes is read and thrown away.
        """
        if self.tls is not None:
            self.tls.close()
            self.flush()
        if all_read or self.eof or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.resume()
