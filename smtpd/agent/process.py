"""agent -- a process with the rights of one user: stores that user's mail, runs its commands, reads its .forward.

    queue --Deliver, one mail-->   agent --> a Maildir, a mailbox, an LMTP server, a command
    queue --ReadForward-------->   agent <-- ~/.forward
          <--Result, ForwardText--

The nursery forks; the child becomes the user, calls `prepare`, enters the sandbox with the promises of the kind
(errand.py) and the `visible_paths` of the Agent that `prepare` returned, and calls its `serve`.  One agent per user and
kind of action.  It ends when queue closes its socket, or after IDLE_TIMEOUT without an errand.  Blocking calls and a
few threads, no event loop.

SECURITY
    Reads frames of queue (errand.py), with mail as bytes to store; a packet that is no errand ends the process.  It has
    the rights of its user and no more; promises and unveil leave of them only what its kind needs: one Maildir, or the
    home directory for reading, or one server.  An agent that runs commands has no promises and no unveil: a command may
    need whatever the user may do.  no_new_privs keeps it from more.
    Taken over, it can do to that user's mail what the user can do.  The other way round, the user may kill it, stop it,
    limit it, or make it answer anything: queue trusts its answers only for mail of that user.

    Everything is imported by the nursery before it forks; nothing can be imported in the sandbox.
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
    """An agent of one kind: made before the sandbox is entered, serves in it.  `visible_paths`: for unveil."""

    def __init__(self, kind: AgentKind):
        self._kind = kind
        self.visible_paths = kind.visible_paths

    def serve(self, sock: socket.socket, mailbox_socket: socket.socket | None = None) -> None:
        """Serve until queue closes its end or IDLE_TIMEOUT is over.  SIGTERM acts as if queue had closed its end.  Ends
        the process at a packet that is no errand."""
        signal.signal(signal.SIGTERM, lambda *_: sock.shutdown(socket.SHUT_RDWR))
        Workers(sock, mailbox_socket, self._kind).run()


def prepare(spec: AgentSpec, user: str, home: str) -> Agent:
    """The agent for one user; called as that user, before the sandbox is entered.

    Does not raise OSError (disk full, permission denied, a home directory that is gone): all errands are answered with
    that reason.  Raises KeyError for an unknown kind.
    """
    for number in (signal.SIGXFSZ, signal.SIGPIPE):  # make them errors of write(2)
        signal.signal(number, signal.SIG_IGN)
    return Agent(AGENT_KINDS[spec.kind](spec, user, home))


AGENT_KINDS: dict[str, Callable[[AgentSpec, str, str], AgentKind]] = {
    "forward": lambda spec, user, home: ForwardAgent(home),
    "maildir": MaildirAgent,
    "mbox": MailboxAgent,
    "command": CommandAgent,
    "expansion-target": ExpansionTargetAgent,
    "lmtp": LmtpAgent,
    "lmtp-unix": LmtpAgent,
}
