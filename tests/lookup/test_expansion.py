"""From what a client named to who gets it, and what a .forward may do to that."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty, Kind, MailParameters, Notify, Recipient
from smtpd.imsg import AddEnvelopes
from smtpd.ipc.declaration import DEFAULT_LIMIT
from smtpd.lookup.expansion import DEPTH_MAX, FORWARD_NODES_MAX, Expanded, Expansion
from smtpd.lookup.node import ForwardAnswer, ServerQuestion, UserQuestion
from smtpd.slice import Condition, ExpansionSlice, Match, Method, Operand
from smtpd.tables.alias_syntax import Command, File, digest
from smtpd.tables.file import FileTable
from smtpd.tables.inline import ListTable
from tests.lookup.world import ANY, IN, ORIGIN, World, reached, refused

# -- who it is for ---------------------------------------------------------------


def test_a_user():
    expanded = World(dict(bob=None)).expand("bob@here.test")
    assert expanded == Expanded((Recipient("bob@here.test", "bob@here.test", "in", Kind.MDA, "bob", ""),))


def test_a_sub_address_becomes_the_extension():
    world = World(dict(bob=None))
    assert reached(world, "bob+lists@here.test") == ["bob+lists"]
    assert reached(world, "bob+lists+more@here.test") == ["bob+lists+more"]
    assert reached(world, "bob+@here.test") == ["bob"]


def test_the_delimiter_is_the_configured_one():
    world = World(dict(bob=None), delimiter="-")
    assert reached(world, "bob-lists@here.test") == ["bob+lists"]
    refused(world, "bob+lists@here.test", 550, "5.1.1")


def test_names_of_users_have_no_case():
    assert reached(World(dict(bob=None)), "BoB+Lists@HERE.test") == ["bob+lists"]


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


# -- for other hosts ---------------------------------------------------------------

OUT = ExpansionSlice("out", Method.RELAY)
TO_ANY = Match("out", destination=ANY)  # `from local`, as where nothing is said
RELAYING = {"matches": (*IN, TO_ANY), "actions": [OUT]}


def relayed(world, recipient, **more):
    return [(to.kind, to.action, to.destination, to.user) for to in world.expand(recipient, **more).recipients]


def test_what_the_rules_give_to_a_relay_action_is_an_envelope_for_its_domain():
    world = World(matches=(Match("out", ANY, ANY),), actions=[OUT])
    (to,) = world.expand("Bob+x@There.test", notify=Notify.FAILURE, original="rfc822;bob").recipients
    assert to == Recipient(
        "Bob+x@There.test",
        "Bob+x@There.test",
        "out",
        Kind.MTA,
        "",
        "",
        notify=Notify.FAILURE,
        original="rfc822;bob",
    )
    assert world.asked == []


def test_a_stranger_relays_nothing_by_a_rule_for_mail_of_this_host():
    refused(World(**RELAYING), "bob@there.test", 550, "5.7.1")


@pytest.mark.parametrize("table", [{}, {"bob": "bob@there.test"}])
def test_an_alias_and_a_forward_name_addresses_elsewhere(table):
    """Theirs is mail of this host, whoever sends it."""
    world = World(dict(bob="bob@there.test"), tables={"aliases": table}, alias="aliases", **RELAYING)
    assert relayed(world, "bob@here.test") == [(Kind.MTA, "out", "bob@there.test", "")]
    (to,) = world.expand("bob@here.test").recipients
    assert to.recipient == "bob@here.test"


def test_the_same_address_elsewhere_gets_one_copy_and_only_its_host_may_say_that_case_is_nothing():
    world = World(dict(bob="amy@there.test, amy@THERE.test, Amy@there.test"), **RELAYING)
    assert [one[2] for one in relayed(world, "bob@here.test")] == ["amy@there.test", "Amy@there.test"]


def test_only_a_user_who_has_logged_in_relays_by_a_rule_that_wants_it():
    match = Match("out", ANY, ANY, auth=Condition("auth"))
    world = World(matches=(match,), actions=[OUT])
    refused(world, "bob@there.test", 550, "5.7.1")
    origin = msgspec.structs.replace(ORIGIN, user="amy")
    found = world.drive(Expansion(world.config, origin, "bob@there.test").steps())
    assert [to.kind for to in found.recipients] == [Kind.MTA]


@pytest.mark.parametrize("verdict", ["root", "daemon"])
def test_root_and_daemons_receive_nothing(verdict):
    world = World(dict(root="|id"), verdicts=dict(root=verdict))
    refused(world, "root@here.test", 550, "5.2.1")
    assert world.asked == [UserQuestion("root")]


@pytest.mark.parametrize("verdict", ["later", "nonsense", ""])
def test_a_user_that_cannot_be_looked_up_is_a_temporary_failure(verdict):
    refused(World(dict(bob=None), verdicts=dict(bob=verdict)), "bob@here.test", 451, "4.3.0")


def test_domains_have_no_case_for_expressions_too():
    match = Match("in", ANY, Condition("domain", operand=Operand("domains", regex=True)))
    world = World(dict(bob=None), matches=[match], tables={"domains": ListTable("domains", ["^here"])})
    assert reached(world, "bob@HERE.test") == ["bob"]


def test_a_table_without_an_answer_is_a_temporary_failure():
    match = Match("in", ANY, Condition("domain", operand=Operand("domains")))
    world = World(matches=[match], tables={"domains": FileTable("domains", "/nowhere")})
    refusal = refused(world, "bob@here.test", 451, "4.3.0")
    assert "domains" in refusal.reason and "domains" not in refusal.text


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
    assert reached(World(dict(bob="")), "bob@here.test") == ["bob"]
    assert reached(World(dict(bob="# amy\n")), "bob@here.test") == ["bob"]


def test_mail_is_forwarded_to_users_and_addresses():
    world = World(dict(bob="amy, eve+x@here.test", amy=None, eve=None))
    assert reached(world, "bob+lists@here.test") == ["amy", "eve+x"]


def test_the_own_name_means_the_mailbox():
    assert reached(World(dict(bob="bob, amy", amy=None)), "bob@here.test") == ["bob", "amy"]
    assert reached(World(dict(bob="\\bob")), "bob@here.test") == ["bob"]
    assert reached(World(dict(bob="Bob+kept")), "bob@here.test") == ["bob+kept"]


def test_an_address_that_leads_to_oneself_means_the_mailbox():
    assert sorted(reached(World(dict(bob="bob@here.test, amy", amy=None)), "bob@here.test")) == ["amy", "bob"]
    assert sorted(reached(World(dict(bob="bob@mx.here.test, amy", amy=None)), "bob@here.test")) == ["amy", "bob"]


@pytest.mark.parametrize(
    "local", ["o'brien", "müller", '"a b"', '"a, \\"b\\""', "a#b", "|x", "/x", "'x'", "a&b=c"], ids=ascii
)
@pytest.mark.parametrize("table", ["alias", "virtual"])
def test_what_rcpt_takes_an_alias_and_a_forward_can_name(local, table):
    written = f'"{local}"' if local[0] in "|/" else local
    names = {f"{local}@here.test": "amy", local: "amy", "all": f"{written}@here.test, bob", "bob": "bob"}
    matches = Match("in", ANY, Condition("domain", operand=Operand("hosts")))
    tables = {"names": names, "hosts": ListTable("hosts", ["here.test", "[192.0.2.1]", "bücher_1.test"])}
    world = World(dict(bob=f"{written}@here.test", amy=None), matches=[matches], tables=tables, **{table: "names"})
    for recipient in (local, "all", "bob"):
        assert reached(world, f"{recipient}@here.test") == ["amy"]


@pytest.mark.parametrize("domain", ["[192.0.2.1]", "bücher_1.test", "[IPv6:2001:db8::1]"], ids=ascii)
def test_a_forward_leads_to_whatever_domain_the_rules_know(domain):
    match = Match("in", ANY, Condition("domain", operand=Operand("hosts")))
    tables = {"hosts": ListTable("hosts", ["here.test", domain.lower()])}
    world = World(dict(bob=f"amy@{domain}", amy=None), matches=[match], tables=tables)
    (to,) = world.expand("bob@here.test").recipients
    assert (to.user, to.destination) == ("amy", f"amy@{domain}")


def test_an_address_in_a_forward_is_judged_as_mail_from_here():
    matches = [Match("in", ANY, Condition("local")), Match("out", Condition("local"), ANY)]
    out = ExpansionSlice("out", Method.MBOX)
    world = World(dict(bob="bob, eve@there.test", eve=None), matches=matches, actions=[out])
    assert [(to.action, to.user) for to in world.expand("bob@here.test").recipients] == [("in", "bob"), ("out", "eve")]
    refused(world, "eve@there.test", 550, "5.7.1")


def test_the_same_mailbox_gets_one_copy():
    assert reached(World(dict(bob="amy, amy, AMY, eve", amy=None, eve="amy")), "bob@here.test") == ["amy"]


def test_the_same_address_in_other_letters_is_the_same_address():
    assert reached(World(dict(bob="amy@here.test, amy@HERE.test, Amy@here.test", amy=None)), "bob@here.test") == ["amy"]


def test_the_same_mailbox_gets_a_copy_for_each_address_it_is_reached_by():
    """Its path or command may be made of the address."""
    world = World(dict(bob="amy, amy@here.test, AMY@Here.test, eve", amy=None, eve="amy@here.test, amy@mx.here.test"))
    expanded = world.expand("bob@here.test")
    assert [to.user for to in expanded.recipients] == ["amy"] * 3
    assert [to.destination for to in expanded.recipients] == ["bob@here.test", "amy@here.test", "amy@mx.here.test"]


def test_one_member_that_is_refused_refuses_all():
    refused(World(dict(bob="amy, nobody", amy=None)), "bob@here.test", 550, "5.1.1")
    refused(World(dict(bob="amy, x@there.test", amy=None)), "bob@here.test", 550, "5.7.1")
    refused(
        World(dict(bob="amy, root", amy=None, root=None), verdicts=dict(root="root")), "bob@here.test", 550, "5.2.1"
    )


def test_a_command_and_a_file_are_named_by_their_digest_and_run_as_their_owner():
    world = World(dict(bob='"|cmd %{sender}", /home/bob/x, bob, amy', amy="|cmd"))
    expanded = world.expand("bob+lists@here.test")
    fields = [(to.user, to.extension, to.duty, to.digest) for to in expanded.recipients]
    assert fields == [
        ("bob", "lists", Duty.FORWARDED, digest(Command("cmd %{sender}"))),
        ("bob", "lists", Duty.FORWARDED, digest(File("/home/bob/x"))),
        ("bob", "", Duty.DELIVER, ""),
        ("amy", "", Duty.FORWARDED, digest(Command("cmd"))),
    ]


def test_the_same_command_runs_once_for_each_user_that_names_it():
    assert reached(World(dict(bob="|cmd, |cmd")), "bob@here.test") == ["FORWARDED bob"]
    world = World(dict(bob="|cmd, amy", amy="|cmd"))
    assert reached(world, "bob@here.test") == ["FORWARDED bob", "FORWARDED amy"]


def test_dev_null_discards():
    assert reached(World(dict(bob="/dev/null")), "bob+x@here.test") == ["DISCARD bob+x"]


def test_a_very_long_specifier_is_a_digest_like_any_other():
    line = "cmd %{" + "x" * 4000 + "}"
    (to,) = World(dict(bob=f"|{line}")).expand("bob@here.test").recipients
    assert to.digest == digest(Command(line))


def test_a_forward_includes_nothing():
    refusal = refused(World(dict(bob=":include:/etc/shadow")), "bob@here.test", 424, "4.2.4")
    assert "/etc" not in refusal.text


ERRORS = [
    ("550 no longer here", (550, "5.2.0", "no longer here")),
    ("450 later", (450, "4.2.0", "later")),
    ("550 5.1.6 moved", (550, "5.1.6", "moved")),
    ("450 5.1.6 moved", (450, "4.2.0", "5.1.6 moved")),
    ("550 5.1.6x moved", (550, "5.2.0", "5.1.6x moved")),
    ("421 go away", (450, "4.2.0", "go away")),
    ("550 one\ttwo \u00fc", (550, "5.2.0", "one two ?")),
    ("550 " + "x" * 2000, (550, "5.2.0", "x" * 1024)),
]


@pytest.mark.parametrize("said, reply", ERRORS)
def test_an_error_is_the_reply_itself(said, reply):
    refusal = World(dict(bob=f"amy, error:{said}", amy=None)).expand("bob@here.test")
    assert (refusal.code, refusal.enhanced, refusal.text) == reply


def test_a_forward_that_cannot_be_understood_is_for_later_and_not_repeated():
    refusal = refused(World(dict(bob="root:$6$secret:1")), "bob@here.test", 424, "4.2.4")
    assert "secret" not in refusal.text + refusal.reason


def test_a_forward_that_is_unsafe_is_for_later():
    refusal = refused(World(dict(bob=ForwardAnswer("unsafe", reason="chmod g-w it"))), "bob@here.test", 424, "4.2.4")
    assert refusal.reason == ".forward of bob: chmod g-w it" and "chmod" not in refusal.text


def test_a_forward_with_unsafe_permissions_is_refused():
    refusal = refused(
        World(dict(bob=ForwardAnswer("refused", reason="not owned by bob"))), "bob@here.test", 524, "5.2.4"
    )
    assert "owned" not in refusal.text and "owned" in refusal.reason


@pytest.mark.parametrize("verdict", ["later", "nonsense"])
def test_a_forward_that_cannot_be_read_now_is_for_later(verdict):
    refused(World(dict(bob=ForwardAnswer(verdict, reason="its agent is silent"))), "bob@here.test", 451, "4.3.0")


# -- what would not end --------------------------------------------------------------


def test_two_that_forward_to_each_other_are_refused():
    refused(World(dict(bob="amy", amy="bob")), "bob@here.test", 524, "5.2.4")
    refused(World(dict(bob="amy@here.test", amy="bob@here.test")), "bob@here.test", 524, "5.2.4")


def test_a_loop_beside_a_mailbox_delivers_to_the_mailbox():
    assert reached(World(dict(bob="bob, amy", amy="bob")), "bob@here.test") == ["bob"]


def chain(length):
    return {f"u{n}": f"u{n + 1}" for n in range(length)} | {f"u{length}": None}


def test_a_long_way_is_refused():
    assert reached(World(chain(DEPTH_MAX - 2)), "u0@here.test") == ["u8"]
    refused(World(chain(DEPTH_MAX - 1)), "u0@here.test", 524, "5.2.4")


def test_a_way_that_grows_by_its_sub_address_is_refused():
    refused(World(dict(bob="amy+x", amy="bob+y")), "bob@here.test", 524, "5.2.4")


def test_so_many_addresses_and_one_more():
    many = {f"u{n}": None for n in range(FORWARD_NODES_MAX + 1)}
    fits = ", ".join(f"u{n}" for n in range(FORWARD_NODES_MAX))
    assert len(reached(World(many | dict(bob=fits)), "bob@here.test")) == FORWARD_NODES_MAX
    refused(World(many | dict(bob=f"{fits}, u{FORWARD_NODES_MAX}")), "bob@here.test", 424, "4.2.4")


def test_so_many_commands_and_one_more():
    fits = "\n".join(f"|{n}" for n in range(FORWARD_NODES_MAX))
    assert len(reached(World(dict(bob=fits)), "bob@here.test")) == FORWARD_NODES_MAX
    refused(World(dict(bob=f"{fits}\n|one more")), "bob@here.test", 424, "4.2.4")


def test_a_hundred_users_fit_and_a_hundred_and_one_do_not():
    everybody = {f"u{n}": None for n in range(101)}
    hundred = ", ".join(f"u{n}" for n in range(100))
    assert len(reached(World(everybody | dict(bob=hundred)), "bob@here.test")) == 100
    refused(World(everybody | dict(bob=f"{hundred}, u100")), "bob@here.test", 424, "4.2.4")


def test_a_hundred_and_one_addresses_are_too_many():
    said = ", ".join(f"u{n}@here.test" for n in range(101))
    refused(World(dict(bob=said) | {f"u{n}": None for n in range(101)}), "bob@here.test", 424, "4.2.4")


def test_what_many_users_forward_to_many_is_counted_together():
    world = {f"u{n}": ", ".join(f"v{n}x{m}" for m in range(20)) for n in range(20)} | {"bob": "u0, u1, u2, u3, u4, u5"}
    world |= {f"v{n}x{m}": None for n in range(20) for m in range(20)}
    refused(World(world), "bob@here.test", 424, "4.2.4")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_recipient_ends_and_fits_its_imsgs(local, forward):
    world = World(dict(bob=forward))
    for recipient in (f"{local}@here.test", f"bob+{local}@here.test", local):
        if not recipient.isprintable():
            continue
        outcome = world.expand(recipient)
        if isinstance(outcome, Expanded):
            encoded = msgspec.msgpack.encode(AddEnvelopes(1, ORIGIN, list(outcome.recipients), MailParameters()))
            assert msgspec.msgpack.decode(encoded, type=AddEnvelopes).recipients == list(outcome.recipients)
            assert len(encoded) <= DEFAULT_LIMIT


# -- addresses beyond ASCII, and LMTP ------------------------------------------------------------------


def asked_servers(world):
    return [question.action for question in world.asked if isinstance(question, ServerQuestion)]


@pytest.mark.parametrize(
    "method, fields, sender, recipient, asked",
    [
        (Method.LMTP, {}, "amy@there.test", "bob@here.test", False),
        (Method.LMTP, {}, "", "bob@here.test", False),
        (Method.LMTP, {}, "amy@m\u00fcller.test", "bob@here.test", False),
        (Method.LMTP, {}, "\u00e5my@there.test", "bob@here.test", True),
        (Method.LMTP, {"rcpt_to": True}, "amy@there.test", "bob+\u00fc@here.test", True),
        (Method.LMTP, {}, "amy@there.test", "bob+\u00fc@here.test", False),
        (Method.MAILDIR, {}, "\u00e5my@there.test", "bob+\u00fc@here.test", False),
        (Method.MBOX, {}, "\u00e5my@there.test", "bob+\u00fc@here.test", False),
        (Method.MDA, {}, "\u00e5my@there.test", "bob+\u00fc@here.test", False),
    ],
)
def test_a_server_is_asked_only_of_what_needs_smtputf8_to_be_told(method, fields, sender, recipient, asked):
    """RFC 6531 3.6; the user's own name is what the server is told, where the action has no rcpt-to."""
    world = World(dict(bob=None), server="utf8", method=method, **fields)
    assert isinstance(world.expand(recipient, sender=sender), Expanded)
    assert asked_servers(world) == (["in"] if asked else [])


def test_an_address_that_the_server_cannot_be_told_is_refused():
    world = World(dict(bob=None), method=Method.LMTP, rcpt_to=True)
    assert refused(world, "bob@here.test", 553, "5.6.7", sender="\u00e5my@there.test").text.startswith(
        "Sender's address"
    )
    assert refused(world, "bob+\u00fc@here.test", 553, "5.6.7").text.startswith("Recipient's address")


def test_while_the_server_cannot_be_asked_the_client_may_try_again():
    world = World(dict(bob=None), method=Method.LMTP, server="later")
    refusal = refused(world, "bob@here.test", 451, "4.3.0", sender="\u00e5my@there.test")
    assert refusal.reason == "server of action in: because" and "because" not in refusal.text


def test_a_command_beside_the_server_is_no_reason_to_ask():
    world = World(dict(bob="|cmd"), method=Method.LMTP)
    assert isinstance(world.expand("bob@here.test", sender="\u00e5my@there.test"), Expanded)
    assert asked_servers(world) == []
