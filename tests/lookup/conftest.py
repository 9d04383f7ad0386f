"""A lookup on a real loop; dispatchers, parent and queue are the other ends of its channels, played by the test."""

import asyncio
import socket

import pytest
from msgspec.structs import replace

from smtpd.imsg import (
    TABLE,
    AskServerForUtf8,
    CheckPassword,
    FindUser,
    ForwardRead,
    PasswordChecked,
    ReadForward,
    ServerAnswered,
    UserFound,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import connect
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.lookup import process
from smtpd.lookup.resolver_config import ResolverConfig
from smtpd.lookup.state import Lookup
from smtpd.slice import Condition, ExpansionSlice, LookupSlice, Match, Method, RouteSlice, TableSlice

CONFIGURATION = LookupSlice(
    server_name="mx.here.test",
    matches=(Match("in", Condition("any"), Condition("local")),),
    tables=(
        TableSlice("localhost", ("local", "127.0.0.1")),
        TableSlice("localnames", ("mx.here.test", "here.test")),
    ),
    actions=(ExpansionSlice("in", Method.MAILDIR),),
    routes=(RouteSlice("out"),),
    sub_addr_delim="+",
    files=(),
)


class House:
    """`users`, `passwords` and `forwards` are what parent and queue answer; `heard` is what each peer was sent."""

    def __init__(self, system=None, **changes):
        configuration = replace(CONFIGURATION, **changes)
        self.loop = prepare()
        self.users, self.passwords, self.forwards = {}, {}, {}
        self.server = "ascii"
        self.heard = []
        self.silent = set()
        self.opened = []  # servers that a test plays on the same loop
        ours, self.theirs, channels = [], {}, {}
        for peer, number in (("parent", 0), ("queue", 0), ("control", 0), ("dispatcher", 1), ("dispatcher", 2)):
            here, there = socket.socketpair()
            ours.append(Channel(here, TABLE, "lookup", peer, number))
            channels.setdefault(peer, ours[-1])
            self.theirs[peer + str(number or "")] = Channel(there, TABLE, peer, "lookup", number)
        self.lookup = Lookup(
            self.loop, configuration, system or ResolverConfig(), channels["parent"], channels["queue"], ()
        )
        handlers = {role: getattr(process, f"from_{role}") for role in ("parent", "dispatcher", "queue", "control")}
        self.boards = [
            (connect(self.loop, ours, handlers, self.lookup), ours),
            (connect(self.loop, list(self.theirs.values()), {"lookup": self._hear}, None), list(self.theirs.values())),
        ]

    def _hear(self, state, channel, imsg, descriptor):
        self.heard.append((f"{channel.me}{channel.number or ''}", imsg))
        if type(imsg) not in self.silent:
            self._answer(channel, imsg)

    def _answer(self, channel, imsg):
        match imsg:
            case FindUser():
                channel.send(UserFound(imsg.request, self.users.get(imsg.name, "unknown")))
            case CheckPassword():
                verdict = "yes" if self.passwords.get(imsg.user) == imsg.password else "no"
                channel.send(PasswordChecked(imsg.request, verdict))
            case AskServerForUtf8():
                channel.send(ServerAnswered(imsg.request, self.server, ""))
            case ReadForward():
                verdict, content = self.forwards.get(imsg.user, ("none", b""))
                channel.send(ForwardRead(imsg.request, verdict, content, "" if verdict != "refused" else "not yours"))

    def release(self):
        """Answer what was held back."""
        self.silent = set()
        for _, imsg in list(self.heard):
            peer = "parent" if isinstance(imsg, FindUser) else "queue"
            self._answer(self.theirs[peer], imsg)

    def sent(self, cls):
        return [imsg for _, imsg in self.heard if isinstance(imsg, cls)]

    def ask(self, imsg, peer="dispatcher1"):
        """Send it as that peer, and wait for the first answer with its number."""
        return self.run(self._ask(imsg, peer))

    async def _ask(self, imsg, peer):
        self.theirs[peer].send(imsg)
        return await self.until(lambda: self.answers(peer, imsg.request))

    def answers(self, peer, request):
        return next((i for p, i in self.heard if p == peer and getattr(i, "request", None) == request), None)

    async def until(self, condition):
        while not (found := condition()):
            await asyncio.sleep(0.001)
        return found

    def run(self, scenario):
        return self.loop.run_until_complete(asyncio.wait_for(scenario, 20))

    def close(self):
        for board, channels in self.boards:
            for channel in channels:
                board.remove(channel)
        for opened in self.opened:
            opened.close()
        for task in (*self.lookup.clients._tasks, *self.lookup.listeners._tasks):
            task.cancel()
        self.lookup.sts_announcements.cancel()
        self.lookup.hosts.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.001))
        log.flush()
        log.later = None
        self.loop.close()


@pytest.fixture
def house():
    made = []

    def make(*arguments, **options):
        made.append(House(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
