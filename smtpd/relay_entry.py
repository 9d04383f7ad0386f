"""Rows of what a dispatcher knows of relaying, as smtpctl lists them: relays, routes, hosts, and each domain's status.

    RelayEntry     a destination, with its messages and connections; each of its sources is a ConnectorEntry
    RouteEntry     from one of our addresses to one of a host's
    HostEntry      a numeric address with a port
    DomainEntry    what became of the last mail for a domain

Times are durations in seconds: what has passed, or what is left.
"""

from typing import Annotated

import msgspec

from smtpd.envelope import Seconds, Text, Word

Count = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
KEY_MAX = 2**63 - 1
Key = Annotated[int, msgspec.Meta(ge=0, le=KEY_MAX)]  # of a row: the next page begins behind it; 0: at the beginning
PortOrNone = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]  # 0: not known
NEVER = 2**40  # seconds since something that has not happened


class ConnectorEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The connections of a destination from one of our addresses."""

    source: Word  # empty: the system's choice
    connections: Count
    connected: Seconds  # since the last connect


class RelayEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A destination."""

    key: Key
    action: Word
    domain: Word  # empty: the action sends everything to the same hosts
    protocol: Word  # smtp, smtp+tls, smtp+notls, smtps, lmtp
    port: PortOrNone
    helo: Word
    pki: Word
    mx: bool  # the hosts are those of the domain's MX records
    require_tls: bool  # RFC 8689: these connections are for such mail only
    password: bool  # credentials are sent
    waiting: Count  # messages that no connection has
    running: Count  # messages that a connection has
    connections: Count
    connected: Seconds  # since the last connect
    delayed: Seconds  # until it is tried again; 0: it is not delayed
    reason: Text  # of the delay
    resolving: bool  # its hosts are being looked up
    limited: Word  # the limit that is full; empty: none
    connectors: list[ConnectorEntry]


class RouteEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    key: Key  # smtpctl resume route
    source: Word  # empty: the system's choice
    address: Word
    port: PortOrNone
    host: Word  # its name; empty: it is not known
    destination: Word  # the only one that it has failed for; empty: all
    connections: Count
    failures: Count  # in a row
    worked: bool  # a message was taken since it began, or has failed last
    resting: Seconds  # until it is tried again; 0: it may be used
    reason: Text  # of the last failure


class HostEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    address: Word
    port: PortOrNone
    name: Word  # the last that it was connected to by; empty: it is not known
    references: Count  # connections, and destinations that wait until it can be reached
    connections: Count
    concurrency: Count  # connections that it bears, as far as is known
    connected: Seconds  # since the last connect


class DomainEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    domain: Word  # of the recipients; of a delayed destination its name
    time: Seconds  # since 1970
    status: Text
