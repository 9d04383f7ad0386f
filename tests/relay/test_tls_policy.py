"""The table of the TLS policy: what is known of a host, and what must hold of a connection to it."""

from dataclasses import replace

import pytest

from smtpd.next_hop import MailHost, TlsaRecord, TlsaState
from smtpd.relay.mta_sts import StsMode, StsPolicy
from smtpd.relay.tls_memory import TlsHistory
from smtpd.relay.tls_policy import (
    HostRefused,
    TlsCircumstances,
    TlsLevel,
    TlsPolicy,
    TlsWords,
    Verify,
    tls_policy,
)

MX, DOMAIN = "mx1.there.test", "there.test"
RECORD = TlsaRecord(3, 1, 1, bytes(32))
ENFORCE = StsPolicy(StsMode.ENFORCE, ("*.there.test",), 86400)
ELSEWHERE = StsPolicy(StsMode.ENFORCE, ("mx.other.test",), 86400)
TESTING = StsPolicy(StsMode.TESTING, ("mx.other.test",), 86400)
NONE = StsPolicy(StsMode.NONE, (), 86400)


def host(tlsa=TlsaState.NONE, base=MX):
    usable = tlsa is TlsaState.USABLE
    known = tlsa in (TlsaState.USABLE, TlsaState.UNUSABLE)
    return MailHost(MX, 10, ["192.0.2.1"], True, tlsa, base if known else "", [RECORD] if usable else [])


def case(level=TlsLevel.OPPORTUNISTIC, tlsa=TlsaState.NONE, base=MX, at_connect=False, **more):
    words = TlsWords(level, at_connect)
    return TlsCircumstances(words, host(tlsa, base), domain=DOMAIN, **more)


CLEAR = (False, False, Verify.NOTHING)  # TLS is tried; TLS must be; the certificate has to be
MAYBE = (True, False, Verify.NOTHING)
ENCRYPTED = (True, True, Verify.NOTHING)
BY_ROOTS = (True, True, Verify.ROOTS)
BY_TLSA = (True, True, Verify.TLSA)
USABLE, UNUSABLE, FAILED = TlsaState.USABLE, TlsaState.UNUSABLE, TlsaState.FAILED
ANYHOW, UNVERIFIED, VERIFIED, NEVER = (TlsLevel.OPPORTUNISTIC, TlsLevel.UNVERIFIED, TlsLevel.VERIFIED, TlsLevel.NEVER)

