"""The header of the PROXY protocol (HAProxy's proxy-protocol.txt): the address of the client behind a proxy.

    version 1    PROXY TCP4 192.0.2.1 192.0.2.25 4711 25 CRLF        at most 107 bytes
                 PROXY UNKNOWN ... CRLF                              no client: a health check of the proxy

    version 2    signature      12 bytes
                 version, command    0x20 LOCAL, no client;  0x21 PROXY
                 family         0x11 TCP4, 0x21 TCP6, 0x31 a Unix socket
                 length         two bytes, of what follows
                 addresses      source, destination; source port, destination port
                 more           type, length, value; skipped

It comes first, exactly once, before TLS and SMTP.  Any other byte ends the connection: it is not from a proxy.  Not
understood: UDP, the checksum, and what else follows the addresses.
"""

import ipaddress
import re
import struct
from typing import NamedTuple

from smtpd.slice import Proxy
from smtpd.smtp.ip_address import IPAddress, unmapped

MAX_V1 = 107  # bytes, CRLF included
MAX_V2 = 4096  # bytes; certificates of clients may be in there

SIGNATURE_V1 = b"PROXY "
SIGNATURE_V2 = b"\r\n\r\n\0\r\nQUIT\n"

_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|(?P<family>TCP[46]) (?P<source>[0-9A-Fa-f.:]+) (?P<destination>[0-9A-Fa-f.:]+)"
    rb" (?P<source_port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4}))\r\n"
)
_V2 = struct.Struct("!12sBBH")

LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
SIGNATURES = {Proxy.V1: (SIGNATURE_V1,), Proxy.V2: (SIGNATURE_V2,), Proxy.ANY: (SIGNATURE_V1, SIGNATURE_V2)}
VERSIONS = {Proxy.V1: " of version 1", Proxy.V2: " of version 2", Proxy.ANY: ""}

ADDRESSES = {TCP4: struct.Struct("!4s4sHH"), TCP6: struct.Struct("!16s16sHH"), UNIX: struct.Struct("!108s108s")}


class ProxyError(ValueError):
    """Not a PROXY header; the argument says why."""


class ProxyHeader(NamedTuple):
    """`local`: there is no client behind the proxy, or none with an address; the other fields are empty."""

    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    local: bool = False


class ProxyReader:
    """`header`, and `rest`, the bytes after it, are set once `feed` has returned True."""

    def __init__(self, version: Proxy):
        self.header = ProxyHeader()
        self.rest = b""
        self._version = version
        self._held = b""

    def feed(self, data: bytes) -> bool:
        """Whether the header is complete.  Raises ProxyError as soon as it cannot become one."""
        held = self._held = self._held + data
        one = self._signature(held) is SIGNATURE_V1
        length = _maybe_length_v1(held) if one else _maybe_length_v2(held)
        if length is None or len(held) < length:
            return False
        self.header = _read_v1(held[:length]) if one else _read_v2(held[:length])
        self.rest, self._held = held[length:], b""
        return True

    def _signature(self, held: bytes) -> bytes:
        for signature in SIGNATURES[self._version]:
            if signature.startswith(held[: len(signature)]):
                return signature
        raise ProxyError("no PROXY header" + VERSIONS[self._version])


def _maybe_length_v1(held: bytes) -> int | None:
    end = held.find(b"\n", 0, MAX_V1)
    if end < 0 and len(held) >= MAX_V1:
        raise ProxyError("header too long")
    return end + 1 or None


def _read_v1(header: bytes) -> ProxyHeader:
    found = _V1.fullmatch(header)
    if not found:
        raise ProxyError("malformed header")
    if not found["family"]:
        return ProxyHeader(local=True)
    make = ipaddress.IPv4Address if found["family"] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, destination = make(found["source"].decode()), make(found["destination"].decode())
    except ValueError:
        raise ProxyError("malformed address") from None
    return _header(source, int(found["source_port"]), destination, int(found["destination_port"]))


def _maybe_length_v2(held: bytes) -> int | None:
    if len(held) < _V2.size:
        return None
    _, command, family, length = _V2.unpack_from(held)
    if command not in (LOCAL, PROXY):
        raise ProxyError("unknown version or command")
    if command == PROXY and family not in ADDRESSES:
        raise ProxyError("unknown family")
    if command == PROXY and length < ADDRESSES[family].size:
        raise ProxyError("addresses cut short")
    if _V2.size + length > MAX_V2:
        raise ProxyError("header too long")
    return _V2.size + length


def _read_v2(header: bytes) -> ProxyHeader:
    _, command, family, _ = _V2.unpack_from(header)
    if command == LOCAL or family == UNIX:
        return ProxyHeader(local=True)
    make = ipaddress.IPv4Address if family == TCP4 else ipaddress.IPv6Address
    source, destination, source_port, destination_port = ADDRESSES[family].unpack_from(header, _V2.size)
    return _header(make(source), source_port, make(destination), destination_port)


def _header(source: IPAddress, source_port: int, destination: IPAddress, destination_port: int) -> ProxyHeader:
    source = unmapped(source)  # first: ::ffff:224.0.0.1 does not say of itself that it is a multicast address
    if source.is_unspecified or source.is_multicast:
        raise ProxyError("address of no host")
    if max(source_port, destination_port) > 65535:
        raise ProxyError("port out of range")
    return ProxyHeader(str(source), source_port, str(unmapped(destination)), destination_port)
