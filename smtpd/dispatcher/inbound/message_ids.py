"""Message ids: taken from blocks that queue has reserved for this dispatcher alone."""

from collections import deque
from collections.abc import Callable

from smtpd.imsg import MessageIdsReserved, ReserveMessageIds
from smtpd.ipc.request_window import RequestWindow

REFILL_BELOW = 256  # ids left when the next block is requested


class MessageIds:
    def __init__(self, to_queue: RequestWindow):
        self._to_queue = to_queue
        self._ids: deque[int] = deque()
        self._waiting: deque[Callable[[int], None]] = deque()
        self._asked = False

    def take(self, use: Callable[[int], None]) -> None:
        """Call `use` with an id that is given to no other message, now or when a block has come."""
        if self._ids:
            use(self._ids.popleft())
        else:
            self._waiting.append(use)
        if len(self._ids) < REFILL_BELOW:
            self.reserve()

    def reserve(self) -> None:
        if not self._asked:
            self._asked = True
            self._to_queue.ask(ReserveMessageIds, self._reserved)

    def _reserved(self, imsg: MessageIdsReserved) -> None:
        self._asked = False
        self._ids.extend(imsg.ids)
        while self._waiting and self._ids:
            self._waiting.popleft()(self._ids.popleft())
        if self._waiting:
            self.reserve()
