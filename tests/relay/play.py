"""A driver for tests: it obeys the relay's actions by writing them down, and lets hosts answer as a test wants."""

from collections import defaultdict

from smtpd.envelope import Outcome, RelayResult
from smtpd.next_hop import MailHost
from smtpd.relay.action import Abort, Connect, Delay, Give, Note, Quit, Report, Resolve, Resume, Return
from smtpd.relay.connection import ConnectionFailure, Stage
from smtpd.relay.destination import NextHop
from smtpd.relay.destinations import Destinations
from smtpd.relay.task import Task
from smtpd.slice import RelayLimits, RelaySlice

NOW = 1_800_000_000.0


def hop(name="mx1.there.test", *addresses, rank=10, **more):
    """A host as lookup finds it."""
    facts = {key: more.pop(key) for key in ("tlsa", "tlsa_base", "tlsa_records", "secure") if key in more}
    addresses = addresses or ("192.0.2.1",)
    return NextHop(MailHost(name, rank, list(addresses), **facts), rank, domain="there.test", **more)


class Play:
    def __init__(self, limits=None, domain_limits=None, **relay):
        self.relay = RelaySlice("relay", "here.test", **relay)
        self.destinations = Destinations(limits or RelayLimits(), domain_limits or {}, lambda: 0.5, NOW)
        self.now = NOW
        self.tasks = 0
        self.connections: dict[int, Connect] = {}
        self.up: set[int] = set()  # that have connected
        self.open: list[int] = []  # in the order in which they were begun
        self.given: dict[int, Task] = {}
        self.resolving: list[int] = []
        self.quitting: list[int] = []
        self.results: dict[int, list[RelayResult]] = defaultdict(list)  # by task
        self.returned: list[int] = []
        self.delays: list[Delay] = []
        self.resumed: list[int] = []
        self.notes: list[str] = []
        self.last = []

    # -- events -----------------------------------------------------------------------------

    def add(self, destination=1, *hops, domain="there.test", recipients=1, require_tls=False):
        """A new task; with hops, lookup's answer too, if it is asked."""
        self.tasks += 1
        envelopes = {self.tasks << 32 | number for number in range(1, recipients + 1)}
        task = Task(self.tasks, destination, envelopes, require_tls)
        self.obey(self.destinations.add(task, self.relay, domain, self.now))
        if hops and destination in self.resolving:
            self.found(destination, *hops)
        return self.tasks

    def found(self, destination, *hops, seconds=3600):
        self.resolving.remove(destination)
        self.obey(self.destinations.hosts_found(destination, hops, seconds, self.now))

    def not_found(self, destination, refusal, seconds=30):
        self.resolving.remove(destination)
        self.obey(self.destinations.hosts_not_found(destination, refusal, seconds, self.now))

    def connected(self, number):
        self.up.add(number)
        self.obey(self.destinations.connected(number, self.now))

    def greeted(self, number, encrypted=None):
        """Connected and ready."""
        if number not in self.up:
            self.connected(number)
        encrypted = self.connections[number].policy.attempt if encrypted is None else encrypted
        self.obey(self.destinations.ready(number, encrypted, self.now))

    def fail(self, number, stage=Stage.CONNECT, code=0, text="connection refused", results=(), **more):
        self.given.pop(number, None)
        self.open.remove(number)
        if number in self.quitting:
            self.quitting.remove(number)
        failure = ConnectionFailure(stage, text, code, **more)
        self.obey(self.destinations.ended(number, failure, results, self.now))

    def fail_greeting(self, number, **more):
        self.connected(number)
        self.fail(number, **{"stage": Stage.GREETING} | more)

    def answer(self, number, outcome=Outcome.DELIVERED, code=0, enhanced=""):
        task = self.given.pop(number)
        results = [RelayResult(envelope, outcome, "", code, enhanced) for envelope in sorted(task.envelopes)]
        self.obey(self.destinations.tried(number, results, self.now))

    def quit(self, number):
        """The host has answered our QUIT."""
        self.fail(number, Stage.SESSION)

    def wait(self, seconds):
        """Let time pass, and do what is due on the way."""
        end = self.now + seconds
        while (time := self.destinations.next_time()) is not None and time <= end:
            self.now = max(self.now, time)
            self.obey(self.destinations.tick(self.now))
        self.now = end
        self.obey(self.destinations.tick(self.now))

    # -- actions ------------------------------------------------------------------------------

    def obey(self, actions):
        self.last = actions
        for action in actions:
            match action:
                case Resolve():
                    self.resolving.append(action.destination)
                case Connect():
                    self.connections[action.connection] = action
                    self.open.append(action.connection)
                case Abort():
                    self.open.remove(action.connection)
                case Give():
                    self.given[action.connection] = action.task
                case Quit():
                    self.quitting.append(action.connection)
                case Report():
                    self.results[action.task] += action.results
                case Return():
                    self.returned.append(action.task)
                case Delay():
                    self.delays.append(action)
                case Resume():
                    self.resumed.append(action.destination)
                case Note():
                    self.notes.append(action.text)

    # -- what tests ask ---------------------------------------------------------------------------

    def addresses(self):
        """Where connections are open, or under way, in the order in which they were begun."""
        return [self.connections[number].path.address for number in self.open]

    def outcomes(self, task):
        return [result.outcome for result in self.results[task]]

    def open_and_greet(self, destination=1, *hops, **more):
        """A task of a new destination on a connection that has greeted; returns task and connection."""
        task = self.add(destination, *hops, **more)
        number = self.open[-1]
        self.greeted(number)
        return task, number
