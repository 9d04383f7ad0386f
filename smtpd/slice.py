"""What each process is told of the configuration: its slice, resolved, and nothing that it need not know.

The parent passes the slices on without looking into them, all but its own.

Each text has the type of the imsg field that it ends up in, or is a Setting, which none carries: what does not fit is
an error of the configuration (slicing.py), and never of a process that receives it.
"""

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from smtpd.envelope import ALIAS_FILES_MAX, CommandLine, Path, Seconds, Setting, Word

LMTP_USER = "_smtpm"  # the user of an lmtp action that names none
PROGRAM_USER = "_smtpf"  # and a program that answers for a table

AliasFiles = Annotated[tuple[Path, ...], Meta(max_length=ALIAS_FILES_MAX)]

UNLIMITED = 2**63 - 1  # bytes of a message, where the configuration says 0

LOWEST_ID = 100  # of a user who may receive; below are those that Unix systems bring along: bin, mail, www-data
NOBODY = (65534, 65535)  # the last ids of 16 bits, which no user may have
# Ciphers that no listener has: without a certificate, without encryption, and with RSA as the way to exchange keys,
# as crypto decrypts nothing.
NEVER_CIPHERS = ":!aNULL:!eNULL:!kRSA"
USUAL_PROTOCOLS = ("TLSv1.2", "TLSv1.3")  # where `protocols` is not said
# The authorities of this machine, which certificates of other mail servers are verified by; no `ca` can have this name.
SYSTEM_CA = "<system>"
OUR_PREFIX = "_smtp"  # what the names of our own users begin with
OUR_USERS = tuple(OUR_PREFIX + letter for letter in "dlqscxmf")

# The name of a user that the parent starts agents for: one word of /etc/passwd, no path, no option, nothing that a
# terminal or a log would take for more.
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,62}")


def is_system_account(uid: int, gid: int, reserved_uids: Collection[int] = ()) -> bool:
    """Whether an account with these ids receives no mail: root's, the system's, nobody's, or one of `reserved_uids`."""
    return uid < LOWEST_ID or uid in NOBODY or gid == 0 or uid in reserved_uids


class Service(StrEnum):
    """What a table is asked for: what its keys are, and how they are compared."""

    ALIAS = "alias"  # a name or an address -> what it is expanded to
    DOMAIN = "domain"
    CREDENTIALS = "credentials"  # a user or a label -> a secret
    NETADDR = "netaddr"  # a numeric address, or "local"
    USERINFO = "userinfo"  # a user -> uid:gid:home
    SOURCE = "source"  # a list of numeric addresses
    MAILADDR = "mailaddr"  # an address -> patterns of addresses
    ADDRNAME = "addrname"  # a numeric address -> a host name
    MAILADDRMAP = "mailaddrmap"  # a user -> patterns of addresses
    RELAYHOST = "relayhost"  # a domain -> a URL
    STRING = "string"
    REGEX = "regex"
    AUTH = "auth"  # user:password; programs only


class Method(StrEnum):
    """What an action does with a mail."""

    MBOX = "mbox"
    MAILDIR = "maildir"
    LMTP = "lmtp"
    MDA = "mda"
    EXPAND_ONLY = "expand-only"
    FORWARD_ONLY = "forward-only"
    RELAY = "relay"  # the only one that is not local


class From(StrEnum):
    ANY = "any"
    LOCAL = "local"
    SOCKET = "socket"
    SRC = "src"
    RDNS = "rdns"
    AUTH = "auth"
    MAIL_FROM = "mail-from"


class For(StrEnum):
    ANY = "any"
    LOCAL = "local"
    DOMAIN = "domain"
    RCPT_TO = "rcpt-to"


class Operand(Struct, frozen=True):
    """`[regex] <table>` behind a word of a match; `table` is the name of a Table of the model."""

    table: Word
    regex: bool = False


class Condition(Struct, frozen=True):
    """`[!] KIND [regex] <table>`.  The operand is missing where the kind takes none."""

    kind: Word  # a From or For value, or "tag", "helo", "tls", "auth", "mail-from", "rcpt-to"
    negated: bool = False
    operand: Operand | None = None


class Match(Struct, frozen=True):
    """`match … action NAME | reject`; `action` is None for reject."""

    action: Word | None
    source: Condition = Condition("local")
    destination: Condition = Condition("local")
    tag: Condition | None = None
    helo: Condition | None = None
    tls: Condition | None = None
    auth: Condition | None = None
    mail_from: Condition | None = None
    rcpt_to: Condition | None = None


