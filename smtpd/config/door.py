"""Listeners of the model -> a slice for each address, and what lookup is asked about those who come in there.

listen on lo smtps pki p auth <t>      listener 0  127.0.0.1 port 465      door 0  credentials t
                                       listener 1  ::1       port 465      door 1  credentials t
"""

from dataclasses import replace

from smtpd.config import protocol
from smtpd.config.address import WILDCARDS, family, listen_addresses, may_get_more
from smtpd.config.error import Report
from smtpd.config.host import Host
from smtpd.config.model import Config, Listen, ListenSocket, Tls
from smtpd.config.parser import Parsed
from smtpd.config.password import Passwords
from smtpd.config.slice import SOCKET, DoorSlice, ListenerSlice, TlsSlice

SMTP, SMTPS = 25, 465


def slice_listeners(
    parsed: Parsed, host: Host, passwords: Passwords, report: Report
) -> tuple[tuple[ListenerSlice, ...], tuple[DoorSlice, ...]]:
    """Numbered from 0 in the order of the file."""
    slices: list[ListenerSlice] = []
    doors: list[DoorSlice] = []
    for listen, place in zip(parsed.config.listeners, parsed.listener_places, strict=True):
        scram = bool(listen.credentials and passwords.are_verifiers(listen.credentials)) or listen.scram
        if listen.credentials and listen.scram:
            passwords.warn_of_hashes(listen.credentials)
        addresses = listen_addresses(listen, host, place, report)
        for address in addresses if addresses and not may_get_more(listen, host, addresses) else (*addresses, ""):
            made = slice_listener(len(slices), address, listen, host, parsed.config, scram)
            if reason := next(filter(None, (clash(made, other) for other in slices)), None):
                report.add(place, reason)
                continue
            slices.append(made)
            if listen.auth or listen.hostnames or listen.xclient:
                doors.append(slice_door(made.number, listen))
    return tuple(slices), tuple(doors)


def slice_listener(number: int, address: str, listen: Listen, host: Host, config: Config, scram: bool) -> ListenerSlice:
    """Without an address it waits for those of its interface."""
    return ListenerSlice(
        number,
        address,
        listen.port or (SMTPS if listen.tls is Tls.AT_ONCE else SMTP),
        listen.hostname or host.server_name,
        listen.tag,
        interface="" if address else listen.operand,
        family=None if address else listen.family,
        tls=slice_tls(listen, listen.tls, config) if listen.tls else None,
        auth=listen.auth,
        scram=scram,
        welcome=bool(listen.hostnames or listen.xclient),
        senders=listen.senders is not None,
        masquerade=listen.masquerade,
        mask_src=listen.mask_src,
        no_dsn=listen.no_dsn,
        proxy=listen.proxy,
        received_auth=listen.received_auth,
    )


def slice_socket(socket: ListenSocket, host: Host) -> ListenerSlice:
    return replace(SOCKET, hostname=host.server_name, tag=socket.tag, mask_src=socket.mask_src, no_dsn=socket.no_dsn)


def slice_tls(listen: Listen, mode: Tls, config: Config) -> TlsSlice:
    ciphers = config.ciphers if listen.ciphers is None else listen.ciphers
    protocols = TlsSlice.protocols if listen.protocols is None else protocol.versions(listen.protocols)
    return TlsSlice(mode, listen.pki, listen.verify, listen.ca or "", protocol.cipher_string(ciphers), protocols)


def slice_door(number: int, listen: Listen) -> DoorSlice:
    tables = (listen.credentials, listen.senders, listen.hostnames, listen.xclient)
    return DoorSlice(number, listen.auth is not None, *(table or "" for table in tables))


def clash(listener: ListenerSlice, other: ListenerSlice) -> str | None:
    """Why both cannot be.  Of two sockets at one address and port the kernel would give each some of the clients,
    whatever their tags; and it has no second one beside a socket that listens on all addresses."""
    if listener.port != other.port:
        return None
    port = f"port {listener.port}"
    if not listener.address or not other.address:
        same_family = listener.family == other.family or None in (listener.family, other.family)
        same = listener.interface == other.interface and same_family
        return f"interface {listener.interface} {port} is listened on already" if same else None
    if listener.address == other.address:
        return f"{listener.address} {port} is listened on already"
    wildcard = WILDCARDS[family(listener.address)]
    if family(other.address) == family(listener.address) and wildcard in (listener.address, other.address):
        narrow = other.address if listener.address == wildcard else listener.address
        return f"{wildcard} {port} is all addresses, so it leaves no room for {narrow}, expected one or the other"
    return None
