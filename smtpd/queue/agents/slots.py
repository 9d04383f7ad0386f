"""Agent slots: counts them, and orders who gets the next one and which agent gives its own up.  No process, no clock.

    want --grant--> taken: starting --> busy <--> idle         leave: free again
                                         |
                                         +--choose_leaving--> leaving

A slot is granted in the order of wanting; a user who has several agents already waits for one of them to leave.  When
no slot is free, an agent that has read a .forward leaves: lookup remembers what it said.  Then the agent that has been
idle longest.  When all are busy, those that have worked for WORK_TIME finish what they have and leave; one that does
not end meanwhile is ended by the pool.

To start an agent costs some milliseconds, so there have to be more slots than users who get mail at the same time, as
far as the memory goes.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from smtpd.envelope import Duty

SLOTS_MIN, SLOTS_MAX = 64, 256  # agents, in all
AGENT_BYTES = 4 * 1024 * 1024  # of its own (3.3 MiB for a .forward, 3.7 for a Maildir), so 256 of them take one GiB
SLOTS_PER_USER = 4
# With more agents each has fewer errands at a time: those that hang must not have all that may be in flight.
MANY_AGENTS = 64
WORK_TIME = 1.0  # seconds that an agent may work while others wait for a slot
IDLE_TIMEOUT = 5.0  # seconds that an agent without anything to do stays
READER_IDLE_TIMEOUT = 0.5  # seconds, of one that has read a .forward: it is not asked again while lookup remembers
LEAVE_TIMEOUT = 10.0  # seconds that an agent that is to leave may keep others waiting


def slots_for_memory(memory: int) -> int:
    """How many agents a machine with so many bytes may have: a quarter of the memory is theirs."""
    return max(SLOTS_MIN, min(SLOTS_MAX, memory // 4 // AGENT_BYTES))


SLOTS = slots_for_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


class AgentKey(NamedTuple):
    """One agent does one kind of thing for one user."""

    user: str  # that it runs as
    action: str  # its name in the configuration; empty for reading the .forward of a user of the system
    duty: Duty


class AgentSlots:
    """`shared` are the users whom many recipients' agents run as: one agent for each action that names them."""

    def __init__(
        self,
        count: int = SLOTS,
        per_user: int = SLOTS_PER_USER,
        leave_timeout: float = LEAVE_TIMEOUT,
        shared: Collection[str] = (),
    ):
        self._count, self._per_user, self._leave_timeout, self._shared = count, per_user, leave_timeout, shared
        self._wanting: OrderedDict[AgentKey, None] = OrderedDict()
        self._users: Counter[str] = Counter()
        # Each taken slot is in one of these, with the time since when.
        self._starting: dict[AgentKey, float] = {}
        self._idle: OrderedDict[AgentKey, float] = OrderedDict()  # in the order in which they are to leave
        self._busy: OrderedDict[AgentKey, float] = OrderedDict()  # the longest first
        self._leaving: dict[AgentKey, float] = {}

    def __len__(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._busy) + len(self._leaving)

    def want(self, key: AgentKey) -> None:
        self._wanting[key] = None

    def grant(self, now: float) -> AgentKey | None:
        """The next that gets a slot, if one is free."""
        if len(self) >= self._count:
            return None
        for key in self._wanting:
            if not self._is_full(key.user):
                del self._wanting[key]
                self._starting[key] = now
                self._users[key.user] += 1
                return key
        return None

    def _is_full(self, user: str) -> bool:
        return self._users[user] >= self._per_user and user not in self._shared

    def busy(self, key: AgentKey, now: float) -> None:
        """The agent has something to do; its WORK_TIME begins, if it was starting or idle."""
        if key not in self._busy:
            self._forget(key)
            self._busy[key] = now

    def idle(self, key: AgentKey, now: float) -> None:
        self._forget(key)
        self._idle[key] = now
        if key.duty is Duty.READ:
            self._idle.move_to_end(key, last=False)

    def leave(self, key: AgentKey) -> None:
        """Its slot is free, or it wants none any more."""
        self._wanting.pop(key, None)
        if self._forget(key):
            self._users[key.user] -= 1
            if not self._users[key.user]:
                del self._users[key.user]

    def _forget(self, key: AgentKey) -> bool:
        """Take `key` out of the dictionary that it is in.  False when it has no slot."""
        taken: tuple[dict[AgentKey, float], ...] = self._starting, self._idle, self._busy, self._leaving
        return any(part.pop(key, None) is not None for part in taken)

    # -- which agents have to make room ---------------------------------------------------------------------------

    def choose_leaving(self, now: float) -> list[AgentKey]:
        """The agents that are to leave as soon as they have nothing under way: as many as are waited for."""
        if not self._wanting:
            return []
        chosen: list[AgentKey] = []
        leaving = len(self._leaving)
        worked = {key: since for key, since in self._busy.items() if since + WORK_TIME <= now}
        for number, wanting in enumerate(islice(self._wanting, self._count)):
            if not self._idle and not worked:
                break
            of_user = wanting.user if self._is_full(wanting.user) else None
            key = _first(self._idle, of_user)
            if key is None and number >= leaving:  # for those before it an agent leaves already
                key = _first(worked, of_user)
            if key is not None:
                worked.pop(key, None)
                self._forget(key)
                self._leaving[key] = now
                chosen.append(key)
        return chosen

    def idle_too_long(self, now: float) -> list[AgentKey]:
        return [
            key
            for key, since in self._idle.items()
            if since + (READER_IDLE_TIMEOUT if key.duty is Duty.READ else IDLE_TIMEOUT) <= now
        ]

    def leaving_too_long(self, now: float) -> list[AgentKey]:
        return [key for key, since in self._leaving.items() if since + self._leave_timeout <= now]

    @property
    def has_many(self) -> bool:
        """There are more than MANY_AGENTS."""
        return len(self) > MANY_AGENTS

    @property
    def users(self) -> set[str]:
        return {*self._users}


def _first(keys: dict[AgentKey, float], of_user: str | None) -> AgentKey | None:
    """The first, of that user where one is named."""
    return next((key for key in keys if of_user in (None, key.user)), None)
