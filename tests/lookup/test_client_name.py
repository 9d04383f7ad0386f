"""Names of clients, from a name server that the test plays on 127.0.0.1."""

import asyncio
import socket
import time

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.imsg import ClientResolved, ResolveClient
from smtpd.ipc.log import log
from smtpd.lookup import client_name, resolver
from smtpd.lookup.dns_message import RECORDS_MAX, DnsQuestion, RecordType
from smtpd.lookup.resolver_config import ResolverConfig, server_at
from tests.lookup.name_server import Zone, serve

REVERSE = "1.2.0.192.in-addr.arpa."
ADDRESS = "192.0.2.1"


def start(house, *zones):
    """Each has a port, the same for datagrams and streams."""
    house.lookup.clients._resolver._servers = [serve(house, zone) for zone in zones]


@pytest.fixture
def impatient(monkeypatch):
    """For tests in which a server says nothing of use."""
    monkeypatch.setattr(resolver, "FIRST_TIMEOUT", 0.05)
    monkeypatch.setattr(resolver, "SECOND_TIMEOUT", 0.05)


@pytest.fixture
def resolve(house):
    """resolve(zone, address) -> (name, confirmed), as a dispatcher hears it."""
    houses = {}

    def resolve(zone, address=ADDRESS, system=None):
        if id(zone) not in houses:
            made = houses[id(zone)] = house(system)
            if zone is not None:
                start(made, zone)
        made = houses[id(zone)]
        request = len(made.heard) + 1
        answer = made.ask(ResolveClient(request, address))
        assert isinstance(answer, ClientResolved)
        return answer.name, answer.confirmed

    return resolve


def named(*names):
    return Zone().add(REVERSE, "PTR", *names)


def test_a_name_that_leads_back_is_confirmed(resolve):
    assert resolve(named("Mail.There.Test.").add("mail.there.test.", "A", "192.0.2.7", ADDRESS)) == (
        "mail.there.test",
        True,
    )


def test_a_name_with_another_address_is_not_confirmed(resolve):
    assert resolve(named("mail.there.test.").add("mail.there.test.", "A", "192.0.2.7")) == ("mail.there.test", False)
    assert resolve(named("mail.there.test.")) == ("mail.there.test", False)


def test_of_several_names_the_confirmed_one_is_taken(resolve):
    zone = named("a.test.", "b.test.").add("b.test.", "A", ADDRESS)
    assert resolve(zone) == ("b.test", True)


def test_an_address_of_version_six(resolve):
    name = "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa."
    zone = Zone().add(name, "PTR", "six.test.").add("six.test.", "AAAA", "2001:db8::1")
    assert resolve(zone, "2001:db8::1") == ("six.test", True)


def test_a_reverse_name_may_be_an_alias(resolve):
    """RFC 2317"""
    zone = Zone().add("mail.test.", "A", ADDRESS)
    zone.records[REVERSE, "PTR"] = [
        (REVERSE, "CNAME", "1.0-63.2.0.192.in-addr.arpa."),
        ("1.0-63.2.0.192.in-addr.arpa.", "PTR", "mail.test."),
    ]
    assert resolve(zone) == ("mail.test", True)


def test_no_name(resolve):
    zone = Zone()
    assert resolve(zone) == resolve(zone) == ("", False)
    assert zone.asked == [(REVERSE, "PTR")], "that there is none is remembered"


def test_a_cached_answer_is_not_asked_again(resolve):
    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    assert [resolve(zone), resolve(zone)] == [("mail.test", True)] * 2
    assert len(zone.asked) == 2


def test_many_connections_from_one_address_ask_once(house):
    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    house = house()
    start(house, zone)

    async def scenario():
        for request in range(1, 101):
            house.theirs["dispatcher1"].send(ResolveClient(request, ADDRESS))
        await house.until(lambda: len(house.sent(ClientResolved)) == 100)

    house.run(scenario())
    assert len(zone.asked) == 2


def test_the_hosts_file_comes_first(resolve):
    system = ResolverConfig((), {ADDRESS: "known"}, {"mail.test": frozenset([ADDRESS])})
    assert resolve(None, ADDRESS, system) == ("known", True)


def test_a_name_may_be_confirmed_by_the_hosts_file(resolve):
    system = ResolverConfig((), {}, {"mail.test": frozenset([ADDRESS])})
    assert resolve(named("mail.test."), ADDRESS, system) == ("mail.test", True)


@pytest.mark.parametrize(
    "address, answer", [("local", ("localhost", True)), ("nonsense", ("", False)), ("", ("", False))]
)
def test_what_is_no_address(resolve, address, answer):
    assert resolve(None, address) == answer


def test_without_a_name_server_there_is_no_name(resolve):
    assert resolve(None) == ("", False)


