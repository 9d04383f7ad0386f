"""The fetch of an MTA-STS policy, over real TLS: what is asked, what is verified, what an attacker's host may cost."""

import asyncio
import contextlib
import datetime
import socket

import pytest

from smtpd.dispatcher.outbound import policy_fetch
from smtpd.dispatcher.outbound.policy_fetch import RECEIVED_MAX, PolicyFetchError, fetch_policy
from smtpd.relay.http_answer import OVERHEAD_MAX
from smtpd.relay.mta_sts import POLICY_SIZE_MAX, StsMode, StsPolicy
from smtpd.relay.tls_result import TlsResult
from smtpd.tls.certificate import Authorities
from smtpd.tls.client_context import ClientContext
from tests.dispatcher.outbound.policy_host import NAME, POLICY, PolicyHost, ok, run_on_uvloop, tls, tls_of
from tests.tls.world import authority, certify, key, pem

ENFORCED = StsPolicy(StsMode.ENFORCE, ("mx1.there.test",), 86400)


def fetch(host, *addresses, seconds=20):
    """The policy, or why there is none."""

    async def run():
        context = ClientContext(Authorities.read(pem(authority()[0])))
        loop = asyncio.get_running_loop()
        async with host, asyncio.timeout(seconds):
            try:
                return await fetch_policy(loop, NAME, addresses or ("127.0.0.1",), context, host.port)
            except PolicyFetchError as error:
                host.result = error.result
                return str(error)

    return run_on_uvloop(run())


def test_a_policy_is_fetched():
    """RFC 8461 3.3"""
    host = PolicyHost(stays=True)
    assert fetch(host) == ENFORCED
    (asked,) = host.asked
    assert asked.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.there.test\r\n")
    assert asked.count(b"\r\n\r\n") == 1


def test_a_policy_byte_by_byte():
    data = ok()
    assert fetch(PolicyHost(*(data[at : at + 1] for at in range(len(data))))) == ENFORCED


def test_the_first_address_that_takes_a_connection_is_used():
    """RFC 8305: one that is dead costs a moment; here, it refuses."""
    assert fetch(PolicyHost(), "::1", "127.0.0.9", "127.0.0.1") == ENFORCED


def test_an_address_that_is_silent_costs_a_moment(monkeypatch):
    real = policy_fetch._connect_to

    async def connect(loop, address, port):
        if address == "192.0.2.1":
            await asyncio.sleep(3600)
        return await real(loop, address, port)

    monkeypatch.setattr(policy_fetch, "_connect_to", connect)
    assert fetch(PolicyHost(), "192.0.2.1", "127.0.0.1") == ENFORCED


def test_no_address_takes_a_connection():
    assert fetch(PolicyHost(), "127.0.0.9") == "Connection refused"


def test_a_connection_that_is_not_taken_in_time(monkeypatch):
    """The server's backlog is full: what comes is not answered."""
    monkeypatch.setattr(policy_fetch, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as server, contextlib.ExitStack() as others:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address, port = server.getsockname()
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex((address, port))

        async def scenario():
            with pytest.raises(PolicyFetchError, match="connection timed out"):
                await fetch_policy(asyncio.get_running_loop(), NAME, [address], ClientContext(), port)

        run_on_uvloop(scenario())


# -- the certificate, RFC 8461 3.3 --------------------------------------------------------------------------


def other_authority():
    private = key("p256", "other authority")
    return certify(private, "other", authority=True), private


def without_name():
    """The name stands in the subject only."""
    return tls_of(certify(key("p256", "policy"), NAME, by=authority(), authority=True))


def expired():
    end = datetime.datetime(2026, 2, 1)
    return tls_of(certify(key("p256", "policy"), NAME, by=authority(), end=end))


@pytest.mark.parametrize(
    "context, why",
    [
        (lambda: tls("there.test"), "hostname mismatch"),
        (lambda: tls("*.mta-sts.there.test"), "hostname mismatch"),
        (lambda: tls("*.test"), "hostname mismatch"),
        (lambda: tls("m*.there.test"), "hostname mismatch"),
        (without_name, "hostname mismatch"),
        (lambda: tls(by=other_authority()), "unable to get local issuer certificate"),
        (expired, "certificate has expired"),
    ],
)
def test_a_wrong_certificate(context, why):
    host = PolicyHost(context=context())
    said = fetch(host)
    assert said.startswith("TLS: certificate of the server: ") and why in said.lower(), said
    assert host.asked == [] and host.result is TlsResult.STS_WEBPKI_INVALID


def test_a_wildcard_is_one_label():
    assert fetch(PolicyHost(context=tls("*.there.test"))) == ENFORCED


def test_a_host_that_speaks_no_tls():
    async def run():
        async def serve(_reader, writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(PolicyFetchError, match="server does not speak TLS"):
                await fetch_policy(asyncio.get_running_loop(), NAME, ["127.0.0.1"], ClientContext(), port)

    run_on_uvloop(run())


# -- answers ------------------------------------------------------------------------------------------------


def test_a_redirect_is_not_followed():
    """RFC 8461 3.3"""
    moved = b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1/policy\r\nContent-Length: 0\r\n\r\n"
    host = PolicyHost(moved)
    assert fetch(host) == "status 301" and len(host.asked) == 1
    assert host.result is TlsResult.STS_POLICY_FETCH_ERROR


def test_a_body_that_ends_with_the_connection():
    assert fetch(PolicyHost(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY)) == ENFORCED


def test_an_answer_that_stops_in_its_middle():
    assert "the server has ended the connection" in fetch(PolicyHost(ok()[:-5]))


def test_what_is_no_policy():
    host = PolicyHost(ok(b"<html>"))
    assert fetch(host) == "not of version STSv1" and host.result is TlsResult.STS_POLICY_INVALID


# -- attacks ------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces, why",
    [
        ((HEAD, *[b"X: y\r\n" * 1000] * 50), "header or chunks are too long"),
        ((HEAD, *[b"x" * 10_000] * 50), "a line is too long"),
        ((CHUNKS, *[b"1\r\nx\r\n" * 1000] * 50), "header or chunks are too long"),
        ((CHUNKS, *[b"2000\r\n" + b"x" * 8192 + b"\r\n"] * 50), "body is longer than 65536 bytes"),
        ((HEAD + b"\r\n", *[b"x" * 10_000] * 50), "body is longer than 65536 bytes"),
        ((b"HTTP/1.1 100 x\r\n\r\n" * 10_000,), "header or chunks are too long"),
    ],
)
def test_an_answer_without_an_end(pieces, why):
    """Endless headers and chunks: given up after a bounded number of bytes."""
    assert fetch(PolicyHost(*pieces)) == why


def test_tiny_records_without_an_end(monkeypatch):
    """Bytes of TLS are bounded too: a record of one byte takes 22 more."""
    monkeypatch.setattr(policy_fetch, "RECEIVED_MAX", 20_000)
    assert fetch(PolicyHost(HEAD + b"\r\n", *[b"x"] * 5000)) == "the server sends too much"
    assert RECEIVED_MAX >= 2 * (POLICY_SIZE_MAX + OVERHEAD_MAX)


def test_a_host_that_says_nothing_is_left_when_the_time_is_over():
    """Drip feeding: nothing here waits longer than the caller does, and no connection is left."""
    host = PolicyHost(HEAD, stays=True)

    async def run():
        async with host:
            loop = asyncio.get_running_loop()
            context = ClientContext(Authorities.read(pem(authority()[0])))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await fetch_policy(loop, NAME, ["127.0.0.1"], context, host.port)
            while host.open:
                await asyncio.sleep(0)

    run_on_uvloop(run())
