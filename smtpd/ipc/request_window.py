"""Requests that wait for their answer, and the window that bounds them.

A requester asks at most so many questions, of so many bytes, at a time; what comes beyond waits here, at its source, so
that no channel grows without bound and none is ever left unread.  An answer to no question, or to one of another kind,
is impossible: Violation.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from smtpd.ipc.channel import Channel, Violation

Answered = Callable[..., None]
ID_MAX = 2**31 - 1


class RequestWindow:
    """The questions to one channel: `count` under way at a time, `size` bytes of their payloads together."""

    def __init__(self, channel: Channel, count: int = 1024, size: int = 8 * 1024 * 1024):
        self.channel = channel
        self._count, self._size = count, size
        self._asked: dict[int, tuple[type, Answered, int]] = {}
        self._bytes = 0
        self._next = 0
        self._waiting: deque[tuple[Callable[[int], Any], Answered, int]] = deque()

    @property
    def full(self) -> bool:
        """The window is used up: read no further from what causes requests."""
        return len(self._asked) >= self._count or self._bytes >= self._size

    def __len__(self) -> int:
        return len(self._asked) + len(self._waiting)

    def ask(self, make: Callable[[int], Any], answered: Answered, size: int = 0) -> None:
        """Send `make(request)`, of `size` bytes, when there is room; `answered(imsg, …)` gets what comes back."""
        if self.full:
            self._waiting.append((make, answered, size))
        else:
            self._send(make, answered, size)

    def _send(self, make: Callable[[int], Any], answered: Answered, size: int) -> None:
        self._next = self._next % ID_MAX + 1
        while self._next in self._asked:  # a number that is still under way after a wrap
            self._next = self._next % ID_MAX + 1
        question = make(self._next)
        self.channel.send(question)  # what it raises leaves the window as it was
        self._asked[self._next] = (type(question), answered, size)
        self._bytes += size

    def answer(self, imsg: Any, *more: Any) -> None:
        """`imsg.request` has its answer."""
        asked, answered, size = self._asked.get(imsg.request, (None, None, 0))
        if answered is None or asked is not self.channel.question_of(type(imsg)):
            raise Violation(f"{self.channel.peer} answers {type(imsg).__name__} without a request")
        del self._asked[imsg.request]
        self._bytes -= size
        while self._waiting and not self.full:
            self._send(*self._waiting.popleft())
        answered(imsg, *more)
