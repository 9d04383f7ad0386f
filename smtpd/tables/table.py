"""What all tables can do, and how the one that the configuration describes is opened.

    check(service, key)   is there an entry that the key matches, as this service understands entries?
    find(service, key)    the value that stands for the key, or None
    update()              read again; what is served changes only when everything could be read

Each may answer Unavailable instead: a table that cannot be asked is no reason to accept or refuse anything for good.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Service(StrEnum):
    """What a key is and how it is compared."""

    ALIAS = "alias"  # a name or an address -> what it is expanded to
    DOMAIN = "domain"
    MAILADDR = "mailaddr"  # an address -> patterns of addresses
    NETADDR = "netaddr"  # a numeric address, or "local"
    REGEX = "regex"
    STRING = "string"


@dataclass(frozen=True)
class Unavailable:
    """Ask again later; `reason` is for the log."""

    reason: str


class Table(Protocol):
    name: str

    def check(self, service: Service, key: str) -> bool | Unavailable: ...

    def find(self, service: Service, key: str) -> str | None | Unavailable: ...

    def update(self) -> Unavailable | None: ...
