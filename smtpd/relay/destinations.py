"""All destinations of one dispatcher: which task goes to which host, over which connection, and when.

    add            task ------> destination ------Resolve------> hosts_found
                                    |
           limits, routes, policies |  Connect ----> connected ----> ready
                                    v
                     the first task that waits goes out  Give ----> tried: Report
                                    |
    no host can be reached          +---- Delay, Return               ended

What is done for a destination after each of these stands in driver.py.

Everything here is bounded by what the scheduler gives, or by a constant.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from smtpd.envelope import RelayResult
from smtpd.relay.action import Abort, RelayAction, Resume
from smtpd.relay.address_order import family_of
from smtpd.relay.connection import Connection, ConnectionFailure, ConnectionState
from smtpd.relay.connection_result import ConnectionResults
from smtpd.relay.connections import Connections
from smtpd.relay.delay import Delays
from smtpd.relay.destination import Destination, NextHop
from smtpd.relay.driver import Driver, both
from smtpd.relay.host_choice import HostChoice
from smtpd.relay.listing import RelayListing
from smtpd.relay.task import Task
from smtpd.relay.tasks import Tasks
from smtpd.relay.tls_policy import HostRefused
from smtpd.slice import RelayLimits, RelaySlice

IDLE_DESTINATIONS_MAX = 10_000  # that are remembered without mail
DELAY_TOLERANCE = 2.0  # seconds: the scheduler counts the delay in whole ones of a clock of its own
RATE_SWEEP_INTERVAL = 60.0  # seconds


class Destinations:
    """Each event returns actions, to be obeyed in their order.  `now` is in seconds since 1970, and never goes back;
    `random` returns a number in [0, 1)."""

    def __init__(
        self, limits: RelayLimits, domain_limits: dict[str, RelayLimits], random: Callable[[], float], now: float = 0.0
    ):
        self._limits, self._domain_limits = limits, domain_limits
        self._actions: list[RelayAction] = []
        self._choice = HostChoice(random)
        self.hosts, self.tls_memory = self._choice.hosts, self._choice.tls_memory
        self._connections = Connections(self.hosts, self._choice.routes, self._actions)
        self._tasks = Tasks(self._actions)
        self._results = ConnectionResults(self._choice, self._connections, self._tasks, self._actions)
        self._delays = Delays(self._choice, self._tasks, self._actions, random)
        self._destinations: OrderedDict[int, Destination] = OrderedDict()  # the least recently used first
        self._rates_swept = now
        self._driver = Driver(self._destinations, self._connections, self._choice, self._delays, self._actions)
        self.listing = RelayListing(self._destinations, self._connections, self._choice)

    # -- tasks --------------------------------------------------------------------------------------

    def add(self, task: Task, relay: RelaySlice, domain: str, now: float) -> list[RelayAction]:
        """A new task.  While its destination is delayed it is given back: it was sent before that was known."""
        self._tasks.add(task)
        if self._driver.stopping:
            self._tasks.give_back([task])
            return self._settle(now)
        destination = self._get(task, relay, domain)
        destination.tasks.append(task)
        if now < destination.delayed_until <= now + DELAY_TOLERANCE:
            self._delays.end(destination, now)
        self._driver.drive(destination, now)
        return self._settle(now)

    def forget(self, task: int, now: float) -> list[RelayAction]:
        """Queue has concluded the task itself; a connection that has it ends."""
        found = self._tasks.take(task)
        if found is not None:
            found.envelopes.clear()
            destination = self._destinations[_key(found)]
            if found in destination.tasks:
                destination.tasks.remove(found)
                self._driver.drive(destination, now)
        return self._settle(now)

    def withdraw(self, task: int, envelope: int, now: float) -> list[RelayAction]:
        """An envelope of a task that is not being sent is returned.  A connection that has a task of which nothing is
        left asks for its content in vain."""
        found = self._tasks.find(task)
        if found is not None and envelope in found.envelopes:
            self._tasks.withdraw(found, envelope)
            destination = self._destinations[_key(found)]
            if found.is_over and found in destination.tasks:
                self._tasks.take(task)
                destination.tasks.remove(found)
                self._driver.drive(destination, now)
        return self._settle(now)

    def withdraw_from_retry(self, task: int, envelope: int) -> None:
        """An envelope of a task that is being sent: it has the result of that, and is returned where there is none."""
        found = self._tasks.find(task)
        if found is not None and envelope in found.envelopes:
            found.withdrawn.add(envelope)

    def resume(self, destination: int, now: float) -> list[RelayAction]:
        """The administrator wants a destination tried now, over all its routes if it is delayed.  Its hosts are looked
        for anew: a table or the DNS may have been mended."""
        for found in both(self._destinations, destination):
            if now < found.delayed_until:
                self._delays.end(found, now)
                self._actions.append(Resume(destination))
            found.hops, found.refusal = (), None
            self._driver.drive(found, now)
        return self._settle(now)

    def resume_route(self, number: int, now: float) -> tuple[bool, list[RelayAction]]:
        """The administrator wants a route tried now, and the destinations that are delayed as it could not be used.
        False: no route of this number rests."""
        routes = self._choice.routes
        route = routes.numbers().get(number)
        if route is None or routes.rest(route, now) is None:
            return False, []
        routes.resume(route, now)
        concerned = [each for each in self._destinations.values() if route.destination in (0, each.key)]
        self._try_delayed([each for each in concerned if each.uses(route.path)], now)
        return True, self._settle(now)

    def pause_source(self, source: str, destination: int, paused: bool, now: float) -> list[RelayAction]:
        """Use a source address no more for a destination, 0: for any; or use it again.  Mail that a connection has is
        not interrupted."""
        pair = source, destination
        pauses = self._choice.paused_sources
        (pauses.add if paused else pauses.discard)(pair)
        found = both(self._destinations, destination) if destination else list(self._destinations.values())
        found = [each for each in found if source in each.relay.sources]
        if not paused:
            self._try_delayed(found, now)
        for connection in [each for destination in found for each in self._connections.of(destination)]:
            if paused and connection.path.source == source:
                self._driver.end(connection, now)
        return self._settle(now)

    def _try_delayed(self, destinations: Iterable[Destination], now: float) -> None:
        """End the delays, and nothing else: what else is wrong is found out again."""
        for destination in destinations:
            if now < destination.delayed_until:
                destination.delayed_until = 0.0
                self._actions.append(Resume(destination.number))
                self._driver.drive(destination, now)

    def stop(self, now: float) -> list[RelayAction]:
        """Begin nothing any more; mail that is under way goes on until it ends."""
        self._driver.stopping = True
        for destination in list(self._destinations.values()):
            self._tasks.give_back(destination.tasks)
            for connection in self._connections.of(destination):
                if connection.state in (ConnectionState.CONNECTING, ConnectionState.GREETING):
                    self._abort(connection, destination, now)
                else:
                    self._driver.end(connection, now)
        return self._settle(now)

    # -- answers of lookup --------------------------------------------------------------------------

    def hosts_found(self, destination: int, hops: Sequence[NextHop], seconds: float, now: float) -> list[RelayAction]:
        """The hosts of a destination, in the order to try within one rank; good for so many seconds."""
        for found in both(self._destinations, destination):
            found.resolving = False
            found.refusal = None
            found.hops, found.hops_until = sorted(hops, key=lambda hop: hop.rank), now + max(1.0, seconds)
            self._driver.drive(found, now)
        return self._settle(now)

    def hosts_not_found(self, destination: int, refusal: HostRefused, seconds: float, now: float) -> list[RelayAction]:
        """A permanent refusal is the result of each task; a temporary one delays the destination."""
        for found in both(self._destinations, destination):
            found.resolving = False
            if refusal.code >= 500:
                found.refusal, found.hops_until = refusal, now + max(1.0, seconds)
                self._driver.drive(found, now)
            elif found.tasks and not found.connections:
                self._delays.delay(found, refusal, now + seconds, now)
        return self._settle(now)

    # -- what happens to connections ----------------------------------------------------------------

    def connected(self, number: int, now: float) -> list[RelayAction]:
        """TCP is up: the other addresses of the host are not needed any more."""
        connection = self._connections.get(number)
        connection.enter(ConnectionState.GREETING)
        attempt = connection.attempt
        family = family_of(connection.path.address)
        slower = [self._connections.get(other).path for other in attempt.connections if other != number]
        for path in [*attempt.tried, *slower]:
            if family_of(path.address) != family:
                self.hosts.family_failed(attempt.hop.name, family_of(path.address), now)
        destination = self._destinations[connection.destination]
        for other in sorted(attempt.connections - {number}):
            self._abort(self._connections.get(other), destination, now)
        attempt.paths.clear()
        return self._settle(now)

    def ready(self, number: int, encrypted: bool, now: float) -> list[RelayAction]:
        """The connection has greeted, and may have a task.  Whether it is encrypted is remembered of the host."""
        connection = self._connections.get(number)
        connection.enter(ConnectionState.IDLE)
        connection.idle_since = now
        service = connection.hop.service
        if encrypted:
            self.tls_memory.worked(service, now)
        elif connection.policy.attempt:
            self.tls_memory.missing(service, now)
        host = self.hosts.get(connection.host_key)
        host.working += 1
        for key in sorted(host.delayed & self._destinations.keys()):
            self._delays.host_works(self._destinations[key], now)
        host.delayed.clear()
        self._driver.proceed(connection, now)
        return self._settle(now)

    def tried(self, number: int, results: Iterable[RelayResult], now: float) -> list[RelayAction]:
        """The message of the task was answered, and the connection may have another one."""
        connection = self._connections.get(number)
        destination = self._destinations[connection.destination]
        task = connection.task
        again = self._results.answered(connection, destination, tuple(results), now)
        if task is not None and again:
            self._put_back(task, destination)
        connection.enter(ConnectionState.IDLE)
        connection.idle_since = now
        connection.not_before = now + destination.limits.session_transaction_delay
        if connection.address_refused:  # so none of this family is used any more
            for other in self._connections.of(destination):
                if other is not connection and other.address_refused:
                    self._driver.end(other, now)
        self._driver.proceed(connection, now)
        return self._settle(now)

    def ended(
        self, number: int, failure: ConnectionFailure, results: Iterable[RelayResult], now: float
    ) -> list[RelayAction]:
        """The connection is gone.  `results`: what is certain of the task that it had."""
        connection = self._connections.find(number)
        if connection is None:
            return []  # it was aborted, and has ended at the same time
        state, task = connection.state, connection.task
        destination = self._destinations[connection.destination]
        if state is ConnectionState.CONNECTING:
            self._results.not_connected(connection, failure, now)
        elif state is ConnectionState.GREETING:
            self._results.not_greeted(connection, failure, now)
        elif task is not None and self._results.lost(connection, task, failure, tuple(results), now):
            self._put_back(task, destination)
        self._connections.remove(connection, destination, now)
        self._driver.wake(now)  # before this destination takes the place that it has just given up
        if state is ConnectionState.CONNECTING:
            self._driver.next_path(connection.attempt, destination, now)
        self._driver.drive(destination, now)
        return self._settle(now)

    # -- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[RelayAction]:
        """What is due: call at `next_time`, or later."""
        self._driver.look_at_connections(now)
        if now >= self._rates_swept + RATE_SWEEP_INTERVAL:
            self._rates_swept = now
            self._connections.rates.forget_full(now)
        return self._settle(now)

    def next_time(self) -> float | None:
        times = (self._driver.next_look(), self._connections.places.next_time())
        return min((time for time in times if time is not None), default=None)

    def _abort(self, connection: Connection, destination: Destination, now: float) -> None:
        """Close it at once; no mail has gone over it."""
        self._actions.append(Abort(connection.number))
        self._connections.remove(connection, destination, now)

    def _put_back(self, task: Task, destination: Destination) -> None:
        """A task that another connection may have."""
        if self._driver.stopping:
            self._tasks.give_back([task])
        elif self._tasks.keep_for_retry(task):
            destination.tasks.appendleft(task)

    def _settle(self, now: float) -> list[RelayAction]:
        """The actions of the event, and of what it makes possible."""
        self._driver.wake(now)
        actions = list(self._actions)
        self._actions.clear()
        return actions

    # -- tables -------------------------------------------------------------------------------------

    def _get(self, task: Task, relay: RelaySlice, domain: str) -> Destination:
        key = _key(task)
        limits = self._domain_limits.get(domain, self._limits)
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destinations[key] = Destination(
                task.destination, task.require_tls, relay, domain, limits
            )
            self._forget_idle()
        self._destinations.move_to_end(key)
        destination.relay, destination.limits = relay, limits
        return destination

    def _forget_idle(self) -> None:
        """Look at two, as one has come: thousands that have mail are not looked through for each further one."""
        for _ in range(min(2, len(self._destinations) - IDLE_DESTINATIONS_MAX)):
            key, destination = self._destinations.popitem(last=False)
            if not destination.is_idle:
                self._destinations[key] = destination

    def knows(self, number: int) -> bool:
        """Whether it has mail or connections, or had them lately."""
        return bool(both(self._destinations, number))


def _key(task: Task) -> int:
    """REQUIRETLS has connections of its own."""
    return task.destination << 1 | task.require_tls
