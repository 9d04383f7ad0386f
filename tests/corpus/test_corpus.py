"""The corpus is as large and as various as it says, and what is expected of its mails is what readers and editors of
the server, and sendmail, do with them in memory."""

import email
import hashlib
import io
from collections import Counter

import pytest

from smtpctl.raw_mail import RawMail, RawMailError
from smtpd.header.editor import HeaderEditor
from smtpd.smtp.chunk import ChunkReader
from smtpd.smtp.data import DataReader
from smtpd.smtp.reply import CommandRefused
from tests.corpus import WAYS, Changed, Encoded, Mail, Refused, Same, all_mails, expected

MAX_SIZE = 100 * 1024 * 1024  # bytes
PIECE = 4093  # bytes: cut anywhere
MAILS = all_mails()
FAMILIES = sorted({mail.family for mail in MAILS})


def test_there_are_enough_of_them_and_no_two_are_the_same():
    assert len(MAILS) >= 400
    assert len({mail.id for mail in MAILS}) == len({mail.content for mail in MAILS}) == len(MAILS)


def test_they_are_the_same_at_each_run():
    again = all_mails()
    assert [mail.id for mail in again] == [mail.id for mail in MAILS]
    digests = [hashlib.sha256(mail.content).digest() for mails in (again, MAILS) for mail in mails]
    assert digests[: len(MAILS)] == digests[len(MAILS) :]


def test_each_rule_and_each_refusal_has_a_mail():
    rules = Counter(getattr(expected(mail, way), "rule", "") for mail in MAILS for way in WAYS)
    assert len(rules) == 17, rules


def pieces(content):
    return (content[at : at + PIECE] for at in range(0, len(content), PIECE))


def by_data(mail):
    """Content that is to be stored, or the refusal."""
    reader = DataReader(MAX_SIZE)
    try:
        content = b"".join(map(reader.feed, pieces(mail.as_data())))
    except CommandRefused as refused:
        return refused.reply
    assert reader.ended and not reader.rest and not reader.fault
    return content


def by_bdat(mail, *, binary=False):
    reader = ChunkReader(binary=binary)
    content = b"".join(map(reader.feed, pieces(mail.as_chunk()))) + reader.end()
    return reader.fault or content


def by_binarymime(mail):
    return by_bdat(mail, binary=True)


def by_sendmail(mail):
    try:
        with RawMail(io.BytesIO(mail.content)) as letter:
            return by_data(Mail(mail.family, mail.name, b"".join(letter.pieces())))
    except RawMailError:
        return None


READERS = {"data": by_data, "bdat": by_bdat, "binarymime": by_binarymime, "sendmail": by_sendmail}


def stored(content):
    """The header, mended, and the body; or a fault."""
    editor = HeaderEditor(domain="here.test")
    edited = b"".join(map(editor.feed, pieces(content))) + editor.end()
    if editor.fault:
        return editor.fault.value[:2]
    header, _, body = (b"", b"", edited[1:]) if edited.startswith(b"\n") else edited.partition(b"\n\n")
    return header, body


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_expected_is_what_comes_out(family, way):
    read = READERS[way]
    for mail in (mail for mail in MAILS if mail.family == family):
        outcome, content = expected(mail, way), read(mail)
        if content is None:
            assert isinstance(outcome, Refused) and not outcome.code, mail.id
        elif not isinstance(content, bytes):
            assert isinstance(outcome, Refused), mail.id
            assert content.text.startswith(f"{outcome.code} {outcome.enhanced} "), mail.id
        else:
            check(mail, outcome, stored(content))


def check(mail, outcome, found):
    match outcome:
        case Refused():
            assert found == (outcome.code, outcome.enhanced), mail.id
        case Same() | Changed():
            assert found[1] == outcome.body, mail.id
        case Encoded():
            assert b"\0" not in found[1] and max(map(len, found[1].split(b"\n"))) <= 998, mail.id
            message = email.message_from_bytes(found[0] + b"\n\n" + found[1])
            encoding = message["Content-Transfer-Encoding"]
            if not message.is_multipart() and encoding in ("quoted-printable", "base64"):
                decoded = message.get_payload(decode=True)
                assert decoded.removesuffix(b"\n") == outcome.body.removesuffix(b"\n"), mail.id
