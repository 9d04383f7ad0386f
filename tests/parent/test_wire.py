"""The wiring is made from the arrows, and from nothing else."""

from smtpd.imsg import ROLES, TABLE
from smtpd.parent.wire import seats, wires


def joined(dispatchers):
    return {frozenset(pair) for pair in wires(seats(dispatchers), TABLE.routes())}


def test_two_processes_are_joined_when_an_arrow_goes_one_way_or_the_other():
    arrows = {frozenset(route) for route in TABLE.routes() if set(route) <= set(ROLES)}
    assert {frozenset(role for role, _ in pair) for pair in joined(1)} == arrows


def test_no_two_are_joined_twice():
    assert len(wires(seats(3), TABLE.routes())) == len(joined(3))


def test_the_dispatcher_has_no_wire_to_crypto_and_none_to_the_scheduler():
    neighbours = {role for pair in joined(1) for role, _ in pair if ("dispatcher", 0) in pair} - {"dispatcher"}
    assert neighbours == {"lookup", "queue", "control"}


def test_each_dispatcher_has_wires_of_its_own_and_none_to_another():
    assert [number for role, number in seats(3) if role == "dispatcher"] == [1, 2, 3]
    for number in (1, 2, 3):
        neighbours = {other for pair in joined(3) if ("dispatcher", number) in pair for other in pair}
        assert neighbours == {("dispatcher", number), ("lookup", 0), ("queue", 0), ("control", 0)}


def test_the_parent_and_the_nursery_are_wired_to_nobody():
    assert not {"parent", "nursery"} & {role for pair in joined(2) for role, _ in pair}


def test_they_are_started_in_the_order_of_the_table():
    assert [role for role, _ in seats(1)] == list(ROLES)
