"""Results of TLS with other hosts, as they are counted: by the type of the policy, in the words of RFC 8460 4.2, 4.3.

    tlsa, sts, no-policy-found        policy_type(hop, policy)
    successful, or what has failed    TlsResult

A connection counts once: when it is ready for mail, or when its TLS has failed.
"""

from enum import Enum

from smtpd.next_hop import TlsaState
from smtpd.relay.destination import NextHop
from smtpd.relay.mta_sts import StsMode
from smtpd.relay.tls_policy import TlsPolicy, Verify


class TlsResult(Enum):
    SUCCESSFUL = "successful"
    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    HOST_MISMATCH = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    TLSA_INVALID = "tlsa-invalid"
    VALIDATION_FAILURE = "validation-failure"  # anything else
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"  # the certificate of the policy host


# openssl/x509_vfy.h, X509_V_ERR_*
_RESULTS = {
    10: TlsResult.EXPIRED,  # CERT_HAS_EXPIRED
    62: TlsResult.HOST_MISMATCH,  # HOSTNAME_MISMATCH
    64: TlsResult.HOST_MISMATCH,  # IP_ADDRESS_MISMATCH
    65: TlsResult.TLSA_INVALID,  # DANE_NO_MATCH
    # UNABLE_TO_GET_ISSUER_CERT, DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN,
    # UNABLE_TO_GET_ISSUER_CERT_LOCALLY, UNABLE_TO_VERIFY_LEAF_SIGNATURE, CERT_UNTRUSTED
    **dict.fromkeys((2, 18, 19, 20, 21, 27), TlsResult.NOT_TRUSTED),
}


def failed_handshake(verify_code: int) -> TlsResult:
    """`verify_code`: OpenSSL's of the certificate, 0 where it was not the certificate."""
    return _RESULTS.get(verify_code, TlsResult.VALIDATION_FAILURE)


def policy_type(hop: NextHop, policy: TlsPolicy) -> str:
    """RFC 8460 4.2.  A policy of MTA-STS that only tests counts too."""
    if policy.verify is Verify.TLSA:
        return "tlsa"
    if hop.sts is not None and hop.sts.mode is not StsMode.NONE:
        return "sts"
    return "tlsa" if hop.host.tlsa is TlsaState.UNUSABLE else "no-policy-found"


def counter(kind: str, result: TlsResult) -> str:
    """The name in the statistics."""
    return f"mta.tls.{kind}.{result.value}"
