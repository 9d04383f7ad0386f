"""Tables that programs answer for, on the loop; the test plays the programs."""

import socket

import pytest

from smtpd.envelope import Origin
from smtpd.imsg import (
    AddEnvelopes,
    ExpandRecipient,
    RecipientExpanded,
    RecipientRefused,
    TableUpdated,
    TakeTableProgram,
    UpdateTable,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.slice import Condition, ExpansionSlice, Match, Method, RouteSlice, Service, TableSlice
from tests.lookup.conftest import CONFIGURATION
from tests.lookup.world import UNSAID

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)
SLOW = dict(
    tables=(*CONFIGURATION.tables, TableSlice("names", backend="ldap")),
    actions=(ExpansionSlice("in", Method.MAILDIR, alias="names"), ExpansionSlice("plain", Method.MAILDIR)),
    matches=(
        Match("in", Condition("any"), Condition("local")),
        Match("plain", Condition("any"), Condition("any")),
    ),
)


class Program:
    """Answers each line by `say(line)`, or not at all."""

    def __init__(self, house, say, table="names", registers=("alias",)):
        self.house, self.say, self.registers = house, say, registers
        self.heard = []
        self.begun = b""
        theirs, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        house.loop.add_reader(self.sock.fileno(), self.read)
        house.opened.append(self)
        house.theirs["parent"].send(TakeTableProgram(table), theirs.detach())

    def read(self):
        data = self.sock.recv(65536)
        if not data:
            self.close()
            return
        *lines, self.begun = (self.begun + data).split(b"\n")
        for line in lines:
            self.line(line.decode())

    def line(self, line):
        if line == "config|ready":
            self.write(*(f"register|{service}" for service in self.registers), "register|ready")
        elif line.startswith("table|"):
            self.heard.append(line)
            said = self.say(line)
            if said is not None:
                self.write(said)

    def write(self, *lines):
        self.sock.send("".join(f"{line}\n" for line in lines).encode())

    def close(self):
        if self.sock.fileno() >= 0:
            self.house.loop.remove_reader(self.sock.fileno())
            self.sock.close()


def aliases(entries):
    def say(line):
        *_, verb, _, id, key = line.split("|", 7)
        assert verb == "lookup"
        return f"lookup-result|{id}|found|{entries[key]}" if key in entries else f"lookup-result|{id}|not-found"

    return say


def ask(request, recipient="staff@here.test"):
    return ExpandRecipient(request, 77, ORIGIN, recipient, *UNSAID)


def slow_house(house, **users):
    house = house(**SLOW)
    house.users |= dict(users, bob="user", amy="user")
    return house


def test_a_program_answers_for_a_table(house):
    house = slow_house(house)
    program = Program(house, aliases({"staff": "bob, amy"}))
    assert house.ask(ask(1)) == RecipientExpanded(1, 2)
    assert [to.user for imsg in house.sent(AddEnvelopes) for to in imsg.recipients] == ["bob", "amy"]
    assert [line.rpartition("|")[2] for line in program.heard] == ["staff", "bob", "amy"]


def test_its_answers_are_not_remembered(house):
    house = slow_house(house)
    entries = {"staff": "bob"}
    Program(house, aliases(entries))
    assert house.ask(ask(1)).count == 1
    entries["staff"] = "bob, amy"
    assert house.ask(ask(2)).count == 2


def test_a_table_is_a_temporary_failure_until_its_program_has_started(house):
    house = slow_house(house)
    assert house.ask(ask(1)).code == 424


def test_a_silent_program_delays_only_its_own_questions(house):
    house = slow_house(house)
    program = Program(house, lambda line: None)

    async def scenario():
        house.theirs["dispatcher1"].send(ask(1))
        await house.until(lambda: program.heard)
        return await house._ask(ask(2, "bob@there.test"), "dispatcher2")

    assert house.run(scenario()) == RecipientExpanded(2, 1)
    assert house.answers("dispatcher1", 1) is None


def test_questions_to_a_program_that_ends_fail_and_the_next_one_answers(house, capfd):
    house = slow_house(house)
    program = Program(house, lambda line: program.close())
    assert house.ask(ask(1)).code == 424
    assert house.ask(ask(2)).code == 424
    Program(house, aliases({"staff": "bob"}))
    assert house.ask(ask(3)) == RecipientExpanded(3, 1)
    log.flush()
    assert "table names: its program has ended" in capfd.readouterr().err


