"""What a session of the server is waiting for, and what may come after what.

The sentence of a state is what a client is told that says the wrong thing in it.  All transitions stand here; `enter`
of the session is the only place that makes one.
"""

from enum import Enum


class State(Enum):
    FRESH = "waiting for HELO"
    READY = "greeted, no mail begun"
    MAIL = "have a sender"
    RCPT = "have a sender and a recipient"
    DATA = "receiving the message"
    WAITING = "another process is deciding; read no further line"
    CLOSED = "the session is over"


TRANSITIONS = {
    State.FRESH: (State.READY, State.CLOSED),
    State.READY: (State.READY, State.WAITING, State.CLOSED),
    State.MAIL: (State.READY, State.WAITING, State.CLOSED),
    State.RCPT: (State.READY, State.WAITING, State.DATA, State.CLOSED),
    State.DATA: (State.READY, State.WAITING, State.CLOSED),
    State.WAITING: (State.READY, State.MAIL, State.RCPT, State.CLOSED),
    State.CLOSED: (),
}

GREETED = (State.READY,)
IN_MAIL = (State.MAIL, State.RCPT)
COMMANDING = (State.FRESH, *GREETED, *IN_MAIL)  # a command line comes next, whichever
