"""Every imsg between two processes, in the order a mail meets them.

The arrow is not a comment: a channel refuses to send against it, and a process that receives what its peer may not send
exits.  What a broken-into lookup could ask of root:   grep '"lookup -> parent"' smtpd/imsg.py

A request is an imperative, its answer a participle; who was asked answers, with the number of the request.  The frames
between queue and an agent stand in errand.py: an agent is smaller than this table.
"""

from typing import Annotated, Any, dataclass_transform

import msgspec

from smtpd.envelope import (
    ALIAS_FILES_MAX,
    INLINE_MAX,
    PAUSES_MAX,
    RECIPIENTS_MAX,
    AttemptNumber,
    CommandLine,
    Delay,
    DestinationNumber,
    Digest,
    DispatcherIndex,
    Duty,
    EnvelopeId,
    Kind,
    Lane,
    MailParameters,
    MessageId,
    Notify,
    Origin,
    Path,
    QueueEntry,
    Recipient,
    RelayRecipient,
    RelayResult,
    Schedule,
    Seconds,
    Secret,
    SecretBytes,
    Text,
    Word,
)
from smtpd.ipc.declaration import DEFAULT_LIMIT, Table
from smtpd.next_hop import (
    HOSTS_MAX,
    SMARTHOSTS_MAX,
    MailHost,
    PolicyDomain,
    Port,
    RowNumber,
    Smarthost,
    StsRow,
    TlsHost,
)
from smtpd.relay_entry import DomainEntry, HostEntry, Key, PortOrNone, RelayEntry, RouteEntry
from smtpd.selection import SelectedEnvelopes, Selection

TABLE = Table()


@dataclass_transform(frozen_default=True)
def imsg(arrows: str, *, answers: type | None = None, descriptor: bool = False, limit: int = DEFAULT_LIMIT) -> Any:
    """The class below is an imsg that may go along `arrows`: see ipc/declaration.py."""
    return TABLE.declare(arrows, answers=answers, descriptor=descriptor, limit=limit)


ROLES = ("crypto", "control", "lookup", "dispatcher", "queue", "scheduler")  # in the order they are started

# -- start: what a child is handed ---------------------------------------------


@imsg("parent -> crypto, control, lookup, dispatcher, queue, scheduler, nursery", limit=8 * 1024 * 1024)
class Configure:
    """The first imsg.  `slice` is the role's own part of the configuration, encoded by the process that parsed it."""

    number: int  # which of several dispatchers
    slice: SecretBytes  # tables of credentials may stand in it
    empty: Path  # the two directories that processes chroot into
    spool: Path
    sandbox_required: bool
    verbose: bool
    paused: list[Word] = []  # of "mda", "smtp": what `smtpd -P` wants to begin with


@imsg("parent -> crypto, control, lookup, dispatcher, queue, scheduler", descriptor=True)
class TakePeer:
    peer: Word
    number: int


@imsg("parent -> dispatcher", descriptor=True)
class TakeListener:
    number: int


@imsg("parent -> dispatcher, crypto", descriptor=True)
class TakeSigningSocket:
    """An end of a socket that crypto signs by, for the dispatcher of this number (tls/signing.py).

    A handshake waits for its signature: so it does not go by a channel that others use."""

    number: int


@imsg("parent -> control", descriptor=True)
class TakeControlSocket:
    pass


@imsg("parent -> control", descriptor=True)
class TakeLog:
    """The reading end of a process's log pipe; name and pid come from here, never from the line."""

    name: Word
    pid: int  # 0: of a program that is started again and again


@imsg("parent -> queue", descriptor=True)
class TakeQueueKeys:
    """The file of `queue encryption`, open for reading; its text has not been looked at."""


@imsg("parent -> control", descriptor=True)
class TakeSyslog:
    """A socket connected to /dev/log; a new one whenever control asks."""


@imsg("control -> parent")
class ReopenSyslog:
    """syslogd went away; answered by TakeSyslog when it is back."""


@imsg("parent -> nursery")
class TakeSeccompFilter:
    """The compiled seccomp filter of one kind of agent."""

    kind: Word
    filter: bytes


@imsg("parent -> crypto, control, lookup, dispatcher, queue, scheduler, nursery")
class EnterSandbox:
    """Everything has been handed over."""


@imsg("crypto, control, lookup, dispatcher, queue, scheduler, nursery -> parent")
class SandboxEntered:
    """`held` is what really holds, `missing` what this machine could not give."""

    held: list[Text]
    missing: list[Text]


# -- keys and certificates: at the start, and again at each SIGHUP ------------------


@imsg("parent -> crypto", descriptor=True)
class TakeKey:
    """The private key of a `pki`: opened by the parent, and not read."""

    pki: Word


@imsg("crypto -> parent", answers=TakeKey)
class KeyTaken:
    """`public` is the SHA-256 of its public key (tls/signing.py); empty when there is `trouble`."""

    pki: Word
    public: Digest
    trouble: Text


@imsg("parent -> dispatcher", descriptor=True)
class TakeCertificate:
    """The certificates of a `pki`, its own first, PEM."""

    pki: Word


@imsg("dispatcher -> parent", answers=TakeCertificate)
class CertificateTaken:
    """`public` as in KeyTaken, of the first certificate."""

    pki: Word
    public: Digest
    trouble: Text
    warning: Text = ""  # it can be used, and the administrator should know: it expires, it has expired


