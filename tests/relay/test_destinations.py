"""Examples, each a rule: which host is next, and what becomes of a task."""

from collections import Counter, OrderedDict

import pytest

from smtpd.envelope import Outcome, RelayResult
from smtpd.relay import destinations
from smtpd.relay.action import Delay, Return
from smtpd.relay.connection import ConnectionFailure, Stage
from smtpd.relay.host import CONCURRENCY_START
from smtpd.relay.task import TRIES_MAX
from smtpd.relay.tls_policy import HostRefused, TlsLevel, TlsWords
from smtpd.slice import RelayLimits
from tests.relay.play import NOW, Play, hop

MX1, MX2 = hop("mx1.there.test", "192.0.2.1"), hop("mx2.there.test", "192.0.2.2", rank=20)
CLEAR = TlsWords(TlsLevel.NEVER)


# -- finding hosts --------------------------------------------------------------------------------------------------


def test_the_hosts_of_a_destination_are_asked_for_once(play):
    play.add()
    play.add()
    assert play.resolving == [1]


def test_a_task_goes_out_over_the_best_host(play):
    task, number = play.open_and_greet(1, MX2, MX1)
    assert play.addresses() == ["192.0.2.1"]
    play.answer(number)
    assert play.outcomes(task) == [Outcome.DELIVERED]


def test_a_null_mx_is_the_result_of_each_envelope_at_once(play):
    """RFC 7505 3."""
    task = play.add(recipients=2)
    play.not_found(1, HostRefused(556, "5.1.10", "there.test does not accept mail"), seconds=60)
    assert [(result.outcome, result.code) for result in play.results[task]] == [(Outcome.FAILED, 556)] * 2
    again = play.add()
    assert play.outcomes(again) == [Outcome.FAILED]
    assert play.resolving == [] and play.delays == []


def test_a_domain_that_does_not_exist_is_asked_for_again_when_the_answer_is_old(play):
    play.add()
    play.not_found(1, HostRefused(550, "5.1.2", "no such domain"), seconds=60)
    play.wait(60)
    play.add()
    assert play.resolving == [1]


def test_a_failed_lookup_delays_the_destination_and_tries_no_envelope(play):
    task = play.add()
    play.not_found(1, HostRefused(451, "4.4.3", "MX lookup of there.test: timed out"), seconds=30)
    assert play.delays == [Delay(1, NOW + 30, "MX lookup of there.test: timed out")]
    assert play.returned == [task]
    assert play.results[task] == []


# -- the walk over hosts --------------------------------------------------------------------------------------------


def test_the_next_mx_takes_the_mail_when_the_first_is_dead(play):
    task = play.add(1, MX1, MX2)
    play.fail(1)
    assert play.addresses() == ["192.0.2.2"]
    play.greeted(2)
    play.answer(2)
    assert play.outcomes(task) == [Outcome.DELIVERED]
    assert play.delays == []


def test_a_554_greeting_of_the_first_mx_is_not_the_end(play):
    play.add(1, MX1, MX2)
    play.fail_greeting(1, code=554, text="554 blocked, see URL")
    assert play.addresses() == ["192.0.2.2"]


def test_the_text_of_a_greeting_is_the_reason_of_the_delay(play):
    play.add(1, MX1)
    play.fail_greeting(1, code=554, text="554 blocked, see URL")
    assert play.delays[0].reason == "mx1.there.test: 554 blocked, see URL"


def test_all_addresses_of_both_families_are_tried_before_the_destination_is_delayed(play):
    both = hop("mx1.there.test", "2001:db8::1", "2001:db8::2", "192.0.2.1")
    play.add(1, both)
    tried = []
    while play.open:
        tried.append(play.addresses()[0])
        play.fail(play.open[0])
    assert tried == ["2001:db8::1", "192.0.2.1", "2001:db8::2"]
    assert len(play.delays) == 1


def test_the_next_rank_is_not_for_hosts_that_are_only_busy():
    play = Play(RelayLimits(max_conn_per_host=1))
    play.open_and_greet(1, MX1, MX2)
    play.add(1)
    assert play.addresses() == ["192.0.2.1"]


def test_smarthosts_of_one_rank_share_the_connections(play):
    first, second = hop("a.test", "192.0.2.1", rank=0), hop("b.test", "192.0.2.2", rank=0)
    play.add(1, first, second)
    play.add(1)
    assert play.addresses() == ["192.0.2.1", "192.0.2.2"]


def test_smarthosts_of_different_ranks_are_tried_in_their_order(play):
    first, second = hop("a.test", "192.0.2.1", rank=0), hop("b.test", "192.0.2.2", rank=1)
    play.add(1, first, second)
    play.add(1)
    assert play.addresses() == ["192.0.2.1", "192.0.2.1"]


