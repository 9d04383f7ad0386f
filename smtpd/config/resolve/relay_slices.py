"""Relay actions of the model -> what a dispatcher and lookup are told of them, and nothing that they need not know.

host, domain, auth          lookup: the tables, with labels and passwords
src, helo-src               dispatcher: the addresses and names in the tables, which are read at the start
backup, srs, srs key        lookup
failover, tls … mail-from   dispatcher, and mta limit
"""

from collections.abc import Iterable

from msgspec.structs import replace

from smtpd.config.build import tls_options
from smtpd.config.check.relay_tables import RelayTables
from smtpd.config.host import Host
from smtpd.config.model import Action, Relay, Srs
from smtpd.relay.mta_sts import HTTPS_PORT
from smtpd.slice import SYSTEM_CA, USUAL_PROTOCOLS, RelayLimits, RelaySlice, RouteSlice, SrsSlice
from smtpd.smtp.srs import DAY_SECONDS

SMTP_PORT = 25  # of MX hosts
# Limits that several dispatchers share: a destination is the matter of one of them; a host, an address of ours, and a
# domain, which is part of a destination of each action, are not.
SHARED_LIMITS = ("max_conn_per_host", "max_conn_per_route", "max_conn_per_source", "max_conn_per_domain")
SHARED_RATES = ("message_rate_per_host", "message_rate_per_source")
SHARED_DELAYS = ("conn_delay_host", "conn_delay_route", "conn_delay_source", "conn_delay_domain", "reconn_delay_route")


def slice_relay(action: Action, host: Host, tables: RelayTables) -> RelaySlice:
    relay = of(action)
    return RelaySlice(
        action.name,
        relay.helo or host.server_name,
        relay.tls,
        USUAL_PROTOCOLS if relay.protocols is None else tls_options.versions(relay.protocols),
        tls_options.cipher_string(relay.ciphers or ""),
        relay.ca or SYSTEM_CA,
        relay.pki or "",
        auth=relay.credentials is not None,
        sources=tables.sources(relay),
        helo_names=tables.helo_names(relay),
        family=relay.family,
        mail_from=relay.mail_from or "",
        failover=relay.failover,
    )


def slice_route(action: Action, host: Host) -> RouteSlice:
    relay = of(action)
    return RouteSlice(
        action.name,
        relay.hosts or "",
        relay.domains or "",
        relay.credentials or "",
        (relay.backup_name or host.server_name) if relay.backup else "",
        relay.srs,
    )


def slice_srs(srs: Srs) -> SrsSlice | None:
    return None if srs.key is None else SrsSlice(srs.key, srs.backup or "", srs.ttl // DAY_SECONDS)


def connect_ports(actions: Iterable[Action], tables: RelayTables) -> tuple[int, ...] | None:
    """The TCP ports that the dispatchers connect to; None: any, as a table that may change names hosts."""
    ports: set[int] = set()
    for relay in map(of, actions):
        if not relay.hosts and not relay.domains:
            ports |= {SMTP_PORT, HTTPS_PORT}
        elif (hosts := tables.fixed_hosts(relay)) is None:
            return None
        else:
            ports |= {host.port for host in hosts}
            if not all(host.numeric for host in hosts):  # RFC 8461 3.4: a smarthost may have a policy too
                ports.add(HTTPS_PORT)
    return tuple(sorted(ports))


def divide_relay_limits(limits: RelayLimits, dispatchers: int) -> RelayLimits:
    """The limits of one dispatcher: those of connections and rates are divided, the pauses between connections
    multiplied.  0 is no limit, and stays so."""
    shared = {key: getattr(limits, key) for key in (*SHARED_LIMITS, *SHARED_RATES)}
    own = {key: whole and max(1, whole // dispatchers) for key, whole in shared.items()}
    return replace(limits, **own, **{key: getattr(limits, key) * dispatchers for key in SHARED_DELAYS})


def of(action: Action) -> Relay:
    """The options of an action that is known to relay."""
    assert action.relay is not None
    return action.relay
