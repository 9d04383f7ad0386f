"""A queue on a real loop, with a real store and spool; the test plays the others at the far ends of its channels."""

import asyncio
import gc
import hashlib
import os
import socket
import time
from collections import deque
from types import SimpleNamespace

import pytest

from smtpd import errand as frames
from smtpd.envelope import Body, Duty, Kind, MailParameters, Origin, Outcome, Recipient
from smtpd.imsg import (
    TABLE,
    AddEnvelopes,
    AgentStarted,
    EnvelopesDue,
    EnvelopesSubmitted,
    EnvelopesTried,
    MessageIdsReserved,
    MessageStored,
    ReserveMessageIds,
    SchedulingStopped,
    StartAgent,
    StopScheduling,
    StoreMessage,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import ChannelSet, connect
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.queue import process
from smtpd.queue.state import Queue
from smtpd.queue.store.content_codec import PLAIN
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Add, Envelope, Message
from smtpd.slice import DeliveryLimits, DeliverySlice, Method, QueueSlice
from tests.queue.fault import Faulty
from tests.queue.ram_store import RAMStore

WAIT_MAX = 10.0  # seconds that a test waits for what has to come

ORIGIN = Origin("amy@there.test", "127.0.0.1", "client.test", "client.test", "mx.here.test", "", True)
TERMS = MailParameters()
ODD_TERMS = MailParameters(
    Body.BINARY, True, True, "HDRS", "id|;'1", "amy@größe.test", 1_100_000, 1_200_000, "N", True, -9
)  # no value twice, and none of the defaults
CONTENT = b"Received: by mx.here.test\nSubject: hello\n\nHello.\n"


LIFETIME = 400_000
ACTIONS = (
    DeliverySlice("local", Method.MAILDIR, "", LIFETIME),
    DeliverySlice("box", Method.MBOX, "", LIFETIME),
    DeliverySlice("far", Method.LMTP, "_smtpm", LIFETIME),
    DeliverySlice("run", Method.MDA, "", LIFETIME),
    DeliverySlice("virtual", Method.MAILDIR, "vmail", LIFETIME),
    DeliverySlice("expand", Method.EXPAND_ONLY, "", LIFETIME),
    DeliverySlice("forward", Method.FORWARD_ONLY, "", LIFETIME),
    DeliverySlice("out", Method.RELAY, "", LIFETIME),
    DeliverySlice("provider", Method.RELAY, "", LIFETIME, one_destination=True),
)


def configuration(**changes):
    fields = {
        "actions": ACTIONS,
        "alias_commands": "runner",
        "delivery_limits": DeliveryLimits(max_session=10, max_session_per_user=4),
    }
    return QueueSlice(**{**fields, **changes})


def recipient(user="bob", action="local", kind=Kind.MDA, **more):
    return Recipient(f"{user}@here.test", f"{user}@here.test", action, kind, user, "", **more)


def relayed(address="bob@far.test", action="out", **more):
    return Recipient(address, address, action, Kind.MTA, "", "", **more)


def command(user="bob", text="one", action="local", duty=Duty.FORWARDED):
    """A recipient that is a command, out of the .forward of `user`."""
    return recipient(user, action, duty=duty, digest=hashlib.sha256(f"|{text}".encode()).hexdigest())


def envelope(message, number=1, **changes):
    fields = {
        "id": message << 32 | number,
        "run": 1,
        "created": 1_000_000,
        "expires": 1_400_000,
        "next_try": 0,
        "last_try": 0,
        "retries": 0,
        "troubles": 0,
        "perhaps_delivered": False,
        "held": False,
        "suspended": False,
        "error": "",
        "origin": ORIGIN,
        "recipient": recipient(),
        "terms": TERMS,
    }
    return Envelope(**{**fields, **changes})


def add(message, envelopes=1, content=CONTENT, **changes):
    row = Message(message, len(content or b"x" * 20000), hashlib.sha256(content or b"").digest(), content)
    return Add(row, [envelope(message, number, **changes) for number in range(1, envelopes + 1)])


@pytest.fixture(params=["sqlite", "ram"])
def store(request, tmp_path):
    made = SQLiteStore(str(tmp_path)) if request.param == "sqlite" else RAMStore()
    yield made
    made.close()


class FarAgent:
    """An agent, played by the test: its end of the socket, blocking, with a deadline."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(WAIT_MAX)

    def close(self):
        self.sock.close()


class House:
    """The queue with everything around it."""

    def __init__(self, directory, store, dispatchers=2, codec=PLAIN, **more):
        self.loop = prepare()
        self.now = 1000.0
        self.mail = {}  # role -> what queue has said to it
        self.far = {}
        self.agents = []
        self._news = asyncio.Event()
        self.scheduler_hangs = False  # it does not answer when the daemon stops
        near = []
        self._board = ChannelSet(self.loop)
        roles = [("parent", 0), ("lookup", 0), ("scheduler", 0), ("control", 0)]
        for role, number in [*roles, *(("dispatcher", n) for n in range(dispatchers))]:
            one, other = socket.socketpair()
            near.append(Channel(one, TABLE, "queue", role, number))
            name = role if role != "dispatcher" else f"dispatcher{number}"
            self.far[name] = Channel(other, TABLE, role, "queue")
            self.mail[name] = deque()
            self._board.add(self.far[name], self._took(name), self._closed)
        self.near = {(c.peer, c.number): c for c in near}
        self.disk_is_full = False
        self.space = Space(str(directory), lambda: self.now, self._statvfs)
        self.spool = Faulty(Spool(str(directory), codec))
        self.queue = Queue(
            self.loop,
            configuration(**more),
            store,
            self.spool,
            self.space,
            self.near["scheduler", 0],
            self.near["parent", 0],
            self.near["lookup", 0],
            clock=lambda: self.now,
            dispatchers=[self.near["dispatcher", number] for number in range(dispatchers)],
        )
        handlers = {role: getattr(process, f"from_{role}") for role in {role for role, _ in self.near}}
        connect(self.loop, near, handlers, self.queue)

    def _statvfs(self, _path):
        free = 0 if self.disk_is_full else 1 << 40
        return SimpleNamespace(f_frsize=1, f_blocks=1 << 41, f_bavail=free, f_files=0, f_favail=0)

    def _took(self, name):
        def took(channel, imsg, descriptor):
            self.mail[name].append((imsg, descriptor))
            self._news.set()
            if isinstance(imsg, StopScheduling) and not self.scheduler_hangs:
                channel.send(SchedulingStopped())

        return took

    def _closed(self, channel, error):
        self._board.remove(channel)

    # -- the loop -------------------------------------------------------------------

    async def _until(self, condition):
        async with asyncio.timeout(WAIT_MAX):
            while not condition():
                self._news.clear()
                ticker = self.loop.call_later(0.01, self._news.set)
                await self._news.wait()
                ticker.cancel()

    def until(self, condition):
        self.loop.run_until_complete(self._until(condition))

    def turn(self):
        """Let the loop do what it has to do now."""
        self.loop.run_until_complete(asyncio.sleep(0))

    def pass_time(self, seconds):
        self.now += seconds
        self.queue.agents.tick()
        self.turn()

    # -- imsgs ----------------------------------------------------------------------

    def say(self, name, imsg, descriptor=None):
        self.far[name].send(imsg, descriptor)

    def hear(self, name, kind):
        """The next imsg to `name`, which must be of `kind`; with its descriptor where there is one."""
        self.until(lambda: self.mail[name])
        imsg, descriptor = self.mail[name].popleft()
        assert isinstance(imsg, kind), imsg
        return imsg if descriptor is None else (imsg, descriptor)

    def reserve(self, name="dispatcher0"):
        self.say(name, ReserveMessageIds(1))
        return self.hear(name, MessageIdsReserved).ids

    def submit(self, message, recipients=None, content=CONTENT, name="dispatcher0", request=7, terms=TERMS):
        """All of a submission up to its answer, which is still to be heard."""
        recipients = recipients or [recipient()]
        self.say("lookup", AddEnvelopes(message, ORIGIN, recipients, terms))
        self.say(name, StoreMessage(request, message, len(recipients), content, len(content)))

    def store(self, recipients=None, content=CONTENT, terms=TERMS):
        """A new message, stored; its envelopes."""
        message = self.reserve()[0]
        self.submit(message, recipients, content, terms=terms)
        self.hear("dispatcher0", MessageStored)
        return [schedule.envelope for schedule in self.hear("scheduler", EnvelopesSubmitted).schedules]

    def store_due(self, *recipients, **more):
        """A new message, stored and due; its envelopes."""
        envelopes = self.store([*recipients], **more)
        self.due(*envelopes)
        return envelopes

    def due(self, *envelopes):
        self.say("scheduler", EnvelopesDue([*envelopes]))

    def tried(self):
        """The next results, as (delivered, deferred, held)."""
        told = self.hear("scheduler", EnvelopesTried)
        return told.delivered, told.deferred, told.held

    def failed(self):
        """The next results, which are of what has failed for good and is gone."""
        told = self.hear("scheduler", EnvelopesTried)
        assert not (told.delivered or told.deferred or told.held or told.returned), told
        return told.failed

    def owed(self, envelope):
        """What the sender is to be told of it, which is gone."""
        rows = self.queue.disk.store.statuses(envelope >> 32, 10)
        (status,) = (row for row in rows if row.envelope == envelope)
        assert not self.queue.disk.store.load([envelope])
        return status

    # -- agents ---------------------------------------------------------------------

    def start_agent(self, number=1):
        """Play the parent: an agent is wanted, here it is."""
        asked = self.hear("parent", StartAgent)
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.say("parent", AgentStarted(asked.request, number), one.detach())
        self.agents.append(other)
        other.setblocking(False)
        return asked, other

    def receive(self, agent):
        """The next errand of an agent; with its descriptor where there is one."""
        got = []

        def arrived():
            try:
                packet, descriptors, _, _ = socket.recv_fds(agent, frames.PACKET_MAX, 4)
            except BlockingIOError:
                return False
            got.append((frames.decode(packet), descriptors))
            return True

        self.until(arrived)
        errand, descriptors = got[0]
        return (errand, descriptors[0]) if descriptors else errand

    def begin(self, agent):
        """The next errand of an agent, which says that it is at work with it."""
        errand = self.receive(agent)
        agent.send(frames.encode(frames.InProgress(errand.envelope)))
        self.until(lambda: self._is_at_work(errand.envelope))
        return errand

    def _is_at_work(self, number):
        lines = self.queue.agents.queues.values()
        return any(number in line.begun and line.begun[number].most is not None for line in lines)

    def answer(self, agent, errand, outcome=Outcome.DELIVERED, text="Delivered"):
        agent.send(frames.encode(frames.Result(errand.envelope, outcome, text)))

    def deliver(self, agent):
        errand = self.receive(agent)
        self.answer(agent, errand)
        return errand

    def close(self):
        for agent in self.agents:
            agent.close()
        self.until(lambda: self.queue.disk.commits.idle or self.queue.disk.commits.waits_for_room)
        for pile in self.mail.values():
            for _, descriptor in pile:
                if descriptor is not None:
                    os.close(descriptor)
        for line in [*self.queue.agents.queues.values()]:
            if line.agent is not None:
                line.agent.close()
        closed = []
        self.queue.disk.close(lambda *result: closed.append(result))
        self.until(lambda: closed)
        for channel in [*self.far.values(), *self.near.values()]:
            if not channel.closed:
                self.loop.remove_reader(channel.fileno())
                channel.close()
        self.loop.close()
        log.later = None
        log.flush()
        gc.collect()


@pytest.fixture
def make_house(tmp_path):
    houses = []

    def make(store=None, directory=tmp_path, **more):
        houses.append(House(directory, store if store is not None else SQLiteStore(str(directory)), **more))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def house(make_house):
    return make_house()


@pytest.fixture
def second():
    """For what depends on the wall clock: the current second."""
    return int(time.time())
