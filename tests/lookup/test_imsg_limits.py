"""Whatever stands in tables, databases, .forward and include files, and whatever programs answer for tables: all that
lookup says because of it can be carried.  The receiver of an imsg that does not fit its type ends the daemon.

CARRIED_EXAMPLES=5000 in the environment tries more.
"""

import os
from types import SimpleNamespace

import dns.name
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd import imsg
from smtpd.envelope import MailParameters, Notify
from smtpd.imsg import TABLE
from smtpd.lookup.destination import Domain, NoHosts, read_destination
from smtpd.lookup.dns_message import DnsFailure, DnsResult, MxRecord, RecordType, TlsaData
from smtpd.lookup.expansion import Expanded
from smtpd.lookup.host_lookup import _answer
from smtpd.lookup.host_records import host_records
from smtpd.lookup.host_selection import Exchangers, select_exchangers, select_hosts
from smtpd.lookup.listener_tables import _classify
from smtpd.lookup.node import ForwardAnswer, ForwardQuestion, ServerQuestion, UserQuestion
from smtpd.lookup.recipient import pages, to_forward_answer
from smtpd.slice import Method
from smtpd.tables.alias_syntax import parse_include
from smtpd.tables.inline import MappingTable
from tests.lookup.world import ORIGIN, World

EXAMPLES = int(os.environ.get("CARRIED_EXAMPLES", "120"))

# What grows when it is put in lower case, what is no UTF-8, what ends a line, what turns the direction of writing.
PIECE = st.sampled_from(
    ["İ", "ß", "\udcff", "\x00", "\x01", "\t", "\n", "\r", "\x7f", "\x85", "\u2028", "\u202e", " ", ",", '"', "\\", "#"]
    + ["a", "bob", "+", "@", "here.test", "@here.test", "|", "/", ":", ":error:550 ", ":include:/", "5.1.1 ", "x" * 250]
    + ["é" * 127, "İ" * 127, "İ" * 130, "/home/", "1000", "4294967294", "4294967295", "%{user.username}", "~", "xn--"]
)
TEXT = st.lists(PIECE, max_size=7).map("".join) | st.text(max_size=20)
VALUE = TEXT | st.builds(lambda pieces: ", ".join(pieces), st.lists(TEXT, max_size=4))
HOME = st.builds("{}:{}:{}".format, *[st.sampled_from(["", "0", "1000", "4294967294", "99999999999"])] * 2, TEXT)
LONG = ["İ" * 127, "a" * 64 + "+" + "b" * 180, "é" * 127, "bob+" + "İ" * 120]
USER = st.sampled_from(["bob", "BOB+Ext", '"a b"', *LONG])


def carried(said):
    """As it comes out at the other end of its channel."""
    declared = TABLE.by_class[type(said)]
    payload = msgspec.msgpack.encode(said)
    assert len(payload) <= declared.limit, type(said)
    assert msgspec.msgpack.decode(payload, type=declared.cls) == said


class Carried(World):
    """Everything that it is asked goes by a channel first."""

    def __init__(self, forward: bytes, include: bytes, **more):
        super().__init__(**more)
        self.forward, self.include = forward, include

    def answer(self, question):
        match question:
            case UserQuestion(name):
                carried(imsg.FindUser(1, name))
                return "user"
            case ForwardQuestion(user, action):
                carried(imsg.ReadForward(1, user, action))
                return to_forward_answer(imsg.ForwardRead(1, "text", self.forward, ""))
            case ServerQuestion(action):
                carried(imsg.AskServerForUtf8(1, action))
                return super().answer(question)
        if hasattr(question, "path"):
            return tuple(parse_include(self.include).targets)
        return super().answer(question)


def check(world, user):
    end = world.expand(f"{user}@here.test")
    if isinstance(end, Expanded):
        for page in pages(end.recipients):
            carried(imsg.AddEnvelopes(1, ORIGIN, page, MailParameters()))
        carried(imsg.EnvelopeExpanded(1, list(end.recipients[:1])))
        for to in end.recipients:
            carried(imsg.ExpandEnvelope(1, ORIGIN, to))
            carried(imsg.StartAgent(1, to.user, to.action, to.duty))
    else:
        carried(imsg.RecipientRefused(1, end.code, end.enhanced, end.text))


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if "\udcff" in text else "surrogatepass")


@settings(max_examples=EXAMPLES, deadline=None)
@given(USER, VALUE, VALUE, HOME, st.sampled_from(list(Method)), st.sampled_from(["", "vmail"]), st.booleans())
def test_what_tables_and_programs_say(user, alias, forward, home, method, as_user, virtual):
    aliases = {"bob": alias, "bob@here.test": alias, "@here.test": alias, "@": alias}
    people = Everybody(home)
    tables = {"aliases": aliases, "people": people}
    world = Carried(
        as_bytes(forward)[:4095],
        as_bytes(alias),
        tables=tables,
        alias_commands="lists",
        method=method,
        userbase="people",
        user=as_user,
        **({"virtual": "aliases"} if virtual else {"alias": "aliases"}),
    )
    check(world, user)


