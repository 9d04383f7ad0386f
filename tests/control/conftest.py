"""A control on a real loop in a thread of its own, with the others played by the test; clients are real sockets."""

import os
import socket
import threading
import time

import pytest

from smtpd.control import process
from smtpd.control.log_forwarder import LogForwarder
from smtpd.control.state import Control
from smtpd.imsg import TABLE
from smtpd.ipc import query
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import connect
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop

PEERS = ("parent", "queue", "scheduler", "lookup", "crypto", "dispatcher", "dispatcher")
HANDLERS = {peer: getattr(process, f"from_{peer}") for peer in PEERS}
ASKED = process.from_smtpctl, process.query_from_smtpctl
DEADLINE = 30.0


class House:
    """`heard` is what the others were told; `answers[type]` makes the answer: imsg, or (imsg, descriptor), or None."""

    def __init__(self, folder, privileged_uids):
        self.path = str(folder / "smtpd.sock")
        self.loop = SelectorLoop()
        self.heard, self.answers, self.socks = [], {}, []
        pairs = [(peer, number, socket.socketpair()) for number, peer in enumerate(PEERS)]
        ours = [Channel(one, TABLE, "control", peer, number) for peer, number, (one, _) in pairs]
        theirs = [Channel(other, TABLE, peer, "control", number) for peer, number, (_, other) in pairs]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(16)
        log_forwarder = LogForwarder(self.loop, {}, None, lambda: None)
        self.control = Control(self.loop, ours, listener, frozenset(privileged_uids), *ASKED, log_forwarder)
        connect(self.loop, ours, HANDLERS, self.control)
        connect(self.loop, theirs, {"control": self._heard}, None)
        self.channels, self.listener = [*ours, *theirs], listener
        self.control.begin()
        self.loop.call_soon(log.attach, self.loop)  # the thread that it runs in is another one
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def _heard(self, _state, channel, imsg, _descriptor):
        self.heard.append((channel.me, imsg))
        answer = self.answers.get(type(imsg), lambda *_: None)(channel, imsg)
        if isinstance(answer, tuple):
            channel.send(*answer)
        elif answer is not None:
            channel.send(answer)

    def connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socks.append(sock)
        sock.connect(self.path)  # waits for room in the backlog, which it would not with a timeout
        sock.settimeout(DEADLINE)
        return sock

    def client(self):
        return Tool(self.connect())

    def query(self, word):
        sock = self.connect()
        query.send(sock, word)
        answer = query.receive(sock)
        assert sock.recv(1) == b""  # that was all
        return answer

    def here(self):
        """How many clients control has."""
        return len(self.control.clients.here)

    def until(self, condition):
        """Poll another thread's state, with a deadline."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        for client in list(self.control.clients.here):
            client.close()
        for sock in self.socks:
            sock.close()
        for channel in self.channels:
            self.loop.remove_reader(channel.fileno())
            channel.close()
        self.loop.remove_reader(self.listener.fileno())
        self.listener.close()
        self.loop.close()
        log.later = None


class Tool:
    """A client that speaks the protocol: one question, one answer."""

    def __init__(self, sock):
        self.channel = Channel(sock, TABLE, "smtpctl", "control", peer_id=TABLE.digest())
        self.channel.sock.settimeout(DEADLINE)

    def send(self, *imsgs):
        for imsg in imsgs:
            self.channel.send(imsg)
        assert self.channel.flush()

    def receive(self, count=1):
        received = []
        while len(received) < count:
            received += self.channel.receive()
        return received

    def ask(self, imsg):
        self.send(imsg)
        ((answer, _),) = self.receive()
        return answer

    def close(self):
        self.channel.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path, {os.getuid()})
    yield made
    made.end()


@pytest.fixture
def strange_house(tmp_path):
    """One in which we are nobody."""
    made = House(tmp_path, {os.getuid() + 1})
    yield made
    made.end()
