"""Anything, in any order: no schedule of answers exceeds a limit, forgets a task, answers it twice, or starves it."""

from collections import Counter, deque

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from smtpd.envelope import Outcome, RelayResult
from smtpd.next_hop import MailHost
from smtpd.relay.action import Abort, Connect, Delay, Give, Note, Quit, Report, Resolve, Resume, Return
from smtpd.relay.connection import ConnectionFailure, ConnectionState, Stage
from smtpd.relay.destination import NextHop
from smtpd.relay.destinations import Destinations
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import HostRefused, TlsLevel, TlsWords
from smtpd.slice import RelayLimits, RelaySlice

LIMITS = RelayLimits(
    max_conn_per_host=3,
    max_conn_per_route=2,
    max_conn_per_source=4,
    max_conn_per_connector=3,
    max_conn_per_relay=3,
    max_conn_per_domain=3,
    session_mail_max=4,
    session_keepalive=2,
    max_failures_per_session=3,
)
ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
NUMBERS = (1, 2, 3, 4)  # destinations: two share a domain, all share the hosts
DOMAINS = {1: "there.test", 2: "there.test", 3: "far.test", 4: ""}
START = 1_800_000_000.0
STEPS_MAX = 20_000  # of the end of a play

hops = st.builds(
    lambda name, addresses, rank, level: NextHop(
        MailHost(f"mx{name}.there.test", rank, addresses), rank, words=TlsWords(level), trusted=bool(rank)
    ),
    st.integers(1, 3),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True),
    st.integers(0, 1),
    st.sampled_from((TlsLevel.OPPORTUNISTIC, TlsLevel.VERIFIED, TlsLevel.NEVER)),
)


