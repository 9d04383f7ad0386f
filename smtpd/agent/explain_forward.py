"""What stands in a user's .forward, for a command that somebody types: as root it is read by a child that has become
that user, so that root opens no file of a user's here either.

    read_forward(user) --fork--> become the user --> forward.read --pipe--> verdict, bytes, reason

A home that hangs keeps whoever typed it waiting, and nobody else.
"""

import os
import pwd

from smtpd.agent import forward
from smtpd.errand import VERDICTS
from smtpd.sandbox import Ids, privilege

_PIECE = 8192  # more than a verdict and a file together can be


def read_forward(user: str) -> tuple[str, bytes, str]:
    """The verdict of agents, the text, the reason."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return "later", b"", "there is no such user"
    if os.geteuid() not in (0, entry.pw_uid):
        return "later", b"", f"only {user} and root may ask"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, _tell(entry))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read(_PIECE)
    os.waitpid(pid, 0)
    if not told:
        return "later", b"", "the process that reads it has ended"
    verdict, content = VERDICTS[told[0]], told[1:]
    return (verdict, content, "") if verdict == "text" else (verdict, b"", content.decode(errors="replace"))


def _tell(entry: pwd.struct_passwd) -> bytes:
    if os.geteuid() == 0:
        privilege.become(Ids(entry.pw_uid, entry.pw_gid))
    verdict, content = forward.read(entry.pw_dir, entry.pw_uid)
    return bytes([VERDICTS.index(verdict)]) + content
