"""How long a route rests."""

from smtpd.relay.address_order import Path
from smtpd.relay.route import MEMORY_TIME, Route, Routes

ROUTE = Route(Path("192.0.2.1", ""), 25)


def test_a_route_rests_longer_with_each_failure():
    routes, now, rests = Routes(), 0.0, []
    for _ in range(3):
        routes.failed(ROUTE, "connection refused", 0.5, now)
        rest = routes.rest(ROUTE, now)
        rests.append(rest.until - now)
        now = rest.until
        assert routes.rest(ROUTE, now) is None
    assert rests == [15, 60, 135]
    assert rest.text == "connection refused"


def test_connections_that_fail_together_are_one_failure():
    routes = Routes()
    for _ in range(5):
        routes.failed(ROUTE, "connection refused", 0.5, 0.0)
    assert routes.rest(ROUTE, 0.0).until == 15


def test_a_success_forgets_the_failures():
    routes = Routes()
    routes.failed(ROUTE, "connection refused", 0.5, 0.0)
    routes.succeeded(ROUTE)
    routes.failed(ROUTE, "connection refused", 0.5, 15.0)
    assert routes.rest(ROUTE, 15.0).until == 30


def test_an_old_failure_counts_for_nothing():
    routes = Routes()
    for now in (0.0, 15.0):
        routes.failed(ROUTE, "connection refused", 0.5, now)
    routes.failed(ROUTE, "connection refused", 0.5, 100 + MEMORY_TIME)
    assert routes.rest(ROUTE, 100 + MEMORY_TIME).until == 115 + MEMORY_TIME


def test_a_resumed_route_is_tried_now_and_rests_longer_if_it_fails_again():
    routes = Routes()
    routes.failed(ROUTE, "connection refused", 0.5, 0.0)
    routes.resume(ROUTE, 1.0)
    assert routes.rest(ROUTE, 1.0) is None
    routes.failed(ROUTE, "connection refused", 0.5, 1.0)
    assert routes.rest(ROUTE, 1.0).until == 61


def test_what_fails_for_one_destination_rests_for_that_one():
    routes = Routes()
    routes.failed(Route(ROUTE.path, 25, 7), "wrong password", 0.5, 0.0)
    assert routes.rest(ROUTE, 0.0) is None
    assert routes.rest(Route(ROUTE.path, 25, 7), 0.0) is not None


def test_the_table_is_bounded():
    routes = Routes(most=10)
    for number in range(100):
        routes.failed(Route(Path(f"192.0.2.{number}", ""), 25), "connection refused", 0.5, 0.0)
    assert len(routes) == 10
