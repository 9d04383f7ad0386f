"""What each process is told of relay actions, and that it is told nothing else."""

import re
from pathlib import Path

import msgspec
import pytest

from smtpd.config.build.relay import OPTIONS
from smtpd.slice import SYSTEM_CA, CaSlice, Method, PkiSlice, RelayLimits, RelaySlice, RelayTls, RouteSlice, SrsSlice
from smtpd.tables.relay_host import RelayProtocol
from tests.config.machine import errors_of, sliced, slices

SECRET = "my-very-secret-password"
SMARTHOST = f"""
table secrets {{ my-label = "amy:{SECRET}" }}
action "out" relay host {{ "smtps://my-label@a.example.org", "smtp+tls://my-label@b.example.org:587" }} auth <secrets>
srs key "my-srs-key"
"""


def test_a_relay_action_as_its_processes_need_it():
    made = slices('action "out" relay ttl 1d')
    assert made.dispatcher.relays == (RelaySlice("out", "MX.example.org"),)
    assert made.lookup.routes == (RouteSlice("out"),)
    assert [(action.name, action.method, action.user, action.lifetime) for action in made.queue.actions] == [
        ("out", Method.RELAY, "", 86400),
        ("a", Method.MAILDIR, "", 4 * 86400),
    ]
    assert [(action.name, action.method) for action in made.lookup.actions] == [
        ("out", Method.RELAY),
        ("a", Method.MAILDIR),
    ]
    assert [action.name for action in made.parent.actions] == ["a"]
    assert made.dispatcher.connect_ports == (25, 443)


def test_passwords_labels_and_the_srs_key_are_told_to_lookup_only():
    made = slices(SMARTHOST)
    parts = {field: msgspec.msgpack.encode(getattr(made, field)) for field in made.__struct_fields__}
    for word in (SECRET, "my-label", "my-srs-key"):
        assert [role for role, part in parts.items() if word.encode() in part] == ["lookup"]
    assert made.dispatcher.relays[0].auth
    assert made.lookup.srs == SrsSlice("my-srs-key")
    assert made.dispatcher.connect_ports == (443, 465, 587)


def test_addresses_and_names_to_connect_from_are_told_to_the_dispatcher():
    made = slices(
        'action "out" relay src <own> helo-src <names> helo out.example.org inet6 mail-from "@example.org"\n'
        'table own file:/own\ntable names { "192.0.2.9" = "Nine.example.org", "[2001:DB8:0::9]" = "six.example.org" }',
        _own="2001:db8:0::9\n192.0.2.9\n192.0.2.9\n",
    )
    relay = made.dispatcher.relays[0]
    assert relay.sources == ("2001:db8::9", "192.0.2.9")
    assert relay.helo_names == {"192.0.2.9": "nine.example.org", "2001:db8::9": "six.example.org"}
    assert (relay.helo, relay.family, relay.mail_from) == ("out.example.org", 6, "@example.org")


def test_failover_is_an_option_of_actions_with_smarthosts_and_a_name_elsewhere():
    made = slices(
        "table failover { a.example.org, b.example.org }\naction failover relay host <failover> failover\n"
        'action "turns" relay host failover'
    )
    assert [relay.failover for relay in made.dispatcher.relays] == [True, False]
    assert errors_of('action "out" relay failover') == [
        'f:1:20: "failover" requires host, whose list is tried in its order'
    ]


def test_tls_options():
    made = slices(
        'action "out" relay tls ca own pki us ciphers "HIGH" protocols tlsv1.3\naction "any" relay tls no-verify\n'
        'ca own cert "/own"\npki us cert "/c" key "/k"\nca unused cert "/unused"\npki unused cert "/c" key "/k"'
    )
    relay = made.dispatcher.relays[0]
    assert (relay.tls, relay.ca, relay.pki, relay.ciphers, relay.protocols) == (
        RelayTls.VERIFIED,
        "own",
        "us",
        "HIGH",
        ("TLSv1.3",),
    )
    assert made.dispatcher.relays[1].tls is RelayTls.UNVERIFIED
    assert made.parent.pki == (PkiSlice("us", "/c", "/k"),)
    assert made.parent.ca == (CaSlice("own", "/own"), CaSlice(SYSTEM_CA, "/etc/ssl/all"))


