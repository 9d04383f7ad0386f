"""Listeners of the model -> a slice for each address, and one with the tables that lookup reads for it.

listen on lo smtps pki p auth <t>      listener 0  127.0.0.1 port 465      tables 0  credentials t
                                       listener 1  ::1       port 465      tables 1  credentials t
"""

from dataclasses import dataclass, replace

import msgspec

from smtpd.config.build import tls_options
from smtpd.config.check.password_tables import PasswordTables
from smtpd.config.errors import Report, SourcePosition
from smtpd.config.host import Host, numeric
from smtpd.config.model import Config, Listen, ListenSocket
from smtpd.config.parser import Parsed
from smtpd.config.resolve.listen_addresses import ALL_ADDRESSES, family, listen_addresses, may_get_more
from smtpd.slice import SOCKET, USUAL_PROTOCOLS, WILDCARDS, ListenerSlice, ListenerTablesSlice, Tls, TlsSlice

SMTP_PORT, SMTPS_PORT = 25, 465


@dataclass(frozen=True)
class ListenSentence:
    """A `listen on` and its position."""

    listen: Listen
    position: SourcePosition

    @property
    def options(self) -> Listen:
        """The options, which have to be the same if two sentences share an address and a port."""
        return replace(self.listen, operand="", family=None, port=None)

    def is_of_machine(self, host: Host) -> bool:
        """Whether the operand names an interface or a host, so that its addresses are not in the file."""
        return self.listen.operand in host.interfaces or not (
            self.listen.operand in ALL_ADDRESSES or numeric(self.listen.operand)
        )


def slice_listeners(
    parsed: Parsed, host: Host, passwords: PasswordTables, report: Report
) -> tuple[tuple[ListenerSlice, ...], tuple[ListenerTablesSlice, ...]]:
    """The slices, numbered from 0 in the order of the file; no two have the same address and port."""
    for listen, position in parsed.invalid_listeners:
        listen_addresses(listen, host, position, report)
    slices: list[ListenerSlice] = []
    listener_tables: list[ListenerTablesSlice] = []
    sentences: list[ListenSentence] = []  # the sentence of each slice
    for sentence in map(ListenSentence, parsed.config.listeners, parsed.listener_positions):
        listen, position = sentence.listen, sentence.position
        scram = bool(listen.credentials and passwords.are_verifiers(listen.credentials)) or listen.scram
        if listen.credentials and listen.scram:
            passwords.warn_of_hashes(listen.credentials)
        addresses = listen_addresses(listen, host, position, report)
        for address in addresses if addresses and not may_get_more(listen, host, addresses) else (*addresses, ""):
            made = slice_listener(len(slices), address, listen, host, parsed.config, scram)
            if reason := next(filter(None, (conflict(made, other) for other in slices)), None):
                report.add(position, reason)
                continue
            overlapping = [number for number, other in enumerate(slices) if overlap(made, other)]
            if overlapping:
                report_duplicate(describe(made), sentence, sentences[overlapping[0]], host, report)
            if any(slices[number].family in (None, made.family) for number in overlapping):
                continue  # the earlier listener covers it
            slices.append(made)
            sentences.append(sentence)
            if listen.auth or listen.hostnames or listen.xclient:
                listener_tables.append(slice_listener_tables(made.number, listen))
    return tuple(slices), tuple(listener_tables)


def slice_listener(number: int, address: str, listen: Listen, host: Host, config: Config, scram: bool) -> ListenerSlice:
    """The slice of one address; an empty one stands for the addresses that the interface gets later."""
    return ListenerSlice(
        number,
        address,
        listen.port or (SMTPS_PORT if listen.tls is Tls.AT_ONCE else SMTP_PORT),
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
    return msgspec.structs.replace(
        SOCKET, hostname=host.server_name, tag=socket.tag, mask_src=socket.mask_src, no_dsn=socket.no_dsn
    )


def slice_tls(listen: Listen, mode: Tls, config: Config) -> TlsSlice:
    ciphers = config.ciphers if listen.ciphers is None else listen.ciphers
    protocols = USUAL_PROTOCOLS if listen.protocols is None else tls_options.versions(listen.protocols)
    return TlsSlice(mode, listen.pki, listen.verify, listen.ca or "", tls_options.cipher_string(ciphers), protocols)


def slice_listener_tables(number: int, listen: Listen) -> ListenerTablesSlice:
    tables = (listen.credentials, listen.senders, listen.hostnames, listen.xclient)
    return ListenerTablesSlice(number, listen.auth is not None, *(table or "" for table in tables))


def describe(listener: ListenerSlice) -> str:
    return f"{listener.address or f'interface {listener.interface}'} port {listener.port}"


def overlap(listener: ListenerSlice, other: ListenerSlice) -> bool:
    """Whether both have the same address and port, or the same interface without an address.  With two such sockets the
    kernel would give each of them some of the clients, whatever their options."""
    if (listener.port, listener.address, listener.interface) != (other.port, other.address, other.interface):
        return False
    return listener.family == other.family or None in (listener.family, other.family)


def conflict(listener: ListenerSlice, other: ListenerSlice) -> str | None:
    """Why both cannot be bound: one address beside a listener on all addresses, at the same port.  None if they can."""
    for wide, narrow in ((listener, other), (other, listener)):
        if wide.port == narrow.port and covers_listener(wide.address, narrow):
            one = narrow.address or f"interface {narrow.interface}"
            return f"address already in use: {describe(wide)} covers all addresses, also {one}"
    return None


def covers_listener(wildcard: str, listener: ListenerSlice) -> bool:
    if wildcard not in WILDCARDS.values() or listener.address == wildcard:
        return False
    of_family = family(listener.address) if listener.address else listener.family
    return of_family in (None, family(wildcard))


def report_duplicate(
    listener: str, sentence: ListenSentence, first: ListenSentence, host: Host, report: Report
) -> None:
    """Report a duplicate listener; the first one is used.  Different options are an error, unless both addresses come
    from interfaces or host names: a change of those must not keep the daemon from starting."""
    line = first.position.seen_from(sentence.position)
    text = f"duplicate listener on {listener}"
    if sentence.options == first.options:
        report.warn(sentence.position, f"{text}, first in {line}")
    elif sentence.is_of_machine(host) and first.is_of_machine(host) and sentence.listen.operand != first.listen.operand:
        report.warn(sentence.position, f"{text}: the options of {line} apply")
    else:
        report.add(sentence.position, f"{text}: {line} has other options")