@imsg("parent -> dispatcher", descriptor=True)
class TakeAuthorities:
    """The certificates of a `ca`, PEM."""

    ca: Word


@imsg("dispatcher -> parent", answers=TakeAuthorities)
class AuthoritiesTaken:
    ca: Word
    trouble: Text


@imsg("parent -> dispatcher")
class MakeContexts:
    """All keys and certificates of a round are taken: make the TLS contexts of all listeners, and keep them aside."""


@imsg("dispatcher -> parent", answers=MakeContexts)
class ContextsMade:
    """`trouble` is why a context cannot be made, and `pki` names the certificate at fault; empty if none is."""

    pki: Word
    trouble: Text


@imsg("parent -> dispatcher")
class UseCertificates:
    """Every dispatcher has made its contexts, crypto has the keys: from now on they are for new sessions."""


@imsg("dispatcher -> parent", answers=UseCertificates)
class CertificatesUsed:
    """New sessions of this dispatcher use the new certificates."""


@imsg("parent -> crypto")
class UseTakenKeys:
    """Every dispatcher uses the keys of this round.  Those of the round before are forgotten once no handshake can be
    under way with them."""


@imsg("parent -> crypto, dispatcher")
class DropCertificates:
    """The round is refused: what was taken in it is forgotten, what was in use stays."""


# -- all processes are in their sandboxes: until the end ------------------------------------------


@imsg("parent -> crypto, control, lookup, dispatcher, queue, scheduler, nursery")
class Begin:
    """All processes are in their sandboxes: take clients, scan, schedule."""


@imsg("parent -> crypto, control, lookup, dispatcher, queue, scheduler, nursery")
class Stop:
    """End what is under way and exit 0."""


@imsg("parent -> dispatcher", descriptor=True)
class AddListener:
    """A socket for a listener whose interface has come up, or has got this address, since the start."""

    number: int
    address: Word


# -- the configuration, from its one-shot process --------------------------------

REPORT_LINES, REPORT_LINE = 200, 2000  # of errors, or of warnings; characters of one
Reported = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=REPORT_LINE)]],
    msgspec.Meta(max_length=REPORT_LINES + 1),  # and how many more there are
]


@imsg("config -> parent", limit=64 * 1024 * 1024)
class ConfigurationParsed:
    """One encoded slice per role; the parent decodes its own."""

    parent: bytes
    slices: dict[str, bytes]
    warnings: Reported


@imsg("config -> parent", limit=2 * 1024 * 1024)
class ConfigurationRefused:
    errors: Reported


# -- a client connects -----------------------------------------------------------


@imsg("dispatcher -> lookup")
class ResolveClient:
    """The reverse and forward-confirmed name of an address."""

    request: int
    address: Word


@imsg("lookup -> dispatcher", answers=ResolveClient)
class ClientResolved:
    """`name` is empty when there is none; `confirmed` when it leads back to the address."""

    request: int
    name: Word
    confirmed: bool


@imsg("dispatcher -> lookup")
class ClassifyClient:
    """For a listener with `hostnames` or `xclient`: the name of this server, and whether the client may use XCLIENT."""

    request: int
    listener: int
    address: Word
    local: Word  # our address of this connection


@imsg("lookup -> dispatcher", answers=ClassifyClient)
class ClientClassified:
    request: int
    hostname: Word  # empty: the listener's own
    xclient: bool


# -- AUTH: is the password right? -----------------------------------------------------


@imsg("dispatcher -> lookup")
class CheckCredentials:
    """PLAIN and LOGIN.  lookup knows the table by the listener."""

    request: int
    listener: int
    address: Word  # of the client: failures are counted
    user: Word
    password: Secret


@imsg("lookup -> dispatcher", answers=CheckCredentials)
class CredentialsChecked:
    """`verdict`: "yes", "no", "later".  A "no" comes late on purpose."""

    request: int
    verdict: Word


@imsg("dispatcher -> lookup")
class BeginScram:
    """SCRAM (RFC 5802 3): salt and iterations for the proof that the client makes of its password."""

    request: int
    listener: int
    address: Word
    user: Word


@imsg("lookup -> dispatcher", answers=BeginScram)
class ScramBegun:
    """Salt and iterations, also for users who do not exist; `verdict` is "yes" or "later"."""

    request: int
    verdict: Word
    salt: bytes
    iterations: int


@imsg("dispatcher -> lookup")
class FinishScram:
    request: int
    listener: int
    address: Word
    user: Word
    message: SecretBytes  # AuthMessage: passwords can be tried with it
    proof: SecretBytes  # ClientProof


@imsg("lookup -> dispatcher", answers=FinishScram)
class ScramFinished:
    """`signature` is the ServerSignature, for a "yes"."""

    request: int
    verdict: Word
    signature: bytes


@imsg("lookup -> parent")
class CheckPassword:
    """Of a user of the system.  A one-shot process asks PAM."""

    request: int
    user: Word
    password: Secret
    address: Word  # of the client, for PAM's own log


@imsg("parent -> lookup", answers=CheckPassword)
class PasswordChecked:
    """`verdict`: "yes", "no", "later"."""

    request: int
    verdict: Word


