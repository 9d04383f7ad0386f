"""What every carrier of mail does.

attempt --carry--> carrier --prepare--> attempt: content --> carrier --finish(AttemptResult)--> attempt --> conclude

agent_carrier.py   local mail: the agents of this host
relay_carrier.py   mail to other hosts: the dispatchers
"""

from typing import Protocol

from smtpd.queue.delivery.attempt import Attempt


class Carrier(Protocol):
    def carry(self, attempt: Attempt) -> None:
        """Take the attempt.  When its content is needed, call its `prepare`; in the end, once, its `finish`."""
