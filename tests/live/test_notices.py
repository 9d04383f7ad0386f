"""Notices to senders, by the real daemon: mail that a recipient refuses comes back into the sender's Maildir."""

import email
import email.policy
import re

import pytest

from tests.live.conftest import empty_maildir, mails, running, until
from tests.live.recipient import envelopes, logged

CONF = """
listen on 127.0.0.1 port {port}
action "local" maildir
action "refuse" mda "echo 'no such mailbox'; exit 67"
action "gone" lmtp "127.0.0.1:1" ttl 1s
match from any for domain "refuse.test" action "refuse"
match from any for domain "late.test" action "gone"
match from any for domain "here.test" action "local"
match from local for domain "sender.test" action "local"
"""
MAIL = b"Subject: to be refused\r\nMessage-ID: <one@client.test>\r\n\r\nThe body.\r\n"


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground, CONF) as made:
        yield made


@pytest.fixture
def maildir(users, alice):
    empty_maildir(users.home(alice))
    yield users.home(alice)
    empty_maildir(users.home(alice))


def send(daemon, sender, *recipients, mail=(), rcpt=()):
    with daemon.client() as client:
        client.ehlo()
        assert client.mail(sender, [*mail])[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient, [*rcpt])[0] == 250
        assert client.data(MAIL)[0] == 250


def notice(home):
    (content,) = until(lambda: mails(home), what="a notice")
    return email.message_from_bytes(content, policy=email.policy.default)


def fields(said):
    (status,) = (part for part in said.walk() if part.get_content_type() == "message/delivery-status")
    return status.get_payload()


@pytest.mark.parametrize("ret", ["HDRS", "FULL"])
def test_refused_mail_comes_back_to_its_sender(daemon, maildir, alice, bob, ret):
    sender = f"{alice}@sender.test"
    words = ["NOTIFY=FAILURE", f"ORCPT=rfc822;{bob}+2Bx@refuse.test"]
    send(daemon, sender, f"{bob}@refuse.test", mail=[f"RET={ret}", "ENVID=a+2Bb"], rcpt=words)
    said = notice(maildir)
    assert said["Return-Path"] == "<>" and said["To"] == sender and said["Auto-Submitted"] == "auto-replied"
    about, of_bob = fields(said)
    assert about["Original-Envelope-Id"] == "a+b"
    assert (of_bob["Final-Recipient"], of_bob["Action"]) == (f"rfc822; {bob}@refuse.test", "failed")
    assert of_bob["Original-Recipient"] == f"rfc822; {bob}+x@refuse.test" and of_bob["Status"][0] == "5"
    assert "no such mailbox" in said.get_payload()[0].get_content()
    assert ("The body." in said.as_string()) is (ret == "FULL")
    assert "<one@client.test>" in said.get_payload()[2].as_string()
    until(lambda: not envelopes(daemon), what="an empty queue")
    assert logged(daemon, "bounce: failed for ", f"to=<{sender}>")


def test_two_refused_recipients_are_one_notice(daemon, maildir, alice, bob):
    send(daemon, f"{alice}@sender.test", f"{bob}+one@refuse.test", f"{bob}+two@refuse.test", f"{bob}@here.test")
    said = notice(maildir)
    recipients = [one["Final-Recipient"] for one in fields(said)[1:]]
    assert recipients == [f"rfc822; {bob}+one@refuse.test", f"rfc822; {bob}+two@refuse.test"]
    until(lambda: not envelopes(daemon), what="an empty queue")
    assert len(mails(maildir)) == 1


def test_mail_that_expires_comes_back(daemon, maildir, alice, bob):
    """Its server cannot be reached."""
    send(daemon, f"{alice}@sender.test", f"{bob}@late.test")
    _, of_bob = fields(notice(maildir))
    assert (of_bob["Action"], of_bob["Status"]) == ("failed", "4.4.7")


@pytest.mark.parametrize("words", ["NEVER", "SUCCESS", "DELAY"])
def test_nobody_is_told_who_does_not_want_to_know(daemon, maildir, alice, bob, words):
    send(daemon, f"{alice}@sender.test", f"{bob}+{words}@refuse.test", rcpt=[f"NOTIFY={words}"])
    until(lambda: logged(daemon, f"to=<{bob}+{words}@refuse.test>", "result=PermFail"))
    until(lambda: not envelopes(daemon), what="an empty queue")
    assert mails(maildir) == []


def test_a_notice_that_no_rule_takes_is_held_and_none_is_made_of_it(daemon, bob):
    send(daemon, "amy@there.test", f"{bob}@refuse.test")
    (row,) = until(lambda: [row for row in envelopes(daemon) if "hold" in row[3]], what="a notice that is held")
    assert row[2] == "bounce" and row[4] == "" and row[5] == "amy@there.test"
    assert re.search("550 5.7.1 Invalid recipient", row[-1])
    assert "bounce.failed=1" in daemon.smtpctl("show", "stats").stdout
    daemon.smtpctl("remove", "all")
    until(lambda: not envelopes(daemon), what="an empty queue")


def test_what_an_administrator_removes_is_not_told(daemon, maildir, alice, bob):
    daemon.smtpctl("pause", "mda")
    send(daemon, f"{alice}@sender.test", f"{bob}@refuse.test")
    until(lambda: envelopes(daemon), what="mail that waits")
    daemon.smtpctl("remove", "all")
    daemon.smtpctl("resume", "mda")
    until(lambda: not envelopes(daemon), what="an empty queue")
    assert mails(maildir) == []
