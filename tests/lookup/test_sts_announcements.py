"""Whether domains announce a policy of MTA-STS, as queue hears of it, from a name server that the test plays."""

from dataclasses import replace

import dns.rcode
import pytest

from smtpd.imsg import FindStsRecords, StsRecordsFound
from smtpd.ipc.channel import Violation
from smtpd.lookup import resolver, sts_announcements
from tests.lookup.name_server import Zone, serve

RECORD = '"v=STSv1; id=20160831085700Z;"'


@pytest.fixture
def find(house, monkeypatch):
    """find(zone, domain, …): what queue hears of each."""
    monkeypatch.setattr(resolver, "FIRST_TIMEOUT", 0.1)
    monkeypatch.setattr(resolver, "SECOND_TIMEOUT", 0.1)
    made = house()

    def find(zone, *domains):
        made.lookup.hosts._dns._resolver._servers = [replace(serve(made, zone), trusted=True)]
        asked = FindStsRecords(len(made.heard) + 1, [*domains])
        found = made.ask(asked, "queue")
        assert isinstance(found, StsRecordsFound)
        return found.announced

    find.house = made
    return find


def test_each_domain_is_looked_up(find):
    zone = Zone().add("_mta-sts.there.test.", "TXT", RECORD).add("_mta-sts.b.test.", "TXT", '"v=STSv2; id=1;"')
    zone.add("_mta-sts.xn--mller-kva.test.", "TXT", RECORD)
    asked = ["there.test", "none.test", "b.test", "THERE.test.", "xn--mller-kva.test"]
    assert find(zone, *asked) == [True, False, False, True, True]


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, None], ids=["failure", "silence"])
def test_a_record_that_cannot_be_had_is_none(find, monkeypatch, code):
    monkeypatch.setattr(sts_announcements, "RECORDS_TIMEOUT", 0.3)
    zone = Zone(failing={("_mta-sts.there.test.", "TXT"): code}).add("_mta-sts.b.test.", "TXT", RECORD)
    assert find(zone, "there.test", "b.test") == [False, True]


@pytest.mark.parametrize("name", ["192.0.2.1", "[192.0.2.1]", "localhost", ".", "a..b", "%", "a" * 250, "x." * 125])
def test_a_name_that_no_record_can_have_is_not_looked_up(find, name):
    zone = Zone(twist=lambda query, answer: [])
    assert find(zone, name) == [False] and zone.asked == []


def test_questions_at_a_time_are_bounded(find, monkeypatch):
    """Of a queue that is in the hands of an attacker."""
    monkeypatch.setattr(sts_announcements, "RECORD_QUESTIONS_MAX", 2)
    here = find.house
    zone = Zone(failing={("_mta-sts.there.test.", "TXT"): None})
    here.lookup.hosts._dns._resolver._servers = [serve(here, zone)]
    for request in (1, 2):
        here.theirs["queue"].send(FindStsRecords(request, ["there.test"]))
    assert here.ask(FindStsRecords(3, ["there.test", "b.test"]), "queue").announced == [False, False]
    assert here.answers("queue", 1) is None


def test_a_defect_costs_one_domain(find, monkeypatch, capfd):
    def policy_id(values):
        raise RuntimeError("a defect")

    monkeypatch.setattr(sts_announcements, "policy_id", policy_id)
    zone = Zone().add("_mta-sts.there.test.", "TXT", RECORD)
    assert find(zone, "there.test", "none.test") == [False, False]
    assert "RuntimeError: a defect" in capfd.readouterr().err


def test_without_a_relay_action_there_is_nothing_to_ask(house):
    made = house(routes=())
    with pytest.raises(Violation, match="no action relays"):
        made.lookup.find_sts_records(made.theirs["queue"], FindStsRecords(1, ["there.test"]))
