"""A scheduler on a real loop; queue and control are the other ends of its channels, played by the test."""

import asyncio
import socket

import pytest

from smtpd.imsg import TABLE
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.ipc.loop import connect, prepare
from smtpd.scheduler import process
from smtpd.scheduler.state import Scheduler
from smtpd.slice import SchedulerSlice


class House:
    """`said[peer]` is what that peer was told; `answer(imsg)` may be set to react as queue."""

    def __init__(self):
        self.loop = prepare()
        pairs = {peer: socket.socketpair() for peer in ("queue", "control")}
        ours = {peer: Channel(one, TABLE, "scheduler", peer) for peer, (one, _) in pairs.items()}
        theirs = {peer: Channel(other, TABLE, peer, "scheduler") for peer, (_, other) in pairs.items()}
        self.queue, self.control = theirs["queue"], theirs["control"]
        self.said = {"queue": [], "control": []}
        self.answer = lambda imsg: None
        self.scheduler = Scheduler(self.loop, SchedulerSlice(), ours["queue"], ours["control"])
        handlers = {"queue": self._noted(process.from_queue), "control": self._noted(process.from_control)}
        connect(self.loop, list(ours.values()), handlers, self.scheduler)
        connect(self.loop, list(theirs.values()), {"scheduler": self._heard}, None)
        self.channels = [*ours.values(), *theirs.values()]
        self._changed = asyncio.Event()

    def _noted(self, handler):
        def handle(*arguments):
            handler(*arguments)
            self._changed.set()

        return handle

    def _heard(self, _state, channel, imsg, _descriptor):
        self.said[channel.me].append(imsg)
        if channel is self.queue:
            self.answer(imsg)
        self._changed.set()

    def until(self, condition):
        """Run until `condition()` holds; what it returned."""

        async def wait():
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
            return found

        return self.loop.run_until_complete(asyncio.wait_for(wait(), 20))

    def until_told(self, peer, kind):
        """Run until `peer` was told a `kind`; all of that kind so far."""
        return self.until(lambda: [imsg for imsg in self.said[peer] if isinstance(imsg, kind)])


@pytest.fixture
def house():
    made = House()
    yield made
    for channel in made.channels:
        if not channel.closed:
            made.loop.remove_reader(channel.fileno())
            channel.close()
    made.loop.close()
    log.later = None
