"""What a daemon can start with, and what is hardly meant: warnings.

mda wrapper NAME "…"   there is no %{mda} in it, so what it wraps never runs
listen … port 465      without smtps, or smtps at a port where clients begin in the clear
"""

from smtpd.config import specifier
from smtpd.config.error import Report, quoted
from smtpd.config.model import Tls
from smtpd.config.parser import Parsed

AT_ONCE = (465,)  # RFC 8314 3.3: clients begin with TLS
IN_CLEAR = (25, 587)  # RFC 3207: they ask for it by STARTTLS


def warn(parsed: Parsed, report: Report) -> None:
    for wrapper in parsed.config.wrappers:
        if specifier.MDA not in specifier.parse(wrapper.command, wrapper=True).names:
            place = parsed.names.wrapper_places[wrapper.name]
            report.warn(place, f"wrapper {quoted(wrapper.name)} has no %{{mda}}: what it wraps never runs")
    _warn_of_ports(parsed, report)


def _warn_of_ports(parsed: Parsed, report: Report) -> None:
    """A client that waits for TLS, and a server that waits for a word, wait until one of them gives up."""
    for listen, place in zip(parsed.config.listeners, parsed.listener_places, strict=True):
        if listen.port in AT_ONCE and listen.tls is not Tls.AT_ONCE:
            report.warn(place, f"clients of port {listen.port} begin with TLS, expected smtps")
        elif listen.port in IN_CLEAR and listen.tls is Tls.AT_ONCE:
            report.warn(place, f"clients of port {listen.port} begin without TLS, expected tls or tls-require")
