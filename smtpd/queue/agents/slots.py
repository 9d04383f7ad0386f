"""Who may have an agent, and who has to leave when others want one: no process, no socket, no clock.

    want --grant--> STARTING --started--> IDLE <--> BUSY --leave-->
                                           |
                                           +-- tired: nothing to do for a while

A place is granted in the order of wanting; a user who has several agents already waits for one of them to leave.  When
no place is free, an agent that has read a .forward leaves: lookup remembers what it said.  Then the one that has been
idle longest.  When all are busy, those that have had their turn finish what they have and leave; one that does not
answer meanwhile is silent, and is made to leave.

To make an agent costs some milliseconds, so there have to be more places than users who get mail at the same time, as
far as the memory goes.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import NamedTuple

from smtpd.envelope import Duty

SLOTS_MIN, SLOTS_MAX = 64, 256  # agents, in all
AGENT_BYTES = 4 * 1024 * 1024  # of its own (3.3 MiB for a .forward, 3.7 for a Maildir), so 256 of them take one GiB
SLOTS_PER_USER = 4
MANY_AGENTS = (
    64  # more agents than that get less to do at a time each: what hangs must not be all that may be in flight
)
WORK_TIME = 1.0  # seconds that an agent may work while others wait
IDLE = 5.0  # seconds without anything to do
READER_IDLE_TIMEOUT = 0.5  # the same for who has read a .forward: nobody asks again as long as lookup remembers
LEAVE_TIMEOUT = 10.0  # seconds that an agent that was asked to leave may keep others waiting


def slots_for_memory(memory: int) -> int:
    """How many agents at the most where there are so many bytes: a quarter of them."""
    return max(SLOTS_MIN, min(SLOTS_MAX, memory // 4 // AGENT_BYTES))


SLOTS = slots_for_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


class AgentKey(NamedTuple):
    """One agent does one kind of thing for one user."""

    user: str  # that it runs as
    action: str  # its name in the configuration; empty for reading the .forward of a user of the system
    duty: Duty


class SlotState(Enum):
    STARTING = "asked for"
    IDLE = "has nothing to do"
    BUSY = "has errands"
    LEAVING = "finishes what it has"


@dataclass
class _Slot:
    state: SlotState
    since: float  # when it was started, became idle, or was asked to leave


class AgentSlots:
    """`shared` are the users whom many recipients' agents run as: one agent for each action that says so."""

    def __init__(
        self,
        count: int = SLOTS,
        of_user: int = SLOTS_PER_USER,
        silence: float = LEAVE_TIMEOUT,
        shared: Collection[str] = (),
    ):
        self._count, self._of_user, self._silence, self._shared = count, of_user, silence, shared
        self._wanting: OrderedDict[AgentKey, None] = OrderedDict()
        self._taken: dict[AgentKey, _Slot] = {}
        self._users: Counter[str] = Counter()
        self._idle: OrderedDict[AgentKey, None] = OrderedDict()  # who is to leave first, first

    def want(self, key: AgentKey) -> None:
        self._wanting[key] = None

    def grant(self, now: float) -> AgentKey | None:
        """Who is to be started now."""
        if len(self._taken) >= self._count:
            return None
        for key in self._wanting:
            if not self._is_full(key.user):
                del self._wanting[key]
                self._taken[key] = _Slot(SlotState.STARTING, now)
                self._users[key.user] += 1
                return key
        return None

    def _is_full(self, user: str) -> bool:
        return self._users[user] >= self._of_user and user not in self._shared

    def started(self, key: AgentKey, now: float) -> None:
        self._taken[key] = _Slot(SlotState.BUSY, now)

    def busy(self, key: AgentKey, now: float) -> None:
        if self._idle.pop(key, key) is None:
            self._taken[key] = _Slot(SlotState.BUSY, now)

    def idle(self, key: AgentKey, now: float) -> None:
        self._taken[key] = _Slot(SlotState.IDLE, now)
        self._idle[key] = None
        if key.duty is Duty.READ:
            self._idle.move_to_end(key, last=False)

    def leave(self, key: AgentKey) -> None:
        """Its place is free, or it wants none any more."""
        self._wanting.pop(key, None)
        self._idle.pop(key, None)
        if self._taken.pop(key, None) is not None:
            self._users[key.user] -= 1
            if not self._users[key.user]:
                del self._users[key.user]

    # -- who has to make room -------------------------------------------------------------------------------------

    def choose_leaving(self, now: float) -> list[AgentKey]:
        """Who is to leave as soon as it has nothing under way: as many as are waited for."""
        if not self._wanting:
            return []
        chosen: list[AgentKey] = []
        leaving = sum(place.state is SlotState.LEAVING for place in self._taken.values())
        worked = self._worked(now)
        for number, wanting in enumerate(islice(self._wanting, self._count)):
            if not self._idle and not worked:
                break
            of_user = wanting.user if self._is_full(wanting.user) else None
            key = _first(self._idle, of_user)
            if key is None and number >= leaving:  # for those before it somebody leaves already
                key = _first(worked, of_user)
            if key is not None:
                self._idle.pop(key, None)
                worked.pop(key, None)
                self._taken[key] = _Slot(SlotState.LEAVING, now)
                chosen.append(key)
        return chosen

    def _worked(self, now: float) -> dict[AgentKey, None]:
        """Who has been at work for long enough, the longest first."""
        turns = [
            (place.since, key)
            for key, place in self._taken.items()
            if place.state is SlotState.BUSY and place.since + WORK_TIME <= now
        ]
        return {key: None for _, key in sorted(turns)}

    def idle_too_long(self, now: float) -> list[AgentKey]:
        """Who has had nothing to do for long enough."""
        return [
            key
            for key in self._idle
            if self._taken[key].since + (READER_IDLE_TIMEOUT if key.duty is Duty.READ else IDLE) <= now
        ]

    def silent(self, now: float) -> list[AgentKey]:
        """Who was asked to leave and does not come to an end."""
        return [
            key
            for key, place in self._taken.items()
            if place.state is SlotState.LEAVING and place.since + self._silence <= now
        ]

    @property
    def has_many(self) -> bool:
        return len(self._taken) > MANY_AGENTS

    @property
    def users(self) -> set[str]:
        return {*self._users}


def _first(keys: dict[AgentKey, None], of_user: str | None) -> AgentKey | None:
    """Of one user where that is the limit."""
    return next((key for key in keys if of_user in (None, key.user)), None)
