"""One life of the daemon: real queue and real scheduler, on a stage that moves when the model says so.

    dispatcher, lookup, parent, control  --Pipe-->  queue  <--Pipe-->  scheduler

The model is what stands at the other ends (world.py).
"""

import os
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import patch

from smtpd.imsg import Begin
from smtpd.queue import process as queue_process
from smtpd.queue.state import Queue
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import (
    Add,
    Compound,
    Hold,
    Postpone,
    Remove,
    Replace,
    Reschedule,
    StoreBroken,
    StoreFull,
    StoreNotice,
    Suspend,
    Uncount,
)
from smtpd.queue.store.store import CountAttempt as BeginTry
from smtpd.scheduler import process as scheduler_process
from smtpd.scheduler.clock import Clock
from smtpd.scheduler.state import Scheduler
from smtpd.slice import DeliveryLimits, DeliverySlice, Method, QueueSlice, SchedulerSlice
from tests.queue.model.dispatcher import LIMIT
from tests.queue.model.ledger import PromiseBroken
from tests.queue.model.runtime import Crashed, Loop, Pipe, Threads

LIFETIME = 400_000
CONFIGURATION = QueueSlice(
    actions=(
        DeliverySlice("local", Method.MAILDIR, "", LIFETIME),
        DeliverySlice("box", Method.MBOX, "", LIFETIME),
        DeliverySlice("far", Method.LMTP, "_smtpm", LIFETIME),
        DeliverySlice("run", Method.MDA, "", LIFETIME),
        DeliverySlice("out", Method.RELAY, "", LIFETIME),
    ),
    delivery_limits=DeliveryLimits(max_session=3, max_session_per_user=2),
)
LIMITS = SchedulerSlice(
    max_inflight=12, max_inflight_per_message=4, max_inflight_per_lane=8, max_inflight_per_destination=LIMIT
)

# What a disk that is full does not take.
FULL = [
    lambda changes: False,
    lambda changes: True,
    lambda changes: any(isinstance(change, Add | Replace | BeginTry) for change in changes),
    lambda changes: any(isinstance(change, Postpone | Hold) for change in changes),
    lambda changes: any(isinstance(change, Remove | Compound) for change in changes),
    lambda changes: any(isinstance(change, StoreNotice) for change in changes),
    lambda changes: any(isinstance(change, Suspend | Reschedule | Uncount) for change in changes),
    lambda changes: len(changes) > 1,
]


class Disk:
    """Faults of the disk that both store and Space see."""

    def __init__(self):
        self.full = 0  # which of FULL
        self.breaks = 0  # 1: the next transaction fails and has happened, 2: fails and has not
        self.failures = 0  # of this life
        self.crash_in = 0  # the process dies in so many transactions, before it when negative

    def begin(self):
        self.breaks = self.failures = self.crash_in = 0

    def give_up(self):
        if self.failures < 2:
            raise PromiseBroken("the queue gives up a disk that failed once")
        raise Crashed

    def statvfs(self, _path):
        free = 0 if self.full == 1 else 1 << 40
        return SimpleNamespace(f_frsize=1, f_blocks=1 << 41, f_bavail=free, f_files=0, f_favail=0)


class Store:
    """The real one; the ledger hears of each commit."""

    def __init__(self, real, disk, ledger):
        self._real, self._disk, self._ledger = real, disk, ledger
        reads = ("load", "envelopes", "schedules", "find_message", "expanded", "sizes", "messages", "spooled")
        for name in (*reads, "tls_hosts", "sts_policies", "owed", "statuses"):
            setattr(self, name, getattr(real, name))
        self.run, self.settle, self.shrink, self.close = real.run, real.settle, real.shrink, real.close

    @property
    def failures(self):
        return self._disk.failures

    @property
    def unsettled(self):
        return self._real.unsettled

    def apply(self, changes):
        disk = self._disk
        before, disk.crash_in = disk.crash_in, disk.crash_in - (disk.crash_in > 0) + (disk.crash_in < 0)
        if before == -1:
            raise Crashed
        if FULL[disk.full](changes):
            raise StoreFull("no space left on device")
        breaks, disk.breaks = disk.breaks, 0
        disk.failures += breaks > 0
        if breaks == 2:
            raise StoreBroken("input/output error")
        gone = self._real.apply(changes)
        self._ledger.committed(changes)
        if before == 1:
            raise Crashed
        if breaks:
            raise StoreBroken("input/output error")
        return gone

    def repair(self, doubtful):
        self._real.repair(doubtful)
        for message in doubtful:
            self._ledger.drop(message)


class DaemonRun:
    def __init__(self, directory, clock, disk, ledger, sent: Callable):
        Threads.all.clear()
        self.loops = [Loop(clock), Loop(clock)]
        queue_loop, scheduler_loop = self.loops
        self.store = Store(SQLiteStore(directory), disk, ledger)
        self._spool = Spool(directory)
        self._spool.remove_orphans(self.store, lambda text: None)
        arrows = [
            *((role, "queue") for role in ("dispatcher", "lookup", "parent", "scheduler")),
            *(("queue", role) for role in ("dispatcher", "lookup", "parent", "scheduler")),
            *(("control", "scheduler"), ("scheduler", "control")),
        ]
        self.pipes = {arrow: Pipe(*arrow, sent=sent) for arrow in arrows}
        with (
            patch("smtpd.queue.store.disk.DiskThreads", Threads),
            patch("smtpd.queue.store.commit.DiskThreads", Threads),
        ):
            self.queue = Queue(
                queue_loop,
                CONFIGURATION,
                self.store,
                self._spool,
                Space(directory, clock.monotonic, disk.statvfs),
                *(self.pipes["queue", role] for role in ("scheduler", "parent", "lookup")),
                clock.monotonic,
                clock.time,
                dispatchers=[self.pipes["queue", "dispatcher"]],
            )
        self.queue.disk.commits._give_up = disk.give_up
        to_queue, to_control = self.pipes["scheduler", "queue"], self.pipes["scheduler", "control"]
        steady = Clock(clock.time, clock.monotonic)
        self.scheduler = Scheduler(scheduler_loop, LIMITS, to_queue, to_control, steady)
        self.threads = [*Threads.all]
        self.scheduler.begin()
        self.pipes["parent", "queue"].send(Begin())

    def take(self, sender, receiver):
        """Let `receiver` have the next imsg of `sender`, in one of the two processes."""
        imsg, descriptor = self.pipes[sender, receiver].imsgs.popleft()
        module, state = (queue_process, self.queue) if receiver == "queue" else (scheduler_process, self.scheduler)
        channel = self.pipes[receiver, sender]
        getattr(module, f"from_{sender}")(state, channel, imsg, descriptor)

    @property
    def rows(self):
        return self.store.envelopes(0, 2**63 - 1, 10_000)

    def close(self):
        """Give back what the process would have lost with its life."""
        for line in self.queue.agents.queues.values():
            if line.agent is not None:
                line.agent.close()
        for receiving in self.queue.incoming._receiving.values():
            if receiving.own_descriptor is not None:
                os.close(receiving.own_descriptor)
        for pipe in self.pipes.values():
            _close(descriptor for _, descriptor in pipe.imsgs)
        for threads in self.threads:
            for _, result, _ in threads.answers:
                if threads.name == "spool":
                    _close(result if isinstance(result, tuple) else [result])
        self.store.close()
        os.close(self._spool._directory)


def _close(descriptors):
    for descriptor in descriptors:
        if isinstance(descriptor, int):
            os.close(descriptor)
