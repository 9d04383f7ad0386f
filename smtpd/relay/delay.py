"""The delay of a destination: when no host of it can be reached, none of its mail is tried for a while.

unreachable    why each host is out of the question   ->  a delay, or a permanent refusal of all its mail
delay          Delay, and what there is of it goes back to queue, untried: no attempt is counted
end            an administrator's word, or a host that works again for another destination
"""

from collections.abc import Callable

from smtpd.envelope import Outcome
from smtpd.relay.action import Delay, RelayAction, Resume
from smtpd.relay.back_off import back_off
from smtpd.relay.destination import Destination
from smtpd.relay.host_choice import HostChoice
from smtpd.relay.tasks import Tasks
from smtpd.relay.tls_policy import HostRefused


class Delays:
    def __init__(self, choice: HostChoice, tasks: Tasks, actions: list[RelayAction], random: Callable[[], float]):
        self._choice, self._tasks, self._actions, self._random = choice, tasks, actions, random

    def unreachable(self, destination: Destination, refusals: list[HostRefused], now: float) -> None:
        """Nothing is left to connect to."""
        temporary = [refusal for refusal in refusals if refusal.code < 500]
        if refusals and not temporary:
            self.fail(destination, refusals[0])
            return
        refusal = temporary[0] if temporary else HostRefused(451, "4.4.1", "no route to any host")
        self.delay(destination, refusal, self._choice.earliest(destination, now), now)

    def delay(self, destination: Destination, refusal: HostRefused, earliest: float, now: float) -> None:
        """Nothing of the destination is tried for a while; what there is of it goes back to queue, untried.  What is
        this system's fault is no failure of the destination: it waits until `earliest`, and no longer for the next one.
        """
        if destination.require_tls:  # of these mails only: they do not delay others to the same domain
            self._finish(destination, refusal, Outcome.DEFERRED)
            return
        destination.delayed_until = earliest
        if not refusal.local:
            destination.failures += 1
            destination.delayed_until = max(earliest, now + back_off(destination.failures, self._random()))
        destination.reason = refusal.text
        self._choice.await_hosts(destination, now)
        self._say(destination, repeated=False)

    def repeat(self, destination: Destination) -> None:
        """Return what has come since the delay was said, and say it again: queue may have begun anew."""
        self._say(destination, repeated=True)

    def _say(self, destination: Destination, *, repeated: bool) -> None:
        self._actions.append(Delay(destination.number, destination.delayed_until, destination.reason, repeated))
        self._tasks.give_back(destination.tasks)

    def end(self, destination: Destination, now: float) -> None:
        """The destination and its routes may be tried now."""
        destination.delayed_until = 0.0
        self._choice.resume(destination, now)

    def fail(self, destination: Destination, refusal: HostRefused) -> None:
        """A permanent refusal, for all that waits."""
        self._finish(destination, refusal, Outcome.FAILED)

    def _finish(self, destination: Destination, refusal: HostRefused, outcome: Outcome) -> None:
        """The same result for all that waits."""
        while destination.tasks:
            self._tasks.conclude(destination.tasks.popleft(), refusal, outcome)

    def host_works(self, destination: Destination, now: float) -> None:
        """One of the hosts works again."""
        if now < destination.delayed_until:
            self.end(destination, now)
            self._actions.append(Resume(destination.number))
