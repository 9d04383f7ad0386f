"""A parent that runs, as seen by three of its children: real channels, and the tests speak for the other ends."""

import os
import pwd
import socket
import time

import pytest

from smtpd.envelope import Duty
from smtpd.imsg import TABLE, AgentForked, AgentMailboxSocket, StartAgent
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.agent import Agents
from smtpd.parent.mailbox import Mailboxes
from smtpd.parent.offline import OfflineMails
from smtpd.parent.password import Passwords
from smtpd.parent.process import from_lookup, from_nursery, from_queue
from smtpd.parent.table_program import TablePrograms
from smtpd.parent.user import Users
from smtpd.slice import AgentSlice, Method, ParentSlice

LOCAL = AgentSlice("local", Method.MAILDIR, "~/Maildir", junk=True)
MBOX = AgentSlice("mbox", Method.MBOX, "")
UID, GID = os.geteuid(), os.getegid()
HANDLERS = {"lookup": from_lookup, "queue": from_queue, "nursery": from_nursery}


def ends(one, other):
    """A channel's two ends: the parent's, and the one of `other`."""
    ours, theirs = socket.socketpair()
    return Channel(ours, TABLE, one, other), Channel(theirs, TABLE, other, one)


class World:
    def __init__(self, *actions, mailboxes=None, programs=(), logs=None, offline=None, **configured):
        self.loop = SelectorLoop()
        self.channels = ChannelSet(self.loop)
        pairs = {name: ends("parent", name) for name in HANDLERS}
        self.ours = {name: ours for name, (ours, _) in pairs.items()}
        self.theirs = {name: theirs for name, (_, theirs) in pairs.items()}
        self.configuration = ParentSlice((), actions, (), 1, None, programs=programs, **configured)
        directory = None if mailboxes is None else os.open(mailboxes, os.O_RDONLY | os.O_DIRECTORY)
        nursery = self.ours["nursery"]
        self.users = Users(self.loop, nursery, self.configuration)
        self.passwords = Passwords(self.channels, nursery, self.users, self.configuration)
        self.agents = Agents(self.loop, nursery, self.configuration)
        self.mailboxes = Mailboxes(self.loop, self.agents, self.configuration, directory, str(mailboxes))
        logs = logs or dict.fromkeys((program.table for program in programs), 2)
        self.programs = TablePrograms(self.loop, nursery, self.ours["lookup"], programs, logs)
        self.offline_directory = None if offline is None else os.open(offline, os.O_RDONLY | os.O_DIRECTORY)
        self.offline = OfflineMails(self.loop, nursery, self.offline_directory, str(offline))
        self.mailbox_sockets = {}  # the agent's end, by pid
        self._directory = directory
        self.closed = False

    def agent_ended(self, imsg):
        self.mailboxes.agent_ended(self.agents.agent_ended(imsg))

    def say(self, who, imsg, descriptor=None):
        """`who` sends `imsg`; the parent takes it, and answers."""
        self.theirs[who].send(imsg, descriptor)
        self.theirs[who].flush()
        for received, taken in self.ours[who].receive():
            HANDLERS[who](self, self.ours[who], received, taken)

    def hears(self, who):
        heard = self.hears_all(who)
        for descriptor in [descriptor for _, descriptor in heard if descriptor is not None]:
            os.close(descriptor)
        return [imsg for imsg, _ in heard]

    def hears_all(self, who):
        """With the descriptors."""
        self.ours[who].flush()
        heard = []
        while received := self.theirs[who].receive():
            heard += received
        return heard

    def start_agent(self, request, user="alice", action="local", duty=Duty.DELIVER, pid=None, ids=(UID or 1000, GID)):
        """A whole start; the nursery answers with `pid`."""
        self.say("queue", StartAgent(request, user, action, duty))
        (asked,) = self.hears("nursery")
        pid = pid or 1000 + request
        if asked.kind == "mbox":
            ours, self.mailbox_sockets[pid] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.say("nursery", AgentMailboxSocket(pid), ours.detach())
        self.say("nursery", AgentForked(asked.request, pid, *ids), os.open("/dev/null", os.O_RDONLY))
        return self.hears("queue")

    def wait(self, seconds):
        """Let the clock of the loop run ahead, and what is due happen."""
        self.loop._timers = [(when - seconds, order, timer) for when, order, timer in self.loop._timers]
        self.loop._act_on_time()

    def turn_until(self, condition):
        """Let the loop and its thread work; a test that waits in vain fails."""
        until = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < until, "nothing happens"
            self.loop.call_later(0.01, lambda: None)
            self.loop.turn()

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.mailboxes.close()
        self.offline.close()
        for end in (*self.ours.values(), *self.theirs.values()):
            end.close()
        for agent in self.agents._numbers.values():
            if agent.mailbox_socket is not None:
                agent.mailbox_socket.close()
        for mailbox_socket in self.mailbox_sockets.values():
            mailbox_socket.close()
        for directory in (self._directory, self.offline_directory):
            if directory is not None:
                os.close(directory)


@pytest.fixture
def make_world():
    made = []

    def make(*actions, **more):
        made.append(World(*actions, **more))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world(LOCAL)


@pytest.fixture
def me():
    """The name of whoever runs the tests."""
    return pwd.getpwuid(UID).pw_name
