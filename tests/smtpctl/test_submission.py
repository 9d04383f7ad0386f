"""What is said to the server, and what becomes of its answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl.submission import ConnectionLost, Submission, SubmissionMail, SubmissionRefused
from tests.smtpctl.server import Server

AMY, BOB = "amy@here.test", "bob@here.test"
CONTENT = [b"Subject: x\n\n", b".hello\n.\n", b"end"]


def talk(mail=None, answers=None, content=CONTENT):
    """The server that it has talked to, and what has been shown."""
    server = Server(answers or {})
    shown = []
    try:
        with server.sock as sock:
            Submission(sock, shown.append).send(mail or SubmissionMail(AMY, (BOB,), 6), content)
    finally:
        server.end()
    return server, shown


def test_a_mail_is_submitted():
    server, _ = talk()
    mail = "MAIL FROM:<amy@here.test> SIZE=6"
    assert server.said == ["EHLO localhost", mail, "RCPT TO:<bob@here.test>", "DATA", "QUIT"]
    assert server.content == b"Subject: x\r\n\r\n..hello\r\n..\r\nend\r\n"


def test_parameters_are_sent_where_they_are_offered():
    mail = SubmissionMail(AMY, (BOB,), 6, True, "HDRS", "a+b=c d", "SUCCESS,DELAY")
    server, _ = talk(mail)
    assert server.said[1] == "MAIL FROM:<amy@here.test> SIZE=6 BODY=8BITMIME RET=HDRS ENVID=a+2Bb+3Dc+20d"
    assert server.said[2] == "RCPT TO:<bob@here.test> NOTIFY=SUCCESS,DELAY"
    server, _ = talk(mail, {"EHLO": "250 mx.test"})
    assert server.said[1:3] == ["MAIL FROM:<amy@here.test>", "RCPT TO:<bob@here.test>"]


def test_addresses_beyond_ascii_need_smtputf8():
    server, _ = talk(SubmissionMail("", ("jürgen@bücher.test",), 6))
    assert server.said[1:3] == ["MAIL FROM:<> SIZE=6 SMTPUTF8", "RCPT TO:<jürgen@bücher.test>"]


def test_the_dialogue_is_shown_and_prints():
    _, shown = talk(answers={"MAIL": "250-2.1.0 \x1b[31mred\r\n250 2.1.0 ok"})
    assert shown[:1] == ["<<< 220 mx.test"]
    assert shown[7:10] == [">>> MAIL FROM:<amy@here.test> SIZE=6", "<<< 250 2.1.0 ?[31mred", "<<< 250 2.1.0 ok"]


@pytest.mark.parametrize("answer, temporary", [("550 5.1.1 nobody", False), ("450 4.2.1 later", True)])
def test_one_bad_recipient_keeps_the_mail_from_all_and_each_is_named(answer, temporary):
    bad = tuple(f"bad@{number}.test" for number in range(2))
    with pytest.raises(SubmissionRefused) as refused:
        talk(SubmissionMail(AMY, (BOB, *bad), 6), {"RCPT TO:<bad": answer})
    assert refused.value.texts == (f"bad@0.test: {answer}", f"bad@1.test: {answer}", "so it was not sent to any")
    assert refused.value.temporary is temporary


@pytest.mark.parametrize(
    "answers, temporary, said",
    [
        ({"": "554 no"}, False, "command failed: 554 no"),
        ({"": "421 4.3.2 full"}, True, "command failed: 421 4.3.2 full"),
        ({"EHLO": "500 what"}, False, "command failed: 500 what"),
        ({"MAIL": "452 4.3.1 no room"}, True, "command failed: 452 4.3.1 no room"),
        ({"RCPT": "421 4.3.2 bye"}, True, "bob@here.test: 421 4.3.2 bye"),
        ({"DATA": "554 no"}, False, "command failed: 554 no"),
        ({".": "552 5.3.4 too big"}, False, "command failed: 552 5.3.4 too big"),
    ],
)
def test_a_refusal_is_reported_in_the_server_s_words(answers, temporary, said):
    with pytest.raises(SubmissionRefused) as refused:
        talk(answers=answers)
    assert (refused.value.texts, refused.value.temporary) == ((said,), temporary)


@pytest.mark.parametrize(
    "answers",
    [{"": ""}, {"EHLO": "nonsense"}, {"MAIL": "250\0 ok"}, {"RCPT": "250-" + "x" * 5000}, {"DATA": ""}, {".": ""}],
)
def test_a_server_that_sends_no_smtp_or_closes_is_lost(answers):
    with pytest.raises(ConnectionLost):
        talk(answers=answers)


def test_a_server_that_refuses_while_it_is_sent_content_is_heard():
    with pytest.raises(SubmissionRefused, match="554 enough"):
        talk(answers={"DATA": "354 go\r\n554 enough", ".": ""}, content=[b"x" * 65536] * 100)


def test_events_after_the_last_250_do_not_matter():
    server, _ = talk(answers={"QUIT": ""})
    assert server.content


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=20).map(lambda text: text.decode("latin-1")), max_size=4))
def test_a_server_may_answer_anything(garbage):
    words = dict(zip(("", "EHLO", "MAIL", "RCPT"), garbage, strict=False))
    try:
        talk(answers={**words, "RCPT": ""})
    except (ConnectionLost, SubmissionRefused):
        pass
