"""Everybody that queue and scheduler speak with: a client, the parent, agents, lookup, users, the administrator.

Its own steps of the model; those of the world around all of them are in world.py.
"""

import os
from collections import deque
from functools import partial

from msgspec.structs import replace

from smtpd.envelope import (
    COUNTER_MAX,
    Duty,
    Kind,
    MailParameters,
    Notify,
    Origin,
    Outcome,
    first_envelope,
    last_envelope,
    message_of,
)
from smtpd.imsg import (
    AddEnvelopes,
    AgentRefused,
    AgentStarted,
    AskServerForUtf8,
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    EndAgent,
    EnvelopeExpanded,
    EnvelopeNotExpanded,
    ExpandEnvelope,
    ForgetMessage,
    ForwardRead,
    LockMailbox,
    MailboxLocked,
    MailboxNotLocked,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    OpenSpoolFile,
    PauseDeliveries,
    ReadForward,
    RelayMessage,
    RemoveEnvelopes,
    ReserveMessageIds,
    ScheduleEnvelopes,
    ServerAnswered,
    SpoolFileOpened,
    SpoolFileRefused,
    StartAgent,
    StoreMessage,
    SuspendEnvelopes,
    WithdrawRecipient,
)
from tests.queue.model.agent import Agent
from tests.queue.model.daemon_run import DaemonRun
from tests.queue.model.dispatcher import Dispatcher
from tests.queue.model.ledger import Ledger, PromiseBroken
from tests.queue.model.users import EDITORS, USERS, Users

ORIGIN = Origin("amy@there.test", "127.0.0.1", "client.test", "client.test", "mx.here.test", "", True)
SENDERS = ["amy@there.test", "eve@here.test", "bob@here.test", ""]
NOTIFY = [Notify(0), Notify(0), Notify.FAILURE | Notify.DELAY, Notify.NEVER]
BIG = b"x" * 17_000  # more than stands in a row