class Everybody(MappingTable):
    """A userbase in which everybody has this home: a database with a pattern, a program."""

    def __init__(self, home):
        super().__init__("people", ())
        self.home = home

    def find(self, service, key):
        return self.home


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=200) | VALUE.map(as_bytes))
def test_what_users_write_into_their_forward(content):
    check(Carried(content, b"", method=Method.MAILDIR), "bob")


@pytest.mark.parametrize("verdict", ["unsafe", "later", "malformed", "refused"])
@settings(max_examples=20, deadline=None)
@given(TEXT)
def test_what_an_agent_says_of_a_forward(verdict, reason):
    class Told(Carried):
        def answer(self, question):
            return (
                ForwardAnswer(verdict, reason=reason)
                if isinstance(question, ForwardQuestion)
                else super().answer(question)
            )

    check(Told(b"", b"", method=Method.MAILDIR), "bob")


@settings(max_examples=EXAMPLES, deadline=None)
@given(TEXT)
def test_the_names_of_this_hosts_addresses(name):
    """The table `hostnames` of a listener: a database, a program."""

    class Door:
        hostnames, xclient = MappingTable("names", [("192.0.2.1", name)]), None

    asked = imsg.ClassifyClient(1, 0, "203.0.113.9", "192.0.2.1")
    try:
        _classify(Door, asked).send(None)
    except StopIteration as end:
        carried(end.value)


def test_the_longest_that_a_client_may_name_is_carried():
    """In both directions, in letters of four bytes."""
    long = "\U00010400" * 63  # 252 octets
    recipient = f"{long}@{long}.test"
    carried(imsg.ExpandRecipient(1, 1, ORIGIN, recipient, MailParameters(), Notify(0), recipient))


# -- hosts: what the owners of names write into the DNS ---------------------------------------------


LABEL = st.binary(min_size=1, max_size=63) | st.sampled_from([b"mx", b"there", b"x" * 63, b"localhost", b"1"])
DNS_NAME = (
    st.lists(LABEL, max_size=5)
    .filter(lambda labels: sum(map(len, labels)) + len(labels) < 254)
    .map(lambda labels: dns.name.Name([*labels, b""]).to_text(omit_final_dot=True))
)
MX_RECORDS = st.lists(st.builds(MxRecord, st.integers(0, 65535), DNS_NAME), max_size=30)
TLSA_DATA = st.builds(TlsaData, *[st.integers(0, 4)] * 3, st.sampled_from([b"", b"x" * 32, b"x" * 64, b"x" * 4000]))
ADDRESSES = st.lists(st.ip_addresses().map(str) | st.sampled_from(["127.0.0.1", "::", "198.51.100.1"]), max_size=12)
DNS_VALUES = {RecordType.A: ADDRESSES, RecordType.AAAA: ADDRESSES, RecordType.CNAME: st.lists(DNS_NAME, max_size=1)}
DNS_VALUES |= {RecordType.TLSA: st.lists(TLSA_DATA, max_size=20)}


def records_of(data, name):
    """What comes out of whatever is answered to the questions about a host."""
    steps = host_records(name, 25, dane=True)
    questions = next(steps)
    while True:
        answers = []
        for asked in questions:
            result = st.builds(
                DnsResult, DNS_VALUES[asked.kind].map(tuple), st.just(9), st.booleans(), st.booleans(), DNS_NAME
            )
            answers.append(data.draw(result | st.just(DnsFailure("the name server answered SERVFAIL", 30))))
        try:
            questions = steps.send(tuple(answers))
        except StopIteration as end:
            return end.value


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), MX_RECORDS, st.text() | st.sampled_from(LONG))
def test_whatever_the_dns_says_of_hosts_can_be_carried(data, records, name):
    asked, sent = imsg.FindHosts(1, name, True, 25, True), []
    match read_destination(name, mx=True):
        case Domain(domain):
            pass
        case NoHosts() as missing:
            _answer(SimpleNamespace(send=sent.append), asked, (missing, False, ""), 60)
            domain = "there.test"
        case _:
            domain = "there.test"
    selected = select_exchangers(domain, DnsResult(tuple(records), 60), frozenset(["mx.here.test"]), lambda alike: None)
    if isinstance(selected, Exchangers):
        found = [records_of(data, record.host) for record in selected.records]
        selected = select_hosts(domain, selected, found, "198.51.100.1".__eq__)
    _answer(SimpleNamespace(send=sent.append), asked, (selected, True, "1" * 32), 60)
    for said in sent:
        carried(said)
