"""agent -- one recipient's hands: stores that user's mail, reads that user's .forward.

    queue --Deliver, one mail-->   agent --> tmp/, new/ of the user's Maildir
    queue --ReadForward-------->   agent <-- ~/.forward
          <--Result, ForwardText--

Forked by nursery, which becomes the user, calls `prepare`, enters the sandbox with the promises of the kind (errand.py)
and the `places` of what `prepare` returned, and calls its `serve`.  One agent per user and kind of action; it lives as
long as queue keeps its socket, or until nothing came for a while.  Blocking calls and a few threads, no event loop.

SECURITY
    Reads frames of queue (ipc/errand.py), in them mail as bytes to store; what is no errand ends it.  It has the rights
    of its user and no more, sees by unveil one Maildir, or the home for reading, has no network and starts nothing.
    Taken over, it could do to that user's mail what the user can.  The other way round, the user may kill it, stop it,
    limit it or put words into its mouth: queue believes nothing of it but that it is that user.

    Everything is imported by nursery before it forks; in the sandbox nothing can be.
"""

import signal
import socket

from mail_local import maildir, place
from smtpd.agent.forward import Reader
from smtpd.agent.hand import Hands
from smtpd.agent.storage import Storage


class Agent:
    """Made outside the sandbox, serves inside.  `places`: what it must be able to see, for unveil."""

    def __init__(self, trade: Storage | Reader):
        self._trade = trade
        self.places = trade.places

    def serve(self, sock: socket.socket) -> None:
        """Until queue closes its end, or nothing came for a while.  Ends the process on anything impossible."""
        Hands(sock, self._trade).run()


def prepare(kind: str, path: str, junk: bool, user: str, home: str) -> Agent:
    """The agent of one user, by that user, before the sandbox; `path` as the configuration has it, empty for "forward".

    Makes the Maildir where there is none.  Never raises for what the world does (no space, no right, a home that is
    gone): that is what the errands are answered with.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a user's limit is an error of write(2), not our death
    if kind == "forward":
        return Agent(Reader(home))
    if kind != "maildir":
        raise ValueError(f"no such kind of agent: {kind}")
    try:
        root = place.expand(path, user, home)
        maildir.make(root)
    except (OSError, ValueError) as error:
        return Agent(Storage("", junk, trouble=getattr(error, "strerror", None) or str(error)))
    return Agent(Storage(root, junk))
