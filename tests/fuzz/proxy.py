"""The PROXY header: complete or malformed, however it is cut; what stands behind it is left over to the byte.

byte 0      the version that the listener wants
the rest    what a proxy sends
"""

import ipaddress
from typing import Literal

from smtpd.slice import Proxy
from smtpd.smtp.proxy import MAX_V2, ProxyError, ProxyHeader, ProxyReader
from tests.fuzz import invariants

VERSIONS = (Proxy.V1, Proxy.V2, Proxy.ANY)


def fuzz(data: bytes) -> None:
    version = VERSIONS[data[0] % len(VERSIONS)] if data else Proxy.ANY
    data = data[1:]
    whole = _read(version, data, len(data) or 1)
    assert _read(version, data, 1) == whole
    if whole is None or whole is False:
        return
    length, header = whole
    assert length <= MAX_V2
    assert not header.local or header == ProxyHeader(local=True)
    if not header.local:
        _check(header)


def _read(version: Proxy, data: bytes, step: int) -> tuple[int, ProxyHeader] | Literal[False] | None:
    """The length of the header, and what it says; None: malformed; False: not complete."""
    reader = ProxyReader(version)
    try:
        for at in range(0, len(data), step):
            if reader.feed(data[at : at + step]):
                assert data[: at + step].endswith(reader.rest)
                return min(at + step, len(data)) - len(reader.rest), reader.header
    except ProxyError as malformed:
        assert str(malformed).isascii()
        return None
    return False


def _check(header: ProxyHeader) -> None:
    for address, port in ((header.source, header.source_port), (header.destination, header.destination_port)):
        assert str(ipaddress.ip_address(address)) == address
        assert 0 <= port <= 65535
        assert not invariants.is_mapped(address)
    source = ipaddress.ip_address(header.source)
    assert not (source.is_multicast or source.is_unspecified)
