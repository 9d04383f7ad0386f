"""Clients that encrypt and leave:  python -m tests.bench.client PORT CLIENTS RATE SECONDS

    banner, EHLO, STARTTLS, handshake, EHLO, QUIT            one session, with nothing kept from the one before

RATE sessions a second are begun by so many clients; one that is late because all are busy begins when it can.  A JSON
object comes out: {"done": …, "failed": …, "seconds": …, "complaint": …}.

One process is one processor's worth of clients: a client's part of a handshake costs it some 0.4 ms.
"""

import json
import select
import socket
import ssl
import sys
import time

WAIT_MAX = 10.0  # seconds for those that are under way at the end
PIECE = 16 * 1024


class Client:
    """A connection, in the clear and then encrypted; `session` yields whenever it has to wait for the server."""

    def __init__(self, port, context):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))
        self._context = context
        self._tls = None
        self._text = b""
        self.go_on = self.session()
        next(self.go_on)

    def session(self):
        yield from self._expect(b"220")
        self.socket.send(b"EHLO load.test\r\n")
        yield from self._expect(b"250")
        self.socket.send(b"STARTTLS\r\n")
        yield from self._expect(b"220")
        yield from self._shake()
        self._send(b"EHLO load.test\r\n")
        yield from self._expect(b"250")
        self._send(b"QUIT\r\n")
        yield from self._expect(b"221")

    def _shake(self):
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(self._in, self._out, server_hostname="here.test")
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if self._out.pending:
                    self.socket.send(self._out.read())
                yield
                self._in.write(self._receive())
            else:
                self._tls = tls
                return

    def _send(self, text):
        """What ended the handshake leaves with the first of it, as it does from programs of this kind."""
        self._tls.write(text)
        self.socket.send(self._out.read())

    def _expect(self, code):
        """A whole reply."""
        while not self._text.endswith(b"\r\n") or self._text.splitlines()[-1][3:4] == b"-":
            yield
            data = self._receive()
            if self._tls:
                self._in.write(data)
                self._text += self._open()
            else:
                self._text += data
        if not self._text.startswith(code):
            raise ConnectionError(f"{self._text!r} for {code!r}")
        self._text = b""

    def _open(self):
        """All plaintext that has come."""
        text = b""
        try:
            while piece := self._tls.read(PIECE):
                text += piece
        except ssl.SSLWantReadError:
            pass
        return text

    def _receive(self):
        data = self.socket.recv(PIECE)
        if not data:
            raise ConnectionError(f"closed, after {self._text!r}")
        return data


class ClientPool:
    def __init__(self, port, most, rate, seconds):
        self._port, self._most, self._rate, self._seconds = port, most, rate, seconds
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._poll = select.epoll()
        self._clients = {}
        self.done = self.failed = 0
        self.complaint = ""

    def run(self):
        """How many seconds it took."""
        begin, begun = time.monotonic(), 0
        while (now := time.monotonic() - begin) < self._seconds or self._clients and now < self._seconds + WAIT_MAX:
            due = int(min(now, self._seconds) * self._rate)
            while begun < due and len(self._clients) < self._most and now < self._seconds:
                self._begin()
                begun += 1
            for descriptor, _ in self._poll.poll(0.5 / self._rate):
                self._go_on(descriptor)
        for descriptor in list(self._clients):
            self._fail(descriptor, TimeoutError("no end"))
        return time.monotonic() - begin

    def _begin(self):
        client = Client(self._port, self._context)
        self._clients[client.socket.fileno()] = client
        self._poll.register(client.socket, select.EPOLLIN)

    def _go_on(self, descriptor):
        try:
            next(self._clients[descriptor].go_on)
        except StopIteration:
            self.done += 1
            self._clients.pop(descriptor).socket.close()
        except OSError as error:
            self._fail(descriptor, error)

    def _fail(self, descriptor, error):
        self.failed += 1
        self.complaint = self.complaint or str(error)
        self._clients.pop(descriptor).socket.close()


def main(port, most, rate, seconds):
    pool = ClientPool(int(port), int(most), float(rate), float(seconds))
    taken = pool.run()
    print(json.dumps({"done": pool.done, "failed": pool.failed, "seconds": taken, "complaint": pool.complaint}))


if __name__ == "__main__":
    main(*sys.argv[1:])
