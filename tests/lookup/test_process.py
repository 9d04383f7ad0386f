"""The process itself, started as the parent starts it and in its real sandbox; the test is all its peers."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import msgspec
import pytest

from smtpd.config.model import Condition, Match, Method, Operand
from smtpd.config.slice import ExpansionSlice, LookupSlice, TableSlice
from smtpd.envelope import Origin
from smtpd.imsg import (
    TABLE,
    AddEnvelopes,
    Begin,
    ClientResolved,
    Configure,
    EnterSandbox,
    ExpandRecipient,
    FindUser,
    ForwardRead,
    ReadForward,
    RecipientExpanded,
    ResolveClient,
    SandboxEntered,
    Stop,
    TakePeer,
    UserFound,
)
from smtpd.ipc.channel import Channel

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)

# 65534 is nobody: the users of an installation need not exist here.
PROGRAM = """
import os, sys
from smtpd import sandbox
from smtpd.lookup import process
from smtpd.lookup.system import System, server_at
os.dup2(int(sys.argv[1]), 3)
process.USER = sandbox.Ids(65534, 65534) if os.geteuid() == 0 else process.USER
sandbox.deny()  # as the parent does before it starts anybody
process.read_system = lambda: System((server_at("127.0.0.1", int(sys.argv[2])),))
process.main()
"""


VALUES = {"PTR": "mail.there.test.", "A": "192.0.2.1", "AAAA": "2001:db8::1"}


class NameServer:
    """Every address has the name mail.there.test, which has one address; beside it a record of an unusual type.  The
    address 192.0.2.3 is answered by stream only."""

    def __init__(self):
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stream = socket.create_server(("127.0.0.1", 0))
        self.port = self.stream.getsockname()[1]
        self.datagrams.bind(("127.0.0.1", self.port))
        self.threads = [
            threading.Thread(target=serve, daemon=True) for serve in (self.serve_datagrams, self.serve_stream)
        ]
        for thread in self.threads:
            thread.start()

    def serve_datagrams(self):
        while True:
            data, sender = self.datagrams.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            by_stream = str(query.question[0].name).startswith("3.2.0.192")
            self.datagrams.sendto(answer(query, dns.flags.TC if by_stream else 0), sender)

    def serve_stream(self):
        while True:
            client, _ = self.stream.accept()
            with client:
                size = int.from_bytes(client.recv(2))
                if not size:
                    return
                wire = answer(dns.message.from_wire(client.recv(size)), 0)
                client.sendall(len(wire).to_bytes(2) + wire)

    def close(self):
        self.datagrams.sendto(b"", ("127.0.0.1", self.port))
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self.threads:
            thread.join()
        self.datagrams.close()
        self.stream.close()


def answer(query, flags):
    answer = dns.message.make_response(query)
    answer.flags |= flags
    name, kind = str(query.question[0].name), dns.rdatatype.to_text(query.question[0].rdtype)
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, VALUES[kind]))
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "LOC", "51 30 12.748 N 0 7 39.611 W 0.00m"))
    return answer.to_wire()


class Process:
    def __init__(self, folder):
        folder.chmod(0o755)
        table = folder / "domains"
        table.write_text("here.test\n")
        self.names = NameServer()
        parent, theirs = socket.socketpair()
        port = str(self.names.port)
        command = [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno()), port]
        self.child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, cwd="/")
        theirs.close()
        self.parent = Channel(parent, TABLE, "parent", "lookup")
        self.peers = {"parent": self.parent}
        self.table = str(table)

    def begin(self):
        """Hand over, and wait until it stands."""
        match = Match("in", Condition("any"), Condition("domain", operand=Operand("domains")))
        tables = (TableSlice("domains", path=self.table, backend="file"),)
        slice_ = LookupSlice(
            "mx.here.test", (match,), tables, (ExpansionSlice("in", Method.MAILDIR),), "+", (self.table, "/nowhere")
        )
        encoded = msgspec.msgpack.encode(slice_)
        self.parent.send(Configure(0, encoded, "/var/empty", "/var/spool/smtpd", False, False))
        for peer in ("queue", "control", "dispatcher"):
            ours, theirs = socket.socketpair()
            self.peers[peer] = Channel(ours, TABLE, peer, "lookup")
            self.parent.send(TakePeer(peer, 0), theirs.detach())
        self.parent.send(EnterSandbox())
        self.entered = self.hear("parent")
        self.tell("parent", Begin())

    def tell(self, peer, imsg):
        self.peers[peer].send(imsg)
        self.peers[peer].flush()

    def hear(self, peer):
        """The next imsg to that peer."""
        channel = self.peers[peer] if peer != "parent" else self.parent
        channel.flush()
        channel.sock.settimeout(20)
        channel.sock.recv(1, socket.MSG_PEEK)
        channel.sock.setblocking(False)
        ((imsg, _),) = channel.receive()
        return imsg

    def close(self):
        self.child.kill()
        print(self.child.communicate()[1].decode(), file=sys.stderr)
        self.names.close()
        for channel in self.peers.values():
            channel.close()


@pytest.fixture
def process():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody else in
        process = Process(Path(folder))
        try:
            process.begin()
            yield process
        finally:
            process.close()


def expand(process, request=1):
    process.tell("dispatcher", ExpandRecipient(request, 77, ORIGIN, "bob+x@here.test"))


def test_a_recipient_in_the_sandbox(process):
    assert isinstance(process.entered, SandboxEntered)
    assert any(line.startswith("seccomp") for line in process.entered.held), process.entered
    expand(process)
    asked = process.hear("parent")
    assert isinstance(asked, FindUser) and asked.name == "bob"
    process.tell("parent", UserFound(asked.request, "user"))
    asked = process.hear("queue")
    assert isinstance(asked, ReadForward) and asked.user == "bob"
    process.tell("queue", ForwardRead(asked.request, "text", b"# nothing else\nbob\n", ""))
    added = process.hear("queue")
    assert isinstance(added, AddEnvelopes) and added.recipients[0].extension == ""
    assert process.hear("dispatcher") == RecipientExpanded(1, 1)


def test_a_client_in_the_sandbox(process):
    process.tell("dispatcher", ResolveClient(1, "192.0.2.1"))
    assert process.hear("dispatcher") == ClientResolved(1, "mail.there.test", True)
    process.tell("dispatcher", ResolveClient(2, "192.0.2.2"))
    assert process.hear("dispatcher") == ClientResolved(2, "mail.there.test", False)
    process.tell("dispatcher", ResolveClient(3, "192.0.2.3"))
    assert process.hear("dispatcher") == ClientResolved(3, "mail.there.test", False)
    process.tell("dispatcher", ResolveClient(4, "2001:db8::1"))
    assert process.hear("dispatcher") == ClientResolved(4, "mail.there.test", True)


def test_it_ends_when_it_is_told_to_though_a_name_is_looked_for(process):
    process.tell("dispatcher", ResolveClient(1, "2001:db8::1"))
    process.tell("parent", Stop())
    assert process.child.wait(10) == 0


def test_it_ends_with_its_parent(process):
    process.parent.close()
    del process.peers["parent"]
    assert process.child.wait(10) == 0


def test_what_its_peer_may_not_send_ends_it(process):
    process.tell("queue", ForwardRead(9, "none", b"", ""))
    assert process.child.wait(10) == 1
    assert b"a question that nobody asked" in process.child.stderr.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's uid is to be seen")
def test_it_is_somebody_without_rights(process):
    lines = Path(f"/proc/{process.child.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == ["65534"] * 4
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")


def test_names_are_many_and_the_process_lives(process):
    """What comes late in a library comes within a thousand questions."""
    begun = time.monotonic()
    for request in range(1, 301):
        process.tell("dispatcher", ResolveClient(request, f"198.51.100.{request % 250}"))
        assert process.hear("dispatcher").name == "mail.there.test"
    assert time.monotonic() - begun < 10