def test_a_route_that_has_failed_is_known_to_all_destinations(play):
    play.add(1, MX1)
    play.fail(1)
    play.add(2, MX1, domain="far.test")
    assert play.open == []
    assert [delay.destination for delay in play.delays] == [1, 2]


def test_a_certificate_that_suits_one_destination_only_does_not_close_the_host_for_others(play):
    """Anyone may name any host as the MX of a domain."""
    wanted = hop("mx1.there.test", "192.0.2.1", words=TlsWords(TlsLevel.VERIFIED))
    play.add(1, wanted)
    play.fail_greeting(1, stage=Stage.TLS, text="certificate is for another name")
    assert len(play.delays) == 1
    play.add(2, MX1, domain="far.test")
    assert play.addresses() == ["192.0.2.1"]


@pytest.mark.parametrize("stage", [Stage.AUTHENTICATION, Stage.TLS])
def test_a_refused_password_or_certificate_delays_and_never_bounces(play, stage):
    task = play.add(1, hop(words=TlsWords(TlsLevel.VERIFIED), password=True))
    play.fail_greeting(1, stage=stage, code=535, text="535 wrong password")
    assert play.returned == [task] and play.results[task] == []
    assert "535 wrong password" in play.delays[0].reason


def test_a_password_that_lookup_does_not_have_says_nothing_of_the_host(play):
    """It was not connected to: another action's connections to it stay as many as they may be."""
    play.add(1, MX1)
    play.greeted(1)
    address = MX1.host.addresses[0]
    before = play.destinations.hosts.get((address, MX1.port)).concurrency
    play.add(2, hop(MX1.name, address, words=TlsWords(TlsLevel.VERIFIED), password=True), domain="far.test")
    play.fail(2, stage=Stage.AUTHENTICATION, text="no such label")
    assert play.destinations.hosts.get((address, MX1.port)).concurrency == before > 1
    assert "no such label" in play.delays[0].reason


# -- addresses beside each other ------------------------------------------------------------------------------------


def test_the_next_address_is_tried_after_a_quarter_of_a_second(play):
    """RFC 8305 5."""
    play.add(1, hop("mx1.there.test", "2001:db8::1", "192.0.2.1"))
    play.wait(0.2)
    assert play.addresses() == ["2001:db8::1"]
    play.wait(0.1)
    assert play.addresses() == ["2001:db8::1", "192.0.2.1"]
    play.connected(2)
    assert play.addresses() == ["192.0.2.1"]


def test_a_family_that_does_not_work_costs_one_delay_and_not_one_a_mail(play):
    both = hop("mx1.there.test", "2001:db8::1", "192.0.2.1")
    play.add(1, both)
    play.wait(0.3)
    play.greeted(2)
    play.answer(2)
    play.wait(20)  # the connection ends
    play.quit(2)
    play.add(1)
    assert play.addresses() == ["192.0.2.1"]
    play.fail(3)  # and the other family is not forgotten
    assert play.addresses() == ["2001:db8::1"]


def test_after_ten_minutes_the_family_is_tried_first_again(play):
    play.add(1, hop("mx1.there.test", "2001:db8::1", "192.0.2.1"))
    play.wait(0.3)
    play.greeted(2)
    play.answer(2)
    play.wait(20)
    play.quit(2)
    play.wait(601)
    play.add(1)
    assert play.addresses() == ["2001:db8::1"]


def test_a_source_is_of_the_family_of_the_address():
    play = Play(sources=("198.51.100.7",))
    play.add(1, hop("mx1.there.test", "2001:db8::1", "192.0.2.1"))
    assert play.addresses() == ["192.0.2.1"]
    assert play.connections[1].path.source == "198.51.100.7"


def test_no_address_of_the_wanted_family_is_a_delay_with_that_reason():
    play = Play(family=4)
    play.add(1, hop("mx1.there.test", "2001:db8::1"))
    assert play.open == []
    assert play.delays[0].reason == "mx1.there.test: address family mismatch"


def test_what_is_tried_again_leaves_from_the_same_source():
    """Greylisting knows the address; another one each time would wait for ever."""
    used = set()
    for _ in range(3):
        play = Play(sources=("198.51.100.7", "198.51.100.8", "198.51.100.9"))
        play.add(5, MX1)
        used.add(play.connections[1].path.source)
    assert len(used) == 1


