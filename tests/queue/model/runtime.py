"""What the processes of the model run on: a loop, threads and channels that move only when the model says so.

    Clock     seconds since the start, and the wall clock, which may be set
    Loop      call_soon, call_later, readers: `turn` runs what is ready, once
    Threads   in the place of queue's threads: `work` does the next thing that was asked for; its answer waits
    Pipe      one direction of a channel: `imsgs` that have been sent and not been delivered

A crash is: drop all of them.
"""

import heapq
import itertools
from collections import deque
from functools import partial

import msgspec

from smtpd.imsg import TABLE


class Crashed(BaseException):
    """The process has died in the middle of what it did."""


class Clock:
    def __init__(self):
        self.passed = 1000.0
        self.wall = 1_700_000_000.0
        self.was_set = False

    def time(self):
        return self.wall

    def monotonic(self):
        return self.passed

    def set(self, seconds):
        """The wall clock, by so much."""
        self.wall += seconds
        self.was_set = True

    def advance(self, seconds):
        self.passed += seconds
        self.wall += seconds


class Timer:
    __slots__ = ("when", "call")

    def __init__(self, when, call):
        self.when, self.call = when, call

    def cancel(self):
        self.call = None


class Loop:
    def __init__(self, clock):
        self._clock = clock
        self.time = clock.monotonic
        self._soon = deque()
        self._timers = []
        self._numbers = itertools.count()
        self.readers = {}
        self.stopped = False

    def call_soon(self, call, *arguments):
        timer = Timer(0.0, partial(call, *arguments))
        self._soon.append(timer)
        return timer

    call_soon_threadsafe = call_soon

    def call_later(self, delay, call, *arguments):
        timer = Timer(self._clock.passed + delay, partial(call, *arguments))
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    def add_reader(self, descriptor, call, *arguments):
        self.readers[descriptor] = partial(call, *arguments)

    def remove_reader(self, descriptor):
        return self.readers.pop(descriptor, None) is not None

    def add_writer(self, descriptor, call, *arguments):
        raise AssertionError("a socket of the model is never full")

    def remove_writer(self, descriptor):
        return False

    def stop(self):
        self.stopped = True

    @property
    def next_time(self):
        """Of the next timer, which may be due already; None without one."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def ready(self):
        when = self.next_time
        return bool(self._soon) or (when is not None and when <= self._clock.passed)

    def turn(self):
        """Run what is ready now, not what that makes ready."""
        while (when := self.next_time) is not None and when <= self._clock.passed:
            self._soon.append(heapq.heappop(self._timers)[2])
        for _ in range(len(self._soon)):
            timer = self._soon.popleft()
            if timer.call is not None and not self.stopped:
                timer.call()


class Threads:
    """As queue's DiskThreads: one thing after the other, or, with several threads, in any order."""

    all: list["Threads"] = []  # of the present life; the model empties it

    def __init__(self, loop, name, count=1):
        self.name = name
        self._loop, self._count = loop, count
        self.asked = []
        self.answers = []
        self.under_way = 0
        Threads.all.append(self)

    def ask(self, function, done):
        self.under_way += 1
        self.asked.append((function, done))

    def work(self, choice=0):
        function, done = self.asked.pop(choice % min(self._count, len(self.asked)))
        try:
            result, error = function(), None
        except Exception as raised:
            result, error = None, raised
        self.answers.append((done, result, error))
        if len(self.answers) == 1:
            self._loop.call_soon_threadsafe(self._take)

    def _take(self):
        answers, self.answers = self.answers, []
        for done, result, error in answers:
            self.under_way -= 1
            done(result, error)


class Pipe:
    """`sender`'s end of a channel, with what `receiver` has not got yet.  Any imsg that may not go this way, or would
    not arrive as it was sent, raises."""

    def __init__(self, sender, receiver, number=0, sent=None):
        self.me, self.peer, self.number = sender, receiver, number
        self.imsgs = deque()
        self._sent = sent
        self._allowed = _allowed(sender, receiver)
        self._answers = {d.cls: d.answers for d in TABLE.between(receiver, sender).values()}
        self.bytes_waiting = self.descriptors_waiting = 0
        self.closed = False

    def send(self, imsg, descriptor=None):
        declaration, decoder = self._allowed[type(imsg)]
        assert (descriptor is not None) == declaration.descriptor
        data = _encoder.encode(imsg)
        assert len(data) <= declaration.limit
        self.imsgs.append((decoder.decode(data), descriptor))
        if self._sent is not None:
            self._sent(imsg)

    def question_of(self, answer):
        return self._answers[answer]


_encoder = msgspec.msgpack.Encoder()
_known = {}


def _allowed(sender, receiver):
    if (sender, receiver) not in _known:
        declarations = TABLE.between(sender, receiver).values()
        _known[sender, receiver] = {d.cls: (d, msgspec.msgpack.Decoder(d.cls)) for d in declarations}
    return _known[sender, receiver]
