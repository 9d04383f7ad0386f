"""Sockets that are bound for others."""

import errno
import os
import socket
import stat

import pytest

from smtpd.parent.listener import AddressInUse, bind
from smtpd.parent.start.bind import CONTROL_BACKLOG, bind_at_start, bind_control, supported
from smtpd.slice import ListenerSlice


def at(address="127.0.0.1", port=0):
    return ListenerSlice(0, address, port, "here.test", "")


def test_a_client_that_comes_before_the_first_accept_waits_and_is_not_refused():
    with bind(at(), shared=False) as bound, socket.socket() as client:
        client.connect(bound.getsockname())


def test_an_address_in_use_is_named_in_the_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"127.0.0.1 port {port} is in use"):
            bind(at(port=port), shared=False)


def test_several_dispatchers_have_a_socket_each_at_one_address():
    with bind(at(), shared=True) as one:
        port = one.getsockname()[1]
        with bind(at(port=port), shared=True) as other:
            assert one.getsockname() == other.getsockname()


def test_IPv6_is_IPv6_only():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        bound = bind(at("::1"), shared=False)
    except OSError:
        pytest.skip("no IPv6 here")
    with bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_an_address_of_a_family_that_the_kernel_does_not_have_is_said_and_passed_over(monkeypatch, capfd):
    class Socket(socket.socket):
        def __init__(self, family=socket.AF_INET, *arguments, **named):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **named)

    both = at(), at("::1", 2525), at("")
    assert supported(both) == both or not socket.has_ipv6
    monkeypatch.setattr(socket, "socket", Socket)
    assert supported(both) == (at(), at(""))
    assert "cannot listen on ::1 port 2525: this system has no IPv6" in capfd.readouterr().err


def test_an_address_that_no_interface_has_yet_is_no_reason_to_stay_down(capfd):
    with bind_at_start(at("192.0.2.1"), shared=False) as bound:
        assert bound.getsockname()[0] == "192.0.2.1"
    assert "no interface has this address yet" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind any port")
def test_a_port_that_needs_root_is_refused_by_name():
    with pytest.raises(OSError, match="cannot listen on 127.0.0.1 port 1"):
        bind(at(port=1), shared=False)


def test_the_control_socket_is_for_all(tmp_path):
    path = str(tmp_path / "smtpd.sock")
    with bind_control(path), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
        client.connect(path)


def test_a_control_socket_that_a_crash_left_is_replaced_and_one_that_answers_is_not(tmp_path):
    path = str(tmp_path / "smtpd.sock")
    bind_control(path).close()
    with bind_control(path), pytest.raises(AddressInUse, match="another smtpd"):
        bind_control(path)


def test_what_is_no_socket_is_not_removed(tmp_path):
    (tmp_path / "smtpd.sock").write_text("something")
    (tmp_path / "smtpd.sock").chmod(0o600)
    with pytest.raises(AddressInUse, match="no socket"):
        bind_control(str(tmp_path / "smtpd.sock"))
    assert (tmp_path / "smtpd.sock").read_text() == "something"


def test_the_backlog_of_control_is_more_than_a_few(tmp_path):
    assert CONTROL_BACKLOG >= 128
