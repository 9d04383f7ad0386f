"""scheduler -- knows when to try what again.

    queue --EnvelopesSubmitted, EnvelopesTried, EnvelopesEnded, EnvelopeReplaced, StopScheduling--> scheduler
    queue --DestinationDelayed, DestinationResumed, PauseDestination--> scheduler
    scheduler --EnvelopesDue, PostponeEnvelopes, ExpireEnvelopes, DeleteEnvelopes, MarkSuspended,
                ScanEnvelopes, TryDestinations, SchedulingStopped--> queue
    control --ScheduleEnvelopes, RemoveEnvelopes, SuspendEnvelopes, PauseDeliveries--> scheduler

SECURITY
    Reads numbers that queue made, and nothing that came from outside.  Taken over, it has mail tried at the wrong time,
    or deleted.  It sees no address, no content, no file and no network.
"""

import gc

from smtpd import boot, sandbox
from smtpd.envelope import Kind
from smtpd.imsg import (
    Begin,
    DestinationDelayed,
    DestinationResumed,
    EnvelopeReplaced,
    EnvelopesEnded,
    EnvelopesScanned,
    EnvelopesSubmitted,
    EnvelopesTried,
    PauseDeliveries,
    PauseDestination,
    RemoveEnvelopes,
    ReportStatistics,
    ScheduleEnvelopes,
    SetVerbose,
    Stop,
    StopScheduling,
    SuspendEnvelopes,
)
from smtpd.ipc.channel import Channel, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.scheduler.state import Scheduler
from smtpd.slice import SchedulerSlice

USER, CHROOT = "_smtps", "empty"
PLEDGE = "stdio"


def main() -> None:
    handed = boot.receive("scheduler", SchedulerSlice)
    loop = SelectorLoop()
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, required=handed.configure.sandbox_required)
    handed.entered(held)
    scheduler = Scheduler(loop, handed.slice, handed.peer("queue"), handed.peer("control"))
    for kind in Kind:
        if kind.name.lower() in handed.configure.paused:
            scheduler.policy.pause(kind, True)
    gc.freeze()  # what is loaded now stays
    connect(loop, handed.peers, {"queue": from_queue, "control": from_control, "parent": from_parent}, scheduler)
    loop.run_forever()


def from_parent(scheduler: Scheduler, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case Begin():
            scheduler.begin()
        case Stop():
            scheduler.loop.stop()
        case _:
            unexpected("parent", imsg)


def from_queue(scheduler: Scheduler, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case EnvelopesSubmitted():
            scheduler.take_submitted(imsg)
        case EnvelopesScanned():
            scheduler.take_scanned(imsg)
        case EnvelopesEnded():
            scheduler.take_ended(imsg)
        case EnvelopesTried():
            scheduler.take_results(imsg)
        case EnvelopeReplaced():
            scheduler.take_replaced(imsg)
        case DestinationDelayed():
            scheduler.take_delay(imsg)
        case DestinationResumed():
            scheduler.take_resume(imsg)
        case PauseDestination():
            scheduler.pause_destination(imsg)
        case StopScheduling():
            scheduler.stop_scheduling()
        case _:
            unexpected("queue", imsg)


def from_control(scheduler: Scheduler, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ScheduleEnvelopes() | RemoveEnvelopes() | SuspendEnvelopes():
            scheduler.order(imsg)
        case PauseDeliveries():
            scheduler.pause(imsg)
        case ReportStatistics():
            scheduler.report(imsg)
        case SetVerbose():
            scheduler.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
