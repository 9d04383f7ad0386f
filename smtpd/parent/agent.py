"""StartAgent, EndAgent: the agents that live, each with a number for queue and a pid for the nursery."""

import os
import socket
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from smtpd.errand import MAILBOX_KINDS
from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentMailboxSocket,
    AgentNotForked,
    AgentRefused,
    AgentStarted,
    EndAgent,
    ForkAgent,
    KillAgent,
    StartAgent,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.nursery_request import NurseryRequests
from smtpd.parent.permitted_agent import PermittedAgent, PermittedAgents, UnknownUser
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS, check_allowed
from smtpd.slice import USER_NAME, ParentSlice

AGENTS_MAX = 384  # alive or being made: all places of queue's, and some that have just been parted with
AGENTS_PER_USER_MAX = 8  # of one recipient; of an action that runs as one user for all
PERMANENT = {
    "unknown": "no such user",
    "root": "root does not receive mail",
    "daemon": "a daemon's user does not receive mail",
}


@dataclass(frozen=True, eq=False)
class Agent:
    number: int
    pid: int
    user: str
    share: tuple[str, str]
    uid: int
    gid: int
    mailbox_socket: socket.socket | None  # of one that stores into mailboxes


class Agents:
    def __init__(self, loop: SelectorLoop, nursery: Channel, configuration: ParentSlice):
        self._nursery = nursery
        self._configuration = configuration
        self._posts = PermittedAgents(configuration)
        self._requests = NurseryRequests(loop, nursery, PRIVILEGED_REQUESTS[StartAgent], self._never_forked)
        self._being_made: dict[int, PermittedAgent] = {}  # by the number of the request to the nursery
        self._numbers: dict[int, Agent] = {}
        self._pids: dict[int, Agent] = {}
        self._shares: Counter[tuple[str, str]] = Counter()
        self._mailbox_socket: tuple[int, socket.socket] | None = None  # of the agent that is told of next
        self._last = 0

    # -- queue asks ------------------------------------------------------------------

    def start_agent(self, channel: Channel, imsg: StartAgent) -> None:
        check_allowed(self._configuration, channel, imsg)
        refuse = partial(_refuse, channel, imsg)
        try:
            permitted = self._posts.get_permitted(imsg)
        except UnknownUser:
            refuse("unknown")
            return
        if not USER_NAME.fullmatch(imsg.user):
            refuse("unknown")
        elif self._shares.total() >= AGENTS_MAX or self._shares[permitted.share] >= AGENTS_PER_USER_MAX:
            refuse("later", "too many agents")
        elif self._requests.full:
            refuse("later", "too many agents are being started")
        else:
            self._shares[permitted.share] += 1
            self._requests.ask(
                partial(self._fork, permitted),
                partial(self._answered, channel, imsg),
                partial(refuse, "later", "the nursery did not answer in time"),
            )

    def _fork(self, permitted: PermittedAgent, request: int) -> ForkAgent:
        self._being_made[request] = permitted
        return permitted.fork(request)

    def _answered(self, channel: Channel, asked: StartAgent, imsg: Any, descriptor: int | None) -> None:
        if isinstance(imsg, AgentForked):
            channel.send(AgentStarted(asked.request, self._pids[imsg.pid].number), descriptor)
        else:
            _refuse(channel, asked, imsg.verdict, imsg.reason)

    def end_agent(self, channel: Channel, imsg: EndAgent) -> None:
        check_allowed(self._configuration, channel, imsg)
        agent = self.find(imsg.agent)
        if agent is not None:
            self.kill(agent)

    # -- others of the parent ask -----------------------------------------------------

    def find(self, number: int) -> Agent | None:
        """None when it has ended by itself in the meantime.  Raises Violation for an unknown one."""
        if not 0 < number <= self._last:
            raise Violation(f"unknown agent {number}")
        return self._numbers.get(number)

    def kill(self, agent: Agent) -> None:
        self._nursery.send(KillAgent(agent.pid))

    # -- the nursery answers ---------------------------------------------------------

    def agent_mailbox_socket(self, imsg: AgentMailboxSocket, descriptor: int) -> None:
        mailbox_socket = socket.socket(fileno=descriptor)
        mailbox_socket.setblocking(False)
        if self._mailbox_socket is not None:
            raise Violation("nursery sends a second mailbox_socket before the agent of the first")
        self._mailbox_socket = imsg.pid, mailbox_socket

    def agent_forked(self, imsg: AgentForked, descriptor: int) -> None:
        request = self._requests.get_asked(imsg)
        asked: ForkAgent = request.imsg
        if imsg.uid == 0 or (asked.account is not None and asked.account[:2] != (imsg.uid, imsg.gid)):
            raise Violation(f"nursery made an agent of {asked.user} with uid {imsg.uid}, gid {imsg.gid}")
        share = self._being_made.pop(imsg.request).share
        mailbox_socket = self._take_mailbox_socket(imsg.pid, asked.kind)
        self._last += 1
        agent = Agent(self._last, imsg.pid, asked.user, share, imsg.uid, imsg.gid, mailbox_socket)
        self._numbers[agent.number] = self._pids[agent.pid] = agent
        if request.answer is None:  # too late
            os.close(descriptor)
            self.kill(agent)
        self._requests.answered(imsg, descriptor)

    def _take_mailbox_socket(self, pid: int, kind: str) -> socket.socket | None:
        if self._mailbox_socket is None and kind not in MAILBOX_KINDS:
            return None
        if self._mailbox_socket is None or kind not in MAILBOX_KINDS or self._mailbox_socket[0] != pid:
            raise Violation(f"nursery made an agent of kind {kind} with a mailbox socket too many or too few")
        mailbox_socket, self._mailbox_socket = self._mailbox_socket[1], None
        return mailbox_socket

    def agent_not_forked(self, imsg: AgentNotForked) -> None:
        self._requests.get_asked(imsg)
        self._leave(self._being_made.pop(imsg.request).share)
        self._requests.answered(imsg)

    def _never_forked(self, imsg: ForkAgent) -> None:
        self._leave(self._being_made.pop(imsg.request).share)

    def agent_ended(self, imsg: AgentEnded) -> Agent:
        """The one that ended."""
        agent = self._pids.pop(imsg.pid, None)
        if agent is None:
            raise Violation(f"AgentEnded for unknown agent {imsg.pid}")
        del self._numbers[agent.number]
        self._leave(agent.share)
        if agent.mailbox_socket is not None:
            agent.mailbox_socket.close()
        if imsg.status:
            log.debug(f"agent of {agent.user} (pid {agent.pid}) ended with wait status {imsg.status}")
        return agent

    def _leave(self, share: tuple[str, str]) -> None:
        self._shares[share] -= 1
        if not self._shares[share]:
            del self._shares[share]


def _refuse(channel: Channel, asked: StartAgent, verdict: str, reason: str = "") -> None:
    """A permanent refusal names the user: an action may run as another user than the recipient, which the log has."""
    permanent = verdict in PERMANENT
    text = f"{PERMANENT[verdict]}: {asked.user}" if permanent else reason
    channel.send(AgentRefused(asked.request, permanent, text))
