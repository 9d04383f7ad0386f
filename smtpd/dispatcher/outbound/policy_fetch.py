"""One MTA-STS policy, fetched by HTTPS from its policy host: RFC 8461 3.3.

    addresses of mta-sts.there.test --TCP, port 443--> TLS, certificate verified --GET--> answer --> StsPolicy

A server of any domain is asked: what it sends is bounded, in bytes here and in relay/http_answer.py, and the caller
bounds the time.  No redirect is followed, no cookie, cache or compression is offered, a connection serves one request.
"""

import asyncio
import os
import socket
from collections.abc import Sequence

from smtpd.dispatcher.outbound.connection import NO_RESOURCES
from smtpd.relay.address_order import RACE_DELAY, address_order, family_of
from smtpd.relay.http_answer import HttpAnswer, HttpError
from smtpd.relay.mta_sts import HTTPS_PORT, POLICY_SIZE_MAX, StsPolicy, StsPolicyError, parse_policy
from smtpd.relay.tls_result import TlsResult
from smtpd.tls.client_connection import ClientTlsConnection
from smtpd.tls.client_context import ClientContext, Expectation
from smtpd.tls.connection import TlsFailed
from smtpd.tls.openssl_library import TlsUnusable

CONNECT_TIMEOUT = 10.0  # seconds for each address
MEDIA_TYPE = "text/plain"  # RFC 8461 3.2
RECEIVED_MAX = 512 * 1024  # bytes of one connection, of TLS itself too
_PIECE = 16 * 1024  # bytes of one read

_REQUEST = (
    "GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {host}\r\nUser-Agent: smtpd\r\nAccept: text/plain\r\n"
    "Connection: close\r\n\r\n"
)


class PolicyFetchError(Exception):
    """There is no policy; the argument says why.  `result`: as what it is counted."""

    def __init__(self, text: str, result: TlsResult = TlsResult.STS_POLICY_FETCH_ERROR):
        super().__init__(text)
        self.result = result


class LocalFetchError(PolicyFetchError):
    """The fault is this host's: nothing is known of the policy."""


async def fetch_policy(
    loop: asyncio.AbstractEventLoop,
    host: str,
    addresses: Sequence[str],
    context: ClientContext,
    port: int = HTTPS_PORT,
) -> StsPolicy:
    """`host`: the policy host, in ASCII.  Raises PolicyFetchError; takes as long as the server does."""
    try:
        # RFC 8461 3.3: the certificate has to be valid for the policy host, by the rules of RFC 6125.
        tls = ClientTlsConnection(context, Expectation(server_name=host, verify=True, names=(host,)))
        with await _connect(loop, addresses, port) as sock:
            body = await _ask(loop, sock, tls, _REQUEST.format(host=host).encode("ascii"))
        return parse_policy(body)
    except (TlsFailed, TlsUnusable) as failed:
        certificate = isinstance(failed, TlsFailed) and failed.verify_code
        result = TlsResult.STS_WEBPKI_INVALID if certificate else TlsResult.STS_POLICY_FETCH_ERROR
        raise PolicyFetchError(f"TLS: {failed}", result) from None
    except StsPolicyError as failed:
        raise PolicyFetchError(str(failed), TlsResult.STS_POLICY_INVALID) from None
    except HttpError as failed:
        raise PolicyFetchError(str(failed)) from None
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else str(error)
        raise (LocalFetchError if error.errno in NO_RESOURCES else PolicyFetchError)(text) from None


async def _ask(loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ClientTlsConnection, request: bytes) -> bytes:
    received = 0

    async def receive() -> bool:
        """False: the server has ended the connection."""
        nonlocal received
        await loop.sock_sendall(sock, tls.take_output())
        data = await loop.sock_recv(sock, _PIECE)
        received += len(data)
        if received > RECEIVED_MAX:
            raise HttpError("the server sends too much")
        tls.feed(data)
        return bool(data)

    while not tls.step():
        if not await receive():
            raise PolicyFetchError("TLS: connection closed by the server")
    tls.write(request)
    answer = HttpAnswer(MEDIA_TYPE, POLICY_SIZE_MAX)
    while not answer.done:
        more = await receive()
        answer.feed(tls.read())
        if tls.closed or not more:
            answer.end(tls.closed)
    return answer.body


# -- TCP -------------------------------------------------------------------------------


async def _connect(loop: asyncio.AbstractEventLoop, addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first address that takes one; they are tried beside each other, each RACE_DELAY after the
    one before (RFC 8305 5).  Raises OSError."""
    left = [path.address for path in address_order(addresses)]
    attempts: set[asyncio.Task[socket.socket]] = set()
    connected: list[socket.socket] = []
    error: BaseException = OSError("no address")
    try:
        while (left or attempts) and not connected:
            if left:
                attempts.add(loop.create_task(_connect_to(loop, left.pop(0), port)))
            timeout = RACE_DELAY if left else None
            ended, attempts = await asyncio.wait(attempts, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for attempt in ended:
                failure = attempt.exception()
                if failure is None:
                    connected.append(attempt.result())
                else:
                    error = failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close)
    for spare in connected[1:]:
        spare.close()
    if not connected:
        raise error
    return connected[0]


async def _connect_to(loop: asyncio.AbstractEventLoop, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if family_of(address) == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.sock_connect(sock, (address, port))
    except TimeoutError:
        sock.close()
        raise OSError("connection timed out") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    """Of an attempt that is not needed any more, and has connected at the same moment."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
