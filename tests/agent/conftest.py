"""Real agents on real sockets, in their sandbox, for a user that is not root."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smtpd import sandbox
from smtpd.config.file_permission import is_private_group
from smtpd.errand import PACKET_MAX, PROMISES, Deliver, InProgress, ReadForward, decode, encode

TOP = Path(__file__).parent.parent.parent
UID = 54321 if os.geteuid() == 0 else os.getuid()  # nobody's
MAIL = b"Received: from there\nSubject: hello\n\nGood morning.\n"
TEST_TIMEOUT = 30.0  # seconds after which a test has failed


def errand(number=1, content=MAIL, *, size=None, perhaps=False, extension="", utf8=False, **more):
    """A Deliver; with `size` the content comes by descriptor."""
    fields = {"sender": "amy@there.test", "recipient": "bob@here.test", "destination": "bob@here.test", **more}
    length = len(content) if size is None else size
    strings = (fields["sender"], fields["recipient"], fields["destination"], extension)
    created = 1700000000
    mail = (77 << 32 | number, created, length, *strings, b"" if size else content, bool(size), perhaps)
    return Deliver(*mail, utf8=utf8)


@pytest.fixture(scope="session", autouse=True)
def stand():
    """One interpreter that forks all agents; it ends with its socket for orders."""
    Process.orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", str(Path(__file__).parent / "forker.py"), str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env={"PYTHONPATH": str(TOP)})
    yield
    Process.orders.close()
    assert process.wait(TEST_TIMEOUT) == 0


@functools.cache
def program_of(kind):
    """Its filter ready-made, in hexadecimal; empty for a kind without."""
    promises = PROMISES[kind]
    return "" if promises is None else sandbox.compile(promises).hex()


class Process:
    """An agent's process, as subprocess knows processes; its warden tells of it."""

    orders: socket.socket

    def __init__(self, order, *sockets):
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self.orders, [json.dumps(order).encode()], [end.fileno() for end in (*sockets, theirs)])
        self._told.settimeout(TEST_TIMEOUT)
        self.pid = int(self._told.recv(16))
        self.returncode = None

    def poll(self):
        return self._hear(0)

    def wait(self, timeout):
        assert self._hear(timeout) is not None, "the agent has not ended"
        return self.returncode

    def _hear(self, timeout):
        if self.returncode is None:
            self._told.settimeout(timeout)
            with contextlib.suppress(BlockingIOError, TimeoutError):
                self.returncode = int(self._told.recv(16))
                self._told.close()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Agent:
    """What queue sees of an agent."""

    def __init__(self, home, kind="maildir", target="~/Maildir", *, limits=(), **spec):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(TEST_TIMEOUT)
        self.began = []
        self.mailbox_socket, their_mailbox_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {
            "spec": {"kind": kind, "target": target, **spec},
            "home": str(home),
            "uid": UID,
            "program": program_of(kind),
            "limits": list(limits),
        }
        self.process = Process(order, theirs, their_mailbox_socket)
        theirs.close()
        their_mailbox_socket.close()

    def send(self, told, descriptor=None):
        packet = told if isinstance(told, bytes) else encode(told)
        if descriptor is None:
            self.socket.send(packet)
        else:
            socket.send_fds(self.socket, [packet], [descriptor])

    def receive(self):
        """The next answer; `began` are those that it was said to be at work with before."""
        while isinstance(told := self.hear(), InProgress):
            self.began.append(told.number)
        return told

    def hear(self):
        packet = self.socket.recv(PACKET_MAX)
        assert packet, f"the agent ended: {self.process.wait(TEST_TIMEOUT)}"
        return decode(packet)

    def deliver(self, told, descriptor=None):
        self.send(told, descriptor)
        return self.receive()

    def forward(self):
        answer = self.deliver(ReadForward(7))
        assert answer.request == 7
        return answer.verdict, answer.content

    def end(self):
        """Its exit status after queue has parted with it."""
        self.socket.close()
        self.mailbox_socket.close()
        return self.process.wait(TEST_TIMEOUT)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TEST_TIMEOUT)


@pytest.fixture
def home():
    """A home directory of that user, below directories that everybody may pass."""
    top = Path(tempfile.mkdtemp(prefix="smtpd-agent-", dir="/var/tmp"))
    top.chmod(0o755)
    path = top / "bob"
    path.mkdir(0o700)
    own(path)
    yield path
    shutil.rmtree(top, ignore_errors=True)


def own(*paths):
    """Give what a test made as root to the user."""
    for path in paths:
        if os.geteuid() == 0:
            os.chown(path, UID, UID, follow_symlinks=False)


def others(who):
    """Those classes of chmod(1) among `who` that are somebody else than the user: whoever runs the tests may have a
    group of the user's own."""
    private = os.geteuid() != 0 and is_private_group(UID, os.getegid())
    return who.replace("g", "") if private else who


@pytest.fixture
def start(home):
    """Start agents; all have ended when the test ends."""
    started = []

    def start_one(*arguments, **more):
        started.append(Agent(home, *arguments, **more))
        return started[-1]

    yield start_one
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
        agent.socket.close()
        agent.mailbox_socket.close()


def make_tree(home):
    """A Maildir that was there before any agent."""
    for part in ("", "tmp", "new", "cur"):
        (home / "Maildir" / part).mkdir(0o700)
        own(home / "Maildir" / part)


def files(home, folder=""):
    """Contents of new/, and what lies in tmp/, of the Maildir or a folder in it."""
    at = home / "Maildir" / folder
    return [path.read_bytes() for path in sorted((at / "new").iterdir())], os.listdir(at / "tmp")
