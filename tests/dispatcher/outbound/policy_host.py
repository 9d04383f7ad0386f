"""A policy host: HTTPS on a port of loopback, which answers as a test wants."""

import asyncio
import contextlib
import ssl
import tempfile

import uvloop

from tests.tls.world import authority, certify, key, key_pem, pem

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx1.there.test\r\nmax_age: 86400\r\n"
NAME = "mta-sts.there.test"


def run_on_uvloop(scenario):
    """As in a dispatcher."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(scenario, 20))


def ok(body=POLICY):
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def tls(*names, by=None):
    """A server's context, with a certificate for these names."""
    return tls_of(certify(key("p256", "policy"), *(names or (NAME,)), by=by or authority()))


def tls_of(certificate):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem(certificate) + key_pem(key("p256", "policy")))
        file.flush()
        made.load_cert_chain(file.name)
    return made


class PolicyHost:
    """`pieces`: what is said after the request; the connection is closed behind it, unless `stays`.  `asked`: the
    requests."""

    def __init__(self, *pieces, stays=False, context=None):
        self.pieces, self.stays, self.context = pieces or (ok(),), stays, context
        self.asked = []
        self.open, self.writers = 0, []
        self.wait = None  # an event that an answer waits for

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context or tls())
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.open += 1
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if self.wait is not None:
                await self.wait.wait()
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
            if self.stays:
                await reader.read()
        self.open -= 1
        writer.close()