class Tls(StrEnum):
    """How a listener talks TLS."""

    OFFERED = "tls"  # STARTTLS may be said
    REQUIRED = "tls-require"  # MAIL is refused before STARTTLS
    AT_ONCE = "smtps"  # before the banner


class Auth(StrEnum):
    OFFERED = "auth-optional"
    REQUIRED = "auth"


class Proxy(StrEnum):
    """Which header of the PROXY protocol every connection has to begin with."""

    V1 = "proxy-v1"
    V2 = "proxy-v2"
    ANY = "proxy"  # either


class Limits(Struct, frozen=True):
    """`smtp limit KEY N`; what the reference has, and what it lacks (5.1: no limit at all)."""

    max_mails: int = 100  # a session
    max_rcpt: int = 1000  # a transaction
    max_errors: int = 20  # replies 5xx in a session, then 421
    max_sessions: int = 8000  # all together; divided by the number of dispatchers
    max_sessions_per_address: int = 100  # or local user; divided likewise; not counted for loopback addresses
    max_seconds: int = 7200  # a session, from banner to end
    timeout: int = 300  # seconds of silence
    max_hold: int = 7 * 86400  # seconds that a client may ask a message to be kept before it is sent; 0: it may not ask

    # What may come in a minute, counted over all dispatchers; 0: any number.  Loopback addresses are not counted.  The
    # network of an address is its /24, or /64.
    connection_rate: int = 300  # connections of an address
    connection_rate_per_network: int = 1500
    message_rate: int = 600  # messages from an address
    message_rate_per_network: int = 3000
    message_rate_per_user: int = 120  # from an authenticated user, wherever they come from
    failure_rate: int = 60  # refused commands and failed logins of an address
    failure_rate_per_network: int = 300
    auth_failure_rate: int = 10  # failed logins of an address, and of a user

    greet_delay: int = 0  # seconds before the banner; a client that talks sooner is refused
    tarpit_after: int = 5  # errors of a session that are answered at once
    tarpit: int = 2  # seconds that the answers to further ones are kept back; 0: none


class DeliveryLimits(Struct, frozen=True):
    """`mda limit KEY N`."""

    max_session: int = 50  # deliveries at the same time, of actions that run a command
    max_session_per_user: int = 7


class RelayTls(StrEnum):
    """What a relay action says about TLS.  The protocol of a smarthost (tables/relay_host.py) may say more."""

    OPPORTUNISTIC = "opportunistic"  # nothing said
    VERIFIED = "tls"  # required, with a certificate that verifies
    UNVERIFIED = "tls no-verify"  # required, with any certificate


class RelayLimits(Struct, frozen=True):
    """`mta limit KEY N`: what one dispatcher keeps to.  A destination is an action with a domain or a list of
    smarthosts; a host is an address; a route is one of our addresses and a host.

    The pauses are 0 where the reference has some: what protects receivers is how many connections they answer well."""

    max_conn_per_host: int = 10
    max_conn_per_route: int = 5
    max_conn_per_source: int = 100
    max_conn_per_connector: int = 20  # from one of our addresses to one destination
    max_conn_per_relay: int = 100  # to one destination
    max_conn_per_domain: int = 100  # to one domain, over all actions

    conn_delay_host: int = 0  # seconds between two connects
    conn_delay_route: int = 0
    conn_delay_source: int = 0
    conn_delay_connector: int = 0
    conn_delay_relay: int = 0
    conn_delay_domain: int = 0
    reconn_delay_route: int = 0  # seconds between the end of a connection and the next connect

    session_mail_max: int = 100  # messages of a connection
    session_transaction_delay: int = 0  # seconds between two messages of a connection
    session_keepalive: int = 10  # seconds that a connection without a message stays open
    max_failures_per_session: int = 25  # refused recipients, then it ends

    # Messages that may be sent in a minute; 0: any number.
    message_rate: int = 0  # to one destination
    message_rate_per_host: int = 0
    message_rate_per_source: int = 0

    family: int | None = None  # of the hosts' addresses: 4, 6, or both


class TlsSlice(Struct, frozen=True):
    mode: Tls
    pki: tuple[Word, ...]  # names, the first or "*" for clients that name none of them
    verify: bool = False
    ca: Word = ""
    ciphers: Setting = ""  # for TLS up to 1.2, in OpenSSL's words; empty: our own choice
    protocols: tuple[Setting, ...] = USUAL_PROTOCOLS  # in a row, of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3


class PkiSlice(Struct, frozen=True):
    name: Word
    cert: Path
    key: Path


class CaSlice(Struct, frozen=True):
    name: Word  # or SYSTEM_CA
    cert: Path