def test_all_connections_together_have_a_limit_and_an_idle_one_gives_its_place_away(play, monkeypatch):
    """A user sends to thousands of domains, each with a silent host of its own."""
    monkeypatch.setattr("smtpd.relay.connections.CONNECTIONS_MAX", 3)
    for number in range(1, 6):
        play.add(number, hop(f"mx{number}.there.test", f"192.0.2.{number}"), domain=f"d{number}.test")
    assert play.addresses() == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    play.greeted(1)
    play.answer(1)
    assert play.quitting == [1]
    play.quit(1)
    play.fail(2)  # its destination is delayed
    assert play.addresses() == ["192.0.2.3", "192.0.2.4", "192.0.2.5"]


# -- the other family -----------------------------------------------------------------------------------------------

DUAL = hop("mx1.there.test", "2001:db8::1", "192.0.2.1")
BY_POLICY = {"outcome": Outcome.FAILED, "code": 550, "enhanced": "5.7.25"}


def test_what_is_refused_by_policy_over_one_family_is_tried_once_over_the_other(play):
    task, number = play.open_and_greet(1, DUAL)
    assert play.addresses() == ["2001:db8::1"]
    play.answer(number, **BY_POLICY)
    assert play.results[task] == [] and play.quitting == [number]
    play.quit(number)
    assert play.addresses() == ["192.0.2.1"]
    play.greeted(play.open[-1])
    play.answer(play.open[-1])
    assert play.outcomes(task) == [Outcome.DELIVERED]
    play.wait(20)
    play.quit(play.open[-1])
    play.add(1)
    assert play.addresses() == ["192.0.2.1"]  # which is remembered


def test_a_second_refusal_by_policy_counts_and_so_does_each_of_the_next_mails(play):
    task, number = play.open_and_greet(1, DUAL)
    play.answer(number, **BY_POLICY)
    play.quit(number)
    play.greeted(play.open[-1])
    play.answer(play.open[-1], **BY_POLICY)
    assert play.outcomes(task) == [Outcome.FAILED]
    following = play.add(1)
    play.answer(play.open[-1], **BY_POLICY)
    assert play.outcomes(following) == [Outcome.FAILED]


@pytest.mark.parametrize(
    "limit", [{"hops": MX1}, {"hops": DUAL, "family": 6}, {"hops": DUAL, "sources": ("2001:db8::9",)}]
)
def test_without_another_family_a_refusal_by_policy_counts_at_once(limit):
    play = Play(**{key: value for key, value in limit.items() if key != "hops"})
    task, number = play.open_and_greet(1, limit["hops"])
    play.answer(number, **BY_POLICY)
    assert play.outcomes(task) == [Outcome.FAILED]


def test_other_recipients_of_the_mail_keep_their_results(play):
    task = play.add(1, DUAL, recipients=2)
    number = play.open[-1]
    play.greeted(number)
    first, second = sorted(play.given.pop(number).envelopes)
    results = [RelayResult(first, Outcome.DELIVERED, "", 250), RelayResult(second, Outcome.FAILED, "", 550, "5.7.1")]
    play.obey(play.destinations.tried(number, results, play.now))
    assert [result.envelope for result in play.results[task]] == [first]
    play.quit(number)
    play.greeted(play.open[-1])
    assert play.given[play.open[-1]].envelopes == {second}


def test_other_connections_of_the_refused_family_take_no_further_mail(play):
    play.add(1, DUAL)
    play.add(1)
    one, two = play.open
    for number in (one, two):
        play.greeted(number)
    play.answer(one, **BY_POLICY)
    play.answer(two)
    assert sorted(play.quitting) == [one, two]


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_a_failed_handshake_is_followed_by_clear_text_to_the_same_host(play):
    play.add(1, MX1, MX2)
    play.fail_greeting(1, stage=Stage.TLS, text="handshake failed")
    assert play.addresses() == ["192.0.2.1"]
    assert not play.connections[2].policy.attempt
    assert play.notes == ["mx1.there.test: handshake failed: trying again in clear text"]


def test_a_failed_handshake_where_tls_is_required_is_the_next_mx_and_then_a_delay(play):
    words = TlsWords(TlsLevel.VERIFIED)
    task = play.add(1, hop(words=words), hop("mx2.there.test", "192.0.2.2", rank=20, words=words))
    play.fail_greeting(1, stage=Stage.TLS)
    assert play.addresses() == ["192.0.2.2"]
    play.fail_greeting(2, stage=Stage.TLS)
    assert play.returned == [task] and len(play.delays) == 1


def test_tls_that_has_worked_and_is_gone_makes_mail_wait_for_an_hour(play):
    task, number = play.open_and_greet(1, MX1)
    play.answer(number)
    play.wait(20)
    play.quit(number)
    task = play.add(1)
    assert play.connections[2].policy.must_encrypt
    play.fail_greeting(2, stage=Stage.TLS, text="STARTTLS not offered")
    assert play.returned == [task] and len(play.delays) == 1
    play.wait(3700)
    play.add(1, MX1)
    assert not play.connections[3].policy.must_encrypt


