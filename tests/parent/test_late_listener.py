"""Listeners whose interface comes later; the loopback interface is the one that there always is."""

import os
import shutil
import socket
import subprocess

import pytest

from smtpd.imsg import AddListener
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.late_listener import LateListeners
from smtpd.parent.start.bind import find_late
from smtpd.slice import ListenerSlice
from tests.parent.conftest import ends
from tests.unique import free_port

LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def listener(interface=LOOPBACK, address="", port=None, number=7, family=4):
    return ListenerSlice(number, address, port or free_port(), "here.test", "", interface=interface, family=family)


class Place:
    def __init__(self, *listeners, dispatchers=1, present=()):
        self.loop = SelectorLoop()
        pairs = [ends("parent", "dispatcher") for _ in range(dispatchers)]
        self.ours, self.theirs = [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
        self.interfaces = LateListeners(self.loop, listeners, self.ours, present)
        self.interfaces.begin()

    def again(self):
        """Five seconds later."""
        self.loop._timers = [(when - 5, order, timer) for when, order, timer in self.loop._timers]
        self.loop._act_on_time()

    def heard(self):
        """What each dispatcher has been given: number, address, and where its socket is."""
        given = []
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            ours.flush()
            for imsg, descriptor in theirs.receive():
                assert isinstance(imsg, AddListener)
                with socket.socket(fileno=descriptor) as sock:
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    given.append((imsg.number, imsg.address, sock.getsockname()[:2]))
        return given

    def close(self):
        for channel in (*self.ours, *self.theirs):
            channel.close()


@pytest.fixture
def make_place():
    made = []

    def make(*listeners, **more):
        made.append(Place(*listeners, **more))
        return made[-1]

    yield make
    for place in made:
        place.close()


def test_a_listener_with_an_address_is_not_late():
    assert find_late([ListenerSlice(0, "127.0.0.1", 25, "", ""), ListenerSlice(1, f"::1%{LOOPBACK}", 25, "", "")]) == ()


def test_a_listener_without_an_address_or_interface_is_late():
    those = (listener(), listener(interface="", address="fe80::1%nosuch0"))
    assert find_late(those) == those


def test_each_dispatcher_is_given_a_socket_of_its_own_once(make_place):
    wanted = listener()
    place = make_place(wanted, dispatchers=2)
    assert place.heard() == [(7, "127.0.0.1", ("127.0.0.1", wanted.port))] * 2
    place.again()
    assert place.heard() == []


def test_an_interface_that_does_not_come_is_waited_for_in_silence(make_place, capfd):
    place = make_place(listener(interface="nosuch0"), listener(interface="", address="fe80::1%nosuch0"))
    place.again()
    assert place.heard() == [] and capfd.readouterr().err == ""


def test_an_address_in_use_is_logged_once_and_tried_again(make_place, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place = make_place(listener(port=port), dispatchers=2)
        place.again()
        assert place.heard() == []
        assert capfd.readouterr().err.count(f"127.0.0.1 port {port} is in use; it is tried again") == 1
    place.again()
    assert len(place.heard()) == 2


def test_an_address_that_was_bound_at_the_start_is_not_bound_again(make_place):
    wanted = listener()
    place = make_place(wanted, present=[listener(interface="", address="127.0.0.1", port=wanted.port, number=6)])
    assert "127.0.0.1" not in [address for _, address, _ in place.heard()]


def test_an_address_of_two_interfaces_is_listened_on_once(make_place, capfd):
    """With two dispatchers the kernel would take the second socket, and share the clients between the listeners."""
    wanted = listener()
    place = make_place(wanted, listener(port=wanted.port, number=8), dispatchers=2)
    assert place.heard() == [(7, "127.0.0.1", ("127.0.0.1", wanted.port))] * 2
    place.again()
    assert place.heard() == []
    said = capfd.readouterr().err
    assert said.count(f"duplicate listener on 127.0.0.1 port {wanted.port}: it is listened on once") == 1


def test_a_listener_that_waits_for_more_addresses_has_no_duplicate_in_those_of_the_start(make_place, capfd):
    wanted = listener()
    make_place(wanted, present=[listener(interface="", address="127.0.0.1", port=wanted.port, number=6)])
    assert "duplicate" not in capfd.readouterr().err


def test_a_stop_ends_the_looking(make_place):
    place = make_place(listener(interface="nosuch0"))
    place.interfaces.stop()
    place.again()
    assert place.loop._patience() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives an address to the loopback interface")
def test_an_address_that_comes_later_is_listened_on_and_one_that_goes_and_comes_back_needs_no_second_socket(make_place):
    def ip(what):
        command = ["ip", "address", what, "192.0.2.77/32", "dev", LOOPBACK]
        return shutil.which("ip") is None or subprocess.run(command, capture_output=True).returncode

    wanted = listener()
    place = make_place(wanted)
    place.heard()
    if ip("add"):
        pytest.skip("no address can be added here")
    try:
        place.again()
        assert place.heard() == [(7, "192.0.2.77", ("192.0.2.77", wanted.port))]
    finally:
        ip("del")
    place.again()
    assert ip("add") == 0
    try:
        place.again()
        assert place.heard() == []
    finally:
        ip("del")
