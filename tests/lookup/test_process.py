"""The process itself, started as the parent starts it and in its real sandbox; the test is all its peers."""

import errno
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from argon2 import PasswordHasher

from smtpd.envelope import Origin
from smtpd.imsg import (
    TABLE,
    AddEnvelopes,
    Begin,
    CheckCredentials,
    CheckPassword,
    ClientResolved,
    Configure,
    CredentialsChecked,
    EnterSandbox,
    ExpandRecipient,
    FindHosts,
    FindUser,
    ForwardRead,
    HostsFound,
    PasswordChecked,
    ReadForward,
    RecipientExpanded,
    ResolveClient,
    SandboxEntered,
    Stop,
    TableUpdated,
    TakePeer,
    TakeTableProgram,
    UpdateTable,
    UserFound,
)
from smtpd.ipc.channel import Channel
from smtpd.lookup.process import directories
from smtpd.slice import (
    Condition,
    ExpansionSlice,
    ListenerTablesSlice,
    LookupSlice,
    Match,
    Method,
    Operand,
    RouteSlice,
    TableSlice,
)
from smtpd.tables.credential import make_hash, make_verifier
from tests.lookup.world import UNSAID

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)

# 65534 is nobody: the users of an installation need not exist here.
PROGRAM = """
import os, sys
from smtpd import sandbox
from smtpd.lookup import process
from smtpd.lookup.resolver_config import ResolverConfig, server_at
os.dup2(int(sys.argv[1]), 3)
process.USER = sandbox.Ids(65534, 65534) if os.geteuid() == 0 else process.USER
sandbox.deny()  # as the parent does before it starts anybody
process.read_resolver_config = lambda: ResolverConfig((server_at("127.0.0.1", int(sys.argv[2])),))
process.main()
"""


VALUES = {"PTR": "mail.there.test.", "A": "192.0.2.1", "AAAA": "2001:db8::1"}
VALUES |= {"MX": "10 mail.there.test.", "TXT": '"v=STSv1; id=7;"'}


def sockets_of_one_port():
    """Of datagrams and of a stream.  A port that is free for one may be taken for the other."""
    for _ in range(100):
        datagrams, stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
        try:
            datagrams.bind(stream.getsockname())
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            datagrams.close()
            stream.close()
        else:
            return datagrams, stream
    raise AssertionError("no port is free for both")


class NameServer:
    """Every address has the name mail.there.test, which has one address; beside it a record of an unusual type.  The
    address 192.0.2.3 is answered by stream only."""

    def __init__(self):
        self.datagrams, self.stream = sockets_of_one_port()
        self.port = self.stream.getsockname()[1]
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

    def begin(self, tables=(), files=(), listener_tables=(), **action):
        """Hand over, and wait until it stands."""
        match = Match("in", Condition("any"), Condition("domain", operand=Operand("domains")))
        tables = (TableSlice("domains", path=self.table, backend="file"), *tables)
        actions = (ExpansionSlice("in", Method.MAILDIR, **action),)
        files = (self.table, "/nowhere", *files)
        slice = LookupSlice(
            "mx.here.test",
            (match,),
            tables,
            actions,
            "+",
            files,
            listener_tables=listener_tables,
            routes=(RouteSlice("out"),),
        )
        encoded = msgspec.msgpack.encode(slice)
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
def unbegun():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody else in
        process = Process(Path(folder))
        try:
            yield process
        finally:
            process.close()


@pytest.fixture
def process(unbegun):
    unbegun.begin()
    return unbegun


def expand(process, request=1):
    process.tell("dispatcher", ExpandRecipient(request, 77, ORIGIN, "bob+x@here.test", *UNSAID))


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


def resolve(process, request, name):
    """Ask for a recipient none of whose users exists, and say which user it came to."""
    process.tell("dispatcher", ExpandRecipient(request, 77, ORIGIN, f"{name}@here.test", *UNSAID))
    asked = process.hear("parent")
    process.tell("parent", UserFound(asked.request, "unknown"))
    process.hear("dispatcher")
    return asked.name


