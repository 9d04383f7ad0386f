"""smtpctl and relaying, as an administrator uses it: a smarthost that is dead, one that works, and one daemon."""

import contextlib
import json

import pytest

from tests.live.conftest import COMPLETE, Daemon, started, until
from tests.live.next_hop import next_hop

DEAD_PORT = 1  # tcpmux: closed


class World:
    """`alive`: the host that takes mail."""

    def __init__(self, daemon, alive):
        self.daemon, self.alive = daemon, alive

    def ctl(self, words, *, check=True):
        return self.daemon.smtpctl(*words.split(), check=check)

    def lines(self, words):
        return self.ctl(words).stdout.splitlines()

    def rows(self, words):
        return [json.loads(line) for line in self.lines(f"-j {words}")]

    def send(self, domain, subject="a mail"):
        with self.daemon.client() as client:
            client.sendmail("amy@here.test", [f"bob@{domain}"], COMPLETE + f"Subject: {subject}\r\n\r\nx\r\n".encode())

    def queued(self, domain):
        return [row for row in self.rows("show queue") if row["destination"].endswith(f"@{domain}")]


@pytest.fixture(scope="module")
def world(ground):
    daemon = Daemon(ground)
    with contextlib.ExitStack() as stack:
        alive = stack.enter_context(next_hop())
        lines = [
            "dispatchers 2",
            f"listen on 127.0.0.1 port {daemon.port}",
            f'action "dead" relay host smtp://127.0.0.1:{DEAD_PORT}',
            f'action "alive" relay host smtp://127.0.0.1:{alive.port} src 127.0.0.1',
            'match from local for domain "dead.test" action "dead"',
            'match from local for domain "alive.test" action "alive"',
        ]
        daemon.conf.write_text("\n".join(lines) + "\n")
        yield World(stack.enter_context(started(daemon)), alive)


def test_a_dead_smarthost_is_seen_everywhere(world):
    world.send("dead.test")
    until(lambda: any(row["delayed"] for row in world.rows("show relays")))
    (line,) = world.lines("show relays")
    assert line.startswith(f"[relay:dead,port={DEAD_PORT},smtp,heloname=") and "wait=ONHOLD" in line
    assert "refused" in line and "nconn=0" in line
    (route,) = world.lines("show routes")
    assert "[] <-> 127.0.0.1 NDQK nconn=0 nerror=1 penalty=1 timeout=" in route and f"port={DEAD_PORT}" in route
    (host,) = world.lines("show hosts")
    assert host.startswith("127.0.0.1 ") and "nconn=0" in host and "lastconn=-" not in host
    (status,) = world.lines("show hoststats")
    assert status.startswith("smarthosts of dead|") and "refused" in status
    (row,) = world.queued("dead.test")
    assert row["reason"].startswith("destination delayed: ") and row["retries"] == 0
    assert "destination delayed: " in world.lines("show queue")[0]
    stats = world.daemon.statistics()
    assert stats["scheduler.destination.delayed"] == 1 and stats["mta.route"] == 1


def test_a_disabled_route_is_tried_when_it_is_resumed(world):
    number = world.rows("show routes")[0]["route"]
    assert world.ctl(f"resume route {number}").stdout == "command succeeded\n"
    until(lambda: world.rows("show routes")[0]["failures"] == 2)
    assert world.rows("show routes")[0]["route"] == number
    failed = world.ctl("resume route 99999", check=False)
    assert (failed.returncode, failed.stderr) == (1, "smtpctl: command failed: route 99999 is not disabled\n")


def test_a_delayed_destination_can_be_scheduled_resumed_and_removed(world):
    until(lambda: world.rows("show relays")[0]["delayed"])
    assert world.ctl("schedule destination dead").stdout == "1 envelope scheduled\n"
    until(lambda: world.rows("show relays")[0]["delayed"])
    assert world.ctl("remove destination dead").stdout == "1 envelope removed\n"
    until(lambda: not world.queued("dead.test"))


def test_a_paused_destination_is_shown_and_keeps_its_mail(world):
    assert world.ctl("pause destination alive").stdout == "command succeeded\n"
    assert world.ctl("pause destination alive", check=False).returncode == 1
    assert world.lines("show mta paused") == ["* -> alive"]
    world.send("alive.test", "paused")
    until(lambda: world.queued("alive.test"))
    assert world.queued("alive.test")[0]["reason"] == "destination paused by administrator"
    assert "paused" not in world.alive.subjects()
    world.ctl("resume mta from * for alive")
    until(lambda: "paused" in world.alive.subjects())
    assert world.lines("show mta paused") == []


@pytest.mark.parametrize("name", ["alive", "*"])
def test_mail_does_not_leave_from_a_paused_address(world, name):
    world.ctl(f"pause mta from 127.0.0.1 for {name}")
    assert world.lines("show mta paused") == [f"127.0.0.1 -> {name}"]
    world.send("alive.test", f"from a paused address for {name}")
    until(lambda: [row for row in world.queued("alive.test") if "paused by administrator" in row["reason"]])
    assert world.alive.mails[-1].content.count(b"from a paused") == 0 or name == "*"
    world.ctl(f"resume mta from 127.0.0.1 for {name}")
    until(lambda: f"from a paused address for {name}" in world.alive.subjects())


def test_mail_that_was_taken_is_counted_and_is_the_status_of_its_domain(world):
    world.send("alive.test", "counted")
    until(lambda: "counted" in world.alive.subjects())
    until(lambda: world.daemon.statistics()["mta.delivery.ok"] >= 1)
    assert [line for line in world.lines("show hoststats") if line.startswith("alive.test|") and "250 2.0.0" in line]
    (relay,) = [row for row in world.rows("show relays") if row["action"] == "alive"]
    assert relay["port"] == world.alive.port and relay["delayed"] == 0


@pytest.mark.parametrize(
    "words, reason",
    [
        ("pause mta from 192.0.2.77 for alive", "no relay action has the source address 192.0.2.77"),
        ("pause mta from * for *", "neither a source address nor a destination"),
        ("pause destination nothing.test", "no action relays to nothing.test"),
    ],
)
def test_what_cannot_be_paused_is_refused(world, words, reason):
    done = world.ctl(words, check=False)
    assert (done.returncode, done.stderr) == (1, f"smtpctl: {reason}\n")


def test_help_shows_the_commands_of_relaying_as_available(world):
    shown = world.ctl("--help").stdout
    for words in ("show relays", "show routes", "show hosts", "show hoststats", "show mta paused", "resume route"):
        (line,) = [line for line in shown.splitlines() if line.split()[: len(words.split())] == words.split()]
        assert "not available yet" not in line
