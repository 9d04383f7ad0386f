"""States of a session of the server, and the table of transitions.

The sentence of a state is the reply to a command that is not allowed in it.  Only Session.enter changes the state.
"""

from enum import Enum


class State(Enum):
    FRESH = "waiting for HELO"
    READY = "greeted, no mail begun"
    AUTH = "in the middle of AUTH"
    MAIL = "have a sender"
    RCPT = "have a sender and a recipient"
    DATA = "receiving the message"
    CHUNK = "receiving a chunk"
    CHUNKED = "have a part of the message"
    WAITING = "another process is deciding; read no further line"
    CLOSED = "the session is over"


TRANSITIONS = {
    State.FRESH: (State.FRESH, State.READY, State.CHUNK, State.WAITING, State.CLOSED),
    State.READY: (State.FRESH, State.READY, State.AUTH, State.CHUNK, State.WAITING, State.CLOSED),
    State.AUTH: (State.READY, State.AUTH, State.WAITING, State.CLOSED),
    State.MAIL: (State.READY, State.CHUNK, State.WAITING, State.CLOSED),
    State.RCPT: (State.READY, State.DATA, State.CHUNK, State.WAITING, State.CLOSED),
    State.DATA: (State.READY, State.WAITING, State.CLOSED),
    # a refused chunk is read to its end too: back to the state that it came in
    State.CHUNK: (State.FRESH, State.READY, State.MAIL, State.CHUNKED, State.WAITING, State.CLOSED),
    State.CHUNKED: (State.READY, State.CHUNK, State.WAITING, State.CLOSED),
    State.WAITING: (State.FRESH, State.READY, State.AUTH, State.MAIL, State.RCPT, State.CHUNKED, State.CLOSED),
    State.CLOSED: (),
}

GREETED = (State.READY,)
BETWEEN_MAILS = (State.FRESH, State.READY)
IN_MAIL = (State.MAIL, State.RCPT)
COMMANDING = (State.FRESH, *GREETED, *IN_MAIL, State.CHUNKED)  # a command line comes next
