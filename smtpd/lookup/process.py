"""lookup -- decides who a recipient is, what a client may do, what a name means.

    dispatcher --ResolveClient, ExpandRecipient--> lookup --AddEnvelopes, ReadForward--> queue
                                                     |
                                                     +--FindUser--> parent          name servers

SECURITY
    Reads tables, the text of .forward files and DNS answers: what others wrote.  No way into anybody's home: a user's
    own agent reads the file.  Taken over, it could misdirect mail that is coming in.  It could not read the spool or a
    private key, or make root run anything: the parent takes nothing but a user's name from it.
"""

import os

from smtpd import sandbox
from smtpd.config.slice import LookupSlice
from smtpd.imsg import (
    Begin,
    ExpandRecipient,
    ForwardRead,
    ReportStatistics,
    ResolveClient,
    SetVerbose,
    Stop,
    UserFound,
)
from smtpd.ipc import boot
from smtpd.ipc.log import log
from smtpd.ipc.loop import connect, prepare, unexpected
from smtpd.lookup.state import Lookup
from smtpd.lookup.system import read_system

USER, CHROOT = "_smtpl", None
PLEDGE = "stdio rpath inet dns"


def main() -> None:
    handed = boot.receive("lookup", LookupSlice)
    loop = prepare()
    system = read_system()
    files = [(path, "r") for path in handed.slice.files if os.path.exists(path)]
    required = handed.configure.sandbox_required
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, unveil=files, required=required)
    lookup = Lookup(loop, handed.slice, system, handed.peer("parent"), handed.peer("queue"))
    handed.entered(held)
    handlers = {"parent": from_parent, "dispatcher": from_dispatcher, "queue": from_queue, "control": from_control}
    connect(loop, handed.peers, handlers, lookup)
    loop.run_forever()
    log.flush()
    os._exit(0)  # questions to name servers may be under way; nobody waits for them any more


def from_parent(lookup, channel, imsg, descriptor):
    match imsg:
        case Begin():
            lookup.begin()
        case Stop():
            lookup.stop()
        case UserFound():
            lookup.recipients.to_parent.answer(imsg)
        case _:
            unexpected("parent", imsg)


def from_dispatcher(lookup, channel, imsg, descriptor):
    match imsg:
        case ResolveClient():
            lookup.clients.resolve(channel, imsg)
        case ExpandRecipient():
            lookup.recipients.expand(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_queue(lookup, channel, imsg, descriptor):
    match imsg:
        case ForwardRead():
            lookup.recipients.to_queue.answer(imsg)
        case _:
            unexpected("queue", imsg)


def from_control(lookup, channel, imsg, descriptor):
    match imsg:
        case ReportStatistics():
            lookup.report(channel, imsg)
        case SetVerbose():
            lookup.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