class ListenerTablesSlice(Struct, frozen=True):
    """What lookup is asked about the clients of a listener: its tables, empty for none."""

    number: int  # of the listener
    auth: bool = False
    credentials: Word = ""  # empty: users of the system
    senders: Word = ""
    hostnames: Word = ""
    xclient: Word = ""


WILDCARDS = {4: "0.0.0.0", 6: "::"}  # addresses of listeners: every address of this host


class ListenerSlice(Struct, frozen=True):
    """One bound address.  `number` names its socket in the imsgs.

    Where `interface` is named there is no address yet: the parent looks for them, and adds a socket for each."""

    number: int
    address: Word  # numeric, without brackets; of a link-local one with %interface; empty: that of `interface`
    port: int
    hostname: Word  # of the banner, of Received
    tag: Word
    interface: Word = ""
    family: int | None = None  # of the addresses of `interface`: 4, 6, or both
    tls: TlsSlice | None = None
    auth: Auth | None = None
    scram: bool = False  # the credentials are what SCRAM needs
    welcome: bool = False  # `hostnames` or `xclient`: lookup has to be asked about the client
    senders: bool = False
    masquerade: bool = False
    mask_src: bool = False
    no_dsn: bool = False
    proxy: Proxy | None = None
    received_auth: bool = False


SOCKET = ListenerSlice(-1, "", 0, "", "")  # `listen on socket`: no listener of the kernel's, so it has no number


class Account(Struct, frozen=True):
    """A user of a userbase that is no table of the system's."""

    uid: int
    gid: int
    home: Path


class AgentSlice(Struct, frozen=True):
    """A local action as the parent and the agents need it: what is run, and as which user."""

    name: Word
    method: Method
    target: CommandLine  # the path of a maildir, the destination of lmtp, the command of mda
    junk: bool = False
    rcpt_to: bool = False
    wrapper: CommandLine = ""  # its command
    user: Word = ""  # to run as; empty: as the recipient
    accounts: dict[Word, Account] | None = None  # of a userbase whose uids count; None: users of the system, or `user`


class ProgramSlice(Struct, frozen=True):
    """A program that answers for a table: `arguments` with its absolute path first."""

    table: Word
    arguments: tuple[Path, ...]
    user: Word


class TableSlice(Struct, frozen=True):
    """A table as lookup opens it.  The builtin ones (anyhost, localhost, localnames) are filled in here."""

    name: Word
    entries: tuple[Setting, ...] = ()
    pairs: tuple[tuple[Setting, Setting], ...] | None = None
    path: Path | None = None  # read by lookup itself
    backend: Word = ""  # as in the model
    services: tuple[Service, ...] = ()  # what it is asked for


class ParentSlice(Struct, frozen=True):
    listeners: tuple[ListenerSlice, ...]
    actions: tuple[AgentSlice, ...]
    files: tuple[Path, ...]  # that lookup reads (tables, what they include): checked by the parent, unveiled by lookup
    dispatchers: int
    sandbox_required: bool | None
    sub_addr_delim: Word = "+"
    programs: tuple[ProgramSlice, ...] = ()
    alias_commands: Word = ""  # the user who runs what alias files name; empty: none does
    alias_files: AliasFiles = ()  # those that are text files
    pki: tuple[PkiSlice, ...] = ()
    ca: tuple[CaSlice, ...] = ()
    queue_key: Path = ""  # the file with the keys of `queue encryption`; empty: none
    passwords: bool = False  # a listener authenticates users of the system


class RelaySlice(Struct, frozen=True):
    """A relay action as a dispatcher needs it: how its connections are made."""

    name: Word
    helo: Word  # the name for EHLO; of an address in `helo_names`, the one there
    tls: RelayTls = RelayTls.OPPORTUNISTIC
    protocols: tuple[Setting, ...] = USUAL_PROTOCOLS  # as in TlsSlice
    ciphers: Setting = ""  # as in TlsSlice
    ca: Word = SYSTEM_CA
    pki: Word = ""  # of our own certificate, for hosts that ask for one
    auth: bool = False  # lookup has credentials for it
    sources: tuple[Word, ...] = ()  # our addresses to connect from, numeric; none: as the system chooses
    helo_names: dict[Word, Word] = {}  # our address, numeric -> our name there
    family: int | None = None  # of the hosts' addresses: 4, 6, or both
    failover: bool = False  # its smarthosts are tried in their order, instead of in turns
    mail_from: Path = ""  # what replaces the sender, or a half of it (smtp/mail_from.py)


