"""A cache of answers, which also merges simultaneous questions for the same key.

    find(key)           the cached answer, or None
    ask(key, answered)  call answered(answer) when it has arrived
    answer(key, …)      it has arrived: cached for `seconds`, passed to all who asked
    forget(key)         drop the cached answer

Bounded: the oldest answer is dropped first.  Answers of very different sizes are weighed.
"""

from collections.abc import Callable


class AnswerCache[Key, Answer]:
    """`fetch(key)` makes sure that answer(key, …) is called once, now or later; `now`: a monotonic clock in seconds.

    `size`: answers that are cached at the most, or what they may come to as `weigh` weighs each."""

    def __init__(
        self,
        fetch: Callable[[Key], None],
        now: Callable[[], float],
        size: int,
        weigh: Callable[[Answer], int] = lambda answer: 1,
    ):
        self._fetch = fetch
        self._now = now
        self._size = size
        self._weigh = weigh
        self._weight = 0
        self._answers: dict[Key, tuple[Answer, float, int]] = {}  # with when it ends, and its weight
        self._waiting: dict[Key, list[Callable[[Answer], None]]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: Key) -> Answer | None:
        known = self._answers.get(key)
        if known is None:
            return None
        answer, until, _ = known
        if self._now() < until:
            return answer
        self.forget(key)
        return None

    def forget(self, key: Key) -> None:
        if key in self._answers:
            self._weight -= self._answers.pop(key)[2]

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
            self._keep(key, answer, seconds)
        for answered in self._waiting.pop(key):
            answered(answer)

    def _keep(self, key: Key, answer: Answer, seconds: float) -> None:
        self.forget(key)
        weight = self._weigh(answer)
        self._answers[key] = answer, self._now() + seconds, weight
        self._weight += weight
        while self._weight > self._size:
            self.forget(next(iter(self._answers)))
