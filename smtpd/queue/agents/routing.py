"""Routing of envelopes to agents: the key of the agent, the user it runs as, and its limits.

    duty         runs as                               limits
    DELIVER      the user that the action names,       maildir, mbox: quick    lmtp: slow    mda: a command
                 otherwise the recipient
    FORWARDED    the recipient                         a command, out of the user's own .forward
    ALIASED      whom `alias-commands` names           a command, out of an alias file
    READ         the user whose .forward it is         quick
    DISCARD      there is no agent for it

A quick agent waits for nothing but a disk.  A slow one waits for another host, or for programs that may take minutes:
it has longer timeouts, fewer envelopes in flight, and slots of its own, so that no quick agent ever waits for it.  It
says which errand it is at work with, and the time for an errand counts from that: one that is not begun is not late.

No process, no clock, no file: the configuration, and names.
"""

import zlib
from typing import NamedTuple

from smtpd.envelope import NARROW, Duty, Recipient
from smtpd.errand import TRANSACTION_MAX
from smtpd.queue.agents.slots import AgentKey
from smtpd.slice import Method, QueueSlice


class AgentLimits(NamedTuple):
    """What an agent may have, and for how long.  Times in seconds."""

    concurrency: int = 32  # errands that it has at a time
    concurrency_when_many: int = 8  # the same, when there are more than MANY_AGENTS
    deadline: float = 300.0  # for one mail; of a slow agent, from its last word that it is at work with it
    most: float = 300.0  # for one mail, whatever the agent says
    patience: float = 10.0  # without an answer, after which nothing more waits for it
    slow: bool = False  # says which errand it is at work with
    single: bool = False  # does one errand after the other
    command: bool = False  # counts among the commands that run at the same time
    mailbox: bool = False  # needs it locked


QUICK_LIMITS = AgentLimits()
READER_LIMITS = AgentLimits(single=True)
MBOX_LIMITS = AgentLimits(mailbox=True, single=True)
# It gives a command 300 s itself, and another host as much for each step.
SLOW_LIMITS = AgentLimits(deadline=330.0, most=330.0, patience=60.0, slow=True)
LMTP_LIMITS = SLOW_LIMITS._replace(most=TRANSACTION_MAX + 330.0)


class NoAgent(Exception):
    """There is no agent for it, by the configuration as it is now.  The argument says why."""


class AgentRouting:
    def __init__(self, configuration: QueueSlice):
        self._actions = {action.name: action for action in configuration.actions}
        self._alias_commands = configuration.alias_commands
        limits = configuration.delivery_limits
        self.commands = limits.max_session
        self._command = SLOW_LIMITS._replace(concurrency=limits.max_session_per_user, command=True)
        self.shared = frozenset(action.user for action in configuration.actions if action.user)

    def get_key(self, recipient: Recipient) -> AgentKey:
        """Raises NoAgent."""
        action = self._actions.get(recipient.action)
        if action is None:
            raise NoAgent(f'the configuration has no action "{recipient.action}"')
        expands = action.method is Method.EXPAND_ONLY and recipient.duty is Duty.DELIVER
        if expands or action.method in (Method.FORWARD_ONLY, Method.RELAY):
            raise NoAgent(f'the action "{recipient.action}" delivers nothing ({action.method})')
        if recipient.duty is Duty.ALIASED and not self._alias_commands:
            raise NoAgent("commands of alias files are not enabled (alias-commands)")
        return AgentKey(
            self._runs_as(recipient.action, recipient.user, recipient.duty), recipient.action, recipient.duty
        )

    def get_server(self, name: str) -> AgentKey:
        """The agent that speaks with the server of this action.  Raises NoAgent."""
        action = self._actions.get(name)
        if action is None or action.method is not Method.LMTP:
            raise NoAgent(f'the configuration has no lmtp action "{name}"')
        return AgentKey(action.user, name, Duty.DELIVER)

    def _runs_as(self, action: str, user: str, duty: int) -> str:
        if duty == Duty.ALIASED:
            return self._alias_commands
        configured = self._actions.get(action) if duty == Duty.DELIVER else None
        return (configured.user if configured is not None else "") or user

    def limits(self, key: AgentKey) -> AgentLimits:
        """`key` is one that get_key has made, or one for reading a .forward."""
        if key.duty is Duty.READ:
            return READER_LIMITS
        if key.duty is not Duty.DELIVER:
            return self._command
        match self._actions[key.action].method:
            case Method.MDA:
                return self._command
            case Method.LMTP:
                return LMTP_LIMITS
            case Method.MBOX:
                return MBOX_LIMITS
        return QUICK_LIMITS

    # -- lanes: envelopes that share one agent have one number --------------------------------------------------------

    def lane_of(self, recipient: Recipient) -> int:
        return self.lane(recipient.action, recipient.user, recipient.duty)

    def lane(self, action: str, user: str, duty: int) -> int:
        if duty in (Duty.DISCARD, Duty.EXPAND):
            return 0
        number = _number(f"{self._runs_as(action, user, duty)} {action} {duty}")
        return number | NARROW if self._is_slow(action, duty) else number

    def _is_slow(self, action: str, duty: int) -> bool:
        configured = self._actions.get(action)
        return duty != Duty.DELIVER or (configured is not None and configured.method in (Method.MDA, Method.LMTP))


def _number(name: str) -> int:
    return (zlib.crc32(name.encode()) & ~NARROW) or 1