@imsg("parent -> nursery", descriptor=True)
class ForkPassword:
    """Run the one-shot process that asks PAM, as root; the descriptor is its channel, which its verdict comes by."""


@imsg("parent -> password")
class TryPassword:
    """All that the one-shot process is told: one name, one password."""

    user: Word
    password: Secret
    address: Word


@imsg("password -> parent", answers=TryPassword)
class PasswordTried:
    """`reason` is for the log."""

    verdict: Word
    reason: Text


@imsg("dispatcher -> lookup")
class CheckSender:
    """Whether the authenticated user may send with this address."""

    request: int
    listener: int
    user: Word
    sender: Path


@imsg("lookup -> dispatcher", answers=CheckSender)
class SenderChecked:
    request: int
    verdict: Word


# -- MAIL FROM: a message id out of a block ----------------------------------------


@imsg("dispatcher -> queue")
class ReserveMessageIds:
    request: int


@imsg("queue -> dispatcher", answers=ReserveMessageIds)
class MessageIdsReserved:
    request: int
    ids: list[MessageId]  # 1 to 1024, ascending; this dispatcher's alone


# -- RCPT TO: the recipients, and whether the client may send there -------------------------


@imsg("dispatcher -> lookup", limit=64 * 1024)
class ExpandRecipient:
    """The client named a recipient; rules, aliases and .forward apply."""

    request: int
    message: MessageId
    origin: Origin
    recipient: Path
    terms: MailParameters
    notify: Notify
    original: Path  # ORCPT


@imsg("lookup -> parent")
class FindUser:
    """A name goes up; never a path, never a uid."""

    request: int
    name: Word


@imsg("parent -> lookup", answers=FindUser)
class UserFound:
    request: int
    verdict: Word  # of nursery: "user", "unknown", "root", "daemon", "later"


@imsg("lookup -> queue")
class AskServerForUtf8:
    """Whether the LMTP server of this action supports SMTPUTF8 (RFC 6531)."""

    request: int
    action: Word


@imsg("queue -> lookup", answers=AskServerForUtf8)
class ServerAnswered:
    """`verdict`: "utf8", "ascii", or "later", when it cannot be asked now."""

    request: int
    verdict: Word
    reason: Text


@imsg("lookup -> queue")
class ReadForward:
    """The text of this user's .forward, from the user's own agent."""

    request: int
    user: Word
    action: Word  # whose userbase has the user; empty for a user of the system


@imsg("queue -> lookup", answers=ReadForward)
class ForwardRead:
    """`verdict`: "none", "text", "unsafe" (the file may be another user's), "later", "malformed" (it is too long),
    "refused" (no agent may be started for this user)."""

    request: int
    verdict: Word
    content: bytes
    reason: Text


@imsg("lookup -> queue", limit=512 * 1024)
class AddEnvelopes:
    message: MessageId
    origin: Origin
    recipients: list[Recipient]
    terms: MailParameters


@imsg("lookup -> dispatcher", answers=ExpandRecipient)
class RecipientExpanded:
    request: int
    count: int  # envelopes that AddEnvelopes took to queue


@imsg("lookup -> dispatcher", answers=ExpandRecipient)
class RecipientRefused:
    request: int
    code: int
    enhanced: Word
    text: Text


@imsg("queue -> lookup", limit=64 * 1024)
class ExpandEnvelope:
    """The command or file of this envelope is not in the user's .forward any more: expand the recipient again.  With
    Duty.EXPAND it is a notice that was never expanded: by the rules, as mail of this host."""

    request: int
    origin: Origin
    recipient: Recipient


@imsg("lookup -> queue", answers=ExpandEnvelope, limit=512 * 1024)
class EnvelopeExpanded:
    request: int
    recipients: list[Recipient]  # at least one


@imsg("lookup -> queue", answers=ExpandEnvelope)
class EnvelopeNotExpanded:
    request: int
    permanent: bool
    reason: Text


# -- programs that answer for tables ---------------------------------------------------


@imsg("parent -> lookup", descriptor=True)
class TakeTableProgram:
    """A socket to the program of this table, which has just been started; the one before, if any, has ended."""

    table: Word


@imsg("parent -> nursery", descriptor=True, limit=64 * 1024)
class ForkTableProgram:
    """Run a program as `user`, its standard input and output one socket, its standard error the descriptor."""

    request: int
    user: Word
    arguments: Annotated[list[Path], msgspec.Meta(max_length=8)]  # the first one is the program; absolute


@imsg("nursery -> parent", answers=ForkTableProgram, descriptor=True)
class TableProgramForked:
    request: int
    pid: int


@imsg("nursery -> parent", answers=ForkTableProgram)
class TableProgramNotForked:
    request: int
    reason: Text


@imsg("nursery -> parent")
class TableProgramEnded:
    """`status` as waitpid gives it."""

    pid: int
    status: int


# -- DATA: the content ---------------------------------------------------------------


@imsg("dispatcher -> queue")
class OpenSpoolFile:
    """The content grew over what stays in memory."""

    request: int
    message: MessageId


@imsg("queue -> dispatcher", answers=OpenSpoolFile, descriptor=True)
class SpoolFileOpened:
    request: int


