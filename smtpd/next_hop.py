"""The hosts of a destination, as lookup finds them in the DNS and the dispatcher connects to them.

    there.test --MX--> 10 mx1.there.test --A, AAAA--> 192.0.2.1, 2001:db8::1     _25._tcp.mx1.there.test: 3 1 1 5f3a...
                       20 mx2.there.test --A, AAAA--> 192.0.2.2                  _25._tcp.mx2.there.test: no TLSA record

RFC 5321 5.1, RFC 7672.
"""

from enum import IntEnum
from typing import Annotated, Literal

import msgspec

from smtpd.envelope import Seconds, Word

SMARTHOSTS_MAX = 100  # of an action
HOSTS_MAX = 20  # hosts of a destination, the best ones
ADDRESSES_MAX = 5  # addresses of a host, of each family
TLSA_RECORDS_MAX = 16  # usable TLSA records of a host
TLSA_DATA_MAX = 2048  # bytes; a record with more is not usable
PORT_MAX = 2**16 - 1

Port = Annotated[int, msgspec.Meta(ge=1, le=PORT_MAX)]
Preference = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]  # RFC 5321 5.1: lower is better


# Of rows that are kept over a restart: a character is a byte on the disk.
_PRINTABLE_ASCII = r"\A[\x20-\x7e]*\Z"
KeptWord = Annotated[str, msgspec.Meta(max_length=256, pattern=_PRINTABLE_ASCII)]
# A host and its port, "mx1.there.test:25".
Service = Annotated[str, msgspec.Meta(min_length=1, max_length=256 + 6, pattern=_PRINTABLE_ASCII)]
RowNumber = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # of one that is kept over a restart
MX_TEXT_MAX = 2048  # bytes of the patterns of a policy that is kept over a restart
MxText = Annotated[str, msgspec.Meta(max_length=MX_TEXT_MAX, pattern=_PRINTABLE_ASCII)]


PolicyDomain = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=_PRINTABLE_ASCII)]


class TlsHost(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A host whose TLS has worked, as it is kept over a restart (relay/tls_memory.py)."""

    service: Service
    worked: Seconds  # when last, since 1970


class StsRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An MTA-STS policy of a domain, as it is kept over a restart (relay/mta_sts.py)."""

    domain: PolicyDomain
    id: KeptWord  # of its TXT record, when it was fetched
    mode: Literal["enforce", "testing", "none"]
    mx: MxText  # patterns, with blanks between them
    max_age: Annotated[int, msgspec.Meta(ge=0, le=31_557_600)]  # seconds, RFC 8461 3.2
    fetched: Seconds  # since 1970


class TlsaState(IntEnum):
    """What DANE says of a host: RFC 7672 2.1.1, 2.2."""

    NONE = 0  # it does not apply: an answer is not secure, or there is no record, and securely so
    USABLE = 1  # the server is authenticated by the records
    UNUSABLE = 2  # there are records, none of them usable: encryption is mandatory, and nothing authenticates
    FAILED = 3  # bogus, or no answer: the host must not be used now


class TlsaRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A usable record, RFC 7672 3.1: DANE-TA(2) or DANE-EE(3), selector Cert(0) or SPKI(1), matching type Full(0),
    SHA2-256(1) or SHA2-512(2)."""

    usage: Annotated[int, msgspec.Meta(ge=2, le=3)]
    selector: Annotated[int, msgspec.Meta(ge=0, le=1)]
    matching: Annotated[int, msgspec.Meta(ge=0, le=2)]
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=TLSA_DATA_MAX)]


class Smarthost(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A host of the configuration that takes the mail of a relay action."""

    protocol: Word  # tables/relay_host.py
    host: Word  # a name, or a numeric address without brackets
    port: Port
    authenticate: bool  # lookup has credentials for it


class MailHost(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A host that takes mail for a destination."""

    name: Word  # in ASCII, lower case, without a final dot; empty for a host that is named by its address only
    preference: Preference  # 0 without an MX record
    # Numeric, at least one; those of IPv6 first, each family in the order of the answer.
    addresses: Annotated[list[Word], msgspec.Meta(max_length=2 * ADDRESSES_MAX)]
    secure: bool = False  # an answer with addresses was secure
    tlsa: TlsaState = TlsaState.NONE
    tlsa_base: Word = ""  # RFC 7672 2.2.3: where the records stand; what SNI and DANE-TA name
    tlsa_records: Annotated[list[TlsaRecord], msgspec.Meta(max_length=TLSA_RECORDS_MAX)] = []
