"""All destinations of one dispatcher: which task goes to which host, over which connection, and when.

    add            task ------> destination ------Resolve------> hosts_found
                                    |
           limits, routes, policies |  Connect ----> connected ----> ready
                                    v
                     the first task that waits goes out  Give ----> tried: Report
                                    |
    no host can be reached          +---- Delay, Return               ended

For each destination, whenever something happens to it (`_drive`):

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

Everything here is bounded by what the scheduler gives, or by a constant.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from smtpd.envelope import RelayResult
from smtpd.relay.action import Abort, Give, Quit, RelayAction, Resolve, Resume
from smtpd.relay.address_order import RACE_DELAY, family_of
from smtpd.relay.connection import OPEN, Attempt, Connection, ConnectionFailure, ConnectionState
from smtpd.relay.connection_result import ConnectionResults
from smtpd.relay.connections import Connections, rates_of
from smtpd.relay.delay import Delays
from smtpd.relay.destination import Destination, NextHop
from smtpd.relay.host_choice import HostChoice
from smtpd.relay.limit import Blocked
from smtpd.relay.listing import RelayListing
from smtpd.relay.task import Task
from smtpd.relay.tasks import Tasks
from smtpd.relay.tls_policy import HostRefused
from smtpd.slice import RelayLimits, RelaySlice

IDLE_DESTINATIONS_MAX = 10_000  # that are remembered without mail
SHARE_MESSAGES = 10  # of a connection whose place another destination waits for
SPARE_TIME = 2.0  # seconds that a connection without a message stays open beside another one (that of Postfix's cache)
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
        self._tickets = 0
        self._timers: list[tuple[float, int]] = []  # a heap: when to look at a connection
        self._rates_swept = now
        self._stopping = False
        self.listing = RelayListing(self._destinations, self._connections, self._choice)

    # -- tasks --------------------------------------------------------------------------------------

    def add(self, task: Task, relay: RelaySlice, domain: str, now: float) -> list[RelayAction]:
        """A new task.  While its destination is delayed it is given back: it was sent before that was known."""
        self._tasks.add(task)
        if self._stopping:
            self._tasks.give_back([task])
            return self._settle(now)
        destination = self._get(task, relay, domain)
        destination.tasks.append(task)
        if now < destination.delayed_until <= now + DELAY_TOLERANCE:
            self._delays.end(destination, now)
        self._drive(destination, now)
        return self._settle(now)

    def forget(self, task: int, now: float) -> list[RelayAction]:
        """Queue has concluded the task itself; a connection that has it ends."""
        found = self._tasks.take(task)
        if found is not None:
            found.envelopes.clear()
            destination = self._destinations[_key(found)]
            if found in destination.tasks:
                destination.tasks.remove(found)
                self._drive(destination, now)
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
                self._drive(destination, now)
        return self._settle(now)

    def resume(self, destination: int, now: float) -> list[RelayAction]:
        """The administrator wants a destination tried now, over all its routes if it is delayed.  Its hosts are looked
        for anew: a table or the DNS may have been mended."""
        for found in self._both(destination):
            if now < found.delayed_until:
                self._delays.end(found, now)
                self._actions.append(Resume(destination))
            found.hops, found.refusal = (), None
            self._drive(found, now)
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
        found = self._both(destination) if destination else list(self._destinations.values())
        found = [each for each in found if source in each.relay.sources]
        if not paused:
            self._try_delayed(found, now)
        for connection in [each for destination in found for each in self._connections.of(destination)]:
            if paused and connection.path.source == source:
                self._end(connection, now)
        return self._settle(now)

    def _try_delayed(self, destinations: Iterable[Destination], now: float) -> None:
        """End the delays, and nothing else: what else is wrong is found out again."""
        for destination in destinations:
            if now < destination.delayed_until:
                destination.delayed_until = 0.0
                self._actions.append(Resume(destination.number))
                self._drive(destination, now)

    def stop(self, now: float) -> list[RelayAction]:
        """Begin nothing any more; mail that is under way goes on until it ends."""
        self._stopping = True
        for destination in list(self._destinations.values()):
            self._tasks.give_back(destination.tasks)
            for connection in self._connections.of(destination):
                if connection.state in (ConnectionState.CONNECTING, ConnectionState.GREETING):
                    self._abort(connection, destination, now)
                else:
                    self._end(connection, now)
        return self._settle(now)

    # -- answers of lookup --------------------------------------------------------------------------

    def hosts_found(self, destination: int, hops: Sequence[NextHop], seconds: float, now: float) -> list[RelayAction]:
        """The hosts of a destination, in the order to try within one rank; good for so many seconds."""
        for found in self._both(destination):
            found.resolving = False
            found.refusal = None
            found.hops, found.hops_until = sorted(hops, key=lambda hop: hop.rank), now + max(1.0, seconds)
            self._drive(found, now)
        return self._settle(now)

    def hosts_not_found(self, destination: int, refusal: HostRefused, seconds: float, now: float) -> list[RelayAction]:
        """A permanent refusal is the result of each task; a temporary one delays the destination."""
        for found in self._both(destination):
            found.resolving = False
            if refusal.code >= 500:
                found.refusal, found.hops_until = refusal, now + max(1.0, seconds)
                self._drive(found, now)
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
        self._proceed(connection, now)
        return self._settle(now)

    def tried(self, number: int, results: Iterable[RelayResult], now: float) -> list[RelayAction]:
        """The message of the task was answered, and the connection may have another one."""
        connection = self._connections.get(number)
        destination = self._destinations[connection.destination]
        task = connection.task
        again = self._results.answered(connection, destination, tuple(results), now)
        if task is not None and again and self._stopping:
            self._tasks.give_back([task])
        elif task is not None and again:
            destination.tasks.appendleft(task)
        connection.enter(ConnectionState.IDLE)
        connection.idle_since = now
        connection.not_before = now + destination.limits.session_transaction_delay
        if connection.address_refused:  # so none of this family is used any more
            for other in self._connections.of(destination):
                if other is not connection and other.address_refused:
                    self._end(other, now)
        self._proceed(connection, now)
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
            if self._stopping:
                self._tasks.give_back([task])
            else:
                destination.tasks.appendleft(task)
        self._connections.remove(connection, destination, now)
        self._wake(now)  # before this destination takes the place that it has just given up
        if state is ConnectionState.CONNECTING:
            self._next_path(connection.attempt, destination, now)
        self._drive(destination, now)
        return self._settle(now)

    # -- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[RelayAction]:
        """What is due: call at `next_time`, or later."""
        while self._timers and self._timers[0][0] <= now:
            time, number = heapq.heappop(self._timers)
            connection = self._connections.find(number)
            if connection is None or connection.look_at != time:
                continue
            connection.look_at = None
            destination = self._destinations[connection.destination]
            if connection.state is ConnectionState.CONNECTING:
                self._next_path(connection.attempt, destination, now)
            elif connection.state is ConnectionState.IDLE:
                self._proceed(connection, now)
        if now >= self._rates_swept + RATE_SWEEP_INTERVAL:
            self._rates_swept = now
            self._connections.rates.forget_full(now)
        return self._settle(now)

    def next_time(self) -> float | None:
        place = self._connections.places.next_time()
        if not self._timers:
            return place
        time = self._timers[0][0]
        return time if place is None else min(time, place)

    def _look_again(self, connection: Connection, time: float) -> None:
        """At `time`, or sooner: a message pushes no timer while there is one to look at when it is due."""
        if connection.look_at is None or time < connection.look_at:
            connection.look_at = time
            heapq.heappush(self._timers, (time, connection.number))

    # -- a destination, after anything has happened -------------------------------------------------

    def _drive(self, destination: Destination, now: float) -> None:
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
            if not any(each.resolving for each in self._both(destination.number)):
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
            self._look_again(found, now + RACE_DELAY)
        return found

    def _next_path(self, attempt: Attempt, destination: Destination, now: float) -> None:
        """Try the next address of a host: the one before has failed, or takes its time."""
        if self._stopping or not destination.tasks:
            return
        rest = self._choice.rest
        attempt.paths = [path for path in attempt.paths if rest(destination, attempt.hop, path, now) is None]
        self._connect(attempt, destination, now)

    # -- a connection that may have a task ----------------------------------------------------------

    def _proceed(self, connection: Connection, now: float) -> None:
        """An idle connection: give it a task, keep it for the next one, or end it."""
        destination = self._destinations[connection.destination]
        limits = destination.limits
        if self._is_used_up(connection, destination):
            self._stop_waiting(destination, now)
            destination.ticket = 0  # it has had its share: others that wait come first
            self._end(connection, now)
            self._drive(destination, now)
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
            self._end(connection, now)
        else:
            self._look_again(connection, connection.not_before if now < connection.not_before else keep_until)

    def _is_used_up(self, connection: Connection, destination: Destination) -> bool:
        limits = destination.limits
        return (
            self._stopping
            or connection.address_refused
            or connection.messages >= limits.session_mail_max
            or connection.refused >= limits.max_failures_per_session
            or (connection.messages >= SHARE_MESSAGES and self._connections.others_wait(connection))
            or self._is_too_many(connection)
            or self._choice.is_paused(connection.path, destination)
        )

    def _is_too_many(self, connection: Connection) -> bool:
        """Whether the host bears fewer connections than are open and not about to end."""
        host = self.hosts.get(connection.host_key)
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

    def _abort(self, connection: Connection, destination: Destination, now: float) -> None:
        """Close it at once; no mail has gone over it."""
        self._actions.append(Abort(connection.number))
        self._connections.remove(connection, destination, now)

    def _end(self, connection: Connection, now: float) -> None:
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
                self._end(holder, now)
                return

    def _stop_waiting(self, destination: Destination, now: float) -> None:
        if destination.waiting is not None:
            self._connections.places.leave(destination.waiting, destination.key, now)
            destination.waiting = None

    def _settle(self, now: float) -> list[RelayAction]:
        """The actions of the event, and of what it makes possible."""
        self._wake(now)
        actions = list(self._actions)
        self._actions.clear()
        return actions

    def _wake(self, now: float) -> None:
        """Drive the destinations that wait for what has become free."""
        places = self._connections.places
        while woken := places.woken(now):
            for key, number in woken:
                destination = self._destinations.get(number)
                if destination is not None and destination.waiting == key:
                    destination.waiting = None
                    self._drive(destination, now)
                if destination is None or destination.waiting != key:
                    places.freed(key, now)

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
        return bool(self._both(number))

    def _both(self, number: int) -> list[Destination]:
        """A destination, and that of its mails that require TLS."""
        found = [self._destinations.get(number << 1), self._destinations.get(number << 1 | 1)]
        return [destination for destination in found if destination is not None]


def _key(task: Task) -> int:
    """REQUIRETLS has connections of its own."""
    return task.destination << 1 | task.require_tls
