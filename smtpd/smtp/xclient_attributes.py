"""Attributes of XCLIENT, as Postfix has it: what a trusted proxy says of its client.

    XCLIENT NAME=mail.there.test ADDR=192.0.2.1 PORT=4711 PROTO=ESMTP HELO=there.test LOGIN=amy

    NAME       a host name                                       [UNAVAILABLE], [TEMPUNAVAIL]: "<unknown>"
    ADDR       192.0.2.1, IPV6:2001:db8::1                       required: rules need it
    PORT       0 to 65535                                        [UNAVAILABLE]: 0
    PROTO      SMTP, ESMTP
    HELO       what the client called itself                     [UNAVAILABLE]: empty
    LOGIN      the user that it has authenticated as             [UNAVAILABLE]: empty, not authenticated
    DESTADDR   as ADDR; the address that it connected to         [UNAVAILABLE]: empty
    DESTPORT   as PORT

Values are xtext (RFC 3461 4); names, and words in brackets, are read in any case.  DESTADDR and DESTPORT change
nothing: the server's own name, which `hostnames` has by address, was in the banner.  Whether the proxy may send XCLIENT
is checked by xclient.py.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from smtpd.envelope import UNKNOWN_NAME
from smtpd.smtp import sasl, xtext
from smtpd.smtp.address import AddressError, parse_domain
from smtpd.smtp.ip_address import unmapped
from smtpd.smtp.reply import CommandRefused

UNAVAILABLE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")

_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


class XclientOverrides(NamedTuple):
    """None: not said, the value stays as it was."""

    name: str | None = None
    address: str | None = None
    port: int | None = None
    protocol: str | None = None  # "SMTP" or "ESMTP"
    helo: str | None = None
    login: str | None = None
    destination: str | None = None
    destination_port: int | None = None


def parse_xclient(argument: str) -> XclientOverrides:
    """Raises CommandRefused.  With another address the name and port of the one before are forgotten."""
    said: dict[str, str | int] = {}
    for attribute in filter(None, argument.split(" ")):
        word, _, value = attribute.partition("=")
        if word.upper() not in _ATTRIBUTES:
            raise CommandRefused(501, "5.5.4", "Unknown XCLIENT attribute")
        field, read = _ATTRIBUTES[word.upper()]
        if field in said:
            raise CommandRefused(501, "5.5.4", f"{word.upper()} given twice")
        try:
            said[field] = read(xtext.decode(value))
        except (ValueError, CommandRefused):
            raise CommandRefused(501, "5.5.4", f"Bad value of {word.upper()}") from None
    if not said:
        raise CommandRefused(501, "5.5.4", "Syntax: XCLIENT name=value ...")
    forgotten: dict[str, str | int] = {"name": UNKNOWN_NAME, "port": 0} if "address" in said else {}
    return XclientOverrides(**forgotten | said)  # type: ignore[arg-type]


def _name(text: str) -> str:
    if _is_unavailable(text):
        return UNKNOWN_NAME
    if text.startswith("["):
        raise AddressError("no host name")
    return _helo(text)


def _helo(text: str) -> str:
    if _is_unavailable(text):
        return ""
    if not text.isascii():
        raise AddressError("not ASCII")
    return parse_domain(text)


def _address(text: str) -> str:
    if text[:5].upper() == "IPV6:":
        if "%" in text:
            raise AddressError("a scope means nothing here")
        return str(unmapped(ipaddress.IPv6Address(text[5:])))
    return str(ipaddress.IPv4Address(text))


def _destination(text: str) -> str:
    return "" if _is_unavailable(text) else _address(text)


def _port(text: str) -> int:
    if _is_unavailable(text):
        return 0
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise ValueError("no port")
    return int(text)


def _protocol(text: str) -> str:
    if text.upper() not in ("SMTP", "ESMTP"):
        raise ValueError("no protocol")
    return text.upper()


def _login(text: str) -> str:
    return "" if _is_unavailable(text) else sasl.user_name(text.encode())


def _is_unavailable(text: str) -> bool:
    return text.upper() in UNAVAILABLE


_ATTRIBUTES: dict[str, tuple[str, Callable[[str], str | int]]] = {
    "NAME": ("name", _name),
    "ADDR": ("address", _address),
    "PORT": ("port", _port),
    "PROTO": ("protocol", _protocol),
    "HELO": ("helo", _helo),
    "LOGIN": ("login", _login),
    "DESTADDR": ("destination", _destination),
    "DESTPORT": ("destination_port", _port),
}
ATTRIBUTES = " ".join(_ATTRIBUTES)  # as EHLO names them
