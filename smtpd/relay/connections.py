"""The connections of one dispatcher to other hosts: begun within the limits, and forgotten when they have ended."""

from collections.abc import Iterator

from smtpd.relay.action import Connect, Note, RelayAction
from smtpd.relay.address_order import Path
from smtpd.relay.connection import OPEN, Attempt, Connection, ConnectionState
from smtpd.relay.destination import Destination, NextHop
from smtpd.relay.host import Hosts, host_group
from smtpd.relay.limit import Blocked, Key, Limits, MessageRate, Place
from smtpd.relay.route import Routes

# Of one dispatcher, to all hosts: a user who sends to thousands of domains of silent hosts takes no descriptor that a
# client needs.  Idle ones end at once where another destination waits.
CONNECTIONS_MAX = 2000
RESOURCES_PAUSE = 5.0  # seconds without a new connection after the system had no descriptor or memory for one
_ALL = ("all",)


class Connections:
    def __init__(self, hosts: Hosts, routes: Routes, actions: list[RelayAction]):
        self._hosts, self._routes, self._actions = hosts, routes, actions
        self._connections: dict[int, Connection] = {}
        self._made = 0
        self.places = Limits()
        self.rates = MessageRate()

    def __len__(self) -> int:
        return len(self._connections)

    def find(self, number: int) -> Connection | None:
        return self._connections.get(number)

    def get(self, number: int) -> Connection:
        return self._connections[number]

    def of(self, destination: Destination) -> list[Connection]:
        return [self._connections[number] for number in sorted(destination.connections)]

    def count_to(self, destination: Destination, hop: NextHop) -> int:
        return sum(each.hop.name == hop.name for each in self.of(destination))

    def connect(self, attempt: Attempt, destination: Destination, now: float) -> Connection | Blocked | None:
        """Connect over the first path that the limits allow; None: there is no path."""
        blocked: Blocked | None = None
        for path in list(attempt.paths):
            number = self._made + 1
            host = self._hosts.get((path.address, attempt.hop.port))
            places = _places_for(destination, path, attempt.hop.port, host.concurrency)
            found = self.places.take(number, places, now)
            if found is not None:
                blocked = blocked or found
                continue
            self._made = number
            attempt.paths.remove(path)
            connection = Connection(number, destination.key, path, places, attempt, begun_at=now)
            self._connections[number] = connection
            attempt.connections.add(number)
            destination.connections.add(number)
            destination.ticket = 0
            destination.connected_at = now
            host.connections += 1
            host.name, host.connected_at = attempt.hop.host.name, now
            self._routes.opened(connection.route)
            self._actions.append(Connect(number, destination.number, attempt.hop, path, attempt.policy))
            return connection
        return blocked

    def remove(self, connection: Connection, destination: Destination, now: float) -> None:
        host = self._hosts.get(connection.host_key)
        host.connections -= 1
        host.working -= connection.state in (*OPEN, ConnectionState.QUITTING)
        connection.attempt.connections.discard(connection.number)
        connection.enter(ConnectionState.GONE)
        destination.connections.discard(connection.number)
        del self._connections[connection.number]
        self._routes.closed(connection.route)
        self.places.release(connection.number, connection.places, now)

    def pause(self, text: str, now: float) -> None:
        """This system has no descriptor or memory for a connection: begin none for a while, to any host."""
        if self.places.pause(_ALL, now + RESOURCES_PAUSE, now):
            self._actions.append(Note(f"{text}: no new connection for {RESOURCES_PAUSE:.0f} s"))

    def others_wait(self, connection: Connection) -> bool:
        """Whether another destination waits for one of its places."""
        return self.places.others_wait(connection.places, connection.destination)

    def holders(self, key: Key) -> Iterator[Connection]:
        """The connections that have a place of this limit, in the order of their begin; valid until one comes or goes.
        There may be CONNECTIONS_MAX of them."""
        return map(self.get, self.places.holders(key))


def _places_for(destination: Destination, path: Path, port: int, concurrency: int) -> tuple[Place, ...]:
    limits, number = destination.limits, destination.number
    concurrency = min(concurrency, limits.max_conn_per_host)
    places = [
        Place(("host", path.address, port), concurrency, limits.conn_delay_host),
        Place(
            ("route", path.source, path.address, port),
            limits.max_conn_per_route,
            limits.conn_delay_route,
            limits.reconn_delay_route,
        ),
        Place(("connector", path.source, number), limits.max_conn_per_connector, limits.conn_delay_connector),
        Place(("relay", number), limits.max_conn_per_relay, limits.conn_delay_relay),
    ]
    if path.source:
        places.append(Place(("source", path.source), limits.max_conn_per_source, limits.conn_delay_source))
    if destination.domain:
        places.append(Place(("domain", destination.domain), limits.max_conn_per_domain, limits.conn_delay_domain))
    return (*places, Place(_ALL, CONNECTIONS_MAX))


def rates_of(connection: Connection, destination: Destination) -> list[tuple[Key, int]]:
    limits = destination.limits
    if not (limits.message_rate or limits.message_rate_per_host or limits.message_rate_per_source):
        return []
    rates: list[tuple[Key, int]] = [
        (("messages", "relay", destination.number), limits.message_rate),
        (("messages", "host", host_group(connection.hop.name)), limits.message_rate_per_host),
        (("messages", "source", connection.path.source), limits.message_rate_per_source),
    ]
    return [(key, rate) for key, rate in rates if rate]
