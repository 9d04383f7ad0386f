"""State of the queue process: the disk, messages that are received, attempts under way; and its orderly end."""

import asyncio
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import batched

from smtpd.envelope import MESSAGE_ID_MAX, Kind, Schedule
from smtpd.imsg import EnvelopesSubmitted, ReportStatistics, SetVerbose, StatisticsReported, StopScheduling
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.queue.agents.forward import ForwardReader
from smtpd.queue.agents.lmtp_features import LmtpFeatures
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.agents.routing import AgentRouting
from smtpd.queue.delivery import reexpansion
from smtpd.queue.delivery.agent_carrier import AgentCarrier
from smtpd.queue.delivery.attempt import AttemptContext
from smtpd.queue.delivery.conclude import Conclusions
from smtpd.queue.delivery.deliveries import Deliveries
from smtpd.queue.delivery.destination import Delays, Numbers
from smtpd.queue.delivery.in_flight import InFlight
from smtpd.queue.delivery.pauses import Pauses
from smtpd.queue.delivery.reexpansion import Reexpansions
from smtpd.queue.delivery.relay_carrier import RelayCarrier
from smtpd.queue.incoming import Incoming
from smtpd.queue.kept_tls import KeptTls
from smtpd.queue.listing import Listing
from smtpd.queue.message_ids import Blocks, OwnIds
from smtpd.queue.notices import Notices
from smtpd.queue.recoding import Recoding
from smtpd.queue.reservation import Reservations
from smtpd.queue.scan import Scan
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.store import PAGE, Envelope, Store
from smtpd.slice import QueueSlice

SUBMIT_DELAY = 0.01  # seconds that a new envelope waits for others until the scheduler hears of them
SUBMIT_FULL = 64  # envelopes that wait, with which it hears at once
STOP_TIMEOUT = 5.0  # seconds that a stop waits for agents, results of dispatchers, and a full disk
SCHEDULER_STOP_TIMEOUT = 5.0  # seconds that a stop waits for the scheduler
POLL_INTERVAL = 0.01  # seconds between two looks at what a stop waits for
STARTS_MAX = 32  # agents that are being started at a time
LOCKS_MAX = 64  # mailboxes that are being locked at a time: one for each agent, as each may take long


