"""One line is a verb and an argument, or refused with a reply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Body, MailParameters, Notify
from smtpd.slice import UNLIMITED, Limits
from smtpd.smtp.address import Address
from smtpd.smtp.command import MailCommand, RcptCommand, parse_helo, parse_mail, parse_rcpt, split_command
from smtpd.smtp.extension import Offer
from smtpd.smtp.parameter import MAIL, RCPT
from smtpd.smtp.reply import CommandRefused

NOON = 1795262400
OFFER = Offer(1000, Limits(), hold=3600, require_tls=True)


@pytest.mark.parametrize(
    "line, parts",
    [
        (b"NOOP", ("NOOP", "")),
        (b"noop  a  b ", ("NOOP", "a  b")),
        (b"mail FROM:<x>", ("MAIL", "FROM:<x>")),
        (b"", ("", "")),
        (b" NOOP", ("NOOP", "")),
        (b" \t", ("", "")),
        (b"helo\trelay.test\t", ("HELO", "relay.test")),
        (b"AUTH\t PLAIN\t eA==", ("AUTH", "PLAIN\t eA==")),
        (b"VRFY \xc3\xa9", ("VRFY", "é")),
    ],
)
def test_a_verb_and_its_argument(line, parts):
    assert split_command(line) == parts


def test_everything_that_can_be_announced_in_its_order():
    offer = Offer(
        1000, Limits(), hold=3600, require_tls=True, starttls=True, mechanisms=("PLAIN", "LOGIN"), xclient="NAME ADDR"
    )
    assert offer.keywords(NOON) == [
        "8BITMIME",
        "ENHANCEDSTATUSCODES",
        "SIZE 1000",
        "DSN",
        "PIPELINING",
        "CHUNKING",
        "BINARYMIME",
        "SMTPUTF8",
        "LIMITS MAILMAX=100 RCPTMAX=1000",
        "DELIVERBY",
        "MT-PRIORITY",
        "FUTURERELEASE 3600 2026-11-21T13:00:00Z",
        "REQUIRETLS",
        "STARTTLS",
        "AUTH PLAIN LOGIN",
        "XCLIENT NAME ADDR",
        "HELP",
    ]


def test_without_a_limit_of_size_none_is_announced():  # RFC 1870 3
    offer = Offer(UNLIMITED, Limits())
    assert "SIZE 0" in offer.keywords(NOON)
    assert parse_mail("FROM:<amy@there.test> SIZE=99999999999", offer, NOON).size < UNLIMITED


def test_limits_are_announced_in_six_digits():  # RFC 9422 4.1, 4.2
    offer = Offer(1000, Limits(max_mails=1_000_000, max_rcpt=999_999))
    assert "LIMITS MAILMAX=999999 RCPTMAX=999999" in offer.keywords(NOON)


@pytest.mark.parametrize("line", [b"NOOP \xff", b"\xc3\xa9", b"R\xc5\xbfET", b"VRFY \xed\xa0\x80"])
def test_neither_ascii_nor_utf8(line):
    with pytest.raises(CommandRefused):
        split_command(line)


AMY = Address("amy", "there.test")
BOB = Address("bob", "here.test")


def terms(parameters: str) -> MailParameters:
    return parse_mail(f"FROM:<amy@there.test> {parameters}", OFFER, NOON).terms


def test_mail():
    assert parse_mail("FROM:<amy@there.test>", OFFER, NOON) == MailCommand(AMY, 0, MailParameters())
    asked = parse_mail("from:\t <amy@there.test>\tsize=12  SmtpUtf8 Body=7bit AUTH=<>", OFFER, NOON)
    assert asked == MailCommand(AMY, 12, MailParameters(utf8=True, submitter="<>"))


@pytest.mark.parametrize(
    "parameters, expected",
    [
        ("BODY=8BITMIME", MailParameters(body=Body.EIGHT_BIT)),
        ("BODY=binarymime", MailParameters(body=Body.BINARY)),
        ("REQUIRETLS", MailParameters(require_tls=True)),
        ("RET=full ENVID=QQ+2B+20314159", MailParameters(ret="FULL", envid="QQ+ 314159")),
        ("AUTH=e+3Dmc2@there.test", MailParameters(submitter="e=mc2@there.test")),
        ("HOLDFOR=3600", MailParameters(release=NOON + 3600)),
        ("HOLDUNTIL=2026-11-21T12:30:00Z", MailParameters(release=NOON + 1800)),
        ("HOLDUNTIL=2026-11-21T13:30:00.5+01:00", MailParameters(release=NOON + 1800)),
        ("BY=1;R", MailParameters(deliver_by=NOON + 1, by_mode="R")),
        ("BY=120;R", MailParameters(deliver_by=NOON + 120, by_mode="R")),
        ("BY=-120;nt", MailParameters(deliver_by=NOON - 120, by_mode="N", by_trace=True)),
        ("BY=120;R HOLDFOR=60", MailParameters(deliver_by=NOON + 120, by_mode="R", release=NOON + 60)),
        ("MT-PRIORITY=-9", MailParameters(priority=-9)),
        ("MT-PRIORITY=0", MailParameters()),
    ],
)
def test_the_terms_of_a_message(parameters, expected):
    assert terms(parameters) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        "HOLDFOR=0",
        "HOLDFOR=-1",
        "HOLDFOR=3601",
        "HOLDFOR=1234567890",
        "HOLDUNTIL=2026-11-21T12:00:00Z",
        "HOLDUNTIL=2026-11-21T13:00:01Z",
        "HOLDUNTIL=2026-11-21T12:30:00",
        "HOLDUNTIL=2026-11-21",
        "HOLDUNTIL=2026-02-30T12:30:00Z",
        "HOLDUNTIL=9999-12-31T23:59:59-23:59",
        "HOLDUNTIL=0001-01-01T00:00:00+23:59",
        "HOLDFOR=60 HOLDUNTIL=2026-11-21T12:30:00Z",
        "BY=60;R HOLDFOR=60",
        "ENVID=" + "x" * 101,
        "RET=HDR\u017f",  # whose capital is S
        "BODY=7B\u0131T",
    ],
)
def test_terms_that_are_none(parameters):
    with pytest.raises(CommandRefused) as refused:
        terms(parameters)
    assert refused.value.reply.text.startswith("501 5.5.4 ")


@pytest.mark.parametrize("keyword", [*MAIL, "SIZE"])
def test_a_parameter_of_mail_without_the_value_that_it_needs(keyword):
    if keyword in ("SMTPUTF8", "REQUIRETLS"):
        assert terms(keyword) != MailParameters()
        return
    with pytest.raises(CommandRefused) as refused:
        terms(keyword)
    assert refused.value.reply.code == 501


@pytest.mark.parametrize("keyword", RCPT)
def test_a_parameter_of_rcpt_without_the_value_that_it_needs(keyword):
    with pytest.raises(CommandRefused) as refused:
        parse_rcpt(f"TO:<bob@here.test> {keyword}", OFFER, utf8=False)
    assert refused.value.reply.code == 501


def test_a_size_that_is_not_said():
    assert parse_mail("FROM:<amy@there.test> BODY=7BIT", OFFER, NOON).size == 0


def test_rcpt():
    assert parse_rcpt("TO:<bob@here.test>", OFFER, utf8=False) == RcptCommand(BOB, Notify(0), "")
    asked = parse_rcpt("to:<bob@here.test> ORCPT=rfc822;Bob+2Bx@here.test NOTIFY=success,FAILURE", OFFER, utf8=False)
    assert asked == RcptCommand(BOB, Notify.SUCCESS | Notify.FAILURE, "rfc822;Bob+x@here.test")


@pytest.mark.parametrize("address, utf8", [(r"b\x{F6}b@here.test", False), ("b\u00f6b@here.test", True)])
def test_an_original_recipient_beyond_ascii(address, utf8):
    asked = parse_rcpt(f"TO:<bob@here.test> ORCPT=utf-8;{address}", OFFER, utf8=utf8)
    assert asked.original == "utf-8;b\u00f6b@here.test"


@pytest.mark.parametrize(
    "original",
    [
        "utf-8;b\u00f6b@here.test",
        r"utf-8;\x{0A}",
        r"utf-8;\x{D800}",
        r"utf-8;\x{FFFFFF}",
        r"utf-8;\x{202E}x",
        "rfc822;" + "x" * 494,
        "x" * 500 + ";x",
    ],
)
def test_an_original_recipient_that_is_none(original):
    with pytest.raises(CommandRefused):
        parse_rcpt(f"TO:<bob@here.test> ORCPT={original}", OFFER, utf8=False)


COMMANDS = [
    split_command,
    lambda line: parse_mail(line.decode(), OFFER, NOON),
    lambda line: parse_rcpt(line.decode(), OFFER, utf8=True),
]
PIECES = [
    b"FROM:",
    b"TO:",
    b"<",
    b"a@b.test",
    b">",
    b" ",
    b"SIZE=",
    b"9",
    b"BODY=",
    b"=",
    b"SMTPUTF8",
    b"\xc3\xa9",
    b"\t",
    b"ORCPT=",
    b"NOTIFY=",
    b"NEVER",
    b"SUCCESS",
    b",",
    b";",
    b"utf-8",
    b"\\x{",
    b"}",
    b"+",
    b"20",
    b"ENVID=",
    b"RET=",
    b"BY=",
    b"R",
    b"HOLDFOR=",
    b"HOLDUNTIL=",
    b"2026-11-21T12:30:00Z",
    b"MT-PRIORITY=",
    b"REQUIRETLS",
]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3).map(str.encode)), max_size=12).map(b"".join))
def test_whatever_comes_is_understood_or_refused(line):
    for parse in [*COMMANDS, lambda line: parse_helo(line.decode())]:
        try:
            parse(line)
        except CommandRefused as refused:
            assert 500 <= refused.reply.code < 560
            assert refused.reply.data.count(b"\r\n") == 1 and refused.reply.data.isascii()
