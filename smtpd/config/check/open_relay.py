"""Warnings about rules and listeners that let any host send mail to any address through this server.

    match from any for any action "relay"                         an open relay
    match from any mail-from "@here.test" for any action "relay"  likewise: anybody can write that sender
    match from rdns for any action "relay"                        likewise: most hosts have a name
    match from any auth for any action "relay"                    no: the client has to log in
    match tag "submission" from any for any action "relay"        no, if all listeners with that tag have auth or verify
    match from any for domain <mine> action "backup"              no: it is about some domains
    match for any action "relay"                                  no: `from local` is what a rule has without a `from`
    listen on eth0 xclient { "0.0.0.0/0" }                        any host can say that it is another one, with a login
    srs key "short"                                               a bounce to any address can be made by guessing it

Tables in the configuration and in text files are compared with addresses, networks and domains of strangers: one that
has several of them is a table of everything, whether it says 0.0.0.0/0, its two halves, "*", "*.com", or ".*".  What an
earlier rule rejects is not looked at, nor what databases and programs contain.

Spammers find an open relay within hours, and other servers then refuse all mail of this one.
"""

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from smtpd.config.check.table_files import TableFileError, TableFiles
from smtpd.config.errors import Report
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.slice import Auth, Condition, For, From, ListenerSlice, Match, Method, Operand, Service
from smtpd.tables.matching import make_matcher

OPEN_RELAY = (
    "open relay: any host may send mail to any address through this server, "
    "expected from local, from src <networks>, auth, or for domain <domains>"
)
OPEN_XCLIENT = '"xclient": any host may send as a user who has logged in, expected the addresses of own hosts'
EVERYTHING = ("anyhost", "anydestination")  # built-in tables
# One address of each /5 of IPv4 that has public ones, and of blocks of IPv6 that are far from each other.
STRANGERS_IPV4 = tuple(f"{number}.77.133.201" for number in range(5, 224, 8) if number != 125)
STRANGERS_IPV6 = tuple(f"{block}:7b3d:91:4::25" for block in ("2001", "2406", "2607", "2806", "2a03", "2c0f"))
STRANGE_DOMAINS = tuple(f"{name}.{top}" for name in ("q7zk4", "mx.w3vjx") for top in ("com", "net", "org", "cn"))
STRANGE = {
    Service.NETADDR: (*STRANGERS_IPV4, *STRANGERS_IPV6),
    Service.DOMAIN: STRANGE_DOMAINS,
    Service.MAILADDR: tuple(f"w5x-{domain[:2]}@{domain}" for domain in STRANGE_DOMAINS),
}
STRANGERS_MIN = 2  # of these in a table: one may be there by chance


def warn_of_open_relays(parsed: Parsed, listeners: Sequence[ListenerSlice], texts: TableFiles, report: Report) -> None:
    relays = {action.name for action in parsed.config.actions if action.method is Method.RELAY}
    rules = _Rules(parsed.config.tables, texts, parsed.config.sub_addr_delim)
    for match, position in zip(parsed.config.matches, parsed.match_positions, strict=True):
        if match.action in relays and rules.is_open(match) and rules.is_reachable(match, listeners):
            report.warn(position, f"{OPEN_RELAY}{_hint(match)}")
    for listen, position in zip(parsed.config.listeners, parsed.listener_positions, strict=True):
        named = Condition(From.SRC, operand=Operand(listen.xclient)) if listen.xclient else None
        if named and rules.has_strangers(named, Service.NETADDR):
            report.warn(position, OPEN_XCLIENT)


def _hint(match: Match) -> str:
    if match.mail_from or match.source.kind == From.MAIL_FROM or match.helo:
        return "; a sender address or a HELO name proves nothing, any client can write it"
    if match.source.kind == From.RDNS:
        return "; any host can have a name in the DNS"
    return ""


