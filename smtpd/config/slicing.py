"""The model and a host -> what each process is told.

    listen on eth0      -> each of its addresses          limits    -> divided by the dispatchers
    listen on localhost -> what the name resolves to      tables    -> with the builtin ones filled in

Here a configuration meets its machine, so here it can still turn out to be wrong: ConfigErrors.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from smtpd.config.error import ConfigErrors, Place, Report, quoted, suggestion
from smtpd.config.host import Host, this_host
from smtpd.config.model import Action, Config, Limits, Listen, Table
from smtpd.config.slice import (
    ControlSlice,
    CryptoSlice,
    DispatcherSlice,
    ListenerSlice,
    LookupSlice,
    MaildirSlice,
    ParentSlice,
    QueueSlice,
    SchedulerSlice,
    Slices,
    TableSlice,
)

__all__ = ["Host", "slice_config", "this_host"]

NOWHERE = Place("smtpd.conf")


def slice_config(config: Config, *, host: Host, places: Sequence[Place] = ()) -> Slices:
    """`places`: where each listener stands, as the parser tells.  Raises ConfigErrors."""
    report = Report()
    listeners = slice_listeners(config.listeners, host, places, report)
    if errors := report.errors([place.file for place in places]):
        raise ConfigErrors(errors)
    actions = tuple(MaildirSlice(action.name, action.path, action.junk) for action in config.actions)
    files = tuple(sorted({table.path for table in config.tables if table.path is not None}))
    name = host.server_name
    return Slices(
        parent=ParentSlice(listeners, actions, files, config.dispatchers, config.sandbox_required, name),
        dispatcher=DispatcherSlice(listeners, name, config.max_message_size, divide(config.limits, config.dispatchers)),
        lookup=LookupSlice(
            name,
            config.matches,
            (*builtin_tables(host), *map(slice_table, config.tables)),
            tuple(action.name for action in config.actions),
            config.sub_addr_delim,
            files,
        ),
        queue=QueueSlice(
            {action.name: lifetime(action, config) for action in config.actions},
            actions,
            name,
            config.max_message_size,
            config.dispatchers,
        ),
        scheduler=SchedulerSlice(),
        control=ControlSlice(name, config.dispatchers),
        crypto=CryptoSlice(),
    )


def lifetime(action: Action, config: Config) -> int:
    """Seconds."""
    return config.queue_ttl if action.ttl is None else action.ttl


def divide(limits: Limits, dispatchers: int) -> Limits:
    """Each dispatcher counts only what it sees, so each gets its part of what is counted over all sessions."""
    return replace(
        limits,
        max_sessions=max(1, limits.max_sessions // dispatchers),
        max_sessions_per_address=max(1, limits.max_sessions_per_address // dispatchers),
    )


def slice_table(table: Table) -> TableSlice:
    return TableSlice(table.name, table.entries, table.pairs, table.path)


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


def slice_listeners(
    listeners: Sequence[Listen], host: Host, places: Sequence[Place], report: Report
) -> tuple[ListenerSlice, ...]:
    """Numbered from 0 in the order of the file.  An address and port can be listened on once only: the kernel would
    share the clients out between two sockets, whatever their tags."""
    slices: list[ListenerSlice] = []
    for index, listen in enumerate(listeners):
        place = places[index] if index < len(places) else NOWHERE
        taken = {(other.address, other.port) for other in slices}
        for address in listen_addresses(listen, host, place, report):
            if (address, listen.port) in taken:
                report.add(place, f"{address} port {listen.port} is listened on already")
                continue
            hostname = listen.hostname or host.server_name
            slices.append(ListenerSlice(len(slices), address, listen.port, hostname, listen.tag))
    return tuple(slices)


def listen_addresses(listen: Listen, host: Host, place: Place, report: Report) -> tuple[str, ...]:
    """An interface by its name, an address, or what the resolver knows, in this order."""
    if listen.operand in host.interfaces:
        kind, addresses = "interface", host.interfaces[listen.operand]
    elif address := numeric(listen.operand):
        kind, addresses = "address", (address,)
    else:
        kind, addresses = "name", host.resolve(listen.operand)
        if not addresses:
            hint = suggestion(listen.operand, host.interfaces)
            text = f"{quoted(listen.operand)} is neither an interface nor an address nor a name that resolves{hint}"
            report.add(place, text)
            return ()
    of_family = tuple(address for address in addresses if listen.family in (None, family(address)))
    if not of_family:
        wanted = f"IPv{listen.family} address" if listen.family else "address"
        text = f"is not an {wanted}" if kind == "address" else f"has no {wanted}"
        report.add(place, f"{kind} {quoted(listen.operand)} {text}")
    return of_family


def numeric(operand: str) -> str | None:
    """The canonical text of an address, which may be in brackets; None if it is none."""
    bare = operand[1:-1] if operand.startswith("[") and operand.endswith("]") else operand
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None


def family(address: str) -> int:
    return 6 if ":" in address else 4
