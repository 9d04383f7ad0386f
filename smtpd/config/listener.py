"""listen on WHERE -> the addresses that are bound: of an interface, of a name, or the one that stands there."""

import ipaddress
from collections.abc import Sequence

from smtpd.config.error import Place, Report, quoted, suggestion
from smtpd.config.host import Host
from smtpd.config.model import Listen
from smtpd.config.slice import ListenerSlice


def slice_listeners(
    listeners: Sequence[Listen], host: Host, places: Sequence[Place], report: Report
) -> tuple[ListenerSlice, ...]:
    """Numbered from 0 in the order of the file.  An address and port can be listened on once only: the kernel would
    share the clients out between two sockets, whatever their tags."""
    slices: list[ListenerSlice] = []
    for listen, place in zip(listeners, places, strict=True):
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
