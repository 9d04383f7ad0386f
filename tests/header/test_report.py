"""Notices: what they say, in fields that others read; and that no text of others gets out of its field.

Golden files in notices/: one for each kind.  To make them anew: `python -m tests.header.test_report`, and look at them.
"""

import base64
import email
import email.policy
import quopri
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpd.header.report import CONTENT_MAX, compose
from smtpd.header.report_facts import Action, RecipientReport, Report
from smtpd.header.report_field import TEXT_MAX, delivery_status, lines_of, one_line

GOLDEN = Path(__file__).parent / "notices"
ARRIVAL, NOW = 1_700_000_000, 1_700_000_900
CONTENT = b"From: amy@there.test\nSubject: lunch\n\nAt noon?\n"
REFUSED = RecipientReport(
    recipient="Bob@far.test",
    original="rfc822;info@here.test",
    action=Action.FAILED,
    status="5.1.1",
    reason="550 5.1.1 No such user",
    remote="mx.far.test",
    diagnostic="550-5.1.1 No such user\r\n550 5.1.1 (see RFC 5321)",
    last_attempt=NOW - 10,
    retry_until=None,
)
EXPIRED = replace(
    REFUSED, recipient="eve@far.test", original=None, status="4.4.7", reason="no host can be reached", remote=None
)
EXPIRED = replace(EXPIRED, diagnostic=None)
DELAYED = replace(EXPIRED, action=Action.DELAYED, status="4.4.1", retry_until=NOW + 4 * 86400)
DONE = replace(EXPIRED, status="2.0.0", reason="")
FAILED = Report("mx.here.test", "amy@there.test", "a+b", ARRIVAL, (REFUSED,), CONTENT, True, NOW, "1a2b3c4d.1")
INTERNATIONAL = replace(
    FAILED,
    to="ämy@there.test",
    recipients=(replace(REFUSED, recipient="jö@fär.test", original="utf-8;jö@here.test"),),
    content="Subject: Mittagessen für zwei\n\nUm zwölf?\n".encode(),
)
KINDS = {
    "failed": FAILED,
    "failed-header": replace(FAILED, content=CONTENT[:38], is_whole=False),
    "failed-several": replace(FAILED, recipients=(REFUSED, EXPIRED), envelope_id=None),
    "failed-long-line": replace(FAILED, content=CONTENT + b"x" * 1500 + b"\n"),
    "failed-8bit": replace(FAILED, content=b"Subject: caf\xe9\n\nx\n"),
    "failed-international": INTERNATIONAL,
    "delayed": replace(FAILED, recipients=(DELAYED,), content=CONTENT[:38], is_whole=False),
    "delivered": replace(FAILED, recipients=(replace(DONE, action=Action.DELIVERED),), is_whole=False),
    "relayed": replace(FAILED, recipients=(replace(DONE, action=Action.RELAYED),), is_whole=False),
    "expanded": replace(FAILED, recipients=(replace(DONE, action=Action.EXPANDED),), is_whole=False),
    "mixed": replace(FAILED, recipients=(REFUSED, replace(DONE, action=Action.DELIVERED))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_as_it_was(kind):
    assert compose(KINDS[kind]) == (GOLDEN / f"{kind}.eml").read_bytes()


def parsed(notice):
    """Header, text, groups of fields, and the part with the message; checks what holds for every notice."""
    assert re.fullmatch(rb"(?:[^\x00\r\n]{0,998}\n)*", notice)
    mail = email.message_from_bytes(notice, policy=email.policy.default)
    assert mail.get_content_type() == "multipart/report" and mail.get_param("report-type") == "delivery-status"
    assert not mail.defects and mail["Auto-Submitted"] == "auto-replied"
    text, status, content = mail.iter_parts()
    assert text.get_content_type() == "text/plain"
    fields = groups(notice)
    if status.get_content_type() == "message/delivery-status":  # as Python takes it apart
        assert [dict(group.items()) for group in status.iter_parts()] == [
            {name: value.replace("\n", "") for name, value in group.items()} for group in fields
        ]
    return mail, text.get_content(), fields, content


def groups(notice):
    """[{field: value}, ...] of the second part."""
    kind, fields = raw_part(notice, 1)
    assert kind == ("message/delivery-status" if fields.isascii() else "message/global-delivery-status")
    return [dict(email.message_from_string(group).items()) for group in fields.decode().split("\n\n")]


def raw_part(notice, number):
    """Its type and its content, decoded; Python would parse that of a message/... before it is decoded."""
    boundary = re.search(rb'boundary="([^"]+)"', notice).group(1)
    _, *parts, end = notice.split(b"--" + boundary)
    assert len(parts) == 3 and end == b"--\n"
    header, body = parts[number].removesuffix(b"\n").split(b"\n\n", 1)
    part = email.message_from_bytes(header.lstrip(b"\n") + b"\n\n")
    decode = {None: bytes, "quoted-printable": quopri.decodestring, "base64": base64.b64decode}
    return part.get_content_type(), decode[part["Content-Transfer-Encoding"]](body)


def only(report):
    return parsed(compose(report))[2][1]


# -- fields -----------------------------------------------------------------------------------------------------------


def test_fields_of_the_message_and_of_a_recipient_in_the_order_of_the_rfc():
    _, _, (message, recipient), _ = parsed(compose(FAILED))
    assert [*message] == ["Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"]
    assert message["Original-Envelope-Id"] == "a+b" and message["Reporting-MTA"] == "dns; mx.here.test"
    order = "Original-Recipient Final-Recipient Action Status Remote-MTA Diagnostic-Code Last-Attempt-Date"
    assert [*recipient] == order.split()
    assert recipient["Final-Recipient"] == "rfc822; Bob@far.test"
    assert recipient["Original-Recipient"] == "rfc822; info@here.test"
    assert (recipient["Action"], recipient["Status"], recipient["Remote-MTA"]) == (
        "failed",
        "5.1.1",
        "dns; mx.far.test",
    )


def test_what_did_not_come_is_left_out():
    _, _, (message, recipient), _ = parsed(compose(replace(FAILED, envelope_id=None, recipients=(EXPIRED,))))
    assert "Original-Envelope-Id" not in message
    assert not {"Original-Recipient", "Remote-MTA"} & recipient.keys()


def test_dates_have_a_numeric_zone():
    _, _, (message, recipient), _ = parsed(compose(FAILED))
    for text, when in ((message["Arrival-Date"], ARRIVAL), (recipient["Last-Attempt-Date"], NOW - 10)):
        assert text.endswith(" +0000")
        assert email.utils.parsedate_to_datetime(text).timestamp() == when


def test_an_error_of_our_own_has_a_type_of_its_own():
    assert only(replace(FAILED, recipients=(EXPIRED,)))["Diagnostic-Code"] == "x-smtpd; no host can be reached"


def test_lines_of_a_reply_are_folded():
    assert only(FAILED)["Diagnostic-Code"] == "smtp; 550-5.1.1 No such user 550 5.1.1 (see RFC 5321)"


@pytest.mark.parametrize("action", Action)
def test_will_retry_until_is_said_of_what_is_delayed_only(action):
    told = only(replace(FAILED, recipients=(replace(DELAYED, action=action),)))
    assert ("Will-Retry-Until" in told) is (action is Action.DELAYED)


@pytest.mark.parametrize("action", Action)
def test_action_text_and_subject_agree(action):
    mail, text, (_, recipient), _ = parsed(compose(replace(FAILED, recipients=(replace(DONE, action=action),))))
    assert recipient["Action"] == action.value
    words = {
        Action.FAILED: "could not be delivered",
        Action.DELAYED: "delayed",
        Action.DELIVERED: "has been delivered",
        Action.RELAYED: "passed on",
        Action.EXPANDED: "several recipients",
    }
    assert words[action] in mail["Subject"]
    said = {**words, Action.DELAYED: "not been delivered yet"}
    assert said[action] in text.replace("\n", " ")


def test_several_recipients_are_all_in_text_and_fields():
    _, text, (_, *recipients), _ = parsed(compose(KINDS["failed-several"]))
    assert [one["Final-Recipient"] for one in recipients] == ["rfc822; Bob@far.test", "rfc822; eve@far.test"]
    assert "Bob@far.test" in text and "eve@far.test" in text


@pytest.mark.parametrize("status", ["", "5.01.1", "5.1", "3.1.1", "5.1.1 x", "5.1.1000", "٥.1.1", "5.1.1\nX: y"])
def test_what_is_no_status_becomes_a_general_one(status):
    assert only(replace(FAILED, recipients=(replace(REFUSED, status=status),)))["Status"] == "5.0.0"
    assert only(replace(FAILED, recipients=(replace(DELAYED, status=status),)))["Status"] == "4.0.0"
    assert only(replace(FAILED, recipients=(replace(DONE, action=Action.RELAYED, status=status),)))["Status"] == "2.0.0"


def test_the_header_names_sender_and_human():
    mail, *_ = parsed(compose(FAILED))
    assert mail["To"] == "amy@there.test"
    assert mail["From"] == "Mail Delivery System <MAILER-DAEMON@mx.here.test>"
    assert mail["Message-ID"] == "<1a2b3c4d.1@mx.here.test>" and mail["Date"].datetime.timestamp() == NOW


# -- the message ------------------------------------------------------------------------------------------------------


def test_a_plain_message_is_given_whole():
    *_, content = parsed(compose(FAILED))
    assert content.get_content_type() == "message/rfc822"
    assert b"\n\n" + CONTENT in compose(FAILED)


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: x\n\n" + b"x" * 999 + b"\n",
        b"Subject: x\n\ncaf\xc3\xa9\n",
        b"Subject: x\n\na\rb\n",
        b"Subject: x\n\na\0b\n",
        b"Subject: x\n\n" + b"x\n" * CONTENT_MAX,
    ],
)
def test_of_what_is_not_plain_or_too_large_the_header_is_given_and_that_is_said(content):
    _, text, _, part = parsed(compose(replace(FAILED, content=content)))
    assert part.get_content_type() == "text/rfc822-headers" and part.get_payload() == "Subject: x\n"
    assert "The header of your mail is enclosed, and not all of it." in text