@imsg("queue -> dispatcher", answers=OpenSpoolFile)
class SpoolFileRefused:
    request: int
    code: int
    enhanced: Word
    text: Text


@imsg("dispatcher -> queue", limit=48 * 1024)
class StoreMessage:
    """Make it durable.  `content` is all of it, or empty when `size` bytes stand in the spool file."""

    request: int
    message: MessageId
    envelopes: int  # that lookup reported for it
    content: bytes
    size: int


@imsg("queue -> dispatcher", answers=StoreMessage)
class MessageStored:
    """It is on the disk: the client may get its 250."""

    request: int


@imsg("queue -> dispatcher", answers=StoreMessage)
class MessageRefused:
    request: int
    code: int
    enhanced: Word
    text: Text


@imsg("dispatcher -> queue")
class ForgetMessage:
    """RSET, or the client is gone.  `envelopes` as in StoreMessage: some may still be on their way from lookup."""

    message: MessageId
    envelopes: int


# -- relay: the hosts of a destination ---------------------------------------------------


@imsg("dispatcher -> lookup")
class FindHosts:
    """To which hosts does mail for this destination go?"""

    request: int
    name: Word  # a domain in any spelling, or a domain literal; a smarthost also a bare address
    mx: bool  # the domain of recipients; False: a smarthost, which has no MX records
    port: Port  # where it is connected to
    policy: bool  # TLSA and MTA-STS records are wanted
    own_name: Word = ""  # a name of ours in MX records, beside those that lookup knows: `backup mx`


@imsg("lookup -> dispatcher", answers=FindHosts, limit=1024 * 1024)
class HostsFound:
    """At least one host; they are tried in this order, which is another one with each answer."""

    request: int
    hosts: Annotated[list[MailHost], msgspec.Meta(max_length=HOSTS_MAX)]
    secure: bool  # the MX answer was secure, or its denial: RFC 7672 2.2.1; a smarthost's name is
    sts_id: Word  # of the _mta-sts record (RFC 8461 3.1); empty: there is none, or it is not known now
    skipped: Annotated[list[Text], msgspec.Meta(max_length=HOSTS_MAX)]  # hosts that are left out, and why
    seconds: Seconds  # for which it holds


@imsg("lookup -> dispatcher", answers=FindHosts)
class HostsNotFound:
    """`code` 5xx: the recipients are refused for good."""

    request: int
    code: int
    enhanced: Word
    text: Text  # names the question that has failed
    seconds: Seconds  # before which it is not asked again


@imsg("dispatcher -> lookup")
class FindRoute:
    """Where does this relay action send the mail for this domain?"""

    request: int
    action: Word
    domain: Word  # empty: the action sends everything to the same hosts


@imsg("lookup -> dispatcher", answers=FindRoute, limit=256 * 1024)
class RouteFound:
    """`smarthosts`: none for the MX hosts of the domain."""

    request: int
    smarthosts: Annotated[list[Smarthost], msgspec.Meta(max_length=SMARTHOSTS_MAX)]
    own_name: Word  # `backup mx`


@imsg("lookup -> dispatcher", answers=FindRoute)
class RouteNotFound:
    request: int
    reason: Text


@imsg("dispatcher -> lookup")
class FindRelayCredentials:
    """Those for a smarthost that RouteFound has named; lookup looks again whether the action has it."""

    request: int
    action: Word
    domain: Word
    host: Word
    port: Port


@imsg("lookup -> dispatcher", answers=FindRelayCredentials)
class RelayCredentialsFound:
    request: int
    user: Path
    password: Secret


@imsg("lookup -> dispatcher", answers=FindRelayCredentials)
class RelayCredentialsNotFound:
    request: int
    reason: Text


# -- times: queue and scheduler -----------------------------------------------------------


@imsg("queue -> scheduler", limit=1024 * 1024)
class EnvelopesSubmitted:
    """New envelopes, and those that a scan found."""

    schedules: list[Schedule]


@imsg("scheduler -> queue")
class ScanEnvelopes:
    """The next page of what was in the spool at the start, ids above `after`."""

    after: int


@imsg("queue -> scheduler", answers=ScanEnvelopes)
class EnvelopesScanned:
    """The page has been submitted; `last` is its last id, 0 when the spool has no more."""

    last: int


@imsg("scheduler -> queue", limit=64 * 1024)
class EnvelopesDue:
    """Try these now.  Each is answered in EnvelopesTried, once."""

    envelopes: list[EnvelopeId]


@imsg("queue -> scheduler", limit=128 * 1024)
class EnvelopesTried:
    """Results: gone for good, to be tried again, held with a reason for the administrator; or not tried after all, as
    the destination cannot be reached."""

    delivered: list[EnvelopeId]
    deferred: list[EnvelopeId]
    held: list[EnvelopeId]
    returned: list[EnvelopeId] = []  # of relayed mail only
    failed: list[EnvelopeId] = []  # for good, and gone


@imsg("queue -> scheduler", limit=128 * 1024)
class EnvelopesEnded:
    """These have expired, and are gone: forget them, but for one that has been made due meanwhile."""

    envelopes: list[EnvelopeId]


@imsg("queue -> scheduler")
class DestinationDelayed:
    """No host of it can be reached: give no envelope of it for so many seconds."""

    destination: DestinationNumber
    seconds: Delay


