"""What a daemon can start with, and what is hardly meant: warnings.

mda wrapper NAME "…"   there is no %{mda} in it, so what it wraps never runs
pki NAME, ca NAME      no listener has it, so its files are not opened
listen … port 465      without smtps, or smtps at a port where clients begin in the clear
"""

from smtpd.config import specifier
from smtpd.config.errors import Report, quoted
from smtpd.config.parser import Parsed
from smtpd.slice import Tls

IMPLICIT_TLS_PORTS = (465,)  # RFC 8314 3.3: clients begin with TLS
STARTTLS_PORTS = (25, 587)  # RFC 3207: they ask for it by STARTTLS


def warn_of_implausible(parsed: Parsed, report: Report) -> None:
    for wrapper in parsed.config.wrappers:
        if specifier.MDA not in specifier.parse(wrapper.command, wrapper=True).names:
            place = parsed.names.wrapper_positions[wrapper.name]
            report.warn(place, f"wrapper {quoted(wrapper.name)} has no %{{mda}}: what it wraps never runs")
    _warn_of_ports(parsed, report)
    _warn_of_certificates(parsed, report)


def _warn_of_ports(parsed: Parsed, report: Report) -> None:
    """A client that waits for TLS, and a server that waits for a word, wait until one of them gives up."""
    for listen, place in zip(parsed.config.listeners, parsed.listener_positions, strict=True):
        if listen.port in IMPLICIT_TLS_PORTS and listen.tls is not Tls.AT_ONCE:
            report.warn(place, f"clients of port {listen.port} begin with TLS, expected smtps")
        elif listen.port in STARTTLS_PORTS and listen.tls is Tls.AT_ONCE:
            report.warn(place, f"clients of port {listen.port} begin without TLS, expected tls or tls-require")


def _warn_of_certificates(parsed: Parsed, report: Report) -> None:
    for kind, declared in (("pki", parsed.config.pki), ("ca", parsed.config.ca)):
        for one in declared:
            if (kind, one.name) not in parsed.names.used:
                place = parsed.names.file_positions[one.name, one.cert]
                report.warn(place, f"no listener has {kind} {quoted(one.name)}: its files are not opened")
