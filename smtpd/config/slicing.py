"""The model and a host -> what each process is told.

    listen on eth0      -> each of its addresses          limits        -> divided by the dispatchers
    listen on localhost -> what the name resolves to      userbase <t>  -> the people in it
    table t x:/path     -> the program table-x            tables        -> with the builtin ones filled in

Here a configuration meets its machine, so here it can still turn out to be wrong: ConfigErrors.  What does not keep the
daemon from starting is a warning.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from smtpd.config import alias, doubt
from smtpd.config.error import ConfigErrors, Report
from smtpd.config.host import Host
from smtpd.config.listener import slice_listeners
from smtpd.config.model import Action, Config, Limits, Method, Table
from smtpd.config.names import SYSTEM_USERS
from smtpd.config.parser import Parsed, read_file
from smtpd.config.people import find_people
from smtpd.config.program import slice_programs
from smtpd.config.slice import (
    LMTP_USER,
    AgentSlice,
    ControlSlice,
    CryptoSlice,
    DeliverySlice,
    DispatcherSlice,
    ExpansionSlice,
    LookupSlice,
    ParentSlice,
    QueueSlice,
    SchedulerSlice,
    Slices,
    TableSlice,
)
from smtpd.config.tablefile import TableFiles
from smtpd.config.use import check_uses


@dataclass(frozen=True)
class Sliced:
    slices: Slices
    warnings: tuple[str, ...]


def slice_config(parsed: Parsed, host: Host, read: Callable[[str], str] = read_file) -> Sliced:
    """`read` is what files of tables are read with; it may raise OSError or ValueError.  Raises ConfigErrors."""
    report = Report()
    config = parsed.config
    listeners = slice_listeners(config.listeners, host, parsed.listener_places, report)
    texts = TableFiles(parsed, read, report)
    files = tuple(sorted({*texts.paths(), *alias.includes(parsed, texts, report)}))
    programs = slice_programs(parsed, host, report)
    agents = slice_agents(parsed, texts, report)
    check_uses(parsed, texts, report)
    doubt.warn(parsed, host, report)
    if errors := report.errors(parsed.files):
        raise ConfigErrors(errors)
    name, commands = host.server_name, config.alias_commands or ""
    slices = Slices(
        parent=ParentSlice(
            listeners,
            agents,
            files,
            config.dispatchers,
            config.sandbox_required,
            name,
            config.sub_addr_delim,
            programs,
            commands,
            alias.files(config) if commands else (),
        ),
        dispatcher=DispatcherSlice(listeners, name, config.max_message_size, divide(config.limits, config.dispatchers)),
        lookup=LookupSlice(
            name,
            config.matches,
            (*builtin_tables(host), *map(slice_table, config.tables)),
            tuple(map(slice_expansion, config.actions)),
            config.sub_addr_delim,
            files,
            commands,
        ),
        queue=QueueSlice(
            tuple(slice_delivery(action, config) for action in config.actions),
            name,
            config.max_message_size,
            config.dispatchers,
            commands,
            config.delivery_limits,
        ),
        scheduler=SchedulerSlice(),
        control=ControlSlice(name, config.dispatchers),
        crypto=CryptoSlice(),
    )
    return Sliced(slices, tuple(map(str, report.warnings(parsed.files))))


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
            find_people(action, parsed, texts, report),
        )
        for action in config.actions
    )


def slice_expansion(action: Action) -> ExpansionSlice:
    userbase = "" if action.userbase in (None, SYSTEM_USERS) else action.userbase
    names = action.alias or "", action.virtual or "", userbase or "", action.user or ""
    return ExpansionSlice(action.name, action.method, *names)


def slice_delivery(action: Action, config: Config) -> DeliverySlice:
    user = action.user or (LMTP_USER if action.method is Method.LMTP else "")
    lifetime = config.queue_ttl if action.ttl is None else action.ttl
    return DeliverySlice(action.name, action.method, user, lifetime)


def divide(limits: Limits, dispatchers: int) -> Limits:
    """Each dispatcher counts only what it sees, so each gets its part of what is counted over all sessions."""
    return replace(
        limits,
        max_sessions=max(1, limits.max_sessions // dispatchers),
        max_sessions_per_address=max(1, limits.max_sessions_per_address // dispatchers),
    )


def slice_table(table: Table) -> TableSlice:
    return TableSlice(table.name, table.entries, table.pairs, table.path, table.backend)


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
    """Each once, without the interface that a link-local one belongs to."""
    scoped = (address for addresses in host.interfaces.values() for address in addresses)
    return tuple(dict.fromkeys(address.partition("%")[0] for address in scoped))


def literal(address: str) -> str:
    """As a domain in a mail address, RFC 5321 4.1.3."""
    return f"[ipv6:{address}]" if ":" in address else f"[{address}]"
