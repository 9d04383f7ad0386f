"""MTA-STS: policies, patterns of hosts, and which policy is kept how long (RFC 8461)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.relay.mta_sts import (
    FETCH_RETRY_DELAY,
    MAX_AGE_MAX,
    MX_PATTERNS_MAX,
    POLICY_SIZE_MAX,
    REFRESH_INTERVAL,
    Fetch,
    StsMode,
    StsPolicies,
    StsPolicy,
    StsPolicyError,
    matches,
    parse_policy,
)

# RFC 8461 3.2, its example
EXAMPLE = (
    b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\n"
    b"mx: backupmx.example.com\r\nmax_age: 604800\r\n"
)
POLICY = StsPolicy(StsMode.ENFORCE, ("mail.example.com", "*.example.net", "backupmx.example.com"), 604800)
DAY = 86_400.0


# -- the policy, RFC 8461 3.2 ---------------------------------------------------------------------------------


def test_the_policy_of_the_rfc():
    assert parse_policy(EXAMPLE) == POLICY


def test_lines_may_end_with_lf_and_stand_in_any_order():
    lines = EXAMPLE.split(b"\r\n")[:-1]
    assert parse_policy(b"\n".join(lines)) == POLICY
    assert parse_policy(b"\n".join([lines[5], *lines[:5]])) == POLICY


def test_unknown_fields_and_lines_are_passed_over():
    assert parse_policy(EXAMPLE + "extension: \u00fc\nno field\n\n:\n".encode()) == POLICY


def test_the_first_of_a_field_counts():
    """RFC 8461 3.2: "all entries except for the first SHOULD be ignored"."""
    assert parse_policy(EXAMPLE + b"mode: none\nmax_age: 1\n") == POLICY


@pytest.mark.parametrize(
    "before, after",
    [
        (b"STSv1", b"STSv2"),
        (b"version: STSv1\r\n", b""),
        (b"mode: enforce\r\n", b""),
        (b"enforce", b"Enforce"),
        (b"max_age: 604800\r\n", b""),
        (b"604800", b"-1"),
        (b"604800", b"1e5"),
        (b"604800", "\u0663".encode()),
        (b"604800", b"12345678901"),
        (b"mx:", b"my:"),
    ],
)
def test_a_policy_that_lacks_a_field_is_none(before, after):
    with pytest.raises(StsPolicyError):
        parse_policy(EXAMPLE.replace(before, after))


def test_mode_none_needs_no_mx():
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 60") == StsPolicy(StsMode.NONE, (), 60)


@pytest.mark.parametrize(
    "mx", [b"192.0.2.1", b"2001:db8::1", b"", b"*", b"*.", b"a b", b"*.*.test", b"a..b", b"x" * 300]
)
def test_an_mx_that_names_no_host_is_passed_over(mx):
    """One bad line must not end the protection by the others."""
    assert parse_policy(EXAMPLE + b"mx: " + mx + b"\n") == POLICY


def test_an_international_mx_is_compared_in_ascii():
    policy = parse_policy("version: STSv1\nmode: enforce\nmax_age: 60\nmx: *.M\u00fcller.test".encode())
    assert matches(policy, "mx.xn--mller-kva.test")


def test_max_age_is_a_year_at_most():
    assert parse_policy(EXAMPLE.replace(b"604800", b"9999999999")).max_age == MAX_AGE_MAX


def test_a_policy_of_more_than_64_kib_is_refused():
    with pytest.raises(StsPolicyError):
        parse_policy(EXAMPLE + b"x" * POLICY_SIZE_MAX)


def test_a_policy_with_thousands_of_mx_is_refused():
    many = b"".join(b"mx: a%d.test\n" % number for number in range(MX_PATTERNS_MAX))
    with pytest.raises(StsPolicyError):
        parse_policy(EXAMPLE + many)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: EXAMPLE + text.encode("utf-8", "replace")))
def test_any_policy(body):
    try:
        policy = parse_policy(body)
    except StsPolicyError:
        return
    assert policy.mx or policy.mode is StsMode.NONE
    assert 0 <= policy.max_age <= MAX_AGE_MAX
    assert all(mx.isascii() and mx == mx.lower() for mx in policy.mx)


def test_a_policy_cut_anywhere_is_never_another_one_that_allows_more():
    for length in range(len(EXAMPLE)):
        try:
            policy = parse_policy(EXAMPLE[:length])
        except StsPolicyError:
            continue
        assert policy.mx == POLICY.mx and policy.mode is POLICY.mode


# -- which hosts it names, RFC 8461 4.1 -------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["mail.example.com", "MAIL.Example.COM", "mail.example.com.", "a.example.net"])
def test_a_host_that_the_policy_names(host):
    assert matches(POLICY, host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "a.mail.example.com",
        "example.net",
        ".example.net",
        "a.b.example.net",
        "mail.example.org",
        "",
        "net",
    ],
)
def test_a_host_that_it_does_not_name(host):
    """The star is one label, RFC 8461 4.1: not none, and not two, as of a.h-v1.mx.microsoft under *.mx.microsoft."""
    assert not matches(POLICY, host)


# -- which policy is kept, RFC 8461 3.3, 5.1 -----------------------------------------------------------------------


def kept(at=0.0, id="1", policy=POLICY):
    policies = StsPolicies()
    policies.fetched("there.test", id, policy, at)
    return policies


def test_a_domain_without_a_record_has_no_policy_to_fetch():
    assert StsPolicies().fetch("there.test", "", 0.0) is Fetch.NONE


def test_mail_waits_for_the_first_policy():
    assert StsPolicies().fetch("there.test", "1", 0.0) is Fetch.FIRST


def test_a_policy_that_is_kept_is_not_fetched_again():
    assert kept().fetch("there.test", "1", 100.0) is Fetch.NONE


def test_mail_waits_for_a_policy_with_another_id():
    """RFC 8461 5.1: the hosts of the domain may be new."""
    assert kept().fetch("there.test", "2", 100.0) is Fetch.FIRST


def test_a_policy_is_refreshed_long_before_it_ends():
    """RFC 8461 10.2: once a day is suggested."""
    assert kept().fetch("there.test", "1", REFRESH_INTERVAL - 1) is Fetch.NONE
    assert kept().fetch("there.test", "1", REFRESH_INTERVAL) is Fetch.BESIDE
    short = StsPolicy(StsMode.ENFORCE, POLICY.mx, 600)
    assert kept(policy=short).fetch("there.test", "1", 299.0) is Fetch.NONE
    assert kept(policy=short).fetch("there.test", "1", 300.0) is Fetch.BESIDE
    assert kept(at=1e9, policy=short).fetch("there.test", "1", 1e9 + 299.0) is Fetch.NONE


def test_policies_that_no_mail_asks_for_are_refreshed_too():
    """Otherwise an attacker would wait until a policy has ended, and suppress the next one: RFC 8461 10.2."""
    policies = kept()
    policies.fetched("none.test", "1", StsPolicy(StsMode.NONE, (), 604800), 0.0)
    policies.fetched("young.test", "7", POLICY, 10.0)
    assert policies.to_refresh(10, REFRESH_INTERVAL - 1) == []
    assert policies.to_refresh(10, REFRESH_INTERVAL) == [("there.test", "1")]
    assert policies.to_refresh(1, REFRESH_INTERVAL + 10) == [("there.test", "1")]
    policies.fetch_failed("there.test", REFRESH_INTERVAL)
    assert policies.to_refresh(10, REFRESH_INTERVAL + 10) == [("young.test", "7")]
    assert policies.to_refresh(10, 8 * DAY) == []


def test_policy_hosts_that_do_not_answer_keep_no_other_policy_from_its_refresh():
    policies = StsPolicies()
    for number in range(30):
        policies.fetched(f"d{number}.test", "1", POLICY, 0.0)
    now = REFRESH_INTERVAL
    for _ in range(3):
        for domain, _ in policies.to_refresh(10, now):
            policies.fetch_failed(domain, now)
        now += 2 * FETCH_RETRY_DELAY
    assert [domain for domain, _ in policies.to_refresh(10, now)] == [f"d{number}.test" for number in range(10)]
    assert {domain for domain, _ in policies.to_refresh(30, now)} == {f"d{number}.test" for number in range(30)}


def test_a_policy_of_next_to_no_age_is_not_fetched_again_by_the_next_mail():
    policies = kept(policy=StsPolicy(StsMode.ENFORCE, POLICY.mx, 1))
    assert policies.fetch("there.test", "1", 2.0) is Fetch.NONE
    assert policies.fetch("there.test", "1", FETCH_RETRY_DELAY) is Fetch.FIRST


def test_a_policy_holds_until_it_ends_although_its_record_is_gone():
    """An attacker who suppresses the record must not end the policy."""
    policies = kept()
    assert policies.find("there.test", 6.9 * DAY) == POLICY
    assert policies.find("there.test", 7 * DAY) is None
    assert policies.find("there.test", 6.9 * DAY) is None


def test_a_policy_holds_although_its_refresh_fails():
    policies = kept()
    policies.fetch_failed("there.test", 100.0)
    assert policies.find("there.test", 101.0) == POLICY


def test_a_failed_fetch_is_repeated_after_five_minutes():
    policies = StsPolicies()
    policies.fetch_failed("there.test", 0.0)
    assert policies.fetch("there.test", "1", FETCH_RETRY_DELAY - 1) is Fetch.NONE
    assert policies.fetch("there.test", "1", FETCH_RETRY_DELAY) is Fetch.FIRST


def test_a_policy_of_no_age_is_never_used():
    assert kept(policy=StsPolicy(StsMode.ENFORCE, POLICY.mx, 0)).find("there.test", 0.0) is None


def test_policies_are_there_again_after_a_restart():
    """They hold, and are fetched again at the first use: a dispatcher that was taken over may have made them up."""
    again = StsPolicies()
    for domain, policy in kept(at=5.0).to_keep(10).items():
        again.restore(domain, policy)
    assert again.to_keep(10) == {}
    assert again.find("there.test", 7 * DAY) == POLICY
    assert again.fetch("there.test", "1", 10.0) is Fetch.BESIDE
    again.fetched("there.test", "1", POLICY, 10.0)
    assert again.fetch("there.test", "1", 10.0) is Fetch.NONE
    assert again.find("there.test", 7 * DAY + 10) is None


def test_so_many_policies_are_kept_at_a_time_and_what_could_not_be_is_kept_later():
    policies = StsPolicies(most=4)
    for number in range(5):
        policies.fetched(f"a{number}", "1", POLICY, 0.0)
    assert [*policies.to_keep(2)] == ["a1", "a2"]
    policies.not_kept(["a1", "a0"])
    assert [*policies.to_keep(10)] == ["a3", "a4", "a1"]
    assert policies.to_keep(10) == {}


def test_the_number_of_policies_is_bounded():
    policies = StsPolicies(most=10)
    for number in range(100):
        policies.fetched(f"a{number}.test", "1", POLICY, 0.0)
        policies.fetch_failed(f"b{number}.test", 0.0)
    assert len(policies) == len(policies._failed) == 10


def test_the_size_of_policies_is_bounded():
    """A domain may have a policy of 64 KiB, and an attacker many domains."""
    long = StsPolicy(StsMode.ENFORCE, tuple(f"{number:03}{'x' * 60}.test" for number in range(100)), 604800)
    policies = StsPolicies(most_bytes=100_000)
    for number in range(100):
        policies.fetched(f"a{number % 50}.test", "1", long, 0.0)
    assert 10 < len(policies) < 15
    policies.fetched("a1.test", "1", StsPolicy(StsMode.ENFORCE, ("x" * 200_000,), 1), 0.0)
    assert (len(policies), policies._bytes) == (0, 0)
