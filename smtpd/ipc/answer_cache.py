"""Answers that are kept for a while, and a question that is asked once however many wait for its answer.

    find(key)           the answer, if it is known and fresh
    ask(key, answered)  answered(answer) when it has come
    answer(key, …)      it has come: kept for `seconds`, told to all that wait
    forget(key)         what is known is too old

Bounded: of too many answers the oldest is forgotten.  It is a cache, so forgetting costs time and nothing else.
"""

from collections.abc import Callable


class AnswerCache[Key, Answer]:
    """`fetch(key)` sees to it that answer(key, …) is called some time later, once; `now` is a clock in seconds."""

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
        """Never answers before it returns."""
        if key in self._waiting:
            self._waiting[key].append(answered)
        else:
            self._waiting[key] = [answered]
            self._fetch(key)

    def answer(self, key: Key, answer: Answer, seconds: float) -> None:
        """With 0 seconds it is told and not remembered."""
        if seconds > 0:
            if len(self._answers) >= self._size:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = answer, self._now() + seconds
        for answered in self._waiting.pop(key):
            answered(answer)
