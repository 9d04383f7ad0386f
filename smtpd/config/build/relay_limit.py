"""mta limit [for domain NAME] inet4 | inet6 | KEY N …; mta max-deferred N; srs key, srs ttl.

The limits for a domain begin as a copy of the others, as they stand at that point of the file.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from lark import Token, Tree
from msgspec.structs import replace

from smtpd.config.build import value
from smtpd.config.build.diagnostics import Diagnostics, parts, value_of
from smtpd.config.build.names import Names
from smtpd.config.build.relay import FAMILIES
from smtpd.config.errors import ConfigValueError, quoted
from smtpd.config.model import DomainLimits, Srs
from smtpd.domain_name import normal
from smtpd.slice import RelayLimits
from smtpd.smtp.address import AddressError, parse_domain
from smtpd.smtp.srs import DAY_SECONDS, TTL_MAX

LIMITS = {field.replace("_", "-"): field for field in RelayLimits.__struct_fields__ if field != "family"}
# Of OpenSMTPD's dispatcher, which holds what waits for a destination; here the scheduler does.
UNAVAILABLE_RELAY_LIMITS = {"task-hiwat", "task-lowat", "task-release"}
KEY_MIN = 16  # characters of a key of SRS; what is rewritten is seen by others, who can then try keys without asking us
SHORT_KEY = (
    "a short key can be guessed, and any host that knows it can send bounces to any address through this server, "
    f"expected at least {KEY_MIN} random characters, as by: openssl rand -hex 16"
)

# OpenSMTPD defers each mail to a destination that it cannot reach, and remembers so many of them to be tried again.
MAX_DEFERRED = (
    '"mta max-deferred" is without effect: mail for a destination that cannot be reached is not deferred, it waits'
)


class RelayLimitBuilder:
    """`add` the settings of each `mta` sentence, then take `limits`, `domain_limits` and `max_deferred`."""

    def __init__(self, diagnostics: Diagnostics, names: Names) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self.limits = RelayLimits()
        self.max_deferred = 100
        self._of_domain: dict[str, RelayLimits] = {}

    @property
    def domain_limits(self) -> tuple[DomainLimits, ...]:
        return tuple(DomainLimits(domain, limits) for domain, limits in self._of_domain.items())

    def add(self, setting: Tree) -> None:
        if setting.data == "max_deferred":
            token = value_of(setting)
            self._diagnostics.warn(setting, MAX_DEFERRED)
            self.max_deferred = self._diagnostics.value(partial(value.limit, key="max_deferred"), token, 1)
            return
        domains = [part for part in parts(setting) if part.data == "for_domain"]
        settings = [part for part in parts(setting) if part.data != "for_domain"]
        if not domains:
            self.limits = replace(self.limits, **self._values(settings, ""))
            return
        (name,) = parts(domains[0])
        domain = self._diagnostics.value(_domain, name, "")
        said = self._values(settings, domain)
        if domain:
            self._names.domain_limit_positions.setdefault(domain, self._diagnostics.position(name))
            self._of_domain[domain] = replace(self._of_domain.get(domain, self.limits), **said)

    def _values(self, settings: list[Tree], domain: str) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for setting in settings:
            if setting.data in FAMILIES:
                said["family"] = FAMILIES[setting.data]
            else:
                said |= self._value(domain, *parts(setting))
        return said

    def _value(self, domain: str, key: Token, number: Token) -> Mapping[str, int]:
        if key in UNAVAILABLE_RELAY_LIMITS:
            self._diagnostics.not_yet(key, f"mta limit {key}")
        elif self._diagnostics.check_known(key, LIMITS):
            field = LIMITS[key]
            self._names.limit_positions["mta", domain, field] = self._diagnostics.position(number)
            return {field: self._diagnostics.value(partial(value.limit, key=field), number, 1)}
        return {}


class SrsBuilder:
    """`add` the setting of each `srs` sentence, then take `settings`."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._said: dict[str, Any] = {}
        self._first: dict[str, Tree] = {}
        self._files: dict[str, str] = {}

    def add(self, setting: Tree) -> None:
        self._first.setdefault(setting.data, setting)
        self._files.setdefault(setting.data, self._diagnostics.file)
        read = _days if setting.data == "ttl" else _key
        self._said[setting.data] = self._diagnostics.value(read, value_of(setting), Srs.ttl if read is _days else "")
        if read is _key and 0 < len(self._said[setting.data]) < KEY_MIN:
            self._diagnostics.warn(value_of(setting), SHORT_KEY)

    def settings(self) -> Srs:
        """All of them, when all files are read."""
        for setting, node in self._first.items():
            if setting != "key" and "key" not in self._said:
                self._diagnostics.file = self._files[setting]
                what = "srs ttl" if setting == "ttl" else "srs key backup"
                self._diagnostics.error(node, f"{quoted(what)} requires {quoted('srs key')}")
        return Srs(**self._said)


def _domain(text: str) -> str:
    try:
        return normal(parse_domain(text.removesuffix(".")))
    except AddressError as malformed:
        raise ConfigValueError(f"invalid domain {quoted(text)}: {malformed}") from None


def _key(text: str) -> str:
    """The text of a key is no part of an error."""
    if not text:
        raise ConfigValueError("empty key")
    return text


def _days(text: str) -> int:
    seconds = value.interval(text)
    if seconds % DAY_SECONDS or seconds > TTL_MAX * DAY_SECONDS:
        raise ConfigValueError(f"interval {text} is out of range, expected whole days, 1d to {TTL_MAX}d")
    return seconds
