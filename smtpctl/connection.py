"""The socket to control: one question, one answer.

    Connection(path) --> ask(imsg) --------> no longer root --> its answer, and a descriptor that came with it
                     --> ask_query(word) --> no longer root --> the answer to a query (smtpd/ipc/query.py)

Made by the first question: a command that asks nothing needs no daemon.  Imsgs are loaded by the first that is asked:
a query needs none.

SECURITY
    What is answered has been in mails.  The kernel has told control who we are when the connection is made, so nothing
    that root may do is needed from there on, and it is given up.
"""

import _socket  # see smtpd/ipc/query.py
import os
import pwd
import select

from smtpd.ipc import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from smtpd.ipc.channel import Channel

USER = "_smtpx"  # root becomes this user
CONNECT_TIMEOUT = 10  # seconds until the connection is made


class ControlError(Exception):
    """The question cannot be answered; the text says why."""


class NotRunning(ControlError):
    """There is no daemon."""


class Connection:
    def __init__(self, path: str, timeout: float | None = None):
        """`timeout`: seconds for each step of a question and its answer; None: as long as it takes."""
        self._path = path
        self._timeout = timeout
        self._channel: Channel | None = None

    def ask_query(self, word: str) -> query.Answer:
        """The answer, which may be no.  Raises ControlError."""
        sock = self._connect()
        sock.settimeout(self._timeout)
        try:
            query.send(sock, word)
            return query.receive(sock)
        except query.QueryError as error:
            raise ControlError(f"smtpd {error}") from None
        except TimeoutError:
            raise ControlError("smtpd does not answer") from None
        except OSError:
            raise ControlError("smtpd closed the connection") from None
        finally:
            sock.close()

    def ask(self, imsg: "Any") -> "Any":
        """The answer to `imsg`.  Raises ControlError."""
        return self.ask_descriptor(imsg)[0]

    def ask_descriptor(self, imsg: "Any") -> "tuple[Any, int | None]":
        """The answer, and the descriptor that came with it."""
        self.send(imsg)
        return self.receive()

    def send(self, imsg: "Any") -> None:
        """A question whose answer is received later: smtpd works meanwhile.  Raises ControlError."""
        channel = self._channel = self._channel or self._open_channel()
        with _Translated():
            channel.send(imsg)
            if not channel.flush_within(self._timeout):
                raise ControlError("smtpd does not answer")

    def receive(self) -> "tuple[Any, int | None]":
        """The answer to the question that was sent, and the descriptor that came with it.  Raises ControlError."""
        from smtpd.imsg import Denied

        channel = self._channel
        assert channel is not None  # it was sent
        with _Translated():
            while not (received := channel.receive()):
                self._wait(channel)
        answer, descriptor = received[0]
        if isinstance(answer, Denied):
            raise ControlError(answer.reason)
        return answer, descriptor

    def _open_channel(self) -> "Channel":
        import socket

        from smtpd.imsg import TABLE
        from smtpd.ipc.channel import Channel

        version = TABLE.digest()  # it imports a module, which is too late when root is given up
        sock = socket.socket(fileno=self._connect().detach())
        return Channel(sock, TABLE, "smtpctl", "control", peer_id=version)

    def _wait(self, channel: "Channel") -> None:
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        if not poll.poll(None if self._timeout is None else int(self._timeout * 1000)):
            raise ControlError("smtpd does not answer")

    def _connect(self) -> _socket.socket:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.settimeout(CONNECT_TIMEOUT)  # bounds the wait for room in the backlog, too
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise _connect_error(self._path, error) from None
        _give_up_root()
        return sock


class _Translated:
    """ControlError for what may go wrong on a channel."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from smtpd.ipc.channel import ChannelClosed, VersionMismatch, Violation

        if isinstance(error, VersionMismatch):
            raise ControlError("smtpd runs another version: restart it") from None
        if isinstance(error, ChannelClosed):
            raise ControlError("smtpd closed the connection") from None
        if isinstance(error, Violation):
            raise ControlError(f"invalid answer from smtpd: {error}") from None


def _connect_error(path: str, error: OSError) -> ControlError:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return NotRunning("smtpd doesn't seem to be running")
    if isinstance(error, BlockingIOError | TimeoutError):
        return ControlError("smtpd is busy")
    return ControlError(f"{path}: {error.strerror or error}")


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
