"""State of the scheduler process: the policy, the orders, and the clock that the policy does not have.

imsgs --> policy --> turn, at the end of this turn of the loop, and when the next timer is due --> EnvelopesDue
"""

from typing import Any

from smtpd.imsg import (
    DeleteEnvelopes,
    DeliveriesPaused,
    DestinationDelayed,
    DestinationResumed,
    EnvelopeReplaced,
    EnvelopesDue,
    EnvelopesEnded,
    EnvelopesScanned,
    EnvelopesSubmitted,
    EnvelopesTried,
    ExpireEnvelopes,
    MarkSuspended,
    PauseDeliveries,
    PauseDestination,
    PostponeEnvelopes,
    ReportStatistics,
    ScanEnvelopes,
    SchedulingStopped,
    SetVerbose,
    StatisticsReported,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.event_loop import Cancellable, EventLoop
from smtpd.ipc.log import log
from smtpd.scheduler.admin_order import UNREAD_BYTES_MAX, AdminOrder, AdminOrders
from smtpd.scheduler.clock import Clock
from smtpd.scheduler.policy import Policy
from smtpd.slice import SchedulerSlice

TIMER_MAX = 60.0  # seconds: the machine may have been suspended, which the loop's timers do not count
CATCH_UP_DELAY = 0.05  # seconds, for queue to catch up
ORDER_DELAY = 0.03  # seconds; queue keeps new mail to itself for a third of it (SUBMIT_DELAY in queue/state.py)


class Scheduler:
    def __init__(
        self,
        loop: EventLoop,
        configuration: SchedulerSlice,
        queue: Channel,
        control: Channel,
        clock: Clock | None = None,
    ):
        self.loop = loop
        self.clock = clock or Clock()
        self.queue, self.control = queue, control
        self.policy = Policy(configuration)
        self.orders = AdminOrders(self.policy, self._to_queue, lambda imsg: control.send(imsg))
        self._timer: Cancellable | None = None
        self._soon = False
        self._stopped = False

    def _to_queue(self, imsg: Any) -> None:
        if not self._stopped:
            self.queue.send(imsg)

    # -- start, and what queue says ----------------------------------------------------

    def begin(self) -> None:
        self._to_queue(ScanEnvelopes(0))

    def take_submitted(self, imsg: EnvelopesSubmitted) -> None:
        now, ahead = self.clock.now(), self.clock.ahead()
        for schedule in imsg.schedules:
            self.policy.submit(schedule, now, ahead)
        self._turn_soon()

    def take_scanned(self, imsg: EnvelopesScanned) -> None:
        """Pages ascend, and after the last one there is none."""
        if self.orders.scanned is None or 0 < imsg.last <= self.orders.scanned:
            raise Violation("queue answers EnvelopesScanned without a request")
        self.orders.scanned = imsg.last or None
        if imsg.last:
            self._to_queue(ScanEnvelopes(imsg.last))
        else:
            log.debug(f"scan: {len(self.policy.table)} envelopes")
        self._turn_soon()

    def take_results(self, imsg: EnvelopesTried) -> None:
        now = self.clock.now()
        updates = self.policy.tried(imsg.delivered, imsg.deferred, imsg.held, now, imsg.returned, imsg.failed)
        if updates.postponed:
            ahead = self.clock.ahead()
            self._to_queue(PostponeEnvelopes([(id, max(0, time + ahead)) for id, time in updates.postponed]))
        if updates.expired:
            self._to_queue(ExpireEnvelopes(updates.expired))
        if updates.removed:
            self._to_queue(DeleteEnvelopes(updates.removed))
        self._turn_soon()

    def take_ended(self, imsg: EnvelopesEnded) -> None:
        self.policy.ended(imsg.envelopes)
        self._turn_soon()

    def take_replaced(self, imsg: EnvelopeReplaced) -> None:
        updates = self.policy.replaced(imsg.envelope, imsg.schedules, self.clock.now(), self.clock.ahead())
        if updates.removed:
            self._to_queue(DeleteEnvelopes(updates.removed))
        if updates.suspended:
            self._to_queue(MarkSuspended(updates.suspended, True))
        if updates.resumed:
            self._to_queue(MarkSuspended(updates.resumed, False))
        self.orders.replaced([schedule.envelope for schedule in imsg.schedules])
        self._turn_soon()

    def take_delay(self, imsg: DestinationDelayed) -> None:
        self.policy.destinations.delay_reported(imsg.destination, self.clock.now(), imsg.seconds)
        self._turn_soon()

    def take_resume(self, imsg: DestinationResumed) -> None:
        self.policy.destinations.resume_reported(imsg.destination, self.clock.now())
        self._turn_soon()

    def pause_destination(self, imsg: PauseDestination) -> None:
        self.policy.pause_destination(imsg.destination, imsg.paused)
        self._turn_soon()

    def stop_scheduling(self) -> None:
        """What queue told before this has been answered."""
        self._to_queue(SchedulingStopped())
        self._stopped = True

    # -- time ----------------------------------------------------------------------------

    def _turn_soon(self) -> None:
        """At the end of this turn of the loop, once for all that it brought."""
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = False
        if self._stopped:
            return
        now = self.clock.now()
        if self.orders.ready and self.queue.bytes_waiting < UNREAD_BYTES_MAX:
            self.orders.turn(now + self.clock.ahead())
        due = self.policy.turn(now)
        for destination, envelopes in self.policy.take_expired().items():
            self._to_queue(ExpireEnvelopes(envelopes, destination))
        if due:
            self._to_queue(EnvelopesDue(due))
        self._set_timer(now)

    def _set_timer(self, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.policy.busy(now) or self.orders.ready and self.queue.bytes_waiting < UNREAD_BYTES_MAX:
            self._turn_soon()
        elif self.orders.ready:
            self._timer = self.loop.call_later(CATCH_UP_DELAY, self._turn_soon)
        elif (next_time := self.policy.next_time()) is not None:
            self._timer = self.loop.call_later(
                min(max(0.0, next_time - self.clock.exact()), TIMER_MAX), self._turn_soon
            )

    # -- what control says ------------------------------------------------------------------

    def order(self, imsg: AdminOrder) -> None:
        """It concerns all mail that has been accepted before: queue tells of that after a moment."""
        self.loop.call_later(ORDER_DELAY, self._begin_order, imsg)

    def _begin_order(self, imsg: AdminOrder) -> None:
        self.orders.add(imsg)
        self._turn_soon()

    def pause(self, imsg: PauseDeliveries) -> None:
        changed = self.policy.pause(imsg.kind, imsg.paused)
        if changed:
            log.info(f"{imsg.kind.name.lower()} {'paused' if imsg.paused else 'resumed'}")
        self.control.send(DeliveriesPaused(imsg.request, changed))
        self._turn_soon()

    def report(self, imsg: ReportStatistics) -> None:
        counters = dict(self.policy.statistics)
        counters["scheduler.envelope"] = len(self.policy.table)
        counters["scheduler.envelope.inflight"] = self.policy.inflight.total()
        if destinations := len(self.policy.destinations):
            counters["scheduler.destination"] = destinations
            counters["scheduler.destination.delayed"] = self.policy.destinations.delayed
        self.control.send(StatisticsReported(imsg.request, counters))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
