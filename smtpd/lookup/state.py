"""What lookup holds: its tables and their programs, its rules, the recipients, clients and users it is asked about."""

import asyncio
from collections import Counter

from smtpd.config.slice import LookupSlice
from smtpd.imsg import ReportStatistics, SetVerbose, StatisticsReported, TableUpdated, UpdateTable
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, visible
from smtpd.lookup.client import Clients
from smtpd.lookup.door import Doors
from smtpd.lookup.login import Logins
from smtpd.lookup.plan import make_plan
from smtpd.lookup.program import Programs
from smtpd.lookup.recipient import Recipients
from smtpd.lookup.refusal import TEXT
from smtpd.lookup.resolver import Resolver
from smtpd.lookup.system import System
from smtpd.tables.opening import open_table
from smtpd.tables.program import ProgramTable
from smtpd.tables.table import Answer, Awaited, Table, Unavailable


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
        self._tables = read_tables(configuration)
        self.programs = Programs(loop, self._tables)
        plan = make_plan(configuration, self._tables)
        self.recipients = Recipients(plan, parent, queue, loop.time, self.statistics)
        self.doors = Doors(configuration.doors, self._tables, configuration.sub_addr_delim)
        self.logins = Logins(loop, self.doors, parent, configuration.auth_failure_rate, self.statistics)
        self.clients = Clients(loop, system, Resolver(loop, system.servers, self.statistics))

    def begin(self) -> None:
        """Nothing to open: who asks is answered."""

    def stop(self) -> None:
        """Nobody asks any more: the dispatchers have left before."""
        self.loop.stop()

    def update(self, channel: Channel, asked: UpdateTable) -> None:
        def updated(answer: Answer) -> None:
            trouble = visible(answer.reason)[:TEXT] if isinstance(answer, Unavailable) else ""
            if trouble:
                log.warn(f"table {asked.table} stays as it was: {trouble}")
            else:
                log.info(f'Table "{asked.table}" successfully updated')
            channel.send(TableUpdated(asked.request, trouble))

        table = self._tables.get(asked.table)
        answer = Unavailable(f"there is no table {asked.table}") if table is None else table.update()
        if isinstance(answer, Awaited):
            answer.begin(updated)
        else:
            updated(answer)

    def report(self, channel: Channel, asked: ReportStatistics) -> None:
        channel.send(StatisticsReported(asked.request, dict(self.statistics)))

    def set_verbose(self, order: SetVerbose) -> None:
        log.verbose = order.verbose


def read_tables(configuration: LookupSlice) -> dict[str, Table]:
    """One that cannot be read is said now, and answers Unavailable; programs have not been started yet."""
    tables: dict[str, Table] = {}
    for described in configuration.tables:
        table = tables[described.name] = open_table(described, configuration.sub_addr_delim, log.warn)
        trouble = None if isinstance(table, ProgramTable) else table.update()
        if isinstance(trouble, Unavailable):
            log.warn(trouble.reason)
    return tables
