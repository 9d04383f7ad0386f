"""`mail-from` of a relay action."""

import pytest

from smtpd.smtp.address import AddressError
from smtpd.smtp.mail_from import parse_mail_from, rewrite_sender


@pytest.mark.parametrize(
    "sender, mail_from, told",
    [
        ("amy@there.test", "news@here.test", "news@here.test"),
        ("amy@there.test", "@here.test", "amy@here.test"),
        ("amy@there.test", "news", "news@there.test"),
        ("amy@there.test", "", "amy@there.test"),
        ("amy", "@here.test", "amy@here.test"),
        ('"a b"@there.test', "@here.test", '"a b"@here.test'),
        ('"a b"@there.test', '"c d"', '"c d"@there.test'),
        ("\u00e5@there.test", "@\u00fcber.test", "\u00e5@\u00fcber.test"),
        ("no address", "@here.test", "no address"),
        ("no address", "news@here.test", "news@here.test"),
    ],
)
def test_the_sender_or_a_half_of_it_is_replaced(sender, mail_from, told):
    assert rewrite_sender(sender, mail_from) == told


@pytest.mark.parametrize("mail_from", ["news@here.test", "@here.test", "news", ""])
def test_the_null_sender_stays(mail_from):
    assert rewrite_sender("", mail_from) == ""


@pytest.mark.parametrize("text", ["", "@", "a b", "@a b", "a@", "<a@b>", "a@b@c", "@-", "a\n"])
def test_what_is_no_address_and_no_half_of_one(text):
    with pytest.raises(AddressError):
        parse_mail_from(text)
