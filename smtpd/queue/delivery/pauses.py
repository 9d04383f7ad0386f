"""What administrators have paused of relaying, in this run: destinations, and addresses that mail leaves from.

    PauseRelaying  source  name          told                        meaning
                   -       there.test    scheduler, PauseDestination nothing of it is tried
                   ours    there.test    its dispatcher, PauseSource its connections leave from other addresses, or none
                   ours    -             all dispatchers             the same for any destination

A name may mean several destinations, one of each relay action that may have it (Numbers.find).
"""

from collections.abc import Sequence

from smtpd.domain_name import normal
from smtpd.envelope import PAUSES_MAX
from smtpd.imsg import (
    ListPaused,
    PauseDestination,
    PausedListed,
    PauseRelaying,
    PauseSource,
    RelayingPaused,
    TryDestination,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.queue.delivery.destination import DOMAIN_MAX, Delays, Numbers
from smtpd.slice import Method, QueueSlice


class Pauses:
    def __init__(
        self,
        configuration: QueueSlice,
        numbers: Numbers,
        delays: Delays,
        scheduler: Channel,
        dispatchers: Sequence[Channel],
    ):
        self._numbers, self._delays = numbers, delays
        self._scheduler, self._dispatchers = scheduler, dispatchers
        relays = [action for action in configuration.actions if action.method is Method.RELAY]
        self._sources = {source for action in relays for source in action.sources}
        self._to_one = {action.name for action in relays if action.one_destination}
        self._paused: dict[tuple[str, str], list[int]] = {}  # source and name -> numbers of destinations
        self._destinations: set[int] = set()  # that are paused whatever the source

    def is_paused(self, destination: int) -> bool:
        return destination in self._destinations

    def list(self, channel: Channel, imsg: ListPaused) -> None:
        channel.send(PausedListed(imsg.request, sorted(self._paused)))

    def pause(self, channel: Channel, imsg: PauseRelaying) -> None:
        name = imsg.name if imsg.name in self._to_one else normal(imsg.name)[:DOMAIN_MAX]  # it may have grown
        numbers = self._numbers.find(name) if name else []
        if trouble := self._trouble(imsg, name, numbers):
            channel.send(RelayingPaused(imsg.request, False, trouble))
            return
        key = imsg.source, name
        changed = imsg.paused is not (key in self._paused)
        if changed and imsg.paused:
            self._paused[key] = numbers
        elif changed:
            numbers = self._paused.pop(key)
        if changed:
            log.info(f"mta from {imsg.source or '*'} for {name or '*'} {'paused' if imsg.paused else 'resumed'}")
        if imsg.source and changed:
            self._tell_dispatchers(imsg.source, numbers, imsg.paused)
        elif not imsg.source:
            changed = self._tell_scheduler(numbers, imsg.paused, changed)
        channel.send(RelayingPaused(imsg.request, changed))

    def _trouble(self, imsg: PauseRelaying, name: str, numbers: Sequence[int]) -> str:
        if imsg.source and imsg.source not in self._sources:
            return f"no relay action has the source address {imsg.source}"
        if name and not numbers:
            return f"no action relays to {name}"
        if not imsg.source and not name:
            return "neither a source address nor a destination"
        if imsg.paused and (imsg.source, name) not in self._paused and len(self._paused) == PAUSES_MAX:
            return f"{PAUSES_MAX} destinations and source addresses are paused already"
        return ""

    def _tell_dispatchers(self, source: str, numbers: Sequence[int], paused: bool) -> None:
        if not numbers:
            for dispatcher in self._dispatchers:
                dispatcher.send(PauseSource(source, 0, paused))
        for number in numbers:
            self._dispatchers[number % len(self._dispatchers)].send(PauseSource(source, number, paused))

    def _tell_scheduler(self, numbers: Sequence[int], paused: bool, changed: bool) -> bool:
        """To resume a destination ends its delay too, known here or not.  Returns whether a known one changes."""
        self._destinations = {number for (source, _), ours in self._paused.items() if not source for number in ours}
        for number in numbers:
            delayed = not paused and bool(self._delays.find_reason(number))
            if changed or not paused:
                self._delays.resume(number)
                if not paused:
                    self._dispatchers[number % len(self._dispatchers)].send(TryDestination(number))
                self._scheduler.send(PauseDestination(number, number in self._destinations))
            changed = changed or delayed
        return changed
