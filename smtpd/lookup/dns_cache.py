"""DNS answers, cached for their TTL; the same question is asked once at a time.

Bounded: questions under way, seconds of one, bytes of what is cached.  A failure is cached for a short time too: a dead
name server is not asked for each mail.  The time of a question begins when it is sent: that others, whose name servers
are silent, have all places is no failure of its name.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from smtpd.ipc.answer_cache import AnswerCache
from smtpd.ipc.log import log
from smtpd.lookup.dns_message import DnsFailure, DnsResult, MxRecord, RecordType, TlsaData, Value
from smtpd.lookup.resolver import NoDnsAnswer, Resolver

LOOKUPS_MAX = 256  # at a time; each has a socket
QUESTION_TIMEOUT = 30.0  # seconds, from when it has its place
TTL_MIN, TTL_MAX = 5, 3600  # seconds, bounds of the TTL
FAILURE_TTL = 30  # seconds
CACHE_SIZE = 32 * 1024 * 1024  # bytes, as estimated by _weigh
RESULT_SIZE, VALUE_SIZE = 500, 150  # bytes of Python's objects, measured

Key = tuple[str, RecordType]
Answer = DnsResult[Any] | DnsFailure


class Deadline:
    """Until when several questions are to be answered.  It moves on by the time in which any of them has no place."""

    def __init__(self, now: Callable[[], float], seconds: float):
        self._now = now
        self.until = now() + seconds
        self._waited_until = now()

    def waited(self, since: float) -> None:
        """A question has had no place since then; what several waited at the same time counts once."""
        now = self._now()
        self.until += max(0.0, now - max(since, self._waited_until))
        self._waited_until = now


class DnsCache:
    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Resolver):
        self._loop = loop
        self._resolver = resolver
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: dict[Key, asyncio.Event] = {}  # of questions that have no answer: whether they have their place
        self._answers: AnswerCache[Key, tuple[Answer, float]] = AnswerCache(
            self._fetch, loop.time, CACHE_SIZE, lambda kept: _weigh(kept[0])
        )

    async def find(self, name: str, kind: RecordType, deadline: Deadline | None = None) -> Answer:
        """The records of a name in ASCII and lower case; `seconds` is what is left of their TTL.  Raises TimeoutError
        at the deadline."""
        key = name, kind
        kept = self._answers.find(key)
        if kept is None:
            arrived: asyncio.Future[tuple[Answer, float]] = self._loop.create_future()
            self._answers.ask(key, partial(_arrive, arrived))
            if deadline is not None:
                await self._place(key, deadline)
            async with asyncio.timeout_at(None if deadline is None else deadline.until):
                kept = await arrived
        answer, until = kept
        return replace(answer, seconds=max(0, round(until - self._loop.time())))

    async def _place(self, key: Key, deadline: Deadline) -> None:
        """Wait until the question is sent."""
        sent = self._sent.get(key)
        if sent is not None and not sent.is_set():
            since = self._loop.time()
            await sent.wait()
            deadline.waited(since)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _fetch(self, key: Key) -> None:
        self._sent[key] = asyncio.Event()
        task = self._loop.create_task(self._look_up(*key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, name: str, kind: RecordType) -> None:
        answer: Answer = DnsFailure("no answer in time", FAILURE_TTL)
        try:
            async with self._slots:  # outside the time-out: thousands that end it together would cost seconds of CPU
                self._sent[name, kind].set()
                async with asyncio.timeout(QUESTION_TIMEOUT):
                    answer = await self._resolver.find(name, kind)
        except NoDnsAnswer as error:
            answer = DnsFailure(str(error), FAILURE_TTL)
        except TimeoutError:
            log.debug(f"no answer in time for {kind.name} of {name}")
        except Exception as error:
            log.trouble(f"{kind.name} of {name}", error)
            answer = DnsFailure("internal error", FAILURE_TTL)
        finally:
            self._sent.pop((name, kind)).set()
        seconds = max(TTL_MIN, min(answer.seconds, TTL_MAX))
        self._answers.answer((name, kind), (answer, self._loop.time() + seconds), seconds)


def _arrive(waiting: asyncio.Future[tuple[Answer, float]], kept: tuple[Answer, float]) -> None:
    if not waiting.done():  # its question may have been given up
        waiting.set_result(kept)


def _weigh(answer: Answer) -> int:
    """Bytes of memory, about."""
    values = answer.values if isinstance(answer, DnsResult) else ()
    return RESULT_SIZE + sum(VALUE_SIZE + _size(value) for value in values)


def _size(value: Value) -> int:
    match value:
        case MxRecord():
            return len(value.host)
        case TlsaData():
            return len(value.data)
        case _:
            return len(value)
