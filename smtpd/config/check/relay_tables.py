"""The tables of relay actions, as far as their content is known at the start.

    host <t>                a list in the configuration, in a text file or in a file of makemap
    src <t>, helo-src <t>   a list and a mapping, in the configuration or in a text file: read once, at the start
    domain <t>              a mapping
    auth <t>                user:password for the labels of all hosts; not readable by everybody

    a label in the URL of a host            requires auth, and auth requires one
    smtp+notls:// or lmtp:// for all hosts  excludes tls, ca, pki, ciphers and protocols
    a list of hosts                         has at most SMARTHOSTS_MAX, and one label for a host and port
    a certificate that has to be verified   requires authorities: a ca, or those of the machine

Entries and options by themselves are checked in ../build, families of addresses in relay_limits.py.

No message repeats any part of a password.
"""

import ipaddress
import socket
from collections.abc import Collection, Iterator

from smtpd.config.check.password_tables import warn_of_readers
from smtpd.config.check.table_files import TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, SourcePosition, escaped, quoted
from smtpd.config.host import Host, is_host_name, numeric
from smtpd.config.model import Relay, Table
from smtpd.config.parser import Parsed
from smtpd.domain_name import ascii_form, normal, normal_address
from smtpd.slice import RelayTls
from smtpd.tables.relay_credential import RelayCredentialError, parse_relay_credential
from smtpd.tables.relay_host import CLEAR, VERIFIED, RelayHost, RelayHostError, list_faults, parse_relay_host

READ_AT_START = ("", "file")  # backends whose lists and mappings are known at the start
LABEL_WITHOUT_AUTH = 'the label in the URL of a host requires "auth", as in: auth <secrets>'
AUTH_WITHOUT_LABEL = '"auth" is without effect: no host has a label, expected one as in smtps://label@mail.example.org'
NO_AUTHORITIES = (
    "no certificate can be verified: this machine has no file with those of authorities, "
    "expected a ca, or the package ca-certificates"
)
LISTED_LATER = (*READ_AT_START, "db")  # backends that can list their entries: the protocol of programs has no list


