"""TLS policy of one connection: what must hold before mail is sent over it, and why.  One function, no state.

    what is known of the host                                          what must hold

    action or smarthost says no TLS                                    clear text
    action says no-verify                                              TLS, any certificate
    MTA-STS enforce, and the policy does not name the host             the host is not used            RFC 8461 4.2
    TLSA could not be found out (bogus, SERVFAIL)                      the host is not used            RFC 7672 2.1.2
    TLSA usable                                                        TLS, certificate by TLSA        RFC 7672 2.2
    TLSA unusable, all records                                         TLS                             RFC 7672 2.2
    MTA-STS enforce                                                    TLS, certificate for the host   RFC 8461 4.1
    REQUIRETLS, MX or smarthost trusted                                TLS, certificate for the host   RFC 8689 4.2.1
    REQUIRETLS, MX not trusted                                         the mail is refused, 5.7.30     RFC 8689 4.2.1
    action says tls, or there is a password to send                    TLS, certificate for the host
    TLS worked within 30 days                                          TLS; after an hour of failures as below
    nothing of these                                                   TLS if it works, else clear text

The first row that applies decides whether TLS must be; a certificate is verified where any later row wants it too: a
host with unusable TLSA and an MTA-STS policy has to pass the latter.

The first two rows are the administrator's exceptions, for hosts that announce what they do not keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from smtpd.next_hop import MailHost, TlsaRecord, TlsaState
from smtpd.relay.mta_sts import StsMode, StsPolicy, matches
from smtpd.relay.tls_memory import TlsHistory


class TlsLevel(Enum):
    """What the configuration says about TLS to a host."""

    NEVER = "no TLS"
    OPPORTUNISTIC = "TLS where it works"
    UNVERIFIED = "TLS with any certificate"
    VERIFIED = "TLS with a certificate that verifies"


class Verify(Enum):
    """What the certificate of the host has to be."""

    NOTHING = "any"
    ROOTS = "valid for one of the names, below one of the authorities"
    TLSA = "as one of the TLSA records says"


@dataclass(frozen=True, slots=True)
class TlsWords:
    """The words of the action and of its smarthost."""

    level: TlsLevel = TlsLevel.OPPORTUNISTIC
    at_connect: bool = False  # smtps


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """`names`: for ROOTS and, of TLSA, usage 2; empty: the numeric address.  `server_name`: for SNI; empty: none."""

    attempt: bool  # TLS is tried at all
    must_encrypt: bool  # without it no mail is sent; else the connection may go on, or be made again, in clear text
    verify: Verify
    why: str
    names: tuple[str, ...] = ()
    records: tuple[TlsaRecord, ...] = ()
    server_name: str = ""
    at_connect: bool = False
    require_tls: bool = False  # the host has to know REQUIRETLS, RFC 8689

    @property
    def may_fall_back(self) -> bool:
        return self.attempt and not self.must_encrypt


@dataclass(frozen=True, slots=True)
class HostRefused:
    """No mail goes to this host: for now (4xx), or this mail never (5xx).

    `local`: nothing is known of the host, as this system could not ask."""

    code: int
    enhanced: str
    text: str
    local: bool = False


@dataclass(frozen=True, slots=True)
class TlsCircumstances:
    """All that the policy of one connection depends on.

    `trusted`: the name of the host comes from the configuration, or from DNS that DNSSEC has secured.  `domain`: that
    of the recipients, or the smarthost's name; empty for a numeric one."""

    words: TlsWords
    host: MailHost
    trusted: bool = False
    domain: str = ""
    sts: StsPolicy | None = None
    history: TlsHistory = TlsHistory.UNKNOWN
    require_tls: bool = False
    password: bool = False


