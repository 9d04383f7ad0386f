"""From whom and to whom: options, header, caller."""

import io
import os
import pwd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl import simple_address
from smtpctl.addressing import Caller, _parse_addresses, address_mail, from_field, read_recipients
from smtpctl.raw_mail import RawMail
from smtpctl.sendmail_option import DATAERR, SOFTWARE, USAGE, SendmailError, SendmailOptions
from smtpd.smtp.address import parse_mailbox

ME = pwd.getpwuid(os.getuid()).pw_name


def envelope(*words, mail=b""):
    options = SendmailOptions(words)
    with RawMail(io.BytesIO(mail)) as letter:
        return address_mail(letter, options, read_recipients(options), Caller())


def field(*words):
    options = SendmailOptions(words)
    return from_field("amy@here.test", options, Caller()).decode()


def failure(*words, mail=b""):
    with pytest.raises(SendmailError) as failed:
        envelope(*words, mail=mail)
    return failed.value


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["-oi", "-odb", "-oem", "-i", "-m", "-x", "-B8BITMIME", "-Lx", "-Ed", "-J", "-bm", "-e", "q", "-p", "x", "-Ay"],
        ["-im", "-A", "c", "-S"],
        ["-o", "i", "--"],
    ],
)
def test_options_that_mean_nothing_here_are_accepted(words):
    options = SendmailOptions(["-fa@here.test", *words, "bob", "-t"])
    assert (options.operands, options.mode, options.values["f"]) == (["bob", "-t"], "m", "a@here.test")


@pytest.mark.parametrize("words", [["-Z"], ["-f"], ["-"], ["-tZ"], ["-ti", "-f"], ["--what"], ["--state"], ["-é"]])
def test_options_that_are_none(words):
    with pytest.raises(SendmailError) as failed:
        SendmailOptions(words)
    assert failed.value.status == USAGE


@pytest.mark.parametrize(
    "words",
    [
        ["-N", "success,never"],
        ["-N", "failure\r\nRCPT TO:<x@y>"],
        ["-N", ""],
        ["-R", "all"],
        ["-V", "a b"],
        ["-V", "é"],
        ["-V", "x" * 101],
        ["-f", "a, b"],
        ["-f", "a\r\nDATA"],
        ["-f", "Friends:;"],
    ],
)
def test_a_value_that_makes_no_sense_is_misuse(words):
    assert failure(*words, "bob").status == USAGE


def test_dsn_is_asked_for_in_the_words_of_smtp():
    mail = envelope("-N", "success,Delay", "-R", "hdrs", "-V", "a+b=c", "bob")
    assert (mail.notify, mail.ret, mail.envid) == ("SUCCESS,DELAY", "HDRS", "a+2Bb+3Dc")


# -- sender ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, mail, sender",
    [
        (["-f", "amy@here.test"], b"From: x@y.test\n\n", "amy@here.test"),
        (["-r", "amy"], b"", "amy"),
        (["-f", ""], b"", ""),
        (["-f", "<>"], b"", ""),
        (["-f", "Amy <amy@here.test>"], b"", "amy@here.test"),
        ([], b"From: Amy (x) <amy@here.test>\n\n", "amy@here.test"),
        ([], b"From: amy, bob\n\n", "amy"),
        ([], b"From: Nobody knows who\n\n", ME),
        ([], b"From: undisclosed:;\n\n", ME),
        ([], b"Subject: x\n\n", ME),
    ],
)
def test_the_sender_is_the_first_that_there_is(words, mail, sender):
    assert str(envelope(*words, "bob", mail=mail).sender) == sender


@pytest.mark.parametrize(
    "name, expected",
    [
        ("Amy", "Amy <amy@here.test>"),
        ("Amy A", "Amy A <amy@here.test>"),
        ('A. "Z" \\', '"A. \\"Z\\" \\\\" <amy@here.test>'),
        ("Ämy", "=?utf-8?q?=C3=84my?= <amy@here.test>"),
        ("=?x?", "=?utf-8?b?PT94Pw==?= <amy@here.test>"),
        ("", "amy@here.test"),
        ("x@y.test, z", '"x@y.test, z" <amy@here.test>'),
    ],
)
def test_the_name_of_the_sender_is_nothing_but_a_name(name, expected):
    assert field("-F", name) == f"From: {expected}"


@pytest.mark.parametrize("name", ["a\nBcc: x@y.test", "a\r\n\r\nbody", "a\0", "\x1b[31m", "\udcff", "a\u2028b"])
def test_header_injection_by_a_name(name):
    with pytest.raises(SendmailError) as failed:
        field("-F", name)
    assert failed.value.status == USAGE


@settings(max_examples=200)
@given(st.text(max_size=100))
def test_no_name_makes_a_line_of_its_own(name):
    try:
        made = field("-F", name)
    except SendmailError:
        return
    first, *others = made.split("\n")
    assert first.startswith("From: ") and all(line.startswith(" ") for line in others) and "\r" not in made


# -- recipients ------------------------------------------------------------------------------


