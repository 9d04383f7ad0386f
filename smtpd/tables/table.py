"""What all tables can do, and how the one that the configuration describes is opened.

    check(service, key)   is there an entry that the key matches, as this service understands entries?
    find(service, key)    the value that stands for the key, or None
    update()              read again; what is served changes only when everything could be read

Each may answer Unavailable instead: a table that cannot be asked is no reason to accept or refuse anything for good.
A table that somebody else answers for says Awaited: whoever asked goes on when the answer has come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpd.domain_name import address_spellings, spellings
from smtpd.slice import Service

# What these are asked for is a value, so a list cannot serve them.
VALUE_SERVICES = frozenset(
    {Service.ALIAS, Service.CREDENTIALS, Service.USERINFO, Service.ADDRNAME, Service.MAILADDRMAP, Service.RELAYHOST}
)


@dataclass(frozen=True)
class TableUnavailable:
    """Ask again later; `reason` is for the log."""

    reason: str


Answer = bool | str | None | TableUnavailable


@dataclass(frozen=True)
class PendingAnswer:
    """`begin(answered)` asks; `answered(answer)` is called once, later, never before `begin` returns.  The answer is of
    the same kind as the one it stands for."""

    begin: Callable[[Callable[[Answer], None]], None]


def key_spellings(service: Service, key: str) -> tuple[str, ...]:
    """Under which a key may be known to somebody else, the likeliest first.  Expressions and passwords stay as they
    are."""
    if service in (Service.REGEX, Service.AUTH):
        return (key,)
    return spellings(key) if service in (Service.DOMAIN, Service.RELAYHOST) else address_spellings(key)


def first_found(ask: Callable[[str], Answer | PendingAnswer], keys: Sequence[str]) -> Answer | PendingAnswer:
    """The answer for the first of the keys that is found; asks for no more of them.  There is at least one."""
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
    """One that is in memory, and answers at once."""

    def check(self, service: Service, key: str) -> bool | TableUnavailable: ...

    def find(self, service: Service, key: str) -> str | None | TableUnavailable: ...


class Table(Protocol):
    name: str

    def check(self, service: Service, key: str) -> bool | TableUnavailable | PendingAnswer: ...

    def find(self, service: Service, key: str) -> str | None | TableUnavailable | PendingAnswer: ...

    def update(self) -> TableUnavailable | None | PendingAnswer: ...
