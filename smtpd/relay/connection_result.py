"""What the answers and the end of a connection mean for its task, its host and its route.

answered        results for the task; the host bears more, or less; what it refuses by policy is tried once more, over
                the other family
not_connected   the route rests, unless the failure is ours: then all connecting pauses, or our address rests
not_greeted     the route rests, or clear text is next
lost            what is certain is reported; the rest goes to another connection, or is deferred
"""

from smtpd.envelope import Outcome, RelayResult
from smtpd.relay.action import Note, RelayAction
from smtpd.relay.address_order import family_of
from smtpd.relay.connection import Connection, ConnectionFailure, Stage
from smtpd.relay.connections import Connections
from smtpd.relay.destination import Destination
from smtpd.relay.host_choice import ADDRESS_REST_TIME, HostChoice
from smtpd.relay.task import TRIES_MAX, Task
from smtpd.relay.tasks import Tasks
from smtpd.relay.tls_policy import HostRefused, Verify

# Replies that mean "too much from you" and not "not this message": 421, and these (Google, Microsoft; RFC 3463 3.4).
THROTTLE_CODES = {"4.3.2", "4.7.28", *(f"4.7.{detail}" for detail in range(650, 660))}


# Refused by policy (RFC 3463 3.8): often for what the host thinks of our address, such as one of IPv6 without a name.
POLICY_REFUSAL = "5.7."
REQUIRETLS_REFUSAL = "5.7.30"  # RFC 8689 5


def _is_about_address(result: RelayResult) -> bool:
    """Whether our address may be the reason of the refusal."""
    policy = result.enhanced.startswith(POLICY_REFUSAL) and result.enhanced != REQUIRETLS_REFUSAL
    return result.outcome is Outcome.FAILED and policy


class ConnectionResults:
    def __init__(self, choice: HostChoice, connections: Connections, tasks: Tasks, actions: list[RelayAction]):
        self._choice, self._connections, self._tasks, self._actions = choice, connections, tasks, actions
        self._hosts, self._tls_memory = choice.hosts, choice.tls_memory

    def answered(
        self, connection: Connection, destination: Destination, results: tuple[RelayResult, ...], now: float
    ) -> bool:
        """The message of its task has been answered.  Whether the task is to be given to another connection."""
        task, connection.task = connection.task, None
        destination.failures = 0
        connection.messages += 1
        connection.refused += sum(result.outcome is not Outcome.DELIVERED for result in results)
        host = self._hosts.get(connection.host_key)
        if any(result.code == 421 or result.enhanced in THROTTLE_CODES for result in results):
            host.push_back(now)
        elif any(result.outcome is Outcome.DELIVERED for result in results):
            self._choice.succeeded(connection)
            if host.succeeded(destination.limits.max_conn_per_host):
                self._connections.places.freed(("host", *connection.host_key), now)
        if task is None:
            return False
        refused = [result for result in results if _is_about_address(result)]
        if refused and self._turn_to_other_family(connection, destination, task, refused[0].text, now):
            self._tasks.report(task, [result for result in results if result not in refused])
            return True
        self._tasks.report(task, results)
        if not task.is_over:
            self._tasks.defer(task, HostRefused(451, "4.5.0", "no result for this recipient"))
        return False

    def _turn_to_other_family(
        self, connection: Connection, destination: Destination, task: Task, text: str, now: float
    ) -> bool:
        """Whether the host is to be asked again from another address of ours, once for a task, and not where that
        family has failed lately.  Connections from this one take no further message."""
        hop, family = connection.hop, family_of(connection.path.address)
        broken = self._hosts.broken_families(hop.name, now)
        families = {family_of(path.address) for path in self._choice.paths(destination, hop, [], now)}
        others = families - {family, *broken}
        if task.other_family or hop.lmtp or not others:
            return False
        task.other_family = True
        self._hosts.family_failed(hop.name, family, now)
        for each in self._connections.of(destination):
            each.address_refused |= each.hop.name == hop.name and family_of(each.path.address) == family
        self._actions.append(Note(f"{hop.name}: {text}: trying again over IPv{min(others)}"))
        return True

    def not_connected(self, connection: Connection, failure: ConnectionFailure, now: float) -> None:
        """TCP has failed, or has not been tried as this system could not."""
        if failure.stage is Stage.RESOURCES:
            self._connections.pause(failure.text, now)
            return
        if failure.stage is Stage.ADDRESS:
            self._choice.address_failed(connection.path, failure.text, now)
            self._actions.append(Note(f"{failure.text}: not used for {ADDRESS_REST_TIME:.0f} s"))
            return
        if failure.stage is Stage.AUTHENTICATION:  # lookup has no password for it, so it was not connected to
            self._choice.failed(connection, failure, now)
            return
        host = self._hosts.get(connection.host_key)
        connection.attempt.tried.append(connection.path)
        if host.working:  # it is there, and bears no more connections than these
            host.bears_no_more()
        else:
            self._choice.failed(connection, failure, now)

    def not_greeted(self, connection: Connection, failure: ConnectionFailure, now: float) -> None:
        """It has ended before a message could be given to it."""
        host = self._hosts.get(connection.host_key)
        policy = connection.policy
        if failure.stage is Stage.TLS and policy.verify is Verify.NOTHING:
            self._tls_memory.failed(connection.hop.service, now)
        if failure.stage is Stage.TLS and policy.may_fall_back:
            self._actions.append(Note(f"{connection.hop.name}: {failure.text}: trying again in clear text"))
        elif host.working and failure.stage is Stage.GREETING and failure.code < 500:
            host.bears_no_more()
        else:
            self._choice.failed(connection, failure, now)

    def lost(
        self,
        connection: Connection,
        task: Task,
        failure: ConnectionFailure,
        results: tuple[RelayResult, ...],
        now: float,
    ) -> bool:
        """The connection has ended under a task.  Whether the task is to be given to another one."""
        connection.task = None
        if failure.code == 421:
            self._hosts.get(connection.host_key).push_back(now)
        self._tasks.report(task, results)
        if task.is_over:  # it was answered before the end: the host is there
            return False
        refused = HostRefused(failure.code or 451, failure.enhanced or "4.4.2", failure.text)
        if failure.uncertain:  # another host could make a second copy, at once
            self._tasks.defer(task, refused, connection.hop.name, uncertain=True)
        elif failure.untouched and connection.messages and not task.reopened:
            task.reopened = True  # it had been closed before the task came
        else:
            task.tries += 1
            if not connection.messages:
                self._choice.failed(connection, failure, now)
            if task.tries >= TRIES_MAX:
                self._tasks.defer(task, refused, connection.hop.name)
        return not task.is_over