def test_tls_on_one_port_of_a_host_says_nothing_about_another(play):
    _, number = play.open_and_greet(1, hop(port=587))
    play.answer(number)
    play.add(2, hop(port=25))
    assert not play.connections[2].policy.must_encrypt


def test_requiretls_that_no_host_can_keep_is_refused_at_once(play):
    """RFC 8689 4.2.1: the MX is secured by nothing."""
    plain = play.add(1, MX1)
    strict = play.add(1, MX1, require_tls=True)
    assert [(result.outcome, result.enhanced) for result in play.results[strict]] == [(Outcome.FAILED, "5.7.30")]
    assert play.results[plain] == []


def test_requiretls_never_shares_a_connection_with_other_mail(play):
    trusted = hop(trusted=True)
    play.open_and_greet(1, trusted)
    play.answer(1)
    play.add(1, require_tls=True)
    play.found(1, trusted)
    assert 1 not in play.given
    assert play.connections[2].policy.require_tls


# -- limits ---------------------------------------------------------------------------------------------------------


def test_domains_with_the_same_hosts_share_the_limit_of_the_host(play):
    for number in range(1, 101):
        play.add(number, MX1, domain=f"domain{number}.test")
    assert play.addresses() == ["192.0.2.1"] * 2


def test_a_host_bears_one_connection_more_after_ten_messages(play):
    for _ in range(30):
        play.add(1, MX1)
    assert len(play.open) == 2
    for number in play.open[:]:
        play.greeted(number)
    for _ in range(5):
        play.answer(1)
        play.answer(2)
    assert len(play.open) == 3


def test_421_halves_the_connections_of_a_host(play):
    play.destinations.hosts.get(("192.0.2.1", 25)).concurrency = 4
    for _ in range(30):
        play.add(1, MX1)
    for number in play.open[:]:
        play.greeted(number)
    assert len(play.open) == 4
    play.answer(1, Outcome.DEFERRED, 421)
    assert play.quitting == [1]
    play.answer(2)
    assert play.quitting == [1, 2]
    play.answer(3)
    assert play.quitting == [1, 2]


def test_without_descriptors_all_mail_waits_and_no_host_is_to_blame(play):
    play.add(1, MX1, MX2)
    play.fail(1, Stage.RESOURCES, text="Too many open files")
    play.add(2, hop("mx.other.test", "192.0.2.3"), domain="other.test")
    assert (play.open, play.delays, play.returned) == ([], [], [])
    assert play.notes == ["Too many open files: no new connection for 5 s"]
    play.wait(5)
    assert sorted(play.addresses()) == ["192.0.2.1", "192.0.2.3"]


def test_mail_goes_on_over_what_is_open_while_there_are_no_descriptors(play):
    task, number = play.open_and_greet(1, MX1)
    waiting = [play.add(), play.add()]
    play.fail(2, Stage.RESOURCES, text="Too many open files")
    for each in (task, *waiting):
        play.answer(number)
        assert play.outcomes(each) == [Outcome.DELIVERED]


def test_a_missing_source_address_is_no_failure_of_the_host():
    play = Play(sources=("198.51.100.1", "198.51.100.2"))
    task = play.add(1, MX1)
    missing = play.connections[1].path.source
    text = f"source address {missing}: Cannot assign requested address"
    play.fail(1, Stage.ADDRESS, text=text)
    assert play.notes == [f"{text}: not used for 60 s"]
    (other,) = play.open
    assert play.connections[other].path.source not in ("", missing)
    play.greeted(other)
    play.answer(other)
    assert play.outcomes(task) == [Outcome.DELIVERED]
    assert len(play.destinations._choice.routes) == 0


def test_without_any_source_address_the_destination_is_delayed_for_that_reason():
    play = Play(sources=("198.51.100.1",))
    task = play.add(1, MX1, MX2)
    play.fail(1, Stage.ADDRESS, text="source address 198.51.100.1: Cannot assign requested address")
    assert play.returned == [task] and play.open == []
    assert play.delays[0].reason == "mx1.there.test: source address 198.51.100.1: Cannot assign requested address"
    play.obey(play.destinations.resume(1, play.now))
    play.add(1)
    if play.resolving:
        play.found(1, MX1)
    assert play.addresses() == ["192.0.2.1"]


def test_a_dead_port_beside_one_that_works_is_dead(play):
    """A content filter and a server on one address."""
    play.open_and_greet(1, hop("mx.there.test", "192.0.2.1", port=587))
    task = play.add(2, hop("mx.there.test", "192.0.2.1", port=10025), domain="")
    play.fail(2)
    assert play.returned == [task]
    assert [delay.destination for delay in play.delays] == [2]
    assert play.destinations.hosts.get(("192.0.2.1", 587)).concurrency == CONCURRENCY_START