def test_the_authorities_of_the_machine_are_handed_over_only_for_relays():
    assert slices('action "out" relay').parent.ca == (CaSlice(SYSTEM_CA, "/etc/ssl/all"),)
    assert slices('action "out" relay', authorities="").parent.ca == ()
    assert slices("").parent.ca == ()


@pytest.mark.parametrize(
    "options, wrong",
    [
        ("", False),
        ("tls", True),
        ("tls ca own", False),
        ("tls no-verify", False),
        ("host smtps://a.example.org", True),
        ("host smtps://a.example.org tls no-verify", False),
        ("host { smtp://a.example.org, smtp+tls://b.example.org }", True),
        ("host { smtp://a.example.org, smtp+tls://b.example.org } ca own", False),
        ("host smtp+notls://a.example.org", False),
    ],
)
def test_a_machine_without_authorities_cannot_verify(options, wrong):
    errors = errors_of(f'action "out" relay {options}\nca own cert "/own"', authorities="")
    assert [error.partition(": ")[2][:31] for error in errors] == ["no certificate can be verified:"] * wrong


@pytest.mark.parametrize("public, warned", [((), False), (("/secrets",), True)])
def test_a_file_with_passwords_that_everybody_may_read_is_a_warning(public, warned):
    lines = sliced(
        'table secrets file:/secrets\naction "x" relay host smtps://a@b.example.org auth <secrets>',
        public=public,
        _secrets="a: u:p\n",
    ).warnings
    text = 'f:1:7: "/secrets" holds passwords and can be read by everybody: chgrp _smtpl, chmod 640'
    assert lines == (text,) * warned


def test_an_address_that_the_host_lacks_is_a_warning():
    lines = sliced('action "out" relay src { "192.0.2.1", "192.0.2.77", "2001:db8:0::1" }').warnings
    assert lines == ("f:1:39: this host has no address 192.0.2.77: connections from it fail until it has",)


def test_a_backup_mx_has_the_name_of_the_server_or_its_own():
    made = slices('action "b" relay backup\naction "c" relay backup mx mx2.example.org srs\nsrs key k')
    assert made.lookup.routes == (
        RouteSlice("b", backup="MX.example.org"),
        RouteSlice("c", backup="mx2.example.org", srs=True),
    )


@pytest.mark.parametrize("table", ["file:/hosts", "db:/hosts"])
def test_where_a_table_may_change_any_port_may_be_connected_to(table):
    made = slices(f'table hosts {table}\naction "out" relay host <hosts>', _hosts="a.example.org\n")
    assert made.dispatcher.connect_ports is None


def test_limits_of_hosts_and_addresses_are_divided_by_the_dispatchers_and_those_of_destinations_are_not():
    made = slices(
        "dispatchers 4\nmta limit max-conn-per-host 10 max-conn-per-relay 50 message-rate-per-source 2\n"
        'action "o" relay\n'
        "mta limit for domain Example.org. max-conn-per-host 40 inet4"
    ).dispatcher
    expected = RelayLimits(
        max_conn_per_host=2,
        max_conn_per_route=1,
        max_conn_per_source=25,
        max_conn_per_relay=50,
        max_conn_per_domain=25,
        message_rate_per_source=1,
    )
    assert made.relay_limits == expected
    assert made.domain_limits == {
        "example.org": msgspec.structs.replace(expected, max_conn_per_host=10, family=4),
    }


def test_pauses_that_dispatchers_share_are_multiplied_by_their_number():
    delays = ("conn-delay-host", "conn-delay-route", "conn-delay-source", "conn-delay-domain", "reconn-delay-route")
    own = ("conn-delay-connector", "conn-delay-relay", "session-transaction-delay")
    said = " ".join(f"{key} 5" for key in (*delays, *own))
    made = slices(f'dispatchers 3\nmta limit {said}\naction "o" relay').dispatcher.relay_limits
    assert {getattr(made, key.replace("-", "_")) for key in delays} == {15}
    assert {getattr(made, key.replace("-", "_")) for key in own} == {5}


