"""A cache of answers, which also merges simultaneous questions for the same key.

    find(key)           the cached answer, or None
    ask(key, answered)  call answered(answer) when it has arrived
    answer(key, …)      it has arrived: cached for `seconds`, passed to all who asked
    forget(key)         drop the cached answer

Bounded: the oldest answer is dropped first.
"""

from collections.abc import Callable


class AnswerCache[Key, Answer]:
    """`fetch(key)` makes sure that answer(key, …) is called once, now or later; `now`: a monotonic clock in seconds."""

    def __init__(self, fetch: Callable[[Key], None], now: Callable[[], float], size: int):
        self._fetch = fetch
        self._now = now
        self._size = size
        self._answers: dict[Key, tuple[Answer, float]] = {}
        self._waiting: dict[Key, list[Callable[[Answer], None]]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: Key) -> Answer | None:
        known = self._answers.get(key)
        if known is None:
            return None
        answer, until = known
        if self._now() < until:
            return answer
        del self._answers[key]
        return None

    def forget(self, key: Key) -> None:
        self._answers.pop(key, None)

    def ask(self, key: Key, answered: Callable[[Answer], None]) -> None:
        """Fetch the answer, unless that is under way.  If `fetch` answers at once, so does this."""
        if key in self._waiting:
            self._waiting[key].append(answered)
        else:
            self._waiting[key] = [answered]
            self._fetch(key)

    def answer(self, key: Key, answer: Answer, seconds: float) -> None:
        """Pass the answer on, and cache it for `seconds`; with 0 it is not cached."""
        if seconds > 0:
            if len(self._answers) >= self._size:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = answer, self._now() + seconds
        for answered in self._waiting.pop(key):
            answered(answer)