@imsg("queue -> scheduler")
class DestinationResumed:
    """It can be reached again."""

    destination: DestinationNumber


@imsg("queue -> scheduler")
class EnvelopeReplaced:
    """An envelope that was in flight is replaced by others, as its user has changed the .forward; by none, when other
    envelopes of the message have all that the user wants, or an administrator has removed it."""

    envelope: EnvelopeId
    schedules: list[Schedule]


SCHEDULED_DESTINATIONS_MAX = 1000  # of one imsg


@imsg("scheduler -> queue")
class TryDestinations:
    """An administrator has scheduled mail for these.  Comes before that is due."""

    destinations: Annotated[list[DestinationNumber], msgspec.Meta(max_length=SCHEDULED_DESTINATIONS_MAX)]


@imsg("scheduler -> queue", limit=256 * 1024)
class PostponeEnvelopes:
    """The next tries of deferred envelopes, or of those that an administrator has rescheduled."""

    tries: list[tuple[EnvelopeId, Seconds]]


@imsg("scheduler -> queue", limit=128 * 1024)
class ExpireEnvelopes:
    """Their time is over; `destination`: they have not been tried last, as that could not be reached."""

    envelopes: list[EnvelopeId]
    destination: Lane = 0


@imsg("queue -> scheduler")
class StopScheduling:
    """The daemon stops, and no further result will come: send the updates that are still to be written, no others."""


@imsg("scheduler -> queue", answers=StopScheduling)
class SchedulingStopped:
    """The last imsg to queue."""


# -- away: relayed mail, queue and dispatcher ---------------------------------------------

RelayRecipients = Annotated[list[RelayRecipient], msgspec.Meta(min_length=1, max_length=RECIPIENTS_MAX)]
InlineContent = Annotated[bytes, msgspec.Meta(max_length=INLINE_MAX)]


@imsg("queue -> dispatcher", limit=2 * 1024 * 1024)
class RelayMessage:
    """Try to relay a message to recipients of one destination.  Each of them is answered once, in RelayTried or
    ReturnRecipients.

    A destination is what shares connections: an action, with a domain where the action leaves the choice of the host to
    that.  One number belongs to one of the dispatchers."""

    attempt: AttemptNumber
    message: MessageId
    destination: DestinationNumber
    action: Word
    domain: Word  # in its normal form; empty: the action sends everything to the same hosts
    sender: Path  # empty for the null sender
    terms: MailParameters
    created: Seconds
    size: int  # bytes of content, with LF line ends
    recipients: RelayRecipients
    content: InlineContent = b""  # empty: to be fetched


@imsg("queue -> dispatcher")
class WithdrawRecipient:
    """An envelope of the attempt has been removed, or has come to another end.  Its recipient is returned; where
    the message is being sent it has a result, or is returned if it would be sent once more."""

    attempt: AttemptNumber
    envelope: EnvelopeId


@imsg("dispatcher -> queue")
class FetchContent:
    """A connection is ready for it, and it has not come with RelayMessage.  One at a time of an attempt."""

    request: int
    attempt: AttemptNumber


@imsg("queue -> dispatcher", answers=FetchContent, limit=20 * 1024)
class ContentFetched:
    request: int
    content: bytes


@imsg("queue -> dispatcher", answers=FetchContent, descriptor=True)
class ContentFileFetched:
    """A fresh descriptor, to read."""

    request: int


@imsg("queue -> dispatcher", answers=FetchContent)
class ContentNotFetched:
    """The attempt is over: its envelopes have been removed, or queue has concluded them.  What has been said of it
    meanwhile is ignored."""

    request: int


@imsg("dispatcher -> queue", limit=1024 * 1024)
class RelayTried:
    """Results, of some or all of the attempt's recipients."""

    attempt: AttemptNumber
    results: Annotated[list[RelayResult], msgspec.Meta(min_length=1, max_length=RECIPIENTS_MAX)]


@imsg("dispatcher -> queue")
class ReturnRecipients:
    """These were not tried, as the destination cannot be reached now: no attempt is counted."""

    attempt: AttemptNumber
    envelopes: Annotated[list[EnvelopeId], msgspec.Meta(min_length=1, max_length=RECIPIENTS_MAX)]


@imsg("dispatcher -> queue")
class DelayDestination:
    """No host of it can be reached: try nothing of it for so many seconds.  Without effect unless something of it is
    under way here, or it is delayed already."""

    destination: DestinationNumber
    seconds: Delay
    reason: Text


@imsg("dispatcher -> queue")
class ResumeDestination:
    """It can be reached again.  Without effect unless it is delayed."""

    destination: DestinationNumber


# -- TLS of other hosts, kept over a restart: dispatcher, queue and lookup -----------------

TLS_HOSTS_MAX, STS_ROWS_MAX = 400, 40  # of one imsg
TlsHosts = Annotated[list[TlsHost], msgspec.Meta(max_length=TLS_HOSTS_MAX)]
StsRows = Annotated[list[StsRow], msgspec.Meta(max_length=STS_ROWS_MAX)]


@imsg("dispatcher -> queue")
class ReadTlsHosts:
    """All hosts that are kept, page by page: `after` is 0, then `last` of the answer before.  Once in the life of a
    dispatcher."""

    request: int
    after: RowNumber


