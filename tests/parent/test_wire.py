"""The wiring is made from the arrows, and from nothing else."""

import socket

from smtpd.imsg import ROLES, TABLE
from smtpd.parent.child import Child
from smtpd.parent.start.wire import connect_signing, connected_pairs, processes
from smtpd.tls.signing import SIGNING_SOCKETS
from tests.parent.conftest import ends


def joined(dispatchers):
    return {frozenset(pair) for pair in connected_pairs(processes(dispatchers), TABLE.routes())}


def test_two_processes_are_joined_when_an_arrow_goes_one_way_or_the_other():
    arrows = {frozenset(route) for route in TABLE.routes() if set(route) <= set(ROLES)}
    assert {frozenset(role for role, _ in pair) for pair in joined(1)} == arrows


def test_no_two_are_joined_twice():
    assert len(connected_pairs(processes(3), TABLE.routes())) == len(joined(3))


def test_the_dispatcher_has_no_wire_to_crypto_and_none_to_the_scheduler():
    neighbours = {role for pair in joined(1) for role, _ in pair if ("dispatcher", 0) in pair} - {"dispatcher"}
    assert neighbours == {"lookup", "queue", "control"}


def test_each_dispatcher_has_wires_of_its_own_and_none_to_another():
    assert [number for role, number in processes(3) if role == "dispatcher"] == [1, 2, 3]
    for number in (1, 2, 3):
        neighbours = {other for pair in joined(3) if ("dispatcher", number) in pair for other in pair}
        assert neighbours == {("dispatcher", number), ("lookup", 0), ("queue", 0), ("control", 0)}


def test_the_parent_and_the_nursery_get_no_peers():
    assert not {"parent", "nursery"} & {role for pair in joined(2) for role, _ in pair}


def test_they_are_started_in_the_order_of_the_table():
    assert [role for role, _ in processes(1)] == list(ROLES)


def test_a_dispatcher_and_crypto_have_sockets_for_signatures_that_keep_packets_apart():
    def seat(role, number):
        ours, theirs = ends("parent", role)
        return Child(role, number, 0, ours), theirs

    seated = [seat("crypto", 0), seat("dispatcher", 1), seat("dispatcher", 2), seat("queue", 0)]
    connect_signing([child for child, _ in seated])
    held = []
    for child, theirs in seated:
        child.channel.flush()
        received = [imsg for _ in range(8) for imsg in theirs.receive()]
        held.append([(imsg.number, socket.socket(fileno=descriptor)) for imsg, descriptor in received])
    crypto, first, second, queue = held
    assert [number for number, _ in crypto] == [1] * SIGNING_SOCKETS + [2] * SIGNING_SOCKETS and not queue
    for (_, ours), (_, theirs) in zip(crypto, first + second, strict=True):
        ours.send(b"one")
        ours.send(b"two")
        assert (theirs.recv(100), theirs.recv(100)) == (b"one", b"two")
    for _, end in sum(held, []):
        end.close()
    for child, theirs in seated:
        child.channel.close()
        theirs.close()