def test_ports_of_one_address_do_not_share_a_limit():
    play = Play(RelayLimits(max_conn_per_host=1, max_conn_per_route=1))
    play.add(1, hop("mx.there.test", "192.0.2.1", port=587))
    play.add(2, hop("mx.there.test", "192.0.2.1", port=10025), domain="")
    assert [play.connections[number].hop.port for number in play.open] == [587, 10025]


def test_a_refused_connection_beside_one_that_works_is_the_limit_of_the_host(play):
    play.add(1, MX1, MX2)
    play.add(1)
    play.greeted(1)
    play.add(1)
    play.fail(2)
    assert play.addresses() == ["192.0.2.1"]
    assert play.delays == []
    play.answer(1)
    assert 1 in play.given


def test_refused_recipients_do_not_close_a_route(play):
    _, number = play.open_and_greet(1, MX1)
    for _ in range(20):
        play.add(1)
        play.answer(number, Outcome.FAILED, 550, "5.1.1")
    assert play.delays == [] and play.quitting == []


def test_a_connection_ends_after_so_many_refused_recipients():
    play = Play(RelayLimits(max_failures_per_session=3))
    _, number = play.open_and_greet(1, MX1, recipients=3)
    play.answer(number, Outcome.FAILED, 550)
    assert play.quitting == [number]


def test_a_connection_ends_after_so_many_messages():
    play = Play(RelayLimits(session_mail_max=2))
    _, number = play.open_and_greet(1, MX1)
    play.add(1)
    play.answer(number)
    assert play.quitting == []
    play.answer(number)
    assert play.quitting == [number]


def test_the_rate_of_a_provider_counts_over_its_hosts():
    """Thousands of domains have the same few hosts, by other names."""
    play = Play(RelayLimits(message_rate_per_host=2))
    _, first = play.open_and_greet(1, hop("mx1.big.test", "192.0.2.1"))
    _, second = play.open_and_greet(2, hop("mx2.big.test", "192.0.2.2"), domain="far.test")
    assert first in play.given and second not in play.given
    play.wait(29)
    assert second not in play.given
    play.wait(2)
    assert play.given or len(play.open) > 2 or play.quitting


# -- connections that are kept --------------------------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_message(play):
    _, number = play.open_and_greet(1, MX1)
    play.answer(number)
    play.wait(9)
    play.add(1)
    assert list(play.given) == [number]


def test_a_connection_without_mail_ends_after_its_keepalive(play):
    _, number = play.open_and_greet(1, MX1)
    play.answer(number)
    play.wait(9.9)
    assert play.quitting == []
    play.wait(0.2)
    assert play.quitting == [number]


def two_idle_connections(play):
    play.add(1, MX1)
    play.add(1)
    play.greeted(1)
    play.greeted(2)
    play.answer(1)
    play.answer(2)


def test_a_spare_connection_ends_sooner_than_the_last_one(play):
    two_idle_connections(play)
    play.wait(1.9)
    assert play.quitting == []
    play.wait(0.2)
    assert play.quitting == [1]
    play.wait(7.8)
    assert play.quitting == [1]
    play.wait(0.2)
    assert play.quitting == [1, 2]


def test_a_spare_connection_is_kept_no_longer_than_the_keepalive_allows():
    play = Play(RelayLimits(session_keepalive=0))
    two_idle_connections(play)
    assert play.quitting == [1, 2]


def test_mail_that_comes_singly_opens_no_connection_for_each_message(play):
    two_idle_connections(play)
    for _ in range(30):
        play.wait(0.5)
        play.add(1)
        play.add(1)
        assert sorted(play.given) == [1, 2]
        play.answer(1)
        play.answer(2)
    assert play.open == [1, 2] and play.quitting == []


def test_the_oldest_connection_gets_the_next_message_and_the_spare_one_ends(play):
    two_idle_connections(play)
    for _ in range(3):
        play.wait(0.9)
        play.add(1)
        assert list(play.given) == [1]
        play.answer(1)
    assert play.quitting == [2]


def test_a_connection_has_one_timer_however_many_messages_it_takes(play):
    _, number = play.open_and_greet(1, MX1)
    play.answer(number)
    due = play.destinations.next_time()
    for _ in range(40):
        play.wait(0.125)
        play.add(1)
        play.answer(number)
    assert play.destinations.next_time() == due
    play.wait(due - play.now)
    assert play.destinations.next_time() == play.now - 5 + 10
    play.wait(4.9)
    assert play.quitting == []
    play.wait(0.2)
    assert play.quitting == [number] and play.destinations.next_time() is None


