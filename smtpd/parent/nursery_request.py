"""The requests of one service to the nursery: some with it, the others in line.

ask --> in line --> with the nursery --answered--> answer
                \\___________ deadline ____________> late, and what the nursery says then is only counted
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.parent.privileged_request import PrivilegedRequest

Answer = Callable[[Any, int | None], None]  # with the nursery's imsg and its descriptor


@dataclass(eq=False)
class Request:
    """One that the nursery has or will have.  `answer` is None once it was answered without it."""

    imsg: Any  # for the nursery
    answer: Answer | None
    late: Callable[[], None]
    timer: Timer | None = None


class NurseryRequests:
    """`dropped` is told of each request that never came to the nursery."""

    def __init__(
        self,
        loop: SelectorLoop,
        nursery: Channel,
        service: PrivilegedRequest,
        dropped: Callable[[Any], None] = lambda _imsg: None,
    ):
        self._loop = loop
        self._nursery = nursery
        self._limits = service
        self._dropped = dropped
        self._waiting: deque[Request] = deque()
        self._asked: dict[int, Request] = {}
        self._last = 0

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._limits.waiting

    def ask(self, make: Callable[[int], Any], answer: Answer, late: Callable[[], None]) -> None:
        """`make` gives the imsg for the number of the request."""
        self._last += 1
        request = Request(make(self._last), answer, late)
        request.timer = self._loop.call_later(self._limits.deadline, partial(self._too_late, request))
        self._waiting.append(request)
        self._proceed()

    def get_asked(self, imsg: Any) -> Request:
        """What `imsg` of the nursery answers.  Raises Violation."""
        request = self._asked.get(imsg.request)
        if request is None:
            raise Violation(f"nursery answers {type(imsg).__name__} without a request")
        return request

    def answered(self, imsg: Any, descriptor: int | None = None) -> None:
        """Raises Violation."""
        request = self.get_asked(imsg)
        del self._asked[imsg.request]
        if request.timer is not None:
            request.timer.cancel()
        if request.answer is not None:
            request.answer(imsg, descriptor)
        self._proceed()

    def _proceed(self) -> None:
        while self._waiting and len(self._asked) < self._limits.at_once:
            request = self._waiting.popleft()
            self._asked[request.imsg.request] = request
            self._nursery.send(request.imsg)

    def _too_late(self, request: Request) -> None:
        request.answer = None
        if request in self._waiting:
            self._waiting.remove(request)
            self._dropped(request.imsg)
        else:
            log.warn(f"the nursery does not answer {type(request.imsg).__name__}")
        request.late()
