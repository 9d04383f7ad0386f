"""Addresses and domains beyond ASCII (RFC 6531) in ASCII, for a peer without SMTPUTF8.

    amy@müller.test      ascii_address  "amy@xn--mller-kva.test"
    müller.test          ascii_domain   "xn--mller-kva.test"        A-labels: RFC 5890 2.3.2.1
    åmy@there.test       None: a local part means what it means to its own host, and is not rewritten
    fußball.test         None: IDNA 2003 and IDNA 2008 make two different domains of it

No name is looked up.
"""

from smtpd.domain_name import ascii_form

_AMBIGUOUS = frozenset("\u00df\u03c2\u200c\u200d")  # RFC 5894 7.2


def ascii_address(address: str) -> str | None:
    """The address in ASCII, or None where there is no such form.  A name without a domain is only a local part."""
    if address.isascii():
        return address
    local, at, domain = address.rpartition("@")
    plain = ascii_domain(domain) if at and local.isascii() else None
    return f"{local}@{plain}" if plain is not None else None


def ascii_domain(domain: str) -> str | None:
    if domain.isascii():
        return domain
    if not _AMBIGUOUS.isdisjoint(domain):
        return None
    found = ascii_form(domain)
    return found if found.isascii() and "" not in found.split(".") else None