def test_a_message_without_a_header_or_without_a_body():
    for content, given_ in ((b"\nbody\xff\n", ""), (b"Subject: x\n", "Subject: x\n"), (b"", "")):
        *_, part = parsed(compose(replace(FAILED, content=content, is_whole=False)))
        assert part.get_payload() == given_


def test_a_header_that_is_not_plain_is_encoded():
    header = b"Subject: caf\xe9\nX: a\rb\0c\n"
    *_, part = parsed(compose(replace(FAILED, content=header + b"\nx\n")))
    assert part.get_content_type() == "text/rfc822-headers" and part.get_payload(decode=True) == header


def test_a_long_header_is_cut_at_the_end_of_a_line():
    header = b"".join(b"X-%d: %b\n" % (number, b"x" * 90) for number in range(2000))
    *_, part = parsed(compose(replace(FAILED, content=header)))
    given_ = part.get_payload().encode()
    assert CONTENT_MAX - 100 < len(given_) <= CONTENT_MAX and header.startswith(given_) and given_.endswith(b"\n")


def test_an_international_notice_needs_nothing_but_its_recipient():
    notice = compose(INTERNATIONAL)
    header, _, body = notice.partition(b"\n\n")
    assert body.isascii()
    assert [line for line in header.decode().split("\n") if not line.isascii()] == ["To: <ämy@there.test>"]
    _, text, (_, recipient), _ = parsed(notice)
    assert recipient["Final-Recipient"] == "utf-8; jö@fär.test"
    assert recipient["Original-Recipient"] == "utf-8; jö@here.test"
    assert "jö@fär.test" in text
    assert raw_part(notice, 2) == ("message/global-headers", "Subject: Mittagessen für zwei\n".encode())


