"""Runs in a fresh interpreter: starts one process of the daemon again and again, each time for one forged frame.

    stdin   {"role", "directory"}     directory: root's, with "empty" and "spool" in it
    stdout  {"SENDER: what was forged": [how the process ended, what it logged]}

The process is its own `main` in its own sandbox, forked from here so that a start costs milliseconds.  We are the
parent, and have the other ends of all its channels in our hands: each forgery is what a peer that was taken over could
send.  "alive" is how a process ended that did not end.
"""

import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial

import msgspec

from smtpctl.offline_submission import OfflineSubmission
from smtpd import sandbox
from smtpd.agent import process as agent
from smtpd.boot import PARENT
from smtpd.config import parser
from smtpd.config.host import this_host
from smtpd.config.resolve.slice_encoding import encode_slices
from smtpd.config.resolve.slicing import slice_config
from smtpd.envelope import MailParameters, Origin
from smtpd.imsg import (
    ROLES,
    TABLE,
    AddEnvelopes,
    Begin,
    Configure,
    EnterSandbox,
    EnvelopesDue,
    EnvelopesScanned,
    EnvelopesTried,
    ForgetMessage,
    OpenSpoolFile,
    SandboxEntered,
    StoreMessage,
    TakeControlSocket,
    TakeListener,
    TakeLog,
    TakePeer,
    TakeSigningSocket,
)
from smtpd.ipc import frame
from smtpd.ipc.channel import Channel

CONF = 'listen on 127.0.0.1 port 2525\naction "local" maildir\nmatch from any for any action "local"\n'
BOOT = {Configure, TakePeer, TakeListener, TakeSigningSocket, TakeControlSocket, TakeLog, EnterSandbox, SandboxEntered}
WAIT_MAX = 60.0  # seconds
MESSAGE, ENVELOPE = 7, 7 << 32 | 1  # that there never were
NOT_ASKED = 4242  # the number of a request that there never was

ORIGIN = Origin("amy@there.test", "192.0.2.1", "<unknown>", "there.test", "here.test", "", True)

# What has its right form, and cannot be meant.
IMPOSSIBLE = {
    ("dispatcher", "queue"): [
        OpenSpoolFile(1, MESSAGE),
        StoreMessage(1, MESSAGE, 1, b"x", 1),
        ForgetMessage(MESSAGE, 0),
    ],
    ("lookup", "queue"): [AddEnvelopes(MESSAGE, ORIGIN, [], MailParameters())],
    ("scheduler", "queue"): [EnvelopesDue([ENVELOPE, ENVELOPE])],
    ("queue", "scheduler"): [EnvelopesTried([ENVELOPE], [], [])],
}

Frame = tuple[bytes, bool]  # and whether a descriptor goes with it


# -- what is forged ------------------------------------------------------------


def forgeries(sender: str, receiver: str) -> Iterator[tuple[str, Frame]]:
    """Everything that may not come along the arrow from `sender` to `receiver`."""
    allowed = TABLE.between(sender, receiver)
    plain = next(d for d in allowed.values() if not d.descriptor)
    others = [d for d in TABLE.declarations if d.number not in allowed and not d.descriptor]
    of_another = max(others, key=lambda d: any(to == receiver and by != "parent" for by, to in d.routes))
    payload = sample(plain.cls)
    yield "against the arrow", (framed(of_another.number, sample(of_another.cls)), False)
    yield "a shape that is none", (framed(plain.number, b"\x80"), False)
    yield "a field too many", (framed(plain.number, longer(payload)), False)
    yield "a length below the header", (frame.HEADER.pack(plain.number, 0, frame.SIZE - 1, 0, 0), False)
    yield "a length over the limit", (frame.HEADER.pack(plain.number, 0, frame.SIZE + plain.limit + 1, 0, 0), False)
    yield "a stray descriptor", (framed(plain.number, payload), True)
    for declaration in allowed.values():
        name = declaration.cls.__name__
        if declaration.descriptor:
            yield f"{name} without its descriptor", (framed(declaration.number, sample(declaration.cls), 1), False)
        if declaration.cls in BOOT:
            again = framed(declaration.number, sample(declaration.cls), int(declaration.descriptor))
            yield f"{name} when it stands already", (again, declaration.descriptor)
        if declaration.answers is not None:
            answer = framed(declaration.number, sample(declaration.cls), int(declaration.descriptor))
            # The scan is asked for once, at the beginning; its pages bear no number.
            count = 2 if declaration.cls is EnvelopesScanned else 1
            yield f"{name}, the answer to no question", (answer * count, declaration.descriptor)
    for imsg in IMPOSSIBLE.get((sender, receiver), ()):
        number = TABLE.by_class[type(imsg)].number
        yield f"{type(imsg).__name__} of what there is not", (framed(number, msgspec.msgpack.encode(imsg)), False)


