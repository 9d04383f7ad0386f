"""The model meets a host: addresses, names, limits."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from smtpd.config.host import choose_server_name, interfaces, read_first_line, this_host
from smtpd.config.model import DeliveryLimits, Limits, Method
from smtpd.config.slice import AgentSlice, DeliverySlice, ExpansionSlice, ListenerSlice, ProgramSlice, Slices
from tests.config.machine import errors_of, slices

ACCOUNTS = "bob:x:2000:2000:Bob:/home/bob:/bin/sh\n"
DESCRIPTION = "dbpath /var/db/vusers.sqlite\nquery_userinfo SELECT uid, gid, home FROM users WHERE name = ?\n"


def addresses(text: str) -> list[str]:
    return [listener.address for listener in slices(text).parent.listeners]


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
    assert errors_of(text)[0].startswith(error)


def test_all_operands_that_are_wrong_are_told_at_once():
    assert len(errors_of("listen on a\nlisten on lo\nlisten on b\nlisten on eth1")) == 3


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


def test_a_database_is_a_file_that_lookup_reads_and_so_is_its_description():
    made = slices("table t sqlite:/etc/t.conf", **{"_etc_t.conf": "# ours\ndbpath /var/db/t.sqlite\n"})
    assert made.lookup.files == made.parent.files == ("/etc/t.conf", "/var/db/t.sqlite")


@pytest.mark.parametrize(
    "text, error",
    [
        (None, 'f:1:7: cannot read "/t": No such file or directory'),
        ("dbpath /x\nquery_what SELECT 1\n", "/t:2:1: expected dbpath or query_ and the name of a service"),
    ],
)
def test_a_description_of_a_database_that_cannot_be_used_is_an_error(text, error):
    assert errors_of("table t sqlite:/t", **({} if text is None else {"_t": text})) == [error]


SQLITE = "dbpath /x\nquery_alias SELECT 1\nquery_domain SELECT 1\n"


@pytest.mark.parametrize(
    "use, missing",
    [
        ("action b maildir alias <t>", None),
        ("match for domain <t> reject", None),
        ("action b maildir virtual <t>", None),
        ("action b maildir userbase <t> user vmail", "query_userinfo"),
        ("match from src <t> reject", "query_netaddr"),
        ("match mail-from <t> reject", "query_mailaddr"),
        ("match for rcpt-to <t> reject", "query_mailaddr"),
        ("match tag <t> reject", "query_string"),
        ("match for domain regex <t> reject", "a list of regular expressions"),
    ],
)
def test_a_database_without_the_query_that_its_use_needs_is_an_error_there(use, missing):
    errors = errors_of(f"{use}\ntable t sqlite:/t", _t=SQLITE)
    column = use.index("<t>") + 1
    text = f'f:1:{column}: table "t" is asked for {missing} here, which is not in /t'
    assert errors == ([text] if missing else [])


@pytest.mark.parametrize("file", ["ok\n(\n", "ok x\n( y\n"])
def test_an_expression_that_is_none_does_not_match_in_silence(file):
    (error,) = errors_of("match mail-from regex <t> reject\ntable t file:/t", _t=file)
    assert error.startswith('/t:2:1: "(" is not a regular expression: ')
    assert errors_of("match mail-from <t> reject\ntable t file:/t", _t=file) == []


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


def test_lmtp_runs_as_a_user_of_its_own_unless_it_names_one():
    made = slices("action b lmtp mx1\naction c lmtp mx1 user vmail")
    assert [action.user for action in made.queue.actions] == ["_smtpm", "vmail", ""]
    assert [action.user for action in made.parent.actions] == ["", "vmail", ""]
    assert [action.user for action in made.lookup.actions] == ["", "vmail", ""]


def test_an_action_reaches_who_runs_it_and_who_expands_for_it():
    text = 'mda wrapper w "nice %{mda}"\naction b mda "cat" user amy wrapper w alias <t>\ntable t db:/t'
    made = slices(text)
    assert made.parent.actions[0] == AgentSlice("b", Method.MDA, "cat", wrapper="nice %{mda}", user="amy")
    assert made.lookup.actions[0] == ExpansionSlice("b", Method.MDA, alias="t", user="amy")


def test_an_lmtp_action_says_which_recipient_it_names():
    assert slices("action b lmtp '/run/lmtp' rcpt-to").parent.actions[0].rcpt_to


def test_users_of_the_system_are_no_table():
    made = slices("action b maildir userbase <getpwnam>")
    assert made.lookup.actions[0].userbase == ""
    assert made.parent.actions[0].people is None


def test_limits_of_delivery_reach_queue():
    assert slices("mda limit max-session 9").queue.delivery_limits == DeliveryLimits(9, 7)


def test_a_program_is_found_where_it_comes_first(tmp_path):
    for directory in ("a", "b", "c"):
        (tmp_path / directory).mkdir()
    (tmp_path / "a" / "table-x").mkdir(0o755)
    (tmp_path / "b" / "table-x").touch(0o644)
    (tmp_path / "c" / "table-x").touch(0o755)
    libexec = tuple(str(tmp_path / directory) for directory in ("", "a", "b", "c"))
    made = slices("table t x:/etc/t\ntable u x", libexec=libexec).parent
    program = str(tmp_path / "c" / "table-x")
    assert made.programs == (ProgramSlice("t", (program, "/etc/t"), "_smtpf"), ProgramSlice("u", (program,), "_smtpf"))
    assert made.files == ()


def test_a_program_that_is_nowhere_is_an_error_that_says_where_it_was_looked_for():
    assert errors_of("table t sqlit:/etc/t") == [
        'f:1:7: table "t": no program "table-sqlit" in /nowhere, /else (did you mean sqlite?)'
    ]


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
def test_a_slice_survives_its_way_to_the_process(field, tmp_path):
    text = (Path(__file__).parent.parent / "conf" / "everything.conf").read_text(encoding="utf-8")
    for program in ("table-ldap", "table-weather"):
        (tmp_path / program).touch(0o755)
    files = {"_etc_mail_passwd": ACCOUNTS, "_etc_mail_sqlite.conf": DESCRIPTION}
    piece = getattr(slices(text, libexec=(str(tmp_path),), **files), field.name)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=type(piece)) == piece


def test_a_process_that_gets_its_slice_loads_no_parser():
    code = f"import sys; sys.path[:] = {sys.path!r}; import smtpd.config.slice; print('lark' in sys.modules)"
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
