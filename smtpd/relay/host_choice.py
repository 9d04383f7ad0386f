"""Choice of the host: which hosts of a destination may be used now, over which paths, under what TLS.

hosts of a destination  --policy-->  refused, or what its TLS has to be
                        --paths--->  those that do not rest, in the order of address_order.py
"""

from collections.abc import Callable

from smtpd.relay.address_order import FAMILIES, Path, address_order, family_of
from smtpd.relay.connection import Connection, ConnectionFailure, Stage
from smtpd.relay.destination import Destination, NextHop
from smtpd.relay.host import DELAYED_MAX, Hosts
from smtpd.relay.route import Rest, Route, Routes
from smtpd.relay.tls_memory import TlsMemory
from smtpd.relay.tls_policy import HostRefused, TlsCircumstances, TlsPolicy, tls_policy

PAUSE_DELAY = 3600.0  # seconds until a path that an administrator has paused is looked at again
ADDRESS_REST_TIME = 60.0  # seconds until an address of this system is used again that could not be
RESUME_HOSTS = 5  # hosts of a delayed destination whose success ends the delay


class HostChoice:
    def __init__(self, random: Callable[[], float]):
        self.tls_memory = TlsMemory()
        self.hosts = Hosts()
        self.routes = Routes()
        self.paused_sources: set[tuple[str, int]] = set()  # with the number of a destination, 0: all
        self._random = random
        # By source address and family: as many as the configuration has.
        self._failed_addresses: dict[tuple[str, int], Rest] = {}

    def policy(self, destination: Destination, hop: NextHop, now: float) -> TlsPolicy | HostRefused:
        """What TLS to this host has to be; or why no mail of the destination goes there."""
        return tls_policy(
            TlsCircumstances(
                words=hop.words,
                host=hop.host,
                trusted=hop.trusted,
                domain=hop.domain,
                sts=hop.sts,
                history=self.tls_memory.history(hop.service, now),
                require_tls=destination.require_tls,
                password=hop.password,
            )
        )

    def paths(self, destination: Destination, hop: NextHop, refusals: list[HostRefused], now: float) -> list[Path]:
        """The paths to a host that do not rest; why the others do is added to `refusals`."""
        relay = destination.relay
        wanted = [family for family in (relay.family, destination.limits.family) if family]
        families = [family for family in FAMILIES if all(family == each for each in wanted)]
        broken = self.hosts.broken_families(hop.name, now)
        order = address_order(hop.host.addresses, relay.sources, families, broken, destination.number)
        if not order:
            refusals.append(HostRefused(451, "4.4.4", f"{hop.name}: address family mismatch"))
        paths = []
        for path in order:
            rest = self.rest(destination, hop, path, now)
            if rest is None:
                paths.append(path)
            else:
                refusals.append(HostRefused(451, "4.4.1", f"{hop.name}: {rest.text}"))
        return paths

    def rest(self, destination: Destination, hop: NextHop, path: Path, now: float) -> Rest | None:
        """Why a path is not to be used now: it has failed for all, or for this destination, or is paused,
        or this system does not have its source address."""
        if self.paused_sources and self.is_paused(path, destination):
            return Rest(now + PAUSE_DELAY, f"mail from {path.source} is paused by administrator")
        own = self._failed_addresses.get((path.source, family_of(path.address)))
        if own is not None and now < own.until:
            return own
        shared = self.routes.rest(Route(path, hop.port), now)
        return shared or self.routes.rest(Route(path, hop.port, destination.key), now)

    def address_failed(self, path: Path, text: str, now: float) -> None:
        """This system does not have the source address of the path, or no port of it is free: no fault of the host."""
        self._failed_addresses[path.source, family_of(path.address)] = Rest(now + ADDRESS_REST_TIME, text)

    def is_paused(self, path: Path, destination: Destination) -> bool:
        """By an administrator."""
        paused = self.paused_sources
        return bool(paused) and ((path.source, 0) in paused or (path.source, destination.number) in paused)

    def earliest(self, destination: Destination, now: float) -> float:
        """When the first of the routes may be tried again."""
        rests = [
            rest.until
            for hop in destination.hops
            for path in address_order(hop.host.addresses, destination.relay.sources)
            if (rest := self.rest(destination, hop, path, now)) is not None
        ]
        return min(rests, default=now)

    def failed(self, connection: Connection, failure: ConnectionFailure, now: float) -> None:
        """Only what the host does to every caller counts for all: that a certificate or a password does not suit one
        destination must not keep others from the host, as anyone may name it as the MX of a domain."""
        shared = failure.stage in (Stage.CONNECT, Stage.GREETING)
        key = 0 if shared else connection.destination
        route = Route(connection.path, connection.hop.port, key)
        self.routes.failed(route, failure.text, self._random(), now)

    def succeeded(self, connection: Connection) -> None:
        """The host has taken a message: nothing is left of the failures."""
        self.routes.succeeded(connection.route)
        if len(self.routes):
            self.routes.succeeded(connection.route._replace(destination=connection.destination))

    def resume(self, destination: Destination, now: float) -> None:
        """Let the routes of a destination be tried now."""
        for hop in destination.hops:
            for path in address_order(hop.host.addresses, destination.relay.sources):
                self._failed_addresses.pop((path.source, family_of(path.address)), None)
                self.routes.resume(Route(path, hop.port), now)
                self.routes.resume(Route(path, hop.port, destination.key), now)

    def await_hosts(self, destination: Destination, now: float) -> None:
        """If another destination finds that one of the hosts works again, the delay is over."""
        for hop in list(destination.hops)[:RESUME_HOSTS]:
            address = hop.host.addresses[0]
            routes = [Route(Path(address, source), hop.port) for source in destination.relay.sources or ("",)]
            if any(self.routes.rest(route, now) for route in routes):
                waiting = self.hosts.get((address, hop.port)).delayed
                if len(waiting) < DELAYED_MAX:
                    waiting.add(destination.key)
