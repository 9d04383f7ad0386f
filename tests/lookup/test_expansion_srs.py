"""SRS: the sender of forwarded mail, and the bounces that come back to it."""

import pytest

from smtpd.envelope import Kind
from smtpd.slice import Condition, ExpansionSlice, Match, Method
from smtpd.smtp.srs import DAY_SECONDS, Rewriter
from tests.lookup.world import ANY, IN, NOW, World, refused

SRS = Rewriter("our key")
REWRITTEN = SRS.rewrite("eve@here.test", "here.test", NOW)


def world(**more):
    return World({"eve": None, "amy": None}, srs=SRS, **more)


def reached(world, recipient, sender=""):
    return [(to.user, to.destination, to.recipient) for to in world.expand(recipient, sender=sender).recipients]


def test_a_bounce_to_a_rewritten_sender_goes_to_the_original_one():
    assert reached(world(), REWRITTEN) == [("eve", "eve@here.test", REWRITTEN)]


@pytest.mark.parametrize("days, accepted", [(-2, False), (-1, True), (0, True), (4, True), (5, False)])
def test_for_as_long_as_the_configuration_says(days, accepted):
    later = world(now=lambda: NOW + days * DAY_SECONDS)
    if accepted:
        assert reached(later, REWRITTEN) == [("eve", "eve@here.test", REWRITTEN)]
    else:
        assert "has expired" in refused(later, REWRITTEN, 550, "5.1.1", sender="").reason


def test_the_original_sender_has_aliases_as_any_local_mail():
    aliases = {"aliases": {"eve": "amy"}}
    assert reached(world(tables=aliases, alias="aliases"), REWRITTEN) == [("amy", "eve@here.test", REWRITTEN)]


def test_a_sender_that_was_rewritten_twice_here_finds_its_way_back():
    twice = SRS.rewrite(REWRITTEN, "here.test", NOW)
    assert twice.startswith("SRS1=")
    assert reached(world(), twice) == [("eve", "eve@here.test", twice)]


def test_the_key_before_the_last_one_is_accepted():
    rotated = World({"eve": None}, srs=Rewriter("new key", "our key"))
    assert reached(rotated, REWRITTEN) == [("eve", "eve@here.test", REWRITTEN)]


@pytest.mark.parametrize(
    "address",
    [
        Rewriter("a guess").rewrite("eve@here.test", "here.test", NOW),
        REWRITTEN.replace("=eve@", "=amy@"),
        REWRITTEN.replace("SRS0", "SRS1"),
        "SRS1=AAAA=there.test==AAAA=RA=there.test=amy@here.test",
        "SRS0=@here.test",
    ],
)
def test_attack_an_address_that_was_not_made_with_our_key_is_an_unknown_user(address):
    assert refused(world(), address, 550, "5.1.1", sender="").reason.startswith("a rewritten sender (SRS): ")


def test_attack_mail_with_a_sender_is_not_sent_on_by_a_rewritten_address():
    """Only bounces come back to it: otherwise it would let anybody send any mail to its owner's domain."""
    refused(world(), REWRITTEN, 550, "5.1.1")


def test_without_a_key_nothing_is_reversed():
    refused(World({"eve": None}), REWRITTEN, 550, "5.1.1", sender="")


def test_attack_the_rules_decide_about_the_original_sender():
    """A right hash says that mail may come back, not where it may go."""
    outside = SRS.rewrite("amy@there.test", "here.test", NOW)
    assert refused(world(), outside, 550, "5.7.1", sender="").code == 550
    only_clients = (Match("in", Condition("socket"), ANY),)
    refused(world(matches=only_clients), outside, 550, "5.7.1", sender="")


def test_attack_reversals_are_steps_of_the_expansion_which_are_bounded():
    address = REWRITTEN
    chain = {f"a{n}": f"a{n + 1}" for n in range(7)} | {"a7": address}
    refused(world(tables={"aliases": chain}, alias="aliases"), "a0@here.test", 524, "5.2.4", sender="")


