"""A client that closes its side behind what it has to say, and reads on: it hears what became of its mail.

By hand, and by socat, which does so at the end of a pipe.
"""

import socket
import ssl

import pytest

from tests.live.conftest import mails, until
from tests.live.encrypted import Client, careless, tls_daemon
from tests.live.peer import run
from tests.unique import free_port

CONTENT = b"Subject: whole\r\n\r\nx\r\n"


@pytest.fixture(scope="module")
def smtps():
    return free_port()


@pytest.fixture(scope="module")
def daemon(ground, users, smtps):
    with tls_daemon(ground, smtps) as made:
        yield made


def fin(client):
    client.socket.shutdown(socket.SHUT_WR)


def close_notify(client):
    client.send(client.close_notify())


def both(client):
    close_notify(client)
    fin(client)


VERSIONS = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}
ENDS = [("", fin), *((version, end) for version in VERSIONS for end in (fin, close_notify, both))]


@pytest.mark.parametrize("version, end", ENDS, ids=lambda value: getattr(value, "__name__", value))
def test_behind_the_final_dot(daemon, alice, letterbox, version, end):
    context = careless()
    if version:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    with Client(daemon.port, context=context) as client:
        if version:
            client.starttls()
        client.begin_mail(f"{alice}@here.test")
        assert client.command("DATA").startswith("354")
        client.say(CONTENT + b".\r\n")
        end(client)
        assert client.reply().startswith("250 2.0.0")
        assert client.rest() == b""
        assert client.was_closed == bool(version)  # by close_notify of ours, too
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert mail.endswith(b"\n\nx\n")
    until(lambda: daemon.statistics()["smtp.session"] == 0, what="the end of the session")


def session(recipient):
    """A whole one.  Content that is counted may stand in one piece with what is before and behind it (RFC 3030 4.2)."""
    return (
        b"EHLO client.test\r\nMAIL FROM:<amy@there.test>\r\nRCPT TO:<%s@here.test>\r\nRCPT TO:<bob@there.test>\r\n"
        b"BDAT %d LAST\r\n%s" % (recipient.encode(), len(CONTENT), CONTENT)
    )


ADDRESSES = {
    "TCP": "TCP:127.0.0.1:{port}",
    **{
        version: "OPENSSL:127.0.0.1:{smtps},verify=0"
        f",openssl-min-proto-version={version},openssl-max-proto-version={version}"
        for version in VERSIONS
    },
}


@pytest.mark.parametrize("way", ADDRESSES)
def test_a_session_out_of_a_pipe(daemon, smtps, alice, letterbox, way):
    """-t: how long it waits for the other side when its own has ended."""
    address = ADDRESSES[way].format(port=daemon.port, smtps=smtps)
    _, said = run("socat", "-t", "30", "-", address, input=session(alice))
    codes = [line[:3] for line in said.splitlines() if line[3:4] == " "]
    assert codes == ["220", "250", "250", "250", "550", "250"], said
    until(lambda: mails(letterbox), what="delivery")


def test_content_that_does_not_wait_to_be_asked_for_is_refused_and_that_is_heard(daemon, alice, letterbox):
    """RFC 2920 3.1: DATA is the last command of a group."""
    piped = session(alice).partition(b"BDAT")[0] + b"DATA\r\n" + CONTENT + b".\r\nQUIT\r\n"
    _, said = run("socat", "-t", "30", "-", ADDRESSES["TCP"].format(port=daemon.port), input=piped)
    assert said.splitlines()[-1].startswith("503 5.5.1 Nothing may follow DATA"), said
    assert mails(letterbox) == []


def test_a_session_without_its_last_part_leaves_no_mail(daemon, alice, letterbox):
    _, said = run("socat", "-t", "30", "-", ADDRESSES["TCP"].format(port=daemon.port), input=session(alice)[:-5])
    assert said.splitlines()[-1].startswith("550 "), said  # of the second recipient
    daemon.send(f"{alice}@here.test", b"Subject: after\r\n\r\n")
    (mail,) = until(lambda: mails(letterbox), what="the next mail")
    assert b"Subject: after" in mail
