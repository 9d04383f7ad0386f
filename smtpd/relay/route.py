"""Routes: from one of our addresses to one of a host's, and how long a route rests that has failed.

    failed        rests by back_off.py: 15 s, 1 min, …, 1 h
    rest over     may be tried; if it fails again it rests longer
    success       nothing is remembered

A route is shared by all destinations that use it, so the second one finds out at once; but what has failed for reasons
of one destination (its TLS policy, its password) rests for that one only.  The table is bounded; a route
that is forgotten counts as new.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from smtpd.relay.address_order import Path
from smtpd.relay.back_off import BACK_OFF_MAX, back_off

ROUTES_MAX = 50_000
MEMORY_TIME = 4 * BACK_OFF_MAX  # seconds after its rest that a failure is remembered


class Route(NamedTuple):
    """`destination`: the key of the only one it has failed for; 0: for all."""

    path: Path
    port: int
    destination: int = 0


class Rest(NamedTuple):
    until: float
    text: str  # why


@dataclass(slots=True)
class _Failures:
    count: int  # in a row
    rest: Rest


class Routes:
    def __init__(self, most: int = ROUTES_MAX):
        self._most = most
        self._failures: OrderedDict[Route, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def rest(self, route: Route, now: float) -> Rest | None:
        """Until when the route is not to be tried, and why; None: it may be tried now."""
        found = self._failures.get(route)
        return found.rest if found and now < found.rest.until else None

    def failed(self, route: Route, text: str, random: float, now: float) -> None:
        if self.rest(route, now) is not None:
            return  # a second connection of the same moment: one failure
        found = self._failures.pop(route, None)
        known = found is not None and now < found.rest.until + MEMORY_TIME
        count = found.count + 1 if found and known else 1
        self._failures[route] = _Failures(count, Rest(now + back_off(count, random), text))
        if len(self._failures) > self._most:
            self._failures.popitem(last=False)

    def succeeded(self, route: Route) -> None:
        self._failures.pop(route, None)

    def resume(self, route: Route, now: float) -> None:
        """End the rest; what has failed before is not forgotten."""
        found = self._failures.get(route)
        if found is not None:
            found.rest = Rest(min(found.rest.until, now), found.rest.text)
