"""XCLIENT: what is taken fits what the session says of a client, and can be said again.

data    UTF-8, the argument
"""

import ipaddress

from smtpd.envelope import UNKNOWN_NAME, MailParameters, Notify, Origin
from smtpd.smtp.address import parse_domain
from smtpd.smtp.question import RecipientQuestion
from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.xclient_attributes import UNAVAILABLE, XclientOverrides, parse_xclient
from tests.fuzz import invariants


def fuzz(data: bytes) -> None:
    try:
        argument = data.decode()
    except UnicodeDecodeError:
        return
    try:
        said = parse_xclient(argument)
    except CommandRefused as refused:
        invariants.check_refusal(refused)
        return
    _check(said)
    if (said.login or "").upper() not in UNAVAILABLE:  # a name that SASLprep made so cannot be said
        assert parse_xclient(_printed(said)) == said


def _check(said: XclientOverrides) -> None:
    assert said.protocol in (None, "SMTP", "ESMTP")
    for port in (said.port, said.destination_port):
        assert port is None or 0 <= port <= 65535
    for address in (said.address, said.destination):
        assert not address or str(ipaddress.ip_address(address)) == address
        assert not address or not invariants.is_mapped(address)
    assert said.address != ""
    assert said.name in (None, UNKNOWN_NAME) or parse_domain(said.name) == said.name
    origin = Origin("", said.address or "", said.name or "", said.helo or "", "", "", True, user=said.login or "")
    invariants.check_question(RecipientQuestion(1, origin, "bob@here.test", MailParameters(), Notify(0), ""))


def _printed(said: XclientOverrides) -> str:
    values = [
        ("NAME", "[UNAVAILABLE]" if said.name == UNKNOWN_NAME else said.name),
        ("ADDR", said.address and ("IPV6:" if ":" in said.address else "") + said.address),
        ("PORT", said.port),
        ("PROTO", said.protocol),
        ("HELO", said.helo),
        ("LOGIN", said.login),
        ("DESTADDR", said.destination and ("IPV6:" if ":" in said.destination else "") + said.destination),
        ("DESTPORT", said.destination_port),
    ]
    return " ".join(f"{name}={_xtext(str(value))}" for name, value in values if value is not None)


def _xtext(value: str) -> str:
    return "".join(f"+{byte:02X}" for byte in (value or "[UNAVAILABLE]").encode())
