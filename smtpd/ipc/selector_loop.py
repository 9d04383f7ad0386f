"""An event loop over selectors of the standard library, with as much of asyncio's interface as its users need.

    readable or writable descriptor --> its function
    a signal                        --> its function, in the loop and not in the middle of anything
    a time has come                 --> its function
    call_soon                       --> at the end of the turn

parent and nursery run on it because as little compiled code as possible shall run as root; scheduler, crypto and
control because they need no more: asyncio and uvloop are a third of the time that such a process takes to start.  A
turn costs about as much as one of uvloop.

There are no coroutines, streams or futures.  No function called here may block.  An exception that one raises leaves
`run_forever`.
"""

import heapq
import itertools
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Callback = Callable[..., Any]

SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
TIMERS_UNCOUNTED = 64  # kept without a look at how many of them are cancelled
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Timer:
    """A call at a time; `cancel` may be called at any moment."""

    __slots__ = ("arguments", "callback")

    def __init__(self, callback: Callback, arguments: tuple[Any, ...]):
        self.callback: Callback | None = callback
        self.arguments = arguments

    def cancel(self) -> None:
        self.callback = None


class _Watched:
    """What is called when a descriptor can be read or written."""

    __slots__ = ("events", "read", "write")

    def __init__(self) -> None:
        self.events = 0
        self.read: tuple[Callback, tuple[Any, ...]] | None = None
        self.write: tuple[Callback, tuple[Any, ...]] | None = None


class SelectorLoop:
    def __init__(self) -> None:
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, _Watched] = {}  # by descriptor
        self._ready: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_max = TIMERS_UNCOUNTED
        self._order = itertools.count()
        self._signals: dict[int, Callback] = {}
        # Written by signals and by other threads, opened before a process enters its sandbox.
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waking = False  # a thread has written there since it was last read: the rest is room for signals
        self.add_reader(self._woken, self._take_wakeups)

    def close(self) -> None:
        if self._signals:
            signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._woken)
        os.close(self._wake)

    # -- descriptors ---------------------------------------------------------------------

    def add_reader(self, descriptor: int, callback: Callback, *arguments: Any) -> None:
        """Call it whenever `descriptor` can be read, until remove_reader."""
        watched = self._watched.setdefault(descriptor, _Watched())
        watched.read = callback, arguments
        self._wait_for(descriptor, watched, watched.events | _READ)

    def add_writer(self, descriptor: int, callback: Callback, *arguments: Any) -> None:
        """Call it whenever `descriptor` can be written, until remove_writer."""
        watched = self._watched.setdefault(descriptor, _Watched())
        watched.write = callback, arguments
        self._wait_for(descriptor, watched, watched.events | _WRITE)

    def remove_reader(self, descriptor: int) -> bool:
        """Before it is closed.  False if there was none."""
        watched = self._watched.get(descriptor)
        if watched is None or watched.read is None:
            return False
        watched.read = None
        self._wait_for(descriptor, watched, watched.events & ~_READ)
        return True

    def remove_writer(self, descriptor: int) -> bool:
        """Before it is closed.  False if there was none."""
        watched = self._watched.get(descriptor)
        if watched is None or watched.write is None:
            return False
        watched.write = None
        self._wait_for(descriptor, watched, watched.events & ~_WRITE)
        return True

    def _wait_for(self, descriptor: int, watched: _Watched, events: int) -> None:
        if events == watched.events:
            return
        if not events:
            self._selector.unregister(descriptor)
            del self._watched[descriptor]
        elif not watched.events:
            self._selector.register(descriptor, events, watched)
        else:
            self._selector.modify(descriptor, events, watched)
        watched.events = events

    # -- times, signals, the next turn -----------------------------------------------------

    def time(self) -> float:
        """Seconds, of a clock that only goes forward."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callback, *arguments: Any) -> Timer:
        if len(self._timers) > self._timers_max:
            self._forget_cancelled()
        timer = Timer(callback, arguments)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def _forget_cancelled(self) -> None:
        """Those at the top go when they are due; of a timer that is set again and again, the others were a leak."""
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._timers_max = max(TIMERS_UNCOUNTED, 2 * len(self._timers))

    def call_soon(self, callback: Callback, *arguments: Any) -> None:
        """At the end of this turn, in the order of the calls."""
        self._ready.append((callback, arguments))

    def call_soon_threadsafe(self, callback: Callback, *arguments: Any) -> None:
        """call_soon, from any thread."""
        self._ready.append((callback, arguments))
        if not self._waking:
            self._waking = True
            with suppress(BlockingIOError):  # it is full of signals, which wake as well
                os.write(self._wake, b"\0")

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call it in the loop when the signal has come; several of one kind may be one call."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._signals[number] = callback
        signal.signal(number, _noted)

    def _take_wakeups(self) -> None:
        numbers = set(os.read(self._woken, 4096))  # 0 is a thread's, and no signal
        # After the read: what a thread adds before this is called in this turn, what it adds later wakes the next one.
        self._waking = False
        for number in numbers:
            if number in self._signals:
                self._signals[number]()

    # -- turns -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Turn until `stop`."""
        self._ended = False
        while not self._ended:
            self.turn()

    def stop(self) -> None:
        """Leave run_forever, after the calls that were to come soon before this one."""
        self._ready.append((self._end, ()))

    def _end(self) -> None:
        self._ended = True

    def turn(self) -> None:
        """All that is ready, after waiting for something to be."""
        ready = self._ready
        for key, events in self._selector.select(0 if ready else self._patience()):
            # Another one of this turn may have taken it off; what has got its number since is another object.
            watched = key.data
            if events & _READ and watched.read is not None:
                callback, arguments = watched.read
                callback(*arguments)
            if events & _WRITE and watched.write is not None:
                callback, arguments = watched.write
                callback(*arguments)
        if self._timers:
            self._act_on_time()
        # Twice, so that what the end of a turn sends leaves at once; what is added then waits for the next turn, which
        # does not wait itself.
        for _ in range(2):
            for _ in range(len(ready)):
                callback, arguments = ready.popleft()
                callback(*arguments)

    def _patience(self) -> float | None:
        """Seconds until the next timer; None: for ever."""
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        return max(0.0, timers[0][0] - time.monotonic()) if timers else None

    def _act_on_time(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback(*timer.arguments)


def _noted(_number: int, _frame: object) -> None:
    """The number has been written to the wakeup descriptor; that is all a signal does by itself."""


def forget_signals() -> None:
    """In a child just forked: no signal is ours any more.  They come as to any new program."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        # Not of the others: a system may refuse it, as OpenBSD that of SIGTHR.
        if callable(signal.getsignal(number)) or signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
