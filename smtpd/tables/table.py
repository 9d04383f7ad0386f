"""What all tables can do, and how the one that the configuration describes is opened.

    check(service, key)   is there an entry that the key matches, as this service understands entries?
    find(service, key)    the value that stands for the key, or None
    update()              read again; what is served changes only when everything could be read

Each may answer Unavailable instead: a table that cannot be asked is no reason to accept or refuse anything for good.
A table that somebody else answers for says Awaited: whoever asked goes on when the answer has come.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Service(StrEnum):
    """What a key is and how it is compared."""

    ALIAS = "alias"  # a name or an address -> what it is expanded to
    DOMAIN = "domain"
    CREDENTIALS = "credentials"  # a user or a label -> a secret
    NETADDR = "netaddr"  # a numeric address, or "local"
    USERINFO = "userinfo"  # a user -> uid:gid:home
    SOURCE = "source"  # a list of numeric addresses
    MAILADDR = "mailaddr"  # an address -> patterns of addresses
    ADDRNAME = "addrname"  # a numeric address -> a host name
    MAILADDRMAP = "mailaddrmap"  # a user -> patterns of addresses
    RELAYHOST = "relayhost"  # a domain -> a URL
    STRING = "string"
    REGEX = "regex"
    AUTH = "auth"  # user:password; programs only


# What these are asked for is a value, so a list cannot serve them.
VALUED = frozenset(
    {Service.ALIAS, Service.CREDENTIALS, Service.USERINFO, Service.ADDRNAME, Service.MAILADDRMAP, Service.RELAYHOST}
)


@dataclass(frozen=True)
class Unavailable:
    """Ask again later; `reason` is for the log."""

    reason: str


Answer = bool | str | None | Unavailable


@dataclass(frozen=True)
class Awaited:
    """`begin(answered)` asks; `answered(answer)` is called once, later, never before `begin` returns.  The answer is of
    the same kind as the one it stands for."""

    begin: Callable[[Callable[[Answer], None]], None]


class LoadedTable(Protocol):
    """One that is in memory, and answers at once."""

    def check(self, service: Service, key: str) -> bool | Unavailable: ...

    def find(self, service: Service, key: str) -> str | None | Unavailable: ...


class Table(Protocol):
    name: str

    def check(self, service: Service, key: str) -> bool | Unavailable | Awaited: ...

    def find(self, service: Service, key: str) -> str | None | Unavailable | Awaited: ...

    def update(self) -> Unavailable | None | Awaited: ...
