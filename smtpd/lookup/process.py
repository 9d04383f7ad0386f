"""lookup -- expands recipients, evaluates the rules, checks logins, resolves names of clients, finds hosts for mail.

    dispatcher --ResolveClient, ClassifyClient-->  lookup  --AddEnvelopes, ReadForward, AskServerForUtf8--> queue
                 CheckCredentials, Scram                  --FindUser, CheckPassword--> parent
                 CheckSender, ExpandRecipient,            <--> table programs, name servers
                 FindHosts
         queue --ExpandEnvelope, FindStsRecords-->

SECURITY
    Reads tables, databases, include files, answers of table programs, the text of .forward files and DNS answers, all
    written by others.  Passwords pass through it, and it reads password hashes.  It has no access to home directories:
    a user's own agent reads the .forward.  Taken over, it could misdirect mail, also to hosts of others, accept any
    login, and learn the passwords that are sent from then on.  It could not read the spool or a private key, or make
    root run anything: the parent accepts only a user's name and password from it, and a command is run by its digest,
    if its user's own file still has it.

    Sees the directories of its files, as an editor replaces a file by a new one; SQLite databases are read under a
    lock, which is why it may lock files that it can read.
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
    FindHosts,
    FindRelayCredentials,
    FindRoute,
    FindStsRecords,
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
from smtpd.ipc.channel import Channel, owned, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.lookup.resolver_config import read_resolver_config
from smtpd.lookup.state import Lookup
from smtpd.slice import OUR_USERS, LookupSlice

USER, CHROOT = "_smtpl", None
PLEDGE = "stdio rpath flock inet dns"


def main() -> None:
    handed = boot.receive("lookup", LookupSlice)
    loop = prepare()
    system = read_resolver_config()
    reserved_uids = sandbox.find_uids(OUR_USERS) if os.geteuid() == 0 else ()
    unveiled = [(path, "r") for path in directories(handed.slice.files)]
    required = handed.configure.sandbox_required
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, unveil=unveiled, required=required)
    lookup = Lookup(loop, handed.slice, system, handed.peer("parent"), handed.peer("queue"), reserved_uids)
    handed.entered(held)
    handlers = {"parent": from_parent, "dispatcher": from_dispatcher, "queue": from_queue, "control": from_control}
    connect(loop, handed.peers, handlers, lookup, bounded=["dispatcher"])
    loop.run_forever()
    log.flush()
    os._exit(0)  # DNS questions may be open, whose answers are no longer needed


def directories(files: Iterable[str]) -> list[str]:
    """The existing directories of the files, and of what links lead to; for a file in / only the file itself."""
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
            lookup.listeners.classify(channel, imsg)
        case CheckCredentials():
            lookup.logins.check(channel, imsg)
        case BeginScram():
            lookup.logins.begin_scram(channel, imsg)
        case FinishScram():
            lookup.logins.finish_scram(channel, imsg)
        case CheckSender():
            lookup.listeners.check_sender(channel, imsg)
        case ExpandRecipient():
            lookup.recipients.expand(channel, imsg)
        case FindHosts():
            lookup.find_hosts(channel, imsg)
        case FindRoute():
            lookup.routes.find(channel, imsg)
        case FindRelayCredentials():
            lookup.routes.find_credentials(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_queue(lookup: Lookup, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ForwardRead() | ServerAnswered():
            lookup.recipients.to_queue.answer(imsg)
        case ExpandEnvelope():
            lookup.recipients.expand_again(channel, imsg)
        case FindStsRecords():
            lookup.find_sts_records(channel, imsg)
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