def tls_policy(case: TlsCircumstances) -> TlsPolicy | HostRefused:
    level = case.words.level
    if level in (TlsLevel.NEVER, TlsLevel.UNVERIFIED):
        return _exception(case)
    enforced = case.sts is not None and case.sts.mode is StsMode.ENFORCE
    if case.sts is not None and enforced and not matches(case.sts, case.host.name):
        return HostRefused(451, "4.7.5", f"MTA-STS policy of {case.domain} does not name {case.host.name}")
    if case.host.tlsa is TlsaState.FAILED:
        return HostRefused(451, "4.7.5", f"TLSA lookup of {case.host.name} failed")  # RFC 7672 2.1.2
    reasons = _reasons_to_verify(case, enforced)
    if case.require_tls and not (case.trusted or enforced):
        return HostRefused(550, "5.7.30", f"REQUIRETLS: MX of {case.domain} is secured by neither DNSSEC nor MTA-STS")
    if case.host.tlsa is TlsaState.USABLE:
        return _by_tlsa(case)
    if reasons:
        return _encrypted(case, Verify.ROOTS, reasons[0])
    if case.host.tlsa is TlsaState.UNUSABLE:
        return _encrypted(case, Verify.NOTHING, "DANE without a usable TLSA record")
    if case.words.at_connect:
        return _encrypted(case, Verify.NOTHING, "TLS at connect")
    return _opportunistic(case)


def _reasons_to_verify(case: TlsCircumstances, enforced: bool) -> list[str]:
    wanted: Sequence[tuple[bool, str]] = (
        (enforced, f"MTA-STS policy of {case.domain}"),
        (case.require_tls, "REQUIRETLS"),
        (case.words.level is TlsLevel.VERIFIED, "action requires verified TLS"),
        (case.password, "authentication requires verified TLS"),
    )
    return [why for applies, why in wanted if applies]


def _exception(case: TlsCircumstances) -> TlsPolicy | HostRefused:
    """What the administrator has said in so many words."""
    says = case.words.level.value
    if case.require_tls:
        return HostRefused(550, "5.7.30", f"REQUIRETLS: configured: {says}")
    if case.password:
        return HostRefused(451, "4.7.0", f"authentication requires verified TLS; configured: {says}")
    if case.words.level is TlsLevel.NEVER:
        return TlsPolicy(attempt=False, must_encrypt=False, verify=Verify.NOTHING, why="action says no TLS")
    return _encrypted(case, Verify.NOTHING, "action says no-verify")


def _by_tlsa(case: TlsCircumstances) -> TlsPolicy:
    """RFC 7672 3.2.2: names are the TLSA base domain, and the next-hop domain where the MX records are secure."""
    names = [case.host.tlsa_base, *([case.domain] if case.trusted else [])]
    return TlsPolicy(
        attempt=True,
        must_encrypt=True,
        verify=Verify.TLSA,
        why="DANE",
        names=tuple(dict.fromkeys(filter(None, names))),
        records=tuple(case.host.tlsa_records),
        server_name=case.host.tlsa_base,  # RFC 7672 8.1
        at_connect=case.words.at_connect,
        require_tls=case.require_tls,
    )


def _encrypted(case: TlsCircumstances, verify: Verify, why: str) -> TlsPolicy:
    return TlsPolicy(
        attempt=True,
        must_encrypt=True,
        verify=verify,
        why=why,
        names=(case.host.name,) if case.host.name else (),
        server_name=case.host.name if verify is Verify.ROOTS else case.host.tlsa_base or case.host.name,
        at_connect=case.words.at_connect,
        require_tls=case.require_tls,
    )


def _opportunistic(case: TlsCircumstances) -> TlsPolicy:
    """RFC 7435: better encrypted to an unknown host than not; never verified, as a failure would mean clear text."""
    if case.history is TlsHistory.BROKEN:
        return TlsPolicy(attempt=False, must_encrypt=False, verify=Verify.NOTHING, why=case.history.value)
    alarmed = case.history in (TlsHistory.FRESH, TlsHistory.SUSPECT)
    why = case.history.value if alarmed or case.history is TlsHistory.LOST else "opportunistic"
    if case.sts is not None and case.sts.mode is StsMode.TESTING:
        why += f", MTA-STS policy of {case.domain} in testing mode"
    return TlsPolicy(
        attempt=True,
        must_encrypt=alarmed,
        verify=Verify.NOTHING,
        why=why,
        server_name=case.host.name,
    )
