"""control -- takes orders from local tools, adds up statistics, and passes the log on to syslog.

    smtpctl --ListEnvelopes, UpdateTable, PauseListeners …--> control --the same--> queue, lookup, dispatchers …
    sendmail --session--> control --OpenSession--> the first dispatcher                    (a query: ipc/query.py)
    all processes --log lines--> control --> /dev/log
    control --ReopenSyslog, SetVerbose--> parent

SECURITY
    Reads what any local user sends to its socket; the kernel tells the user's uid.  Only root may give
    orders; any other user gets an SMTP session to hand in mail, and nothing else.  In a daemon that does not run as
    root, its own user takes root's place.  Taken over, it sees the queue, has mail removed or tried and tables read
    again, and forges the log.  It has no file and no network.
"""

import os
import socket

from smtpd import boot, sandbox
from smtpd.control.client import Client
from smtpd.control.log_forwarder import LogForwarder
from smtpd.control.state import Control
from smtpd.imsg import (
    Begin,
    ContentNotOpened,
    ContentOpened,
    DeliveriesPaused,
    DestinationsFound,
    DomainsListed,
    EnvelopesListed,
    EnvelopesRemoved,
    EnvelopesScheduled,
    EnvelopesSelected,
    EnvelopesSuspended,
    FindDestinations,
    HostsListed,
    ListDomains,
    ListenersPaused,
    ListEnvelopes,
    ListHosts,
    ListPaused,
    ListQuarantine,
    ListRelays,
    ListRoutes,
    OpenContent,
    PauseDeliveries,
    PausedListed,
    PauseListeners,
    PauseRelaying,
    QuarantineListed,
    RelayingPaused,
    RelaysListed,
    RemoveEnvelopes,
    ReopenSyslog,
    ResumeRoute,
    RouteResumed,
    RoutesListed,
    ScheduleEnvelopes,
    SelectEnvelopes,
    SessionOpened,
    SessionRefused,
    SetVerbose,
    ShowStatistics,
    StatisticsReported,
    Stop,
    SuspendEnvelopes,
    TableUpdated,
    TakeSyslog,
    UpdateTable,
)
from smtpd.ipc import query
from smtpd.ipc.channel import Channel, owned, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.slice import ControlSlice

USER, CHROOT = "_smtpx", "empty"
PLEDGE = "stdio recvfd sendfd"


def main() -> None:
    handed = boot.receive("control", ControlSlice)
    loop = SelectorLoop()
    privileged_uids = frozenset({0, os.getuid()})  # before we change it: that of the user who started the daemon
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, required=handed.configure.sandbox_required)
    handed.entered(held)
    assert handed.control_socket is not None
    log_forwarder = LogForwarder(loop, handed.logs, handed.syslog, lambda: handed.parent.send(ReopenSyslog()))
    control = Control(
        loop,
        handed.peers,
        handed.control_socket,
        privileged_uids,
        from_smtpctl,
        query_from_smtpctl,
        log_forwarder,
        handed.configure.paused,
    )
    handlers = {
        "parent": from_parent,
        "queue": from_queue,
        "scheduler": from_scheduler,
        "dispatcher": from_dispatcher,
        "lookup": from_lookup,
        "crypto": from_crypto,
    }
    connect(loop, handed.peers, handlers, control)
    loop.run_forever()


def from_parent(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case Begin():
            control.begin()
        case Stop():
            control.stop()
        case TakeSyslog():
            control.log_forwarder.take_syslog(socket.socket(fileno=owned(descriptor)))
        case _:
            unexpected("parent", imsg)


def from_smtpctl(control: Control, client: Client, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ListEnvelopes():
            control.list_envelopes(client, imsg)
        case SelectEnvelopes() | ListQuarantine() | OpenContent() | FindDestinations() | PauseRelaying() | ListPaused():
            control.forward(client, imsg, "queue")
        case ScheduleEnvelopes() | RemoveEnvelopes() | SuspendEnvelopes():
            control.forward(client, imsg, "scheduler")
        case ListRelays() | ListRoutes() | ListHosts() | ListDomains() | ResumeRoute():
            control.ask_dispatcher(client, imsg)
        case PauseDeliveries():
            control.pause_deliveries(client, imsg)
        case PauseListeners():
            control.pause_listeners(client, imsg)
        case UpdateTable():
            control.forward(client, imsg, "lookup")
        case ShowStatistics():
            control.show_statistics(client, imsg)
        case SetVerbose():
            control.set_verbose(client, imsg)
        case _:
            unexpected("smtpctl", imsg)


def query_from_smtpctl(control: Control, client: Client, word: str) -> None:
    match word:
        case query.SESSION:
            control.open_session(client)
        case query.STATUS:
            control.show_status(client)
        case _:
            control.refuse(client, "smtpd does not know this query: it is of another version, and has to be restarted")


def from_queue(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case EnvelopesListed() | EnvelopesSelected() | QuarantineListed() | DestinationsFound():
            control.answered(channel, imsg)
        case RelayingPaused() | PausedListed():
            control.answered(channel, imsg)
        case ContentOpened():
            control.answered(channel, imsg, descriptor)
        case ContentNotOpened() | StatisticsReported():
            control.answered(channel, imsg)
        case _:
            unexpected("queue", imsg)


def from_scheduler(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case EnvelopesScheduled() | EnvelopesRemoved() | EnvelopesSuspended():
            control.answered(channel, imsg)
        case DeliveriesPaused() | StatisticsReported():
            control.answered(channel, imsg)
        case _:
            unexpected("scheduler", imsg)


def from_dispatcher(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case SessionOpened():
            control.answered(channel, imsg, descriptor)
        case SessionRefused() | ListenersPaused() | StatisticsReported():
            control.answered(channel, imsg)
        case RelaysListed() | RoutesListed() | HostsListed() | DomainsListed() | RouteResumed():
            control.answered(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_lookup(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case TableUpdated() | StatisticsReported():
            control.answered(channel, imsg)
        case _:
            unexpected("lookup", imsg)


def from_crypto(control: Control, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case StatisticsReported():
            control.answered(channel, imsg)
        case _:
            unexpected("crypto", imsg)
