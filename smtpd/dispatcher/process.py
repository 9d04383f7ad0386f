"""dispatcher -- takes mail from SMTP clients, and tells them the answers of lookup and queue; relays mail.

    clients <--SMTP, TLS--> dispatcher --ResolveClient, ClassifyClient, ExpandRecipient--> lookup
                              |    |   --CheckCredentials, BeginScram, FinishScram, CheckSender--> lookup
                              |    |
                              |    +--ReserveMessageIds, OpenSpoolFile, StoreMessage, ForgetMessage--> queue
    queue --RelayMessage--> dispatcher --FindRoute, FindHosts, FindRelayCredentials--> lookup
                              |    |   --SMTP, TLS--> other hosts   --HTTPS--> policy hosts (MTA-STS)
                              |    +--FetchContent, RelayTried, ReturnRecipients--> queue
                              |    +--DelayDestination, ResumeDestination--> queue
                              |    +--ReadTlsHosts, ReadStsPolicies, KeepTls--> queue
                              +--a digest to sign (tls/signing.py)--> crypto
    parent --TakeCertificate, TakeAuthorities, AddListener: descriptors--> dispatcher
    queue --WithdrawRecipient, PauseSource, TryDestination--> dispatcher
    control --OpenSession--> dispatcher --SessionOpened: a socket for a program of this host--> control
    control --ListRelays, ListRoutes, ListHosts, ListDomains, ResumeRoute--> dispatcher

SECURITY
    Reads what any host of the network sends: of all processes this one is expected to fall first.  Taken over, it
    reads and forges the mail that passes, in and out, and reads the passwords that are tried meanwhile and those of the
    smarthosts of the configuration.  It asks nothing of the parent, makes no envelopes, holds no private key, and sees
    no file but certificates and the spool files that queue opened for it.  There may be several dispatchers; none knows
    of another.  What it says of other hosts' TLS is kept over a restart.  A policy of MTA-STS only if lookup finds that
    its domain announces one: what such a policy says may be made up, as no other process fetches any.  It holds until
    it is fetched again, which the first mail to that domain causes, or where that cannot be done until it ends, a year
    at most.  That TLS has worked at a host may be made up too: for 30 days mail to it then waits an hour before it goes
    in clear text.
"""

from contextlib import suppress

from smtpd import boot, sandbox
from smtpd.dispatcher.state import Dispatcher
from smtpd.imsg import (
    AddListener,
    Begin,
    ClientClassified,
    ClientResolved,
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    CredentialsChecked,
    DropCertificates,
    HostsFound,
    HostsNotFound,
    ListDomains,
    ListHosts,
    ListRelays,
    ListRoutes,
    MakeContexts,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    OpenSession,
    PauseListeners,
    PauseSource,
    RecipientExpanded,
    RecipientRefused,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RelayMessage,
    ReportStatistics,
    ResumeRoute,
    RouteFound,
    RouteNotFound,
    ScramBegun,
    ScramFinished,
    SenderChecked,
    SetVerbose,
    SpoolFileOpened,
    SpoolFileRefused,
    Stop,
    StsPoliciesRead,
    TakeAuthorities,
    TakeCertificate,
    TlsHostsRead,
    TlsKept,
    TryDestination,
    UseCertificates,
    WithdrawRecipient,
)
from smtpd.ipc.channel import Channel, ChannelClosed, owned, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.loop import prepare
from smtpd.slice import DispatcherSlice

USER, CHROOT = "_smtpd", "empty"
PLEDGE = "stdio inet recvfd sendfd"

FLUSH_TIMEOUT = 2.0  # seconds that the end waits for queue to read the last results


def main() -> None:
    handed = boot.receive("dispatcher", DispatcherSlice)
    loop = prepare()
    ports = handed.slice.connect_ports  # none without relay actions
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, ports=ports, required=handed.configure.sandbox_required)
    handed.entered(held)
    signing = [sock for _, sock in handed.signing]
    dispatcher = Dispatcher(loop, handed.slice, handed.listeners, handed.peer("lookup"), handed.peer("queue"), signing)
    if "smtp" in handed.configure.paused:
        dispatcher.listeners.pause(True)
    handlers = {"parent": from_parent, "lookup": from_lookup, "queue": from_queue, "control": from_control}
    connect(loop, handed.peers, handlers, dispatcher)
    loop.run_forever()
    flush_results(handed.peer("queue"))


def flush_results(queue: Channel) -> None:
    """What queue has not read yet.  Mail whose result it never hears of is sent again at the next start."""
    with suppress(ChannelClosed):
        if not queue.closed:
            queue.flush_within(FLUSH_TIMEOUT)


def from_parent(dispatcher: Dispatcher, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case Begin():
            dispatcher.begin()
        case Stop():
            dispatcher.stop()
        case TakeCertificate():
            dispatcher.take_certificate(channel, imsg, owned(descriptor))
        case TakeAuthorities():
            dispatcher.take_authorities(channel, imsg, owned(descriptor))
        case MakeContexts():
            dispatcher.make_contexts(channel)
        case UseCertificates():
            dispatcher.use_certificates(channel)
        case DropCertificates():
            dispatcher.resources.certificates.drop()
        case AddListener():
            dispatcher.add_listener(imsg, owned(descriptor))
        case _:
            unexpected("parent", imsg)


def from_lookup(dispatcher: Dispatcher, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case (
            ClientResolved()
            | ClientClassified()
            | CredentialsChecked()
            | ScramBegun()
            | ScramFinished()
            | SenderChecked()
            | RecipientExpanded()
            | RecipientRefused()
        ):
            dispatcher.resources.to_lookup.answer(imsg)
        case (
            HostsFound()
            | HostsNotFound()
            | RouteFound()
            | RouteNotFound()
            | RelayCredentialsFound()
            | RelayCredentialsNotFound()
        ):
            dispatcher.resources.relay_to_lookup.answer(imsg)
        case _:
            unexpected("lookup", imsg)


def from_queue(dispatcher: Dispatcher, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case MessageIdsReserved() | MessageStored() | MessageRefused():
            dispatcher.resources.to_queue.answer(imsg)
        case SpoolFileOpened() | SpoolFileRefused():
            dispatcher.resources.to_queue.answer(imsg, descriptor)
        case TlsHostsRead() | StsPoliciesRead() | TlsKept():
            dispatcher.resources.to_queue.answer(imsg)
        case ContentFetched() | ContentFileFetched() | ContentNotFetched():
            dispatcher.resources.to_queue.answer(imsg, descriptor)
        case RelayMessage():
            dispatcher.relaying.take(imsg)
        case WithdrawRecipient():
            dispatcher.relaying.withdraw(imsg)
        case PauseSource():
            dispatcher.relaying.pause_source(imsg)
        case TryDestination():
            dispatcher.relaying.try_destination(imsg)
        case _:
            unexpected("queue", imsg)


def from_control(dispatcher: Dispatcher, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case OpenSession():
            dispatcher.open_session(channel, imsg)
        case PauseListeners():
            dispatcher.pause(channel, imsg)
        case ListRelays() | ListRoutes() | ListHosts() | ListDomains():
            dispatcher.relaying.listing.list(channel, imsg)
        case ResumeRoute():
            dispatcher.relaying.resume_route(channel, imsg)
        case ReportStatistics():
            dispatcher.report(channel, imsg)
        case SetVerbose():
            dispatcher.set_verbose(imsg)
        case _:
            unexpected("control", imsg)
