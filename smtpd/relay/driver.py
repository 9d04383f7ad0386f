"""What is done for a destination when something has happened to it: tasks for connections, connections for tasks.

    1  idle connections get tasks
    2  while there are tasks for more, connections are opened: the hosts of the best rank first, among them the one with
       the fewest connections; its paths in the order of address_order.py, those that rest left out
    3  a full limit means waiting, not the next rank
    4  no host left and no connection either: the destination is delayed, and its tasks are returned untried

So a destination that is dead costs, however much mail there is for it, one look at its hosts each time that the delay
is over.

A connection belongs to one destination, and is kept for its next message: the last one for session-keepalive, others
for SPARE_TIME, as mail that comes singly would open a connection for each message.  The oldest one gets the next
message, so that those too many end.  It ends sooner where another destination waits for its place: at once when it is
idle, after SHARE_MESSAGES when it is not.
"""

import heapq
from collections.abc import Mapping
from itertools import groupby

from smtpd.relay.action import Give, Quit, RelayAction, Resolve
from smtpd.relay.address_order import RACE_DELAY
from smtpd.relay.connection import OPEN, Attempt, Connection, ConnectionState
from smtpd.relay.connections import Connections, rates_of
from smtpd.relay.delay import Delays
from smtpd.relay.destination import Destination
from smtpd.relay.host_choice import HostChoice
from smtpd.relay.limit import Blocked
from smtpd.relay.tls_policy import HostRefused

SHARE_MESSAGES = 10  # of a connection whose place another destination waits for
SPARE_TIME = 2.0  # seconds that a connection without a message stays open beside another one (that of Postfix's cache)


