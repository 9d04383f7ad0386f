"""The model and a host -> the slice of each process.

    listen on eth0      -> each of its addresses          limits        -> divided by the dispatchers
    listen on localhost -> what the name resolves to      userbase <t>  -> the people in it
    table t x:/path     -> the program table-x            tables        -> with the builtin ones filled in
    pki, ca             -> those that a listener has

What the machine lacks is an error here (ConfigErrors); what does not keep the daemon from starting is a warning.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from smtpd.config.build.names import SYSTEM_USERS
from smtpd.config.build.value import RATE_LIMITS
from smtpd.config.check import alias_tables, implausible
from smtpd.config.check.files_and_users import check_files_and_users
from smtpd.config.check.open_relay import warn_of_open_relays
from smtpd.config.check.password_tables import PasswordTables
from smtpd.config.check.relay_limits import RelayLimitChecks
from smtpd.config.check.relay_options import warn_of_ineffective_options
from smtpd.config.check.relay_tables import RelayTables
from smtpd.config.check.table_files import TableFiles
from smtpd.config.check.table_use import check_tables, services_of
from smtpd.config.errors import Report
from smtpd.config.host import Host
from smtpd.config.model import Action, Ca, Config, Pki, Table
from smtpd.config.parser import Parsed
from smtpd.config.resolve.listener_slices import slice_listeners, slice_socket
from smtpd.config.resolve.relay_slices import (
    SHARED_LIMITS,
    SHARED_RATES,
    connect_ports,
    divide_relay_limits,
    slice_relay,
    slice_route,
    slice_srs,
)
from smtpd.config.resolve.table_programs import slice_programs
from smtpd.config.resolve.userbase import userbase_users
from smtpd.domain_name import ascii_form
from smtpd.slice import (
    LMTP_USER,
    SYSTEM_CA,
    UNLIMITED,
    AgentSlice,
    CaSlice,
    ControlSlice,
    CryptoSlice,
    DeliverySlice,
    DispatcherSlice,
    ExpansionSlice,
    Limits,
    ListenerSlice,
    ListenerTablesSlice,
    LookupSlice,
    Method,
    ParentSlice,
    PkiSlice,
    ProgramSlice,
    QueueSlice,
    SchedulerSlice,
    Slices,
    TableSlice,
)
from smtpd.tables.text_file import read_file

# Failed logins are not among them: lookup, of which there is one, counts them.
COUNTED_OVER_ALL = ("max_sessions", "max_sessions_per_address", *RATE_LIMITS)
DIVIDED = (*(("smtp", key) for key in COUNTED_OVER_ALL), *(("mta", key) for key in (*SHARED_LIMITS, *SHARED_RATES)))


@dataclass(frozen=True)
class Sliced:
    slices: Slices
    warnings: tuple[str, ...]


def slice_config(
    parsed: Parsed, host: Host, read: Callable[[str], str] = read_file, check: Callable[[Parsed], None] | None = None
) -> Sliced:
    """The slices, and the warnings.  `read` reads the files of tables; it may raise OSError or ValueError.  `check` may
    add to the report.  Raises errors.ConfigErrors, with the errors of the parser, too."""
    report = parsed.report
    config = parsed.config
    texts = TableFiles(parsed, read, report)
    listeners, listener_tables = slice_listeners(parsed, host, PasswordTables(parsed, host, texts, report), report)
    files = tuple(sorted({*texts.paths(), *alias_tables.included_files(parsed, texts, report)}))
    programs = slice_programs(parsed, host, report)
    agents = slice_agents(parsed, texts, report)
    check_tables(parsed, texts, report)
    check_files_and_users(parsed, host, report)
    relays = RelayTables(parsed, host, texts, report)
    relays.check()
    RelayLimitChecks(parsed, relays, DIVIDED, report).check()
    warn_of_ineffective_options(parsed, relays, report)
    warn_of_open_relays(parsed, listeners, texts, report)
    if config.alias_commands:
        alias_tables.check_file_count(config, parsed.names.user_positions[config.alias_commands], report)
    implausible.warn_of_implausible(parsed, report)
    if not hasattr(os, "memfd_create"):
        for position in parsed.names.queue_positions:
            report.add(position, "not available on this system: decoded mail needs memfd_create")
    if check:
        check(parsed)
    parsed.raise_errors()
    slices = Slices(
        parent=slice_parent(config, host, listeners, listener_tables, agents, programs, files),
        dispatcher=slice_dispatcher(config, host, listeners, relays),
        lookup=slice_lookup(parsed, host, listeners, listener_tables, files),
        queue=slice_queue(config, host, relays),
        scheduler=SchedulerSlice(),
        control=ControlSlice(),
        crypto=CryptoSlice(),
    )
    return Sliced(slices, tuple(map(str, report.warnings(parsed.files))))


def slice_parent(
    config: Config,
    host: Host,
    listeners: tuple[ListenerSlice, ...],
    listener_tables: tuple[ListenerTablesSlice, ...],
    agents: tuple[AgentSlice, ...],
    programs: tuple[ProgramSlice, ...],
    files: tuple[str, ...],
) -> ParentSlice:
    return ParentSlice(
        listeners,
        agents,
        files,
        config.dispatchers,
        config.sandbox_required,
        config.sub_addr_delim,
        programs,
        alias_commands=config.alias_commands or "",
        alias_files=alias_tables.command_files(config) if config.alias_commands else (),
        pki=tuple(PkiSlice(pki.name, pki.cert, pki.key) for pki in used_pki(config)),
        ca=(*(CaSlice(ca.name, ca.cert) for ca in used_ca(config)), *system_ca(config, host)),
        queue_key=config.queue_key,
        passwords=any(tables.auth and not tables.credentials for tables in listener_tables),
    )


def slice_dispatcher(
    config: Config, host: Host, listeners: tuple[ListenerSlice, ...], tables: RelayTables
) -> DispatcherSlice:
    relays = [action for action in config.actions if action.relay]
    return DispatcherSlice(
        listeners,
        host.server_name,
        config.max_message_size or UNLIMITED,
        divide(config.limits, config.dispatchers),
        dhe={pki.name: pki.dhe for pki in used_pki(config) if pki.dhe != Pki.dhe},
        socket=slice_socket(config.socket, host),
        relays=tuple(slice_relay(action, host, tables) for action in relays),
        relay_limits=divide_relay_limits(config.relay_limits, config.dispatchers),
        domain_limits={
            one.domain: divide_relay_limits(one.limits, config.dispatchers) for one in config.domain_limits if relays
        },
        connect_ports=connect_ports(relays, tables),
    )


def slice_lookup(
    parsed: Parsed,
    host: Host,
    listeners: tuple[ListenerSlice, ...],
    listener_tables: tuple[ListenerTablesSlice, ...],
    files: tuple[str, ...],
) -> LookupSlice:
    config = parsed.config
    names = (host.server_name, *(listener.hostname for listener in listeners))
    return LookupSlice(
        host.server_name,
        config.matches,
        (*builtin_tables(host), *(slice_table(table, parsed) for table in config.tables)),
        tuple(map(slice_expansion, config.actions)),
        config.sub_addr_delim,
        files,
        alias_commands=config.alias_commands or "",
        listener_tables=listener_tables,
        auth_failure_rate=config.limits.auth_failure_rate,
        routes=tuple(slice_route(action, host) for action in config.actions if action.relay),
        srs=slice_srs(config.srs),
        own_names=tuple(dict.fromkeys(map(ascii_form, names))),
        listening=tuple((listener.address, listener.port) for listener in listeners),
    )


def slice_queue(config: Config, host: Host, tables: RelayTables) -> QueueSlice:
    return QueueSlice(
        tuple(slice_delivery(action, config, tables) for action in config.actions),
        alias_commands=config.alias_commands or "",
        delivery_limits=config.delivery_limits,
        compression=config.queue_compression,
        server_name=host.server_name,
        notice_lifetime=config.queue_ttl,
    )


def slice_agents(parsed: Parsed, texts: TableFiles, report: Report) -> tuple[AgentSlice, ...]:
    config = parsed.config
    wrappers = {wrapper.name: wrapper.command for wrapper in config.wrappers}
    return tuple(
        AgentSlice(
            action.name,
            action.method,
            action.target,
            action.junk,
            action.rcpt_to,
            wrappers[action.wrapper] if action.wrapper is not None else "",
            action.user or "",
            userbase_users(action, parsed, texts, report),
        )
        for action in config.actions
        if action.relay is None
    )


def slice_expansion(action: Action) -> ExpansionSlice:
    userbase = "" if action.userbase in (None, SYSTEM_USERS) else action.userbase
    names = action.alias or "", action.virtual or "", userbase or "", action.user or ""
    return ExpansionSlice(action.name, action.method, *names, rcpt_to=action.rcpt_to)


def slice_delivery(action: Action, config: Config, tables: RelayTables) -> DeliverySlice:
    user = action.user or (LMTP_USER if action.method is Method.LMTP else "")
    lifetime = config.queue_ttl if action.ttl is None else action.ttl
    one_destination = action.relay is not None and action.relay.hosts is not None
    sources = tables.sources(action.relay) if action.relay is not None else ()
    return DeliverySlice(action.name, action.method, user, lifetime, one_destination, sources)


def used_pki(config: Config) -> tuple[Pki, ...]:
    """Those that a listener or a relay action names: the keys of others are not loaded by any process."""
    used = {name for listen in config.listeners for name in listen.pki}
    used |= {action.relay.pki for action in config.actions if action.relay and action.relay.pki}
    return tuple(pki for pki in config.pki if pki.name in used)


def used_ca(config: Config) -> tuple[Ca, ...]:
    used = {listen.ca for listen in config.listeners}
    used |= {action.relay.ca for action in config.actions if action.relay}
    return tuple(ca for ca in config.ca if ca.name in used)


def system_ca(config: Config, host: Host) -> tuple[CaSlice, ...]:
    """The authorities of this machine, if there is a relay action: other mail servers have certificates of theirs."""
    has_relay = any(action.relay for action in config.actions)
    return (CaSlice(SYSTEM_CA, host.authorities),) if has_relay and host.authorities else ()


def divide(limits: Limits, dispatchers: int) -> Limits:
    """The limits of one dispatcher: each counts only its own sessions, so limits over all sessions are divided.  0 is
    no limit, and stays so."""
    parts = {key: getattr(limits, key) for key in COUNTED_OVER_ALL}
    return replace(limits, **{key: whole and max(1, whole // dispatchers) for key, whole in parts.items()})


def slice_table(table: Table, parsed: Parsed) -> TableSlice:
    services = services_of(table, parsed)
    return TableSlice(table.name, table.entries, table.pairs, table.path, table.backend, services)


def builtin_tables(host: Host) -> tuple[TableSlice, ...]:
    """The names of the host and of its addresses are in lower case, as matchers compare them."""
    addresses = own_addresses(host)
    names = ["localhost", host.server_name.lower(), *addresses, *map(literal, addresses)]
    return (
        TableSlice("anyhost", ("local", "0.0.0.0/0", "::/0")),
        TableSlice("anydestination", ("*",)),
        TableSlice("localhost", ("local", *addresses)),
        TableSlice("localnames", tuple(dict.fromkeys(names))),
    )


def own_addresses(host: Host) -> tuple[str, ...]:
    """The addresses of all interfaces, each once; link-local ones without their interface."""
    scoped = (address for addresses in host.interfaces.values() for address in addresses)
    return tuple(dict.fromkeys(address.partition("%")[0] for address in scoped))


def literal(address: str) -> str:
    """An address literal, as a domain of a mail address: RFC 5321 4.1.3."""
    return f"[ipv6:{address}]" if ":" in address else f"[{address}]"
