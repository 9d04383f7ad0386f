"""When to try again: later and later, counted from the creation of the envelope.

    created + base * n * n        n = 1, 2, 3 …        base 10 s for local delivery, 400 s for relaying

    relay   400 s   1600 s   3600 s   6400 s  …         local   10 s   40 s   90 s   160 s  …

The next try is the first of these times that lies ahead.  How often it was tried does not matter: an administrator who
has everything tried at once takes nothing from the time that a mail has, and neither does a daemon that was down.
"""

from math import isqrt

from smtpd.envelope import Kind

BASE = {Kind.MDA: 10, Kind.MTA: 400}  # seconds


def next_try(kind: Kind, created: int, now: int) -> int:
    """The first of the times of an envelope after `now`.  All in seconds."""
    base = BASE[kind]
    passed = isqrt(max(0, now - created) // base)  # the largest n with base * n * n <= now - created
    return created + base * (passed + 1) ** 2