# -- answers that somebody else wrote ---------------------------------------------------


def test_truncated_answers_are_fetched_over_tcp(resolve):
    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    zone.by_stream = True
    assert resolve(zone) == ("mail.test", True)


def test_a_stream_in_pieces(resolve):
    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    zone.by_stream = lambda wire: [bytes([byte]) for byte in len(wire).to_bytes(2) + wire]
    assert resolve(zone) == ("mail.test", True)


@pytest.mark.parametrize(
    "stream",
    [
        lambda wire: [],
        lambda wire: [b"\0"],
        lambda wire: [len(wire).to_bytes(2) + wire[:-1]],
        lambda wire: [b"\xff\xff" + wire],
        lambda wire: [b"\0\0"],
        lambda wire: [b"\0\x0c" + b"x" * 12],
    ],
)
def test_a_stream_that_is_no_answer(resolve, impatient, stream):
    zone = named("mail.test.")
    zone.by_stream = stream
    assert resolve(zone) == ("", False)


def test_silence_ends(resolve, impatient):
    zone = named("mail.test.")
    zone.twist = lambda query, answer: []
    assert resolve(zone) == ("", False)
    assert len(zone.asked) == 2


def test_the_next_server_is_asked(house, monkeypatch):
    monkeypatch.setattr(resolver, "FIRST_TIMEOUT", 0.2)
    silent, zone = Zone(twist=lambda query, answer: []), named("mail.test.").add("mail.test.", "A", ADDRESS)
    house = house()
    start(house, silent, zone)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = server_at(*closed.getsockname())
    house.lookup.clients._resolver._servers.insert(0, nobody)
    assert house.ask(ResolveClient(1, ADDRESS)) == ClientResolved(1, "mail.test", True)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR])
def test_a_server_failure_is_no_answer(resolve, rcode):
    zone = named("mail.test.")

    def fail(query, answer):
        answer.set_rcode(rcode)
        answer.answer.clear()
        return [answer.to_wire()]

    zone.twist = fail
    assert resolve(zone) == ("", False)


def wrong_number(query, answer):
    return [bytes([wire[0] ^ 1]) + wire[1:] for wire in [answer.to_wire()]]


def wrong_question(query, answer):
    other = dns.message.make_query("other.test.", "PTR", id=query.id)
    return [dns.message.make_response(other).to_wire()]


def question_only(query, answer):
    return [query.to_wire()]


TWISTS = [
    wrong_number,
    wrong_question,
    question_only,
    lambda query, answer: [b""],
    lambda query, answer: [b"x"],
    lambda query, answer: [answer.to_wire()[:-20]],
    lambda query, answer: [answer.to_wire()[:12]],
    lambda query, answer: [answer.to_wire()[:6] + b"\xff\xff" + answer.to_wire()[8:]],
    lambda query, answer: [answer.to_wire()[:2] + b"\x84\x00\x00\x01\x00\x40\x00\x00\x00\x00" + b"\xc0\x0c" * 500],
]


@pytest.mark.parametrize("twist", TWISTS)
def test_messages_that_do_not_answer_the_question_are_ignored(resolve, impatient, twist):
    zone = named("evil.test.")
    zone.twist = twist
    assert resolve(zone) == ("", False)


@pytest.mark.parametrize("twist", TWISTS)
def test_a_forged_answer_does_not_keep_the_true_one_out(resolve, twist):
    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    zone.twist = lambda query, answer: [*twist(query, answer), answer.to_wire()]
    assert resolve(zone) == ("mail.test", True)


@pytest.mark.parametrize(
    "name",
    [
        "192.0.2.9.",
        "a\\032b.test.",
        "a\\010b.test.",
        "\\000.test.",
        "\\(x\\).test.",
        "a\\.b\\\\.test.",
        ".",
        "\\195\\164.test.",
    ],
)
def test_a_name_that_is_no_host_name_does_not_exist(resolve, name):
    assert resolve(named(name)) == ("", False)


def test_aliases_in_a_circle(resolve):
    zone = Zone()
    zone.records[REVERSE, "PTR"] = [(REVERSE, "CNAME", "a.test."), ("a.test.", "CNAME", REVERSE)]
    assert resolve(zone) == ("", False)


def test_of_many_records_the_first_are_read(resolve):
    zone = named(*[f"n{n}.test." for n in range(500)]).add("n0.test.", "A", ADDRESS)
    zone.by_stream = True
    assert resolve(zone) == ("n0.test", True)


