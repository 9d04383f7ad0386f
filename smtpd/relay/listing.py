"""Pages of what the relay of one dispatcher knows, for administrators: destinations, routes, hosts.

    page(after)  -->  the rows with the next higher keys, at most ROWS_MAX of them and ROW_BYTES_MAX bytes

A page costs one look at the keys of its table, which are bounded (destinations.py, route.py, host.py), and its rows.
A row that comes or goes between two pages is in the list or is not; no other one is left out for it.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from smtpd.envelope import Text
from smtpd.ipc.text_limit import fit_text
from smtpd.relay.connection import OPEN, ConnectionState
from smtpd.relay.connections import Connections
from smtpd.relay.destination import Destination
from smtpd.relay.host import HostKey
from smtpd.relay.host_choice import HostChoice
from smtpd.relay.route import Route
from smtpd.relay.tls_policy import TlsLevel
from smtpd.relay_entry import NEVER, ConnectorEntry, HostEntry, RelayEntry, RouteEntry
from smtpd.slice import RelayTls

ROWS_MAX = 250  # of a page
ROW_BYTES_MAX = 256 * 1024  # of the rows of a page; the last one may go beyond
REASON_MAX = 512  # characters

_encode = msgspec.msgpack.Encoder().encode

PROTOCOLS = {
    TlsLevel.NEVER: "smtp+notls",
    TlsLevel.OPPORTUNISTIC: "smtp",
    TlsLevel.UNVERIFIED: "smtp+tls",
    TlsLevel.VERIFIED: "smtp+tls",
}


def page[K, R](keys: Iterable[K], row: Callable[[K], R]) -> tuple[list[R], bool]:
    """The rows of the first of the sorted `keys`, and whether there are more than these."""
    rows: list[R] = []
    room = ROW_BYTES_MAX
    for key in keys:
        if len(rows) == ROWS_MAX or room <= 0:
            return rows, True
        rows.append(row(key))
        room -= len(_encode(rows[-1]))
    return rows, False


class RelayListing:
    """`after`: the key of the last row of the page before; 0 or empty: none.  An answer says whether there are more."""

    def __init__(self, destinations: Mapping[int, Destination], connections: Connections, choice: HostChoice):
        self._destinations, self._connections, self._choice = destinations, connections, choice

    def relays(self, after: int, now: float) -> tuple[list[RelayEntry], bool]:
        keys = sorted(key for key in self._destinations if key > after)
        return page(keys, lambda key: self._relay(key, self._destinations[key], now))

    def routes(self, after: int, now: float) -> tuple[list[RouteEntry], bool]:
        routes = self._choice.routes.numbers()
        keys = sorted(number for number in routes if number > after)
        return page(keys, lambda number: self._route(number, routes[number], now))

    def hosts(self, after: HostKey, now: float) -> tuple[list[HostEntry], bool]:
        keys = sorted(key for key in self._choice.hosts.known() if key > after)
        return page(keys, lambda key: self._host(key, now))

    def _relay(self, key: int, destination: Destination, now: float) -> RelayEntry:
        connections = self._connections.of(destination)
        sources: dict[str, list[float]] = {}
        for each in connections:
            sources.setdefault(each.path.source, []).append(each.begun_at)
        relay, hop = destination.relay, destination.hops[0] if destination.hops else None
        protocol = "smtp" if relay.tls is RelayTls.OPPORTUNISTIC else "smtp+tls"
        if hop is not None:
            protocol = "lmtp" if hop.lmtp else "smtps" if hop.words.at_connect else PROTOCOLS[hop.words.level]
        delayed = max(0, round(destination.delayed_until - now))
        return RelayEntry(
            key=key,
            action=relay.name,
            domain=destination.domain,
            protocol=protocol,
            port=hop.port if hop is not None else 0,
            helo=relay.helo,
            pki=relay.pki,
            mx=hop is not None and bool(destination.domain) and hop.domain == destination.domain,
            require_tls=destination.require_tls,
            password=hop.password if hop is not None else relay.auth,
            waiting=len(destination.tasks),
            running=sum(each.state is ConnectionState.BUSY for each in connections),
            connections=len(connections),
            connected=_since(destination.connected_at, now),
            delayed=delayed,
            reason=_text(destination.reason if delayed else ""),
            resolving=destination.resolving,
            limited=str(destination.waiting[0]) if destination.waiting else "",
            connectors=[
                ConnectorEntry(source, len(begun), _since(max(begun), now)) for source, begun in sorted(sources.items())
            ],
        )

    def _route(self, number: int, route: Route, now: float) -> RouteEntry:
        facts = self._choice.routes.facts(route)
        host, only = (
            self._choice.hosts.find((route.path.address, route.port)),
            self._destinations.get(route.destination),
        )
        return RouteEntry(
            key=number,
            source=route.path.source,
            address=route.path.address,
            port=route.port,
            host=host.name if host is not None else "",
            destination=(only.domain or only.relay.name) if only is not None else "?" if route.destination else "",
            connections=facts.connections,
            failures=facts.failures,
            worked=facts.worked,
            resting=max(0, round(facts.rest.until - now)) if facts.rest is not None else 0,
            reason=_text(facts.rest.text if facts.rest is not None else ""),
        )

    def _host(self, key: HostKey, now: float) -> HostEntry:
        host = self._choice.hosts.find(key)
        assert host is not None
        return HostEntry(
            address=key[0],
            port=key[1],
            name=host.name,
            references=host.connections + len(host.delayed),
            connections=host.connections,
            concurrency=host.concurrency,
            connected=_since(host.connected_at, now),
        )

    def gauges(self) -> dict[str, int]:
        """How much there is of each kind, under the names of OpenSMTPD's counters."""
        known = [*self._destinations.values()]
        connections = [each for destination in known for each in self._connections.of(destination)]
        return {
            "mta.relay": sum(not destination.is_idle for destination in known),
            "mta.domain": len({each.domain for each in known if each.domain and not each.is_idle}),
            "mta.connector": len({(each.destination, each.path.source) for each in connections}),
            "mta.source": len({each.path.source for each in connections}),
            "mta.route": len(self._choice.routes.numbers()),
            "mta.host": len(self._choice.hosts),
            "mta.session": len(connections),
            "mta.session.open": sum(each.state in OPEN for each in connections),
            "mta.task.running": sum(each.state is ConnectionState.BUSY for each in connections),
        }


def _since(time: float, now: float) -> int:
    return max(0, int(now - time)) if time else NEVER


def _text(text: str) -> str:
    return fit_text(Text, text)[:REASON_MAX]
