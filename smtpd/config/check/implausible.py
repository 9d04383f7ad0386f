"""Warnings about settings that are valid and probably a mistake.

mda wrapper NAME "…"   without %{mda}: the wrapped command is never run
pki NAME, ca NAME      used by no listener and no action: its files are not read
listen … port 465      without smtps, or smtps at a port where clients begin without TLS
"""

from smtpd.config import specifier
from smtpd.config.errors import Report, quoted
from smtpd.config.parser import Parsed
from smtpd.slice import Tls

IMPLICIT_TLS_PORTS = (465,)  # RFC 8314 3.3: implicit TLS
STARTTLS_PORTS = (25, 587)  # RFC 3207: clients begin in the clear


def warn_of_implausible(parsed: Parsed, report: Report) -> None:
    for wrapper in parsed.config.wrappers:
        if specifier.MDA not in specifier.parse(wrapper.command, wrapper=True).names:
            position = parsed.names.wrapper_positions[wrapper.name]
            report.warn(position, f"wrapper {quoted(wrapper.name)} has no %{{mda}}: the wrapped command is never run")
    _warn_of_ports(parsed, report)
    _warn_of_certificates(parsed, report)


def _warn_of_ports(parsed: Parsed, report: Report) -> None:
    """A client that begins TLS and a server that sends a banner wait for each other until one of them gives up."""
    for listen, position in zip(parsed.config.listeners, parsed.listener_positions, strict=True):
        if listen.port in IMPLICIT_TLS_PORTS and listen.tls is not Tls.AT_ONCE:
            report.warn(position, f"port {listen.port} is for implicit TLS, expected smtps")
        elif listen.port in STARTTLS_PORTS and listen.tls is Tls.AT_ONCE:
            report.warn(position, f"clients of port {listen.port} begin without TLS, expected tls or tls-require")


def _warn_of_certificates(parsed: Parsed, report: Report) -> None:
    for kind, declared in (("pki", parsed.config.pki), ("ca", parsed.config.ca)):
        for one in declared:
            if (kind, one.name) not in parsed.names.used:
                position = parsed.names.file_positions[one.name, one.cert]
                report.warn(position, f"unused {kind} {quoted(one.name)}: no listener and no action names it")