class Peers:
    """`life` is the present one."""

    life: DaemonRun

    def __init__(self, clock):
        self.clock, self.ledger, self.users = clock, Ledger(), Users()
        self._maildir = set()
        self._big = set()

    def _forget(self):
        """A life has ended, and all that was asked in it."""
        self.agents, self._agents = {}, 0
        self._ids, self._asked_ids = deque(), False
        self._starts, self._locks, self._expansions = [], [], []
        self._spooled = {}
        self._asked, self._questions = set(), 0
        self.dispatcher = Dispatcher(self.ledger, partial(self._say, "dispatcher"), self._content)

    # -- mail comes in ------------------------------------------------------------------------------------------------

    def step_accept(self, number):
        """A client sends a mail, in a row of the database or in a file; now and then it goes away before the end."""
        if not self._ids:
            if not self._asked_ids:
                self._say("dispatcher", ReserveMessageIds(1))
                self._asked_ids = True
            return
        number, kind = divmod(number, 8)
        number, chosen = divmod(number, 1 << len(USERS))
        users = [user for at, user in enumerate(USERS) if chosen >> at & 1] or [EDITORS[0]]
        notify = NOTIFY[chosen * 7 % 16 // 4]
        recipients = [r for user in users for r in self.users.expand(f"{user}@here.test", user, notify=notify)]
        origin = replace(ORIGIN, sender=SENDERS[chosen % 4])
        release = int(self.clock.wall) + 100 if kind == 7 else 0
        terms = MailParameters(release=release, priority=number % 3)
        if kind == 6 and number % 4 == 0:
            terms = MailParameters(deliver_by=int(self.clock.wall) + 100, by_mode="R")
        message = self._ids.popleft()
        if kind in (0, 1):
            self._big.add(message)
            self._say("dispatcher", OpenSpoolFile(message, message))
            self._spooled[message] = len(recipients)
        half = len(recipients) // 2 if kind == 2 else 0
        if half:
            self._say("lookup", AddEnvelopes(message, origin, recipients[:half], terms))
        self._say("lookup", AddEnvelopes(message, origin, recipients[half:], terms))
        if kind == 3 and number % 4 == 0:
            self._say("dispatcher", ForgetMessage(message, len(recipients)))
        elif kind > 1:
            self._store(message, len(recipients))

    def _store(self, message, count):
        content = b"" if message in self._big else self._content(message)
        self._say("dispatcher", StoreMessage(message, message, count, content, len(self._content(message))))

    def _content(self, message):
        if message in self.ledger.notices:
            return self.ledger.notices[message]
        return b"Subject: %d\n\n" % message + (BIG if message in self._big else b"")

    def _say(self, role, imsg, descriptor=None):
        receiver = "scheduler" if role == "control" else "queue"
        self.life.pipes[role, receiver].send(imsg, descriptor)

    # -- what queue and scheduler say ---------------------------------------------------------------------------------

    def _hear(self, imsg, descriptor):
        match imsg:
            case RelayMessage() | WithdrawRecipient() | ContentFetched() | ContentFileFetched() | ContentNotFetched():
                self.dispatcher.hear(imsg, descriptor)
            case MessageIdsReserved():
                self._ids.extend(imsg.ids[:20])
                self._asked_ids = False
            case MessageStored(message):
                if message not in self.ledger.stored:
                    raise PromiseBroken(f"message {message:08x} is accepted and not on the disk")
            case MessageRefused(message):
                self.ledger.refused.add(message)
            case SpoolFileOpened(message):
                os.write(descriptor, self._content(message))
                os.close(descriptor)
                self._store(message, self._spooled.pop(message))
            case SpoolFileRefused(message):
                self._say("dispatcher", ForgetMessage(message, self._spooled.pop(message)))
            case StartAgent():
                self._starts.append(imsg)
            case LockMailbox():
                self._locks.append(imsg)
            case ExpandEnvelope():
                self._expansions.append(imsg)
            case ForwardRead(request) | ServerAnswered(request):
                if request not in self._asked:
                    raise PromiseBroken(f"{imsg} has been answered before")
                self._asked.remove(request)
            case EndAgent(agent):
                self.agents.pop(agent).lose()

    # -- agents -------------------------------------------------------------------------------------------------------

    def step_start(self, number):
        """The parent starts an agent, or cannot."""
        if not self._starts:
            return
        number, at = divmod(number, len(self._starts))
        asked = self._starts.pop(at)
        if number % 32 in (1, 2, 3, 4):
            if number % 32 == 4:
                self.ledger.fail(lambda to: to.kind is Kind.MDA and to.action == asked.action)
            self._say("parent", AgentRefused(asked.request, number % 32 == 4, "no"))
            return
        self._agents += 1
        agent = Agent(self._agents, asked, self.ledger, self.users, self._maildir, self._check)
        self.agents[self._agents] = agent
        self._say("parent", AgentStarted(asked.request, self._agents), agent.near)

    def step_lock(self, number):
        if not self._locks:
            return
        asked = self._locks.pop(0)
        if number % 16 in (1, 2, 3):
            if number % 16 == 3:
                self.ledger.fail(lambda to: to.action == "box")
            self._say("parent", MailboxNotLocked(asked.request, number % 16 == 3, "no"))
        else:
            self._say("parent", MailboxLocked(asked.request, asked.request))

    def _check(self, errand, descriptors):
        """What an agent gets is the mail."""
        expected = self._content(message_of(errand.envelope))
        content = os.pread(descriptors[0], len(expected) + 1, 0) if descriptors else errand.content
        if content != expected:
            raise PromiseBroken(f"{errand.envelope:016x} has another content")

    def step_agent(self, number):
        """An agent does the next thing, in one of many ways."""
        agents = [agent for agent in self.agents.values() if agent.waits]
        if not agents:
            return
        number, at = divmod(number, len(agents))
        agent = agents[at]
        match number % 24:
            case 1:
                agent.deliver("end")
            case 2:
                agent.deliver("answer and end")
            case 3:
                agent.lose()
            case 4:
                agent.talk_nonsense()
            case 5:
                agent.refuse(Outcome.FAILED, "never")
            case 6:
                agent.refuse(Outcome.LOOP, "")
            case 7 | 8 | 9 | 10:
                agent.refuse(Outcome.DEFERRED, f"later {number}")
            case _:
                agent.deliver()

    def step_relay(self, number):
        """The dispatcher does the next thing with something that it relays."""
        self.dispatcher.step(number)

    def step_resume(self, number):
        """A destination can be reached again."""
        self.dispatcher.resume(number)

    def step_hear(self, number):
        """Queue reads what an agent has answered, or that it has ended."""
        if self.agents:
            self._let_read([*self.agents.values()][number % len(self.agents)])

    def _let_read(self, agent):
        reader = self.life.loops[0].readers.get(agent.near)
        if reader is not None and reader.func.__self__.number == agent.number:  # the number of a descriptor comes back
            reader()
            agent.heard()

    # -- users, and lookup --------------------------------------------------------------------------------------------

    def step_edit(self, number):
        number, at = divmod(number, len(EDITORS))
        self.users.edit(EDITORS[at], number)

    def step_expand(self, number):
        """Lookup says what the user wants now, or cannot."""
        if not self._expansions:
            return
        number, at = divmod(number, len(self._expansions))
        asked = self._expansions.pop(at)
        if number % 12 in (1, 2):
            if number % 12 == 2:
                self.ledger.fail(lambda to: to == asked.recipient)
            self._say("lookup", EnvelopeNotExpanded(asked.request, number % 12 == 2, "no"))
            return
        named, user = asked.recipient.recipient, asked.recipient.user
        if asked.recipient.duty is Duty.EXPAND:
            user = named.partition("@")[0] if named.endswith("@here.test") else "there"
        recipients = self.users.expand(named, user, notify=asked.recipient.notify)
        self._say("lookup", EnvelopeExpanded(asked.request, recipients))

    def step_ask(self, number):
        """Lookup wants to know what stands in a .forward, or what a server takes."""
        self._questions += 1
        self._asked.add(self._questions)
        if number % 3:
            self._say("lookup", ReadForward(self._questions, EDITORS[number % 2], ""))
        else:
            self._say("lookup", AskServerForUtf8(self._questions, "far"))

    # -- the administrator --------------------------------------------------------------------------------------------

    def step_order(self, number):
        number, what = divmod(number, 6)
        number, scope = divmod(number, 6)
        rows = [*self.ledger.rows]
        if not rows:
            return
        id = rows[number % len(rows)]
        first, last = id, id
        if scope in (0, 2):
            first, last = 1 << 32, (2**31 - 1) << 32 | COUNTER_MAX
        elif scope == 1:
            first, last = first_envelope(message_of(id)), last_envelope(message_of(id))
        match what:
            case 0 | 1:
                self._say("control", ScheduleEnvelopes(1, first, last))
            case 2:
                self._say("control", RemoveEnvelopes(1, first, last))
            case 3:
                self._say("control", SuspendEnvelopes(1, first, last, True))
            case 4 | 5:
                self._say("control", SuspendEnvelopes(1, first, last, False))

    def step_pause(self, number):
        self._say("control", PauseDeliveries(1, Kind(1 + number // 2 % 2), number % 2 == 0))

    # -- all of them do what is wanted --------------------------------------------------------------------------------

    def _help(self):
        """Everybody around the queue does what is wanted.  True when there was something."""
        did = self._serve()
        for agent in self.agents.values():
            while agent.waits:
                agent.deliver()
                did = True
        return self.dispatcher.help() or did

    def _serve(self):
        did = False
        while self._starts or self._locks or self._expansions:
            self.step_start(0)
            self.step_lock(0)
            self.step_expand(0)
            did = True
        return did
