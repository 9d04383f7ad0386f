"""The value of a smarthost: `[PROTOCOL://][LABEL@]HOST[:PORT]`.

mail.example.org                        SMTP, port 25; TLS if the host offers it, never verified
smtp+tls://amy@mail.example.org:587     STARTTLS required and verified, then AUTH with the credentials of `amy`
smtp+notls://192.0.2.1                  never TLS
smtps://amy@mail.example.org            TLS from the first byte, verified; port 465
lmtp://[2001:db8::1]:24                 LMTP, never TLS; the port is needed
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from smtpd.domain_name import ascii_form, normal_address
from smtpd.next_hop import SMARTHOSTS_MAX

HOST_MAX = 255  # characters
LABEL_MAX = 255  # characters of a label, a key of a table of credentials; it may be an address
ADDRESS_MAX = 64  # characters of a numeric address, with the interface of a link-local one

_VALUE = re.compile(
    r"(?:(?P<protocol>[A-Za-z+]+)://)?(?:(?P<label>.*)@)?"
    r"(?:\[(?P<literal>[^\[\]]*)\]|(?P<host>[^\[\]:@/]*))(?::(?P<port>[0-9]{1,5}))?/?"
)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")


class RelayProtocol(StrEnum):
    SMTP = "smtp"
    SMTP_TLS = "smtp+tls"
    SMTP_NOTLS = "smtp+notls"
    SMTPS = "smtps"
    LMTP = "lmtp"


PORTS = {
    RelayProtocol.SMTP: 25,
    RelayProtocol.SMTP_TLS: 25,
    RelayProtocol.SMTP_NOTLS: 25,
    RelayProtocol.SMTPS: 465,
}  # where the value has none
VERIFIED = (RelayProtocol.SMTP_TLS, RelayProtocol.SMTPS)  # protocols whose TLS is required and verified
CLEAR = (RelayProtocol.SMTP_NOTLS, RelayProtocol.LMTP)  # protocols without TLS


class RelayHostError(ValueError):
    """Not a smarthost.  The text does not repeat the label."""


@dataclass(frozen=True)
class RelayHost:
    protocol: RelayProtocol
    host: str  # a name in lower case, as in DNS; or a numeric address, without brackets
    port: int
    label: str = ""  # the key of its credentials; empty: no AUTH
    numeric: bool = False  # `host` is an address: nothing is resolved


def parse_relay_host(text: str) -> RelayHost:
    """Raises RelayHostError."""
    found = _VALUE.fullmatch(text)
    if found is None:
        raise RelayHostError("not [protocol://][label@]host[:port]")
    protocol = _protocol(found["protocol"])
    host, numeric = _host(found["host"], found["literal"])
    label = _label(found["label"], protocol)
    return RelayHost(protocol, host, _port(found["port"], protocol), label, numeric)


def list_faults(hosts: Iterable[RelayHost]) -> Iterator[tuple[int, str]]:
    """What is wrong with a list of smarthosts as a whole: the index of an entry, and a text that shows no label.

    A connection is known by its host and port, so there can be one account only."""
    distinct: set[RelayHost] = set()
    labels: dict[tuple[str, int], str] = {}
    for index, host in enumerate(hosts):
        if host in distinct:
            continue
        distinct.add(host)
        if len(distinct) == SMARTHOSTS_MAX + 1:
            yield index, f"a list has at most {SMARTHOSTS_MAX} hosts: this one and those after it would not be used"
        label = normal_address(host.label)
        if label and labels.setdefault((host.host, host.port), label) != label:
            yield index, f"{host.host} port {host.port} has another label above: this one would not be used"


def without_label(text: str) -> str:
    """A value, valid or not, without its label, in whose place a password may have been written."""
    protocol, separator, rest = text.rpartition("://")
    label, at, host = rest.rpartition("@")
    return f"{protocol}{separator}{'...@' if at else ''}{host}"


def _protocol(text: str | None) -> RelayProtocol:
    try:
        return RelayProtocol("smtp" if text is None else text.lower())
    except ValueError:
        names = ", ".join(RelayProtocol)
        raise RelayHostError(f'unknown protocol "{text}", expected one of {names}') from None


def _label(text: str | None, protocol: RelayProtocol) -> str:
    if text is None:
        return ""
    if not text or len(text) > LABEL_MAX:
        raise RelayHostError(f"the label before @ has {len(text)} characters, expected 1 to {LABEL_MAX}")
    if ":" in text:
        raise RelayHostError("a password does not belong here: expected a label, the key of a table of credentials")
    if protocol not in VERIFIED:
        # RFC 8314: neither a password in the clear, nor one for a host that anybody can pretend to be.
        raise RelayHostError(f"a label requires smtp+tls:// or smtps://: {protocol} would not protect the password")
    return text


def _host(name: str | None, literal: str | None) -> tuple[str, bool]:
    """The host, and whether it is numeric."""
    if literal is not None:
        return _address(literal.removeprefix("IPv6:").removeprefix("ipv6:")), True
    name = ascii_form(name or "")
    if not name:
        raise RelayHostError("the host is missing")
    if name.replace(".", "").isdecimal():
        return _address(name), True
    if len(name) > HOST_MAX or not _NAME.fullmatch(name):
        raise RelayHostError("the host is neither a name nor an address")
    return name, False


def _address(text: str) -> str:
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        address = ""
    if "%" in address:  # its interface would have to be looked up in the dispatcher, whose sandbox forbids that
        raise RelayHostError("a link-local address cannot be used: expected one without an interface")
    if not 1 <= len(address) <= ADDRESS_MAX:
        raise RelayHostError("the host is not a valid address")
    return address


def _port(digits: str | None, protocol: RelayProtocol) -> int:
    if digits is None and protocol not in PORTS:
        raise RelayHostError(f"{protocol} requires a port, as in lmtp://localhost:24")
    port = PORTS[protocol] if digits is None else int(digits)
    if not 1 <= port <= 65535:
        raise RelayHostError(f"port {port} is out of range, expected 1 to 65535")
    return port
