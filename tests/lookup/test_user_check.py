"""Whose mailbox: users of the system, of a userbase, and what the action says of whom to run as."""

import pytest

from smtpd.envelope import Duty
from smtpd.lookup.expansion import Expanded
from smtpd.lookup.node import ForwardAnswer, ForwardQuestion, UserQuestion
from smtpd.lookup.refusal import Refusal
from smtpd.slice import Condition, ExpansionSlice, Match, Method
from smtpd.tables.alias_syntax import Command, digest
from smtpd.tables.inline import ListTable
from tests.lookup.world import ANY, World, reached, refused

PEOPLE = {
    "bob": "2001:2001:/srv/mail/bob",
    "amy": "2002:2002:/srv/mail/amy",
    "a/b": "2003:2003:/srv/mail/x",
    "-f": "2004:2004:/srv/mail/f",
    "x" * 64: "2005:2005:/srv/mail/xx",
    "zero": "0:2001:/srv/mail/zero",
    "daemon": "2:2:/srv",
    "wheel": "2001:0:/srv",
    "u99": "99:2001:/srv",
    "noone": "65534:2001:/srv",
    "last": "65535:2001:/srv",
    "ours": "4711:2001:/srv",
    "u100": "100:2001:/srv",
    "odd": "2001:2001",
    "up": "2001:2001:/srv/../etc",
}


def hosted(forwards=(), **more):
    return World(forwards, tables={"people": PEOPLE} | more.pop("tables", {}), userbase="people", **more)


# -- a userbase whose uids count ---------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
def test_a_user_of_a_userbase(slow):
    world = hosted(slow=slow)
    assert reached(world, "bob+x@here.test") == ["bob+x"]
    assert world.asked == [ForwardQuestion("bob", "in")]
    refused(world, "nobody@here.test", 550, "5.1.1")
    refused(world, "+x@here.test", 550, "5.1.1")


def test_the_home_of_a_userbase_whose_uids_count_is_not_for_lookup_to_say():
    (to,) = hosted().expand("bob@here.test").recipients
    assert to.home == ""


def test_the_forward_of_a_user_of_a_userbase():
    assert reached(hosted(dict(bob="bob, amy, |cmd")), "bob@here.test") == ["FORWARDED bob", "bob", "amy"]


@pytest.mark.parametrize("name", ["zero", "daemon", "wheel", "u99", "noone", "last", "ours"])
def test_root_and_daemons_of_a_userbase_receive_nothing(name):
    world = hosted()
    refused(world, f"{name}@here.test", 550, "5.2.1")
    assert world.asked == []
    assert reached(hosted(), "u100@here.test") == ["u100"]


@pytest.mark.parametrize("name", ["odd", "up"])
def test_a_user_with_an_invalid_entry_is_a_temporary_failure(name):
    refusal = refused(hosted(), f"{name}@here.test", 451, "4.3.0")
    assert f"user {name} in table people" in refusal.reason


def test_a_silent_userbase_is_for_later():
    world = World(tables={"people": ListTable("people", ["bob"])}, userbase="people")
    refused(world, "bob@here.test", 451, "4.3.0")


def test_a_name_with_a_slash_may_be_of_a_userbase_when_no_process_runs_as_it():
    assert reached(hosted(user="vmail"), "a/b@here.test") == ["a/b"]
    refused(hosted(user="vmail"), "a/c@here.test", 550, "5.1.1")


@pytest.mark.parametrize("name", ["a/b", "-f", "x" * 64])
def test_a_name_for_which_no_agent_is_started_is_no_user(name):
    refused(hosted(), f"{name}@here.test", 550, "5.1.1")


def test_the_same_name_in_a_userbase_and_in_the_system_is_two_users():
    matches = [Match("hosts", ANY, Condition("local")), Match("in", Condition("local"), ANY)]
    hosts = ExpansionSlice("hosts", Method.MAILDIR, userbase="people")
    world = World(dict(bob="bob@there.test"), tables={"people": PEOPLE}, matches=matches, actions=[hosts])
    # bob of the userbase forwards to bob of the system, whose .forward names himself by that same address
    expanded = world.expand("bob@here.test")
    assert [(to.action, to.user) for to in expanded.recipients] == [("in", "bob")]
    assert world.asked == [
        ForwardQuestion("bob", "hosts"),
        UserQuestion("bob"),
        ForwardQuestion("bob", ""),
        UserQuestion("bob"),
    ]


# -- an action that says whom to run as -----------------------------------------------------


def test_a_userbase_under_one_user_gives_the_home_and_no_forward():
    world = hosted(user="vmail")
    (to,) = world.expand("bob@here.test").recipients
    assert (to.user, to.home, to.duty) == ("bob", "/srv/mail/bob", Duty.DELIVER)
    assert world.asked == []


def test_the_uid_in_a_userbase_does_not_count_where_the_action_names_a_user():
    (to,) = hosted(user="vmail").expand("zero@here.test").recipients
    assert to.home == "/srv/mail/zero"


