"""The model meets a host: addresses, names, limits."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from smtpd.config.host import choose_server_name, interfaces, read_first_line, this_host
from smtpd.slice import (
    SOCKET,
    UNLIMITED,
    AgentSlice,
    Auth,
    CaSlice,
    DeliveryLimits,
    DeliverySlice,
    ExpansionSlice,
    Limits,
    ListenerSlice,
    ListenerTablesSlice,
    Method,
    PkiSlice,
    ProgramSlice,
    Proxy,
    Slices,
    Tls,
    TlsSlice,
)
from tests.config.machine import INTERFACES, RESOLVED, errors_of, sliced, slices

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
        ("listen on '*'", ["0.0.0.0", "::"]),
        ("listen on '*' inet6\nlisten on 127.0.0.1", ["::", "127.0.0.1"]),
    ],
)
def test_an_operand_is_an_interface_an_address_or_a_name(text, expected):
    assert addresses(text) == expected


@pytest.mark.parametrize(
    "text, error",
    [
        ("listen on mx.test", 'f:1:11: unknown interface or host "mx.test"'),
        ("listen on '10.0.0.1/8'", 'f:1:11: unknown interface or host "10.0.0.1/8"'),
        ("listen on four.example.org inet6", 'f:1:11: name "four.example.org" has no IPv6 address'),
        ("listen on 127.0.0.1 inet6", 'f:1:11: address "127.0.0.1" is not an IPv6 address'),
        (
            "listen on lo\nlisten on 127.0.0.1 tag x",
            "f:2:11: duplicate listener on 127.0.0.1 port 25: line 1 has other options",
        ),
        ("listen on lo tag x\nlisten on lo tag y", "f:2:11: duplicate listener on 127.0.0.1 port 25: line 1"),
        ("listen on tun0 tag x\nlisten on tun0", "f:2:11: duplicate listener on interface tun0 port 25: line 1"),
        (
            "listen on '*'\nlisten on tun0",
            "f:2:11: address already in use: 0.0.0.0 port 25 covers all addresses, also interface",
        ),
        (
            "listen on tun0 inet6\nlisten on '*'",
            "f:2:11: address already in use: :: port 25 covers all addresses, also interf",
        ),
        ("listen on '*'\nlisten on '::1'", "f:2:11: address already in use: :: port 25 covers all addresses, also ::1"),
        (
            "listen on 127.0.0.1\nlisten on 0.0.0.0",
            "f:2:11: address already in use: 0.0.0.0 port 25 covers all addresses, also 127.0.0.1",
        ),
    ],
)
def test_an_operand_that_cannot_be_listened_on_is_an_error(text, error):
    assert errors_of(text)[0].startswith(error)


def test_all_invalid_operands_are_reported_at_once():
    assert len(errors_of("listen on a.b\nlisten on lo\nlisten on b.c\nlisten on ::1 tag x")) == 3


def test_an_address_of_one_link_needs_its_interface():
    (said,) = errors_of("listen on fe80::1")
    assert said == 'f:1:11: link-local address fe80::1 without an interface, expected one, as in "fe80::1%eth0"'
    assert addresses("listen on 'fe80::1%eth0'") == ["fe80::1%eth0"]


def test_an_address_that_is_there_twice_is_listened_on_once(monkeypatch):
    monkeypatch.setitem(INTERFACES, "eth4", ("192.0.2.9", "192.0.2.9", "192.0.2.10"))
    monkeypatch.setitem(RESOLVED, "twice.example.org", ("127.0.0.1", "127.0.0.1", "::1"))
    assert addresses("listen on twice.example.org") == ["127.0.0.1", "::1"]
    assert sliced("listen on twice.example.org\nlisten on eth4").warnings == ()
    made = sliced("listen on eth2 mask-src\nlisten on eth4 mask-src")
    assert [one.address for one in made.slices.parent.listeners] == ["192.0.2.9", "192.0.2.10"]
    assert [one.number for one in made.slices.dispatcher.listeners] == [0, 1]
    assert made.warnings == ("f:2:11: duplicate listener on 192.0.2.9 port 25, first in line 1",)


def test_of_two_interfaces_with_one_address_the_options_of_the_first_apply(monkeypatch):
    """That they have one is no mistake of the file, and no reason to stay down."""
    monkeypatch.setitem(INTERFACES, "eth4", ("192.0.2.9",))
    made = sliced("listen on eth2 tag x\nlisten on eth4 tag y")
    assert [(one.address, one.tag) for one in made.slices.parent.listeners] == [("192.0.2.9", "x")]
    assert made.warnings == ("f:2:11: duplicate listener on 192.0.2.9 port 25: the options of line 1 apply",)


@pytest.mark.parametrize(
    "text, left",
    [
        ("listen on tun0\nlisten on tun0", [None]),
        ("listen on tun0\nlisten on tun0 inet4", [None]),
        ("listen on tun0 inet6\nlisten on tun0", [6, None]),
    ],
)
def test_an_interface_that_is_waited_for_twice(text, left):
    made = sliced(text)
    assert [one.family for one in made.slices.parent.listeners] == left
    assert made.warnings[-1] == "f:2:11: duplicate listener on interface tun0 port 25, first in line 1"


@pytest.mark.parametrize(
    "text, listener, warning",
    [
        (
            "listen on eth1",
            ListenerSlice(0, "", 25, "MX.example.org", "", "eth1"),
            'interface "eth1" has no address yet',
        ),
        (
            "listen on eth2 inet6 port 26",
            ListenerSlice(0, "", 26, "MX.example.org", "", "eth2", 6),
            'interface "eth2" has no IPv6 address yet',
        ),
        (
            "listen on eth22",
            ListenerSlice(0, "", 25, "MX.example.org", "", "eth22"),
            'unknown interface or host "eth22"; the listener starts when the interface appears (did you mean eth2?)',
        ),
        (
            "listen on eth0.7",
            ListenerSlice(0, "", 25, "MX.example.org", "", "eth0.7"),
            'unknown interface or host "eth0.7"; the listener starts when the interface appears (did you mean eth0?)',
        ),
    ],
)
def test_an_interface_that_is_not_there_yet_is_waited_for(text, listener, warning):
    made = sliced(text)
    assert made.slices.parent.listeners == made.slices.dispatcher.listeners == (listener,)
    assert made.warnings == (f"f:1:11: {warning}",)


@pytest.mark.parametrize(
    "has, expected",
    [
        (("fe80::1%eth3",), ["fe80::1%eth3", ""]),
        (("169.254.7.7", "fe80::1%eth3"), ["169.254.7.7", "fe80::1%eth3", ""]),
        (("fe80::1%eth3", "192.0.2.3"), ["fe80::1%eth3", "192.0.2.3"]),
        (("127.0.0.1", "::1"), ["127.0.0.1", "::1"]),
    ],
)
def test_an_interface_that_has_only_just_come_up_may_get_more_addresses(monkeypatch, has, expected):
    monkeypatch.setitem(INTERFACES, "eth3", has)
    made = slices("listen on eth3").parent.listeners
    assert [one.address for one in made] == expected
    assert [one.interface for one in made if not one.address] == ["eth3"] * expected.count("")


def test_an_interface_may_be_waited_for_once_for_each_family():
    assert len(slices("listen on tun0 inet4\nlisten on tun0 inet6\nlisten on tun0 port 26").parent.listeners) == 3


PKI = """
pki mx1 cert "/mx.crt" key "/mx.key"
pki "*" cert "/any.crt" key "/any.key" dhe auto
pki spare cert "/spare.crt" key "/spare.key" dhe legacy
ca office cert "/office.crt"
ca other cert "/other.crt"
"""


def listener(options: str) -> ListenerSlice:
    return slices(f"{PKI}table t {{ amy = '!' }}\nlisten on 127.0.0.1 {options}").dispatcher.listeners[0]


@pytest.mark.parametrize(
    "options, port",
    [("", 25), ("tls pki mx1", 25), ("smtps pki mx1", 465), ("smtps port 25 pki mx1", 25), ("port 1", 1)],
)
def test_the_port_is_that_of_the_protocol(options, port):
    assert listener(options).port == port


@pytest.mark.parametrize(
    "options, expected",
    [
        ("tls pki mx1", TlsSlice(Tls.OFFERED, ("mx1",))),
        ("tls-require verify pki '*' pki MX1 ca office", TlsSlice(Tls.REQUIRED, ("*", "mx1"), True, "office")),
        ("smtps pki mx1 ca other", TlsSlice(Tls.AT_ONCE, ("mx1",), False, "other")),
        ("tls pki mx1 ciphers HIGH", TlsSlice(Tls.OFFERED, ("mx1",), ciphers="HIGH")),
        ("tls pki mx1 ciphers compat", TlsSlice(Tls.OFFERED, ("mx1",), ciphers="HIGH:!aNULL")),
        ("tls pki mx1 ciphers secure protocols secure", TlsSlice(Tls.OFFERED, ("mx1",))),
        ("tls pki mx1 protocols tlsv1.3", TlsSlice(Tls.OFFERED, ("mx1",), protocols=("TLSv1.3",))),
    ],
)
def test_how_a_listener_talks_tls(options, expected):
    assert listener(options).tls == expected


def test_a_listener_has_the_ciphers_of_all_unless_it_has_its_own():
    made = slices(f"{PKI}smtp ciphers HIGH\nlisten on lo tls pki mx1\nlisten on eth0 tls pki mx1 ciphers secure")
    assert [each.tls.ciphers for each in made.parent.listeners] == ["HIGH", "HIGH", "", "", ""]


@pytest.mark.parametrize(
    "options, more",
    [
        ("mask-src", {"mask_src": True}),
        ("no-dsn", {"no_dsn": True}),
        ("proxy", {"proxy": Proxy.ANY}),
        ("proxy-v1", {"proxy": Proxy.V1}),
        ("proxy-v2", {"proxy": Proxy.V2}),
        ("xclient '127.0.0.1'", {"welcome": True}),
        ("hostnames { '127.0.0.1' = mx1 }", {"welcome": True}),
    ],
)
def test_an_option_reaches_the_listener(options, more):
    assert listener(options) == replace(listener(""), **more)


@pytest.mark.parametrize(
    "options, more",
    [
        ("auth", {"auth": Auth.REQUIRED}),
        ("auth-optional <t>", {"auth": Auth.OFFERED}),
        ("auth received-auth", {"auth": Auth.REQUIRED, "received_auth": True}),
        ("auth senders <t>", {"auth": Auth.REQUIRED, "senders": True}),
        ("auth senders <t> masquerade", {"auth": Auth.REQUIRED, "senders": True, "masquerade": True}),
    ],
)
def test_an_option_of_auth_reaches_the_listener(options, more):
    assert listener(f"tls pki mx1 {options}") == replace(listener("tls pki mx1"), **more)


def test_keys_that_no_listener_names_are_not_handed_over():
    made = slices(f"{PKI}listen on lo tls pki mx1 ca office\nlisten on eth0 tls pki '*'")
    assert made.parent.pki == (
        PkiSlice("mx1", "/mx.crt", "/mx.key"),
        PkiSlice("*", "/any.crt", "/any.key"),
    )
    assert made.parent.ca == (CaSlice("office", "/office.crt"),)
    assert made.dispatcher.dhe == {"*": "auto"}


def test_lookup_is_told_of_each_listener_that_it_is_asked_about():
    text = f"""{PKI}
    table t {{ amy = "!" }}
    listen on lo tag x
    listen on eth0 inet4 tls pki mx1 auth <t> senders <t>
    listen on eth0 inet4 port 26 xclient "127.0.0.1" hostnames <t>
    table t2 {{ "192.0.2.1" = mx1 }}
    """.replace("hostnames <t>", "hostnames <t2>")
    assert slices(text).lookup.listener_tables == (
        ListenerTablesSlice(2, True, credentials="t", senders="t"),
        ListenerTablesSlice(3, hostnames="t2", xclient="<dynamic:0>"),
    )


@pytest.mark.parametrize(
    "option, tables",
    [
        ("", ()),
        ("auth", (ListenerTablesSlice(0, True),)),
        ("hostnames <t>", (ListenerTablesSlice(0, hostnames="t"),)),
        ("xclient '127.0.0.1'", (ListenerTablesSlice(0, xclient="<dynamic:0>"),)),
    ],
)
def test_lookup_is_asked_about_a_listener_for_any_one_of_its_tables(option, tables):
    text = f'{PKI}table t {{ "192.0.2.1" = mx1 }}\nlisten on eth0 inet4 tls pki mx1 {option}'
    assert slices(text).lookup.listener_tables == tables


@pytest.mark.parametrize("operands", [("tun0 inet4", "tun0 inet6"), ("tun0", "eth0"), ("tun0", "tun0 port 26")])
def test_listeners_that_are_not_in_each_others_way(operands):
    assert len(slices("".join(f"listen on {operand}\n" for operand in operands)).dispatcher.listeners) >= 2


@pytest.mark.parametrize("auth, asked", [("", False), ("auth", True), ("auth <t>", False), ("auth-optional", True)])
def test_passwords_of_the_system_are_asked_for_where_no_table_has_them(auth, asked):
    text = f"{PKI}table t {{ amy = '!' }}\nlisten on lo tls pki mx1 {auth}"
    assert slices(text).parent.passwords is asked


VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$" + ":".join(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] * 2)
HASH = "$6$salt$" + "a" * 86


@pytest.mark.parametrize(
    "table, scram",
    [
        (f'{{ amy = "{HASH}" }}', False),
        (f'{{ amy = "{HASH}", bob = "{VERIFIER}" }}', False),
        (f'{{ amy = "!{HASH}", bob = "{VERIFIER}", eve = "sesame" }}', True),
        ('{ amy = "!" }', False),
        ("file:/hashes", False),
        ("file:/verifiers", True),
        ("passwd:/accounts", False),
        ("db:/hashes", False),
        ("sqlite:/sql", False),
        ("x", False),
    ],
)
def test_scram_is_offered_if_all_entries_are_verifiers_or_the_listener_says_so(table, scram, tmp_path):
    (tmp_path / "table-x").touch(0o755)
    files = {"_hashes": f"amy {HASH}\n", "_verifiers": f"bob bob:{VERIFIER}\n", "_accounts": f"amy:{HASH}\n"}
    files["_sql"] = "dbpath /x\nquery_credentials SELECT 1, 2\n"
    text = f"{PKI}table t {table}\nlisten on 127.0.0.1 tls pki mx1 auth <t>"
    assert slices(text, libexec=(str(tmp_path),), **files).dispatcher.listeners[0].scram is scram
    assert slices(f"{text} scram", libexec=(str(tmp_path),), **files).dispatcher.listeners[0].scram is True


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
    lookup = slices(
        'table t file:/t\ntable u file:/a\nmatch for domain "x" reject\nmatch rcpt-to <t> reject', _t="", _a=""
    ).lookup
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


LISTEN = "listen on lo tls pki mx1"
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
        ("match from auth <t> reject", "query_string"),
        ("match from rdns <t> helo <t> reject", None),
        (f"{LISTEN} auth <t>", "query_credentials"),
        (f"{LISTEN} auth senders <t>", "query_mailaddrmap"),
        ("listen on lo hostnames <t>", "query_addrname"),
        ("listen on lo xclient <t>", "query_netaddr"),
        ("match for domain regex <t> reject", "a list of regular expressions"),
    ],
)
def test_a_database_without_the_query_that_its_use_needs_is_an_error_there(use, missing):
    errors = errors_of(f"{use}\ntable t sqlite:/t{PKI}", _t=SQLITE)
    column = use.index("<t>") + 1
    text = f'f:1:{column}: table "t" needs {missing} here, which is not in /t'
    assert errors == ([text] if missing else [])


@pytest.mark.parametrize("file", ["ok\n(\n", "ok x\n( y\n"])
def test_an_expression_that_is_none_does_not_match_in_silence(file):
    (error,) = errors_of("match mail-from regex <t> reject\ntable t file:/t", _t=file)
    assert error.startswith('/t:2:1: invalid regular expression "(": ')
    assert errors_of("match mail-from <t> reject\ntable t file:/t", _t=file) == []


@pytest.mark.parametrize("entry", ["192.0.2.0/33", "192.0.2.256", "2001:db8::/129", "10.0.0", "mx.example.org", "*"])
@pytest.mark.parametrize("use", ["match from src <t> reject", "match reject\nlisten on lo xclient <t>"])
def test_a_malformed_network_is_reported(use, entry):
    text = f'invalid network "{entry}", expected one such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32 or local'
    assert errors_of(f'table t {{ "::1", "{entry}" }}\n{use}') == [f"f:1:18: {text}"]
    assert errors_of(f"table t file:/t\n{use}", _t=f"# ours\n::1\n{entry}\n") == [f"/t:3:1: {text}"]
    assert errors_of(f"{use.replace('<t>', f'{{ {entry!r} }}')}")[0].endswith(text)


@pytest.mark.parametrize(
    "entry", ["192.0.2.1", "10/8", "192.0.2.0/24", "::/0", "[2001:db8::1]", "fe80::1%lo", "local", "Local"]
)
def test_what_a_client_s_address_can_be_compared_with(entry):
    assert errors_of(f'match from src "{entry}" reject') == []


def test_what_is_counted_over_all_sessions_is_divided_by_the_dispatchers():
    made = slices(
        """
        dispatchers 3
        smtp limit max-sessions 100 max-sessions-per-address 2 max-rcpt 90
        smtp limit connection-rate 0 connection-rate-per-network 9 message-rate 1 message-rate-per-network 0
        smtp limit message-rate-per-user 30 failure-rate 0 failure-rate-per-network 5 auth-failure-rate 7
        """
    )
    assert made.lookup.auth_failure_rate == 7
    assert made.dispatcher.limits == Limits(
        max_rcpt=90,
        max_sessions=33,
        max_sessions_per_address=1,
        connection_rate=0,
        connection_rate_per_network=3,
        message_rate=1,
        message_rate_per_network=0,
        message_rate_per_user=10,
        failure_rate=0,
        failure_rate_per_network=1,
        auth_failure_rate=7,
    )


def test_the_socket_is_listened_on_by_default():
    assert slices("listen on lo").dispatcher.socket == replace(SOCKET, hostname="MX.example.org")
    made = slices("listen on socket mask-src tag here no-dsn").dispatcher
    assert made.socket == replace(SOCKET, hostname="MX.example.org", tag="here", mask_src=True, no_dsn=True)
    assert made.listeners == ()


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


def test_an_action_reaches_the_processes_that_run_and_expand_it():
    text = 'mda wrapper w "nice %{mda}"\naction b mda "cat" user amy wrapper w alias <t>\ntable t db:/t'
    made = slices(text)
    assert made.parent.actions[0] == AgentSlice("b", Method.MDA, "cat", wrapper="nice %{mda}", user="amy")
    assert made.lookup.actions[0] == ExpansionSlice("b", Method.MDA, alias="t", user="amy")


def test_an_lmtp_action_says_which_recipient_it_names():
    assert slices("action b lmtp '/run/lmtp' rcpt-to").parent.actions[0].rcpt_to


def test_users_of_the_system_are_no_table():
    made = slices("action b maildir userbase <getpwnam>")
    assert made.lookup.actions[0].userbase == ""
    assert made.parent.actions[0].accounts is None


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


def test_a_missing_program_is_an_error_that_names_the_directories():
    assert errors_of("table t sqlit:/etc/t") == [
        'f:1:7: table "t": unknown backend "sqlit": no program "table-sqlit" in /nowhere, /else (did you mean sqlite?)'
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


@pytest.mark.parametrize("role", Slices.__struct_fields__)
def test_a_slice_survives_its_way_to_the_process(role, tmp_path):
    text = (Path(__file__).parent.parent / "conf" / "everything.conf").read_text(encoding="utf-8")
    for program in ("table-ldap", "table-weather"):
        (tmp_path / program).touch(0o755)
    files = {"_etc_mail_passwd": ACCOUNTS, "_etc_mail_sqlite.conf": DESCRIPTION, "_etc_mail_passwords": ""}
    files |= dict.fromkeys(("_etc_mail_people", "_etc_mail_friends", "_etc_aliases"), "")
    piece = getattr(slices(text, libexec=(str(tmp_path),), **files), role)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=type(piece)) == piece


def test_a_process_that_gets_its_slice_loads_no_parser():
    code = f"import sys; sys.path[:] = {sys.path!r}; import smtpd.slice; print('lark' in sys.modules)"
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_a_largest_message_of_0_is_no_limit():
    assert slices("smtp max-message-size 0").dispatcher.max_message_size == UNLIMITED
