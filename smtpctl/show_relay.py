"""Commands that show what is known of relaying: relays, routes, hosts, the status of each domain, what is paused.

Each dispatcher has destinations of its own, and is asked for them page by page.  A host that several know is one row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smtpctl import relay_output
from smtpctl.command import DONE
from smtpctl.connection import Connection, ControlError
from smtpctl.operation import REQUEST
from smtpctl.output import as_json
from smtpd.imsg import ListDomains, ListHosts, ListPaused, ListRelays, ListRoutes
from smtpd.relay_entry import DomainEntry, HostEntry

MERGED_MAX = 1_000_000  # rows of all dispatchers that are added up


def show_relays(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    for row, _, _ in _rows(connection, ListRelays(REQUEST), lambda row: row.key):
        print(as_json(relay_output.relay_object(row)) if json else "\n".join(relay_output.relay_lines(row)))
    return DONE


def show_routes(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    for row, dispatcher, dispatchers in _rows(connection, ListRoutes(REQUEST), lambda row: row.key):
        number = row.key * dispatchers + dispatcher
        print(as_json(relay_output.route_object(number, row)) if json else relay_output.route_line(number, row))
    return DONE


def show_hosts(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    hosts: dict[tuple[str, int], HostEntry] = {}
    for row, _, _ in _rows(connection, ListHosts(REQUEST), lambda row: (row.address, row.port)):
        key = row.address, row.port
        hosts[key] = relay_output.merged_host(hosts.get(key), row)
        _check_count(hosts)
    for _, row in sorted(hosts.items()):
        print(as_json(relay_output.host_object(row)) if json else relay_output.host_line(row))
    return DONE


def show_domains(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    domains: dict[str, DomainEntry] = {}
    for row, _, _ in _rows(connection, ListDomains(REQUEST), lambda row: row.domain):
        known = domains.get(row.domain)
        if known is None or known.time < row.time:
            domains[row.domain] = row
        _check_count(domains)
    for _, row in sorted(domains.items()):
        print(as_json(relay_output.domain_object(row)) if json else relay_output.domain_line(row))
    return DONE


def show_paused(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    for source, name in connection.ask(ListPaused(REQUEST)).rows:
        print(as_json(relay_output.paused_object(source, name)) if json else relay_output.paused_line(source, name))
    return DONE


def _rows(connection: Connection, first: Any, key_of: Callable[[Any], Any]) -> Iterator[tuple[Any, int, int]]:
    """All rows, each with the number of its dispatcher and how many dispatchers there are."""
    question = type(first)
    dispatcher, dispatchers = 0, 1
    while dispatcher < dispatchers:
        after, more = first.after, True
        while more:
            page = connection.ask(question(REQUEST, dispatcher, after))
            dispatchers, more = page.dispatchers, page.more
            for row in page.rows:
                if key_of(row) <= after:
                    raise ControlError("invalid answer from smtpd: rows out of order")
                after = key_of(row)
                yield row, dispatcher, dispatchers
            if more and not page.rows:
                raise ControlError("invalid answer from smtpd: an empty page")
        dispatcher += 1


def _check_count(rows: dict[Any, Any]) -> None:
    if len(rows) > MERGED_MAX:
        raise ControlError(f"more than {MERGED_MAX} rows")
