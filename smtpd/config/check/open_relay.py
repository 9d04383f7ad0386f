"""Warnings about rules that let any host send mail to any address through this server.

    match from any for any action "relay"                         an open relay
    match from any mail-from "@here.test" for any action "relay"  likewise: anybody can write that sender
    match from any auth for any action "relay"                    no: the client has to log in
    match tag "submission" from any for any action "relay"        no, if all listeners with that tag have auth
    match from any for domain <mine> action "backup"              no: it is about some domains
    match for any action "relay"                                  no: `from local` is what a rule has without a `from`

Spammers find an open relay within hours, and other servers then refuse all mail of this one.  What an earlier rule
rejects is not looked at, nor what tables in files contain.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from smtpd.config.errors import Report
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.slice import Auth, Condition, For, From, ListenerSlice, Match, Method

OPEN_RELAY = (
    "open relay: any host may send mail to any address through this server, "
    "expected from local, from src <networks>, auth, or for domain <domains>"
)
EVERY_HOST = ("anyhost",)  # built-in tables
EVERY_DOMAIN = ("anydestination",)
EVERY_NETWORK = ("0.0.0.0/0", "::/0")
EVERY_NAME = ("*", "*@*", "@", "@*")


def warn_of_open_relays(parsed: Parsed, listeners: Sequence[ListenerSlice], report: Report) -> None:
    config = parsed.config
    tables = {table.name: table for table in config.tables}
    relays = {action.name for action in config.actions if action.method is Method.RELAY}
    for match, position in zip(config.matches, parsed.match_positions, strict=True):
        if match.action in relays and _is_open(match, tables) and _is_reachable(match, tables, listeners):
            report.warn(position, f"{OPEN_RELAY}{_hint(match)}")


def _hint(match: Match) -> str:
    if match.mail_from or match.source.kind == From.MAIL_FROM or match.helo:
        return "; a sender address or a HELO name proves nothing, any client can write it"
    return ""


def _is_open(match: Match, tables: dict[str, Table]) -> bool:
    """Whether the rule applies to any client that has not logged in, and to any address."""
    if match.auth is not None and not match.auth.negated:
        return False
    if match.rcpt_to is not None and not match.rcpt_to.negated:
        return False
    return _is_from_any(match.source, tables) and _is_for_any(match.destination, tables)


def _is_from_any(source: Condition, tables: dict[str, Table]) -> bool:
    if source.negated:
        return True
    match source.kind:
        case From.ANY | From.MAIL_FROM:
            return True
        case From.SRC if source.operand and not source.operand.regex:
            return _has(source.operand.table, tables, EVERY_HOST, EVERY_NETWORK)
    return False


def _is_for_any(destination: Condition, tables: dict[str, Table]) -> bool:
    if destination.negated:
        return True
    match destination.kind:
        case For.ANY:
            return True
        case For.DOMAIN | For.RCPT_TO if destination.operand and not destination.operand.regex:
            return _has(destination.operand.table, tables, EVERY_DOMAIN, EVERY_NAME)
    return False


def _has(name: str, tables: dict[str, Table], builtin: Iterable[str], entries: Iterable[str]) -> bool:
    """Whether a table is one of these built-in ones, or has one of these entries in the configuration."""
    table = tables.get(name)
    return name in builtin if table is None else not set(entries).isdisjoint(table.entries)


def _is_reachable(match: Match, tables: dict[str, Table], listeners: Iterable[ListenerSlice]) -> bool:
    """Whether a client of another host can reach the rule without logging in."""
    return any(
        listener.auth is not Auth.REQUIRED and not _is_loopback(listener) and _may_have_tag(match.tag, listener, tables)
        for listener in listeners
    )


def _is_loopback(listener: ListenerSlice) -> bool:
    """A listener for the PROXY protocol has clients of other hosts whatever its address is."""
    address = listener.address.partition("%")[0]
    return bool(address) and ipaddress.ip_address(address).is_loopback and listener.proxy is None


def _may_have_tag(tag: Condition | None, listener: ListenerSlice, tables: dict[str, Table]) -> bool:
    if tag is None or tag.operand is None or tag.operand.regex:
        return True
    table = tables.get(tag.operand.table)
    if table is None or table.backend:
        return True  # not known here
    return (listener.tag.lower() in {entry.lower() for entry in table.entries}) is not tag.negated
