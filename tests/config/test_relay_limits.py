"""Limits and families that contradict the relay actions, have no effect, or cannot be divided."""

import pytest

from smtpd.next_hop import SMARTHOSTS_MAX
from tests.config.machine import errors_of, sliced

AUTH = 'table t { a = "u:p", b = "v:q" }\n'


@pytest.mark.parametrize(
    "limit, options, error",
    [
        ("inet6", "host smtp://192.0.2.9", "f:1:23: 192.0.2.9 is not an IPv6 address, as mta limit inet6 wants"),
        (
            "inet6",
            'domain { a = "192.0.2.9" }',
            "f:1:27: 192.0.2.9 is not an IPv6 address, as mta limit inet6 wants",
        ),
        ("inet6", "inet4", "f:1:12: inet4 contradicts mta limit inet6, so no host could be reached"),
        (
            "inet6",
            "src 192.0.2.1",
            'f:1:12: none of the addresses of "src" is an IPv6 address, as mta limit inet6 wants, so no host could be '
            "reached",
        ),
        (
            "for domain a inet6",
            'domain { a = "192.0.2.9" } inet6',
            "f:1:27: 192.0.2.9 is not an IPv6 address, as inet6 wants",
        ),
        (
            "session-mail-max 9",
            'src "2001:db8::1" host 192.0.2.9',
            'f:1:41: none of the addresses of "src" can be connected from to 192.0.2.9',
        ),
    ],
)
def test_families_that_leave_no_host_are_an_error(limit, options, error):
    assert errors_of(f'action "x" relay {options}\nmta limit {limit}') == [error]


@pytest.mark.parametrize(
    "options",
    ["inet6", "", "host a.example.org", 'host "[2001:db8::9]"', 'src { "192.0.2.1", "2001:db8::1" }', "inet6 backup"],
)
def test_families_that_fit(options):
    assert sliced(f'action "x" relay {options}\nmta limit inet6').warnings == ()


@pytest.mark.parametrize(
    "options, warned",
    [
        ("inet4", ("f:1:12: inet4 contradicts mta limit for domain a inet6, so mail for a cannot be sent",)),
        (
            "src 192.0.2.1",
            (
                'f:1:12: none of the addresses of "src" is an IPv6 address, as mta limit for domain a inet6 wants, so '
                "mail for a cannot be sent",
            ),
        ),
        (
            'domain { A = "192.0.2.9" }',
            ("f:1:27: 192.0.2.9 is not an IPv6 address, as mta limit for domain a inet6 wants",),
        ),
        ('domain { b = "192.0.2.9" } inet4', ()),
        ("inet6", ()),
    ],
)
def test_the_family_of_one_domain_that_leaves_no_host_is_a_warning(options, warned):
    assert sliced(f'action "x" relay {options}\nmta limit for domain a inet6').warnings == warned


@pytest.mark.parametrize("options, effective", [("host a.example.org", False), ("", True), ("domain { a = b }", True)])
def test_limits_by_domain_are_without_effect_where_all_mail_goes_to_lists_of_hosts(options, effective):
    made = sliced(f'action "x" relay {options}\nmta limit for domain a inet6\nmta limit max-conn-per-domain 3')
    why = "without effect: no relay action is without host, and mail to a list of hosts is not sent by domain"
    expected = (f'f:2:22: the limits for "a" are {why}', f'f:3:31: "max-conn-per-domain" is {why}')
    assert made.warnings == (() if effective else expected)


@pytest.mark.parametrize("options, effective", [("", False), ("src 192.0.2.1", True)])
def test_limits_by_source_are_without_effect_where_no_action_names_any(options, effective):
    made = sliced(f'action "x" relay {options}\nmta limit conn-delay-source 3')
    expected = ('f:2:29: "conn-delay-source" is without effect: no relay action has src',)
    assert made.warnings == (() if effective else expected)


def test_a_limit_below_the_number_of_dispatchers_is_a_warning():
    made = sliced(
        'dispatchers 8\naction "x" relay\nmta limit max-conn-per-host 7 max-conn-per-route 8 max-conn-per-relay 1 '
        "message-rate-per-source 0\nsmtp limit max-sessions 4 max-rcpt 1\nmta limit for domain a max-conn-per-domain 2"
    )
    assert made.warnings == (
        "f:3:29: max-conn-per-host 7 cannot be divided by 8 dispatchers: each has 1",
        "f:4:25: max-sessions 4 cannot be divided by 8 dispatchers: each has 1",
        "f:5:44: max-conn-per-domain 2 cannot be divided by 8 dispatchers: each has 1",
    )


def test_two_labels_at_one_host_and_port_of_a_list_are_an_error():
    hosts = '"smtps://a@h.example.org", "smtps://b@H.example.org:465"'
    text = "f:2:52: h.example.org port 465 has another label above: this one would not be used"
    assert errors_of(f'{AUTH}action "x" relay host {{ {hosts} }} auth <t>') == [text]
    apart = '"smtps://a@h.example.org", "smtps://b@h.example.org:466", "smtps://A@h.example.org", h.example.org'
    assert not errors_of(f'{AUTH}action "x" relay host {{ {apart} }} auth <t>')
    mapping = '{ one = "smtps://a@h.example.org", two = "smtps://b@h.example.org" }'
    assert not errors_of(f'{AUTH}action "x" relay domain {mapping} auth <t>')


@pytest.mark.parametrize(
    "more, errors", [(0, []), (50, [f"/hosts:{SMARTHOSTS_MAX + 2}:1: a list has at most 100 hosts"])]
)
def test_a_list_of_more_hosts_than_are_used_is_an_error(more, errors):
    hosts = ["h0.example.org", *(f"h{number}.example.org" for number in range(SMARTHOSTS_MAX + more))]
    found = errors_of('table t file:/hosts\naction "x" relay host <t>', _hosts="\n".join(hosts) + "\n")
    assert [error.rpartition(": this one")[0] for error in found] == errors