def test_limits_of_a_domain_begin_as_a_copy_of_the_others_at_that_point():
    made = slices(
        'action "o" relay\nmta limit session-mail-max 7\nmta limit for domain a message-rate 3\n'
        "mta limit session-mail-max 9"
    ).dispatcher
    assert (made.relay_limits.session_mail_max, made.domain_limits["a"].session_mail_max) == (9, 7)


def test_what_has_no_effect_is_a_warning():
    (line,) = sliced("mta max-deferred 0").warnings
    assert line.startswith('f:1:5: "mta max-deferred" is without effect: ')


@pytest.mark.parametrize("protocol", RelayProtocol)
def test_each_protocol_can_be_written(protocol):
    assert not errors_of(f'action "x" relay host {protocol}://mail.example.org:2525')


def test_no_error_shows_a_password():
    wrong = [
        *errors_of(f'action "x" relay host "smtps://amy:{SECRET}@mail.example.org"'),
        *errors_of(f'action "x" relay host smtps://amy@mail.example.org auth {{ amy = "{SECRET}" }}'),
        *errors_of(
            'table secrets file:/secrets\naction "x" relay host smtps://a@b.example.org auth <secrets>\nnonsense',
            _secrets=f"a: {SECRET}\n",
        ),
    ]
    assert len(wrong) >= 3
    assert SECRET not in " ".join(wrong)


TOP = Path(__file__).parent.parent.parent
MANUAL = (TOP / "man" / "smtpd.conf.5").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\.Bd -literal.*\n((?:[^.].*\n|\n)+)\.Ed", MANUAL, re.MULTILINE)
OF_RELAYS = [example for example in EXAMPLES if " relay" in example]
COMPLETE = {path.name: path.read_text(encoding="utf-8") for path in sorted(TOP.glob("etc/*.conf"))}
FILES = {
    "/etc/mail/secrets": "provider amy@example.org:password\n",
    "/etc/mail/srs.conf": "srs key 0123456789abcdef0123456789abcdef\n",
    "/etc/mail/networks": "192.0.2.0/24\n",
    "/etc/aliases": (TOP / "etc" / "aliases").read_text(),
}


def relaying(text):
    """The rules with a relay action, of what makes no warning: labels have passwords, ports the right TLS, and no rule
    lets anybody through."""
    made = sliced(text, texts=FILES)
    assert made.warnings == ()
    actions = {relay.name for relay in made.slices.dispatcher.relays}
    return [match for match in made.slices.lookup.matches if match.action in actions]


@pytest.mark.parametrize("example", OF_RELAYS)
def test_the_examples_of_the_manual_relay_and_are_no_open_relays(example):
    assert relaying(example)


@pytest.mark.parametrize("name", COMPLETE)
def test_no_file_of_etc_is_an_open_relay(name):
    rules = relaying(COMPLETE[name])
    assert len(rules) == {"smtpd.conf": 0, "try.conf": 0, "laptop.conf": 1, "server.conf": 3}[name]
    for match in rules:
        assert match.source.kind in ("local", "auth") or match.destination.kind == "domain"


def test_a_configuration_without_rules_for_strangers_relays_nothing_for_them():
    """`from local` and `for local` are what a rule has that says neither."""
    (match,) = slices('listen on eth2\naction "out" relay\nmatch action "out"').lookup.matches[:1]
    assert (match.source.kind, match.destination.kind) == ("local", "local")


def test_every_option_of_a_relay_action_is_in_an_example():
    said = {word for example in OF_RELAYS for line in example.splitlines() if " relay" in line for word in line.split()}
    options = {option.replace("_", "-") for option in OPTIONS}
    assert options - {"inet6"} <= said
