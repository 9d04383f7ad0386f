"""What a child is handed before it enters its sandbox.

    parent                                   child (descriptor 3 is the channel)
      Configure                        -->     its slice of the configuration
      TakePeer, TakeListener, … + fd   -->     its sockets
      EnterSandbox                     -->     sandbox.enter(…)
                                       <--   SandboxEntered(held, missing)
      Begin, when all children stand   -->     from_parent

Blocking, with a deadline, and only from our own parent: nothing here comes from outside the daemon.
"""

import os
import select
import signal
import socket
import sys
import time
from typing import Any

import msgspec
from setproctitle import setproctitle

from smtpd.imsg import (
    TABLE,
    Configure,
    EnterSandbox,
    SandboxEntered,
    TakeControlSocket,
    TakeListener,
    TakeLog,
    TakePeer,
    TakeQueueKeys,
    TakeSigningSocket,
    TakeSyslog,
)
from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.log import log, take_tracebacks
from smtpd.sandbox import MISSING

PARENT = 3  # the descriptor of the channel to the parent
DEADLINE = 10.0  # seconds until everything must have come
# A ^C reaches the whole process group, and only the parent decides what it means.  A child is started with these
# blocked, as its interpreter would end with a traceback until it ignores them.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


# Where this process finds code, and its children are to find the same: not beside the program or in the directory that
# it was started in.  Absolute, as the parent goes to another directory.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SEARCHED = [os.path.abspath(place) for place in (sys.path if sys.flags.safe_path else sys.path[1:])]
SEARCH_PATH = _SEARCHED if _OURS in _SEARCHED else [*_SEARCHED, _OURS]

_START = f"""
import sys
sys.path[:] = {SEARCH_PATH}
from smtpd.__main__ import main
sys.exit(main())
"""


def command(role: str, *arguments: str) -> list[str]:
    """What is executed for the process of that name: a fresh interpreter that looks for code where we do, whatever the
    environment says (-I).  `site` (-S) and `runpy` (-m) would find out the same anew, a tenth of a process's start."""
    return [sys.executable, "-I", "-S", "-c", _START, "-x", role, *arguments]


class Handed:
    """Everything one child was given."""

    def __init__(self, parent: Channel):
        self.parent = parent
        self.configure: Configure
        self.slice: Any = None
        self.peers: list[Channel] = [parent]
        self.listeners: dict[int, socket.socket] = {}
        self.signing: list[tuple[int, socket.socket]] = []  # number of the dispatcher -> a socket to sign by
        self.logs: dict[str, tuple[int, int]] = {}  # process -> its pid, reading end of its log pipe
        self.queue_keys: int | None = None  # the file of `queue encryption`
        self.control_socket: socket.socket | None = None
        self.syslog: socket.socket | None = None

    def root(self, word: str | None) -> str | None:
        """The directory that a process means by its CHROOT."""
        return {"empty": self.configure.empty, "spool": self.configure.spool, None: None}[word]

    def peer(self, role: str) -> Channel:
        """The one peer of that role."""
        (channel,) = (peer for peer in self.peers if peer.peer == role)
        return channel

    def entered(self, held: list[str]) -> None:
        """Tell the parent what the sandbox really holds."""
        missing = [line.removeprefix(MISSING) for line in held if line.startswith(MISSING)]
        self.parent.send(SandboxEntered([line for line in held if not line.startswith(MISSING)], missing))
        self.parent.flush_within(DEADLINE)


def receive(role: str, slice_type: Any) -> Handed:
    """Take what the parent hands to `role`, up to EnterSandbox.  Exits when the parent goes away or is late."""
    setproctitle(f"smtpd: {role}")
    take_tracebacks(log)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    parent = Channel(socket.socket(fileno=PARENT), TABLE, role, "parent")
    handed = Handed(parent)
    try:
        _take_all(handed, role, slice_type)
    except (ChannelClosed, Violation) as error:
        raise SystemExit(f"{role}: {error}") from None
    return handed


def _take_all(handed: Handed, role: str, slice_type: Any) -> None:
    deadline = time.monotonic() + DEADLINE
    poll = select.poll()
    poll.register(handed.parent.fileno(), select.POLLIN)
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ChannelClosed("the parent did not hand over everything in time")
        received = handed.parent.receive()
        for place, (imsg, descriptor) in enumerate(received, 1):
            if isinstance(imsg, EnterSandbox):
                if place < len(received):
                    raise Violation(f"{type(received[place][0]).__name__} from parent before SandboxEntered")
                return
            _take(handed, role, slice_type, imsg, descriptor)


def _take(handed: Handed, role: str, slice_type: Any, imsg: Any, descriptor: int | None) -> None:
    match imsg:
        case Configure():
            handed.configure = imsg
            handed.slice = msgspec.msgpack.decode(imsg.slice, type=slice_type)
            log.verbose = imsg.verbose
            if imsg.number:
                setproctitle(f"smtpd: {role} {imsg.number}")
        case TakePeer():
            handed.peers.append(Channel(socket.socket(fileno=descriptor), TABLE, role, imsg.peer, imsg.number))
        case TakeListener():
            handed.listeners[imsg.number] = socket.socket(fileno=descriptor)
        case TakeSigningSocket():
            handed.signing.append((imsg.number, socket.socket(fileno=descriptor)))
        case TakeLog():
            assert descriptor is not None  # the channel has seen to it
            handed.logs[imsg.name] = imsg.pid, descriptor
        case TakeControlSocket():
            handed.control_socket = socket.socket(fileno=descriptor)
        case TakeQueueKeys():
            handed.queue_keys = descriptor
        case TakeSyslog():
            handed.syslog = socket.socket(fileno=descriptor)
        case _:
            raise Violation(f"unexpected {type(imsg).__name__} from parent")
