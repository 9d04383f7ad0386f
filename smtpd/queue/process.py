"""queue -- keeps mail and envelopes on disk, and hands mail to the agents of its recipients.

    dispatcher --ReserveMessageIds, OpenSpoolFile, StoreMessage, ForgetMessage--> queue
    queue --RelayMessage, TryDestination--> dispatcher
    dispatcher --FetchContent, RelayTried, ReturnRecipients, DelayDestination, …--> queue
    lookup --AddEnvelopes, ReadForward, AskServerForUtf8--> queue --ExpandEnvelope, FindStsRecords--> lookup
    queue --EnvelopesSubmitted, EnvelopesTried, EnvelopesEnded, EnvelopeReplaced, StopScheduling--> scheduler
    queue --DestinationDelayed, DestinationResumed--> scheduler
    scheduler --EnvelopesDue, PostponeEnvelopes, SchedulingStopped, …--> queue
    queue --StartAgent, EndAgent, LockMailbox, UnlockMailbox--> parent             queue --errands--> agents
    control --ListEnvelopes, ListQuarantine, OpenContent, FindDestinations, PauseRelaying, ListPaused--> queue

SECURITY
    Reads mail as bytes that it does not look into, but for where a header ends, and the answers of agents, which are
    processes of users, and of other hosts.  Puts both into notices to senders, by way of header/report.py.  Sees the
    spool and nothing else; no network, no execution.  Taken over, it reads, loses and misdelivers mail: it could give
    any mail to any user's agent.  It could not become a user, nor read a home, nor have a command run that does not
    stand in the configuration, in an alias file of root's, or in the .forward of the user who runs it.
"""

import gc
import os
import sys

from smtpd import boot, sandbox
from smtpd.imsg import (
    AddEnvelopes,
    AgentRefused,
    AgentStarted,
    AskServerForUtf8,
    Begin,
    DelayDestination,
    DeleteEnvelopes,
    EnvelopeExpanded,
    EnvelopeNotExpanded,
    EnvelopesDue,
    ExpireEnvelopes,
    FetchContent,
    FindDestinations,
    ForgetMessage,
    KeepTls,
    ListEnvelopes,
    ListPaused,
    ListQuarantine,
    MailboxLocked,
    MailboxNotLocked,
    MarkSuspended,
    OpenContent,
    OpenSpoolFile,
    PauseRelaying,
    PostponeEnvelopes,
    ReadForward,
    ReadStsPolicies,
    ReadTlsHosts,
    RelayTried,
    ReportStatistics,
    ReserveMessageIds,
    ResumeDestination,
    ReturnRecipients,
    ScanEnvelopes,
    SchedulingStopped,
    SelectEnvelopes,
    SetVerbose,
    Stop,
    StoreMessage,
    StsRecordsFound,
    TryDestinations,
)
from smtpd.ipc.channel import Channel, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.ipc.os_error import describe_error
from smtpd.queue.state import Queue
from smtpd.queue.store.content_codec import Codec
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool, SpoolLocked, lock
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import StoreBroken, StoreFull
from smtpd.slice import QueueSlice

USER, CHROOT = "_smtpq", "spool"
PLEDGE = "stdio rpath wpath cpath flock recvfd sendfd memfd"

UNVEIL = [("/", "rwc")]
SWITCH_INTERVAL = 0.0005  # seconds: the writing thread asks for its turn between two statements, and is to get it soon


def main() -> None:
    handed = boot.receive("queue", QueueSlice)
    loop = prepare()
    codec = make_codec(handed.queue_keys, compresses=handed.slice.compression)
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, unveil=UNVEIL, required=handed.configure.sandbox_required)
    directory = sandbox.inside(handed.configure.spool)
    try:
        held_for_life = lock(directory)
        store = SQLiteStore(directory, codec, tell_held=handed.slice.tell_held)
        spool = Spool(directory, codec)
        clear(store, spool)
    except (SpoolLocked, StoreBroken, StoreFull, OSError) as error:
        log.warn(f"fatal: the spool cannot be opened: {describe_error(error)}")
        raise SystemExit(1) from None
    handed.entered(held)
    sys.setswitchinterval(SWITCH_INTERVAL)
    space = Space(directory, loop.time)
    peers = handed.peer("scheduler"), handed.parent, handed.peer("lookup")
    dispatchers = sorted((peer for peer in handed.peers if peer.peer == "dispatcher"), key=lambda peer: peer.number)
    queue = Queue(loop, handed.slice, store, spool, space, *peers, dispatchers=dispatchers)
    handlers = {
        "dispatcher": from_dispatcher,
        "lookup": from_lookup,
        "scheduler": from_scheduler,
        "control": from_control,
        "parent": from_parent,
    }
    gc.freeze()  # what stands now stands for good
    connect(loop, handed.peers, handlers, queue, bounded=["dispatcher"])
    loop.run_forever()
    del held_for_life


