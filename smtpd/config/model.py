"""What smtpd.conf says, as data: the model.

Frozen dataclasses, one per sentence of the grammar.  Nothing here is resolved (names of interfaces, the server's own
name, files): the model of a file is the same on every machine, and printing it gives a file with the same model.

Texts have the types of the imsg fields that they end up in, as in slice.py; builder.py reports, at its place, what does
not fit.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from smtpd.envelope import Line, Path, Setting, Word


class Method(StrEnum):
    """What an action does with a mail."""

    MBOX = "mbox"
    MAILDIR = "maildir"
    LMTP = "lmtp"
    MDA = "mda"
    EXPAND_ONLY = "expand-only"
    FORWARD_ONLY = "forward-only"


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


@dataclass(frozen=True)
class Table:
    """`table NAME { … }`, `table NAME BACKEND:/path`, or the anonymous one of an inline operand (`<dynamic:N>`)."""

    name: Word
    entries: tuple[Setting, ...] = ()  # an inline list
    pairs: tuple[tuple[Setting, Setting], ...] | None = None  # an inline mapping
    path: Path | None = None  # what the backend reads; None: inline, or a program without a configuration
    backend: Word = ""  # "file", "db", "passwd", "sqlite", or X for the program table-X; empty: inline


@dataclass(frozen=True)
class Operand:
    """`[regex] <table>` behind a word of a match; `table` is the name of a Table of the model."""

    table: Word
    regex: bool = False


@dataclass(frozen=True)
class Condition:
    """`[!] KIND [regex] <table>`.  The operand is missing where the kind takes none."""

    kind: Word  # a From or For value, or "tag", "helo", "tls", "auth", "mail-from", "rcpt-to"
    negated: bool = False
    operand: Operand | None = None


@dataclass(frozen=True)
class Match:
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


@dataclass(frozen=True)
class Action:
    name: Word
    method: Method
    target: Line = ""  # the path of a maildir, the destination of lmtp, the command of mda; specifiers as written
    junk: bool = False  # of a maildir
    rcpt_to: bool = False  # of lmtp
    alias: Word | None = None  # names of tables of the model
    virtual: Word | None = None
    userbase: Word | None = None
    user: Word | None = None  # to run as
    wrapper: Word | None = None  # name of a Wrapper
    ttl: int | None = None  # seconds


@dataclass(frozen=True)
class Wrapper:
    """`mda wrapper NAME COMMAND`; %{mda} in it stands for what is wrapped."""

    name: Word
    command: Line


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


@dataclass(frozen=True)
class Pki:
    """`pki NAME cert FILE`, `pki NAME key FILE`, `pki NAME dhe WORD`: NAME is a host name or `*`."""

    name: Word
    cert: Path
    key: Path
    dhe: Word = "none"  # or "auto", "legacy"


@dataclass(frozen=True)
class Ca:
    """`ca NAME cert FILE`: whom certificates of clients have to come from."""

    name: Word
    cert: Path


@dataclass(frozen=True)
class Listen:
    operand: Word  # interface, address or name, as written
    port: int | None = None  # 25, or 465 with smtps
    family: int | None = None  # 4, 6, or both
    hostname: Word | None = None
    tag: Word = ""
    tls: Tls | None = None
    verify: bool = False  # the client has to show a certificate
    pki: tuple[Word, ...] = ()  # names of Pki
    ca: Word | None = None
    ciphers: Setting | None = None  # None: as `smtp ciphers`
    protocols: Setting | None = None
    auth: Auth | None = None
    credentials: Word | None = None  # table; None: users of the system
    scram: bool = False  # all in the table is good for SCRAM; not said: only if that can be seen
    hostnames: Word | None = None  # table: our address -> our name there
    mask_src: bool = False
    no_dsn: bool = False
    proxy: Proxy | None = None
    received_auth: bool = False
    senders: Word | None = None  # table: user -> addresses that the user may send as
    masquerade: bool = False
    xclient: Word | None = None  # table: addresses of clients that may speak for others


@dataclass(frozen=True)
class ListenSocket:
    """`listen on socket`: programs of this host, by the socket that smtpctl uses too.  It need not be said."""

    tag: Word = ""
    mask_src: bool = False
    no_dsn: bool = False


@dataclass(frozen=True)
class Limits:
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

    greet_delay: int = 0  # seconds before the banner; who talks sooner is turned away
    tarpit_after: int = 5  # errors of a session that are answered at once
    tarpit: int = 2  # seconds that the answers to further ones are kept back; 0: none


@dataclass(frozen=True)
class DeliveryLimits:
    """`mda limit KEY N`."""

    max_session: int = 50  # deliveries at the same time, of actions that run a command
    max_session_per_user: int = 7


@dataclass(frozen=True)
class Config:
    listeners: tuple[Listen, ...] = ()
    tables: tuple[Table, ...] = ()
    actions: tuple[Action, ...] = ()
    matches: tuple[Match, ...] = ()
    queue_ttl: int = 4 * 86400  # seconds
    max_message_size: int = 35 * 1024 * 1024  # bytes
    sub_addr_delim: Word = "+"
    limits: Limits = field(default_factory=Limits)
    delivery_limits: DeliveryLimits = field(default_factory=DeliveryLimits)
    wrappers: tuple[Wrapper, ...] = ()
    alias_commands: Word | None = None  # `alias-commands user NAME`: who runs commands that alias files name
    sandbox_required: bool | None = None  # None: required for a start as root
    pki: tuple[Pki, ...] = ()
    ca: tuple[Ca, ...] = ()
    ciphers: Setting = ""  # `smtp ciphers`, in OpenSSL's words; empty: those that are good today
    dispatchers: int = 1
    socket: ListenSocket = field(default_factory=ListenSocket)
