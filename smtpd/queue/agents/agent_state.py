"""The life of an agent: its states, the events, and the one table of what follows from what.

    ABSENT --need_slot--> WAITING_FOR_SLOT --slot_granted--> STARTING --started--> BUSY <--begin-- IDLE
                                                                                    |  --finished-->
    commands first:  ABSENT --need_command--> WAITING_FOR_COMMAND --need_slot-->    |
    an mbox:         IDLE, BUSY --lock--> LOCKING --locked--> BUSY                  |
    another user wants the slot:                                                    +--slot_wanted--> LEAVING
    any agent that ends:                                               ABSENT, or BLOCKED for RESTART_DELAY

The pool (pool.py) makes each transition, and does what entering a state means.  Every pair of state and event that is
not in the table is a bug of ours.
"""

from enum import Enum


class AgentState(Enum):
    ABSENT = "there is no agent, and none is asked for"
    WAITING_FOR_COMMAND = "what waits needs a command slot before an agent is asked for"
    WAITING_FOR_SLOT = "what waits needs an agent, which needs a slot"
    STARTING = "the parent starts the agent"
    IDLE = "the agent has nothing to do, or what waits for it needs a command slot"
    LOCKING = "the parent locks the mailbox that the agent is to store into"
    BUSY = "the agent has errands, under the lock of its mailbox where it needs one"
    LEAVING = "the agent finishes what it has, as another agent needs its slot"
    BLOCKED = "the last agent ended without one answer: no other one is started for a while"


class AgentEvent(Enum):
    NEED_COMMAND = "an errand waits, and no command slot is free"
    NEED_SLOT = "an errand waits, with a command slot where it needs one"
    SLOT_GRANTED = "its turn for a slot has come"
    STARTED = "the parent has started the agent"
    REFUSED = "the parent cannot start the agent"
    LOCK = "an errand needs the mailbox, and nothing is under way"
    LOCKED = "the parent has locked the mailbox"
    NOT_LOCKED = "the parent cannot lock the mailbox"
    BEGIN = "an errand is given to an agent that had none"
    FINISHED = "nothing is under way any more, and nothing can be begun"
    SLOT_WANTED = "another agent needs the slot"
    UNUSED = "the agent has had nothing to do for too long"
    ENDED = "the agent died, was late or broke the protocol"
    USELESS = "the same, and it had not answered anything although there was something to do"
    GIVEN_UP = "what waited for a command slot has been taken out"
    DELAY_OVER = "an agent may be started again"


TRANSITIONS: dict[AgentState, dict[AgentEvent, AgentState]] = {
    AgentState.ABSENT: {
        AgentEvent.NEED_COMMAND: AgentState.WAITING_FOR_COMMAND,
        AgentEvent.NEED_SLOT: AgentState.WAITING_FOR_SLOT,
    },
    AgentState.WAITING_FOR_COMMAND: {
        AgentEvent.NEED_SLOT: AgentState.WAITING_FOR_SLOT,
        AgentEvent.GIVEN_UP: AgentState.ABSENT,
    },
    AgentState.WAITING_FOR_SLOT: {
        AgentEvent.SLOT_GRANTED: AgentState.STARTING,
    },
    AgentState.STARTING: {
        AgentEvent.STARTED: AgentState.BUSY,
        AgentEvent.REFUSED: AgentState.ABSENT,
    },
    AgentState.IDLE: {
        AgentEvent.LOCK: AgentState.LOCKING,
        AgentEvent.BEGIN: AgentState.BUSY,
        AgentEvent.SLOT_WANTED: AgentState.ABSENT,
        AgentEvent.UNUSED: AgentState.ABSENT,
        AgentEvent.ENDED: AgentState.ABSENT,
        AgentEvent.USELESS: AgentState.BLOCKED,
    },
    AgentState.LOCKING: {
        AgentEvent.LOCKED: AgentState.BUSY,
        AgentEvent.NOT_LOCKED: AgentState.IDLE,
        AgentEvent.SLOT_WANTED: AgentState.ABSENT,
        AgentEvent.ENDED: AgentState.ABSENT,
        AgentEvent.USELESS: AgentState.BLOCKED,
    },
    AgentState.BUSY: {
        AgentEvent.LOCK: AgentState.LOCKING,
        AgentEvent.FINISHED: AgentState.IDLE,
        AgentEvent.SLOT_WANTED: AgentState.LEAVING,
        AgentEvent.ENDED: AgentState.ABSENT,
        AgentEvent.USELESS: AgentState.BLOCKED,
    },
    AgentState.LEAVING: {
        AgentEvent.FINISHED: AgentState.ABSENT,
        AgentEvent.ENDED: AgentState.ABSENT,
        AgentEvent.USELESS: AgentState.BLOCKED,
    },
    AgentState.BLOCKED: {
        AgentEvent.DELAY_OVER: AgentState.ABSENT,
    },
}

RUNNING = {AgentState.IDLE, AgentState.LOCKING, AgentState.BUSY, AgentState.LEAVING}  # there is a process
BEGINNING = {AgentState.IDLE, AgentState.BUSY}  # it may be given an errand
RESERVING = {AgentState.WAITING_FOR_SLOT, AgentState.STARTING}  # a command slot is kept for its first command
