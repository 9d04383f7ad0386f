"""What the machine is asked: names, addresses, interfaces."""

import socket

from smtpd.config.host import address_of, resolve

INDEX, NAME = socket.if_nameindex()[0]


def test_an_address_of_an_interface_has_one_spelling():
    """fe80::1%1 and fe80::1%lo are one address: two sockets would share its clients between two listeners."""
    assert resolve(f"fe80::1%{INDEX}") == resolve(f"fe80::1%{NAME}") == (f"fe80::1%{NAME}",)
    assert resolve("fe80::1%nosuch0") == ()
    assert address_of(("fe80::1", 25, 0, INDEX)) == f"fe80::1%{NAME}"
    assert address_of(("fe80::1", 25, 0, 4_000_000)) == "fe80::1%4000000"


def test_an_address_without_a_scope_is_its_own_name():
    assert address_of(("192.0.2.1", 25)) == "192.0.2.1"
    assert address_of(("2001:db8::1", 25, 0, 0)) == "2001:db8::1"
    assert resolve("127.0.0.1") == ("127.0.0.1",)
