"""Questions about the clients of a listener, answered from the tables of that listener.

    ClassifyClient   hostnames: server address -> server name         xclient: clients that may use XCLIENT
    CheckSender     senders:   user -> amy, amy@there.test, @here.test, @*.here.test, @

The dispatcher names the listener by its number.  A question that waits for a table program does not delay others.  An
exception in our code costs only the question it happened in.
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
    """The tables of one listener; None for those it does not have."""

    auth: bool
    credentials: Table | None  # None: system users
    senders: Table | None
    hostnames: Table | None
    xclient: Table | None


class ListenerQuestions:
    """Answers questions about listeners.  Raises KeyError for an unknown table."""

    def __init__(self, described: Sequence[ListenerTablesSlice], tables: Mapping[str, Table], delimiter: str):
        self._listener_tables = {listener.number: _open_listener_tables(listener, tables) for listener in described}
        self._delimiter = delimiter
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, number: int) -> ListenerTables:
        """The tables of listener `number`.  Raises Violation for an unknown one: dispatchers know their listeners."""
        if number not in self._listener_tables:
            raise Violation(f"a question about listener {number}, which has no tables")
        return self._listener_tables[number]

    def answer(self, channel: Channel, about: str, answer: Coroutine[Any, Any, Any], otherwise: Any) -> None:
        """Send the result of `answer`, or `otherwise` if it raises."""

        async def carry() -> None:
            try:
                channel.send(await answer)
            except Exception as error:
                log.trouble(about, error)
                channel.send(otherwise)

        task = asyncio.get_running_loop().create_task(carry())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the server's name for this client, and whether it may use XCLIENT ------------------------

    def classify(self, dispatcher: Channel, asked: ClassifyClient) -> None:
        answer = _classify(self.get(asked.listener), asked)
        self.answer(dispatcher, "name of a listener", answer, ClientClassified(asked.request, "", False))

    # -- may this user send from that address? ----------------------------------------------------

    def check_sender(self, dispatcher: Channel, asked: CheckSender) -> None:
        tables = self.get(asked.listener)
        if tables.senders is None:
            raise Violation(f"a question about senders at listener {asked.listener}")
        answer = self._check_sender(tables.senders, asked)
        self.answer(dispatcher, "sender of a user", answer, SenderChecked(asked.request, TRY_LATER))

    async def _check_sender(self, senders: Table, asked: CheckSender) -> SenderChecked:
        patterns = await wait_for_answer(senders.find(Service.MAILADDRMAP, asked.user))
        if isinstance(patterns, TableUnavailable):
            log.warn(patterns.reason)
            return SenderChecked(asked.request, TRY_LATER)
        allowed = isinstance(patterns, str) and may_send_as(patterns, asked.sender, self._delimiter)
        return SenderChecked(asked.request, YES if allowed else NO)


def _open_listener_tables(described: ListenerTablesSlice, tables: Mapping[str, Table]) -> ListenerTables:
    names = described.credentials, described.senders, described.hostnames, described.xclient
    return ListenerTables(described.auth, *(tables[name] if name else None for name in names))


async def wait_for_answer(answer: Answer | PendingAnswer) -> Answer:
    """The answer of a table, awaited if a program gives it."""
    if not isinstance(answer, PendingAnswer):
        return answer
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answered(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)

    answer.begin(answered)
    return await future


async def _classify(tables: ListenerTables, asked: ClassifyClient) -> ClientClassified:
    """A table that cannot be read changes nothing: the listener's own name, and no XCLIENT."""
    name, trusted = None, False
    local, client = canonical_address(asked.local), canonical_address(asked.address) or asked.address
    if tables.hostnames is not None and local is not None:
        name = await _known(tables.hostnames, lambda table: table.find(Service.ADDRNAME, local))
    if tables.xclient is not None:
        trusted = await _known(tables.xclient, lambda table: table.check(Service.NETADDR, client)) is True
    name = ascii_form(name) if isinstance(name, str) and not name.isascii() else name
    if isinstance(name, str) and not is_host_name(name):
        log.warn(f"invalid host name for {local} in a table of hostnames")
        name = None
    return ClientClassified(asked.request, name if isinstance(name, str) else "", trusted)


async def _known(table: Table, ask: Callable[[Table], Answer | PendingAnswer]) -> Answer:
    answer = await wait_for_answer(ask(table))
    if isinstance(answer, TableUnavailable):
        log.warn(answer.reason)
        return None
    return answer


def may_send_as(patterns: str, sender: str, delimiter: str) -> bool:
    """Whether `sender` matches one of `patterns`, which commas separate; an empty `sender` is the null sender."""
    return _addresses(patterns, delimiter).check(sender or NULL_SENDER)


@lru_cache(maxsize=256)
def _addresses(patterns: str, delimiter: str) -> Addresses:
    return Addresses(filter(None, map(str.strip, patterns.split(","))), delimiter)