class RelayModel(RuleBasedStateMachine):
    @initialize(
        sources=st.sampled_from([(), ("198.51.100.1",), ("198.51.100.1", "198.51.100.2", "2001:db8:1::1")]),
        delays=st.booleans(),
        rates=st.booleans(),
    )
    def begin(self, sources, delays, rates):
        self.limits = LIMITS
        if delays:
            self.limits = replace(
                self.limits, conn_delay_host=1, reconn_delay_route=2, conn_delay_domain=1, session_transaction_delay=1
            )
        if rates:
            self.limits = replace(self.limits, message_rate=20, message_rate_per_host=30)
        self.relay = RelaySlice("relay", "here.test", sources=sources)
        self.now = START
        self.random = 0
        self.destinations = Destinations(self.limits, {}, self.next_random, self.now)
        self.left: dict[int, set[int]] = {}  # of each task, envelopes without result
        self.tasks = 0
        self.connections: dict[int, Connect] = {}
        self.states: dict[int, ConnectionState] = {}
        self.given: dict[int, Task] = {}
        self.withdrawn = set()
        self.resolving: set[int] = set()
        self.delayed: dict[int, float] = {}
        self.given_at: dict[int, deque[float]] = {number: deque() for number in NUMBERS}

    def next_random(self):
        self.random = (self.random * 1103515245 + 12345) % 2**31
        return self.random / 2**31

    # -- what the driver does ---------------------------------------------------------------

    def obey(self, actions):
        for action in actions:
            match action:
                case Resolve():
                    assert action.destination not in self.resolving
                    self.resolving.add(action.destination)
                case Connect():
                    assert action.connection not in self.connections
                    assert action.policy.attempt or not action.policy.must_encrypt
                    self.connections[action.connection] = action
                    self.states[action.connection] = ConnectionState.CONNECTING
                    self.check_limits()
                case Abort():
                    assert self.states.pop(action.connection) is ConnectionState.CONNECTING
                    del self.connections[action.connection]
                case Give():
                    assert self.states[action.connection] is ConnectionState.IDLE
                    assert action.task.envelopes == self.left[action.task.id] != set()
                    assert not action.task.envelopes & self.withdrawn
                    assert action.task not in self.given.values()
                    self.states[action.connection] = ConnectionState.BUSY
                    self.given[action.connection] = action.task
                    self.check_rate(self.connections[action.connection].destination)
                case Quit():
                    assert self.states[action.connection] is ConnectionState.IDLE
                    self.states[action.connection] = ConnectionState.QUITTING
                case Report():
                    self.settle(action.task, [result.envelope for result in action.results])
                case Return():
                    self.settle(action.task, action.envelopes)
                case Delay():
                    assert action.until > self.now
                    assert action.reason
                    self.delayed[action.destination] = action.until
                case Resume():
                    self.delayed.pop(action.destination, None)
                case Note():
                    pass

    def settle(self, task, envelopes):
        assert set(envelopes) <= self.left[task], "answered twice"
        assert len(set(envelopes)) == len(envelopes) > 0
        self.left[task] -= set(envelopes)
        if not self.left[task]:
            del self.left[task]

    def check_limits(self):
        count = Counter()
        for connect in self.connections.values():
            path = connect.path
            count["host", path.address] += 1
            count["route", path] += 1
            count["source", path.source] += 1
            count["connector", path.source, connect.destination] += 1
            count["relay", connect.destination] += 1
            count["domain", DOMAINS[connect.destination]] += 1
        most = {
            "host": self.limits.max_conn_per_host,
            "route": self.limits.max_conn_per_route,
            "connector": self.limits.max_conn_per_connector,
            "relay": self.limits.max_conn_per_relay,
        }
        if self.relay.sources:
            most["source"] = self.limits.max_conn_per_source
        for key, number in count.items():
            if key[0] in most:
                assert number <= most[key[0]], key
            if key[0] == "domain" and key[1]:
                assert number <= self.limits.max_conn_per_domain, key

    def check_rate(self, destination):
        if self.limits.message_rate:
            times = self.given_at[destination]
            times.append(self.now)
            while times[0] <= self.now - 60:
                times.popleft()
            assert len(times) <= self.limits.message_rate

    # -- what may happen -----------------------------------------------------------------------

    @rule(
        number=st.sampled_from(NUMBERS),
        count=st.integers(1, 3),
        require_tls=st.sampled_from((False, False, False, True)),
    )
    def add(self, number, count, require_tls):
        self.tasks += 1
        envelopes = {self.tasks << 32 | index for index in range(1, count + 1)}
        self.left[self.tasks] = set(envelopes)
        task = Task(self.tasks, number, envelopes, require_tls)
        self.obey(self.destinations.add(task, self.relay, DOMAINS[number], self.now))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def forget(self, data):
        task = data.draw(st.sampled_from(sorted(self.left)))
        del self.left[task]
        self.obey(self.destinations.forget(task, self.now))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def withdraw(self, data):
        """Of a task that waits, or whose connection waits for its content."""
        task = data.draw(st.sampled_from(sorted(self.left)))
        envelope = data.draw(st.sampled_from(sorted(self.left[task])))
        self.obey(self.destinations.withdraw(task, envelope, self.now))
        assert envelope not in self.left.get(task, ())

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def withdraw_from_retry(self, data):
        """Of a task that is being sent."""
        task = data.draw(st.sampled_from(sorted(task.id for task in self.given.values())))
        if task in self.left:  # not forgotten
            envelope = data.draw(st.sampled_from(sorted(self.left[task])))
            self.withdrawn.add(envelope)
            self.destinations.withdraw_from_retry(task, envelope)

    @precondition(lambda self: self.resolving)
    @rule(data=st.data(), found=st.lists(hops, min_size=1, max_size=4), seconds=st.integers(5, 100))
    def hosts_found(self, data, found, seconds):
        number = data.draw(st.sampled_from(sorted(self.resolving)))
        self.resolving.discard(number)
        self.obey(self.destinations.hosts_found(number, found, seconds, self.now))

    @precondition(lambda self: self.resolving)
    @rule(data=st.data(), code=st.sampled_from((451, 556)), seconds=st.integers(5, 60))
    def hosts_not_found(self, data, code, seconds):
        number = data.draw(st.sampled_from(sorted(self.resolving)))
        self.resolving.discard(number)
        refusal = HostRefused(code, f"{code // 100}.1.10", "no host")
        self.obey(self.destinations.hosts_not_found(number, refusal, seconds, self.now))

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), good=st.booleans(), encrypted=st.booleans())
    def go_on(self, data, good, encrypted):
        number = data.draw(st.sampled_from(sorted(self.connections)))
        match self.states[number]:
            case ConnectionState.CONNECTING if good:
                self.states[number] = ConnectionState.GREETING
                self.obey(self.destinations.connected(number, self.now))
            case ConnectionState.GREETING if good:
                self.greet(number, encrypted)
            case ConnectionState.BUSY:
                self.answer(number, data.draw(st.sampled_from(list(Outcome)[:3])), data.draw(st.sampled_from((0, 421))))
            case ConnectionState.QUITTING:
                self.end(number, Stage.SESSION)
            case _:
                pass

    def greet(self, number, encrypted):
        policy = self.connections[number].policy
        self.states[number] = ConnectionState.IDLE
        encrypted = policy.attempt and (encrypted or policy.must_encrypt)
        self.obey(self.destinations.ready(number, encrypted, self.now))

    def answer(self, number, outcome, code=0):
        task = self.given.pop(number)
        results = [RelayResult(envelope, outcome, "", code) for envelope in self.left.get(task.id, ())]
        self.states[number] = ConnectionState.IDLE
        self.obey(self.destinations.tried(number, results, self.now))

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), code=st.sampled_from((0, 421, 554)), uncertain=st.booleans(), untouched=st.booleans())
    def lose(self, data, code, uncertain, untouched):
        number = data.draw(st.sampled_from(sorted(self.connections)))
        stage = {
            ConnectionState.CONNECTING: (Stage.CONNECT, Stage.RESOURCES, Stage.ADDRESS),
            ConnectionState.GREETING: (Stage.GREETING, Stage.TLS, Stage.AUTHENTICATION),
        }.get(self.states[number], (Stage.SESSION,))
        self.end(number, data.draw(st.sampled_from(stage)), code, uncertain, untouched)

    def end(self, number, stage, code=0, uncertain=False, untouched=False):
        task = self.given.pop(number, None)
        results = []
        if task is not None and not untouched and task.id in self.left:
            results = [RelayResult(envelope, Outcome.FAILED, "", 550) for envelope in sorted(self.left[task.id])[1:]]
        del self.connections[number], self.states[number]
        failure = ConnectionFailure(stage, "lost", code, uncertain=uncertain, untouched=untouched)
        self.obey(self.destinations.ended(number, failure, results, self.now))

    @rule(seconds=st.sampled_from((0.1, 0.3, 1.0, 2.5, 20.0, 4000.0)))
    def wait(self, seconds):
        self.now += seconds
        self.obey(self.destinations.tick(self.now))

    @rule(number=st.sampled_from(NUMBERS))
    def resume(self, number):
        self.obey(self.destinations.resume(number, self.now))

    # -- the end: all goes well, and everything has to come through --------------------------------

    def teardown(self):
        if not hasattr(self, "destinations"):
            return
        for _ in range(STEPS_MAX):
            if not self.step():
                break
        else:
            pytest.fail("does not come to rest")
        assert not self.left, "forgotten"
        assert not self.connections
        assert not len(self.destinations._tasks) and not len(self.destinations._connections)
        assert not any(host.connections or host.working for host in self.destinations.hosts._hosts.values())
        places = self.destinations._connections.places._entries.values()
        assert not any(entry.holders or entry.waiting for entry in places), "a place is lost"

    def step(self):
        if self.resolving:
            number = self.resolving.pop()
            good = [NextHop(MailHost("mx1.there.test", 0, list(ADDRESSES)), words=TlsWords(), trusted=True)]
            self.obey(self.destinations.hosts_found(number, good, 3600, self.now))
            return True
        for number, state in self.states.items():
            match state:
                case ConnectionState.CONNECTING:
                    self.states[number] = ConnectionState.GREETING
                    self.obey(self.destinations.connected(number, self.now))
                    return True
                case ConnectionState.GREETING:
                    self.greet(number, True)
                    return True
                case ConnectionState.BUSY:
                    self.answer(number, Outcome.DELIVERED)
                    return True
                case ConnectionState.QUITTING:
                    self.end(number, Stage.SESSION)
                    return True
        time = self.destinations.next_time()
        if time is None:
            return False
        self.now = max(self.now, time)
        self.obey(self.destinations.tick(self.now))
        return True


TestRelayModel = RelayModel.TestCase
TestRelayModel.settings = settings(max_examples=100, stateful_step_count=60)