def test_an_address_that_merely_looks_rewritten_may_have_an_alias():
    named = world(tables={"aliases": {"srs0=x": "eve"}}, alias="aliases")
    assert reached(named, "SRS0=x@here.test") == [("eve", "SRS0=x@here.test", "SRS0=x@here.test")]


# -- the sender of forwarded mail ------------------------------------------------------------------

OUT = ExpansionSlice("out", Method.RELAY)
FORWARDS = {"bob": "bob@else.test, eve@third.test", "list": "bob, bob@ELSE.test", "own": "amy@here.test"}
SENT_ON = SRS.rewrite("amy@there.test", "here.test", NOW)


def forwarding(**more):
    said = {"matches": (*IN, Match("out", destination=ANY)), "actions": [OUT], "tables": {"aliases": FORWARDS}}
    return world(**said | {"alias": "aliases", "srs_actions": {"out"}} | more)


def relayed(world, recipient, **said):
    return [(to.destination, to.sender) for to in world.expand(recipient, **said).recipients if to.kind is Kind.MTA]


def test_the_sender_of_forwarded_mail_is_rewritten_for_the_domain_that_the_client_named():
    assert relayed(forwarding(), "bob@Here.test") == [("bob@else.test", SENT_ON), ("eve@third.test", SENT_ON)]
    assert relayed(forwarding(), "list@here.test") == [("bob@ELSE.test", SENT_ON), ("eve@third.test", SENT_ON)]
    (to,) = [to for to in forwarding().expand("bob").recipients if to.destination == "bob@else.test"]
    assert to.sender == SRS.rewrite("amy@there.test", "mx.here.test", NOW)


def test_what_a_dot_forward_names_is_forwarded_likewise():
    away = World({"bob": "bob@else.test"}, srs=SRS, srs_actions={"out"}, actions=[OUT], matches=forwarding_matches())
    assert relayed(away, "bob@here.test") == [("bob@else.test", SENT_ON)]


def forwarding_matches():
    return (*IN, Match("out", destination=ANY))


def test_what_was_rewritten_elsewhere_becomes_srs1():
    foreign = Rewriter("their key").rewrite("amy@there.test", "other.test", NOW)
    ((_, sender), _) = relayed(forwarding(), "bob@here.test", sender=foreign)
    assert sender.startswith("SRS1=")
    assert SRS.reverse(sender, NOW) == foreign


def test_an_action_without_srs_and_a_host_without_a_key_rewrite_nothing():
    assert relayed(forwarding(srs_actions=()), "bob@here.test")[0] == ("bob@else.test", "")
    keyless = World(
        {},
        matches=forwarding_matches(),
        actions=[OUT],
        tables={"aliases": FORWARDS},
        alias="aliases",
        srs_actions={"out"},
    )
    assert relayed(keyless, "bob@here.test")[0] == ("bob@else.test", "")


def test_mail_that_is_not_forwarded_keeps_its_sender():
    anywhere = forwarding(matches=(Match("out", ANY, ANY),))
    assert relayed(anywhere, "Dave@Else.test") == [("Dave@Else.test", "")]


def test_local_deliveries_keep_the_sender():
    (to,) = forwarding().expand("own@here.test").recipients
    assert (to.kind, to.user, to.sender) == (Kind.MDA, "amy", "")


def test_a_bounce_that_is_forwarded_stays_a_bounce():
    assert relayed(forwarding(), "bob@here.test", sender="")[0] == ("bob@else.test", "")


def test_a_sender_that_would_become_too_long_stays():
    assert relayed(forwarding(), "bob@here.test", sender=f"{'a' * 240}@there.test")[0] == ("bob@else.test", "")


def test_a_bounce_of_forwarded_mail_goes_to_the_host_of_its_sender():
    assert relayed(forwarding(), SENT_ON, sender="") == [("amy@there.test", "")]