def test_an_idle_connection_gives_its_place_to_another_destination():
    play = Play(RelayLimits(max_conn_per_host=1))
    _, number = play.open_and_greet(1, MX1)
    play.answer(number)
    play.add(2, MX1, domain="far.test")
    assert play.quitting == [number]
    play.quit(number)
    assert play.addresses() == ["192.0.2.1"]


def test_a_busy_connection_gives_its_place_after_ten_messages():
    play = Play(RelayLimits(max_conn_per_host=1))
    for _ in range(20):
        play.add(1, MX1)
    play.greeted(1)
    play.add(2, MX1, domain="far.test")
    for _ in range(10):
        assert play.quitting == []
        play.answer(1)
    assert play.quitting == [1]
    play.quit(1)
    assert play.connections[play.open[0]].destination == 2


def test_destinations_with_endless_mail_share_a_host_evenly():
    play = Play(RelayLimits(max_conn_per_host=1))
    sent = Counter()
    for number in range(1, 6):
        for _ in range(30):
            play.add(number, MX1, domain=f"domain{number}.test")
    for _ in range(500):
        if play.quitting:
            play.quit(play.quitting[0])
        elif play.given:
            (number,) = play.given
            destination = play.connections[number].destination
            sent[destination] += 1
            play.add(destination, domain=f"domain{destination}.test")
            play.answer(number)
        else:
            play.greeted(play.open[-1])
    assert len(sent) == 5
    assert max(sent.values()) - min(sent.values()) <= 10


def test_421_on_a_kept_connection_is_a_new_one_and_no_try(play):
    task, number = play.open_and_greet(1, MX1)
    play.answer(number)
    task = play.add(1)
    play.fail(number, Stage.SESSION, 421, "421 idle too long", untouched=True)
    assert play.results[task] == [] and play.delays == []
    play.greeted(2)
    assert play.given[2].id == task and play.given[2].tries == 0


# -- connections that are lost --------------------------------------------------------------------------------------


def test_a_connection_lost_after_the_final_dot_defers_and_tries_no_other_host(play):
    task, number = play.open_and_greet(1, MX1, MX2)
    play.fail(number, Stage.SESSION, text="connection lost", uncertain=True)
    assert [(result.outcome, result.uncertain) for result in play.results[task]] == [(Outcome.DEFERRED, True)]
    assert play.open == []


def test_a_connection_lost_before_it_is_followed_by_the_next_host(play):
    task, number = play.open_and_greet(1, MX1, MX2)
    play.fail(number, Stage.SESSION, text="connection lost")
    assert play.addresses() == ["192.0.2.2"] and play.results[task] == []


def test_replies_that_came_before_the_loss_count(play):
    task, number = play.open_and_greet(1, MX1, MX2, recipients=2)
    first, second = sorted(play.given[number].envelopes)
    play.fail(number, Stage.SESSION, results=[RelayResult(first, Outcome.FAILED, "", 550)])
    play.greeted(2)
    assert play.given[2].envelopes == {second}
    assert [result.envelope for result in play.results[task]] == [first]


def test_a_host_that_closes_behind_its_answer_takes_the_next_mail(play):
    """As some do that have refused a recipient: the host is there, so neither its route nor the destination rests."""
    task, number = play.open_and_greet(1, MX1)
    following = play.add(1)
    refused = [RelayResult(envelope, Outcome.FAILED, "", 550) for envelope in play.given[number].envelopes]
    play.fail(number, Stage.SESSION, text="connection lost", results=refused)
    assert play.outcomes(task) == [Outcome.FAILED] and play.delays == []
    play.greeted(play.open[-1])
    play.answer(play.open[-1])
    assert play.addresses() == ["192.0.2.1"] and play.outcomes(following) == [Outcome.DELIVERED]


def test_a_task_that_loses_one_connection_after_the_other_is_deferred(play):
    hosts = [hop(f"mx{number}.there.test", f"192.0.2.{number}", rank=number) for number in range(1, 6)]
    task, number = play.open_and_greet(1, *hosts)
    for _ in range(TRIES_MAX - 1):
        play.fail(number, Stage.SESSION)
        number = play.open[-1]
        play.greeted(number)
    play.fail(number, Stage.SESSION)
    assert play.outcomes(task) == [Outcome.DEFERRED]


# -- a destination that is dead -------------------------------------------------------------------------------------


def test_a_dead_destination_costs_the_same_however_much_mail_there_is(play):
    tasks = [play.add(1, MX1) for _ in range(100)]
    assert len(play.open) == 2
    play.fail(1)
    play.fail(2)
    assert len(play.delays) == 1
    assert play.returned == tasks
    play.wait(10)
    assert play.last == [] and play.destinations.next_time() is None


