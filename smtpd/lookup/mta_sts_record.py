"""The _mta-sts TXT record: whether a domain has an MTA-STS policy, and its id.  RFC 8461 3.1.

    v=STSv1; id=20160831085700Z;     20160831085700Z: the policy is fetched again when the id changes

The policy itself is fetched over HTTPS, and not here.
"""

import re
from collections.abc import Sequence

from smtpd.lookup.destination import is_localhost
from smtpd.lookup.resolver_config import NAME_MAX

_BEGIN = re.compile(rb"v=STSv1[ \t]*;")
_FIELD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[\x21-\x3a\x3c\x3e-\x7e]+")
_ID = re.compile(rb"id=([A-Za-z0-9]{1,32})")


def record_name(domain: str) -> str:
    """Where the record of a domain is (RFC 8461 3.1); empty: it can have none.  In ASCII and lower case."""
    name = f"_mta-sts.{domain}"
    return "" if is_localhost(domain) or len(name) > NAME_MAX else name


def policy_id(records: Sequence[bytes]) -> str:
    """The id of the one valid record; empty if there is none, or more than one that begins like it."""
    # "Records that do not begin with "v=STSv1;" are discarded.  If the number of resulting records is not one, or if
    # the resulting record is syntactically invalid", there is no policy.
    versioned = [record for record in records if _BEGIN.match(record)]
    return _id(versioned[0]) if len(versioned) == 1 else ""


def _id(record: bytes) -> str:
    version, *fields = [field.strip(b" \t") for field in record.split(b";")]
    if fields and not fields[-1]:
        fields.pop()  # a final delimiter
    ids = [match[1] for field in fields if (match := _ID.fullmatch(field))]
    if version != b"v=STSv1" or len(ids) != 1 or not all(map(_FIELD.fullmatch, fields)):
        return ""
    return ids[0].decode("ascii")
