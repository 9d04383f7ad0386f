"""password -- one shot, root: is this the password of that user?  Asks PAM, says so, and is gone.

    lookup --CheckPassword--> parent --TryPassword-----> password --PAM--> /etc/shadow, a directory server, …
                                     <--PasswordTried---

The parent has let go of what starting it needs, so the nursery forks and executes it, with a channel to the parent: a
fresh process for each question, that knows one password and takes it with it.  The nursery kills it after a while.

SECURITY
    Reads one imsg: a name and a password that any client may have sent.  Only root may read /etc/shadow, so it is root,
    and does nothing else.  It has no capability but to read files and to write the audit log, sees files for reading
    only, signals no process, and has the deny filter of all descendants.  PAM's modules are foreign code, so it cannot
    be pledged; a module that has to write (a tally of failures) fails.
    Taken over, it says "yes", reads what root reads, and speaks as root to whatever listens on a socket of this host.
"""

import select
import socket

from setproctitle import setproctitle

from smtpd.boot import PARENT
from smtpd.imsg import TABLE, PasswordTried, TryPassword
from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.log import log, take_tracebacks
from smtpd.password.pam_check import make_authenticator, try_password
from smtpd.sandbox import landlock, privilege

USER, CHROOT = "root", None
PLEDGE = None
EX_FAILED = 1


def main() -> int:
    setproctitle("smtpd: password")
    take_tracebacks(log)
    channel = Channel(socket.socket(fileno=PARENT), TABLE, "password", "parent")
    try:
        authenticator = make_authenticator()
    except (ImportError, OSError, AttributeError) as error:
        return answer(channel, PasswordTried("later", f"no PAM on this machine ({type(error).__name__})"))
    confine()
    try:
        asked = receive(channel)
    except (ChannelClosed, Violation):
        return EX_FAILED  # the parent has given up, or is none
    return answer(channel, try_password(asked, authenticator))


def confine() -> None:
    """The nursery has cut the capabilities.  What this machine lacks, the parent has said of itself at the start."""
    privilege.set_no_new_privileges()
    landlock.restrict([("/", "rx")], alone=True)
    privilege.forbid_inspection()


def receive(channel: Channel) -> TryPassword:
    while True:
        select.select([channel], [], [])
        for imsg, _ in channel.receive():
            return imsg  # there is no other arrow


def answer(channel: Channel, imsg: PasswordTried) -> int:
    channel.send(imsg)
    try:
        channel.flush_within(None)
    except ChannelClosed:
        return EX_FAILED
    return 0