class DispatcherSlice(Struct, frozen=True):
    listeners: tuple[ListenerSlice, ...]
    server_name: Word
    max_message_size: int
    limits: Limits  # already divided by the number of dispatchers
    dhe: dict[Word, Word] = {}  # pki -> "auto" or "legacy"
    socket: ListenerSlice = SOCKET
    relays: tuple[RelaySlice, ...] = ()
    relay_limits: RelayLimits = RelayLimits()  # already divided, as `limits`
    domain_limits: dict[Word, RelayLimits] = {}  # by recipients' domain, in its normal form, instead of `relay_limits`
    # TCP ports of other hosts that are connected to; None: any, as a table that may change names them.
    connect_ports: tuple[int, ...] | None = ()


class ExpansionSlice(Struct, frozen=True):
    """An action as lookup needs it: how a recipient becomes users.  Tables by name, empty for none.  One that relays
    has no more than a name and a method here; the rest is in its RouteSlice."""

    name: Word
    method: Method
    alias: Word = ""
    virtual: Word = ""
    userbase: Word = ""  # empty: users of the system
    user: Word = ""  # that the action runs as
    rcpt_to: bool = False  # of lmtp: the server is told the address, not the user


class RouteSlice(Struct, frozen=True):
    """A relay action as lookup needs it: which hosts take its mail.  Tables by name, empty for none.

    With neither `hosts` nor `domains`: the MX hosts of the recipient's domain."""

    name: Word
    hosts: Word = ""  # a list of smarthosts (tables/relay_host.py)
    domains: Word = ""  # a domain -> its smarthost; domains that it lacks have none
    credentials: Word = ""  # a label -> user:password (tables/relay_credential.py)
    backup: Word = ""  # our own name among the MX hosts: only those before it are tried
    srs: bool = False  # the sender of forwarded mail is rewritten (smtp/srs.py)


class SrsSlice(Struct, frozen=True):
    """`srs key`, `srs key backup`, `srs ttl`."""

    key: Setting
    backup: Setting = ""  # accepted, too; empty: none
    ttl: int = 4  # days that a rewritten sender is accepted


class LookupSlice(Struct, frozen=True):
    server_name: Word
    matches: tuple[Match, ...]
    tables: tuple[TableSlice, ...]
    actions: tuple[ExpansionSlice, ...]
    sub_addr_delim: Word
    files: tuple[Path, ...]
    alias_commands: Word = ""
    listener_tables: tuple[ListenerTablesSlice, ...] = ()
    auth_failure_rate: int = 10  # a minute, of an address and of a user
    routes: tuple[RouteSlice, ...] = ()
    srs: SrsSlice | None = None
    own_names: tuple[Word, ...] = ()  # of this host, as MX records may name it
    listening: tuple[tuple[Word, int], ...] = ()  # address and port of each listener; no address: any of an interface


class DeliverySlice(Struct, frozen=True):
    """An action as queue needs it: which agent, and how long an envelope may wait."""

    name: Word
    method: Method
    user: Word  # to run as (`_smtpm` for lmtp without a user); empty: as the recipient, or a relay
    lifetime: Seconds  # seconds until its envelopes expire
    one_destination: bool = False  # of a relay: everything goes to the same hosts, whatever the domain
    sources: tuple[Word, ...] = ()  # of a relay: as in RelaySlice


class QueueSlice(Struct, frozen=True):
    actions: tuple[DeliverySlice, ...]
    alias_commands: Word = ""
    delivery_limits: DeliveryLimits = DeliveryLimits()
    compression: bool = False  # of content
    server_name: Word = "localhost"  # that notices to senders are from
    notice_lifetime: Seconds = 4 * 86400  # seconds
    tell_held: bool = True  # an upgrade: notices for what was held as there were none


class SchedulerSlice(Struct, frozen=True):
    max_inflight: int = 5000  # envelopes handed to queue and not yet answered
    max_inflight_per_message: int = 256  # so that one mail to many leaves room for the others
    max_inflight_per_lane: int = 500  # so that a user whose agent hangs leaves room likewise
    max_inflight_per_destination: int = 100  # so that a domain, or a smarthost, that is slow does


class ControlSlice(Struct, frozen=True):
    """Nothing: it passes on what others answer."""


class CryptoSlice(Struct, frozen=True):
    """Nothing: its keys come by descriptor, from the parent."""


class Slices(Struct, frozen=True):
    """What the one-shot configuration process hands to the parent."""

    parent: ParentSlice
    dispatcher: DispatcherSlice
    lookup: LookupSlice
    queue: QueueSlice
    scheduler: SchedulerSlice
    control: ControlSlice
    crypto: CryptoSlice
