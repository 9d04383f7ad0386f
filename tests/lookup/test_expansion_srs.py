"""Bounces to senders that were rewritten here (SRS)."""

import pytest

from smtpd.slice import Condition, Match
from smtpd.smtp.srs import DAY_SECONDS, Rewriter
from tests.lookup.world import ANY, NOW, World, refused

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
