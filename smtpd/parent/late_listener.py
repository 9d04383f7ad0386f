"""Listeners whose interface was not there, or had no address but link-local ones, when we started: looked for every
five seconds.

    interface comes up --> bind, for each dispatcher --AddListener + socket--> dispatcher

What cannot be bound now (another program has the address, or IPv6 still looks for a duplicate of it) is said once, and
tried again for as long as it takes; it is never the daemon's end.  A socket that is bound stays: when its address goes
and comes back, it works again.
"""

import contextlib
import socket
from collections.abc import Sequence

from msgspec.structs import replace

from smtpd.config.host import interfaces
from smtpd.imsg import AddListener
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.listener import AddressInUse, bind, resolve
from smtpd.slice import ListenerSlice

RETRY_INTERVAL = 5.0  # seconds


class LateListeners:
    """`present`: those that were bound at the start."""

    def __init__(
        self,
        loop: SelectorLoop,
        listeners: Sequence[ListenerSlice],
        dispatchers: Sequence[Channel],
        present: Sequence[ListenerSlice] = (),
    ):
        self._loop = loop
        self._listeners = listeners
        self._dispatchers = dispatchers
        self._bound: dict[tuple, int | None] = {}  # by family and address: the listener that came late, if it is one
        for listener in present:
            with contextlib.suppress(OSError):  # its interface has just gone
                self._bound[resolve(listener)] = None
        self._said: set[str] = set()
        self._stopping = False

    def begin(self) -> None:
        if self._listeners and not self._stopping:
            self._look()
            self._loop.call_later(RETRY_INTERVAL, self.begin)

    def stop(self) -> None:
        self._stopping = True

    def _look(self) -> None:
        try:
            found = interfaces()
        except OSError as error:
            self._warn_once(f"the interfaces cannot be listed: {describe_error(error)}; it is tried again")
            return
        for listener in self._listeners:
            for address in _addresses(listener, found):
                self._open(replace(listener, address=address))

    def _open(self, listener: ListenerSlice) -> None:
        try:
            # With the number of a link-local address's interface: one that was made anew is another.
            key = resolve(listener)
            if key in self._bound:
                self._say_duplicate(listener, self._bound[key])
                return
            sockets = self._bind(listener)
        except (AddressInUse, OSError) as error:
            self._warn_once(f"{describe_error(error)}; it is tried again")
            return
        self._bound[key] = listener.number
        for dispatcher, bound in zip(self._dispatchers, sockets, strict=True):
            dispatcher.send(AddListener(listener.number, listener.address), bound.detach())
        log.info(f"listening on {listener.address} port {listener.port}")

    def _bind(self, listener: ListenerSlice) -> list[socket.socket]:
        """One for each dispatcher, or none at all."""
        sockets: list[socket.socket] = []
        try:
            for _ in self._dispatchers:
                sockets.append(bind(listener, shared=len(self._dispatchers) > 1))
        except (AddressInUse, OSError):
            for bound in sockets:
                bound.close()
            raise
        return sockets

    def _say_duplicate(self, listener: ListenerSlice, first: int | None) -> None:
        """Two interfaces have one address: its clients are those of the listener that got it first."""
        if first not in (None, listener.number):
            self._warn_once(f"duplicate listener on {listener.address} port {listener.port}: it is listened on once")

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warn(text)


def _addresses(listener: ListenerSlice, found: dict[str, tuple[str, ...]]) -> list[str]:
    if listener.address:
        interface = listener.address.partition("%")[2]
        return [listener.address] if interface in found else []
    of_interface = found.get(listener.interface, ())
    return [one for one in of_interface if listener.family in (None, 6 if ":" in one else 4)]
