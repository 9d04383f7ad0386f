"""agent -- one user's hands: stores that user's mail, runs that user's commands, reads that user's .forward.

    queue --Deliver, one mail-->   agent --> a Maildir, a mailbox, an LMTP server, a command
    queue --ReadForward-------->   agent <-- ~/.forward
          <--Result, ForwardText--

Forked by nursery, which becomes the user, calls `prepare`, enters the sandbox with the promises of the kind (errand.py)
and the `places` of what `prepare` returned, and calls its `serve`.  One agent per user and kind of action; it lives as
long as queue keeps its socket, or until nothing came for a while.  Blocking calls and a few threads, no event loop.

SECURITY
    Reads frames of queue (ipc/errand.py), in them mail as bytes to store; what is no errand ends it.  It has the rights
    of its user and no more, and by its promises and by unveil only those that its kind needs: one Maildir, or the home
    for reading, or one server.  An agent that runs commands has neither: there is nothing that those may need and the
    user may not.  What keeps them from more is that nothing they start can gain a right.
    Taken over, it could do to that user's mail what the user can.  The other way round, the user may kill it, stop it,
    limit it or put words into its mouth: queue believes nothing of it but that it is that user.

    Everything is imported by nursery before it forks; in the sandbox nothing can be.
"""

import signal
import socket
from collections.abc import Callable

from smtpd.agent.command import Command
from smtpd.agent.forward import Reader
from smtpd.agent.hand import Hands, Trade
from smtpd.agent.lmtp import Lmtp
from smtpd.agent.mailbox import Mailbox
from smtpd.agent.storage import Storage
from smtpd.agent.warrant import Warrant
from smtpd.ipc.errand import Post


class Agent:
    """Made outside the sandbox, serves inside.  `places`: what it must be able to see, for unveil."""

    def __init__(self, trade: Trade):
        self._trade = trade
        self.places = trade.places

    def serve(self, sock: socket.socket, tether: socket.socket | None = None) -> None:
        """Until queue closes its end, or nothing came for a while, or a SIGTERM, which is like the first.  Ends the
        process on anything impossible."""
        signal.signal(signal.SIGTERM, lambda *_: sock.shutdown(socket.SHUT_RDWR))
        Hands(sock, tether, self._trade).run()


def prepare(post: Post, user: str, home: str) -> Agent:
    """The agent of one user, by that user, before the sandbox.

    Never raises for what the world does (no space, no right, a home that is gone): that is what the errands are
    answered with.  Raises KeyError for a kind that is none.
    """
    for number in (signal.SIGXFSZ, signal.SIGPIPE):  # a limit, a reader that went: errors of write(2), not our death
        signal.signal(number, signal.SIG_IGN)
    return Agent(TRADES[post.kind](post, user, home))


TRADES: dict[str, Callable[[Post, str, str], Trade]] = {
    "forward": lambda post, user, home: Reader(home),
    "maildir": Storage,
    "mbox": Mailbox,
    "command": Command,
    "warrant": Warrant,
    "lmtp": Lmtp,
    "lmtp-unix": Lmtp,
}