def test_the_delay_is_said_before_the_tasks_are_returned(play):
    play.add(1, MX1)
    play.fail(1)
    assert [type(action) for action in play.last] == [Delay, Return]


def test_the_delay_grows_with_the_square_of_the_failures(play):
    for failures in (1, 2, 3):
        play.add(1, MX1)
        play.fail(play.open[0])
        assert play.delays[-1].until == play.now + 15 * failures**2
        play.wait(15 * failures**2)


def test_a_task_that_crosses_the_delay_is_returned(play):
    play.add(1, MX1)
    play.fail(1)
    task = play.add(1)
    assert play.returned[-1] == task and play.open == []
    first, again = play.delays
    assert (again.until, again.reason) == (first.until, first.reason)
    assert not first.repeated and again.repeated  # the log has one line of it


def test_a_task_in_the_middle_of_a_delay_is_returned_too(play):
    play.add(1, MX1)
    play.fail(1)
    play.wait(8)
    task = play.add(1)
    assert play.returned[-1] == task and play.open == []


def test_a_task_that_comes_a_second_before_the_end_of_the_delay_is_tried(play):
    play.add(1, MX1)
    play.fail(1)
    play.wait(14)
    play.add(1)
    assert play.addresses() == ["192.0.2.1"]


def test_an_order_of_an_administrator_counts_right_after_the_delay_was_said(play):
    play.add(1, MX1)
    play.fail(1)
    play.obey(play.destinations.resume(1, play.now))
    play.add(1, MX1)
    assert play.resumed == [1] and play.addresses() == ["192.0.2.1"]


def test_an_order_for_a_destination_that_is_not_delayed_has_its_hosts_looked_for_anew(play):
    """The table of its smarthosts may have been changed; what is under way goes on."""
    play.open_and_greet(1, MX1)
    play.obey(play.destinations.resume(1, play.now))
    assert play.resumed == [] and play.resolving == []
    play.answer(1)
    play.fail(1, Stage.SESSION)
    play.add(1)
    assert play.resolving == [1]


def test_an_order_has_hosts_looked_for_again_that_were_refused_for_good(play):
    play.add(1)
    play.not_found(1, HostRefused(556, "5.1.10", "there.test does not accept mail"), seconds=300)
    play.obey(play.destinations.resume(1, play.now))
    task = play.add(1)
    assert play.resolving == [1] and play.outcomes(task) == []


def test_what_this_system_could_not_ask_is_no_failure_of_the_destination(play):
    for _ in range(3):
        play.add(1)
        play.not_found(1, HostRefused(451, "4.3.2", "too many questions", local=True), seconds=5)
        assert play.delays[-1].until == play.now + 5
        play.wait(5)
    play.add(1)
    play.not_found(1, HostRefused(451, "4.4.3", "no answer"), seconds=5)
    assert play.delays[-1].until == play.now + 15


def test_a_host_that_works_again_for_one_destination_wakes_the_others(play):
    for number in (1, 2):
        play.add(number, MX1, domain=f"domain{number}.test")
        if play.open:
            play.fail(play.open[0])
    play.wait(15)
    play.add(1)
    play.greeted(play.open[0])
    assert play.resumed == []  # both delays were over
    play.answer(play.open[0])


def test_resume_ends_the_delay_and_the_rest_of_the_routes(play):
    play.add(1, MX1)
    play.fail(1)
    play.obey(play.destinations.resume(1, play.now))
    assert play.resumed == [1]
    play.add(1, MX1)
    assert play.addresses() == ["192.0.2.1"]


def test_a_success_forgets_the_failures(play):
    play.add(1, MX1)
    play.fail(1)
    play.wait(15)
    play.add(1)
    play.greeted(2)
    play.answer(2)
    play.fail(2, Stage.SESSION)
    play.add(1)
    play.fail(3)
    assert play.delays[-1].until == play.now + 15


# -- the end --------------------------------------------------------------------------------------------------------


def test_at_a_stop_what_has_not_begun_is_returned_and_what_has_is_answered(play):
    begun, number = play.open_and_greet(1, MX1)
    waiting = play.add(1)
    play.obey(play.destinations.stop(play.now))
    assert play.returned == [waiting]
    play.answer(number)
    assert play.outcomes(begun) == [Outcome.DELIVERED]
    assert play.quitting == [number]
    late = play.add(1)
    assert play.returned[-1] == late


