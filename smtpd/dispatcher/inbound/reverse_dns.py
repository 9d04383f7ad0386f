"""Reverse DNS of clients: names that lookup has found, remembered for as long as a burst of connections lasts."""

from collections.abc import Callable
from functools import partial

from smtpd.envelope import UNKNOWN_NAME
from smtpd.imsg import ClientResolved, ResolveClient
from smtpd.ipc.answer_cache import AnswerCache
from smtpd.ipc.request_window import RequestWindow

NAME_LIFETIME = 60.0  # seconds; lookup honours the time of the DNS records
NAMES_MAX = 10_000  # addresses whose names are remembered


class ClientNames:
    def __init__(self, to_lookup: RequestWindow, clock: Callable[[], float]):
        self._to_lookup = to_lookup
        self._names: AnswerCache[str, str] = AnswerCache(self._resolve, clock, NAMES_MAX)

    def find(self, address: str, use: Callable[[str], None]) -> None:
        """Call `use` with the confirmed name of `address`, or UNKNOWN_NAME, now or when lookup has answered."""
        name = self._names.find(address)
        if name is not None:
            use(name)
        else:
            self._names.ask(address, use)

    def _resolve(self, address: str) -> None:
        self._to_lookup.ask(lambda request: ResolveClient(request, address), partial(self._resolved, address))

    def _resolved(self, address: str, imsg: ClientResolved) -> None:
        name = imsg.name if imsg.name and imsg.confirmed else UNKNOWN_NAME
        self._names.answer(address, name, NAME_LIFETIME)
