"""The hosts of a destination, in the order in which lookup's answers put them."""

import pytest

from smtpd.dispatcher.outbound.next_hops import NextHops
from smtpd.imsg import FindRoute, HostsFound, RouteFound
from smtpd.next_hop import MailHost, Smarthost
from smtpd.slice import RelaySlice

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