def test_aliases_in_the_sandbox_and_a_file_in_the_place_of_another(unbegun):
    folder = Path(unbegun.table).parent
    aliases, members = folder / "aliases", folder / "members"
    aliases.write_text(f"a: one\nlist: :include:{members}\n")
    members.write_text("two\n")
    tables = (TableSlice("aliases", path=str(aliases), backend="file"),)
    unbegun.begin(tables, (str(aliases), str(members)), alias="aliases")
    assert [resolve(unbegun, 1, "a"), resolve(unbegun, 2, "list")] == ["one", "two"]
    for path, text in ((aliases, f"a: three\nlist: :include:{members}\n"), (members, "four\n")):
        new = path.with_suffix(".new")
        new.write_text(text)
        new.rename(path)
    unbegun.tell("control", UpdateTable(7, "aliases"))
    assert unbegun.hear("control") == TableUpdated(7, "")
    assert [resolve(unbegun, 3, "a"), resolve(unbegun, 4, "list")] == ["three", "four"]


def test_an_invalid_file_leaves_the_old_aliases_in_force(unbegun):
    aliases = Path(unbegun.table).parent / "aliases"
    aliases.write_text("a: one\n")
    unbegun.begin((TableSlice("aliases", path=str(aliases), backend="file"),), (str(aliases),), alias="aliases")
    aliases.write_bytes(b"# M\xfcller\na: two\nabuse:\n")
    unbegun.tell("control", UpdateTable(7, "aliases"))
    trouble = f"table aliases: {aliases}: line 3: key without a value"
    assert unbegun.hear("control") == TableUpdated(7, trouble)
    assert resolve(unbegun, 1, "a") == "one"
    aliases.write_bytes(b"# M\xfcller\na: two\n")
    unbegun.tell("control", UpdateTable(8, "aliases"))
    assert unbegun.hear("control") == TableUpdated(8, "")
    assert resolve(unbegun, 2, "a") == "two"


def test_databases_in_the_sandbox(unbegun):
    folder = Path(unbegun.table).parent
    database, settings = folder / "users.db", folder / "sqlite.conf"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("CREATE TABLE aliases (name, target); INSERT INTO aliases VALUES ('a', 'one')")
    settings.write_text(f"dbpath {database}\nquery_alias SELECT target FROM aliases WHERE name = ?\n")
    tables = (TableSlice("aliases", path=str(settings), backend="sqlite"),)
    unbegun.begin(tables, (str(settings), str(database)), alias="aliases")
    assert resolve(unbegun, 1, "a") == "one"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE aliases SET target = 'two'")
    assert resolve(unbegun, 2, "a") == "two"


def test_a_program_in_the_sandbox(unbegun):
    unbegun.begin((TableSlice("aliases", backend="ldap"),), alias="aliases")
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rw") as program:
        unbegun.parent.send(TakeTableProgram("aliases"), theirs.detach())
        unbegun.parent.flush()
        while program.readline() != "config|ready\n":
            pass
        program.write("register|alias\nregister|ready\n")
        program.flush()
        unbegun.tell("dispatcher", ExpandRecipient(1, 77, ORIGIN, "a@here.test", *UNSAID))
        *_, id, key = program.readline().split("|")
        assert key == "a\n"
        program.write(f"lookup-result|{id}|found|x@there.test\n")
        program.flush()
        assert unbegun.hear("dispatcher").code == 550


def passwords():
    """One of each kind, all of them for "secret"."""
    crypt = [
        "$6$abc$IdWKNKTJEb8LxY7CGg8YBXlvtfZzFw7Mp/r6niK9YB2mdvgY..TKjv1T..8RadRt2qvUHYRLr/TsVArtr91iR1",
        "$y$j9T$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",
        "$7$CU..../....abcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6",
    ]
    argon2 = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=4).hash("secret")  # with threads of its own
    return [*crypt, argon2, make_hash(b"secret"), make_verifier(b"secret")]