class Queue:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: QueueSlice,
        store: Store,
        spool: Spool,
        space: Space,
        scheduler: Channel,
        parent: Channel,
        lookup: Channel,
        clock: Callable[[], float] | None = None,
        now: Callable[[], float] = time.time,
        dispatchers: Sequence[Channel] = (),
    ):
        self.loop, self.scheduler = loop, scheduler
        self.statistics: Counter[str] = Counter()
        self.disk = Disk(loop, store, spool, space, _give_up)
        routing, numbers = AgentRouting(configuration), Numbers(configuration)
        lanes = Lanes(routing, numbers)
        self.delays = Delays(clock or loop.time)
        self.pauses = Pauses(configuration, numbers, self.delays, scheduler, dispatchers)
        self.starts, self.locks = RequestWindow(parent, STARTS_MAX), RequestWindow(parent, LOCKS_MAX)
        self.to_lookup = RequestWindow(lookup, reexpansion.QUESTIONS_MAX)
        self.agents = AgentPool(loop, self.starts, self.locks, routing, clock or loop.time)
        self.forward_reader = ForwardReader(self.agents, clock or loop.time)
        self.lmtp_features = LmtpFeatures(self.agents, routing, clock or loop.time)
        self.in_flight = InFlight(loop, scheduler)
        reservations = Reservations(1 + secrets.randbelow(MESSAGE_ID_MAX))
        blocks = Blocks(loop, self.disk, reservations)
        self.own_ids = OwnIds(blocks, reservations)
        self.notices = Notices(loop, configuration, self.disk, self.own_ids, self.submit, self.statistics, now)
        self.conclusions = Conclusions(self.disk, self.in_flight, self.notices.owed, self.statistics, now)
        self.reexpansions = Reexpansions(self.to_lookup, self.disk, self.conclusions.conclude)
        by_agents = AgentCarrier(self.agents, routing, self.conclusions.now)
        self.relays = RelayCarrier(
            loop, configuration, numbers, self.delays, dispatchers, scheduler, self.conclusions.now
        )
        self.deliveries = Deliveries(
            AttemptContext(loop, self.disk, self.in_flight, self.conclusions, self.reexpansions, lanes.of),
            {Kind.MDA: by_agents, Kind.MTA: self.relays},
            self.delays,
            self.agents,
            self.statistics,
        )
        lifetimes = {action.name: action.lifetime for action in configuration.actions}
        self.incoming = Incoming(self.disk, reservations, blocks, lifetimes, lanes.of, self.submit, now)
        self.scan = Scan(loop, self.disk, self.conclusions.quarantine, lanes.of_row)
        self.kept_tls = KeptTls(self.disk, self.to_lookup, now)
        self.listing = Listing(self.disk, self.in_flight, numbers, self.delays, self.pauses)
        self.recoding = Recoding(loop, self.disk)
        self._submitted: list[Schedule] = []
        self._submit_timer: asyncio.TimerHandle | None = None
        self._stop_at = math.inf  # by the clock of the loop
        self._scheduler_asked = self._scheduler_done = False
        loop.call_later(1.0, self._every_second)

    def submit(self, schedules: list[Schedule]) -> None:
        """The scheduler hears of them after a moment, together: what it makes due then passes through four processes,
        and each is woken once for several mails.  No client waits for it."""
        self._submitted += schedules
        if len(self._submitted) >= SUBMIT_FULL:
            self._flush()
        elif self._submit_timer is None:
            self._submit_timer = self.loop.call_later(SUBMIT_DELAY, self._flush)

    def _flush(self) -> None:
        if self._submit_timer is not None:
            self._submit_timer.cancel()
            self._submit_timer = None
        schedules, self._submitted = self._submitted, []
        for page in batched(schedules, PAGE):
            self.scheduler.send(EnvelopesSubmitted([*page]))

    def _every_second(self) -> None:
        self.agents.tick()
        self.lmtp_features.tick()
        self.loop.call_later(1.0, self._every_second)

    # -- requests of the parent and control -------------------------------------------------------------------------

    def begin(self) -> None:
        """The scheduler asks for what it wants to know."""
        self.own_ids.refill()
        self.recoding.begin()
        self.notices.begin()

    def report(self, channel: Channel, imsg: ReportStatistics) -> None:
        gauges = {
            "mda.envelope": len(self.in_flight),
            "mda.pending": self.agents.waiting(),
            "mda.running": self.agents.under_way(),
            "mda.user": self.agents.users,
            "queue.evpcache.size": len(self.disk.cache),
        }
        channel.send(StatisticsReported(imsg.request, {**self.statistics, **{k: v for k, v in gauges.items() if v}}))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose

    # -- the end: agents and dispatchers, then the scheduler, then the disk -----------------------------------------

    def stop(self) -> None:
        """Nothing new is begun; what is under way has some seconds, and what is being committed as long as it takes."""
        self._stop_at = self.loop.time() + STOP_TIMEOUT
        self.recoding.stop()
        self.deliveries.stop()
        self.notices.stop()
        self.agents.stop()
        self._wait_for_results()

    def _wait_for_results(self) -> None:
        # Dispatchers have ended before us, but perhaps with more results than have been read: without them, mail that
        # is delivered would be sent again.
        under_way = self.agents.under_way() or self.reexpansions.under_way or self.relays.results_may_come
        under_way = under_way or self.kept_tls.is_asking
        if under_way and self.loop.time() < self._stop_at:
            self.loop.call_later(POLL_INTERVAL, self._wait_for_results)
            return
        self.deliveries.end()
        if self.scheduler.closed:
            self._let_scheduler_go()
        else:
            self._scheduler_asked = True
            self.scheduler.send(StopScheduling())
            self.loop.call_later(SCHEDULER_STOP_TIMEOUT, self._let_scheduler_go)

    def scheduling_stopped(self) -> None:
        """All that the scheduler wanted written has come: the next tries of what was deferred, and what an
        administrator has ordered."""
        if not self._scheduler_asked:
            raise Violation("scheduler answers SchedulingStopped without a request")
        self._let_scheduler_go()

    def _let_scheduler_go(self) -> None:
        if not self._scheduler_done:
            self._scheduler_done = True
            self.conclusions.write_deferred()
            self._wait_for_disk()

    def _wait_for_disk(self) -> None:
        waits_for_room = self.loop.time() >= self._stop_at and self.disk.commits.waits_for_room
        if self.disk.idle or waits_for_room:
            self.disk.close(self._closed)
        else:
            self.loop.call_later(POLL_INTERVAL, self._wait_for_disk)

    def _closed(self, _nothing: None, error: BaseException | None) -> None:
        if error is not None:
            log.warn(f"the store was not closed in order: {error}")
        self.loop.stop()


class Lanes:
    """The lane of any envelope, and the number of its sender, which relayed mail has only."""

    def __init__(self, routing: AgentRouting, numbers: Numbers):
        self._routing, self._numbers = routing, numbers

    def of(self, envelope: Envelope) -> tuple[int, int]:
        if envelope.recipient.kind is Kind.MTA:
            return self._numbers.lane_of(envelope)
        return self._routing.lane_of(envelope.recipient), 0

    def of_row(self, kind: Kind, action: str, user: str, duty: int, destination: str, sender: str) -> tuple[int, int]:
        if kind is Kind.MTA:
            return self._numbers.lane(action, destination, sender)
        return self._routing.lane(action, user, duty), 0


def _give_up() -> None:
    """The disk cannot be trusted any more: the parent stops everybody and says so."""
    log.flush()
    os._exit(1)
