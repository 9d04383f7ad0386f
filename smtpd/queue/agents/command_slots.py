"""Command slots: how many commands run at the same time, of all agents together (`mda limit max-session`).

    take --> a slot is free, and it is this agent's turn: True         otherwise the agent waits for its turn: next

An agent that waits gets one slot when its turn comes, and then waits behind the others for the next one: a user with a
thousand mails does not keep one with a single mail waiting for long.
"""

from collections import OrderedDict

from smtpd.queue.agents.slots import AgentKey


class CommandSlots:
    def __init__(self, count: int):
        self._free = count
        self._wanting: OrderedDict[AgentKey, None] = OrderedDict()

    def take(self, key: AgentKey) -> bool:
        """One more for the agent of `key`, or False: it waits."""
        if self._free and next(iter(self._wanting), key) == key:
            self._wanting.pop(key, None)
            self._free -= 1
            return True
        self._wanting[key] = None
        return False

    def give_back(self, count: int = 1) -> None:
        self._free += count

    def next(self) -> AgentKey | None:
        """The agent whose turn it is: to take a slot, or to be forgotten."""
        return next(iter(self._wanting)) if self._free and self._wanting else None

    def forget(self, key: AgentKey) -> None:
        """It has no use for a slot now."""
        self._wanting.pop(key, None)
