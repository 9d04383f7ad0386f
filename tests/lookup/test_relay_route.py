"""Smarthosts and their credentials."""

import pytest

from smtpd.lookup.relay_route import LIST_FAULTS_MAX, SMARTHOSTS_MAX, RelayRoutes, RouteUnavailable
from smtpd.slice import RouteSlice
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.relay_credential import RelayCredential
from smtpd.tables.relay_host import RelayHost, RelayProtocol
from smtpd.tables.table import TableUnavailable
from tests.lookup.world import SlowTable

A = RelayHost(RelayProtocol.SMTPS, "a.test", 465, "first")
B = RelayHost(RelayProtocol.SMTP_TLS, "b.test", 587, "second@b.test")
C = RelayHost(RelayProtocol.SMTP, "c.test", 25)
TABLES = {
    "hosts": ListTable("hosts", ["smtps://first@a.test", "smtp+tls://second@b.test@b.test:587", "c.test", "C.test."]),
    "domains": MappingTable("domains", [("there.test", "smtps://first@a.test"), ("m\u00fcller.test", "c.test")]),
    "secrets": MappingTable("secrets", [("First", "amy:one"), ("second@B.test", "eve:two")]),
    "wrong": MappingTable("wrong", [("first", "a-password-alone")]),
    "bad": ListTable("bad", ["smtp://user:pass@x.test", "ok.test"]),
    "worse": ListTable("worse", ["smtp://user:pass@x.test"]),
    "many": ListTable("many", [f"h{number}.test" for number in range(SMARTHOSTS_MAX + 50)]),
}
ROUTES = (
    RouteSlice("mx"),
    RouteSlice("backup", backup="mx.here.test"),
    RouteSlice("list", hosts="hosts", credentials="secrets"),
    RouteSlice("open", hosts="hosts"),
    RouteSlice("by-domain", domains="domains", credentials="secrets"),
    RouteSlice("wrong", hosts="hosts", credentials="wrong"),
    RouteSlice("bad", hosts="bad"),
    RouteSlice("worse", hosts="worse"),
    RouteSlice("many", hosts="many"),
)


def slowly(tables):
    return {name: SlowTable(table) if isinstance(table, MappingTable) else table for name, table in tables.items()}


def drive(steps):
    answer = None
    while True:
        try:
            question = steps.send(answer)
        except StopIteration as end:
            return end.value
        heard = []
        question.begin(heard.append)
        (answer,) = heard


@pytest.fixture(params=[dict, slowly], ids=["at once", "slowly"])
def routes(request):
    return RelayRoutes(ROUTES, request.param(TABLES))


@pytest.mark.parametrize("action", ["mx", "backup"])
def test_without_smarthosts_the_mx_hosts_of_the_domain_are_meant(routes, action):
    assert drive(routes.smarthosts(action, "there.test")) is None


def test_a_list_has_its_order_and_each_host_once(routes):
    assert drive(routes.smarthosts("list", "anywhere.test")) == (A, B, C)


@pytest.mark.parametrize(
    "domain, host", [("There.Test", A), ("there.test.", A), ("M\u00dcLLER.test", C), ("xn--mller-kva.test", C)]
)
def test_a_domain_has_its_smarthost_in_any_spelling(routes, domain, host):
    assert drive(routes.smarthosts("by-domain", domain)) == (host,)


@pytest.mark.parametrize("domain", ["a.there.test", "else.test", ""])
def test_a_domain_without_a_smarthost_has_to_wait(routes, domain):
    assert drive(routes.smarthosts("by-domain", domain)) == RouteUnavailable(f"table domains has no host for {domain}")


def test_an_action_that_is_gone_has_no_hosts(routes):
    assert drive(routes.smarthosts("gone", "x")) == RouteUnavailable("action gone does not relay, or is gone")
    assert drive(routes.credentials("gone", "x", "a.test", 465)).reason == "action gone does not relay, or is gone"


def test_an_invalid_entry_is_left_out_and_its_label_is_not_shown(routes):
    assert drive(routes.smarthosts("bad", "x")) == (RelayHost(RelayProtocol.SMTP, "ok.test", 25),)
    reason = drive(routes.smarthosts("worse", "x")).reason
    assert reason.startswith("table worse: smtp://...@x.test: ")
    assert "pass@" not in reason


def test_a_list_is_bounded(routes):
    assert len(drive(routes.smarthosts("many", "x"))) == SMARTHOSTS_MAX


def test_what_a_list_cannot_do_as_a_whole_is_told_without_labels(routes):
    (fault,) = routes.list_faults()
    assert fault == "table many: a list has at most 100 hosts: this one and those after it would not be used"
    assert routes.list_faults_of("many") == [fault]
    assert routes.list_faults_of("hosts") == routes.list_faults_of("domains") == routes.list_faults_of("none") == []
    labels = ListTable("t", [f"smtps://label{number}@a.test" for number in range(LIST_FAULTS_MAX + 5)])
    faults = RelayRoutes([RouteSlice("l", hosts="t")], {"t": labels}).list_faults_of("t")
    assert faults == ["table t: a.test port 465 has another label above: this one would not be used"] * LIST_FAULTS_MAX


def test_a_table_that_cannot_be_read():
    class Broken(ListTable):
        def entries(self):
            return TableUnavailable("table t: gone")

        def find(self, service, key):
            return TableUnavailable("table t: gone")

    broken = RelayRoutes(
        [RouteSlice("l", hosts="t"), RouteSlice("d", domains="t"), RouteSlice("c", hosts="h", credentials="t")],
        {"t": Broken("t", []), "h": TABLES["hosts"]},
    )
    for steps in (
        broken.smarthosts("l", "x"),
        broken.smarthosts("d", "x"),
        broken.credentials("l", "x", "a", 1),
        broken.credentials("c", "x", "a.test", 465),
    ):
        assert drive(steps) == RouteUnavailable("table t: gone")


# -- credentials -------------------------------------------------------------------------------


def test_the_credentials_are_those_of_the_label_in_any_case(routes):
    assert drive(routes.credentials("list", "x", "a.test", 465)) == RelayCredential("amy", "one")
    assert drive(routes.credentials("list", "x", "b.test", 587)) == RelayCredential("eve", "two")
    assert drive(routes.credentials("by-domain", "there.test", "a.test", 465)) == RelayCredential("amy", "one")


@pytest.mark.parametrize(
    "action, domain, host, port",
    [
        ("list", "x", "c.test", 25),
        ("list", "x", "a.test", 587),
        ("list", "x", "evil.test", 465),
        ("list", "x", "first", 465),
        ("open", "x", "a.test", 465),
        ("mx", "there.test", "a.test", 465),
        ("by-domain", "m\u00fcller.test", "a.test", 465),
    ],
)
def test_attack_there_are_none_for_a_host_that_the_action_does_not_have(routes, action, domain, host, port):
    expected = RouteUnavailable(f"action {action} has no credentials for {host} port {port}")
    assert drive(routes.credentials(action, domain, host, port)) == expected


def test_a_password_is_in_no_reason(routes):
    reason = drive(routes.credentials("wrong", "x", "a.test", 465)).reason
    assert reason == "table wrong: credentials for a.test: not user:password"


def test_a_label_that_the_table_lacks(routes):
    assert drive(routes.credentials("wrong", "x", "b.test", 587)) == RouteUnavailable(
        "table wrong has no credentials for b.test"
    )