class Driver:
    """`actions` is where it puts what is to be done."""

    def __init__(
        self,
        destinations: Mapping[int, Destination],
        connections: Connections,
        choice: HostChoice,
        delays: Delays,
        actions: list[RelayAction],
    ):
        self._destinations, self._connections, self._choice = destinations, connections, choice
        self._delays, self._actions = delays, actions
        self.stopping = False
        self._tickets = 0
        self._timers: list[tuple[float, int]] = []  # a heap: when to look at a connection

    # -- time ---------------------------------------------------------------------------------------

    def look_at_connections(self, now: float) -> None:
        """At those whose time has come."""
        while self._timers and self._timers[0][0] <= now:
            time, number = heapq.heappop(self._timers)
            connection = self._connections.find(number)
            if connection is None or connection.look_at != time:
                continue
            connection.look_at = None
            destination = self._destinations[connection.destination]
            if connection.state is ConnectionState.CONNECTING:
                self.next_path(connection.attempt, destination, now)
            elif connection.state is ConnectionState.IDLE:
                self.proceed(connection, now)

    def next_look(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def look_again(self, connection: Connection, time: float) -> None:
        """At `time`, or sooner: a message pushes no timer while there is one to look at when it is due."""
        if connection.look_at is None or time < connection.look_at:
            connection.look_at = time
            heapq.heappush(self._timers, (time, connection.number))

    # -- a destination, after anything has happened -------------------------------------------------

    def drive(self, destination: Destination, now: float) -> None:
        """Give tasks to idle connections, open connections, or find that nothing is to be done."""
        if not destination.tasks:
            self._stop_waiting(destination, now)
            return
        if now < destination.delayed_until:
            self._delays.repeat(destination)
            return
        if destination.refusal is not None and now < destination.hops_until:
            self._delays.fail(destination, destination.refusal)
            return
        for connection in self._connections.of(destination):
            idle = connection.state is ConnectionState.IDLE and now >= connection.not_before
            if idle and destination.tasks and not self._give(connection, destination, now):
                break
        if destination.waiting is None:
            self._open_connections(destination, now)

    def _open_connections(self, destination: Destination, now: float) -> None:
        if destination.tasks and not (destination.hops and now < destination.hops_until):
            if not any(each.resolving for each in both(self._destinations, destination.number)):
                self._actions.append(Resolve(destination.number, destination.failures > 0))
            destination.resolving = True
            return
        while self._wants_connection(destination):
            refusals: list[HostRefused] = []
            if not self._open_connection(destination, refusals, now):
                if destination.waiting is None and not destination.connections:
                    self._delays.unreachable(destination, refusals, now)
                return

    def _wants_connection(self, destination: Destination) -> bool:
        """Whether there are more tasks than the connections will do: two of them at once, others when there is mail for
        twice as many (the reference's rule)."""
        connections = self._connections.of(destination)
        beginning = sum(each.state in (ConnectionState.CONNECTING, ConnectionState.GREETING) for each in connections)
        useful = sum(each.state is not ConnectionState.QUITTING for each in connections)
        waiting = len(destination.tasks)
        if waiting <= beginning:
            return False
        return useful < 2 or 2 * useful <= waiting

    def _open_connection(self, destination: Destination, refusals: list[HostRefused], now: float) -> bool:
        """Begin to connect to the best host that may be used.  False: there is none, or a limit is full."""
        for _, level in groupby(destination.hops, key=lambda hop: hop.rank):
            blocked: Blocked | None = None
            for hop in sorted(level, key=lambda hop: self._connections.count_to(destination, hop)):
                policy = self._choice.policy(destination, hop, now)
                if isinstance(policy, HostRefused):
                    refusals.append(policy)
                    continue
                paths = self._choice.paths(destination, hop, refusals, now)
                attempt = Attempt(hop, policy, paths)
                found = self._connect(attempt, destination, now)
                if isinstance(found, Connection):
                    return True
                blocked = blocked or found
            if blocked is not None:  # the next rank is for hosts that fail, not for those that are busy
                self._wait(destination, blocked, now)
                return False
        return False

    def _connect(self, attempt: Attempt, destination: Destination, now: float) -> Connection | Blocked | None:
        found = self._connections.connect(attempt, destination, now)
        if isinstance(found, Connection) and attempt.paths:
            self.look_again(found, now + RACE_DELAY)
        return found

    def next_path(self, attempt: Attempt, destination: Destination, now: float) -> None:
        """Try the next address of a host: the one before has failed, or takes its time."""
        if self.stopping or not destination.tasks:
            return
        rest = self._choice.rest
        attempt.paths = [path for path in attempt.paths if rest(destination, attempt.hop, path, now) is None]
        self._connect(attempt, destination, now)

    # -- a connection that may have a task ----------------------------------------------------------

    def proceed(self, connection: Connection, now: float) -> None:
        """An idle connection: give it a task, keep it for the next one, or end it."""
        destination = self._destinations[connection.destination]
        limits = destination.limits
        if self._is_used_up(connection, destination):
            self._stop_waiting(destination, now)
            destination.ticket = 0  # it has had its share: others that wait come first
            self.end(connection, now)
            self.drive(destination, now)
            return
        may_give = now >= max(connection.not_before, destination.delayed_until)
        if destination.tasks and may_give and self._give(connection, destination, now):
            return
        keep_time: float = limits.session_keepalive
        if not destination.tasks and any(
            each is not connection and each.state in OPEN for each in self._connections.of(destination)
        ):
            keep_time = min(keep_time, SPARE_TIME)
        keep_until = max(connection.idle_since + keep_time, connection.not_before)
        if now >= keep_until or self._connections.others_wait(connection):
            self.end(connection, now)
        else:
            self.look_again(connection, connection.not_before if now < connection.not_before else keep_until)

    def _is_used_up(self, connection: Connection, destination: Destination) -> bool:
        limits = destination.limits
        return (
            self.stopping
            or connection.address_refused
            or connection.messages >= limits.session_mail_max
            or connection.refused >= limits.max_failures_per_session
            or (connection.messages >= SHARE_MESSAGES and self._connections.others_wait(connection))
            or self._is_too_many(connection)
            or self._choice.is_paused(connection.path, destination)
        )

    def _is_too_many(self, connection: Connection) -> bool:
        """Whether the host bears fewer connections than are open and not about to end."""
        host = self._choice.hosts.get(connection.host_key)
        if host.connections <= host.concurrency:
            return False
        holders = self._connections.holders(("host", *connection.host_key))
        return sum(each.state in OPEN for each in holders) > host.concurrency

    def _give(self, connection: Connection, destination: Destination, now: float) -> bool:
        """Give the first task to an idle connection.  False: a rate does not allow it now."""
        rates = rates_of(connection, destination)
        for key, rate in rates:
            until = self._connections.rates.wait_until(key, rate, now)
            if until > now:
                self._wait(destination, Blocked(key, until), now)
                return False
        for key, rate in rates:
            self._connections.rates.count(key, rate, now)
        task = destination.tasks.popleft()
        connection.task = task
        connection.enter(ConnectionState.BUSY)
        self._actions.append(Give(connection.number, task))
        if not destination.tasks:
            self._stop_waiting(destination, now)
        return True

    def end(self, connection: Connection, now: float) -> None:
        """Say QUIT, if it is idle.  Its places are free when it has ended."""
        if connection.state is ConnectionState.IDLE:
            connection.enter(ConnectionState.QUITTING)
            self._actions.append(Quit(connection.number))

    # -- limits that are full -----------------------------------------------------------------------

    def _wait(self, destination: Destination, blocked: Blocked, now: float) -> None:
        """Wait for a place of a limit, or for the end of a pause; an idle connection that has such a place ends."""
        if destination.waiting == blocked.key:
            return
        self._stop_waiting(destination, now)
        if not destination.ticket:
            self._tickets += 1
            destination.ticket = self._tickets
        destination.waiting = blocked.key
        self._connections.places.wait(blocked, destination.ticket, destination.key)
        for holder in self._connections.holders(blocked.key):
            if holder.state is ConnectionState.IDLE and holder.destination != destination.key:
                self.end(holder, now)
                return

    def _stop_waiting(self, destination: Destination, now: float) -> None:
        if destination.waiting is not None:
            self._connections.places.leave(destination.waiting, destination.key, now)
            destination.waiting = None

    def wake(self, now: float) -> None:
        """Drive the destinations that wait for what has become free."""
        places = self._connections.places
        while woken := places.woken(now):
            for key, number in woken:
                destination = self._destinations.get(number)
                if destination is not None and destination.waiting == key:
                    destination.waiting = None
                    self.drive(destination, now)
                if destination is None or destination.waiting != key:
                    places.freed(key, now)


def both(destinations: Mapping[int, Destination], number: int) -> list[Destination]:
    """A destination, and that of its mails that require TLS."""
    found = [destinations.get(number << 1), destinations.get(number << 1 | 1)]
    return [destination for destination in found if destination is not None]
