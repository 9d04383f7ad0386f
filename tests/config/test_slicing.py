"""The model meets a host: addresses, names, limits."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from smtpd.config.error import ConfigErrors
from smtpd.config.host import Host, choose_server_name, interfaces, read_first_line, this_host
from smtpd.config.model import Limits, Method
from smtpd.config.parser import parse
from smtpd.config.slice import DeliverySlice, ListenerSlice, Slices
from smtpd.config.slicing import slice_config

HOST = Host(
    server_name="MX.example.org",
    interfaces={
        "lo": ("127.0.0.1", "::1"),
        "eth0": ("192.0.2.1", "2001:db8::1", "fe80::1%eth0"),
        "eth1": (),
        "eth2": ("192.0.2.9",),
    },
    resolve={"mail.example.org": ("192.0.2.1", "2001:db8::1"), "four.example.org": ("192.0.2.2",)}.get,
)


def slices(text: str) -> Slices:
    parsed = parse("f", text=text + "\naction a maildir\nmatch reject")
    host = Host(HOST.server_name, HOST.interfaces, lambda name: HOST.resolve(name) or ())
    return slice_config(parsed, host).slices


def addresses(text: str) -> list[str]:
    return [listener.address for listener in slices(text).parent.listeners]


def error_of(text: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        slices(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("listen on lo", ["127.0.0.1", "::1"]),
        ("listen on eth0", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"]),
        ("listen on eth0 inet4", ["192.0.2.1"]),
        ("listen on eth0 inet6", ["2001:db8::1", "fe80::1%eth0"]),
        ("listen on 192.0.2.7", ["192.0.2.7"]),
        ("listen on 0:0::1", ["::1"]),
        ("listen on '[::1]'", ["::1"]),
        ("listen on mail.example.org", ["192.0.2.1", "2001:db8::1"]),
        ("listen on mail.example.org inet6", ["2001:db8::1"]),
        ("listen on lo port 25\nlisten on lo port 26", ["127.0.0.1", "::1", "127.0.0.1", "::1"]),
    ],
)
def test_an_operand_is_an_interface_an_address_or_a_name(text, expected):
    assert addresses(text) == expected


@pytest.mark.parametrize(
    "text, error",
    [
        ("listen on eth9", 'f:1:11: "eth9" is neither an interface nor an address nor a name that resolves'),
        ("listen on eth1", 'f:1:11: interface "eth1" has no address'),
        ("listen on eth2 inet6", 'f:1:11: interface "eth2" has no IPv6 address'),
        ("listen on four.example.org inet6", 'f:1:11: name "four.example.org" has no IPv6 address'),
        ("listen on 127.0.0.1 inet6", 'f:1:11: address "127.0.0.1" is not an IPv6 address'),
        ("listen on lo\nlisten on 127.0.0.1 tag x", "f:2:11: 127.0.0.1 port 25 is listened on already"),
    ],
)
def test_an_operand_that_cannot_be_listened_on_is_an_error(text, error):
    assert error_of(text).startswith(error)


def test_all_operands_that_are_wrong_are_told_at_once():
    assert len(error_of("listen on a\nlisten on lo\nlisten on b\nlisten on eth1").splitlines()) == 3


def test_a_listener_has_the_name_of_the_server_unless_it_has_its_own():
    assert slices("listen on lo inet4 tag x port 26\nlisten on lo inet4 hostname h").dispatcher.listeners == (
        ListenerSlice(0, "127.0.0.1", 26, "MX.example.org", "x"),
        ListenerSlice(1, "127.0.0.1", 25, "h", ""),
    )


def test_own_names_and_addresses_are_filled_in():
    tables = {table.name: table.entries for table in slices("").lookup.tables}
    assert tables["anyhost"] == ("local", "0.0.0.0/0", "::/0")
    assert tables["localhost"][:4] == ("local", "127.0.0.1", "::1", "192.0.2.1")
    assert "fe80::1" in tables["localhost"]
    assert set(tables["localnames"]) >= {"localhost", "mx.example.org", "192.0.2.1", "[192.0.2.1]", "[ipv6:::1]"}


def test_each_table_of_the_configuration_reaches_lookup():
    lookup = slices('table t file:/t\ntable u file:/a\nmatch for domain "x" reject\nmatch rcpt-to <t> reject').lookup
    names = {table.name for table in lookup.tables}
    assert names == {"anyhost", "anydestination", "localhost", "localnames", "t", "u", "<dynamic:0>"}
    assert lookup.files == ("/a", "/t")


def test_what_is_counted_over_all_sessions_is_divided_by_the_dispatchers():
    limits = slices(
        "dispatchers 3\nsmtp limit max-sessions 100 max-sessions-per-address 2 max-rcpt 90"
    ).dispatcher.limits
    assert limits == Limits(max_rcpt=90, max_sessions=33, max_sessions_per_address=1)


def test_an_action_without_ttl_has_that_of_the_queue():
    assert slices("queue ttl 2d\naction b maildir '/x' junk ttl 1h").queue.actions == (
        DeliverySlice("b", Method.MAILDIR, "", 3600),
        DeliverySlice("a", Method.MAILDIR, "", 172800),
    )


@pytest.mark.parametrize(
    "mailname, hostname, canonical, expected",
    [
        ("mail.example.org", "a.b", "c.d", "mail.example.org"),
        ("", "a.b", "c.d", "a.b"),
        ("not a name", "a.b", "c.d", "a.b"),
        ("x\x1b[31m", "a.b", "c.d", "a.b"),
        ("", "a", "a.example.org", "a.example.org"),
        ("", "a", "", "a"),
        ("", "", "", "localhost"),
        ("a" * 64, "a", "", "a"),
    ],
)
def test_the_name_of_the_server(mailname, hostname, canonical, expected):
    assert choose_server_name(mailname, hostname, lambda name: canonical) == expected


def test_the_mailname_is_the_first_line_of_its_file(tmp_path):
    path = tmp_path / "mailname"
    assert read_first_line(str(path)) == ""
    path.write_bytes(b" mail.example.org \nother\xff\n")
    assert read_first_line(str(path)) == "mail.example.org"
    assert this_host(str(path)).server_name == "mail.example.org"


def test_the_interfaces_of_this_machine_have_their_loopback_address():
    assert any("127.0.0.1" in addresses for addresses in interfaces().values())


@pytest.mark.parametrize("field", Slices.__dataclass_fields__.values(), ids=lambda field: field.name)
def test_a_slice_survives_its_way_to_the_process(field):
    text = (Path(__file__).parent.parent / "conf" / "everything.conf").read_text(encoding="utf-8")
    piece = getattr(slices(text), field.name)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=type(piece)) == piece


def test_a_process_that_gets_its_slice_loads_no_parser():
    code = f"import sys; sys.path[:] = {sys.path!r}; import smtpd.config.slice; print('lark' in sys.modules)"
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
