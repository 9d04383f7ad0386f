"""lookup -- decides who a recipient is, what a client may do, what a name means.

    dispatcher --ResolveClient, ClassifyClient-->  lookup  --AddEnvelopes, ReadForward, AskServerForUtf8--> queue
                 CheckCredentials, Scram                  --FindUser, CheckPassword--> parent
                 CheckSender, ExpandRecipient             <--> programs that answer for tables, name servers
         queue --ExpandEnvelope---------------->

SECURITY
    Reads tables, databases, what aliases include, what programs answer for tables, the text of .forward files and DNS
    answers: what others wrote.  Passwords pass through it, and it reads what tables keep of them.  No way into
    anybody's home: a user's own agent reads the file.  Taken over, it could misdirect mail, let everybody in, and learn
    the passwords that are sent from then on.  It could not read the spool or a private key, or make root run anything:
    the parent takes nothing but a user's name and password from it, and a command is run by its digest, if its user's
    own file still names it.

    Sees the directories that its files stand in, as an editor puts a new file in the place of the old one; SQLite's
    databases are read under a lock, which is why it may lock what it can read.
"""

import os
from collections.abc import Iterable

from smtpd import boot, sandbox
from smtpd.imsg import (
    Begin,
    BeginScram,
    CheckCredentials,
    CheckSender,
    ClassifyClient,
    ExpandEnvelope,
    ExpandRecipient,
    FinishScram,
    ForwardRead,
    PasswordChecked,
    ReportStatistics,
    ResolveClient,
    ServerAnswered,
    SetVerbose,
    Stop,
    TakeTableProgram,
    UpdateTable,
    UserFound,
)
from smtpd.ipc.channel import Channel, owned
from smtpd.ipc.log import log
from smtpd.ipc.loop import connect, prepare, unexpected
from smtpd.lookup.resolver_config import read_resolver_config
from smtpd.lookup.state import Lookup
from smtpd.slice import LookupSlice

USER, CHROOT = "_smtpl", None
PLEDGE = "stdio rpath flock inet dns"


def main() -> None:
    handed = boot.receive("lookup", LookupSlice)
    loop = prepare()
    system = read_resolver_config()
    places = [(path, "r") for path in directories(handed.slice.files)]
    required = handed.configure.sandbox_required
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, unveil=places, required=required)
    lookup = Lookup(loop, handed.slice, system, handed.peer("parent"), handed.peer("queue"))
    handed.entered(held)
    handlers = {"parent": from_parent, "dispatcher": from_dispatcher, "queue": from_queue, "control": from_control}
    connect(loop, handed.peers, handlers, lookup)
    loop.run_forever()
    log.flush()
    os._exit(0)  # questions to name servers may be under way; nobody waits for them any more


def directories(files: Iterable[str]) -> list[str]:
    """Those that are there; a file that stands in / itself instead of everything."""
    paths = {path for file in files for path in (file, os.path.realpath(file))}
    seen = {path if (folder := os.path.dirname(path)) == "/" else folder for path in paths}
    return sorted(filter(os.path.exists, seen))


def from_parent(lookup: Lookup, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case Begin():
            lookup.begin()
        case Stop():
            lookup.stop()
        case UserFound():
            lookup.recipients.to_parent.answer(imsg)
        case PasswordChecked():
            lookup.logins.to_parent.answer(imsg)
        case TakeTableProgram():
            lookup.programs.take(imsg, owned(descriptor))
        case _:
            unexpected("parent", imsg)


def from_dispatcher(lookup: Lookup, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ResolveClient():
            lookup.clients.resolve(channel, imsg)
        case ClassifyClient():
            lookup.listener_tables.welcome(channel, imsg)
        case CheckCredentials():
            lookup.logins.check(channel, imsg)
        case BeginScram():
            lookup.logins.begin_scram(channel, imsg)
        case FinishScram():
            lookup.logins.finish_scram(channel, imsg)
        case CheckSender():
            lookup.listener_tables.check_sender(channel, imsg)
        case ExpandRecipient():
            lookup.recipients.expand(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_queue(lookup: Lookup, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ForwardRead() | ServerAnswered():
            lookup.recipients.to_queue.answer(imsg)
        case ExpandEnvelope():
            lookup.recipients.expand_again(channel, imsg)
        case _:
            unexpected("queue", imsg)


def from_control(lookup: Lookup, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ReportStatistics():
            lookup.report(channel, imsg)
        case UpdateTable():
            lookup.update(channel, imsg)
        case SetVerbose():
            lookup.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
