"""Routes: from one of our addresses to one of a host's, and how long a route rests that has failed.

    failed        rests by back_off.py: 15 s, 1 min, …, 1 h
    rest over     may be tried; if it fails again it rests longer
    success       nothing is remembered

A route is shared by all destinations that use it, so the second one finds out at once; but what has failed for reasons
of one destination (its TLS policy, its password) rests for that one only.  The table is bounded; a route
that is forgotten counts as new.

A route has a number, for administrators, as long as it has connections or a failure is remembered.
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
    number: int  # of the route
    count: int  # in a row
    rest: Rest


@dataclass(slots=True)
class _Use:
    """Of a route that has connections."""

    number: int  # of the route
    connections: int = 0
    worked: bool = False  # a message was taken


class RouteFacts(NamedTuple):
    route: Route
    connections: int
    failures: int
    worked: bool
    rest: Rest | None  # the last one; it may be over


class Routes:
    def __init__(self, most: int = ROUTES_MAX):
        self._most = most
        self._failures: OrderedDict[Route, _Failures] = OrderedDict()
        self._used: dict[Route, _Use] = {}
        self._numbered = 0

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
        number = found.number if found else self._number(route)
        self._failures[route] = _Failures(number, count, Rest(now + back_off(count, random), text))
        if len(self._failures) > self._most:
            self._failures.popitem(last=False)

    def _number(self, route: Route) -> int:
        """Of a route that has no failures."""
        use = self._used.get(route)
        if use is not None:
            return use.number
        self._numbered += 1
        return self._numbered

    def succeeded(self, route: Route) -> None:
        self._failures.pop(route, None)
        if (use := self._used.get(route)) is not None:
            use.worked = True

    def opened(self, route: Route) -> None:
        """A connection was begun."""
        use = self._used.get(route)
        if use is None:
            failures = self._failures.get(route)
            use = self._used[route] = _Use(failures.number if failures else self._number(route))
        use.connections += 1

    def closed(self, route: Route) -> None:
        use = self._used[route]
        use.connections -= 1
        if not use.connections:
            del self._used[route]

    def numbers(self) -> dict[int, Route]:
        """All routes that have a number."""
        numbers = {use.number: route for route, use in self._used.items()}
        numbers.update((failures.number, route) for route, failures in self._failures.items())
        return numbers

    def facts(self, route: Route) -> RouteFacts:
        use, failures = self._used.get(route), self._failures.get(route)
        return RouteFacts(
            route,
            use.connections if use else 0,
            failures.count if failures else 0,
            use is not None and use.worked and failures is None,
            failures.rest if failures else None,
        )

    def resume(self, route: Route, now: float) -> None:
        """End the rest; what has failed before is not forgotten."""
        found = self._failures.get(route)
        if found is not None:
            found.rest = Rest(min(found.rest.until, now), found.rest.text)
