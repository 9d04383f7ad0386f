"""Limits and families of addresses that contradict the relay actions, have no effect, or cannot be divided.

inet4, inet6                    of an action, of `mta limit`, of `src` and of numeric hosts: one has to fit all
mta limit for domain X inet6    likewise, a warning: the action may send mail for other domains
mta limit for domain X          without effect, as keys per domain are, if all relay actions have `host`
keys per source                 without effect if no relay action has `src`
a limit over all dispatchers    below their number it cannot be divided: each dispatcher has at least 1
"""

from collections.abc import Collection

from smtpd.config.build.diagnostics import word
from smtpd.config.check.relay_tables import RelayTables
from smtpd.config.errors import Report, SourcePosition, quoted
from smtpd.config.model import Relay
from smtpd.config.parser import Parsed

OF_DOMAINS = ("max_conn_per_domain", "conn_delay_domain")
OF_SOURCES = ("max_conn_per_source", "conn_delay_source")
WITHOUT_DOMAIN = "without effect: no relay action is without host, and mail to a list of hosts is not sent by domain"
WITHOUT_SOURCE = "without effect: no relay action has src"
FAMILIES = frozenset((4, 6))


class RelayLimitChecks:
    """`check` all.  `divided`: the limits that dispatchers divide, as (smtp or mta, field)."""

    def __init__(
        self, parsed: Parsed, tables: RelayTables, divided: Collection[tuple[str, str]], report: Report
    ) -> None:
        self._config = parsed.config
        self._names = parsed.names
        self._tables = tables
        self._divided = divided
        self._report = report
        self._of_domains = {one.domain: one.limits.family for one in parsed.config.domain_limits}

    def check(self) -> None:
        for action in self._config.actions:
            if action.relay is not None:
                self._check_families(self._names.relay_positions[action.name], action.relay)
        self._warn_of_ineffective([action.relay for action in self._config.actions if action.relay])
        self._warn_of_undivided()

    # -- families of addresses ---------------------------------------------------------------------------

    def _check_families(self, position: SourcePosition, relay: Relay) -> None:
        sources = frozenset(map(_family, self._tables.sources(relay)))
        overall = self._config.relay_limits.family
        fault = _family_fault(relay, sources, overall, "mta limit")
        if fault:
            self._report.add(position, f"{fault}, so no host could be reached")
        hosts = self._tables.hosts_of_domains(relay)
        for where, domain, host in hosts or ():
            if host.numeric:
                self._check_host(where, relay, sources, domain, host.host)
        if fault or relay.hosts:
            return
        known = None if hosts is None else {domain for _, domain, _ in hosts}
        for domain, family in self._of_domains.items():
            if known is not None and domain not in known:
                continue
            text = _family_fault(relay, sources, family, f"mta limit for domain {domain}")
            if text:
                self._report.warn(position, f"{text}, so mail for {domain} cannot be sent")

    def _check_host(
        self, where: SourcePosition, relay: Relay, sources: Collection[int], domain: str, address: str
    ) -> None:
        overall = self._config.relay_limits.family
        family = self._of_domains.get(domain, overall)
        if text := _host_fault(address, relay, sources, overall if family == overall else None, "mta limit"):
            self._report.add(where, text)
        elif text := _host_fault(address, relay, sources, family, f"mta limit for domain {domain}"):
            self._report.warn(where, text)

    # -- without effect --------------------------------------------------------------------------------------

    def _warn_of_ineffective(self, relays: Collection[Relay]) -> None:
        if all(relay.hosts for relay in relays):
            for domain, position in self._names.domain_limit_positions.items():
                self._report.warn(position, f"the limits for {quoted(domain)} are {WITHOUT_DOMAIN}")
            self._warn_of_keys(OF_DOMAINS, WITHOUT_DOMAIN)
        if not any(relay.sources for relay in relays):
            self._warn_of_keys(OF_SOURCES, WITHOUT_SOURCE)

    def _warn_of_keys(self, fields: Collection[str], why: str) -> None:
        for (which, _, field), position in self._names.limit_positions.items():
            if which == "mta" and field in fields:
                self._report.warn(position, f"{quoted(word(field))} is {why}")

    def _warn_of_undivided(self) -> None:
        """Of values in the configuration: a default value is nothing that was asked for."""
        dispatchers = self._config.dispatchers
        limits: dict[tuple[str, str], object] = {
            ("smtp", ""): self._config.limits,
            ("mta", ""): self._config.relay_limits,
            **{("mta", one.domain): one.limits for one in self._config.domain_limits},
        }
        for (which, domain, field), position in self._names.limit_positions.items():
            if (which, field) in self._divided and 0 < (limit := getattr(limits[which, domain], field)) < dispatchers:
                text = f"{word(field)} {limit} cannot be divided by {dispatchers} dispatchers: each has 1"
                self._report.warn(position, text)


def _family_fault(relay: Relay, sources: Collection[int], family: int | None, limit: str) -> str:
    """`sources`: the families of the addresses of `src`, empty without any; `family`: that of `limit`."""
    if relay.family and family and relay.family != family:
        return f"inet{relay.family} contradicts {limit} inet{family}"
    wanted = relay.family or family
    if wanted and sources and wanted not in sources:
        by = "" if relay.family else f", as {limit} inet{family} wants"
        return f'none of the addresses of "src" is an IPv{wanted} address{by}'
    return ""


def _host_fault(address: str, relay: Relay, sources: Collection[int], family: int | None, limit: str) -> str:
    for wanted, by in ((relay.family, "inet"), (family, f"{limit} inet")):
        if wanted and wanted != _family(address):
            return f"{address} is not an IPv{wanted} address, as {by}{wanted} wants"
    if sources and _family(address) not in sources:
        return f'none of the addresses of "src" can be connected from to {address}'
    return ""


def _family(address: str) -> int:
    return 6 if ":" in address else 4
