"""What a client has asked for, kept in the spool over a restart, and obeyed by the delivery."""

import base64
import json

import pytest

from tests.live.conftest import COMPLETE, empty_maildir, mails, running, until

CONF = """
listen on 127.0.0.1 port {{port}}
action "local" maildir
action "line" mda "cat > ~/line" user {user}
match from any for domain "here.test" action "local"
match from any for domain "line.test" action "line"
"""
BINARY = COMPLETE + b"Subject: bytes\r\n\r\n" + bytes(range(256)) * 100 + b"\n.\r\n\r.\r\n"


@pytest.fixture
def daemon(ground, users, alice):
    with running(ground, CONF.format(user=alice)) as made:
        yield made


def chunks(client, *pieces):
    """Each in a BDAT; the last answer."""
    for piece in pieces:
        last = b" LAST" if piece is pieces[-1] else b""
        client.sock.sendall(b"BDAT %d%s\r\n%s" % (len(piece), last, piece))
        answer = client.getreply()
    return answer


def listed(daemon):
    return [json.loads(line) for line in daemon.smtpctl("-j", "show", "queue").stdout.splitlines()]


def test_what_the_client_asked_for_is_kept_over_a_restart(daemon, alice):
    daemon.smtpctl("pause", "mda")
    with daemon.client() as client:
        client.ehlo()
        options = ["BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=QQ+2B314", "BY=3600;RT", "MT-PRIORITY=-4"]
        assert client.mail("amy@there.test", options)[0] == 250
        assert client.rcpt(f"{alice}@here.test", ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;bob@x.test"])[0] == 250
        assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    (before,) = listed(daemon)
    asked = {"body": "eight-bit", "utf8": True, "ret": "HDRS", "envid": "QQ+314", "by_mode": "R", "by_trace": True}
    asked |= {"priority": -4, "notify": ["failure", "delay"], "original": "rfc822;bob@x.test", "tls": False}
    assert {key: before[key] for key in asked} == asked
    assert before["expires"] == before["deliver_by"]
    assert 3590 <= before["deliver_by"] - before["created"] <= 3610
    shown = daemon.smtpctl("show", "envelope", before["envelope"]).stdout.splitlines()
    assert {"dsn-envid: QQ+314", "dsn-notify: failure,delay", "deliver-by-mode: RT", "priority: -4"} <= {*shown}
    daemon.stop()
    daemon.start("-P", "mda")
    (after,) = listed(daemon)
    assert {key: after[key] for key in after if key != "seconds"} == {k: before[k] for k in before if k != "seconds"}
    daemon.smtpctl("remove", "all")


def test_binary_content_decodes_to_what_was_sent(daemon, users, alice):
    empty_maildir(users.home(alice))
    with daemon.client() as client:
        client.ehlo()
        assert client.has_extn("BINARYMIME")
        assert client.mail("amy@there.test", ["BODY=BINARYMIME"])[0] == 250
        assert client.rcpt(f"{alice}@here.test")[0] == 250
        assert client.rcpt(f"{alice}@line.test")[0] == 250
        assert chunks(client, BINARY[:7], BINARY[7:5000], BINARY[5000:])[0] == 250
    sent = BINARY.partition(b"\r\n\r\n")[2]
    until(lambda: not listed(daemon), what="the deliveries")
    (mail,) = mails(users.home(alice))
    for delivered in (mail, (users.home(alice) / "line").read_bytes()):
        header, _, body = delivered.partition(b"\n\n")
        assert b"\nContent-Transfer-Encoding: base64" in header and b"\r" not in delivered
        assert base64.b64decode(body) == sent
