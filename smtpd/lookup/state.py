"""The state of lookup: tables and their programs, rules, and the parts that answer questions."""

import asyncio
from collections import Counter
from collections.abc import Collection

from smtpd.imsg import (
    FindHosts,
    FindStsRecords,
    ReportStatistics,
    SetVerbose,
    StatisticsReported,
    TableUpdated,
    UpdateTable,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log, visible
from smtpd.lookup.client_name import ClientNames
from smtpd.lookup.dns_cache import DnsCache
from smtpd.lookup.expansion_config import make_expansion_config
from smtpd.lookup.host_lookup import HostLookups
from smtpd.lookup.host_selection import ThisHost
from smtpd.lookup.listener_tables import ListenerQuestions
from smtpd.lookup.login import Logins
from smtpd.lookup.open_tables import open_tables
from smtpd.lookup.own_address import has_address
from smtpd.lookup.recipient import RecipientExpander
from smtpd.lookup.refusal import TEXT_MAX
from smtpd.lookup.relay_route import RelayRoutes
from smtpd.lookup.resolver import Resolver
from smtpd.lookup.resolver_config import ResolverConfig
from smtpd.lookup.route_questions import RouteQuestions
from smtpd.lookup.sts_announcements import StsAnnouncements
from smtpd.lookup.table_programs import TablePrograms
from smtpd.slice import LookupSlice
from smtpd.tables.table import Answer, PendingAnswer, TableUnavailable

HOST_PATIENCE = 3.0  # a mail can wait longer for the hosts of its destination than a client for its own name


class Lookup:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: LookupSlice,
        system: ResolverConfig,
        parent: Channel,
        queue: Channel,
        reserved_uids: Collection[int],
    ):
        """`reserved_uids`: of our own users, who receive nothing."""
        self.loop = loop
        self.statistics: Counter[str] = Counter()
        self._tables = open_tables(configuration)
        self.programs = TablePrograms(loop, self._tables)
        config = make_expansion_config(configuration, self._tables, reserved_uids)
        self.recipients = RecipientExpander(config, parent, queue, loop.time, self.statistics)
        self.listeners = ListenerQuestions(configuration.listener_tables, self._tables, configuration.sub_addr_delim)
        self.logins = Logins(loop, self.listeners, parent, configuration.auth_failure_rate, self.statistics)
        self.clients = ClientNames(loop, system, Resolver(loop, system.servers, self.statistics))
        dns = DnsCache(loop, Resolver(loop, system.servers, self.statistics, HOST_PATIENCE))
        this = ThisHost(frozenset(configuration.own_names), configuration.listening, has_address)
        own_names = {route.name: route.backup for route in configuration.routes if route.backup}
        self._relay_routes = RelayRoutes(configuration.routes, self._tables)
        for fault in self._relay_routes.list_faults():
            log.warn(fault)
        self.routes = RouteQuestions(self._relay_routes, own_names, self.listeners)
        self.hosts = HostLookups(loop, system, dns, this)
        self.sts_announcements = StsAnnouncements(loop, dns)
        self._relays = bool(configuration.routes)

    def begin(self) -> None:
        """Nothing to do: questions are answered from the start."""

    def find_hosts(self, dispatcher: Channel, asked: FindHosts) -> None:
        """Raises Violation where no action relays: nothing of the daemon asks then."""
        if not self._relays:
            raise Violation(f"dispatcher {dispatcher.number} asks for hosts, and no action relays")
        self.hosts.find(dispatcher, asked)

    def find_sts_records(self, queue: Channel, asked: FindStsRecords) -> None:
        """As find_hosts."""
        if not self._relays:
            raise Violation("queue asks for records of MTA-STS, and no action relays")
        self.sts_announcements.find(queue, asked)

    def stop(self) -> None:
        """Stop the loop; the dispatchers have ended before."""
        self.loop.stop()

    def update(self, channel: Channel, asked: UpdateTable) -> None:
        def updated(answer: Answer) -> None:
            trouble = visible(answer.reason)[:TEXT_MAX] if isinstance(answer, TableUnavailable) else ""
            if trouble:
                log.warn(f"table {asked.table} stays as it was: {trouble}")
            else:
                log.info(f'Table "{asked.table}" successfully updated')
                for fault in self._relay_routes.list_faults_of(asked.table):
                    log.warn(fault)
            channel.send(TableUpdated(asked.request, trouble))

        table = self._tables.get(asked.table)
        answer = TableUnavailable(f"unknown table {asked.table}") if table is None else table.update()
        if isinstance(answer, PendingAnswer):
            answer.begin(updated)
        else:
            updated(answer)

    def report(self, channel: Channel, asked: ReportStatistics) -> None:
        channel.send(StatisticsReported(asked.request, dict(self.statistics)))

    def set_verbose(self, order: SetVerbose) -> None:
        log.verbose = order.verbose
