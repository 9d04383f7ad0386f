"""What is asked about those who come in by a listener: by its number, as lookup alone knows the tables behind it.

    ClassifyClient   hostnames: our address -> our name there         xclient: clients that may speak for others
    CheckSender     senders:   user -> amy, amy@there.test, @here.test, @*.here.test, @

A question may wait for a program that answers for a table, and others do not wait for it.  An exception of ours costs
the question that it happened to.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from smtpd.domain_name import ascii_form
from smtpd.imsg import CheckSender, ClassifyClient, ClientClassified, SenderChecked
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.lookup.login_failures import NO, TRY_LATER, YES
from smtpd.lookup.resolver_config import canonical_address, is_host_name
from smtpd.slice import ListenerTablesSlice, Service
from smtpd.tables.matching import Addresses
from smtpd.tables.table import Answer, PendingAnswer, Table, TableUnavailable

NULL_SENDER = "@"  # as address tables know it


@dataclass(frozen=True)
class ListenerTables:
    """Tables; None where the listener has none."""

    auth: bool
    credentials: Table | None  # None: users of the system
    senders: Table | None
    hostnames: Table | None
    xclient: Table | None


class ListenerQuestions:
    """Raises KeyError for a table that is not there."""

    def __init__(self, described: Sequence[ListenerTablesSlice], tables: Mapping[str, Table], delimiter: str):
        self._doors = {door.number: _door(door, tables) for door in described}
        self._delimiter = delimiter
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, number: int) -> ListenerTables:
        """Raises Violation: who asks knows its listeners."""
        if number not in self._doors:
            raise Violation(f"a question about listener {number}, which has no tables")
        return self._doors[number]

    def answer(self, channel: Channel, about: str, answer: Coroutine[Any, Any, Any], otherwise: Any) -> None:
        """Send `answer` when it is known; `otherwise` when we fail."""

        async def carry() -> None:
            try:
                channel.send(await answer)
            except Exception as error:
                log.trouble(about, error)
                channel.send(otherwise)

        task = asyncio.get_running_loop().create_task(carry())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- who are we to this client, and whom may it speak for? -----------------------------------

    def welcome(self, dispatcher: Channel, asked: ClassifyClient) -> None:
        answer = _welcome(self.get(asked.listener), asked)
        self.answer(dispatcher, "name of a listener", answer, ClientClassified(asked.request, "", False))

    # -- may this user send as that? -------------------------------------------------------------

    def check_sender(self, dispatcher: Channel, asked: CheckSender) -> None:
        door = self.get(asked.listener)
        if door.senders is None:
            raise Violation(f"a question about senders at listener {asked.listener}")
        answer = self._check_sender(door.senders, asked)
        self.answer(dispatcher, "sender of a user", answer, SenderChecked(asked.request, TRY_LATER))

    async def _check_sender(self, senders: Table, asked: CheckSender) -> SenderChecked:
        patterns = await said(senders.find(Service.MAILADDRMAP, asked.user))
        if isinstance(patterns, TableUnavailable):
            log.warn(patterns.reason)
            return SenderChecked(asked.request, TRY_LATER)
        allowed = isinstance(patterns, str) and may_send_as(patterns, asked.sender, self._delimiter)
        return SenderChecked(asked.request, YES if allowed else NO)


def _door(described: ListenerTablesSlice, tables: Mapping[str, Table]) -> ListenerTables:
    names = described.credentials, described.senders, described.hostnames, described.xclient
    return ListenerTables(described.auth, *(tables[name] if name else None for name in names))


async def said(answer: Answer | PendingAnswer) -> Answer:
    """What a table says, waited for where it has to be."""
    if not isinstance(answer, PendingAnswer):
        return answer
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answered(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)

    answer.begin(answered)
    return await future


async def _welcome(door: ListenerTables, asked: ClassifyClient) -> ClientClassified:
    """A table that cannot be asked changes nothing: the listener's own name, and a client like any other."""
    name, trusted = None, False
    local, client = canonical_address(asked.local), canonical_address(asked.address) or asked.address
    if door.hostnames is not None and local is not None:
        name = await _known(door.hostnames, lambda table: table.find(Service.ADDRNAME, local))
    if door.xclient is not None:
        trusted = await _known(door.xclient, lambda table: table.check(Service.NETADDR, client)) is True
    name = ascii_form(name) if isinstance(name, str) and not name.isascii() else name
    if isinstance(name, str) and not is_host_name(name):
        log.warn(f"what {local} stands for is no host name")
        name = None
    return ClientClassified(asked.request, name if isinstance(name, str) else "", trusted)


async def _known(table: Table, ask: Callable[[Table], Answer | PendingAnswer]) -> Answer:
    answer = await said(ask(table))
    if isinstance(answer, TableUnavailable):
        log.warn(answer.reason)
        return None
    return answer


def may_send_as(patterns: str, sender: str, delimiter: str) -> bool:
    """`patterns` with commas between them; `sender` is empty for the null sender."""
    return _addresses(patterns, delimiter).check(sender or NULL_SENDER)


@lru_cache(maxsize=256)
def _addresses(patterns: str, delimiter: str) -> Addresses:
    return Addresses(filter(None, map(str.strip, patterns.split(","))), delimiter)
