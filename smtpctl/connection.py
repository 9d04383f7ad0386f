"""The socket to control: one question, one answer.

    Connection(path) --> ask(imsg) --> no longer root --> its answer, and a descriptor that came with it

Made by the first question: a command that asks nothing needs no daemon.

SECURITY
    What is answered has been in mails.  The kernel has told control who we are when the connection is made, so nothing
    that root may do is needed from there on, and it is given up.
"""

import os
import pwd
import select
import socket
import struct
from functools import cached_property
from typing import Any

from smtpd.imsg import TABLE, Denied
from smtpd.ipc.channel import Channel, Closed, OtherVersion, Violation

USER = "_smtpx"  # whom root becomes
PATIENCE = 10  # seconds until the connection is made


class Trouble(Exception):
    """There is no answer; what to say about it."""


class NotRunning(Trouble):
    """There is no daemon."""


class Connection:
    def __init__(self, path: str, patience: float | None = None):
        """`patience`: seconds for each step of a question and its answer; None: as long as it takes."""
        self._path = path
        self._patience = None if patience is None else int(patience * 1000)
        self._poll = select.poll()

    @cached_property
    def _channel(self) -> Channel:
        channel = Channel(_connect(self._path), TABLE, "smtpctl", "control", peer_id=TABLE.digest())
        _give_up_root()
        return channel

    def ask(self, imsg: Any) -> Any:
        """The answer to `imsg`.  Raises Trouble."""
        return self.ask_descriptor(imsg)[0]

    def ask_descriptor(self, imsg: Any) -> tuple[Any, int | None]:
        """The answer, and the descriptor that came with it."""
        try:
            self._channel.send(imsg)
            while not self._channel.flush():
                self._wait(select.POLLOUT)
            while not (received := self._channel.receive()):
                self._wait(select.POLLIN)
        except OtherVersion:
            raise Trouble("smtpd is of another version: it has to be restarted") from None
        except Closed:
            raise Trouble("smtpd closed the connection") from None
        except Violation as error:
            raise Trouble(f"smtpd answers nonsense: {error}") from None
        answer, descriptor = received[0]
        if isinstance(answer, Denied):
            raise Trouble(answer.reason)
        return answer, descriptor

    def _wait(self, event: int) -> None:
        self._poll.register(self._channel.fileno(), event)
        if not self._poll.poll(self._patience):
            raise Trouble("smtpd does not answer")


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bounds connect too, which waits for room in the backlog.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE, 0))
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunning("smtpd doesn't seem to be running") from None
    except BlockingIOError:
        raise Trouble("smtpd is busy") from None
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}") from None
    return sock


def _give_up_root() -> None:
    if os.geteuid() != 0:
        return
    try:
        person = pwd.getpwnam(USER)
    except KeyError:
        return  # then no smtpd is installed here: this one was started for a trial
    os.setgroups([person.pw_gid])
    os.setresgid(person.pw_gid, person.pw_gid, person.pw_gid)
    os.setresuid(person.pw_uid, person.pw_uid, person.pw_uid)