def framed(number: int, payload: bytes, flags: int = 0) -> bytes:
    return frame.HEADER.pack(number, flags, frame.SIZE + len(payload), 0, 0) + payload


def sample(cls: type) -> bytes:
    """The payload of some imsg of this class; it asks, or answers, NOT_ASKED."""
    fields = [NOT_ASKED if f.name == "request" else some(f.type) for f in msgspec.inspect.type_info(cls).fields]
    return msgspec.msgpack.encode(msgspec.convert(fields, cls))


def some(kind: msgspec.inspect.Type) -> object:
    """The least value of a type."""
    inspect = msgspec.inspect
    match kind:
        case inspect.Metadata():
            return some(kind.type)
        case inspect.IntType():
            return kind.ge or 0
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.TupleType():
            return [some(item) for item in kind.item_types]
        case inspect.UnionType():
            return None  # the only ones that imsgs have are with None
        case inspect.StructType():
            return [some(field.type) for field in kind.fields]
    empty = {inspect.StrType: "", inspect.BytesType: b"", inspect.BoolType: False, inspect.ListType: []}
    return empty.get(type(kind), {})


def longer(payload: bytes) -> bytes:
    return msgspec.msgpack.encode([*msgspec.msgpack.decode(payload), 0])


# -- whom it is sent to ----------------------------------------------------------


class Stage:
    """One process with everything around it."""

    def __init__(self, role: str, slice_: bytes, directory: str):
        self.role = role
        self.log = os.memfd_create("log")
        parent, theirs = socket.socketpair()
        self.pid = fork(role, theirs, self.log)
        theirs.close()
        self.parent = Channel(parent, TABLE, "parent", role)
        self.ends = {"parent": parent}
        self._hand_over(slice_, directory)

    def _hand_over(self, slice_: bytes, directory: str) -> None:
        places = {"empty": f"{directory}/empty", "spool": f"{directory}/spool"}
        self.parent.send(Configure(number=0, slice=slice_, **places, sandbox_required=True, verbose=False))
        for peer in ROLES:
            if (peer, self.role) in TABLE.routes() or (self.role, peer) in TABLE.routes():
                self.ends[peer], theirs = socket.socketpair()
                self.parent.send(TakePeer(peer, 0), theirs.detach())
        if self.role == "dispatcher":
            self.parent.send(TakeListener(0), bound(socket.AF_INET, ("127.0.0.1", 0)))
        if self.role == "control":
            self.parent.send(TakeControlSocket(), bound(socket.AF_UNIX, b"\0%d.control" % self.pid))
        self.parent.send(EnterSandbox())
        self.parent.flush()
        wait_for(self.parent)
        ((entered, _),) = self.parent.receive()
        assert isinstance(entered, SandboxEntered), entered
        self.parent.send(Begin())
        self.parent.flush()

    def suffer(self, sender: str, forged: Frame) -> tuple[str, str]:
        data, with_descriptor = forged
        socket.send_fds(self.ends[sender], [data], [0] if with_descriptor else [])
        return self._ending(), os.pread(self.log, 1 << 20, 0).decode(errors="replace")

    def _ending(self) -> str:
        descriptor = os.pidfd_open(self.pid)
        ended = select.select([descriptor], [], [], WAIT_MAX)[0]
        os.close(descriptor)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        return str(os.waitstatus_to_exitcode(status)) if ended else "alive"

    def close(self) -> None:
        for end in self.ends.values():
            end.close()
        os.close(self.log)


def fork(role: str, channel: socket.socket, log: int) -> int:
    """What exec would do: nothing is left in the child but its channel and its log."""
    process = importlib.import_module(f"smtpd.{role}.process")
    main = partial(process.main, agent.prepare, OfflineSubmission) if role == "nursery" else process.main
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(log, 2)
        os.dup2(channel.fileno(), PARENT)
        os.closerange(PARENT + 1, os.sysconf("SC_OPEN_MAX"))
        sys.exit(main())
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else bool(ended.code))
    finally:
        os._exit(70)  # any other exception: not the end that is looked for


def bound(family: int, address: object) -> int:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind(address)
    made.listen()
    return made.detach()


def wait_for(channel: Channel) -> None:
    if not select.select([channel.fileno()], [], [], WAIT_MAX)[0]:
        raise TimeoutError(f"{channel.peer} says nothing")


def main() -> None:
    order = json.load(sys.stdin)
    role = order["role"]
    sandbox.deny()
    parsed = parser.parse("forge.conf", text=CONF, macros={}, read=str)
    slices = encode_slices("forge.conf", slice_config(parsed, this_host()).slices)
    results = {}
    for sender in sorted(s for s, r in TABLE.routes() if r == role and s != "smtpctl"):
        for what, forged in forgeries(sender, role):
            stage = Stage(role, slices.get(role, b"\xc0"), order["directory"])
            results[f"{sender}: {what}"] = stage.suffer(sender, forged)
            stage.close()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