@imsg("queue -> dispatcher", answers=ReadTlsHosts, limit=512 * 1024)
class TlsHostsRead:
    request: int
    hosts: TlsHosts
    last: RowNumber  # 0: these are the last ones


@imsg("dispatcher -> queue")
class ReadStsPolicies:
    """As ReadTlsHosts."""

    request: int
    after: RowNumber


@imsg("queue -> dispatcher", answers=ReadStsPolicies, limit=512 * 1024)
class StsPoliciesRead:
    request: int
    policies: StsRows
    last: RowNumber  # 0: these are the last ones


@imsg("dispatcher -> queue", limit=1024 * 1024)
class KeepTls:
    """To be there after a restart; a policy, if its domain announces one.  One at a time of a dispatcher."""

    request: int
    hosts: TlsHosts
    policies: StsRows


@imsg("queue -> lookup", limit=64 * 1024)
class FindStsRecords:
    """Whether these domains announce a policy of MTA-STS now: a dispatcher wants those that it names to be kept."""

    request: int
    domains: Annotated[list[PolicyDomain], msgspec.Meta(max_length=STS_ROWS_MAX)]


@imsg("lookup -> queue", answers=FindStsRecords)
class StsRecordsFound:
    """`announced`: in the order of the domains; False too where it is not known now."""

    request: int
    announced: Annotated[list[bool], msgspec.Meta(max_length=STS_ROWS_MAX)]


@imsg("queue -> dispatcher", answers=KeepTls)
class TlsKept:
    request: int
    kept: bool  # False: there is no room, or the disk fails


# -- delivery: agents --------------------------------------------------------------


@imsg("queue -> parent")
class StartAgent:
    """A user's name and an action's name, which the parent looks up.  The action is empty for reading the .forward of a
    user of the system."""

    request: int
    user: Word  # to run as; for an action with a userbase and no user of its own, the name there
    action: Word
    duty: Duty


@imsg("parent -> queue", answers=StartAgent, descriptor=True)
class AgentStarted:
    request: int
    agent: int


@imsg("parent -> queue", answers=StartAgent)
class AgentRefused:
    """`permanent`: there is no such user, or it may not receive mail."""

    request: int
    permanent: bool
    reason: Text


@imsg("queue -> parent")
class EndAgent:
    """The agent does not answer any more: kill it."""

    agent: int


@imsg("queue -> parent")
class LockMailbox:
    """Make and lock the mailbox of the user of this agent, and pass it to that agent."""

    request: int
    agent: int


@imsg("parent -> queue", answers=LockMailbox)
class MailboxLocked:
    """The mailbox is locked; the agent has received it, or will by its socket for mailboxes, under this number."""

    request: int
    lock: int


@imsg("parent -> queue", answers=LockMailbox)
class MailboxNotLocked:
    """`permanent`: the path is not a file that mail can be written to."""

    request: int
    permanent: bool
    reason: Text


@imsg("queue -> parent")
class UnlockMailbox:
    """The agent has answered all that it was given under this lock."""

    lock: int


# -- what only root can do: parent and nursery -----------------------------------------------


@imsg("parent -> nursery")
class LookUpUser:
    request: int
    name: Word


@imsg("nursery -> parent", answers=LookUpUser)
class UserLookedUp:
    request: int
    verdict: Word


@imsg("parent -> nursery", limit=256 * 1024)
class ForkAgent:
    """The user of the agent, and its AgentSpec (errand.py) as the configuration has it."""

    request: int
    user: Word
    account: tuple[int, int, Path] | None  # uid, gid, home of a userbase; None: a user of the system
    kind: Word
    target: CommandLine
    wrapper: CommandLine
    junk: bool
    rcpt_to: bool
    delimiter: Word
    files: Annotated[list[Path], msgspec.Meta(max_length=ALIAS_FILES_MAX)]
    shared: bool = False


@imsg("nursery -> parent", answers=ForkAgent, descriptor=True)
class AgentForked:
    request: int
    pid: int
    uid: int  # as the nursery found them, before the process became the user
    gid: int


@imsg("nursery -> parent", descriptor=True)
class AgentMailboxSocket:
    """Before AgentForked, for an agent that stores into a mailbox: the socket by which it receives mailboxes."""

    pid: int


@imsg("nursery -> parent", answers=ForkAgent)
class AgentNotForked:
    request: int
    verdict: Word
    reason: Text


@imsg("parent -> nursery")
class KillAgent:
    pid: int


@imsg("nursery -> parent")
class AgentEnded:
    """`status` as waitpid gives it."""

    pid: int
    status: int


# -- mail that was handed in while the daemon did not run --------------------------------------------


@imsg("parent -> nursery", descriptor=True)
class TakeOfflineDirectory:
    """The directory with the files, and the control socket by which their mails are handed in."""

    socket: Path


@imsg("parent -> nursery")
class SubmitOffline:
    """Hand in the mail in the file of that name, as its owner."""

    request: int
    name: Word


@imsg("nursery -> parent", answers=SubmitOffline)
class OfflineSubmitted:
    """`verdict`: "sent", "later", "refused", or "gone", when there is no such file any more."""

    request: int
    verdict: Word
    reason: Text


# -- orders: smtpctl, control, and the process concerned ------------------------------------------


