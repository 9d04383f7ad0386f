"""What all tables can do.

    check(service, key)   whether the key matches an entry, by the comparison of this service
    find(service, key)    the value of the key, or None
    entries()             all entries of a list, in their order
    update()              read the table again; the old content stays in force unless all of the new one is valid

Each may return TableUnavailable instead: a table that cannot be read never accepts or refuses anything permanently.  A
table that a program answers for returns PendingAnswer: the caller continues when the answer has arrived.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpd.domain_name import address_spellings, spellings
from smtpd.slice import Service

# Services that need a value, so that a list cannot serve them.  A smarthost is an entry of a list, or a value.
VALUE_SERVICES = frozenset(
    {Service.ALIAS, Service.CREDENTIALS, Service.USERINFO, Service.ADDRNAME, Service.MAILADDRMAP}
)


@dataclass(frozen=True)
class TableUnavailable:
    """The table cannot be read now, a temporary failure; `reason` is for the log."""

    reason: str


Answer = bool | str | None | TableUnavailable


@dataclass(frozen=True)
class PendingAnswer:
    """An answer that a program gives later.  `begin(answered)` asks; `answered(answer)` is called once, never before
    `begin` returns."""

    begin: Callable[[Callable[[Answer], None]], None]


def key_spellings(service: Service, key: str) -> tuple[str, ...]:
    """The spellings under which another program may know a key, the normal form first.  Regular expressions and
    passwords stay as they are."""
    if service in (Service.REGEX, Service.AUTH):
        return (key,)
    return spellings(key) if service in (Service.DOMAIN, Service.RELAYHOST) else address_spellings(key)


def first_found(ask: Callable[[str], Answer | PendingAnswer], keys: Sequence[str]) -> Answer | PendingAnswer:
    """The answer for the first of the keys that is found; the keys after it are not asked for.  At least one key."""
    key, *rest = keys
    answer = ask(key)
    if not rest:
        return answer
    if not isinstance(answer, PendingAnswer):
        return first_found(ask, rest) if answer in (None, False) else answer
    awaited = answer

    def begin(answered: Callable[[Answer], None]) -> None:
        def heard(answer: Answer) -> None:
            following = first_found(ask, rest) if answer in (None, False) else answer
            if isinstance(following, PendingAnswer):
                following.begin(answered)
            else:
                answered(following)

        awaited.begin(heard)

    return PendingAnswer(begin)


class LoadedTable(Protocol):
    """A table in memory, which answers at once."""

    def check(self, service: Service, key: str) -> bool | TableUnavailable: ...

    def find(self, service: Service, key: str) -> str | None | TableUnavailable: ...

    def entries(self) -> tuple[str, ...] | TableUnavailable: ...


class Table(Protocol):
    name: str

    def check(self, service: Service, key: str) -> bool | TableUnavailable | PendingAnswer: ...

    def find(self, service: Service, key: str) -> str | None | TableUnavailable | PendingAnswer: ...

    def entries(self) -> tuple[str, ...] | TableUnavailable: ...

    def update(self) -> TableUnavailable | None | PendingAnswer: ...
