"""What every carrier of mail does.

    attempt --carry--> carrier --prepare--> attempt: content --> carrier --finish(AttemptResult)--> attempt --> conclude

There is one carrier: the agents of this host (agent_carrier.py).
"""

from typing import Protocol

from smtpd.queue.delivery.attempt import Attempt


class Carrier(Protocol):
    def carry(self, attempt: Attempt) -> None:
        """Take the attempt.  When its content is needed, call its `prepare`; in the end, once, its `finish`."""
