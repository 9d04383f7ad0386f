"""Output formats of what is known of relaying, as OpenSMTPD's smtpctl has them, with fields of our own at the end.

relay       [relay:…] refcount= ntask= nconn= lastconn= timeout= wait=         and a line for each connector
route       ID. SOURCE <-> ADDRESS NDQK nconn= nerror= penalty= timeout=
host        ADDRESS NAME refcount= nconn= lastconn=
domain      domain|time|status
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from smtpctl.command_parser import ANY
from smtpctl.visible import visible
from smtpd.envelope import duration_text
from smtpd.relay_entry import NEVER, DomainEntry, HostEntry, RelayEntry, RouteEntry

NO_SOURCE = "[]"  # the system's choice
NONE = "-"


def _duration(seconds: int) -> str:
    return NONE if seconds >= NEVER else duration_text(seconds)


def _left(seconds: int) -> str:
    return duration_text(seconds) if seconds else NONE


def _quoted(text: str) -> str:
    return f'"{visible(text, also=chr(34))}"'


def relay_lines(relay: RelayEntry) -> Iterator[str]:
    name = [
        f"relay:{relay.domain or relay.action}",
        *([f"port={relay.port}"] if relay.port else []),
        relay.protocol,
        *(["auth=yes"] if relay.password else []),
        *([f"pki_name={relay.pki}"] if relay.pki else []),
        *(["mx"] if relay.mx else []),
        f"heloname={relay.helo}",
        *([f"action={relay.action}"] if relay.domain else []),
        *(["requiretls"] if relay.require_tls else []),
    ]
    wait = [word for word, applies in _waits(relay).items() if applies]
    tasks = relay.waiting + relay.running
    fields = [
        visible(f"[{','.join(name)}]"),
        f"refcount={tasks + relay.connections}",
        f"ntask={tasks}",
        f"nconn={relay.connections}",
        f"lastconn={_duration(relay.connected)}",
        f"timeout={_left(relay.delayed)}",
        f"wait={','.join(wait) or NONE}",
        *([f"reason={_quoted(relay.reason)}"] if relay.reason else []),
    ]
    yield " ".join(fields)
    for each in relay.connectors:
        yield (
            f"  connector {visible(each.source) or NO_SOURCE} refcount={each.connections} nconn={each.connections} "
            f"lastconn={_duration(each.connected)} timeout={NONE} flags={NONE}"
        )


def _waits(relay: RelayEntry) -> dict[str, bool]:
    return {"MX": relay.resolving, "LIMITS": bool(relay.limited), "ONHOLD": relay.delayed > 0}


def relay_object(relay: RelayEntry) -> dict[str, Any]:
    fields = msgspec.structs.asdict(relay)
    del fields["key"]
    connectors = [_without_never(msgspec.structs.asdict(each)) for each in relay.connectors]
    return {**_without_never(fields), "connectors": connectors}


def route_line(number: int, route: RouteEntry) -> str:
    flags = {
        "N": not route.worked,
        "D": route.resting > 0,
        "Q": route.resting > 0,
        "K": not route.connections,
    }
    host = visible(f"{route.address} ({route.host})" if route.host else route.address)
    fields = [
        f"{number}. {visible(route.source) or NO_SOURCE} <-> {host}",
        "".join(letter if is_set else NONE for letter, is_set in flags.items()),
        f"nconn={route.connections}",
        f"nerror={route.failures}",
        f"penalty={route.failures}",
        f"timeout={_left(route.resting)}",
        f"port={route.port}",
        *([f"for={visible(route.destination)}"] if route.destination else []),
        *([f"reason={_quoted(route.reason)}"] if route.reason else []),
    ]
    return " ".join(fields)


def route_object(number: int, route: RouteEntry) -> dict[str, Any]:
    fields = msgspec.structs.asdict(route)
    del fields["key"]
    return {"route": number, **fields}


def merged_host(known: HostEntry | None, other: HostEntry) -> HostEntry:
    """One row of what two dispatchers know of a host."""
    if known is None:
        return other
    last = min(known, other, key=lambda each: each.connected)
    return HostEntry(
        known.address,
        known.port,
        last.name,
        known.references + other.references,
        known.connections + other.connections,
        known.concurrency + other.concurrency,
        last.connected,
    )


def host_line(host: HostEntry) -> str:
    return (
        f"{visible(host.address)} {visible(host.name) or NONE} refcount={host.references} nconn={host.connections} "
        f"lastconn={_duration(host.connected)} concurrency={host.concurrency} port={host.port}"
    )


def host_object(host: HostEntry) -> dict[str, Any]:
    return _without_never(msgspec.structs.asdict(host))


def domain_line(domain: DomainEntry) -> str:
    return "|".join(visible(str(field), also="|") for field in (domain.domain, domain.time, domain.status))


def domain_object(domain: DomainEntry) -> dict[str, Any]:
    return msgspec.structs.asdict(domain)


def paused_line(source: str, name: str) -> str:
    return f"{visible(source) or ANY} -> {visible(name) or ANY}"


def paused_object(source: str, name: str) -> dict[str, Any]:
    return {"source": source or ANY, "destination": name or ANY}


def _without_never(fields: dict[str, Any]) -> dict[str, Any]:
    """Nothing instead of a number for what has not happened."""
    return {**fields, "connected": None if fields["connected"] >= NEVER else fields["connected"]}
