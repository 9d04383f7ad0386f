"""Threads that wait for the disk, so that the loop never does.

    loop: ask(function, done) --> a thread: function() --> loop: done(result, None) | done(None, error)

The results that several threads have meanwhile come back to the loop in one call.  A thread is started when there is
work for it for the first time: a sandbox is entered by a process that has only one.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

Done = Callable[[Any, BaseException | None], None]
Work = Callable[[], Any]


class DiskThreads:
    """At most `count` threads, called `name`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, count: int = 1):
        self._loop, self._name, self._count = loop, name, count
        self._asked: SimpleQueue[tuple[Work, Done]] = SimpleQueue()
        self._lock = threading.Lock()  # of the answers
        self._answers: list[tuple[Done, Any, BaseException | None]] = []
        self._threads = 0
        self.under_way = 0

    def ask(self, function: Work, done: Done) -> None:
        self.under_way += 1
        if self._threads < min(self._count, self.under_way):
            self._begin_another()
        if self._threads:
            self._asked.put((function, done))
        else:
            self._answer(done, None, OSError(errno.EAGAIN, "no thread can be made"))

    def _begin_another(self) -> None:
        """At the limit of processes those that there are do it all."""
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._threads += 1

    def _work(self) -> None:
        while True:
            function, done = self._asked.get()
            try:
                result, error = function(), None
            except Exception as raised:  # whatever it is, it belongs to the caller
                result, error = None, raised
            try:
                self._answer(done, result, error)
            except RuntimeError:
                return  # the loop has been closed: the answer is not waited for
            del function, done, result, error

    def _answer(self, done: Done, result: Any, error: BaseException | None) -> None:
        with self._lock:  # looked at and appended to in one step: of two threads, one is the first
            is_first = not self._answers
            self._answers.append((done, result, error))
        if is_first:  # otherwise the loop has not yet taken what was there, and takes this too
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, []
        for done, result, error in answers:
            self.under_way -= 1
            done(result, error)