def test_recipients_are_read_from_the_header_and_each_counts_once():
    mail = (
        b'To: "Bob, B." <bob@here.test>, carol\nX-To: no@here.test\ncc: Friends: dan@x.test,\n\t(x) bob@here.test;\n'
        b"Bcc: eve@x.test\n\nTo: body@x.test\n"
    )
    found = [str(recipient) for recipient in envelope("-t", "zoe@x.test", mail=mail).recipients]
    assert found == ["zoe@x.test", "bob@here.test", "carol", "dan@x.test", "eve@x.test"]


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"amy; bob", ["amy", "bob"]),
        (b"amy@x.test; Bob B. <bob@here.test>;", ["amy@x.test", "bob@here.test"]),
        (b"amy@x.test,", ["amy@x.test"]),
        (b'"a; b" <amy>; (c; d) bob', ["amy", "bob"]),
        (b"Friends: amy, bob; carol; dan,", ["amy", "bob", "carol", "dan"]),
        (b"Friends: amy; Others: bob;;", ["amy", "bob"]),
    ],
)
def test_a_semicolon_ends_an_address(value, expected):
    assert list(envelope("-t", mail=b"To: " + value + b"\n\n").recipients) == expected


BLOCK = b"Resent-From: amy\nResent-To: bob\nResent-Cc: carol\nResent-Bcc: dan, eve\n"


@pytest.mark.parametrize(
    "header, expected",
    [
        (BLOCK + b"To: zoe\nBcc: yan\n", ["bob", "carol", "dan", "eve"]),
        (b"To: zoe\n" + BLOCK, ["bob", "carol", "dan", "eve"]),
        (b"Received: x\nResent-Bcc: bob\nTo: zoe\n", ["bob"]),
        (b"Resent-To: bob\nResent-From: amy\nResent-To: old\nResent-From: zoe\nTo: yan\n", ["bob"]),
        (BLOCK + b"Received: x\nResent-To: old\nTo: zoe\n", ["bob", "carol", "dan", "eve"]),
        (b"Resent-To: bob;\n", ["bob"]),
    ],
)
def test_a_mail_that_is_sent_on_goes_where_the_newest_resent_fields_say(header, expected):
    assert list(envelope("-t", mail=header + b"\n").recipients) == expected


def test_a_resent_mail_without_recipients_does_not_go_to_the_original_ones():
    mail = b"Resent-From: amy\nResent-Date: x\nTo: zoe\n\n"
    assert failure("-t", mail=mail).texts == ("no recipients",)
    assert list(envelope("-t", "bob", mail=mail).recipients) == ["bob"]


ADDRESS_TEXT = st.lists(
    st.sampled_from(
        [
            "bob",
            "@",
            "here.test",
            ",",
            " ",
            ";",
            "<",
            ">",
            "(x)",
            '"',
            "a.b",
            ".",
            ":",
            "Bob",
            "=?x?=",
            "-",
            "[1]",
            "\\",
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=500)
@given(ADDRESS_TEXT | st.text(alphabet="ab.@-_<> ,+\n\t!é", max_size=20))
def test_what_is_read_without_the_parser_is_what_the_parser_reads(text):
    found = simple_address.maybe_addresses(text.encode())
    if found is not None:
        assert found == _parse_addresses(text.encode(), DATAERR)


def test_an_operand_is_a_list_too():
    found = [str(recipient) for recipient in envelope("bob, Carol <carol@x.test>", "<@a.test:dan@b.test>").recipients]
    assert found == ["bob", "carol@x.test", "dan@b.test"]


def test_the_header_is_not_asked_for_recipients_without_t():
    assert [str(one) for one in envelope("bob", mail=b"To: carol\nBcc: dan\n\n").recipients] == ["bob"]


@pytest.mark.parametrize("words, mail", [([], b"To: bob\n\n"), (["-t"], b"Subject: x\n\nTo: bob\n"), (["-t"], b"")])
def test_no_recipients(words, mail):
    failed = failure(*words, mail=mail)
    assert (failed.status, failed.texts) == (SOFTWARE, ("no recipients",))


@pytest.mark.parametrize(
    "text",
    [
        "bob@",
        "Bob Smith",
        "a@b> SIZE=1",
        "a@b\r\nDATA",
        "<a@b> <c@d>",
        '"a',
        "Friends: a@b",
        "\xff",
        "a@@b",
        "<>",
        "a\0",
    ],
)
def test_what_is_no_address_is_sent_nothing(text):
    operand = os.fsdecode(text.encode("latin-1"))
    assert failure(operand).status == USAGE
    mail = b"To: x@y.test, " + text.encode("latin-1").replace(b"\r\n", b" ") + b"\n\n"
    assert failure("-t", mail=mail).status == DATAERR


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_whatever_the_header_says_an_address_is_one_word_of_a_command(value):
    mail = b"To: " + value.replace(b"\n", b"\n ") + b"\n\n"
    try:
        recipients = envelope("-t", mail=mail).recipients
    except SendmailError as failed:
        assert all(text.isprintable() for text in failed.texts)
        return
    for recipient in recipients:
        assert str(parse_mailbox(recipient)) == recipient and recipient.isprintable()
