"""The smarthosts of relay actions, and the credentials for them, out of their tables.  No channel, DNS or clock.

    action … relay                         smarthosts(action, domain)   None: the MX hosts of the domain
    action … relay host <list>             all of the list, in its order
    action … relay domain <mapping>        the one of that domain

    credentials(action, domain, host, port)     the user and password of the label in that smarthost's URL

The label stays here: a dispatcher names the host and the port that it has connected to.  It gets credentials only for a
smarthost that the action has now, so one that is taken over gets no others by asking.

Each function is a generator: it yields a PendingAnswer where a program has to answer, and is sent that answer.  What is
wrong with a table is a RouteUnavailable, a temporary failure, as an administrator will mend it.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from smtpd.domain_name import normal
from smtpd.next_hop import SMARTHOSTS_MAX
from smtpd.slice import RouteSlice, Service
from smtpd.tables.relay_credential import RelayCredential, RelayCredentialError, parse_relay_credential
from smtpd.tables.relay_host import RelayHost, RelayHostError, list_faults, parse_relay_host, without_label
from smtpd.tables.table import Answer, PendingAnswer, Table, TableUnavailable

LIST_FAULTS_MAX = 10  # of a table, in the log


@dataclass(frozen=True)
class RouteUnavailable:
    """`reason` is for the log and the queue; it has no label and no password in it."""

    reason: str


Smarthosts = Generator[PendingAnswer, Answer, tuple[RelayHost, ...] | RouteUnavailable | None]
Credentials = Generator[PendingAnswer, Answer, RelayCredential | RouteUnavailable]


class RelayRoutes:
    """The relay actions of the configuration.  Raises KeyError for an unknown table."""

    def __init__(self, routes: Iterable[RouteSlice], tables: Mapping[str, Table]):
        self._routes = {route.name: route for route in routes}
        self._tables = {
            name: tables[name]
            for route in self._routes.values()
            for name in (route.hosts, route.domains, route.credentials)
            if name
        }
        self._lists = tuple(dict.fromkeys(route.hosts for route in self._routes.values() if route.hosts))

    def smarthosts(self, action: str, domain: str) -> Smarthosts:
        """At least one, each once, or None for the MX hosts of `domain`, the recipient's."""
        route = self._routes.get(action)
        if route is None:
            return RouteUnavailable(f"action {action} does not relay, or is gone")
        if route.hosts:
            entries = self._tables[route.hosts].entries()
            if isinstance(entries, TableUnavailable):
                return RouteUnavailable(entries.reason)
            return _valid(route.hosts, entries)
        if not route.domains:
            return None
        value = yield from self._find(route.domains, Service.RELAYHOST, normal(domain))
        if isinstance(value, TableUnavailable):
            return RouteUnavailable(value.reason)
        if value is None:
            return RouteUnavailable(f"table {route.domains} has no host for {normal(domain)}")
        return _valid(route.domains, (value,))

    def list_faults(self) -> list[str]:
        """What is wrong with the lists of smarthosts, each as a whole; nothing for those that cannot be read."""
        return [fault for name in self._lists for fault in self.list_faults_of(name)]

    def list_faults_of(self, table: str) -> list[str]:
        """Nothing for a table that is no list of smarthosts.  At most LIST_FAULTS_MAX, without labels."""
        entries = self._tables[table].entries() if table in self._lists else ()
        if isinstance(entries, TableUnavailable):
            return []
        hosts = filter(None, map(_maybe_host, entries))
        return [f"table {table}: {text}" for _, text in islice(list_faults(hosts), LIST_FAULTS_MAX)]

    def credentials(self, action: str, domain: str, host: str, port: int) -> Credentials:
        """Those for the smarthost of `action`, and of mail for `domain`, that is at `host`, as in RelayHost, and
        `port`."""
        found = yield from self.smarthosts(action, domain)
        if isinstance(found, RouteUnavailable):
            return found
        label = next((one.label for one in found or () if one.label and (one.host, one.port) == (host, port)), "")
        table = self._routes[action].credentials
        if not label or not table:
            return RouteUnavailable(f"action {action} has no credentials for {host} port {port}")
        value = yield from self._find(table, Service.CREDENTIALS, label)
        if isinstance(value, TableUnavailable):
            return RouteUnavailable(value.reason)
        if value is None:
            return RouteUnavailable(f"table {table} has no credentials for {host}")
        try:
            return parse_relay_credential(value)
        except RelayCredentialError as malformed:
            return RouteUnavailable(f"table {table}: credentials for {host}: {malformed}")

    def _find(
        self, table: str, service: Service, key: str
    ) -> Generator[PendingAnswer, Answer, str | TableUnavailable | None]:
        found: Answer | PendingAnswer = self._tables[table].find(service, key)
        answer = (yield found) if isinstance(found, PendingAnswer) else found
        assert not isinstance(answer, bool)  # of `check` only
        return answer


def _maybe_host(text: str) -> RelayHost | None:
    try:
        return parse_relay_host(text)
    except RelayHostError:
        return None


def _valid(table: str, texts: Iterable[str]) -> tuple[RelayHost, ...] | RouteUnavailable:
    """The smarthosts among the entries.  Invalid ones, which only databases and programs can have, are left out as long
    as there is another one."""
    hosts: dict[RelayHost, None] = {}
    reason = f"table {table} is empty"
    for text in texts:
        try:
            hosts[parse_relay_host(text)] = None
        except RelayHostError as malformed:
            reason = f"table {table}: {without_label(text)[:100]}: {malformed}"
        if len(hosts) == SMARTHOSTS_MAX:
            break
    return tuple(hosts) or RouteUnavailable(reason)
