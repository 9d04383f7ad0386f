"""As what a connection with another host is counted, RFC 8460 4.2, 4.3."""

import pytest

from smtpd.next_hop import MailHost, TlsaRecord, TlsaState
from smtpd.relay.destination import NextHop
from smtpd.relay.mta_sts import StsMode, StsPolicy
from smtpd.relay.tls_policy import TlsCircumstances, TlsPolicy, tls_policy
from smtpd.relay.tls_result import TlsResult, counter, failed_handshake, policy_type

RECORD = TlsaRecord(3, 1, 1, bytes(32))


def sts(mode):
    return StsPolicy(mode, ("mx.there.test",), 86_400)


@pytest.mark.parametrize(
    "state, policy, expected",
    [
        (TlsaState.NONE, None, "no-policy-found"),
        (TlsaState.NONE, sts(StsMode.NONE), "no-policy-found"),
        (TlsaState.NONE, sts(StsMode.TESTING), "sts"),
        (TlsaState.NONE, sts(StsMode.ENFORCE), "sts"),
        (TlsaState.USABLE, None, "tlsa"),
        (TlsaState.USABLE, sts(StsMode.ENFORCE), "tlsa"),
        (TlsaState.UNUSABLE, None, "tlsa"),
        (TlsaState.UNUSABLE, sts(StsMode.ENFORCE), "sts"),
    ],
)
def test_the_type_of_the_policy(state, policy, expected):
    host = MailHost("mx.there.test", 0, ["192.0.2.1"], True, state, "mx.there.test", [RECORD])
    hop = NextHop(host, domain="there.test", sts=policy)
    found = tls_policy(TlsCircumstances(hop.words, host, True, "there.test", policy))
    assert isinstance(found, TlsPolicy) and policy_type(hop, found) == expected


@pytest.mark.parametrize("code, expected", [(0, "validation-failure"), (9, "validation-failure")])
def test_what_rfc_8460_has_no_word_for(code, expected):
    assert counter("sts", failed_handshake(code)) == f"mta.tls.sts.{expected}"


def test_the_number_of_counters_is_bounded():
    assert {failed_handshake(code) for code in range(200)} <= set(TlsResult)