def test_an_action_with_a_user_does_not_read_the_forward_of_another():
    world = World(dict(bob="|id", vmail="amy", amy=None), user="vmail")
    assert reached(world, "bob@here.test") == ["bob"]
    assert world.asked == [UserQuestion("bob")]


def test_an_action_with_a_user_reads_the_forward_of_that_user():
    world = World(dict(vmail="amy", amy=None), user="vmail")
    assert reached(world, "vmail@here.test") == ["amy"]


def test_a_user_of_a_userbase_is_not_the_user_of_the_same_name_that_the_action_runs_as():
    world = hosted(dict(bob="|id"), user="bob")
    assert reached(world, "bob@here.test") == ["bob"]
    assert world.asked == []


# -- actions that deliver nothing themselves ---------------------------------------------------

OUT = [Match("in", ANY, Condition("local")), Match("out", Condition("local"), ANY)]
ELSEWHERE = [ExpansionSlice("out", Method.MBOX)]


@pytest.mark.parametrize("said", [None, "", "# nobody", "bob"])
def test_forward_only_needs_a_forward(said):
    refused(World(dict(bob=said), method=Method.FORWARD_ONLY), "bob@here.test", 424, "4.2.4")


@pytest.mark.parametrize("said", ["|cmd", "/tmp/x", "/dev/null", "error:550 x", "amy@there.test, |cmd"])
def test_forward_only_goes_to_addresses_only(said):
    world = World(dict(bob=said, amy=None), method=Method.FORWARD_ONLY, matches=OUT, actions=ELSEWHERE)
    refused(world, "bob@here.test", 451, "4.3.0")


def test_forward_only_forwards():
    world = World(dict(bob="amy@there.test", amy=None), method=Method.FORWARD_ONLY, matches=OUT, actions=ELSEWHERE)
    assert reached(world, "bob@here.test") == ["amy"]


@pytest.mark.parametrize("said", [None, "", "bob"])
def test_expand_only_does_not_end_at_a_user(said):
    refused(World(dict(bob=said), method=Method.EXPAND_ONLY), "bob@here.test", 524, "5.2.4")


def test_expand_only_expands():
    world = World(
        dict(bob="eve@there.test", amy=None, eve=None),
        tables={"aliases": {"staff": "bob, amy@there.test"}},
        alias="aliases",
        method=Method.EXPAND_ONLY,
        matches=OUT,
        actions=ELSEWHERE,
    )
    assert reached(world, "staff@here.test") == ["amy", "eve"]


def test_expand_only_takes_the_errors_of_aliases_and_discards():
    world = World(
        tables={"aliases": {"x": "error:550 gone", "y": "/dev/null"}}, alias="aliases", method=Method.EXPAND_ONLY
    )
    assert refused(world, "x@here.test", 550, "5.2.0").text == "gone"
    assert reached(world, "y@here.test") == ["DISCARD y"]


def test_expand_only_runs_commands_for_users_and_aliases():
    world = World(
        dict(bob="|cmd"),
        tables={"aliases": {"x": "|cmd"}},
        texts={"aliases"},
        alias="aliases",
        alias_commands="lists",
        method=Method.EXPAND_ONLY,
    )
    assert [word.split()[0] for word in reached(world, "bob@here.test")] == ["FORWARDED"]
    assert [word.split()[0] for word in reached(world, "x@here.test")] == ["ALIASED"]


# -- once more, from a user whose .forward has changed ---------------------------------------------


def test_an_envelope_is_expanded_again_from_its_user_on():
    world = World(dict(bob="amy, |new", amy=None), tables={"aliases": {"bob": "eve"}}, alias="aliases")
    expanded = world.expand_again("bob", "x", "list@here.test")
    assert isinstance(expanded, Expanded)
    fields = [(to.recipient, to.destination, to.user, to.extension, to.digest) for to in expanded.recipients]
    assert fields == [
        ("bob@here.test", "list@here.test", "bob", "x", digest(Command("new"))),
        ("bob@here.test", "list@here.test", "amy", "", ""),
    ]


def test_a_user_without_the_forward_gets_the_mail():
    (to,) = World(dict(bob=None)).expand_again("bob", "x").recipients
    assert (to.user, to.extension, to.duty) == ("bob", "x", Duty.DELIVER)


def test_a_user_of_a_virtual_address_is_not_looked_up_as_an_address():
    world = World(dict(bob="bob"), tables={"virtual": {"bob": "amy", "@": "amy"}}, virtual="virtual")
    (to,) = world.expand_again("bob").recipients
    assert to.user == "bob"


def test_a_user_who_is_gone_has_no_envelopes():
    assert isinstance(World().expand_again("bob"), Refusal)
    assert world_of(ForwardAnswer("refused")).expand_again("bob").code == 524


def world_of(said):
    return World(dict(bob=said))