# -- what others say --------------------------------------------------------------------------------------------------

PIECES = ["\r", "\n", "\r\n", "\n\n", " ", "\0", "\x1b[2J", "Action: delivered", "--=_", "(", ")", '"', "\\", ";", "é"]
PIECES += ["\u2028", "\udc80", "x" * 1000, "Final-Recipient: rfc822; x@y", "=_97ed7e7e", "."]
HOSTILE = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@given(reason=HOSTILE, diagnostic=st.none() | HOSTILE, remote=st.none() | HOSTILE, envid=st.none() | HOSTILE)
@example("", "x" * 65536, "a\nb", "\n\nSubject: x")
@example("", "550 --\r\n\r\n--=_97ed7e7e61d5c6761d58e0bc0d9edaf1--\r\n", None, None)
def test_no_text_of_others_gets_out_of_its_field(reason, diagnostic, remote, envid):
    one = replace(REFUSED, reason=reason, diagnostic=diagnostic, remote=remote)
    notice = compose(replace(FAILED, recipients=(one, EXPIRED), envelope_id=envid))
    assert len(notice) < 6 * 4 * TEXT_MAX + len(CONTENT) + 4000
    _, text, (message, first, second), content = parsed(notice)
    wanted = {"Original-Recipient", "Final-Recipient", "Action", "Status", "Last-Attempt-Date"}
    assert wanted <= first.keys() <= {*wanted, "Remote-MTA", "Diagnostic-Code"}
    assert first["Action"] == "failed" and message.keys() <= {"Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"}
    assert second["Final-Recipient"] == "rfc822; eve@far.test"
    assert all(char.isprintable() or char == "\n" for char in text)
    assert content.get_content_type() == "message/rfc822"


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\r\n", b"\n")), st.booleans())
def test_no_content_gets_out_of_its_part(content, is_whole):
    hostile = content + b"\n--=_97ed7e7e61d5c6761d58e0bc0d9edaf1--\n\n"
    _, _, (_, recipient), _ = parsed(compose(replace(FAILED, content=hostile, is_whole=is_whole)))
    assert recipient["Action"] == "failed"


def test_a_content_that_holds_the_boundary_gets_another():
    first = re.search(rb'boundary="([^"]+)"', compose(FAILED)).group(1)
    content = CONTENT + b"--" + first + b"--\n"
    notice = compose(replace(FAILED, content=content))
    assert re.search(rb'boundary="([^"]+)"', notice).group(1) != first
    *_, part = parsed(notice)
    assert part.get_payload(0).get_content().endswith(f"--{first.decode()}--\n")


@given(st.text(), st.integers(10, 100))
def test_lines_lose_no_word(text, width):
    said = one_line(text)
    lines = lines_of(said, width)
    assert "".join(lines).replace(" ", "") == said.replace(" ", "")
    assert all(len(line) <= width or " " not in line for line in lines)


def test_time_is_linear_in_what_is_said():
    def seconds(size):
        one = replace(REFUSED, diagnostic="(" * size, reason="a " * size, remote="\n" * size)
        began = time.process_time()
        delivery_status(replace(FAILED, recipients=(one,) * 20))
        return time.process_time() - began

    assert seconds(1_000_000) < 50 * seconds(10_000) + 0.2


if __name__ == "__main__":
    for name, report in KINDS.items():
        (GOLDEN / f"{name}.eml").write_bytes(compose(report))
