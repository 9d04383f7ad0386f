"""What others may ask of root: a table, and what stands behind each row.

    FindUser(name)             lookup  --> a nursery child asks NSS      --> UserFound(verdict)
    StartAgent(user, action)   queue   --> a nursery child becomes them  --> AgentStarted + socket | AgentRefused
    EndAgent(agent)            queue   --> the nursery kills it

A request that its row does not allow comes from a process that is not ours any more: Violation, the end of the daemon.
Everything else that goes wrong is an answer.  Names go down to the nursery, never a uid, and a path only from our own
configuration; nothing here opens a file or waits.
"""

import os
import re
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from smtpd.config.slice import MaildirSlice, ParentSlice
from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentNotForked,
    AgentRefused,
    AgentStarted,
    EndAgent,
    FindUser,
    ForkAgent,
    KillAgent,
    LookUpUser,
    StartAgent,
    UserFound,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.plain import Loop, Timer


@dataclass(frozen=True)
class Service:
    asker: str  # the one peer
    enabled: Callable[[ParentSlice], bool]
    at_once: int  # asked of the nursery at the same time
    waiting: int  # more than that is answered "later"
    deadline: float  # seconds until an answer


def has_local_delivery(configuration: ParentSlice) -> bool:
    return bool(configuration.actions)


SERVICES = {
    FindUser: Service("lookup", has_local_delivery, at_once=8, waiting=2048, deadline=10),
    StartAgent: Service("queue", has_local_delivery, at_once=8, waiting=512, deadline=20),
    EndAgent: Service("queue", has_local_delivery, at_once=0, waiting=0, deadline=0),
}

AGENTS_MAX = 256  # alive or being made
AGENTS_PER_USER_MAX = 8
CACHE_SECONDS = 60
CACHE_MAX = 4096  # names
READING = ""  # the action that reads a .forward

# A name is one word of /etc/passwd: no path, no option, nothing that a terminal or a log would take for more.
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,62}")
PERMANENT = {
    "unknown": "no such user",
    "root": "root does not receive mail",
    "daemon": "a daemon's user does not receive mail",
}


@dataclass(eq=False)
class Request:
    """One that the nursery has or will have.  `answer` is None once it was answered without it."""

    service: Service
    imsg: Any  # for the nursery
    answer: Callable[[Any, int | None], None] | None
    late: Callable[[], None]
    timer: Timer | None = None


@dataclass(frozen=True)
class Agent:
    number: int
    pid: int
    user: str


class Queue:
    """The requests of one service: some with the nursery, the others in line."""

    def __init__(self, service: Service):
        self.service = service
        self.under_way = 0
        self.line: deque[Request] = deque()

    @property
    def full(self) -> bool:
        return len(self.line) >= self.service.waiting