class _Rules:
    """What rules say of strangers: clients of other hosts that have not logged in, and their recipients."""

    def __init__(self, tables: Iterable[Table], texts: TableFiles, delimiter: str) -> None:
        self._tables = {table.name: table for table in tables}
        self._texts = texts
        self._delimiter = delimiter

    def is_open(self, match: Match) -> bool:
        """Whether the rule applies to strangers, and to any address.  Senders and HELO names are what they choose."""
        if match.auth is not None and not match.auth.negated:
            return False
        if match.rcpt_to is not None and not self.has_strangers(match.rcpt_to, Service.MAILADDR):
            return False
        return self._is_from_strangers(match.source) and self._is_for_any(match.destination)

    def _is_from_strangers(self, source: Condition) -> bool:
        match source.kind:
            case From.ANY:
                return not source.negated
            case From.MAIL_FROM:
                return True
            case From.SRC:
                return self.has_strangers(source, Service.NETADDR)
            case From.RDNS:
                return source.operand is None or self.has_strangers(source, Service.DOMAIN)
        return source.negated

    def _is_for_any(self, destination: Condition) -> bool:
        match destination.kind:
            case For.ANY:
                return not destination.negated
            case For.DOMAIN:
                return self.has_strangers(destination, Service.DOMAIN)
            case For.RCPT_TO:
                return self.has_strangers(destination, Service.MAILADDR)
        return destination.negated

    def has_strangers(self, condition: Condition, service: Service) -> bool:
        """Whether strangers match it, as far as that is known here: with a `!`, whether the table lacks any."""
        assert condition.operand is not None
        known = self._known_strangers(condition.operand, service)
        return (len(STRANGE[service]) - known if condition.negated else known) >= STRANGERS_MIN

    def _known_strangers(self, operand: Operand, service: Service) -> int:
        """How many of them a table has."""
        table = self._tables.get(operand.table)
        if table is None:
            return len(STRANGE[service]) if operand.table in EVERYTHING else 0
        try:
            entries = self._entries(table) or ()
            matcher = make_matcher(Service.REGEX if operand.regex else service, entries, self._delimiter)
        except ValueError:
            return 0  # an entry is invalid, which is reported elsewhere
        return sum(map(matcher.check, STRANGE[service]))

    def _entries(self, table: Table) -> Collection[str] | None:
        """Of a list, or the keys of a mapping; None if they are not known."""
        if not table.backend:
            return table.entries if table.pairs is None else [key for key, _ in table.pairs]
        if table.backend != "file":
            return None
        try:
            return [text for _, text in self._texts.list_entries(table)] or [
                entry.key for entry in self._texts.entries(table)
            ]
        except TableFileError:
            return None  # reported elsewhere

    # -- listeners -------------------------------------------------------------------------------------------

    def is_reachable(self, match: Match, listeners: Iterable[ListenerSlice]) -> bool:
        """Whether a stranger can reach the rule."""
        return any(
            not _proves_its_clients(listener) and not _is_loopback(listener) and self._may_have_tag(match.tag, listener)
            for listener in listeners
        )

    def _may_have_tag(self, tag: Condition | None, listener: ListenerSlice) -> bool:
        if tag is None or tag.operand is None:
            return True
        table = self._tables.get(tag.operand.table)
        entries = None if table is None else self._entries(table)
        if entries is None:
            return True  # not known here
        service = Service.REGEX if tag.operand.regex else Service.STRING
        try:
            found = make_matcher(service, entries, self._delimiter).check(listener.tag)
        except ValueError:
            return True
        return found is not tag.negated


def _proves_its_clients(listener: ListenerSlice) -> bool:
    """Whether each client has to log in, or to have a certificate of an authority that is named."""
    return listener.auth is Auth.REQUIRED or (listener.tls is not None and listener.tls.verify)


def _is_loopback(listener: ListenerSlice) -> bool:
    """A listener for the PROXY protocol has clients of other hosts whatever its address is."""
    address = listener.address.partition("%")[0]
    return bool(address) and ipaddress.ip_address(address).is_loopback and listener.proxy is None
