"""What smtpd.conf says, as data: the model.

One frozen class per sentence of the grammar.  Nothing here is resolved (names of interfaces, the server's own
name, files): the model of a file is the same on every machine, and printing it gives a file with the same model.

Texts have the types of the imsg fields that carry them, as in slice.py; build/builder.py reports what does not fit.
"""

from dataclasses import dataclass, field

from smtpd.envelope import CommandLine, Path, Setting, Word
from smtpd.slice import Auth, DeliveryLimits, Limits, Match, Method, Proxy, RelayLimits, RelayTls, Tls


@dataclass(frozen=True)
class Table:
    """`table NAME { … }`, `table NAME BACKEND:/path`, or the anonymous one of an inline operand (`<dynamic:N>`)."""

    name: Word
    entries: tuple[Setting, ...] = ()  # an inline list
    pairs: tuple[tuple[Setting, Setting], ...] | None = None  # an inline mapping
    path: Path | None = None  # what the backend reads; None: inline, or a program without a configuration
    backend: Word = ""  # "file", "db", "passwd", "sqlite", or X for the program table-X; empty: inline


@dataclass(frozen=True)
class Relay:
    """The options of `action NAME relay`; tables by name."""

    hosts: Word | None = None  # a list of smarthosts
    failover: bool = False  # these are tried in their order, instead of in turns
    domains: Word | None = None  # a domain -> its smarthost
    credentials: Word | None = None  # a label -> user:password
    helo_names: Word | None = None  # our address -> our name there
    sources: Word | None = None  # a list of our addresses
    backup: bool = False
    backup_name: Word | None = None  # our name among the MX hosts; None: the server's
    family: int | None = None  # of the hosts' addresses: 4, 6, or both
    helo: Word | None = None
    tls: RelayTls = RelayTls.OPPORTUNISTIC
    pki: Word | None = None  # name of a Pki
    ca: Word | None = None  # name of a Ca; None: the authorities of this machine
    ciphers: Setting | None = None
    protocols: Setting | None = None
    mail_from: Path | None = None  # as in smtp/mail_from.py
    srs: bool = False


@dataclass(frozen=True)
class Action:
    name: Word
    method: Method
    target: CommandLine = (
        ""  # the path of a maildir, the destination of lmtp, the command of mda; specifiers as written
    )
    junk: bool = False  # of a maildir
    rcpt_to: bool = False  # of lmtp
    alias: Word | None = None  # names of tables of the model
    virtual: Word | None = None
    userbase: Word | None = None
    user: Word | None = None  # to run as
    wrapper: Word | None = None  # name of a Wrapper
    relay: Relay | None = None  # of a relay action, which has none of the options above
    ttl: int | None = None  # seconds


@dataclass(frozen=True)
class Wrapper:
    """`mda wrapper NAME COMMAND`; %{mda} in it stands for what is wrapped."""

    name: Word
    command: CommandLine


@dataclass(frozen=True)
class Pki:
    """`pki NAME cert FILE`, `pki NAME key FILE`, `pki NAME dhe WORD`: NAME is a host name or `*`."""

    name: Word
    cert: Path
    key: Path
    dhe: Word = "none"  # or "auto", "legacy"


@dataclass(frozen=True)
class Ca:
    """`ca NAME cert FILE`: the authorities of clients' certificates, or of those of the hosts of a relay action."""

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
class DomainLimits:
    """`mta limit for domain DOMAIN …`, with the values of all keys."""

    domain: Word  # in its normal form
    limits: RelayLimits


@dataclass(frozen=True)
class Srs:
    """`srs key`, `srs key backup`, `srs ttl`."""

    key: Setting | None = None
    backup: Setting | None = None
    ttl: int = 4 * 86400  # seconds; whole days


@dataclass(frozen=True)
class Config:
    listeners: tuple[Listen, ...] = ()
    tables: tuple[Table, ...] = ()
    actions: tuple[Action, ...] = ()
    matches: tuple[Match, ...] = ()
    queue_ttl: int = 4 * 86400  # seconds
    queue_compression: bool = False
    queue_key: Path = ""  # the file of `queue encryption`
    max_message_size: int = 35 * 1024 * 1024  # bytes
    sub_addr_delim: Word = "+"
    limits: Limits = field(default_factory=Limits)
    delivery_limits: DeliveryLimits = field(default_factory=DeliveryLimits)
    relay_limits: RelayLimits = field(default_factory=RelayLimits)
    domain_limits: tuple[DomainLimits, ...] = ()
    max_deferred: int = 100  # `mta max-deferred`, without effect
    srs: Srs = field(default_factory=Srs)
    wrappers: tuple[Wrapper, ...] = ()
    alias_commands: Word | None = None  # `alias-commands user NAME`: who runs commands that alias files name
    sandbox_required: bool | None = None  # None: required for a start as root
    pki: tuple[Pki, ...] = ()
    ca: tuple[Ca, ...] = ()
    ciphers: Setting = ""  # `smtp ciphers`, in OpenSSL's words; empty: those that are good today
    dispatchers: int = 1
    socket: ListenSocket = field(default_factory=ListenSocket)
