"""Options of relay actions that are valid and have no effect.

failover     where the list has one host
helo-src     without src, or with none of its addresses: a connection that the system chooses the address of says `helo`
ciphers      where TLS 1.3 alone is allowed: its cipher suites are not in this list
"""

from smtpd.config.build import tls_options
from smtpd.config.check.relay_tables import RelayTables
from smtpd.config.errors import Report, quoted
from smtpd.config.model import Relay
from smtpd.config.parser import Parsed


def warn_of_ineffective_options(parsed: Parsed, tables: RelayTables, report: Report) -> None:
    for action in parsed.config.actions:
        if action.relay is None:
            continue
        position = parsed.names.relay_positions[action.name]
        for option, why in _ineffective(action.relay, tables):
            report.warn(position, f"{quoted(option)} is without effect: {why}")


def _ineffective(relay: Relay, tables: RelayTables) -> list[tuple[str, str]]:
    found = []
    hosts = tables.fixed_hosts(relay) if relay.hosts else None
    if relay.failover and hosts is not None and len(hosts) == 1:
        found.append(("failover", "there is one host"))
    if relay.helo_names and not relay.sources:
        found.append(("helo-src", "there is no src, whose addresses it has names for"))
    elif names := tables.helo_names(relay):
        sources = tables.sources(relay)
        if sources and not names.keys() & set(sources):
            found.append(("helo-src", "it has no address of src"))
    if relay.ciphers and relay.protocols and tls_options.versions(relay.protocols) == ("TLSv1.3",):
        found.append(("ciphers", "it is for TLS 1.2 and earlier, and protocols allows TLS 1.3 only"))
    return found
