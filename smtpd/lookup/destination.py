"""The name of a destination: a domain, or the address of a host.

    there.test, Müller.test     Domain("there.test"), Domain("xn--mller-kva.test")
    [192.0.2.1]                 HostAddress("192.0.2.1")        RFC 5321 4.1.3
    [IPv6:2001:db8::1]          HostAddress("2001:db8::1")
    192.0.2.1, fe80::1%eth0     HostAddress for a smarthost; no domain of recipients

Also which addresses are no other host's, whatever the DNS says.
"""

import ipaddress
from dataclasses import dataclass

from smtpd.domain_name import ascii_form
from smtpd.lookup.resolver_config import is_host_name

LOCALHOST = "localhost"
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122 3.2.1.3
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291 2.5.5.1
_BROADCAST = ipaddress.ip_address("255.255.255.255")


@dataclass(frozen=True)
class NoHosts:
    """Why there is no host to connect to, as a reply: 5xx for good, 4xx for now."""

    code: int
    enhanced: str
    text: str

    def temporary(self) -> "NoHosts":
        """The same for now, where the configuration is wrong and not the recipient: a smarthost."""
        return NoHosts(451, f"4{self.enhanced[1:]}", self.text)


@dataclass(frozen=True)
class Domain:
    name: str  # in ASCII, lower case, without a final dot


@dataclass(frozen=True)
class HostAddress:
    address: str  # canonical text


def read_destination(name: str, mx: bool) -> Domain | HostAddress | NoHosts:
    """`mx`: the domain of recipients; else a smarthost, which may be a bare address."""
    if name.startswith("[") and name.endswith("]"):
        literal = _literal(name[1:-1], mx)
        return literal or NoHosts(550, "5.1.2", f"{name} is no valid address literal")
    if not mx and (bare := _literal(name, mx)):
        return bare
    domain = ascii_form(name)  # IDNA 2008, as in RFC 6531 3.2: ß is not ss
    if not is_host_name(domain):
        return NoHosts(550, "5.1.2", f"{name} is no domain name")
    return loop(domain, "it is this host") if mx and is_localhost(domain) else Domain(domain)


def _literal(text: str, mx: bool) -> HostAddress | None:
    tag, colon, rest = text.partition(":")
    tagged = bool(colon) and tag.lower() == "ipv6"
    try:
        address = ipaddress.ip_address(rest if tagged else text)
    except ValueError:
        return None
    foreign = mx and "%" in text  # an interface of this host
    return None if foreign or (tagged and address.version == 4) else HostAddress(str(address))


def loop(domain: str, why: str) -> NoHosts:
    return NoHosts(550, "5.4.6", f"mail for {domain} loops back to this host: {why}")


def is_localhost(name: str) -> bool:
    """RFC 6761 6.3: localhost and all names below it."""
    return name == LOCALHOST or name.endswith(f".{LOCALHOST}")


def address_fault(text: str, named_here: bool = False) -> str:
    """Why no mail for another host goes to this address; empty if it may.  `named_here`: by the configuration or the
    hosts file of this host, which may name a program on this host."""
    address = ipaddress.ip_address(text)
    if "%" in text:
        return "an address of one interface"  # which the dispatcher's sandbox does not let it look up
    if named_here and address.is_loopback:
        return ""
    if is_this_host(text):
        return "an address of this host"
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address in _COMPATIBLE):
        return "an IPv4 address as one of IPv6"
    if address.is_multicast or address == _BROADCAST:
        return "an address of many hosts"
    return "a link-local address" if address.is_link_local else ""


def is_this_host(text: str) -> bool:
    """Whether an address means this host, on every host: loopback, or none at all, which connect(2) takes for it."""
    address = ipaddress.ip_address(text)
    return address.is_loopback or address.is_unspecified or address in _THIS_NETWORK
