"""One line is a verb and an argument, or refused with a reply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.address import Address
from smtpd.smtp.command import Mail, command, helo, mail, rcpt
from smtpd.smtp.reply import Refuse


@pytest.mark.parametrize(
    "line, parts",
    [
        (b"NOOP", ("NOOP", "")),
        (b"noop  a  b ", ("NOOP", "a  b")),
        (b"mail FROM:<x>", ("MAIL", "FROM:<x>")),
        (b"", ("", "")),
        (b" NOOP", ("", "NOOP")),
        (b"VRFY \xc3\xa9", ("VRFY", "é")),
    ],
)
def test_a_verb_and_its_argument(line, parts):
    assert command(line) == parts


@pytest.mark.parametrize("line", [b"NOOP \xff", b"\xc3\xa9", b"R\xc5\xbfET", b"VRFY \xed\xa0\x80"])
def test_neither_ascii_nor_utf8(line):
    with pytest.raises(Refuse):
        command(line)


def test_mail():
    amy = Address("amy", "there.test")
    assert mail("FROM:<amy@there.test>") == Mail(amy, 0, False)
    assert mail("from:\t <amy@there.test>\tsize=12  SmtpUtf8 Body=7bit AUTH=<>") == Mail(amy, 12, True)


COMMANDS = [command, lambda line: mail(line.decode()), lambda line: rcpt(line.decode(), utf8=True)]
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
]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3).map(str.encode)), max_size=12).map(b"".join))
def test_whatever_comes_is_understood_or_refused(line):
    for parse in [*COMMANDS, lambda line: helo(line.decode())]:
        try:
            parse(line)
        except Refuse as refused:
            assert 500 <= refused.reply.code < 560
            assert refused.reply.data.count(b"\r\n") == 1 and refused.reply.data.isascii()
