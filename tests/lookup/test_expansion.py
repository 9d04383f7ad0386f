"""From what a client named to who gets it, and what a .forward may do to that."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.model import Condition, Match
from smtpd.envelope import Kind, Origin, Recipient
from smtpd.imsg import AddEnvelopes
from smtpd.ipc.declaration import DEFAULT_LIMIT
from smtpd.lookup.expansion import DEPTH, NODES, Expanded, Expansion, FindUser, Forward, ReadForward, Refusal
from smtpd.lookup.rule import Rules
from smtpd.tables.expansion import Malformed, parse_forward
from smtpd.tables.file import FileTable
from smtpd.tables.inline import ListTable

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)

TABLES = {
    "localhost": ListTable("localhost", ["local", "127.0.0.1"]),
    "localnames": ListTable("localnames", ["mx.here.test", "here.test"]),
}
ANY = Condition("any")
RULES = Rules([Match("in", ANY, Condition("local"))], TABLES)


class World:
    """Users, and what their .forward says: text, or a Forward."""

    def __init__(self, forwards=(), rules=RULES, **verdicts):
        self.forwards = dict(forwards)
        self.verdicts = verdicts
        self.rules = rules
        self.asked = []

    def expand(self, recipient, delimiter="+"):
        steps = Expansion(self.rules, delimiter, "mx.here.test", ORIGIN, recipient).steps()
        answer = None
        while True:
            try:
                question = next(steps) if answer is None else steps.send(answer)
            except StopIteration as end:
                return end.value
            self.asked.append(question)
            answer = self.answer(question)

    def answer(self, question):
        match question:
            case FindUser(name):
                return self.verdicts.get(name, "user" if name in self.forwards else "unknown")
            case ReadForward(user):
                return self.forward(self.forwards[user])

    def forward(self, said):
        if isinstance(said, Forward):
            return said
        if said is None:
            return Forward("none")
        try:
            return Forward("text", tuple(parse_forward(said.encode())))
        except Malformed as error:
            return Forward("malformed", reason=str(error))


def users(world, recipient):
    """Names and extensions that a recipient comes to."""
    expanded = world.expand(recipient)
    assert isinstance(expanded, Expanded), expanded
    return [f"{to.user}+{to.extension}" if to.extension else to.user for to in expanded.recipients]


def refused(world, recipient, code, enhanced):
    refusal = world.expand(recipient)
    assert isinstance(refusal, Refusal), refusal
    assert (refusal.code, refusal.enhanced) == (code, enhanced)
    return refusal


# -- who it is for ---------------------------------------------------------------


def test_a_user():
    expanded = World(dict(bob=None)).expand("bob@here.test")
    assert expanded == Expanded((Recipient("bob@here.test", "bob@here.test", "in", Kind.MDA, "bob", ""),))


def test_a_sub_address_becomes_the_extension():
    world = World(dict(bob=None))
    assert users(world, "bob+lists@here.test") == ["bob+lists"]
    assert users(world, "bob+lists+more@here.test") == ["bob+lists+more"]
    assert users(world, "bob+@here.test") == ["bob"]


def test_the_delimiter_is_the_configured_one():
    world = World(dict(bob=None))
    expanded = world.expand("bob-lists@here.test", "-")
    assert [to.extension for to in expanded.recipients] == ["lists"]
    assert world.expand("bob+lists@here.test", "-").code == 550


def test_names_of_users_have_no_case():
    assert users(World(dict(bob=None)), "BoB+Lists@HERE.test") == ["bob+lists"]


def test_the_envelope_keeps_the_name_the_client_used():
    (to,) = World(dict(bob="amy", amy=None)).expand("Bob@Here.test").recipients
    assert (to.recipient, to.destination, to.user) == ("Bob@Here.test", "Bob@Here.test", "amy")


def test_postmaster_without_a_domain_is_the_one_of_this_server():
    (to,) = World(dict(postmaster=None)).expand("Postmaster").recipients
    assert (to.recipient, to.destination, to.user) == ("Postmaster", "Postmaster@mx.here.test", "postmaster")


def test_an_unknown_user_is_refused():
    refusal = refused(World(), "nobody@here.test", 550, "5.1.1")
    assert refusal.text == "Invalid recipient: <nobody@here.test>"


def test_relaying_is_refused():
    world = World(dict(bob=None))
    refused(world, "bob@there.test", 550, "5.7.1")
    assert world.asked == []


@pytest.mark.parametrize("verdict", ["root", "daemon"])
def test_root_and_daemons_receive_nothing(verdict):
    world = World(dict(root=None), root=verdict)
    refused(world, "root@here.test", 550, "5.2.1")
    assert world.asked == [FindUser("root")]


@pytest.mark.parametrize("verdict", ["later", "nonsense", ""])
def test_a_user_that_cannot_be_looked_up_now_is_for_later(verdict):
    refused(World(dict(bob=None), bob=verdict), "bob@here.test", 451, "4.3.0")


def test_a_silent_table_is_for_later():
    tables = TABLES | {"localnames": FileTable("localnames", "/nowhere")}
    refusal = refused(World(rules=Rules([Match("in", ANY)], tables)), "bob@here.test", 451, "4.3.0")
    assert "localnames" in refusal.reason and "localnames" not in refusal.text


@pytest.mark.parametrize(
    "local",
    [
        "a/b",
        "../etc",
        "..",
        ".",
        "-x",
        "+x",
        "",
        "bob;id",
        "$(id)",
        "bob\\",
        '"bob smith"',
        "böb",
        "x" * 33,
        "%n",
        "a b",
    ],
)
def test_what_can_be_no_name_of_a_user_is_refused_without_asking(local):
    world = World()
    refused(world, f"{local}@here.test", 550, "5.1.1")
    assert world.asked == []


def test_letters_that_grow_in_lower_case_fit_no_imsg_and_no_user():
    refused(World(), "İ" * 250 + "@here.test", 550, "5.1.1")
    refused(World(dict(bob=None)), "bob+" + "İ" * 250 + "@here.test", 550, "5.1.1")


def test_a_reply_is_never_too_long_for_its_imsg():
    assert len(refused(World(), "x" * 1000 + "@here.test", 550, "5.1.1").text) <= 1024


def test_a_name_that_the_server_name_makes_too_long_is_refused():
    refused(World(), "bob+" + "x" * 1020, 550, "5.1.1")


# -- .forward ---------------------------------------------------------------------


def test_an_empty_forward_is_none():
    assert users(World(dict(bob="")), "bob@here.test") == ["bob"]
    assert users(World(dict(bob="# amy\n")), "bob@here.test") == ["bob"]


def test_mail_is_forwarded_to_users_and_addresses():
    world = World(dict(bob="amy, eve+x@here.test", amy=None, eve=None))
    assert users(world, "bob+lists@here.test") == ["amy", "eve+x"]


def test_the_own_name_means_the_mailbox():
    assert users(World(dict(bob="bob, amy", amy=None)), "bob@here.test") == ["bob", "amy"]
    assert users(World(dict(bob="\\bob")), "bob@here.test") == ["bob"]
    assert users(World(dict(bob="Bob+kept")), "bob@here.test") == ["bob+kept"]


def test_an_address_that_leads_to_oneself_means_the_mailbox():
    assert sorted(users(World(dict(bob="bob@here.test, amy", amy=None)), "bob@here.test")) == ["amy", "bob"]
    assert sorted(users(World(dict(bob="bob@mx.here.test, amy", amy=None)), "bob@here.test")) == ["amy", "bob"]


def test_an_address_in_a_forward_is_judged_as_mail_from_here():
    rules = Rules([Match("in", ANY, Condition("local")), Match("out", Condition("local"), ANY)], TABLES)
    world = World(dict(bob="bob, eve@there.test", eve=None), rules)
    assert [(to.action, to.user) for to in world.expand("bob@here.test").recipients] == [("in", "bob"), ("out", "eve")]
    refused(World(dict(eve=None), rules), "eve@there.test", 550, "5.7.1")


def test_the_same_mailbox_gets_one_copy():
    world = World(dict(bob="amy, amy, AMY, amy@here.test, eve", amy=None, eve="amy"))
    assert users(world, "bob@here.test") == ["amy"]


def test_one_member_that_is_refused_refuses_all():
    refused(World(dict(bob="amy, nobody", amy=None)), "bob@here.test", 550, "5.1.1")
    refused(World(dict(bob="amy, x@there.test", amy=None)), "bob@here.test", 550, "5.7.1")
    refused(World(dict(bob="amy, root", amy=None, root=None), root="root"), "bob@here.test", 550, "5.2.1")


@pytest.mark.parametrize("said", ["|cmd", '"|cmd"', "/tmp/x", ":include:/etc/staff", "error:550 gone", "bob, |cmd"])
def test_what_is_not_available_yet_is_for_later_and_not_dropped(said):
    refusal = refused(World(dict(bob=said)), "bob@here.test", 424, "4.2.4")
    assert "cmd" not in refusal.text and "/" not in refusal.text


def test_a_forward_that_cannot_be_understood_is_for_later_and_not_repeated():
    refusal = refused(World(dict(bob="root:$6$secret:1")), "bob@here.test", 424, "4.2.4")
    assert "secret" not in refusal.text + refusal.reason


def test_a_forward_that_is_not_acceptable_is_refused():
    refusal = refused(World(dict(bob=Forward("refused", reason="not owned by bob"))), "bob@here.test", 524, "5.2.4")
    assert "owned" not in refusal.text and "owned" in refusal.reason


@pytest.mark.parametrize("verdict", ["later", "nonsense"])
def test_a_forward_that_cannot_be_read_now_is_for_later(verdict):
    refused(World(dict(bob=Forward(verdict, reason="its agent is silent"))), "bob@here.test", 451, "4.3.0")


# -- what would not end --------------------------------------------------------------


def test_two_that_forward_to_each_other_are_refused():
    refused(World(dict(bob="amy", amy="bob")), "bob@here.test", 524, "5.2.4")
    refused(World(dict(bob="amy@here.test", amy="bob@here.test")), "bob@here.test", 524, "5.2.4")


def test_a_loop_beside_a_mailbox_delivers_to_the_mailbox():
    assert users(World(dict(bob="bob, amy", amy="bob")), "bob@here.test") == ["bob"]


def chain(length):
    return {f"u{n}": f"u{n + 1}" for n in range(length)} | {f"u{length}": None}


def test_a_long_way_is_refused():
    assert users(World(chain(DEPTH - 2)), "u0@here.test") == ["u8"]
    refused(World(chain(DEPTH - 1)), "u0@here.test", 524, "5.2.4")


def test_a_way_that_grows_by_its_sub_address_is_refused():
    refused(World(dict(bob="amy+x", amy="bob+y")), "bob@here.test", 524, "5.2.4")


def test_so_many_addresses_and_one_more():
    """The recipient itself and its user are nodes too."""
    many = {f"u{n}": None for n in range(NODES)}
    fits = ", ".join(f"u{n}" for n in range(NODES - 2))
    assert len(users(World(many | dict(bob=fits)), "bob@here.test")) == NODES - 2
    refused(World(many | dict(bob=f"{fits}, u99")), "bob@here.test", 424, "4.2.4")


def test_what_many_users_forward_to_many_is_counted_together():
    world = {f"u{n}": ", ".join(f"v{n}x{m}" for m in range(20)) for n in range(20)} | {"bob": "u0, u1, u2, u3, u4, u5"}
    world |= {f"v{n}x{m}": None for n in range(20) for m in range(20)}
    refused(World(world), "bob@here.test", 424, "4.2.4")


names = st.sampled_from([f"u{n}" for n in range(6)])
members = st.one_of(names, names.map(lambda name: f"{name}@here.test"), st.tuples(names, names).map("+".join))
graphs = st.dictionaries(names, st.one_of(st.none(), st.lists(members, max_size=8).map(", ".join)), max_size=6)


@settings(max_examples=200, deadline=None)
@given(graphs)
def test_any_forwards_end_within_the_limits(graph):
    world = World(graph)
    outcome = world.expand("u0@here.test")
    assert len(world.asked) <= 2 * NODES
    if isinstance(outcome, Expanded):
        mailboxes = [(to.action, to.user, to.extension) for to in outcome.recipients]
        assert 0 < len(mailboxes) == len(set(mailboxes)) <= NODES
        assert {user for _, user, _ in mailboxes} <= set(graph)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_recipient_ends_and_fits_its_imsgs(local, forward):
    world = World(dict(bob=forward))
    for recipient in (f"{local}@here.test", f"bob+{local}@here.test", local):
        if not recipient.isprintable():
            continue
        outcome = world.expand(recipient)
        if isinstance(outcome, Expanded):
            encoded = msgspec.msgpack.encode(AddEnvelopes(1, ORIGIN, list(outcome.recipients)))
            assert msgspec.msgpack.decode(encoded, type=AddEnvelopes).recipients == list(outcome.recipients)
            assert len(encoded) <= DEFAULT_LIMIT