TABLE = [
    # RFC 7435 3: without anything else TLS is better than none, and a certificate proves nothing.
    ("opportunistic", case(ANYHOW), MAYBE),
    ("action says tls", case(VERIFIED), BY_ROOTS),
    ("action says tls no-verify", case(UNVERIFIED), ENCRYPTED),
    ("smarthost says smtp+notls", case(NEVER), CLEAR),
    ("smtps without a word", case(ANYHOW, at_connect=True), ENCRYPTED),
    ("smtps verified", case(VERIFIED, at_connect=True), BY_ROOTS),
    # RFC 7672 2.2: usable records decide, over anything weaker.
    ("RFC 7672 2.2: usable TLSA", case(ANYHOW, USABLE), BY_TLSA),
    ("RFC 7672 2.2: usable TLSA instead of the web's roots", case(VERIFIED, USABLE), BY_TLSA),
    ("RFC 7672 2.2: usable TLSA over a weak memory", case(ANYHOW, USABLE, history=TlsHistory.BROKEN), BY_TLSA),
    ("RFC 7672 2.2: only unusable TLSA: TLS, and no authentication", case(ANYHOW, UNUSABLE), ENCRYPTED),
    ("RFC 7672 2.2: unusable TLSA, and the action wants more", case(VERIFIED, UNUSABLE), BY_ROOTS),
    ("RFC 7672 2.1.2: TLSA could not be found out", case(ANYHOW, FAILED), 451),
    ("RFC 7672 2.1.2: likewise, although the action would verify", case(VERIFIED, FAILED), 451),
    # RFC 8461 2: it must not override DANE, and 4.1, 4.2: it limits which hosts are used.
    ("RFC 8461 4.1: enforce", case(ANYHOW, sts=ENFORCE), BY_ROOTS),
    ("RFC 8461 4.2: enforce, and the policy does not name the host", case(ANYHOW, sts=ELSEWHERE), 451),
    ("RFC 8461 2: enforce and usable TLSA", case(ANYHOW, USABLE, sts=ENFORCE), BY_TLSA),
    ("RFC 8461 2: usable TLSA of a host that the policy does not name", case(ANYHOW, USABLE, sts=ELSEWHERE), 451),
    ("RFC 8461 2: enforce and failed TLSA", case(ANYHOW, FAILED, sts=ENFORCE), 451),
    ("RFC 8461 4.1: enforce and unusable TLSA", case(ANYHOW, UNUSABLE, sts=ENFORCE), BY_ROOTS),
    ("RFC 8461 5: testing", case(ANYHOW, sts=TESTING), MAYBE),
    ("RFC 8461 5: none", case(ANYHOW, sts=NONE), MAYBE),
    # RFC 8689 4.2.1
    ("RFC 8689 4.2.1: MX by DNSSEC, without TLSA", case(ANYHOW, require_tls=True, trusted=True), BY_ROOTS),
    ("RFC 8689 4.2.1: MX by DNSSEC, usable TLSA", case(ANYHOW, USABLE, require_tls=True, trusted=True), BY_TLSA),
    ("RFC 8689 4.2.1: unusable TLSA does not count", case(ANYHOW, UNUSABLE, require_tls=True, trusted=True), BY_ROOTS),
    ("RFC 8689 4.2.1: MX by MTA-STS", case(ANYHOW, require_tls=True, sts=ENFORCE), BY_ROOTS),
    ("RFC 8689 4.2.1: testing does not count", case(ANYHOW, require_tls=True, sts=TESTING), 550),
    ("RFC 8689 4.2.1: MX by nothing", case(ANYHOW, require_tls=True), 550),
    ("RFC 8689 4.2.1: MX by nothing, although the action would verify", case(VERIFIED, require_tls=True), 550),
    ("RFC 8689 4.2.1: no TLS configured", case(NEVER, require_tls=True, trusted=True), 550),
    ("RFC 8689 4.2.1: no verification configured", case(UNVERIFIED, require_tls=True, trusted=True), 550),
    ("RFC 8689 4.2.1: failed TLSA is no reason to bounce", case(ANYHOW, FAILED, require_tls=True, trusted=True), 451),
    # Exceptions that the administrator has made.
    ("no-verify where DANE would fail", case(UNVERIFIED, FAILED), ENCRYPTED),
    ("no-verify where MTA-STS would refuse", case(UNVERIFIED, sts=ELSEWHERE), ENCRYPTED),
    ("no TLS where MTA-STS would refuse", case(NEVER, sts=ELSEWHERE), CLEAR),
    # A password needs a host that has proved its name.
    ("password, opportunistic", case(ANYHOW, password=True, trusted=True), BY_ROOTS),
    ("password, usable TLSA", case(ANYHOW, USABLE, password=True, trusted=True), BY_TLSA),
    ("password, unusable TLSA", case(ANYHOW, UNUSABLE, password=True, trusted=True), BY_ROOTS),
    ("password, no-verify", case(UNVERIFIED, password=True, trusted=True), 451),
    ("password, no TLS", case(NEVER, password=True, trusted=True), 451),
    # What the host has done before.
    ("TLS has worked", case(ANYHOW, history=TlsHistory.FRESH), ENCRYPTED),
    ("TLS has worked and fails now", case(ANYHOW, history=TlsHistory.SUSPECT), ENCRYPTED),
    ("TLS has worked and has failed for an hour", case(ANYHOW, history=TlsHistory.LOST), MAYBE),
    ("TLS has failed just now", case(ANYHOW, history=TlsHistory.BROKEN), CLEAR),
    ("TLS has failed, and is required", case(VERIFIED, history=TlsHistory.BROKEN), BY_ROOTS),
    ("TLS has failed, and MTA-STS wants it", case(ANYHOW, sts=ENFORCE, history=TlsHistory.BROKEN), BY_ROOTS),
]