class Services:
    def __init__(self, loop: Loop, nursery: Channel, configuration: ParentSlice):
        self._loop = loop
        self._nursery = nursery
        self._configuration = configuration
        self._actions: dict[str, MaildirSlice] = {action.name: action for action in configuration.actions}
        self._queues = {asked: Queue(service) for asked, service in SERVICES.items()}
        self._requests: dict[int, Request] = {}
        self._next = 0
        self._verdicts: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._asking: dict[str, list[tuple[Channel, int]]] = {}
        self._agents: dict[int, Agent] = {}
        self._pids: dict[int, Agent] = {}
        self._per_user: Counter[str] = Counter()
        self._last_agent = 0

    # -- FindUser ----------------------------------------------------------------

    def find_user(self, channel: Channel, imsg: FindUser) -> None:
        self._admit(channel, imsg)
        verdict = self._known_verdict(imsg.name)
        if verdict is not None:
            channel.send(UserFound(imsg.request, verdict))
        elif imsg.name in self._asking:
            self._asking[imsg.name].append((channel, imsg.request))
        elif self._queues[FindUser].full:
            channel.send(UserFound(imsg.request, "later"))
        else:
            self._asking[imsg.name] = [(channel, imsg.request)]
            self._ask(
                FindUser,
                lambda request: LookUpUser(request, imsg.name),
                lambda answer, _: self._found(imsg.name, answer.verdict),
                lambda: self._found(imsg.name, "later"),
            )

    def _known_verdict(self, name: str) -> str | None:
        if not USER_NAME.fullmatch(name):
            return "unknown"
        until, verdict = self._verdicts.get(name, (0.0, ""))
        return verdict if until > time.monotonic() else None

    def _found(self, name: str, verdict: str) -> None:
        if verdict != "later":
            self._verdicts[name] = (time.monotonic() + CACHE_SECONDS, verdict)
            self._verdicts.move_to_end(name)
            if len(self._verdicts) > CACHE_MAX:
                self._verdicts.popitem(last=False)
        for channel, request in self._asking.pop(name, []):
            channel.send(UserFound(request, verdict))

    # -- StartAgent, EndAgent ------------------------------------------------------

    def start_agent(self, channel: Channel, imsg: StartAgent) -> None:
        self._admit(channel, imsg)
        refuse = partial(self._refuse, channel, imsg.request)
        if imsg.action != READING and imsg.action not in self._actions:
            raise Violation(f'queue asks for an agent of "{imsg.action}", an action that is not configured')
        if not USER_NAME.fullmatch(imsg.user):
            refuse("unknown", PERMANENT["unknown"])
        elif self._per_user.total() >= AGENTS_MAX or self._per_user[imsg.user] >= AGENTS_PER_USER_MAX:
            refuse("later", "too many agents")
        elif self._queues[StartAgent].full:
            refuse("later", "too many agents are being started")
        else:
            self._per_user[imsg.user] += 1
            self._ask(
                StartAgent,
                partial(self._fork_agent, imsg.user, imsg.action),
                partial(self._agent_answered, channel, imsg),
                partial(refuse, "later", "the nursery did not answer in time"),
            )

    def _fork_agent(self, user: str, action: str, request: int) -> ForkAgent:
        if action == READING:
            return ForkAgent(request, user, "forward", "", False)
        configured = self._actions[action]
        return ForkAgent(request, user, "maildir", configured.path, configured.junk)

    def _agent_answered(self, channel: Channel, asked: StartAgent, imsg: Any, descriptor: int | None) -> None:
        if isinstance(imsg, AgentForked):
            channel.send(AgentStarted(asked.request, self._pids[imsg.pid].number), descriptor)
        else:
            self._refuse(channel, asked.request, imsg.verdict, PERMANENT.get(imsg.verdict, imsg.reason))

    def _refuse(self, channel: Channel, request: int, verdict: str, reason: str) -> None:
        channel.send(AgentRefused(request, verdict in PERMANENT, reason))

    def end_agent(self, channel: Channel, imsg: EndAgent) -> None:
        self._admit(channel, imsg)
        if not 0 < imsg.agent <= self._last_agent:
            raise Violation(f"queue wants agent {imsg.agent} to end, which there never was")
        if imsg.agent in self._agents:  # else it has ended by itself in the meantime
            self._nursery.send(KillAgent(self._agents[imsg.agent].pid))

    # -- the nursery answers ---------------------------------------------------------

    def user_looked_up(self, imsg: UserLookedUp) -> None:
        self._answered(LookUpUser, imsg, None)

    def agent_forked(self, imsg: AgentForked, descriptor: int) -> None:
        asked = self._expected(ForkAgent, imsg)
        self._last_agent += 1
        agent = Agent(self._last_agent, imsg.pid, asked.imsg.user)
        self._agents[agent.number] = self._pids[agent.pid] = agent
        if asked.answer is None:
            os.close(descriptor)
            self._nursery.send(KillAgent(imsg.pid))
        self._answered(ForkAgent, imsg, descriptor)

    def agent_not_forked(self, imsg: AgentNotForked) -> None:
        self._leave(self._expected(ForkAgent, imsg).imsg.user)
        self._answered(ForkAgent, imsg, None)

    def agent_ended(self, imsg: AgentEnded) -> None:
        agent = self._pids.pop(imsg.pid, None)
        if agent is None:
            raise Violation(f"nursery tells of the end of agent {imsg.pid}, which there never was")
        del self._agents[agent.number]
        self._leave(agent.user)
        if imsg.status:
            log.debug(f"agent of {agent.user} (pid {agent.pid}) ended with wait status {imsg.status}")

    def _leave(self, user: str) -> None:
        self._per_user[user] -= 1
        if not self._per_user[user]:
            del self._per_user[user]

    # -- asking the nursery -------------------------------------------------------------

    def _admit(self, channel: Channel, imsg: Any) -> None:
        """The arrow has been checked by the channel; this is the table's row."""
        service = SERVICES[type(imsg)]
        if channel.peer != service.asker or not service.enabled(self._configuration):
            raise Violation(f"{channel.peer} asks {type(imsg).__name__}, which the configuration does not enable")

    def _ask(
        self,
        asked: type,
        make: Callable[[int], Any],
        answer: Callable[[Any, int | None], None],
        late: Callable[[], None],
    ) -> None:
        queue = self._queues[asked]
        self._next += 1
        request = Request(queue.service, make(self._next), answer, late)
        request.timer = self._loop.after(queue.service.deadline, partial(self._too_late, queue, request))
        queue.line.append(request)
        self._proceed(queue)

    def _proceed(self, queue: Queue) -> None:
        while queue.line and queue.under_way < queue.service.at_once:
            request = queue.line.popleft()
            queue.under_way += 1
            self._requests[request.imsg.request] = request
            self._nursery.send(request.imsg)

    def _too_late(self, queue: Queue, request: Request) -> None:
        """Answered without the nursery; what it says later is only counted."""
        request.answer = None
        if request in queue.line:
            queue.line.remove(request)
            if isinstance(request.imsg, ForkAgent):
                self._leave(request.imsg.user)
        else:
            log.warn(f"the nursery does not answer {type(request.imsg).__name__}")
        request.late()

    def _expected(self, asked: type, imsg: Any) -> Request:
        request = self._requests.get(imsg.request)
        if request is None or type(request.imsg) is not asked:
            raise Violation(f"nursery answers {type(imsg).__name__} to a question that nobody asked")
        return request

    def _answered(self, asked: type, imsg: Any, descriptor: int | None) -> None:
        request = self._expected(asked, imsg)
        del self._requests[imsg.request]
        if request.timer is not None:
            request.timer.cancel()
        queue = self._queues[FindUser if asked is LookUpUser else StartAgent]
        queue.under_way -= 1
        if request.answer is not None:
            request.answer(imsg, descriptor)
        self._proceed(queue)
