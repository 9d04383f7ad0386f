"""dispatcher -- the network: takes mail from SMTP clients, and shows them the answers of the others.

    clients <--SMTP--> dispatcher --ResolveClient, ExpandRecipient--> lookup
                           |
                           +--ReserveMessageIds, OpenSpoolFile, StoreMessage, ForgetMessage--> queue

SECURITY
    Reads what anybody on the network sends: the process that we expect to fall first.  Taken over, it reads and forges
    the mail that passes.  It has no arrow to the parent, makes no envelopes, holds no key, and sees no file but the
    spool files that queue opened for it.  There may be several; none knows of another.
"""

from smtpd import sandbox
from smtpd.config.slice import DispatcherSlice
from smtpd.dispatcher.state import Dispatcher
from smtpd.imsg import (
    Begin,
    ClientResolved,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    PauseListeners,
    RecipientExpanded,
    RecipientRefused,
    ReportStatistics,
    SetVerbose,
    SpoolFileOpened,
    SpoolFileRefused,
    Stop,
)
from smtpd.ipc import boot
from smtpd.ipc.loop import connect, prepare, unexpected

USER, CHROOT = "_smtpd", "empty"
PLEDGE = "stdio inet recvfd"


def main() -> None:
    handed = boot.receive("dispatcher", DispatcherSlice)
    loop = prepare()
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, required=handed.configure.sandbox_required)
    handed.entered(held)
    dispatcher = Dispatcher(loop, handed.slice, handed.listeners, handed.peer("lookup"), handed.peer("queue"))
    if "smtp" in handed.configure.paused:
        dispatcher.listeners.pause(True)
    handlers = {"parent": from_parent, "lookup": from_lookup, "queue": from_queue, "control": from_control}
    connect(loop, handed.peers, handlers, dispatcher)
    loop.run_forever()


def from_parent(dispatcher, channel, imsg, descriptor):
    match imsg:
        case Begin():
            dispatcher.begin()
        case Stop():
            dispatcher.stop()
        case _:
            unexpected("parent", imsg)


def from_lookup(dispatcher, channel, imsg, descriptor):
    match imsg:
        case ClientResolved():
            dispatcher.office.to_lookup.answer(imsg)
        case RecipientExpanded():
            dispatcher.office.to_lookup.answer(imsg)
        case RecipientRefused():
            dispatcher.office.to_lookup.answer(imsg)
        case _:
            unexpected("lookup", imsg)


def from_queue(dispatcher, channel, imsg, descriptor):
    match imsg:
        case MessageIdsReserved():
            dispatcher.office.to_queue.answer(imsg)
        case SpoolFileOpened():
            dispatcher.office.to_queue.answer(imsg, descriptor)
        case SpoolFileRefused():
            dispatcher.office.to_queue.answer(imsg, None)
        case MessageStored():
            dispatcher.office.to_queue.answer(imsg)
        case MessageRefused():
            dispatcher.office.to_queue.answer(imsg)
        case _:
            unexpected("queue", imsg)


def from_control(dispatcher, channel, imsg, descriptor):
    match imsg:
        case PauseListeners():
            dispatcher.pause(channel, imsg)
        case ReportStatistics():
            dispatcher.report(channel, imsg)
        case SetVerbose():
            dispatcher.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
