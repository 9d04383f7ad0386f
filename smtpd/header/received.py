"""The Received line that a server puts on top of each message (RFC 5321 4.4).

    Received: from mail.there.test (mail.there.test [192.0.2.1])
            by mx.here.test (smtpd) with ESMTPSA id 1a2b3c4d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO) auth=yes user=amy
            for <bob@here.test>;
            Sat, 21 Nov 2026 06:50:23 +0000 (UTC)

The client chooses its name in HELO, and a name server the name of its address: of both, only the characters of host
names get into the line; likewise for the name of a user.
"""

import re
import time
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9._:<>\[\]-]")
_NOT_OF_A_USER = re.compile(r"[^A-Za-z0-9._+@-]")


def received(
    *,
    helo: str,
    client: str,
    address: str,
    server: str,
    product: str,
    protocol: str,
    message: str,
    recipient: str,
    epoch: int,
    tls: str = "",
    user: str = "",
    received_auth: bool = False,
    mask_src: bool = False,
) -> bytes:
    """The header with LF line ends, the last one too.

    `client`: the verified name, or "<unknown>".  `address`: numeric, or "local".  `recipient`: an address as it stands
    between angle brackets, empty to say nothing (RFC 5321 7.2: more than one would show blind copies).
    `epoch`: seconds since 1970.  `tls`: cipher of the connection, and whether the client's certificate is verified;
    empty without TLS.  `user`: that the client has authenticated as; written only with `received_auth`.
    `mask_src`: the client's name and address are left out.
    """
    source = "" if mask_src else f"from {_name(helo)} ({_name(client)} {literal(address)})\n\t"
    to = f"\n\tfor <{recipient}>" if recipient else ""
    secured = f" ({tls})" + (_authenticated(user) if received_auth else "") if tls else ""
    text = (
        f"Received: {source}by {_name(server)} ({product}) with {protocol} id {message}{secured}{to};\n"
        f"\t{date(epoch)}\n"
    )
    return text.encode()


def _authenticated(user: str) -> str:
    return f" auth=yes user={_NOT_OF_A_USER.sub('?', user)}" if user else " auth=no"


def protocol_word(*, esmtp: bool, utf8: bool, tls: bool = False, auth: bool = False) -> str:
    """RFC 3848, and RFC 6531 4.3 for a message that asked for SMTPUTF8.  There is no word for HELO under TLS."""
    if not esmtp:
        return "SMTP"
    return ("UTF8SMTP" if utf8 else "ESMTP") + "S" * tls + "A" * auth


def literal(address: str) -> str:
    """The address in the brackets of RFC 5321 4.1.3; `[local]` for a local program."""
    address = _name(address.partition("%")[0])  # the scope of a link-local address has no meaning on other hosts
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


@lru_cache(maxsize=4)
def date(epoch: int) -> str:
    """RFC 5322 3.3, in UTC; the names of days and months belong to no locale."""
    t = time.gmtime(epoch)
    day, month = _DAYS[t.tm_wday], _MONTHS[t.tm_mon - 1]
    return f"{day}, {t.tm_mday:02} {month} {t.tm_year} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000 (UTC)"


def _name(text: str) -> str:
    return _NOT_OF_A_NAME.sub("?", text)
