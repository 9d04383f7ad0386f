"""The hosts of a destination, in the order in which lookup's answers put them."""

import pytest

from smtpd.dispatcher.outbound.next_hops import (
    FAILED_QUESTIONS_MAX,
    HOST_QUESTIONS_MAX,
    SMARTHOST_TTL_MAX,
    NextHops,
)
from smtpd.imsg import FindRoute, HostsFound, HostsNotFound, RouteFound
from smtpd.next_hop import MailHost, Smarthost
from smtpd.slice import RelaySlice

RELAY = RelaySlice("out", "here.test")
SMARTHOSTS = [Smarthost("smtp+notls", f"host{number}.test", 25, False) for number in range(5)]


class Lookup:
    """Answers at once, the last smarthost first."""

    def __init__(self):
        self.asked = []

    def ask(self, make, heard):
        asked = make(1)
        if isinstance(asked, FindRoute):
            heard(RouteFound(1, SMARTHOSTS, ""))
        else:
            self.asked.append((asked, heard))
        while len(self.asked) == len(SMARTHOSTS) or self.asked and isinstance(asked, FindRoute):
            question, answered = self.asked.pop()
            answered(HostsFound(1, [MailHost(question.name, 0, ["192.0.2.1"])], True, "", [], 300))


class Policies:
    @staticmethod
    def find(domain, record_id, found):
        found(None, 300)


@pytest.mark.parametrize("failover, ranks", [(True, [0, 1, 2, 3, 4]), (False, [0] * 5)])
def test_smarthosts_have_the_order_of_their_list_where_the_action_says_so(failover, ranks):
    heard = []
    relay = RelaySlice("out", "here.test", failover=failover)
    NextHops(Lookup(), Policies()).find(relay, "", lambda hops, seconds: heard.extend(hops))
    found = {hop.host.name: hop.rank for hop in heard}
    assert [found[smarthost.host] for smarthost in SMARTHOSTS] == ranks


def test_the_smarthosts_of_a_table_are_looked_for_again_after_a_minute():
    """A numeric one has no TTL, and `smtpctl update table` would change nothing for an hour."""
    heard = []
    lookup = Lookup()
    lookup.ask = lambda make, answered: answered(
        RouteFound(1, [Smarthost("lmtp", "192.0.2.1", 24, False)], "")
        if isinstance(make(1), FindRoute)
        else HostsFound(1, [MailHost("", 0, ["192.0.2.1"])], True, "", [], 3600)
    )
    NextHops(lookup, Policies()).find(RELAY, "", lambda hops, seconds: heard.append(seconds))
    assert heard == [SMARTHOST_TTL_MAX]


class SilentNames:
    """A window to lookup, whose questions for hosts are answered when the test says so."""

    def __init__(self):
        self.asked = []

    def ask(self, make, answered):
        asked = make(1)
        if isinstance(asked, FindRoute):
            answered(RouteFound(1, [], ""))
        else:
            self.asked.append((asked.name, answered))

    def names(self):
        return [name for name, _ in self.asked]


def test_silent_domains_that_are_tried_again_do_not_hold_up_others():
    """And only some are asked for at a time: the rest waits where no clock of lookup runs."""
    lookup, heard = SilentNames(), []
    hops = NextHops(lookup, Policies())
    for number in range(600):
        hops.find(RELAY, f"dead{number}.test", lambda hops, seconds: heard.append(hops), failed=True)
    assert lookup.names() == [f"dead{number}.test" for number in range(FAILED_QUESTIONS_MAX)]
    for number in range(600):
        hops.find(RELAY, f"d{number}.test", lambda hops, seconds: heard.append(hops))
    assert lookup.names()[FAILED_QUESTIONS_MAX:] == [f"d{number}.test" for number in range(HOST_QUESTIONS_MAX)]
    while lookup.asked:
        _, answered = lookup.asked.pop(0)
        answered(HostsNotFound(1, 451, "4.4.3", "no answer", 30))
        assert len(lookup.asked) <= FAILED_QUESTIONS_MAX + HOST_QUESTIONS_MAX
    assert len(heard) == 1200 and not any(refusal.local for refusal in heard)


def test_that_lookup_is_full_is_no_failure_of_the_destination():
    lookup, heard = SilentNames(), []
    NextHops(lookup, Policies()).find(RELAY, "there.test", lambda refusal, seconds: heard.append((refusal, seconds)))
    lookup.asked[0][1](HostsNotFound(1, 451, "4.3.2", "too many destinations", 5))
    ((refusal, seconds),) = heard
    assert refusal.local and seconds == 5