@imsg("control -> dispatcher")
class OpenSession:
    """A program of this host wants to hand in mail, as any user may (ipc/query.py).  `uid`: as the kernel says."""

    request: int
    uid: int


@imsg("dispatcher -> control", answers=OpenSession, descriptor=True)
class SessionOpened:
    """The descriptor speaks SMTP from here on."""

    request: int


@imsg("dispatcher -> control", answers=OpenSession)
class SessionRefused:
    request: int
    reason: Text


@imsg("smtpctl -> control -> queue", limit=256 * 1024)
class ListEnvelopes:
    """A page of the queue: ids from `first` to `last`, and of these what `selection` means."""

    request: int
    first: EnvelopeId
    last: EnvelopeId
    selection: Selection | None = None


@imsg("queue -> control -> smtpctl", answers=ListEnvelopes, limit=1024 * 1024)
class EnvelopesListed:
    """Rows in the order of ids; `next` is where the next page begins, 0 when there is none."""

    request: int
    rows: list[QueueEntry]
    next: int
    trouble: Text = ""  # why the queue could not be read
    mda_paused: bool = False  # control fills these in: local deliveries are paused
    mta_paused: bool = False  # and relaying


@imsg("smtpctl -> control -> queue", limit=256 * 1024)
class SelectEnvelopes:
    """Ids from `first` on that `selection` means."""

    request: int
    first: EnvelopeId
    selection: Selection


@imsg("queue -> control -> smtpctl", answers=SelectEnvelopes)
class EnvelopesSelected:
    """In the order of ids, from a part of the queue; `next` is where the next part begins, 0 when there is none."""

    request: int
    envelopes: SelectedEnvelopes
    next: int
    trouble: Text = ""  # why the queue could not be read


@imsg("smtpctl -> control -> queue")
class ListQuarantine:
    request: int


@imsg("queue -> control -> smtpctl", answers=ListQuarantine, limit=1024 * 1024)
class QuarantineListed:
    request: int
    rows: list[tuple[int, Seconds, Text]]  # envelope id or row number, when set aside, why
    trouble: Text = ""


@imsg("smtpctl -> control -> queue")
class OpenContent:
    """The content of a message, for root."""

    request: int
    message: MessageId


@imsg("queue -> control -> smtpctl", answers=OpenContent, descriptor=True)
class ContentOpened:
    """A pipe or a file to read it from; empty for a message that does not exist."""

    request: int


@imsg("queue -> control -> smtpctl", answers=OpenContent)
class ContentNotOpened:
    """The content cannot be read."""

    request: int
    reason: Text


@imsg("smtpctl -> control -> scheduler")
class ScheduleEnvelopes:
    """Try these now, held ones too.  With `destinations`, only those that are to be relayed to one of them; with
    `envelopes`, only these."""

    request: int
    first: EnvelopeId
    last: EnvelopeId
    destinations: list[DestinationNumber] = []
    envelopes: SelectedEnvelopes = []


@imsg("smtpctl -> control -> scheduler")
class RemoveEnvelopes:
    request: int
    first: EnvelopeId
    last: EnvelopeId
    destinations: list[DestinationNumber] = []  # as in ScheduleEnvelopes
    envelopes: SelectedEnvelopes = []


@imsg("smtpctl -> control -> scheduler")
class SuspendEnvelopes:
    """`pause envelope`, and `resume envelope` when `suspended` is false; kept over a restart."""

    request: int
    first: EnvelopeId
    last: EnvelopeId
    suspended: bool
    envelopes: SelectedEnvelopes = []  # as in ScheduleEnvelopes


@imsg("scheduler -> control -> smtpctl", answers=ScheduleEnvelopes)
class EnvelopesScheduled:
    request: int
    count: int


@imsg("scheduler -> control -> smtpctl", answers=RemoveEnvelopes)
class EnvelopesRemoved:
    request: int
    count: int


@imsg("scheduler -> control -> smtpctl", answers=SuspendEnvelopes)
class EnvelopesSuspended:
    request: int
    count: int


@imsg("scheduler -> queue", limit=128 * 1024)
class DeleteEnvelopes:
    """Removed by an administrator.  The result of one that is in flight is still expected."""

    envelopes: list[EnvelopeId]


@imsg("scheduler -> queue", limit=128 * 1024)
class MarkSuspended:
    envelopes: list[EnvelopeId]
    suspended: bool


@imsg("smtpctl -> control -> queue")
class FindDestinations:
    """The destinations of relayed mail that have this name: a domain, or an action that sends everything to the same
    hosts."""

    request: int
    name: Word


@imsg("queue -> control -> smtpctl", answers=FindDestinations)
class DestinationsFound:
    """One for each relay action that may have it; none: there is no such action."""

    request: int
    destinations: list[DestinationNumber]


@imsg("smtpctl -> control -> queue")
class PauseRelaying:
    """Relay nothing to `name` until it is resumed; when `paused` is false, resume it, and end its delay.

    With `source`, nothing from that address of this host; `name` is empty for any destination then."""

    request: int
    source: Word  # numeric; empty: from any
    name: Word  # as in FindDestinations
    paused: bool


@imsg("queue -> control -> smtpctl", answers=PauseRelaying)
class RelayingPaused:
    """`changed` is false when it was so already; `trouble`: why it cannot be done."""

    request: int
    changed: bool
    trouble: Text = ""


