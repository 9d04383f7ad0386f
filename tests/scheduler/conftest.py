"""A scheduler on a real loop; queue and control are the other ends of its channels, played by the test."""

import socket

import pytest

from smtpd.imsg import TABLE
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import connect
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.scheduler import process
from smtpd.scheduler.state import Scheduler
from smtpd.slice import SchedulerSlice


class House:
    """`said[peer]` is what that peer was told; `answer(imsg)` may be set to react as queue."""

    def __init__(self):
        self.loop = SelectorLoop()
        pairs = {peer: socket.socketpair() for peer in ("queue", "control")}
        ours = {peer: Channel(one, TABLE, "scheduler", peer) for peer, (one, _) in pairs.items()}
        theirs = {peer: Channel(other, TABLE, peer, "scheduler") for peer, (_, other) in pairs.items()}
        self.queue, self.control = theirs["queue"], theirs["control"]
        self.said = {"queue": [], "control": []}
        self.answer = lambda imsg: None
        self.scheduler = Scheduler(self.loop, SchedulerSlice(), ours["queue"], ours["control"])
        handlers = {"queue": process.from_queue, "control": process.from_control}
        connect(self.loop, list(ours.values()), handlers, self.scheduler)
        connect(self.loop, list(theirs.values()), {"scheduler": self._heard}, None)
        self.channels = [*ours.values(), *theirs.values()]

    def _heard(self, _state, channel, imsg, _descriptor):
        self.said[channel.me].append(imsg)
        if channel is self.queue:
            self.answer(imsg)

    def until(self, condition):
        """Run until `condition()` holds; what it returned."""
        late = self.loop.call_later(20, pytest.fail, "it does not come to pass")
        while not (found := condition()):
            self.loop.turn()
        late.cancel()
        return found

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