def test_passwords_are_compared_in_the_sandbox(unbegun):
    kept = passwords()
    users = TableSlice("users", pairs=tuple((f"u{number}", value) for number, value in enumerate(kept)))
    unbegun.begin((users,), listener_tables=(ListenerTablesSlice(3, True, "users"),))
    for number in range(len(kept)):
        unbegun.tell("dispatcher", CheckCredentials(number, 3, f"192.0.2.{number}", f"u{number}", "secret"))
        assert unbegun.hear("dispatcher") == CredentialsChecked(number, "yes")
    unbegun.tell("dispatcher", CheckCredentials(99, 3, "192.0.2.99", "nobody", "secret"))
    assert unbegun.hear("dispatcher") == CredentialsChecked(99, "no")


def test_a_user_of_the_system_in_the_sandbox(unbegun):
    unbegun.begin(listener_tables=(ListenerTablesSlice(0, True),))
    unbegun.tell("dispatcher", CheckCredentials(1, 0, "192.0.2.1", "bob", "secret"))
    asked = unbegun.hear("parent")
    assert isinstance(asked, CheckPassword) and (asked.user, asked.password) == ("bob", "secret")
    unbegun.tell("parent", PasswordChecked(asked.request, "yes"))
    assert unbegun.hear("dispatcher") == CredentialsChecked(1, "yes")


def test_a_malformed_password_is_not_in_the_log(process):
    """An imsg that breaks off within a password ends the process, which says why."""
    frame = bytearray()
    process.peers["dispatcher"].sock.setblocking(True)
    channel = process.peers["dispatcher"]
    channel.send(CheckCredentials(1, 0, "192.0.2.1", "bob", "sesame" * 200))
    for data, _ in channel._out:
        frame += data
    channel.sock.sendall(frame)
    assert process.child.wait(10) == 1
    said = process.child.stderr.read()
    assert b"malformed CheckCredentials" in said and b"sesame" not in said


def test_a_client_in_the_sandbox(process):
    process.tell("dispatcher", ResolveClient(1, "192.0.2.1"))
    assert process.hear("dispatcher") == ClientResolved(1, "mail.there.test", True)
    process.tell("dispatcher", ResolveClient(2, "192.0.2.2"))
    assert process.hear("dispatcher") == ClientResolved(2, "mail.there.test", False)
    process.tell("dispatcher", ResolveClient(3, "192.0.2.3"))
    assert process.hear("dispatcher") == ClientResolved(3, "mail.there.test", False)
    process.tell("dispatcher", ResolveClient(4, "2001:db8::1"))
    assert process.hear("dispatcher") == ClientResolved(4, "mail.there.test", True)


def test_hosts_in_the_sandbox(process):
    process.tell("dispatcher", FindHosts(1, "there.test", True, 25, policy=True))
    found = process.hear("dispatcher")
    assert isinstance(found, HostsFound)
    assert [(host.name, host.addresses) for host in found.hosts] == [("mail.there.test", ["2001:db8::1", "192.0.2.1"])]
    assert found.sts_id == "7"
    process.tell("dispatcher", FindHosts(2, "[127.0.0.2]", True, 25, policy=True))
    assert process.hear("dispatcher").enhanced == "5.4.6"
    process.tell("dispatcher", FindHosts(3, "[192.0.2.200]", True, 25, policy=True))
    assert process.hear("dispatcher").hosts[0].addresses == ["192.0.2.200"]


def test_stop_ends_it_during_a_name_lookup(process):
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
    assert b"without a request" in process.child.stderr.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's uid is to be seen")
def test_it_runs_as_an_unprivileged_user(process):
    lines = Path(f"/proc/{process.child.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == ["65534"] * 4
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")


def test_names_are_many_and_the_process_lives(process):
    """What comes late in a library comes within a thousand questions."""
    for request in range(1, 301):
        process.tell("dispatcher", ResolveClient(request, f"198.51.100.{request % 250}"))
        assert process.hear("dispatcher").name == "mail.there.test"


def test_the_directories_of_the_files_that_are_visible(tmp_path):
    link, target = tmp_path / "etc" / "aliases", tmp_path / "var" / "aliases"
    for path in (link, target):
        path.parent.mkdir()
    target.touch()
    link.symlink_to(target)
    seen = directories([str(link), str(tmp_path / "nowhere" / "x")])
    assert seen == [str(link.parent), str(target.parent)]


def test_a_file_beside_everything_does_not_show_everything():
    assert "/" not in directories(["/aliases", "/dev"])
