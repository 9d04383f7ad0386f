"""Tasks: one attempt of one message for recipients of one destination, from queue's question to its last result.

Each envelope of a task is reported, or returned, exactly once (`settle`), whatever connections and hosts do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpd.envelope import RelayResult

TRIES_MAX = 3  # connections that may be lost under a task before it is deferred


@dataclass(slots=True)
class Task:
    """`envelopes`: those without a result so far."""

    id: int  # of the attempt
    destination: int
    envelopes: set[int]
    require_tls: bool = False  # RFC 8689
    tries: int = 0  # connections lost under it, or refused by a limit of the other side
    other_family: bool = False  # given once more because the host did not take it from our address of one family
    reopened: bool = False  # given once more because a kept connection had been closed meanwhile
    withdrawn: set[int] = field(default_factory=set)  # envelopes that are returned where it would be sent once more

    @property
    def is_over(self) -> bool:
        return not self.envelopes

    def settle(self, results: Iterable[RelayResult]) -> tuple[RelayResult, ...]:
        """The results of envelopes that have none so far; these have one from here on."""
        found = []
        for result in results:
            if result.envelope in self.envelopes:
                self.envelopes.remove(result.envelope)
                found.append(result)
        return tuple(found)

    def take_all(self) -> tuple[int, ...]:
        """The envelopes without a result, which are returned untried."""
        left = tuple(sorted(self.envelopes))
        self.envelopes.clear()
        return left
