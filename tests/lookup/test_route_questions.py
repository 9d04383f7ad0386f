"""What a dispatcher is told of relay actions, over its channel."""

import pytest

from smtpd.imsg import (
    FindRelayCredentials,
    FindRoute,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RouteFound,
    RouteNotFound,
)
from smtpd.next_hop import Smarthost
from smtpd.slice import RouteSlice, Service, TableSlice
from tests.lookup.conftest import House

LONG = "x" * 2000
TABLES = (
    TableSlice("localhost", ("local", "127.0.0.1")),
    TableSlice("localnames", ("here.test",)),
    TableSlice("hosts", ("smtps://amy@a.test", "b.test"), services=(Service.RELAYHOST,)),
    TableSlice("secrets", pairs=(("amy", "amy:secret"),), services=(Service.CREDENTIALS,)),
    TableSlice("long", pairs=(("amy", f"amy:{LONG}"),), services=(Service.CREDENTIALS,)),
)
ROUTES = (
    RouteSlice("mx", backup="mx.here.test"),
    RouteSlice("list", hosts="hosts", credentials="secrets"),
    RouteSlice("long", hosts="hosts", credentials="long"),
)


@pytest.fixture
def house():
    made = House(tables=TABLES, routes=ROUTES)
    yield made
    made.close()


def test_the_smarthosts_of_an_action_without_their_labels(house):
    smarthosts = [Smarthost("smtps", "a.test", 465, True), Smarthost("smtp", "b.test", 25, False)]
    assert house.ask(FindRoute(1, "list", "")) == RouteFound(1, smarthosts, "")


def test_an_action_without_smarthosts_and_our_name_among_the_mx_hosts(house):
    assert house.ask(FindRoute(1, "mx", "there.test")) == RouteFound(1, [], "mx.here.test")


def test_an_action_that_is_gone(house):
    assert isinstance(house.ask(FindRoute(1, "gone", "there.test")), RouteNotFound)


def test_credentials_only_for_a_smarthost_of_the_action(house):
    assert house.ask(FindRelayCredentials(1, "list", "", "a.test", 465)) == RelayCredentialsFound(1, "amy", "secret")
    for request, host, port in ((2, "a.test", 25), (3, "b.test", 25), (4, "evil.test", 465)):
        answer = house.ask(FindRelayCredentials(request, "list", "", host, port))
        assert isinstance(answer, RelayCredentialsNotFound)
    assert isinstance(house.ask(FindRelayCredentials(5, "mx", "", "a.test", 465)), RelayCredentialsNotFound)


def test_credentials_that_no_imsg_carries(house):
    answer = house.ask(FindRelayCredentials(1, "long", "", "a.test", 465))
    assert isinstance(answer, RelayCredentialsNotFound)
    assert LONG not in answer.reason