def test_an_answer_that_is_made_to_cost_much_costs_little():
    """Long names, all alike up to their end, by pointers to the first one."""
    head = bytearray(QUERY.to_wire())
    head[2] |= 0x80
    parts = b"".join(b"\1" + bytes([97 + n % 26]) for n in range(110)) + b"\0"
    owner = b"\xc0\x0c\0\x0c\0\1\0\0\0\x3c"
    pointer = (0xC000 | len(head) + len(owner) + 2).to_bytes(2)
    names = [parts, *[b"\1" + bytes([48 + n % 10]) + b"\1" + bytes([97 + n // 10]) + pointer for n in range(200)]]
    head[6:8] = len(names).to_bytes(2)
    begun = time.process_time()
    assert QUESTION.read(bytes(head) + b"".join(owner + len(name).to_bytes(2) + name for name in names)).records
    assert time.process_time() - begun < 0.05


def test_only_a_few_names_are_followed(resolve):
    zone = named(*[f"n{n}.test." for n in range(20)])
    name, confirmed = resolve(zone)
    assert not confirmed and name.endswith(".test")
    assert len(zone.asked) == 1 + client_name.PTR_NAMES_MAX


def test_a_ptr_record_that_claims_localhost(resolve):
    system = ResolverConfig((), {}, {"localhost": frozenset(["127.0.0.1"])})
    assert resolve(named("localhost."), ADDRESS, system) == ("localhost", False)


def test_a_name_server_that_answers_for_nothing_costs_nothing_but_names(house, monkeypatch):
    """More addresses than may be asked about at a time, all answered by the deadline."""
    monkeypatch.setattr(client_name, "LOOKUP_TIMEOUT", 1.0)
    house = house()
    zone = Zone(twist=lambda query, answer: [])
    start(house, zone)

    async def scenario():
        for request in range(600):
            house.theirs["dispatcher1"].send(ResolveClient(request, f"198.51.{request % 3}.{request // 3}"))
        await house.until(lambda: len(house.sent(ClientResolved)) == 600)
        await house.until(lambda: not house.lookup.clients._tasks)

    house.run(scenario())
    assert 0 < len(zone.asked) < 600


class CountingSlots(asyncio.Semaphore):
    """`cancelled`: how often the wait for a slot was cut off."""

    cancelled = 0

    async def acquire(self):
        try:
            return await super().acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_the_wait_for_a_slot_ends_in_time_without_a_time_out_of_its_own(house, monkeypatch):
    """Each of them would have all others that wait looked through."""
    monkeypatch.setattr(client_name, "LOOKUP_TIMEOUT", 0.3)
    house = house()
    start(house, Zone(twist=lambda query, answer: []))
    slots = house.lookup.clients._slots = CountingSlots(2)

    async def scenario():
        for request in range(50):
            house.theirs["dispatcher1"].send(ResolveClient(request, f"198.51.100.{request}"))
        await house.until(lambda: len(house.sent(ClientResolved)) == 50)
        await house.until(lambda: not house.lookup.clients._tasks)

    begun = time.monotonic()
    house.run(scenario())
    assert time.monotonic() - begun < 3 and slots.cancelled == 0


def test_an_exception_of_ours_costs_one_name(house, monkeypatch, capfd):
    house = house()

    async def broken(address):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(house.lookup.clients._resolver, "names", broken)
    assert house.ask(ResolveClient(1, ADDRESS)) == ClientResolved(1, "", False)
    log.flush()
    assert f"name of {ADDRESS}: ZeroDivisionError" in capfd.readouterr().err


def test_an_exception_over_an_answer_costs_one_name(resolve, monkeypatch, capfd):
    def broken(self, data):
        raise ZeroDivisionError("ours")

    zone = named("mail.test.").add("mail.test.", "A", ADDRESS)
    with monkeypatch.context() as patched:
        patched.setattr(DnsQuestion, "read", broken)
        assert resolve(zone, "192.0.2.9") == ("", False)
    assert resolve(zone) == ("mail.test", True)
    log.flush()
    assert "name of 192.0.2.9: ZeroDivisionError" in capfd.readouterr().err


QUESTION = DnsQuestion(0x1234, dns.name.from_text(REVERSE), RecordType.PTR)
QUERY = dns.message.from_wire(QUESTION.to_wire())
ANSWER = dns.message.make_response(QUERY)
ANSWER.answer.append(dns.rrset.from_text(REVERSE, 60, "IN", "PTR", "mail.test.", "other.test."))
WIRE = ANSWER.to_wire()


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=100),
        st.binary(max_size=200).map(lambda data: WIRE[:2] + data),
        st.tuples(st.integers(2, len(WIRE) - 1), st.binary(min_size=1, max_size=4)).map(
            lambda edit: WIRE[: edit[0]] + edit[1] + WIRE[edit[0] + len(edit[1]) :]
        ),
        st.integers(0, len(WIRE)).map(lambda end: WIRE[:end]),
    )
)
def test_any_bytes_are_an_answer_or_ignored(data):
    answer = QUESTION.read(data)
    assert answer is None or len(answer.records) <= RECORDS_MAX
