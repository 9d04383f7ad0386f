"""Reads a user's .forward for `smtpd -n --explain`.

    read_forward(user) --fork--> become the user --> forward.read --pipe--> verdict, content, reason

When called by root, a child process that has become the user reads the file: root opens no file of a user.  A home
directory that hangs blocks only this command.
"""

import os
import pwd

from smtpd.agent import forward
from smtpd.errand import VERDICTS
from smtpd.sandbox import Ids, privilege

_PIECE = 8192  # bytes: more than a verdict and a .forward together


def read_forward(user: str) -> tuple[str, bytes, str]:
    """One of errand.VERDICTS, the content, the reason."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return "later", b"", "there is no such user"
    if os.geteuid() not in (0, entry.pw_uid):
        return "later", b"", f"only {user} and root may read it"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, _read_as_user(entry))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read(_PIECE)
    os.waitpid(pid, 0)
    if not answer:
        return "later", b"", "the process that reads it has ended"
    verdict, content = VERDICTS[answer[0]], answer[1:]
    return (verdict, content, "") if verdict == "text" else (verdict, b"", content.decode(errors="replace"))


def _read_as_user(entry: pwd.struct_passwd) -> bytes:
    if os.geteuid() == 0:
        privilege.become(Ids(entry.pw_uid, entry.pw_gid))
    verdict, content = forward.read(entry.pw_dir, entry.pw_uid)
    return bytes([VERDICTS.index(verdict)]) + content