@imsg("smtpctl -> control -> queue")
class ListPaused:
    """What PauseRelaying has paused."""

    request: int


@imsg("queue -> control -> smtpctl", answers=ListPaused, limit=1024 * 1024)
class PausedListed:
    request: int
    rows: Annotated[list[tuple[Word, Word]], msgspec.Meta(max_length=PAUSES_MAX)]  # source, name: as in PauseRelaying


@imsg("queue -> scheduler")
class PauseDestination:
    """Try nothing of it until it is resumed."""

    destination: DestinationNumber
    paused: bool


@imsg("queue -> dispatcher")
class TryDestination:
    """An administrator wants it tried now, also when none of its hosts could be reached.  Comes before its mail."""

    destination: DestinationNumber


@imsg("queue -> dispatcher")
class PauseSource:
    """Use an address of this host no more for a destination; or use it again."""

    source: Word
    destination: Lane  # 0: any
    paused: bool


@imsg("smtpctl -> control -> dispatcher")
class ListRelays:
    """A page of the destinations that one dispatcher knows: those behind the key `after`."""

    request: int
    dispatcher: DispatcherIndex = 0
    after: Key = 0


@imsg("dispatcher -> control -> smtpctl", answers=ListRelays, limit=1024 * 1024)
class RelaysListed:
    """`more`: this dispatcher has another page.  `dispatchers`: how many there are, says control."""

    request: int
    rows: list[RelayEntry]
    more: bool
    dispatchers: int = 0


@imsg("smtpctl -> control -> dispatcher")
class ListRoutes:
    request: int
    dispatcher: DispatcherIndex = 0
    after: Key = 0


@imsg("dispatcher -> control -> smtpctl", answers=ListRoutes, limit=1024 * 1024)
class RoutesListed:
    """As RelaysListed.  Each dispatcher has numbers of its own."""

    request: int
    rows: list[RouteEntry]
    more: bool
    dispatchers: int = 0


@imsg("smtpctl -> control -> dispatcher")
class ListHosts:
    request: int
    dispatcher: DispatcherIndex = 0
    after: tuple[Word, PortOrNone] = ("", 0)  # address and port


@imsg("dispatcher -> control -> smtpctl", answers=ListHosts, limit=1024 * 1024)
class HostsListed:
    request: int
    rows: list[HostEntry]
    more: bool
    dispatchers: int = 0


@imsg("smtpctl -> control -> dispatcher")
class ListDomains:
    """The last status of the mail for each domain."""

    request: int
    dispatcher: DispatcherIndex = 0
    after: Word = ""


@imsg("dispatcher -> control -> smtpctl", answers=ListDomains, limit=1024 * 1024)
class DomainsListed:
    request: int
    rows: list[DomainEntry]
    more: bool
    dispatchers: int = 0


@imsg("smtpctl -> control -> dispatcher")
class ResumeRoute:
    """Use a route that rests now; `route`: its key among those of this dispatcher."""

    request: int
    dispatcher: DispatcherIndex
    route: Key


@imsg("dispatcher -> control -> smtpctl", answers=ResumeRoute)
class RouteResumed:
    """`changed` is false when there is no such route, or it does not rest."""

    request: int
    changed: bool


@imsg("smtpctl -> control -> scheduler")
class PauseDeliveries:
    """`pause mda` or `pause mta`; `resume` when `paused` is false."""

    request: int
    kind: Kind
    paused: bool


@imsg("scheduler -> control -> smtpctl", answers=PauseDeliveries)
class DeliveriesPaused:
    """`changed` is false when it was paused, or not paused, already."""

    request: int
    changed: bool


@imsg("smtpctl -> control -> dispatcher")
class PauseListeners:
    request: int
    paused: bool


@imsg("dispatcher -> control -> smtpctl", answers=PauseListeners)
class ListenersPaused:
    request: int
    changed: bool


@imsg("smtpctl -> control -> lookup")
class UpdateTable:
    """Read a table again."""

    request: int
    table: Word


@imsg("lookup -> control -> smtpctl", answers=UpdateTable)
class TableUpdated:
    """`trouble` is empty, or why the table stays as it was."""

    request: int
    trouble: Text


@imsg("smtpctl -> control -> crypto, lookup, dispatcher, queue, scheduler, parent")
class SetVerbose:
    verbose: bool


@imsg("parent -> nursery")
class NurserySetVerbose:
    verbose: bool


@imsg("smtpctl -> control")
class ShowStatistics:
    request: int


@imsg("control -> crypto, lookup, dispatcher, queue, scheduler")
class ReportStatistics:
    request: int


@imsg("crypto, lookup, dispatcher, queue, scheduler -> control", answers=ReportStatistics)
class StatisticsReported:
    request: int
    counters: dict[Word, int]


@imsg("control -> smtpctl", answers=ShowStatistics, limit=128 * 1024)
class StatisticsShown:
    request: int
    counters: dict[Word, int]


@imsg("control -> smtpctl")
class Done:
    """An order without a result of its own has been passed on."""

    request: int


@imsg("control -> smtpctl")
class Denied:
    """Not for this user, or not possible now."""

    request: int
    reason: Text