@pytest.mark.parametrize("nonsense", ["lookup-result|ffffffff|found|root", "hello", "\x00", "x" * 70_000])
def test_a_program_that_says_nonsense_is_dropped(house, nonsense, capfd):
    house = slow_house(house)
    program = Program(house, lambda line: nonsense)
    assert house.ask(ask(1)).code == 424
    house.run(house.until(lambda: program.sock.fileno() < 0))
    log.flush()
    assert "warn: table names: its program " in capfd.readouterr().err


def test_a_program_that_takes_the_place_of_another_one(house):
    house = slow_house(house)
    first = Program(house, lambda line: None)

    async def scenario():
        house.theirs["dispatcher1"].send(ask(1))
        await house.until(lambda: first.heard)
        Program(house, aliases({"staff": "bob"}))
        return await house.until(lambda: house.answers("dispatcher1", 1))

    assert house.run(scenario()).code == 424
    assert house.ask(ask(2)) == RecipientExpanded(2, 1)


def test_many_questions_to_a_program_that_reads_slowly(house):
    house = slow_house(house)
    program = Program(house, aliases({}))
    assert house.ask(ask(201)).code == 550
    house.loop.remove_reader(program.sock.fileno())
    (link,) = house.lookup.programs._links.values()
    link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    async def scenario():
        for request in range(1, 201):
            house.theirs["dispatcher1"].send(ask(request, f"{'x' * 200}{request}@here.test"))
        await house.until(lambda: len(link._unwritten) > 4096)
        house.loop.add_reader(program.sock.fileno(), program.read)
        await house.until(lambda: len(house.sent(RecipientRefused)) == 201)

    house.run(scenario())
    assert len({line.rpartition("|")[2] for line in program.heard}) == 201
    assert not link._unwritten


def test_a_key_with_a_bar_or_the_end_of_a_line_begins_no_other_question(house):
    house = slow_house(house)
    program = Program(house, aliases({}))
    house.ask(ask(1, "a|lookup|b@here.test"))
    assert [line.split("|", 7)[7] for line in program.heard] == ["a|lookup|b"]


def test_a_program_for_a_table_that_has_none_is_impossible(house):
    house = slow_house(house)
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(Violation):
        house.lookup.programs.take(TakeTableProgram("localnames"), theirs.detach())


# -- smtpctl update table ---------------------------------------------------------------


def update(house, table, request=9):
    return house.ask(UpdateTable(request, table), "control")


def test_a_table_is_read_again(house, tmp_path):
    path = tmp_path / "aliases"
    path.write_text("staff: bob\n")
    tables = (*CONFIGURATION.tables, TableSlice("names", path=str(path), backend="file"))
    house = house(tables=tables, actions=SLOW["actions"])
    house.users |= {"bob": "user", "amy": "user"}
    assert house.ask(ask(1)).count == 1
    path.write_text("staff: bob, amy\n")
    assert house.ask(ask(2)).count == 1
    assert update(house, "names") == TableUpdated(9, "")
    assert house.ask(ask(3)).count == 2


def test_a_table_that_cannot_be_read_again_stays_as_it_was(house, tmp_path):
    path = tmp_path / "aliases"
    path.write_text("staff: bob\n")
    tables = (*CONFIGURATION.tables, TableSlice("names", path=str(path), backend="file"))
    house = house(tables=tables, actions=SLOW["actions"])
    house.users |= {"bob": "user"}
    path.write_text("staff: bob\nnobody\n")
    assert "line 2" in update(house, "names").trouble
    assert house.ask(ask(1)).count == 1


def test_hosts_of_a_list_that_would_not_be_used_are_told_at_the_update(house, tmp_path, monkeypatch):
    path = tmp_path / "hosts"
    path.write_text("smtps://a@h.test\n")
    table = TableSlice("hosts", path=str(path), backend="file", services=(Service.RELAYHOST,))
    said = []
    monkeypatch.setattr(log, "warn", said.append)
    house = house(tables=(*CONFIGURATION.tables, table), routes=(RouteSlice("out", hosts="hosts"),))
    assert said == []
    path.write_text("smtps://a@h.test\nsmtps://b@h.test\n")
    assert update(house, "hosts") == TableUpdated(9, "")
    assert said == ["table hosts: h.test port 465 has another label above: this one would not be used"]


def test_a_table_that_is_not_there_is_not_updated(house):
    assert update(house(), "x").trouble == "unknown table x"


def test_a_program_is_told_to_update(house):
    house = slow_house(house)
    answers = iter(["ok", "error|the directory is down"])
    Program(house, lambda line: f"update-result|{line.rpartition('|')[2]}|{next(answers)}")
    house.run(house.until(lambda: house.lookup.programs._links))
    assert update(house, "names") == TableUpdated(9, "")
    assert update(house, "names", 10).trouble == "table names: its program says the directory is down"
