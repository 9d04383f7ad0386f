"""The event loop of the two that run as root: selectors of the standard library, nothing compiled for speed.

    readable channel     --> receive --> its handler(channel, imsg, descriptor)
    readable descriptor  --> its function
    a signal             --> its function, in the loop and not in the middle of anything
    a time has come      --> its function
    end of the turn      --> flush every channel

No function called here may block.
"""

import heapq
import itertools
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from smtpd.ipc.channel import Channel, ChannelClosed, Violation

Handler = Callable[[Channel, Any, int | None], None]
Ended = Callable[[Channel, Exception], None]
Action = Callable[[], None]

SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Timer:
    """Something to do at a time; `cancel` may be called at any moment."""

    def __init__(self, action: Action):
        self.action: Action | None = action

    def cancel(self) -> None:
        self.action = None


class SelectorLoop:
    def __init__(self) -> None:
        self.ended = False
        self._selector = selectors.DefaultSelector()
        self._channels: dict[Channel, int] = {}  # -> events that are waited for
        self._pausing: set[Channel] = set()  # the kernel takes nothing of theirs for a while
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Action] = {}
        self._woken: tuple[int, int] | None = None
        self._first: deque[Action] = deque()  # before anything else of the next turn

    def add(
        self, channel: Channel, handler: Handler, ended: Ended, received: Iterable[tuple[Any, int | None]] = ()
    ) -> None:
        """Dispatch what `channel` brings, after what it has brought already; `ended` is told once of its end or of a
        Violation, and closes it."""
        self._channels[channel] = selectors.EVENT_READ
        self._selector.register(channel, selectors.EVENT_READ, partial(self._serve, channel, handler, ended))
        if received:
            self._first.append(partial(self._dispatch, channel, handler, ended, lambda: received))

    def remove(self, channel: Channel) -> None:
        """Take it off the loop and close it."""
        self._pausing.discard(channel)
        if self._channels.pop(channel, None) is not None:
            self._selector.unregister(channel)
        if not channel.closed:
            channel.close()

    def watch(self, descriptor: int, action: Action) -> None:
        """Call `action` whenever `descriptor` can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, lambda _events: action())

    def forget(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def after(self, seconds: float, action: Action) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def on_signal(self, number: int, action: Action) -> None:
        if self._woken is None:
            self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.set_wakeup_fd(self._woken[1], warn_on_full_buffer=False)
            self.watch(self._woken[0], self._take_signals)
        self._signals[number] = action
        signal.signal(number, _noted)

    def run(self) -> None:
        """Turn until `ended` is set."""
        while not self.ended:
            self.turn()

    def turn(self) -> None:
        """Everything that is ready now, after waiting for something to be."""
        while self._first:
            self._first.popleft()()
        self.flush()
        for key, events in self._selector.select(self._patience()):
            # Another one of this turn may have closed it, or even something new may have got its number.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        self._act_on_time()
        self.flush()

    def flush(self) -> None:
        for channel, waiting_for in list(self._channels.items()):
            if channel.bytes_waiting and not channel.closed and channel not in self._pausing:
                self._write(channel)
            waits_for_room = channel.bytes_waiting and channel not in self._pausing
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits_for_room else 0)
            if wanted != waiting_for and channel in self._channels:
                self._channels[channel] = wanted
                self._selector.modify(channel, wanted, self._selector.get_key(channel).data)

    def _write(self, channel: Channel) -> None:
        try:
            done = channel.flush()
        except ChannelClosed:
            channel.bytes_waiting = 0  # its reading side tells of the end, after what was still to be read
            return
        if not done and channel.pause:
            self._pausing.add(channel)
            self.after(channel.pause, partial(self._pausing.discard, channel))

    def _serve(self, channel: Channel, handler: Handler, ended: Ended, events: int) -> None:
        if events & selectors.EVENT_READ:
            self._dispatch(channel, handler, ended, channel.receive)

    def _dispatch(
        self,
        channel: Channel,
        handler: Handler,
        ended: Ended,
        receive: Callable[[], Iterable[tuple[Any, int | None]]],
    ) -> None:
        if channel not in self._channels:
            return
        try:
            for imsg, descriptor in receive():
                handler(channel, imsg, descriptor)
        except (ChannelClosed, Violation) as error:
            if channel in self._channels:
                ended(channel, error)

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _act_on_time(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            action = heapq.heappop(self._timers)[2].action
            if action is not None:
                action()

    def _take_signals(self) -> None:
        assert self._woken is not None
        for number in set(os.read(self._woken[0], 4096)):
            if number in self._signals:
                self._signals[number]()


def _noted(_number: int, _frame: object) -> None:
    """The number has been written to the wakeup descriptor; that is all a signal does by itself."""


def forget_signals() -> None:
    """In a child just forked: no signal is ours any more.  They come as to any new program."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if callable(signal.getsignal(number)) or signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
