"""When to try again: later and later, counted from the creation of the envelope.

    created + base * n * n        n = 1, 2, 3 …        base 10 s for local delivery, 400 s for relaying

    relay   400 s   1600 s   3600 s   6400 s  …         local   10 s   40 s   90 s   160 s  …

The next try is the first of these times that lies ahead.  How often it was tried does not matter: an administrator who
has everything tried at once takes nothing from the time that a mail has, and neither does a daemon that was down.

Times that were written when the clock was ahead (it was set back since) are no times that this machine can have meant:

    created in the future        the mail counts as created now, and keeps the time that it had
    next try later than that of  the next of its times
    an envelope tried now
    release in the future        never further away than twice as long as the client wished

A clock that was behind (it was set forward since) cannot be told from a daemon that was down.
"""

from math import isqrt
from typing import NamedTuple

from smtpd.envelope import Kind, Schedule

RETRY_BASE = {Kind.MDA: 10, Kind.MTA: 400}  # seconds


def next_try(kind: Kind, created: int, now: int) -> int:
    """The first of the times of an envelope after `now`.  All in seconds."""
    base = RETRY_BASE[kind]
    passed = isqrt(max(0, now - created) // base)  # the largest n with base * n * n <= now - created
    return created + base * (passed + 1) ** 2


class Times(NamedTuple):
    """In seconds: from when tries are counted, when there is none any more, when the next one is."""

    origin: int
    expires: int
    next_try: int


def times_of(schedule: Schedule, now: int, ahead: int = 0) -> Times:
    """The times of an envelope, corrected `now`, while the wall clock is `ahead` seconds ahead."""
    created, after = schedule.created - ahead, schedule.next_try - ahead
    if created <= now and after <= now and not schedule.release:  # nearly all: due, and nothing is wrong with them
        return Times(created, schedule.expires - ahead, after)
    created = min(created, now)
    hold = max(0, schedule.release - schedule.created)
    origin = max(created, min(schedule.release - ahead, now + 2 * hold))
    lifetime = schedule.expires - max(schedule.created, schedule.release)
    latest = origin if origin > now else next_try(schedule.kind, origin, now)
    return Times(origin, origin + lifetime, min(after, latest))
