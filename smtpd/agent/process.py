"""agent -- one user's hands: stores that user's mail, runs that user's commands, reads that user's .forward.

    queue --Deliver, one mail-->   agent --> a Maildir, a mailbox, an LMTP server, a command
    queue --ReadForward-------->   agent <-- ~/.forward
          <--Result, ForwardText--

Forked by nursery, which becomes the user, calls `prepare`, enters the sandbox with the promises of the kind (errand.py)
and the `places` of what `prepare` returned, and calls its `serve`.  One agent per user and kind of action; it lives as
long as queue keeps its socket, or until nothing came for a while.  Blocking calls and a few threads, no event loop.

SECURITY
    Reads frames of queue (errand.py), in them mail as bytes to store; what is no errand ends it.  It has the rights
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

from smtpd.agent.command import CommandAgent
from smtpd.agent.expansion_target import ExpansionTargetAgent
from smtpd.agent.forward import ForwardAgent
from smtpd.agent.lmtp import LmtpAgent
from smtpd.agent.mailbox import MailboxAgent
from smtpd.agent.maildir import MaildirAgent
from smtpd.agent.worker import AgentKind, Workers
from smtpd.errand import AgentSpec


class Agent:
    """Made outside the sandbox, serves inside.  `places`: what it must be able to see, for unveil."""

    def __init__(self, kind: AgentKind):
        self._kind = kind
        self.visible_paths = kind.visible_paths

    def serve(self, sock: socket.socket, mailbox_socket: socket.socket | None = None) -> None:
        """Until queue closes its end, or nothing came for a while, or a SIGTERM, which is like the first.  Ends the
        process on anything impossible."""
        signal.signal(signal.SIGTERM, lambda *_: sock.shutdown(socket.SHUT_RDWR))
        Workers(sock, mailbox_socket, self._kind).run()


def prepare(post: AgentSpec, user: str, home: str) -> Agent:
    """The agent of one user, by that user, before the sandbox.

    Never raises for what the world does (no space, no right, a home that is gone): that is what the errands are
    answered with.  Raises KeyError for a kind that is none.
    """
    for number in (signal.SIGXFSZ, signal.SIGPIPE):  # a limit, a reader that went: errors of write(2), not our death
        signal.signal(number, signal.SIG_IGN)
    return Agent(AGENT_KINDS[post.kind](post, user, home))


AGENT_KINDS: dict[str, Callable[[AgentSpec, str, str], AgentKind]] = {
    "forward": lambda post, user, home: ForwardAgent(home),
    "maildir": MaildirAgent,
    "mbox": MailboxAgent,
    "command": CommandAgent,
    "expansion-target": ExpansionTargetAgent,
    "lmtp": LmtpAgent,
    "lmtp-unix": LmtpAgent,
}
