"""Names of clients, as lookup found them, remembered for as long as a burst of connections lasts."""

from collections.abc import Callable

from smtpd.envelope import UNKNOWN_NAME
from smtpd.imsg import ClientResolved, ResolveClient
from smtpd.ipc.request_window import RequestWindow

NAME_LIFETIME = 60.0  # seconds; lookup honours the records' own time
NAMES_MAX = 10_000  # addresses


class ClientNames:
    def __init__(self, to_lookup: RequestWindow, clock: Callable[[], float]):
        self._to_lookup = to_lookup
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}
        self._asking: dict[str, list[Callable[[str], None]]] = {}

    def find(self, address: str, use: Callable[[str], None]) -> None:
        """Call `use` with the confirmed name of `address`, or UNKNOWN_NAME, now or when lookup has answered."""
        name, until = self._known.get(address, ("", 0.0))
        if until > self._clock():
            use(name)
        elif address in self._asking:
            self._asking[address].append(use)
        else:
            self._asking[address] = [use]
            self._to_lookup.ask(
                lambda request: ResolveClient(request, address), lambda imsg: self._resolved(address, imsg)
            )

    def _resolved(self, address: str, imsg: ClientResolved) -> None:
        name = imsg.name if imsg.name and imsg.confirmed else UNKNOWN_NAME
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        self._known[address] = (name, self._clock() + NAME_LIFETIME)
        for use in self._asking.pop(address):
            use(name)
