"""The end of a daemon with TLS: told to sessions, and not kept waiting by handshakes."""

import os
import re
import signal
import ssl
import time

import pytest

from smtpd.dispatcher.inbound.handshake import HANDSHAKE_TIMEOUT
from tests.live.certificate import Authority
from tests.live.conftest import empty_maildir, mails, several, until
from tests.live.encrypted import Client, careless

CONF = """
pki mx.here.test cert "{directory}/mx.crt"
pki mx.here.test key "{directory}/mx.key"
listen on 127.0.0.1 port {port} tls pki mx.here.test
action "local" maildir
match from any for domain "here.test" action "local"
"""


@pytest.fixture
def daemon(make_daemon):
    daemon = make_daemon(CONF)
    Authority("here").issue("mx.here.test").write(daemon.directory, "mx")
    return daemon.start()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_hear_of_it_and_their_links_are_closed(daemon, version):
    context = careless()
    context.minimum_version = context.maximum_version = version
    with Client(daemon.port, context=context).starttls() as client:
        client.command("EHLO client.test")
        daemon.process.send_signal(signal.SIGTERM)
        assert client.reply().startswith("421 4.3.2")
        assert client.rest() == b""
        assert client.was_closed
    assert daemon.ended() == 0


def test_handshakes_that_are_under_way_do_not_delay_it(daemon):
    with several(lambda: Client(daemon.port), 50) as stalled:
        for client in stalled:
            client.command("STARTTLS")
            client.send(client.hello()[:50])
        begun = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.ended() == 0, daemon.log
        assert time.monotonic() - begun < HANDSHAKE_TIMEOUT - 5
        for client in stalled:
            assert b"250" not in client.rest()


def test_the_death_of_crypto_in_a_handshake_is_the_end_of_all(daemon):
    crypto = daemon.pids()["crypto"]
    os.kill(crypto, signal.SIGSTOP)
    with Client(daemon.port) as client:
        client.command("STARTTLS")
        client.send(client.hello())
        os.kill(crypto, signal.SIGKILL)
        assert daemon.ended() == 1
    assert re.search("^warn: fatal: .*crypto", daemon.log, re.MULTILINE)
    assert "Traceback" not in daemon.log


def test_after_a_restart_all_is_as_before(daemon, users, alice):
    empty_maildir(users.home(alice))
    with Client(daemon.port).starttls() as client:
        client.begin_mail(f"{alice}@here.test").command("DATA")
        client.say(b"Subject: not to the end\r\n\r\n")
        assert daemon.stop() == 0
        assert b"250" not in client.rest()
    daemon.start()
    with Client(daemon.port).starttls() as client:
        client.begin_mail(f"{alice}@here.test").command("DATA")
        assert client.command("Subject: to the end\r\n\r\nx\r\n.").startswith("250")
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert b"Subject: to the end" in mail
