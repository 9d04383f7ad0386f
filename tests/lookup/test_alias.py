"""Aliases, virtual addresses, and what they may name."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty, Kind, MailParameters
from smtpd.imsg import AddEnvelopes
from smtpd.lookup.expansion import FORWARD_NODES_MAX, NODES_MAX, Expanded
from smtpd.lookup.node import ForwardQuestion, UserQuestion
from smtpd.lookup.refusal import Refusal
from smtpd.slice import Condition, ExpansionSlice, Match, Method, Operand
from smtpd.tables.alias_syntax import Command, File, digest
from smtpd.tables.inline import ListTable
from tests.lookup.world import ANY, IN, ORIGIN, World, reached, refused

USERS = {name: None for name in ("bob", "amy", "eve", "vmail")}


def aliased(entries, forwards=(), **more):
    return World(USERS | dict(forwards), tables={"aliases": entries}, alias="aliases", **more)


def virtual(entries, forwards=(), **more):
    return World(USERS | dict(forwards), tables={"virtual": entries}, virtual="virtual", **more)


# -- aliases ---------------------------------------------------------------------------


def test_an_alias_is_replaced_by_what_it_names():
    world = aliased({"staff": "bob, amy@here.test, eve+x"})
    assert reached(world, "staff@here.test") == ["bob", "eve+x", "amy"]
    assert UserQuestion("staff") not in world.asked


def test_an_alias_has_no_case():
    assert reached(aliased({"Staff": "Bob"}), "STAFF@here.test") == ["bob"]


def test_a_name_that_is_no_alias_is_a_user():
    assert reached(aliased({"staff": "bob"}), "amy+x@here.test") == ["amy+x"]


def test_the_whole_name_is_looked_up_before_the_one_without_its_sub_address():
    world = aliased({"sales": "bob", "sales+eu": "amy"})
    assert reached(world, "sales+eu@here.test") == ["amy"]
    assert reached(world, "sales+us@here.test") == ["bob"]
    assert reached(world, "sales@here.test") == ["bob"]


def test_an_alias_may_lead_to_an_alias():
    assert reached(aliased({"staff": "sales, eve", "sales": "bob, amy"}), "staff@here.test") == ["eve", "bob", "amy"]


def test_names_in_a_forward_may_be_aliases():
    assert reached(aliased({"staff": "amy, eve"}, dict(bob="staff")), "bob@here.test") == ["amy", "eve"]


def test_an_alias_that_names_itself_leads_to_the_user_and_the_users_forward():
    assert reached(aliased({"bob": "bob, amy"}), "bob@here.test") == ["bob", "amy"]
    assert reached(aliased({"bob": "\\bob, amy"}), "bob@here.test") == ["bob", "amy"]
    assert reached(aliased({"bob": "bob"}, dict(bob="eve")), "bob@here.test") == ["eve"]


def test_an_alias_that_names_itself_by_address_or_sub_address_is_not_asked_again():
    assert reached(aliased({"bob": "bob@here.test, amy"}), "bob@here.test") == ["amy", "bob"]
    assert reached(aliased({"bob": "Bob@Here.test, amy"}), "bob@here.test") == ["amy", "bob"]
    assert reached(aliased({"bob": "bob+kept"}), "bob@here.test") == ["bob+kept"]
    assert reached(aliased({"bob": "Bob+Kept"}), "bob@here.test") == ["bob+kept"]
    assert reached(aliased({"bob+x": "bob+x", "bob": "amy"}), "bob+x@here.test") == ["bob+x"]


def test_an_alias_of_a_sub_address_leads_to_the_alias_of_the_name():
    assert reached(aliased({"bob+x": "bob", "bob": "amy"}), "bob+x@here.test") == ["amy"]


def test_the_same_key_in_the_table_of_another_action_is_another_entry():
    other = Match("other", ANY, Condition("domain", operand=Operand("others")))
    tables = {
        "aliases": {"bob": "bob@other.test"},
        "more": {"bob": "amy"},
        "others": ListTable("others", ["other.test"]),
    }
    action = ExpansionSlice("other", Method.MAILDIR, alias="more")
    world = World(USERS, tables=tables, alias="aliases", matches=[other, *IN], actions=[action])
    (to,) = world.expand("bob@here.test").recipients
    assert (to.user, to.action, to.destination) == ("amy", "other", "bob@other.test")


def test_ones_own_name_in_ones_forward_is_no_alias_any_more():
    world = aliased({"bob": "bob, eve"}, dict(bob="bob, |cmd"))
    assert reached(world, "bob@here.test") == ["FORWARDED bob", "eve", "bob"]


def test_ones_own_name_by_way_of_a_list_means_the_mailbox():
    assert reached(aliased({"staff": "amy, bob"}, dict(bob="staff")), "bob@here.test") == ["amy", "bob"]


def test_an_address_out_of_an_alias_is_judged_as_mail_from_here():
    matches = [*IN, Match("out", Condition("local"), ANY)]
    world = aliased({"staff": "eve@there.test"}, matches=matches, actions=[ExpansionSlice("out", Method.MBOX)])
    assert [(to.action, to.user) for to in world.expand("staff@here.test").recipients] == [("out", "eve")]
    refused(world, "eve@there.test", 550, "5.7.1")


def test_from_socket_and_nested_aliases():
    matches = [Match("in", Condition("socket", negated=True), ANY), Match("in", Condition("socket"), ANY)]
    world = aliased({"a": "b@x.test", "b": "c@y.test", "c": "bob@z.test"}, matches=matches)
    refused(world, "a@here.test", 550, "5.7.1")


@pytest.mark.parametrize("slow", [False, True])
def test_a_table_that_is_waited_for_is_one_like_any_other(slow):
    world = aliased({"staff": "bob, sales+x", "sales": "amy"}, slow=slow)
    assert reached(world, "staff@here.test") == ["bob", "amy"]
    refused(world, "nobody@here.test", 550, "5.1.1")


# -- what does not end, or leads nowhere --------------------------------------------------


def test_an_alias_loop_is_refused():
    refused(aliased({"loopa": "loopb", "loopb": "loopa"}), "loopa@here.test", 524, "5.2.4")
    refused(aliased({"loopa": "loopb@here.test", "loopb": "loopa@here.test"}), "loopa@here.test", 524, "5.2.4")


def test_users_in_an_alias_loop_get_no_mail():
    refused(aliased({"bob": "amy", "amy": "bob"}), "bob@here.test", 524, "5.2.4")


def test_a_circle_beside_a_mailbox_delivers_to_the_mailbox():
    assert reached(aliased({"a": "b, eve", "b": "a"}), "a@here.test") == ["eve"]


def test_a_long_way_of_aliases_is_refused():
    chain = {f"a{n}": f"a{n + 1}" for n in range(20)} | {"a20": "bob"}
    assert reached(aliased(chain), "a13@here.test") == ["bob"]
    refused(aliased(chain), "a10@here.test", 524, "5.2.4")


def test_a_list_may_be_longer_than_a_forward():
    many = {f"u{n}": None for n in range(5 * FORWARD_NODES_MAX)}
    world = aliased({"all": ", ".join(many)}, many)
    assert len(reached(world, "all@here.test")) == 5 * FORWARD_NODES_MAX
    refused(aliased({"all": ", ".join(f"u{n}" for n in range(NODES_MAX))}), "all@here.test", 424, "4.2.4")


def test_a_long_list_that_a_forward_names_is_too_long():
    many = {f"u{n}": None for n in range(5 * FORWARD_NODES_MAX)}
    refused(aliased({"all": ", ".join(many)}, many | dict(bob="all")), "bob@here.test", 424, "4.2.4")


def test_one_member_that_is_refused_refuses_the_list_with_its_reason():
    refused(aliased({"staff": "bob, nobody"}), "staff@here.test", 550, "5.1.1")
    refused(aliased({"staff": "bob, x@there.test"}), "staff@here.test", 550, "5.7.1")
    refused(
        aliased({"staff": "bob, root"}, dict(root=None), verdicts=dict(root="root")), "staff@here.test", 550, "5.2.1"
    )
    assert refused(aliased({"staff": "bob, error:450 4.3.9 x"}), "staff@here.test", 450, "4.3.9").text == "x"


def test_the_log_names_the_node_that_caused_a_refusal():
    world = aliased({"staff": "bob, nobody", "postmaster": "root"}, dict(root=None), verdicts=dict(root="root"))
    assert refused(world, "staff@here.test", 550, "5.1.1").reason == "it leads to user nobody"
    assert refused(world, "postmaster@here.test", 550, "5.2.1").reason == "user root never receives mail"
    assert refused(world, "nobody@here.test", 550, "5.1.1").reason == ""


def test_an_entry_that_is_not_understood_is_for_later_and_not_repeated():
    refusal = refused(aliased({"staff": "bob and amy"}), "staff@here.test", 424, "4.2.4")
    assert "and amy" not in refusal.text + refusal.reason
    assert "staff in table aliases" in refusal.reason


def test_a_table_without_an_answer_is_a_temporary_failure():
    refusal = refused(aliased(ListTable("aliases", ["staff"])), "staff@here.test", 424, "4.2.4")
    assert "table aliases" in refusal.reason and "aliases" not in refusal.text


# -- includes -----------------------------------------------------------------------------


def test_an_alias_may_include_a_file():
    includes = {"/etc/mail/staff": "amy\n# eve\n\nbob, bob+x\n"}
    world = aliased({"staff": "eve, :include:/etc/mail/staff"}, includes=includes)
    assert reached(world, "staff@here.test") == ["eve", "amy", "bob", "bob+x"]


def test_a_file_without_members_alone_is_an_empty_list():
    refused(aliased({"staff": ":include:/nowhere"}), "staff@here.test", 524, "5.2.4")
    assert reached(aliased({"staff": "bob, :include:/nowhere"}), "staff@here.test") == ["bob"]


def test_an_endless_include_of_a_list_that_names_itself_ends():
    """It means a user of that name, of which there is none."""
    world = aliased({"staff": "bob, :include:/list"}, includes={"/list": "staff\namy"})
    refused(world, "staff@here.test", 550, "5.1.1")
    world = aliased({"staff": "bob, all", "all": ":include:/list"}, includes={"/list": "staff\namy"})
    assert reached(world, "staff@here.test") == ["bob", "amy"]


# -- commands and files -------------------------------------------------------------------------


def test_a_command_in_an_alias_file_runs_as_the_user_for_that():
    world = aliased({"archive": '"|store %{sender}", /var/archive'}, alias_commands="vmail")
    expanded = world.expand("archive+x@here.test")
    fields = [(to.user, to.extension, to.duty, to.digest, to.home) for to in expanded.recipients]
    assert fields == [
        ("vmail", "x", Duty.ALIASED, digest(Command("store %{sender}")), ""),
        ("vmail", "x", Duty.ALIASED, digest(File("/var/archive")), ""),
    ]


@pytest.mark.parametrize("target", ["|cmd", '"|cmd"', "/tmp/x"])
def test_commands_of_aliases_need_alias_commands(target):
    refusal = refused(aliased({"x": f"bob, {target}"}), "x@here.test", 424, "4.2.4")
    assert "cmd" not in refusal.text and "x in table aliases" in refusal.reason


@pytest.mark.parametrize("target", ["|cmd", "/tmp/x"])
def test_only_a_text_file_of_aliases_may_name_commands(target):
    refused(aliased({"x": target}, alias_commands="vmail", texts=()), "x@here.test", 424, "4.2.4")
    includes = {"/list": f"bob\n{target}\n"}
    refused(aliased({"x": ":include:/list"}, alias_commands="vmail", includes=includes), "x@here.test", 424, "4.2.4")


def test_a_command_of_an_alias_that_a_forward_names_is_the_aliases_command():
    world = aliased({"x": "|cmd"}, dict(bob="x"), alias_commands="vmail")
    assert reached(world, "bob@here.test") == ["ALIASED vmail"]


def test_a_command_of_a_user_that_an_alias_names_is_the_users():
    world = aliased({"staff": "bob"}, dict(bob="|cmd"), alias_commands="vmail")
    assert reached(world, "staff@here.test") == ["FORWARDED bob"]


def test_commands_in_the_forward_of_root_are_not_read():
    world = aliased({}, dict(root="|id"), verdicts=dict(root="root"), alias_commands="vmail")
    refused(world, "root@here.test", 550, "5.2.1")
    assert ForwardQuestion("root", "") not in world.asked


def test_root_may_be_an_alias():
    assert reached(aliased({"root": "bob"}, verdicts=dict(root="root")), "root@here.test") == ["bob"]


@pytest.mark.parametrize("texts", [(), ("aliases",)])
def test_every_alias_may_discard(texts):
    assert reached(aliased({"noreply": "/dev/null"}, texts=texts), "noreply+x@here.test") == ["DISCARD noreply+x"]


# -- virtual addresses ------------------------------------------------------------------------------

ORDER = ["u+t@here.test", "u@here.test", "u+t", "u", "@here.test", "@"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_closest_virtual_address_counts(first):
    entries = {key: "amy" for key in ORDER[first + 1 :]} | {ORDER[first]: "bob"}
    assert reached(virtual(entries), "U+T@Here.test") == ["bob"]


def test_an_address_that_no_virtual_table_knows_is_refused():
    refused(virtual({"u@there.test": "bob"}), "u@here.test", 524, "5.2.4")
    refused(virtual({}), "bob@here.test", 524, "5.2.4")


def test_a_member_that_no_virtual_table_knows_refuses_the_list():
    refused(virtual({"all@here.test": "bob, u@here.test"}), "all@here.test", 524, "5.2.4")


def test_a_catch_all_is_for_addresses_and_not_for_the_users_that_they_lead_to():
    assert reached(virtual({"@": "bob", "info@here.test": "amy"}), "info@here.test") == ["amy"]
    assert reached(virtual({"@": "bob"}), "x@here.test") == ["bob"]


def test_users_that_virtual_addresses_lead_to_may_be_entries_of_the_same_table():
    assert reached(virtual({"info@here.test": "team", "team": "bob, amy"}), "info@here.test") == ["bob", "amy"]


def test_a_virtual_address_may_lead_to_another_one():
    world = virtual({"a@here.test": "b@here.test, amy", "b@here.test": "bob"})
    assert reached(world, "a@here.test") == ["amy", "bob"]


def test_a_virtual_address_that_leads_to_itself_is_refused():
    refused(virtual({"bob@here.test": "bob@here.test"}), "bob@here.test", 524, "5.2.4")
    refused(virtual({"@here.test": "x@here.test"}), "bob@here.test", 524, "5.2.4")


@pytest.mark.parametrize("domain", ["m\u00fcller.test", "xn--mller-kva.test"])
def test_a_virtual_address_that_leads_to_itself_is_refused_whatever_way_it_is_written(domain):
    matches = [Match("in", ANY, Condition("domain", operand=Operand("hosts")))]
    entries = {"bob@m\u00fcller.test": f"bob@{domain}, amy"}
    tables = {"virtual": entries, "hosts": ListTable("hosts", ["m\u00fcller.test"])}
    world = World(USERS, matches=matches, tables=tables, virtual="virtual")
    refused(world, "bob@m\u00fcller.test", 524, "5.2.4")


def test_one_user_for_all_addresses_gets_a_mail_for_each():
    world = virtual({"all@here.test": "a@here.test, b@here.test, A@here.test", "@": "vmail"}, user="vmail")
    expanded = world.expand("all@here.test")
    assert [(to.user, to.destination) for to in expanded.recipients] == [
        ("vmail", "a@here.test"),
        ("vmail", "b@here.test"),
    ]


def test_a_silent_virtual_table_is_for_later():
    refused(virtual(ListTable("virtual", ["@"])), "bob@here.test", 424, "4.2.4")


# -- any graph ------------------------------------------------------------------------------------

names = st.sampled_from([f"u{n}" for n in range(6)])
members = st.one_of(
    names,
    names.map(lambda name: f"{name}@here.test"),
    names.map(lambda name: f"{name}@mx.here.test"),
    st.tuples(names, names).map("+".join),
    st.sampled_from(["|cmd", "/tmp/x", "/dev/null", ":include:/list", "root", "x@there.test", "error:450 4.1.1 x"]),
)
values = st.lists(members, min_size=1, max_size=8).map(", ".join)
keys = st.one_of(names, names.map(lambda name: f"{name}@here.test"), st.tuples(names, names).map("+".join))
tables = st.dictionaries(st.one_of(keys, st.sampled_from(["@", "@here.test"])), values, max_size=8)
forwards = st.dictionaries(names, st.one_of(st.none(), values), max_size=6)


@settings(max_examples=200, deadline=None)
@given(tables, forwards, values, st.sampled_from(["alias", "virtual"]), st.booleans(), st.sampled_from(Method))
def test_any_aliases_and_forwards_end_within_the_limits(entries, said, included, kind, slow, method):
    options = {kind: "aliases", "includes": {"/list": included}, "alias_commands": "vmail", "method": method}
    world = World(said, tables={"aliases": entries}, slow=slow, **options)
    outcome = world.expand("u0@here.test")
    assert isinstance(outcome, Expanded | Refusal)
    assert len(world.asked) <= 3 * NODES_MAX
    if isinstance(outcome, Expanded):
        ways = [(to.action, to.user, to.extension, to.duty, to.digest, to.destination) for to in outcome.recipients]
        assert 0 < len(ways) == len(set(ways)) <= NODES_MAX
        local = [to for to in outcome.recipients if to.kind is Kind.MDA]
        assert {to.user for to in local if to.duty in (Duty.DELIVER, Duty.FORWARDED)} <= set(said)
        assert {to.user for to in outcome.recipients if to.duty is Duty.ALIASED} <= {"vmail"}
        encoded = msgspec.msgpack.encode(AddEnvelopes(1, ORIGIN, list(outcome.recipients), MailParameters()))
        assert msgspec.msgpack.decode(encoded, type=AddEnvelopes).recipients == list(outcome.recipients)
