"""Reading a user's .forward for lookup: the user's own agent reads it, and its bytes are passed on.

What the user does to that agent costs the user: a mail for them is answered 451 after DEADLINE at the latest.
"""

import itertools
from collections.abc import Callable
from functools import partial

from smtpd import errand as frames
from smtpd.envelope import Duty
from smtpd.errand import Answer, ForwardText, FrameError
from smtpd.imsg import ForwardRead, ReadForward
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import visible
from smtpd.queue.agents.agent_socket import Errand, Ready
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.agents.slots import AgentKey

DEADLINE = 20.0  # seconds, waiting included
REASON_MAX = 1024  # characters of what the agent says


class ForwardReader:
    def __init__(self, agents: AgentPool, clock: Callable[[], float]):
        self._agents, self._clock = agents, clock
        self._numbers = itertools.count(1)

    def read(self, channel: Channel, imsg: ReadForward) -> None:
        errand = _Reading(next(self._numbers), self._clock() + DEADLINE, partial(_answer, channel, imsg.request))
        self._agents.give(AgentKey(imsg.user, imsg.action, Duty.READ), errand)


def _answer(channel: Channel, request: int, verdict: str, content: bytes, reason: str) -> None:
    channel.send(ForwardRead(request, verdict, content, visible(reason)[:REASON_MAX]))


class _Reading(Errand):
    deadline = DEADLINE

    def __init__(self, number: int, waits_until: float, answer: partial[None]):
        self.number, self.waits_until, self._answer = number, waits_until, answer

    def begin(self, log_id: int, lock: int, ready: Ready) -> None:
        ready(frames.encode(frames.ReadForward(self.number)), None)

    def answered(self, answer: Answer) -> None:
        if not isinstance(answer, ForwardText):
            raise FrameError("no .forward")
        if answer.verdict == "text":
            self._answer("text", answer.content, "")
        else:
            self._answer(answer.verdict, b"", answer.content.decode(errors="replace"))

    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        self._answer("refused" if permanent else "later", b"", reason)
