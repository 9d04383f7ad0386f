"""Asks the LMTP server of an action for its features: does it offer SMTPUTF8?

    lookup --AskServerForUtf8--> queue --ProbeServer--> the action's agent --LHLO--> server
    lookup <--ServerAnswered-- queue <--ServerProbed--

A question that has no answer at its deadline is answered "later"; the agent goes on waiting for the server.
"""

import itertools
from collections.abc import Callable

from smtpd import errand as frames
from smtpd.errand import Answer, FrameError, ServerProbed
from smtpd.imsg import AskServerForUtf8, ServerAnswered
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import visible
from smtpd.queue.agents.agent_socket import Errand, Ready
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.agents.routing import LMTP_LIMITS, AgentRouting, NoAgent

DEADLINE = 20.0  # seconds
REASON_MAX = 256  # characters of what the agent says


class LmtpFeatures:
    """`tick` is to be called every second; `clock` counts seconds."""

    def __init__(self, agents: AgentPool, routing: AgentRouting, clock: Callable[[], float]):
        self._agents, self._routing, self._clock = agents, routing, clock
        self._numbers = itertools.count(1)
        self._open: dict[int, _Greeting] = {}  # by number, the oldest first

    def ask(self, channel: Channel, imsg: AskServerForUtf8) -> None:
        try:
            key = self._routing.get_server(imsg.action)
        except NoAgent as error:
            channel.send(ServerAnswered(imsg.request, "later", str(error)))
            return
        number, until = next(self._numbers), self._clock() + DEADLINE

        def answer(verdict: str, reason: str) -> None:
            if self._open.pop(number, None) is not None:
                channel.send(ServerAnswered(imsg.request, verdict, visible(reason)[:REASON_MAX]))

        greeting = self._open[number] = _Greeting(number, until, answer)
        self._agents.give(key, greeting)

    def tick(self) -> None:
        for greeting in [*self._open.values()]:
            if greeting.waits_until <= self._clock():
                greeting.failed("the server does not answer")


class _Greeting(Errand):
    deadline = LMTP_LIMITS.deadline  # lookup has had an answer long before (DEADLINE): no reason to end the agent

    def __init__(self, number: int, waits_until: float, answer: Callable[[str, str], None]):
        self.number, self.waits_until, self._answer = number, waits_until, answer

    def begin(self, log_id: int, lock: int, ready: Ready) -> None:
        ready(frames.encode(frames.ProbeServer(self.number)), None)

    def answered(self, answer: Answer) -> None:
        if not isinstance(answer, ServerProbed):
            raise FrameError("no answer about the server")
        self._answer(answer.verdict, answer.reason)

    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        self._answer("later", reason)
