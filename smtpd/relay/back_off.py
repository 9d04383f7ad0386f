"""Back-off: how long a destination or a route rests after failures in a row.

    15 s * failures²       15 s   60 s   135 s   240 s   …   1 h at most       each +- 10 %

Without the jitter, what failed together would be tried together, for ever.
"""

BACK_OFF_BASE = 15.0  # seconds
BACK_OFF_MAX = 3600.0  # seconds
JITTER = 0.1  # of the pause, in both directions


def back_off(failures: int, random: float) -> float:
    """Seconds to rest after so many failures in a row, at least one; `random` lies in [0, 1)."""
    pause = min(BACK_OFF_MAX, BACK_OFF_BASE * min(failures, 1000) ** 2)
    return pause * (1.0 - JITTER + 2.0 * JITTER * random)
