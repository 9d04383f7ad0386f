"""What a dialogue cannot say: what is asked, in which order, and what happens when an answer comes too late."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpd.envelope import MailParameters, Notify, Origin
from smtpd.slice import Auth, Limits
from smtpd.smtp.action import Close, DropMessage, Log, Say
from smtpd.smtp.question import (
    MessageIdQuestion,
    PauseQuestion,
    RecipientAnswer,
    RecipientQuestion,
    RefusedAnswer,
    StoreQuestion,
    TlsAnswer,
    TlsQuestion,
)
from smtpd.smtp.session import UNPRODUCTIVE_MAX, Client
from smtpd.smtp.state import State
from tests.smtp.player import FACTS, FIRST_ID, LISTENER, NOON, Conversation

MAIL = b"MAIL FROM:<amy@there.test>\r\n"
RCPT = b"RCPT TO:<bob@here.test>\r\n"


@pytest.fixture
def talk():
    talk = Conversation()
    talk.feed(b"EHLO relay.test\r\n")
    return talk


def in_data(talk: Conversation) -> Conversation:
    talk.feed(MAIL + RCPT + b"DATA\r\n")
    talk.answer_all()
    return talk


def last_line(talk: Conversation) -> bytes:
    return talk.said.splitlines()[-1]


def test_what_is_asked_of_the_others(talk):
    in_data(talk).feed(b"A: b\r\n.\r\n")
    talk.answer_all()
    origin = Origin("amy@there.test", "192.0.2.1", "mail.there.test", "relay.test", "mx.here.test", "in", True)
    assert talk.asked == [
        MessageIdQuestion("192.0.2.1", ""),
        RecipientQuestion(FIRST_ID, origin, "bob@here.test", MailParameters(), Notify(0), ""),
        StoreQuestion(FIRST_ID, envelopes=1, size=len(talk.stored[FIRST_ID])),
    ]


def test_the_trace_line_stands_on_top(talk):
    in_data(talk).feed(b"A: b\r\n.\r\n")
    talk.answer_all()
    assert talk.stored[FIRST_ID] == (
        b"Received: from relay.test (mail.there.test [192.0.2.1])\n"
        b"\tby mx.here.test (smtpd) with ESMTP id 1a2b3c01\n"
        b"\tfor <bob@here.test>;\n"
        b"\tSat, 21 Nov 2026 06:50:23 +0000 (UTC)\n"
        b"A: b\n"
    )


def test_two_recipients_do_not_see_each_other_in_the_trace_line(talk):
    talk.feed(MAIL + RCPT + b"RCPT TO:<carl@here.test>\r\nDATA\r\n")
    talk.answer_all()
    talk.feed(b".\r\n")
    talk.answer_all()
    assert b"for <" not in talk.stored[FIRST_ID]


def test_a_utf8_message_says_so_in_the_trace_line(talk):
    talk.feed("MAIL FROM:<ämy@thére.test> SMTPUTF8\r\nRCPT TO:<böb@here.test>\r\nDATA\r\n".encode())
    talk.answer_all()
    talk.feed(b".\r\n")
    talk.answer_all()
    assert "with UTF8SMTP id 1a2b3c01\n\tfor <böb@here.test>;\n".encode() in talk.stored[FIRST_ID]
    assert talk.asked[1].origin.sender == "ämy@thére.test"
    assert talk.asked[1].terms.utf8


def test_an_address_without_a_domain_gets_ours(talk):
    talk.feed(b"MAIL FROM:<amy>\r\nRCPT TO:<postmaster>\r\n")
    talk.answer_all()
    assert talk.asked[1].origin.sender == "amy@mx.here.test"
    assert talk.asked[1].recipient == "postmaster@mx.here.test"


def test_the_null_sender_gets_no_domain(talk):
    talk.feed(b"MAIL FROM:<>\r\n" + RCPT)
    talk.answer_all()
    assert talk.asked[1].origin.sender == ""


def test_a_listener_without_a_name_has_the_servers():
    talk = Conversation(listener=LISTENER.__class__(0, "192.0.2.25", 25, "", ""))
    assert talk.said == b"220 here.test ESMTP smtpd\r\n"


def test_a_local_program_has_no_address():
    talk = Conversation(client=Client("", 0, "localhost", local=True))
    talk.feed(b"EHLO localhost\r\n")
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert b"Hello localhost [local], pleased" in talk.said
    assert b"from localhost (localhost [local])\n" in talk.stored[FIRST_ID]
    assert talk.logged[0] == "connected address=local host=localhost"


def test_an_address_of_ipv6_is_greeted_as_the_trace_line_has_it():
    talk = Conversation(client=Client("2001:db8::1", 40025))
    talk.feed(b"HELO relay.test\r\n")
    assert last_line(talk) == b"250 mx.here.test Hello relay.test [IPv6:2001:db8::1], pleased to meet you"


# Groups


def test_a_group_is_answered_in_one_segment(talk):
    before = len(talk.said)
    talk.feed(MAIL + RCPT + RCPT + b"DATA\r\n")
    for _ in range(2):
        talk.answer()
        assert len(talk.said) == before
    talk.answer()
    assert [line[:3] for line in talk.said[before:].splitlines()] == [b"250", b"250", b"250", b"354"]


def test_no_answer_waits_for_a_command_that_is_not_there_yet(talk):
    before = len(talk.said)
    talk.feed(MAIL + RCPT + b"DA")
    talk.answer()
    talk.answer()
    assert talk.said[before:].count(b"\r\n") == 2


def test_the_word_that_a_mail_is_stored_waits_for_nothing(talk):
    in_data(talk).feed(b".\r\nRSET\r\n" + MAIL + RCPT)
    talk.answer()
    assert b"1a2b3c01 Message accepted" in talk.said
    assert isinstance(talk.open, MessageIdQuestion)


def test_nothing_is_read_while_another_process_decides(talk):
    talk.feed(MAIL)
    assert talk.session.waiting
    talk.feed(RCPT + b"QUIT\r\n")
    assert talk.asked == [MessageIdQuestion("192.0.2.1", "")]
    assert not talk.closed


def test_nothing_may_follow_data_before_its_answer(talk):
    talk.feed(MAIL + RCPT + b"DATA\r\nA: b\r\n\r\n.\r\n")
    talk.answer_all()
    assert last_line(talk) == b"503 5.5.1 Nothing may follow DATA before its answer"
    assert talk.closed == "refused"
    assert talk.forgotten == {FIRST_ID: 1}


def test_content_is_never_taken_for_commands_when_data_is_refused(talk):
    talk.feed(MAIL + b"DATA\r\nMAIL FROM:<eve@there.test>\r\n.\r\n")
    talk.answer_all()
    assert talk.closed == "refused"
    assert talk.asked == [MessageIdQuestion("192.0.2.1", "")]


# Behind STARTTLS, and not in front of it


def encrypting() -> Conversation:
    talk = Conversation({"tls": "tls"})
    talk.feed(b"EHLO relay.test\r\n")
    talk.feed(b"STARTTLS\r\n")
    assert isinstance(talk.open, TlsQuestion)
    return talk


def test_starttls_is_answered_in_the_clear():
    assert last_line(encrypting()) == b"220 2.0.0 Ready to start TLS"


def test_plaintext_behind_starttls_in_the_same_segment_ends_the_session():
    talk = Conversation({"tls": "tls"})
    talk.feed(b"EHLO relay.test\r\nSTARTTLS\r\nMAIL FROM:<eve@there.test>\r\n")
    assert last_line(talk) == b"503 5.5.1 Nothing may follow STARTTLS before its answer"
    assert talk.closed == "refused" and talk.asked == []


def test_half_a_command_behind_starttls_ends_the_session():
    talk = Conversation({"tls": "tls"})
    talk.feed(b"STARTTLS\r\nMA")
    assert talk.closed == "refused" and talk.asked == []


def test_plaintext_before_the_handshake_is_thrown_away():
    talk = encrypting()
    before = talk.said
    talk.feed(b"EHLO eve.test\r\nMAIL FROM:<eve@there.test>\r\nRS")
    talk.answer(TlsAnswer(FACTS))
    talk.feed(b"NOOP\r\n")
    assert talk.said == before + b"250 2.0.0 Ok\r\n"


def test_after_starttls_the_client_has_not_said_hello():
    talk = encrypting()
    talk.answer_all()
    assert (talk.session.state, talk.session.helo, talk.session.facts) == (State.FRESH, "", FACTS)


def test_a_handshake_that_fails_ends_the_session():
    talk = encrypting()
    talk.obey(talk.session.aborted("tls-accept-failed"))
    assert talk.logged[-1] == "disconnected reason=tls-accept-failed"
    assert talk.session.closed and talk.session.question is None


def test_close_notify_in_the_middle_of_a_chunk_takes_the_message_back(talk):
    talk.feed(MAIL + RCPT + b"BDAT 1000 LAST\r\nA: b\r\n\r\nhalf of it")
    talk.answer_all()
    talk.do("abort")
    assert talk.forgotten == {FIRST_ID: 1} and not talk.stored


# AUTH

PLAIN = b"AUTH PLAIN AGFteQBzZWNyZXQ=\r\n"
WRONG = b"AUTH PLAIN AGFteQB3cm9uZw==\r\n"


def submitting(options: dict[str, str] | None = None) -> Conversation:
    talk = Conversation({"tls": "smtps", "auth": "auth-optional", "received_auth": ""} | (options or {}))
    talk.feed(b"EHLO relay.test\r\n")
    return talk


def test_the_authenticated_user_is_in_the_origin_and_in_the_trace_line():
    talk = submitting()
    talk.feed(PLAIN)
    talk.answer_all()
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert talk.asked[1] == MessageIdQuestion("192.0.2.1", "amy")
    assert (talk.asked[2].origin.user, talk.asked[2].origin.tls) == ("amy", True)
    assert (
        b" with ESMTPSA id 1a2b3c01 (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO) auth=yes user=amy\n"
        in talk.stored[FIRST_ID]
    )


@pytest.mark.parametrize("verified, word", [(True, b":256:YES)"), (False, b":256:NO)")])
def test_whether_the_client_has_shown_a_good_certificate_is_in_the_trace_line(verified, word):
    talk = encrypting()
    talk.answer(TlsAnswer(FACTS._replace(verified=verified)))
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert word in talk.stored[FIRST_ID]


def test_a_user_that_has_failed_to_log_in_is_in_no_trace_line():
    talk = submitting()
    talk.feed(WRONG)
    talk.answer_all()
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert talk.asked[2].origin.user == ""
    assert b" with ESMTPS id " in talk.stored[FIRST_ID]
    assert b" auth=no\n" in talk.stored[FIRST_ID] and b"amy\n" not in talk.stored[FIRST_ID]


@pytest.mark.parametrize(
    "ours, theirs, added",
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.1.2.3", True),
        ("127.0.1.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("127.0.0.1", "192.0.2.1", False),  # a proxy said so
        ("0.0.0.0", "127.0.0.1", False),
        ("192.0.2.25", "192.0.2.1", False),
    ],
)
def test_a_program_of_this_host_gets_what_its_message_lacks_where_it_is_among_its_own(ours, theirs, added):
    talk = Conversation(client=Client(theirs, 40025), listener=replace(LISTENER, address=ours))
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b"\r\nHello\r\n.\r\n")
    talk.answer_all()
    assert (b"\nDate: " in talk.stored[FIRST_ID], b"\nMessage-ID: <1a2b3c01" in talk.stored[FIRST_ID]) == (added, added)


@pytest.mark.parametrize("port, added", [(25, False), (465, True), (587, True), (2525, False)])
def test_a_submission_gets_what_it_lacks_by_its_port(port, added):
    talk = Conversation({"port": str(port)})
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b"\r\nHello\r\n.\r\n")
    talk.answer_all()
    assert (b"\nDate: " in talk.stored[FIRST_ID], b"\nMessage-ID: <1a2b3c01" in talk.stored[FIRST_ID]) == (added, added)


def test_an_authenticated_client_gets_missing_fields_at_any_port():
    talk = submitting()
    talk.feed(PLAIN)
    talk.answer_all()
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert b"\nDate: " in talk.stored[FIRST_ID] and b"\nMessage-ID: <" in talk.stored[FIRST_ID]


def local_program(listener=LISTENER) -> Conversation:
    talk = Conversation(client=Client("", 0, "localhost", local=True), listener=listener)
    talk.feed(b"EHLO localhost\r\n")
    return talk


def test_a_local_program_gets_what_its_message_lacks():
    talk = in_data(local_program())
    talk.feed(b".\r\n")
    talk.answer_all()
    assert b"\nDate: " in talk.stored[FIRST_ID] and b"\nMessage-ID: <" in talk.stored[FIRST_ID]


def test_a_local_program_need_not_authenticate_and_may_ask_for_more():
    talk = local_program(replace(LISTENER, auth=Auth.REQUIRED))
    talk.feed(b"MAIL FROM:<amy@here.test> MT-PRIORITY=1 HOLDFOR=60 AUTH=bob@here.test\r\n" + RCPT)
    talk.answer_all()
    assert talk.asked[1].terms == MailParameters(submitter="bob@here.test", priority=1, release=NOON + 60)


@pytest.mark.parametrize(
    "login, options, kept", [(PLAIN, {}, True), (b"", {"masquerade": ""}, True), (PLAIN, {"masquerade": ""}, False)]
)
def test_masquerade_is_for_authenticated_clients_of_listeners_that_have_it(login, options, kept):
    talk = submitting({"senders": ""} | options)
    talk.feed(login)
    talk.answer_all()
    in_data(talk).feed(b"From: root@here.test\r\n\r\n.\r\n")
    talk.answer_all()
    assert (b"\nFrom: root@here.test\n" in talk.stored[FIRST_ID]) == kept


def test_a_priority_above_zero_needs_authentication(talk):
    talk.feed(b"MAIL FROM:<amy@there.test> MT-PRIORITY=1\r\n")
    talk.answer_all()
    assert last_line(talk).startswith(b"250 2.3.6 ")


def test_mask_src_hides_where_a_message_comes_from():
    talk = Conversation({"mask_src": ""})
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b".\r\n")
    talk.answer_all()
    assert talk.stored[FIRST_ID].startswith(b"Received: by mx.here.test (smtpd) with ESMTP id 1a2b3c01\n")


def test_a_failed_login_is_counted_once():
    talk = submitting()
    talk.feed(WRONG)
    talk.answer_all()
    assert talk.failures == ["192.0.2.1"]


@pytest.mark.parametrize(
    "command", [PLAIN, WRONG, b" AUTH PLAIN AGFteQBzZWNyZXQ=\r\n", b"AUTHPLAIN AGFteQBzZWNyZXQ=\r\n"]
)
@pytest.mark.parametrize("tls", ["tls", "smtps"])
def test_no_secret_is_logged(command, tls):
    talk = Conversation({"tls": tls, "auth": "auth"})
    for line in (command, b"EHLO relay.test\r\n", command, b"AUTH LOGIN\r\n", b"YW15\r\n", b"c2VjcmV0\r\n", command):
        talk.feed(line)
        talk.answer_all()
    logged = "\n".join(talk.logged)
    assert "failed-command" in logged
    assert not any(word in logged for word in ("AGFt", "c2VjcmV0", "secret"))


def test_no_secret_is_in_the_repr_of_a_question():
    talk = submitting()
    talk.feed(PLAIN)
    assert "secret" not in repr(talk.open)


def test_a_response_may_be_longer_than_a_command():
    talk = submitting()
    talk.feed(b"AUTH PLAIN\r\n" + b"A" * 12288 + b"\r\n")
    assert last_line(talk).startswith(b"501 5.5.2") and not talk.closed
    talk.feed(b"AUTH PLAIN\r\n" + b"A" * 12290)
    assert last_line(talk) == b"500 5.5.6 Line too long"
    assert talk.closed == "bad-input"


def test_the_failure_that_is_one_too_many_is_counted_as_well():
    talk = submitting()
    for _ in range(4):
        talk.feed(WRONG)
        talk.answer_all()
    assert talk.closed and talk.failures == ["192.0.2.1"] * 4


def test_future_release_and_submitter_need_authentication():
    asked = b"MAIL FROM:<amy@there.test> AUTH=bob@there.test MT-PRIORITY=5 HOLDFOR=60\r\n"
    talk = submitting()
    talk.feed(asked.replace(b" HOLDFOR=60", b"") + RCPT + b"RSET\r\n" + PLAIN)
    talk.answer_all()
    talk.feed(asked + RCPT)
    talk.answer_all()
    first, second = (question.terms for question in talk.asked if isinstance(question, RecipientQuestion))
    assert first == MailParameters(submitter="<>")
    assert second == MailParameters(submitter="bob@there.test", priority=5, release=NOON + 60)


def test_each_recipient_has_its_own_notify_and_orcpt(talk):
    talk.feed(MAIL + b"RCPT TO:<bob@here.test> NOTIFY=NEVER ORCPT=rfc822;x\r\n" + RCPT)
    talk.answer_all()
    assert [(question.notify, question.original) for question in talk.asked[1:]] == [
        (Notify.NEVER, "rfc822;x"),
        (Notify(0), ""),
    ]


def test_the_clock_goes_on_with_the_session():
    talk = submitting()
    talk.feed(PLAIN)
    talk.answer_all()
    talk.do("tick 100")
    talk.feed(b"MAIL FROM:<amy@there.test> BY=60;R\r\n" + RCPT)
    talk.answer_all()
    assert talk.asked[-1].terms.deliver_by == NOON + 160


# XCLIENT


def test_what_xclient_does_not_say_stays_as_it_was():
    talk = Conversation({"xclient": ""})
    met = []
    for said in (
        b"NAME=a.test ADDR=198.51.100.7 PORT=4711 LOGIN=amy",
        b"HELO=b.test",
        b"NAME=c.test",
        b"PORT=4712",
        b"LOGIN=bob",
        b"LOGIN=[UNAVAILABLE]",
        b"LOGIN=carl",
        b"ADDR=198.51.100.8",
    ):
        talk.feed(b"XCLIENT " + said + b"\r\n")
        assert last_line(talk).startswith(b"220 ")
        met.append((*talk.session.client[:3], talk.session.user))
    assert met == [
        ("198.51.100.7", 4711, "a.test", "amy"),
        ("198.51.100.7", 4711, "a.test", "amy"),
        ("198.51.100.7", 4711, "c.test", "amy"),
        ("198.51.100.7", 4712, "c.test", "amy"),
        ("198.51.100.7", 4712, "c.test", "bob"),
        ("198.51.100.7", 4712, "c.test", ""),
        ("198.51.100.7", 4712, "c.test", "carl"),
        ("198.51.100.8", 0, "<unknown>", ""),
    ]


def test_a_local_program_that_speaks_for_another_host_is_not_local_any_more():
    talk = Conversation({"xclient": ""}, client=Client("", 0, "localhost", local=True))
    talk.feed(b"XCLIENT HELO=a.test\r\n")
    assert talk.session.client.local
    talk.feed(b"XCLIENT ADDR=198.51.100.7\r\n")
    assert not talk.session.client.local


# Clients that are refused or slowed down


def test_a_client_that_talks_before_the_banner_is_refused():
    talk = Conversation(early=True)
    assert talk.logged[1] == 'bad-input result="554 5.5.1 You spoke before the banner"'
    assert talk.said.startswith(b"554 5.5.1 ")
    assert talk.closed == "early-talker"
    assert talk.failures == ["192.0.2.1"]


def test_answers_to_many_errors_are_kept_back():
    talk = Conversation({"tarpit_after": "2", "tarpit": "7"})
    talk.feed(b"WHAT\r\n" * 2)
    assert talk.said.count(b"500 ") == 2 and not talk.open
    talk.feed(b"WHAT\r\nNOOP\r\n")
    assert talk.open == PauseQuestion(7) and talk.session.waiting
    assert talk.said.count(b"500 ") == 2
    talk.answer()
    assert talk.said.endswith(b"500 5.5.1 Command unrecognized\r\n250 2.0.0 Ok\r\n")


def test_what_was_said_before_does_not_wait_with_an_answer_that_is_kept_back():
    talk = Conversation({"tarpit_after": "0"})
    talk.feed(b"HELO relay.test\r\n" + MAIL + b"RCPT\r\nNOOP\r\n")
    talk.answer()
    assert isinstance(talk.open, PauseQuestion)
    assert last_line(talk) == b"250 2.0.0 Ok"


def test_the_client_leaves_while_its_answer_is_kept_back():
    talk = Conversation({"tarpit_after": "0"})
    talk.feed(b"HELO relay.test\r\n" + MAIL)
    talk.answer()
    talk.feed(b"WHAT\r\n")
    talk.do("abort")
    assert talk.forgotten == {FIRST_ID: 0}
    talk.answer()
    assert talk.session.closed


def test_errors_are_counted_for_the_address_and_temporary_refusals_are_not(talk):
    talk.feed(b"WHAT\r\n" + MAIL + b"RCPT TO:<later@here.test>\r\nRCPT TO:<nobody@here.test>\r\nNOOP\n")
    talk.answer_all()
    assert talk.failures == ["192.0.2.1"] * 3


def test_no_failure_of_a_program_of_this_host_is_counted():
    talk = Conversation(client=Client("", 0, "localhost", local=True))
    talk.feed(b"WHAT\r\n")
    assert talk.failures == []


def test_an_expelled_client_hears_that_its_message_is_stored(talk):
    in_data(talk).feed(b".\r\n")
    talk.do("expel")
    talk.answer()
    assert [line[:9] for line in talk.said.splitlines()[-2:]] == [b"250 2.0.0", b"421 4.7.0"]
    assert talk.closed == "too-many-errors"


# Too late


def test_content_is_taken_back_when_the_client_leaves_before_the_final_dot(talk):
    in_data(talk).feed(b"A: b\r\n.\r")
    talk.do("abort")
    assert talk.forgotten == {FIRST_ID: 1}
    assert "disconnected reason=disconnect" in talk.logged


def test_a_message_id_that_comes_after_the_client_left_is_given_back(talk):
    talk.feed(MAIL)
    talk.do("abort")
    assert talk.session.closed and talk.session.question is not None
    talk.answer()
    assert talk.forgotten == {FIRST_ID: 0}


def test_envelopes_that_come_after_the_client_left_are_counted(talk):
    talk.feed(MAIL + RCPT + b"RCPT TO:<team@here.test>\r\n")
    talk.answer()
    talk.answer()
    talk.do("abort")
    assert talk.forgotten == {}
    talk.answer()
    assert talk.forgotten == {FIRST_ID: 4}


def test_what_is_being_stored_when_the_client_leaves_stays(talk):
    in_data(talk).feed(b".\r\n")
    talk.do("abort")
    assert talk.forgotten == {}
    talk.answer()
    assert list(talk.stored) == [FIRST_ID]
    assert any(line.startswith("message msgid=1a2b3c01") for line in talk.logged)


def test_what_could_not_be_stored_after_the_client_left_is_forgotten(talk):
    in_data(talk).feed(b".\r\n")
    talk.do("abort")
    talk.answer(RefusedAnswer(452, "4.3.1", "disk full"))
    assert talk.forgotten == {FIRST_ID: 1}


def test_a_stop_lets_a_message_be_stored_first(talk):
    in_data(talk).feed(b".\r\n")
    talk.do("shutdown")
    assert not talk.closed
    talk.answer()
    assert [line[:3] for line in talk.said.splitlines()[-2:]] == [b"250", b"421"]
    assert talk.closed == "shutdown"


def test_a_stop_in_the_middle_of_a_recipient(talk):
    talk.feed(MAIL + RCPT)
    talk.answer()
    talk.do("shutdown")
    assert talk.closed == "shutdown"
    assert last_line(talk).startswith(b"421 4.3.2")
    talk.closed = ""  # the driver goes on to give answers
    talk.answer()
    assert talk.forgotten == {FIRST_ID: 1}


@pytest.mark.parametrize("event", ["shutdown", "expel", "abort", "tick 100000"])
def test_nothing_more_is_said_to_a_client_that_is_gone(talk, event):
    talk.feed(b"QUIT\r\n")
    said = talk.said
    talk.closed = ""  # the driver does not know yet
    talk.do(event)
    assert (talk.said, talk.closed) == (said, "")


def test_the_time_of_our_own_processes_is_no_silence_of_the_client(talk):
    talk.feed(MAIL)
    talk.do("tick 100000")
    assert not talk.closed
    talk.answer()
    talk.do("tick 299")
    assert talk.closed == "timeout" and b"lasted too long" in last_line(talk)


# Trouble of our own


def test_an_answer_to_another_question_is_an_error_of_our_own(talk):
    talk.feed(MAIL)
    with pytest.raises(TypeError):
        talk.answer(RecipientAnswer(1))
    actions = talk.session.failed()
    assert isinstance(actions[0], Say) and actions[0].data.startswith(b"421 4.3.0")
    assert actions[-1] == Close("internal-error")


def test_a_transition_that_is_not_in_the_table_is_an_error_of_our_own(talk):
    with pytest.raises(RuntimeError):
        talk.session.enter(State.DATA)
    assert talk.session.state is State.READY


def test_a_failure_in_the_middle_of_a_mail_takes_it_back(talk):
    in_data(talk)
    actions = talk.session.failed()
    assert DropMessage(FIRST_ID, 1) in actions
    assert Log("disconnected", {"reason": "internal-error"}) in actions


def test_a_failure_before_a_question_is_asked_leaves_nothing_to_be_answered(talk):
    in_data(talk).session.ask(PauseQuestion(1), print)  # and here it raises
    talk.obey(talk.session.failed())
    assert talk.closed == "internal-error" and talk.session.question is None
    assert talk.forgotten == {FIRST_ID: 1} and talk.open is None


def test_a_failure_of_what_is_over_says_nothing_more(talk):
    talk.do("abort")
    assert talk.session.failed() == [Close("internal-error")]


# Limits


def test_unproductive_commands_without_end(talk):
    talk.feed(b"NOOP\r\nRSET\r\n" * 1000)
    assert talk.closed == "too-many-errors"
    assert talk.said.count(b"250 2.0.0 Ok") == UNPRODUCTIVE_MAX - 1 + Limits().max_errors


def test_unproductive_commands_between_mails_are_free(talk):
    for _ in range(10):
        talk.feed(b"NOOP\r\n" * 50)
        in_data(talk).feed(b".\r\n")
        talk.answer_all()
    assert not talk.closed


def test_as_many_mails_as_the_limit_says():
    talk = Conversation({"max_mails": "3"})
    talk.feed(b"EHLO relay.test\r\n")
    for _ in range(3):
        in_data(talk).feed(b".\r\n")
        talk.answer_all()
    talk.feed(MAIL)
    assert last_line(talk).startswith(b"452 4.5.3 ") and len(talk.stored) == 3


def test_recipients_are_no_unproductive_commands(talk):
    talk.feed(MAIL + RCPT * (UNPRODUCTIVE_MAX + Limits().max_errors + 1))
    talk.answer_all()
    assert not talk.closed and last_line(talk).startswith(b"250 2.1.5")


def test_no_tarpit_no_wait():
    talk = Conversation({"tarpit": "0", "tarpit_after": "0"})
    talk.feed(b"WHAT\r\n")
    assert last_line(talk).startswith(b"500 ") and not talk.open


def test_a_header_without_end_is_too_large():
    talk = Conversation({"size": "9999999"})
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b"A: b\r\n" * 300_000 + b".\r\n")
    assert last_line(talk).startswith(b"552 5.3.4 ") and not talk.closed


def test_temporary_refusals_without_end():
    talk = Conversation({"max_mails": "0"})
    talk.feed(b"HELO relay.test\r\n" + MAIL * 1000)
    assert talk.closed == "too-many-errors"


def test_a_session_holds_no_content(talk):
    in_data(talk)
    for _ in range(1000):
        talk.feed(b"x" * 60 + b"\r\n")
    assert len(talk.session.lines.take_rest()) == 0


@pytest.mark.parametrize("count, reply", [(99, b"250 2.0.0"), (100, b"500 5.4.6")])
def test_the_hundredth_received_is_a_loop(count, reply):
    talk = Conversation({"size": "100000"})
    talk.feed(b"EHLO relay.test\r\n")
    in_data(talk).feed(b"Received: from somewhere\r\n" * count + b"\r\n.\r\n")
    talk.answer_all()
    assert last_line(talk).startswith(reply)
    talk.feed(MAIL)
    assert talk.session.waiting  # and the session goes on


def test_an_endless_command_ends_the_session(talk):
    talk.feed(b"NOOP " + b"x" * 2042 + b"\r\n")
    assert last_line(talk) == b"250 2.0.0 Ok"
    talk.feed(b"NOOP " + b"x" * 2044)
    assert last_line(talk) == b"500 5.5.2 Line too long"
    assert talk.closed == "bad-input"


def test_an_endless_line_of_content_ends_the_session(talk):
    in_data(talk).feed(b"A: b\r\n\r\n" + b"x" * 65600)
    assert last_line(talk) == b"500 5.5.2 Line too long"
    assert talk.closed == "bad-input"
    assert talk.forgotten == {FIRST_ID: 1}


def test_a_long_name_makes_no_long_reply(talk):
    talk.feed(b"EHLO " + b".".join([b"a" * 60] * 4) + b"\r\n" + b"EHLO " + b"a" * 2000 + b"\r\n")
    assert all(len(line) <= 510 for line in talk.said.split(b"\r\n"))


def test_a_reply_of_another_process_cannot_begin_a_second_one(talk):
    talk.feed(MAIL + RCPT)
    talk.answer()
    talk.answer(RefusedAnswer(550, "5.1.1", "no\r\n250 2.0.0 yes\0\x1b[2J " + "é" * 5000))
    assert last_line(talk).startswith(b"550 5.1.1 no??250 2.0.0 yes??[2J ?????")
    assert len(last_line(talk)) == 510


REPLY = re.compile(r"(?:354 |([245])\d\d[ -]\1\.\d{1,3}\.\d{1,3} )[ -~]+")  # RFC 2034 4, but for banner and EHLO

WORDS = st.sampled_from(
    [
        b"EHLO a.test\r\n",
        b"HELO a.test\r\n",
        MAIL,
        b"MAIL FROM:<>\r\n",
        RCPT,
        b"RCPT TO:<nobody@here.test>\r\n",
        b"RCPT TO:<gone@here.test>\r\n",
        b"DATA\r\n",
        b"A: b\r\n\r\ntext\r\n.\r\n",
        b".\r\n",
        b" x\r\n.\r\n",
        b"BDAT 6\r\nA: b\r\n",
        b"BDAT 8 LAST\r\n\r\n.\r\n.\r\n",
        b"BDAT 100 LAST\r\n",
        b"MAIL FROM:<amy@there.test> BODY=BINARYMIME MT-PRIORITY=3\r\n",
        b"AUTH PLAIN AGFteQBzZWNyZXQ=\r\n",
        b"AUTH LOGIN\r\n",
        b"c2VjcmV0\r\n",
        b"STARTTLS\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"\r\n",
        b"\n",
        b"A: b\r\n" * 300 + b".\r\n",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=30), st.data())
def test_whatever_comes_each_mail_is_stored_or_forgotten(words, data):
    """The checks are those of Conversation: one question at a time, nothing after Close, no mail in between."""
    talk = Conversation({"tls": data.draw(st.sampled_from(["tls", "smtps"])), "auth": "auth-optional"})
    for word in words:
        if talk.closed:
            break
        talk.feed(word)
        if data.draw(st.booleans()):
            talk.answer_all()
    talk.end()


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=20))
def test_every_reply_is_a_reply(words):
    talk = Conversation()
    for word in words:
        if talk.closed:
            break
        talk.feed(word)
        talk.answer_all()
    for line in talk.said.decode("ascii").split("\r\n")[:-1]:
        assert REPLY.fullmatch(line) or line.startswith(("220 ", "250-", "250 mx.here.test Hello ", "250 HELP", "334 "))


def test_no_mail_is_released_before_its_last_second_is_over():
    """A session begins, and commands come, in the middle of seconds; what is kept are whole ones."""
    conversation = Conversation({"auth": "auth-optional"})
    conversation.now += 2.25
    conversation.feed(b"EHLO relay.test\r\n")
    assert conversation.session.date == NOON + 3


def in_mail(talk: Conversation) -> Conversation:
    talk.feed(b"EHLO relay.test\r\nMAIL FROM:<amy@there.test>\r\nRCPT TO:<bob@here.test>\r\n")
    talk.answer_all()
    return talk


def test_chunks_of_nothing_do_not_come_without_end(talk):
    """Of a quarter of a megabyte of them, one read of a socket, the loop had half a second."""
    in_mail(talk).feed(b"BDAT 0\r\n" * 1000)
    assert talk.closed == "too-many-errors" and last_line(talk).startswith(b"421 4.7.0")
    assert talk.said.count(b"octets received") < UNPRODUCTIVE_MAX + Limits().max_errors


def test_chunks_of_a_line_each_are_a_message(talk):
    in_mail(talk).feed(b"BDAT 6\r\nA: b\r\n" * (UNPRODUCTIVE_MAX - 1) + b"BDAT 0 LAST\r\n")
    talk.answer_all()
    assert last_line(talk).startswith(b"250") and not talk.closed
