"""What lookup holds: its tables and rules, the recipients and the clients it is asked about."""

import asyncio
from collections import Counter

from smtpd.config.slice import LookupSlice
from smtpd.imsg import ReportStatistics, SetVerbose, StatisticsReported
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.lookup.client import Clients
from smtpd.lookup.recipient import Recipients
from smtpd.lookup.resolver import Resolver
from smtpd.lookup.rule import Rules
from smtpd.lookup.system import System
from smtpd.tables.opening import open_table
from smtpd.tables.table import Table


class Lookup:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: LookupSlice,
        system: System,
        parent: Channel,
        queue: Channel,
    ):
        self.loop = loop
        self.statistics: Counter[str] = Counter()
        rules = Rules(configuration.matches, read_tables(configuration))
        self.recipients = Recipients(configuration, rules, parent, queue, loop.time, self.statistics)
        self.clients = Clients(loop, system, Resolver(loop, system.servers, self.statistics))

    def begin(self) -> None:
        """Nothing to open: who asks is answered."""

    def stop(self) -> None:
        """Nobody asks any more: the dispatchers have left before."""
        self.loop.stop()

    def report(self, channel: Channel, asked: ReportStatistics) -> None:
        channel.send(StatisticsReported(asked.request, dict(self.statistics)))

    def set_verbose(self, order: SetVerbose) -> None:
        log.verbose = order.verbose


def read_tables(configuration: LookupSlice) -> dict[str, Table]:
    """One that cannot be read is said now, and answers Unavailable."""
    tables = {}
    for described in configuration.tables:
        table = open_table(described, configuration.sub_addr_delim)
        trouble = table.update()
        if trouble is not None:
            log.warn(trouble.reason)
        tables[described.name] = table
    return tables