class RelayTables:
    """`check` all, then ask for the content of the tables that a dispatcher's slice holds."""

    def __init__(self, parsed: Parsed, host: Host, texts: TableFiles, report: Report) -> None:
        self._parsed = parsed
        self._host = host
        self._texts = texts
        self._report = report
        self._tables = {table.name: table for table in parsed.config.tables}
        self._own_addresses = {
            address.partition("%")[0] for addresses in host.interfaces.values() for address in addresses
        }
        self._labels: dict[str, frozenset[str] | None] = {}  # by table

    def check(self) -> None:
        for action in self._parsed.config.actions:
            if action.relay is not None:
                position = self._parsed.names.relay_positions[action.name]
                self._check_kinds(action.relay)
                self._check_sources(action.relay)
                self._check_hosts(position, action.relay)

    def sources(self, relay: Relay) -> tuple[str, ...]:
        """The valid addresses to connect from, in canonical form, each once."""
        found = self._list(relay.sources) if relay.sources else ()
        return tuple(dict.fromkeys(filter(None, (canonical(text) for _, text in found))))

    def helo_names(self, relay: Relay) -> dict[str, str]:
        """Address -> name, without invalid ones."""
        found = {}
        for entry in self._mapping(relay.helo_names) if relay.helo_names else ():
            address, name = canonical(entry.key), ascii_form(entry.value)
            if address and is_host_name(name):
                found[address] = name
        return found

    def hosts(self, relay: Relay) -> list[tuple[SourcePosition, RelayHost]] | None:
        """The valid smarthosts of an action, with their positions; None if they are not known at the start."""
        found = self.hosts_of_domains(relay)
        return None if found is None else [(position, host) for position, _, host in found]

    def hosts_of_domains(self, relay: Relay) -> list[tuple[SourcePosition, str, RelayHost]] | None:
        """As `hosts`, with the domain, in its normal form, that has the smarthost; empty in a list."""
        name = relay.hosts or relay.domains
        if name is None or self._tables[name].backend not in READ_AT_START:
            return None
        if relay.hosts:
            texts = [(position, "", text) for position, text in self._list(name)]
        else:
            texts = [(entry.position, normal(entry.key), entry.value) for entry in self._mapping(name)]
        return [(position, domain, host) for position, domain, text in texts if (host := _maybe_host(text))]

    def fixed_hosts(self, relay: Relay) -> list[RelayHost] | None:
        """The smarthosts of an action if they stand in the configuration itself, and so cannot change; else None."""
        name = relay.hosts or relay.domains
        known = self.hosts(relay) if name and not self._tables[name].backend else None
        return None if known is None else [host for _, host in known]

    def _list(self, name: str) -> list[tuple[SourcePosition, str]]:
        """A table that cannot be read is reported elsewhere."""
        table = self._tables[name]
        try:
            return self._texts.list_entries(table) if table.backend in READ_AT_START else []
        except TableFileError:
            return []

    def _mapping(self, name: str) -> list[TableEntry]:
        table = self._tables[name]
        try:
            return self._texts.entries(table) if table.backend in READ_AT_START else []
        except TableFileError:
            return []

    # -- kinds of tables ---------------------------------------------------------------------------------

    def _check_kinds(self, relay: Relay) -> None:
        self._check_kind(relay.hosts, LISTED_LATER, is_list=True)
        self._check_kind(relay.sources, READ_AT_START, is_list=True)
        self._check_kind(relay.helo_names, READ_AT_START, is_list=False)
        self._check_kind(relay.domains, None, is_list=False)

    def _check_kind(self, name: str | None, backends: Collection[str] | None, *, is_list: bool) -> None:
        """`backends`: those that can do it; None: all of them."""
        if name is None:
            return
        table = self._tables[name]
        if backends is not None and table.backend not in backends:
            wanted = "a list" if is_list else "a mapping"
            text = f"table {quoted(name)} ({table.backend}) is not supported here, expected {wanted} or a text file"
            self._report.add(self._use(name), text)
        elif table.backend == "file" and table.path is not None and self._is_list(table.path) is (not is_list):
            wanted = "a mapping, expected a list" if is_list else "a list, expected a mapping"
            self._report.add(self._use(name), f"{quoted(table.path)} is {wanted}")

    def _is_list(self, path: str) -> bool | None:
        try:
            return self._texts.is_list(path)
        except TableFileError:
            return None

    def _use(self, name: str) -> SourcePosition:
        return next(use.position for use in self._parsed.names.table_uses if use.table == name)

    # -- addresses -------------------------------------------------------------------------------------------

    def _check_sources(self, relay: Relay) -> None:
        for where, text in self._list(relay.sources) if relay.sources else ():
            address = canonical(text)
            if address and address not in self._own_addresses:
                self._report.warn(where, f"this host has no address {address}: connections from it fail until it has")
        if relay.helo_names and self._tables[relay.helo_names].backend == "file":
            for entry in self._mapping(relay.helo_names):
                self._check_helo_name(entry)

    def _check_helo_name(self, entry: TableEntry) -> None:
        if numeric(entry.key) is None:
            self._report.add(entry.position, f"invalid address {quoted(entry.key)}")
        elif not is_host_name(ascii_form(entry.value)):
            self._report.add(entry.position, f"invalid host name {quoted(entry.value)}")

    # -- hosts ------------------------------------------------------------------------------------------------

    def _check_hosts(self, position: SourcePosition, relay: Relay) -> None:
        credentials = self._tables[relay.credentials] if relay.credentials else None
        if credentials:
            warn_of_readers(credentials, self._parsed, self._host, self._texts, self._report)
        hosts = self.hosts(relay)
        self._check_authorities(position, relay, hosts or [])
        if not hosts:
            return
        self._check_labels(position, [(where, host.label) for where, host in hosts if host.label], credentials)
        if all(host.protocol in CLEAR for _, host in hosts) and (options := _tls_options(relay)):
            text = f"{quoted(options[0])} is without effect: {hosts[0][1].protocol}:// has no TLS"
            self._report.add(position, text)
        if relay.hosts:
            for index, text in list_faults(host for _, host in hosts):
                self._report.add(hosts[index][0], text)

    def _check_authorities(
        self, position: SourcePosition, relay: Relay, hosts: Collection[tuple[SourcePosition, RelayHost]]
    ) -> None:
        """Whether there is anything that certificates can be verified by, where that is required."""
        if relay.ca is not None or relay.tls is RelayTls.UNVERIFIED or self._host.authorities:
            return
        if relay.tls is RelayTls.VERIFIED or any(host.protocol in VERIFIED for _, host in hosts):
            self._report.add(position, NO_AUTHORITIES)

    def _check_labels(
        self, position: SourcePosition, labelled: list[tuple[SourcePosition, str]], credentials: Table | None
    ) -> None:
        if labelled and not credentials:
            self._report.add(position, LABEL_WITHOUT_AUTH)
        elif credentials and not labelled:
            self._report.add(position, AUTH_WITHOUT_LABEL)
        elif credentials:
            self._check_known(labelled, credentials)

    def _check_known(self, labelled: list[tuple[SourcePosition, str]], table: Table) -> None:
        known = self._known_labels(table)
        which = 'the table of "auth"' if table.name.startswith("<") else f"table {quoted(table.name)}"
        for position, label in labelled:
            if known is None or normal_address(label) in known:
                continue
            text = f"label {quoted(label)} is not in {which}"
            if table.backend:
                self._report.warn(position, f"{text}: until it is, mail for this host has to wait")
            else:
                self._report.add(position, text)

    def _known_labels(self, table: Table) -> frozenset[str] | None:
        """The labels in their normal form; None if they are not known at the start."""
        if table.name not in self._labels:
            self._labels[table.name] = self._read_labels(table)
        return self._labels[table.name]

    def _read_labels(self, table: Table) -> frozenset[str] | None:
        try:
            entries = self._texts.entries(table) if table.backend in READ_AT_START else None
        except TableFileError:
            return None  # reported elsewhere
        if entries is None:
            return None
        for position, text in _invalid_credentials(entries):
            (self._report.warn if table.backend else self._report.add)(position, text)
        return frozenset(normal_address(entry.key) for entry in entries)


def _tls_options(relay: Relay) -> list[str]:
    """The options that say something about TLS."""
    said = {"tls": relay.tls is not RelayTls.OPPORTUNISTIC}
    said |= {option: getattr(relay, option) is not None for option in ("ca", "pki", "ciphers", "protocols")}
    return [option for option, given in said.items() if given]


def _invalid_credentials(entries: Collection[TableEntry]) -> Iterator[tuple[SourcePosition, str]]:
    for entry in entries:
        try:
            parse_relay_credential(entry.value)
        except RelayCredentialError as malformed:
            yield entry.position, f"invalid password of label {quoted(entry.key)}: {escaped(str(malformed))}"


def _maybe_host(text: str) -> RelayHost | None:
    try:
        return parse_relay_host(text)
    except RelayHostError:
        return None  # reported elsewhere


def canonical(text: str) -> str:
    """An address as getsockname prints it; empty for anything else."""
    address = numeric(text)
    if address is None or "%" in address:
        return ""
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return socket.inet_ntop(socket.AF_INET if found.version == 4 else socket.AF_INET6, found.packed)
