"""`mail-from` of a relay action: what replaces the sender of the mail that it sends, or a half of it.

    news@here.test    amy@there.test -> news@here.test
    @here.test        amy@there.test -> amy@here.test
    news              amy@there.test -> news@there.test

The null sender is never replaced: a bounce of a bounce could be bounced, too (RFC 5321 4.5.5).
"""

from smtpd.smtp.address import Address, AddressError, parse_domain, parse_mailbox


def parse_mail_from(text: str) -> Address:
    """The half that is not given is empty.  Raises AddressError."""
    if text.startswith("@"):
        return Address("", parse_domain(text[1:]))
    return parse_mailbox(text)


def rewrite_sender(sender: str, mail_from: str) -> str:
    """The sender to tell the next host.  `mail_from` is what parse_mail_from takes, or empty.  A sender that is no
    address with a domain is replaced only as a whole."""
    if not sender or not mail_from:
        return sender
    instead = parse_mail_from(mail_from)
    if instead.local and instead.domain:
        return str(instead)
    try:
        address = parse_mailbox(sender)
    except AddressError:
        return sender
    return str(Address(instead.local or address.local, instead.domain or address.domain))