def test_at_a_stop_connections_that_are_not_ready_are_aborted(play):
    """No mail has gone over them, and a silent host would hold up the stop."""
    tasks = [play.add(number, hop(f"mx{number}.there.test", f"192.0.2.{number}")) for number in (1, 2, 3)]
    connecting, greeting, busy = play.open
    play.connected(greeting)
    play.greeted(busy)
    play.obey(play.destinations.stop(play.now))
    assert play.open == [busy]
    assert play.returned == tasks[:2]
    play.obey(play.destinations.ended(greeting, ConnectionFailure(Stage.GREETING, "lost"), [], play.now))
    play.answer(busy)
    assert play.outcomes(tasks[2]) == [Outcome.DELIVERED]


def test_a_task_that_queue_has_concluded_is_forgotten(play):
    task = play.add(1, MX1)
    play.obey(play.destinations.forget(task, play.now))
    play.greeted(1)
    assert play.given == {} and play.results[task] == []


def test_an_envelope_that_is_withdrawn_is_returned_and_the_others_go_out(play):
    task = play.add(1, MX1, recipients=3)
    first, second, third = sorted(play.destinations._tasks.find(task).envelopes)
    play.obey(play.destinations.withdraw(task, second, play.now))
    play.obey(play.destinations.withdraw(task, second, play.now))  # it is not there any more
    play.obey(play.destinations.withdraw(task + 1, second, play.now))
    assert play.last == [] and play.returned == [task]
    play.greeted(1)
    assert play.given[1].envelopes == {first, third}


def test_a_task_of_which_all_is_withdrawn_is_given_to_no_connection(play):
    task, other = play.add(1, MX1), play.add(1)
    (envelope,) = play.destinations._tasks.find(task).envelopes
    play.obey(play.destinations.withdraw(task, envelope, play.now))
    play.greeted(1)
    assert play.given[1].id == other and play.returned == [task] and play.results[task] == []


@pytest.mark.parametrize("lost", [False, True])
def test_a_task_of_which_all_is_withdrawn_while_its_content_comes_leaves_its_connection_as_it_was(play, lost):
    task, number = play.open_and_greet(1, MX1)
    (envelope,) = play.destinations._tasks.find(task).envelopes
    play.obey(play.destinations.withdraw(task, envelope, play.now))
    if lost:
        play.fail(number, Stage.SESSION)
    else:
        play.obey(play.destinations.forget(task, play.now))
        play.obey(play.destinations.tried(number, [], play.now))
    other = play.add(1)
    if lost:
        number = play.open[-1]
        play.greeted(number)
    assert play.given[number].id == other and play.returned == [task] and play.results[task] == []


@pytest.mark.parametrize("recipients", [1, 2])
def test_what_is_withdrawn_while_it_is_sent_is_not_given_to_another_connection(play, recipients):
    _, number = play.open_and_greet(1, MX1)
    play.answer(number)
    task = play.add(1, recipients=recipients)
    first, *others = sorted(play.destinations._tasks.find(task).envelopes)
    play.destinations.withdraw_from_retry(task, first)
    play.destinations.withdraw_from_retry(task + 1, first)
    assert play.returned == []
    play.fail(number, Stage.SESSION)
    assert play.returned == [task]
    if others:
        play.greeted(play.open[-1])
        assert [given.envelopes for given in play.given.values()] == [set(others)]
    else:
        assert play.open == [] and play.destinations._tasks.find(task) is None


def test_what_is_withdrawn_while_it_is_sent_keeps_its_result(play):
    task, number = play.open_and_greet(1, MX1)
    (envelope,) = play.destinations._tasks.find(task).envelopes
    play.destinations.withdraw_from_retry(task, envelope)
    play.answer(number)
    assert play.outcomes(task) == [Outcome.DELIVERED] and play.returned == []


# -- many destinations ----------------------------------------------------------------------------------------------


class CountingDict(OrderedDict):
    popped = 0

    def popitem(self, last=True):
        self.popped += 1
        return super().popitem(last)


@pytest.fixture
def counting(monkeypatch):
    """Ten destinations without mail are remembered; the table of a Play counts how often one was looked at."""
    monkeypatch.setattr(destinations, "IDLE_DESTINATIONS_MAX", 10)
    monkeypatch.setattr(destinations, "OrderedDict", CountingDict)
    return Play()


def test_thousands_of_destinations_with_mail_are_not_looked_through_for_a_new_one(counting):
    for number in range(1000):
        counting.add(number + 1)
    assert len(counting.destinations._destinations) == 1000
    assert counting.destinations._destinations.popped <= 2 * 1000


def test_destinations_without_mail_are_forgotten_as_new_ones_come(counting):
    for number in range(100):
        counting.add(number + 1)
        counting.not_found(number + 1, HostRefused(550, "5.1.2", "no such domain"))
    for number in range(100):
        counting.add(number + 201, MX1)
    known = counting.destinations.knows
    assert not any(known(number + 1) for number in range(100)) and all(known(number + 201) for number in range(100))
