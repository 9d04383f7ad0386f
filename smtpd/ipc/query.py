"""Queries: what a program asks control without the table of imsgs, whose loading takes longer than all it does.

    session    any user's     -> a socket that speaks SMTP
    status     root's         -> what is paused

A query is a word and a line end, its answer one line: `+` and a text, with the descriptor if one belongs to it, or `-`
and the reason.  An imsg begins with a zero byte and a query with a letter, so that both come along one socket.  They
mean the same in every version: mail can be handed in while an upgrade waits for the restart of the daemon.
"""

import _socket  # what `socket` adds to it costs as much as the interpreter itself
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

SESSION, STATUS = "session", "status"
QUERY_MAX = 32  # bytes of a query
ANSWER_MAX = 2048  # bytes
_RECEIVED = 64 * 1024  # bytes: all of what is no query, or the client would learn of a reset instead of an end
_DESCRIPTOR_SIZE = 4  # bytes, a C int


class Answer:
    """`text` is what was asked for, or the reason why not."""

    __slots__ = ("descriptor", "granted", "text")

    def __init__(self, granted: bool, text: str, descriptor: int | None = None):
        self.granted, self.text, self.descriptor = granted, text, descriptor


class QueryError(Exception):
    """Neither a query nor an answer to one."""


# -- the program --------------------------------------------------------------------------------


def send(sock: _socket.socket, word: str) -> None:
    sock.sendall(word.encode() + b"\n")


def receive(sock: _socket.socket) -> Answer:
    """Raises QueryError, OSError.  A descriptor is the caller's."""
    descriptors: list[int] = []
    data = b""
    while not data.endswith(b"\n"):
        piece, ancillary, flags, _ = sock.recvmsg(
            ANSWER_MAX, _socket.CMSG_SPACE(_DESCRIPTOR_SIZE), _socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, numbers in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                descriptors += memoryview(numbers).cast("i")  # the room for one may hold two
        data += piece
        if not piece or len(data) > ANSWER_MAX or flags & _socket.MSG_CTRUNC or len(descriptors) > 1:
            raise QueryError("closed the connection" if not data else "answers nonsense")
    if data[:1] not in (b"+", b"-"):
        raise QueryError("answers nonsense")
    text = data[1:-1].decode("ascii", "replace")
    return Answer(data.startswith(b"+"), text, *descriptors)


# -- control ----------------------------------------------------------------------------------------


def maybe_receive(sock: "socket") -> str | None:
    """The query that a client has begun with; None when it has sent something else, which stays unread.

    Raises QueryError for what is not exactly one: it is written at once, and so it arrives."""
    try:
        begun = sock.recv(1, _socket.MSG_PEEK)
    except OSError:
        return None
    if not begun.isalpha():
        return None
    line = sock.recv(_RECEIVED)
    if len(line) > QUERY_MAX or not line.endswith(b"\n") or not line[:-1].isalpha():
        raise QueryError("malformed query")
    return line[:-1].decode()


def answer(sock: "socket", given: Answer) -> None:
    """Raises OSError.  It fits into the socket's buffer, or the client does not read it."""
    line = ("+" if given.granted else "-") + given.text + "\n"
    descriptors = [] if given.descriptor is None else [given.descriptor.to_bytes(_DESCRIPTOR_SIZE, sys.byteorder)]
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor) for descriptor in descriptors]
    sock.sendmsg([line.encode("ascii", "replace")], rights)
