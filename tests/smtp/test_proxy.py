"""PROXY headers: each form that there is, whole and byte by byte, and that nothing else passes for one."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.slice import Proxy
from smtpd.smtp.proxy import MAX_V2, SIGNATURE_V2, ProxyError, ProxyHeader, ProxyReader

FOUR = bytes([192, 0, 2, 1, 192, 0, 2, 25]) + struct.pack("!HH", 4711, 25)
SIX = bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000019") + struct.pack("!HH", 4711, 25)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")

CLIENT = ProxyHeader("192.0.2.1", 4711, "192.0.2.25", 25)
CLIENT6 = ProxyHeader("2001:db8::1", 4711, "2001:db8::19", 25)
NOBODY = ProxyHeader(local=True)


def v2(command: int, family: int, body: bytes, *, length: int | None = None) -> bytes:
    return SIGNATURE_V2 + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def read(version: Proxy, *pieces: bytes) -> tuple[ProxyHeader, bytes] | None:
    """Header and rest; None while it is not complete."""
    reader = ProxyReader(version)
    for n, piece in enumerate(pieces):
        if reader.feed(piece):
            return reader.header, reader.rest + b"".join(pieces[n + 1 :])
    return None


def outcome(version: Proxy, *pieces: bytes):
    try:
        return read(version, *pieces)
    except ProxyError as malformed:
        return str(malformed)


def bytewise(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


@pytest.mark.parametrize("behind", [b"", b"EHLO there.test\r\n", b"\x16\x03\x01", b"PROXY TCP4 192.0.2.9"])
@pytest.mark.parametrize(
    "data, header",
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\n", CLIENT),
        (b"PROXY TCP6 2001:db8::1 2001:DB8:0::19 4711 25\r\n", CLIENT6),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.25 4711 25\r\n", CLIENT),
        (b"PROXY TCP4 192.0.2.1 192.0.2.25 0 65535\r\n", CLIENT._replace(source_port=0, destination_port=65535)),
        (b"PROXY UNKNOWN\r\n", NOBODY),
        (b"PROXY UNKNOWN 192.0.2.1 whatever 1 2\r\n", NOBODY),
        (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", NOBODY),
    ],
)
def test_version_1(data, header, behind):
    for version in (Proxy.V1, Proxy.ANY):
        assert read(version, data + behind) == (header, behind)
        assert read(version, *bytewise(data + behind)) == (header, behind)
    assert outcome(Proxy.V2, data) == "no PROXY header of version 2"


@pytest.mark.parametrize("behind", [b"", b"EHLO there.test\r\n", SIGNATURE_V2])
@pytest.mark.parametrize(
    "data, header",
    [
        (v2(0x21, 0x11, FOUR), CLIENT),
        (v2(0x21, 0x21, SIX), CLIENT6),
        (v2(0x21, 0x21, bytes(10) + b"\xff\xff" + FOUR[:4] + bytes(10) + b"\xff\xff" + FOUR[4:]), CLIENT),
        (v2(0x21, 0x11, FOUR + b"\x01\x00\x02h2" + b"\x20\x00\x01x"), CLIENT),
        (v2(0x21, 0x31, UNIX), NOBODY),
        (v2(0x20, 0x00, b""), NOBODY),
        (v2(0x20, 0x11, FOUR), NOBODY),
        (v2(0x20, 0xFF, b"junk"), NOBODY),
        (v2(0x21, 0x11, FOUR + bytes(MAX_V2 - 16 - 12)), CLIENT),
    ],
)
def test_version_2(data, header, behind):
    for version in (Proxy.V2, Proxy.ANY):
        assert read(version, data + behind) == (header, behind)
        assert read(version, *bytewise(data + behind)) == (header, behind)
    assert outcome(Proxy.V1, data) == "no PROXY header of version 1"


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO there.test\r\n",
        b"P\r\n",
        b"PROXYTCP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b" PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"\r\nPROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 192.0.2.1  192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25 7\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 04711 25\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 -1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 +25\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 0x19\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 192.2.1 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 0.0.0.0 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 224.0.0.1 192.0.2.25 4711 25\r\n",
        b"PROXY TCP6 ::ffff:224.0.0.1 2001:db8::19 4711 25\r\n",  # nor as an IPv6 address
        b"PROXY TCP6 ::ffff:0.0.0.0 2001:db8::19 4711 25\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::19 4711 25\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"PROXY TCP6 fe80::1%em0 2001:db8::19 4711 25\r\n",
        b"PROXY TCP6 2001:db8::1::2 2001:db8::19 4711 25\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.25 4711 25\r\n",
        b"PROXY UNKNOWN\0\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        b"PROXY \r\n",
        v2(0x21, 0x11, FOUR[:-1]),
        v2(0x21, 0x21, FOUR),
        v2(0x21, 0x31, UNIX[:-1]),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x01, FOUR),
        v2(0x21, 0x12, FOUR),
        v2(0x21, 0x32, UNIX),
        v2(0x21, 0x11, bytes(4) + FOUR[4:]),
        v2(0x21, 0x21, b"\xff\x02" + SIX[2:]),
        v2(0x22, 0x11, FOUR),
        v2(0x11, 0x11, FOUR),
        v2(0x31, 0x11, FOUR),
        v2(0x20, 0x00, b"", length=0xFFFF),
        v2(0x21, 0x11, FOUR + bytes(MAX_V2 - 16 - 11)),
        b"\r\n\r\n\0\r\nQUIT\r" + b"\x21\x11" + struct.pack("!H", 12) + FOUR,
        b"x" + v2(0x21, 0x11, FOUR),
    ],
)
def test_what_is_none_is_refused(data):
    for version in Proxy:
        assert isinstance(outcome(version, data), str)
        assert isinstance(outcome(version, *bytewise(data)), str)


def test_a_client_that_speaks_past_the_proxy_is_refused_at_its_first_byte():
    for version in Proxy:
        assert outcome(version, b"E").startswith("no PROXY header")


def test_an_endless_header_is_not_held():
    assert outcome(Proxy.ANY, b"PROXY UNKNOWN " + b"x" * 93) == "header too long"
    assert outcome(Proxy.ANY, v2(0x20, 0, b"", length=MAX_V2 - 15)) == "header too long"


@pytest.mark.parametrize("data", [b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\n", v2(0x21, 0x11, FOUR + b"\x04\0\0")])
def test_a_header_that_is_cut_short_is_waited_for(data):
    for end in range(len(data)):
        assert read(Proxy.ANY, data[:end]) is None


PIECES = st.sampled_from(
    [
        SIGNATURE_V2,
        b"\x21\x11\0\x0c",
        b"\x20\0\0\0",
        b"\x21\x21\0\x24",
        FOUR,
        SIX,
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"192.0.2.1 ",
        b"::1 ",
        b"25",
        b" ",
        b"\r\n",
        b"\0",
        b"0",
    ]
)


@settings(max_examples=200)
@given(st.one_of(st.lists(PIECES, max_size=10).map(b"".join), st.binary(max_size=40)), st.sampled_from(Proxy))
def test_pieces_make_no_difference(data, version):
    assert outcome(version, *bytewise(data)) == outcome(version, data)