@pytest.mark.parametrize("name, known, expected", TABLE, ids=[row[0] for row in TABLE])
def test_the_table(name, known, expected):
    policy = tls_policy(known)
    if isinstance(expected, int):
        assert isinstance(policy, HostRefused) and policy.code == expected
        assert policy.enhanced[0] == str(expected)[0]
    else:
        assert isinstance(policy, TlsPolicy)
        assert (policy.attempt, policy.must_encrypt, policy.verify) == expected
        assert policy.may_fall_back is (expected == MAYBE)
        assert policy.require_tls is known.require_tls


@pytest.mark.parametrize("known", [row[1] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_policy_says_why(known):
    policy = tls_policy(known)
    assert (policy.text if isinstance(policy, HostRefused) else policy.why).isprintable()


def all_cases():
    for level in TlsLevel:
        for tlsa in TlsaState:
            for sts in (None, ENFORCE, ELSEWHERE, TESTING, NONE):
                for history in TlsHistory:
                    for flags in range(16):
                        require_tls, password, trusted, at_connect = (bool(flags >> bit & 1) for bit in range(4))
                        yield case(
                            level,
                            tlsa,
                            at_connect=at_connect,
                            sts=sts,
                            history=history,
                            require_tls=require_tls,
                            password=password,
                            trusted=trusted,
                        )


def test_what_holds_in_every_case():
    for known in all_cases():
        policy = tls_policy(known)
        if isinstance(policy, HostRefused):
            continue
        assert policy.attempt or not policy.must_encrypt
        assert policy.must_encrypt or policy.verify is Verify.NOTHING
        if known.password or known.require_tls:
            assert policy.must_encrypt and policy.verify is not Verify.NOTHING
        if known.words.level is TlsLevel.VERIFIED:
            assert policy.verify is not Verify.NOTHING
        if known.words.level not in (TlsLevel.NEVER, TlsLevel.UNVERIFIED):
            assert known.host.tlsa is not TlsaState.FAILED and known.sts is not ELSEWHERE
            if known.host.tlsa is TlsaState.USABLE:
                assert policy.verify is Verify.TLSA and policy.records == (RECORD,)
            if known.host.tlsa is TlsaState.UNUSABLE:
                assert policy.must_encrypt
            if known.sts is ENFORCE:
                assert policy.verify is not Verify.NOTHING
        if known.words.at_connect and known.words.level is not TlsLevel.NEVER:
            assert policy.at_connect and policy.must_encrypt


# -- names ------------------------------------------------------------------------------------------------------


def test_a_certificate_is_for_the_name_of_the_mx_host():
    """RFC 8461 4.1; and never for that of the domain, which proves nothing about the host."""
    policy = tls_policy(case(VERIFIED))
    assert (policy.names, policy.server_name) == ((MX,), MX)


def test_names_of_dane_are_the_base_domain_and_the_domain_of_a_secure_mx():
    """RFC 7672 3.2.2."""
    assert tls_policy(case(ANYHOW, USABLE, base="real.there.test", trusted=True)).names == ("real.there.test", DOMAIN)
    assert tls_policy(case(ANYHOW, USABLE, base="real.there.test")).names == ("real.there.test",)


def test_sni_of_dane_is_the_base_domain():
    """RFC 7672 8.1."""
    assert tls_policy(case(ANYHOW, USABLE, base="real.there.test")).server_name == "real.there.test"


def test_sni_is_sent_without_dane_too():
    """A host with several names shows a default certificate otherwise."""
    assert tls_policy(case(ANYHOW)).server_name == MX
    assert tls_policy(case(ANYHOW, UNUSABLE, base="real.there.test", sts=ENFORCE)).server_name == MX


def test_a_host_by_address_has_no_name_to_verify_but_its_address():
    known = replace(case(VERIFIED), host=MailHost("", 0, ["192.0.2.1"]), trusted=True)
    assert (tls_policy(known).names, tls_policy(known).server_name) == ((), "")


def test_a_testing_policy_stands_in_the_reason():
    assert tls_policy(case(ANYHOW, sts=TESTING)).why == f"opportunistic, MTA-STS policy of {DOMAIN} in testing mode"
