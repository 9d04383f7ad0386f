"""The options of `action NAME relay`, and which of them require or exclude others.

    auth <t>           requires host or domain
    failover           requires host
    tls no-verify      excludes ca and auth
    backup             excludes host and domain
    srs                excludes mail-from, and requires `srs key`

What the tables and the URLs in them contradict is reported in ../check/relay_tables.py.
"""

from collections.abc import Mapping
from typing import Any

from lark import Tree

from smtpd.config.build import tls_options, value
from smtpd.config.build.diagnostics import Diagnostics, parts, value_of, word
from smtpd.config.build.names import Names, TableContent, TableUse
from smtpd.config.build.table_operand import TableBuilder
from smtpd.config.errors import ConfigValueError, quoted
from smtpd.config.model import Relay
from smtpd.slice import RelayTls, Service
from smtpd.smtp.address import AddressError
from smtpd.smtp.mail_from import parse_mail_from

FAMILIES = {"inet4": 4, "inet6": 6}

# Option -> the field of Relay and its table's content.  Inline tables are numbered in this order, which is the
# printer's.
TABLES = {
    "host": ("hosts", TableContent.HOSTS, Service.RELAYHOST),
    "domain": ("domains", TableContent.DOMAIN_HOSTS, Service.RELAYHOST),
    "auth": ("credentials", TableContent.HOST_PASSWORDS, Service.CREDENTIALS),
    "helo_src": ("helo_names", TableContent.HOST_NAMES, Service.ADDRNAME),
    "src": ("sources", TableContent.SOURCES, Service.SOURCE),
}
WORDS = ("helo", "ciphers", "protocols", "mail_from")
NAMES = ("pki", "ca")

# Option -> the property that it sets; options that set the same property exclude each other.
OPTIONS = {option: option for option in (*TABLES, *WORDS, *NAMES, "failover", "backup", "tls", "srs")}
OPTIONS |= dict.fromkeys(FAMILIES, "family")

# Option -> options that it cannot stand beside, and why.
EXCLUDED = {
    "domain": (("host",), "one of them chooses the smarthost"),
    "backup": (("host", "domain"), "a backup MX sends to the MX hosts of the domain"),
    "srs": (("mail_from",), "each replaces the sender"),
}
UNVERIFIED_EXCLUDES = {
    "ca": "nothing is verified by it then",
    "auth": "a password needs a verified host; for a certificate of your own, expected tls and its ca",
}


class RelayBuilder:
    def __init__(self, diagnostics: Diagnostics, names: Names, tables: TableBuilder) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self._tables = tables

    def build(self, given: Mapping[str, Tree]) -> Relay:
        """`given`: the options by the property that they set."""
        fields: dict[str, Any] = {}
        for option, (field, content, service) in TABLES.items():
            if option in given:
                fields[field] = self._table(given[option], content, service)
        for option in WORDS:
            if option in given:
                fields[option] = self._diagnostics.value(READERS[option], value_of(given[option]), None)
        for option in NAMES:
            if option in given:
                fields[option] = self._name(option, given[option])
        if "backup" in given:
            fields |= {"backup": True, "backup_name": self._backup_name(given["backup"])}
        fields["failover"] = "failover" in given
        if "tls" in given:
            fields["tls"] = RelayTls.UNVERIFIED if parts(given["tls"]) else RelayTls.VERIFIED
        if "family" in given:
            fields["family"] = FAMILIES[given["family"].data]
        if "srs" in given:
            self._names.note_srs(self._diagnostics.position(given["srs"]))
            fields["srs"] = True
        relay = Relay(**fields)
        self._check(given, relay)
        return relay

    def _table(self, option: Tree, content: TableContent, service: Service) -> str:
        (operand,) = parts(option)
        name = self._tables.operand(operand)
        self._names.use_table(TableUse(self._diagnostics.position(operand), name, content, service))
        return name

    def _name(self, kind: str, option: Tree) -> str:
        token = value_of(option)
        name = self._diagnostics.value(value.pki_name, token, "")
        if name:
            self._names.use(kind, name, self._diagnostics.position(token))
        return name

    def _backup_name(self, option: Tree) -> str | None:
        return self._diagnostics.value(value.host_name, parts(option)[0], None) if parts(option) else None

    # -- options that contradict each other ------------------------------------------------------------

    def _check(self, given: Mapping[str, Tree], relay: Relay) -> None:
        for option, (others, reason) in EXCLUDED.items():
            for other in others:
                if option in given and other in given:
                    text = f"{quoted(word(option))} cannot be combined with {quoted(word(other))}: {reason}"
                    self._diagnostics.error(given[option], text)
        if relay.tls is RelayTls.UNVERIFIED:
            self._check_unverified(given)
        if "auth" in given and not {"host", "domain"} & given.keys():
            text = f"{quoted('auth')} requires host, as in: host smtps://label@mail.example.org auth <secrets>"
            self._diagnostics.error(given["auth"], text)

        if "failover" in given and "host" not in given:
            text = f"{quoted('failover')} requires host, whose list is tried in its order"
            self._diagnostics.error(given["failover"], text)

    def _check_unverified(self, given: Mapping[str, Tree]) -> None:
        """A certificate that is not verified proves nothing, so a password could go to anybody."""
        for option, reason in UNVERIFIED_EXCLUDES.items():
            if option in given:
                text = f"{quoted(option)} cannot be combined with {quoted('tls no-verify')}: {reason}"
                self._diagnostics.error(given[option], text)


def mail_from(text: str) -> str:
    """The same text, checked.  Raises ConfigValueError."""
    try:
        parse_mail_from(text)
    except AddressError as malformed:
        expected = 'expected an address, or a half of one, as in "@example.org"'
        raise ConfigValueError(f"invalid sender {quoted(text)}: {malformed}, {expected}") from None
    return text


READERS = {
    "helo": value.host_name,
    "ciphers": tls_options.ciphers,
    "protocols": tls_options.protocols,
    "mail_from": mail_from,
}