def make_codec(descriptor: int | None, *, compresses: bool) -> Codec:
    """`descriptor`: the file of `queue encryption`, which is root's.  OpenSSL is loaded for it, and tried out."""
    if descriptor is None:
        return Codec(compresses=compresses)
    from smtpd.tls import aes_gcm, content_key
    from smtpd.tls.openssl_library import TlsUnusable

    try:
        aes_gcm.self_test()
        with os.fdopen(descriptor, "rb") as file:
            keys = content_key.parse_keys(file.read(content_key.KEYS_TEXT_MAX + 1))
    except (OSError, TlsUnusable, content_key.KeyFileError) as error:
        log.warn(f"fatal: queue encryption: {describe_error(error)}")
        raise SystemExit(1) from None
    current = "no key" if keys.current is None else f"key {keys.current.id:016x}"
    log.info(f"queue encryption: {current} for new mail, {len(keys.ids)} in all to read with")
    return Codec(compresses=compresses, keys=keys)


def clear(store: SQLiteStore, spool: Spool) -> None:
    """A damaged page of the database keeps files of no message where they are, and no message from its users."""
    try:
        spool.remove_orphans(store, log.warn)
    except (StoreBroken, StoreFull, OSError):
        raise
    except Exception as error:  # noqa: BLE001  (what is wrong with some rows, rule R8)
        log.trouble("spool files of messages that were never accepted cannot be told from others now", error)


def from_parent(queue: Queue, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case Begin():
            queue.begin()
        case Stop():
            queue.stop()
        case AgentStarted():
            queue.starts.answer(imsg, descriptor)
        case AgentRefused():
            queue.starts.answer(imsg)
        case MailboxLocked() | MailboxNotLocked():
            queue.locks.answer(imsg)
        case _:
            unexpected("parent", imsg)


def from_dispatcher(queue: Queue, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ReserveMessageIds():
            queue.incoming.reserve(channel, imsg)
        case OpenSpoolFile():
            queue.incoming.open_spool_file(channel, imsg)
        case StoreMessage():
            queue.incoming.store_message(channel, imsg)
        case ForgetMessage():
            queue.incoming.forget_message(channel, imsg)
        case FetchContent():
            queue.relays.fetch(channel, imsg)
        case RelayTried():
            queue.relays.tried(channel, imsg)
        case ReturnRecipients():
            queue.relays.give_back(channel, imsg)
        case DelayDestination():
            queue.relays.delay(channel, imsg)
        case ResumeDestination():
            queue.relays.resume(channel, imsg)
        case ReadTlsHosts():
            queue.kept_tls.read_hosts(channel, imsg)
        case ReadStsPolicies():
            queue.kept_tls.read_policies(channel, imsg)
        case KeepTls():
            queue.kept_tls.keep(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_lookup(queue: Queue, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case AddEnvelopes():
            queue.incoming.add_envelopes(imsg)
        case ReadForward():
            queue.forward_reader.read(channel, imsg)
        case AskServerForUtf8():
            queue.lmtp_features.ask(channel, imsg)
        case EnvelopeExpanded() | EnvelopeNotExpanded() | StsRecordsFound():
            queue.to_lookup.answer(imsg)
        case _:
            unexpected("lookup", imsg)


def from_scheduler(queue: Queue, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ScanEnvelopes():
            queue.scan.scan(channel, imsg)
        case EnvelopesDue():
            queue.deliveries.due(imsg)
        case PostponeEnvelopes():
            queue.deliveries.postpone(imsg)
        case ExpireEnvelopes():
            queue.deliveries.expire(imsg)
        case DeleteEnvelopes():
            queue.deliveries.delete(imsg)
        case MarkSuspended():
            queue.deliveries.suspend(imsg)
        case TryDestinations():
            queue.relays.try_destinations(imsg)
        case SchedulingStopped():
            queue.scheduling_stopped()
        case _:
            unexpected("scheduler", imsg)


def from_control(queue: Queue, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ListEnvelopes():
            queue.listing.list_envelopes(channel, imsg)
        case SelectEnvelopes():
            queue.listing.select(channel, imsg)
        case ListQuarantine():
            queue.listing.list_quarantine(channel, imsg)
        case OpenContent():
            queue.listing.open_content(channel, imsg)
        case FindDestinations():
            queue.listing.find_destinations(channel, imsg)
        case PauseRelaying():
            queue.pauses.pause(channel, imsg)
        case ListPaused():
            queue.pauses.list(channel, imsg)
        case ReportStatistics():
            queue.report(channel, imsg)
        case SetVerbose():
            queue.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
