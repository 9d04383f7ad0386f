"""Mail that goes out to smarthosts on 127.0.0.1: aiosmtpd, and smtp-sink of Postfix."""

import contextlib
import os
import signal
import socket

import pytest

from tests.live.certificate import Authority, key_pem
from tests.live.conftest import COMPLETE, Daemon, started, until
from tests.live.descriptors import limit_descriptors
from tests.live.next_hop import PASSWORD, USER, next_hop, server_context
from tests.live.recipient import envelopes, logged
from tests.live.smtp_sink import needs_sink, smtp_sinks

BODIES = {
    "inline": b"Hello.\r\n.\r\n..dots\r\nGr\xc3\xbc\xc3\x9fe\r\n",
    "file": b".\r\n..\r\n" + b"a line of text that is repeated until a file of the spool has it\r\n" * 4000,
}
# Name -> value of `relay`; each has the domain NAME.test.
ACTIONS = {
    "plain": "host smtp://127.0.0.1:{plain.port}",
    "scarce": "host smtp://127.0.0.1:{plain.port}",
    "smtps": "host smtps://provider@localhost:{smtps.port} auth <secrets> ca ours",
    "starttls": "host smtp+tls://provider@127.0.0.1:{starttls.port} auth <secrets> ca ours",
    "wrong": "host smtps://stale@localhost:{smtps.port} auth <secrets> ca ours",
    "foreign": "host smtps://localhost:{foreign.port} ca ours",
    "trusting": "host smtps://localhost:{foreign.port} tls no-verify",
    "certified": "host smtp+tls://127.0.0.1:{strict.port} ca ours pki relay.here.test",
    "certified-smtps": "host smtps://localhost:{strict_smtps.port} ca ours pki relay.here.test",
    "renewed": "host smtps://localhost:{strict_smtps.port} ca ours pki relay.here.test",
    "anonymous": "host smtps://localhost:{strict_smtps.port} ca ours",
    "failover": "host {{ smtp://127.0.0.1:{dead}, smtp://127.0.0.1:{plain.port} }} failover",
    "dead": "host smtp://127.0.0.1:{dead}",
}
SINKS = {
    "sink": (),
    "lmtp": ("-L",),
    "hard-mail": ("-f", "mail"),
    "soft-mail": ("-r", "mail"),
    "hard-data": ("-f", "data"),
    "soft-data": ("-r", "data"),
    "cut-dot": ("-q", "."),
}


class World:
    """The next hops, and a daemon that relays to them."""


@pytest.fixture(scope="module")
def world(ground, users):
    """One daemon, as its start takes longer than all that the tests do."""
    here = World()
    daemon = Daemon(ground)
    ours = Authority("ours")
    ours.write(daemon.directory, "ours")
    named = server_context(ours.issue("localhost"), daemon.directory, "named")
    numeric = server_context(ours.issue("127.0.0.1"), daemon.directory, "numeric")
    stranger = server_context(Authority("theirs").issue("localhost"), daemon.directory, "stranger")
    here.ours, here.shown = ours, ours.issue("relay.here.test", client=True, kind="rsa")
    here.shown.write(daemon.directory, "relay")
    with contextlib.ExitStack() as stack:
        here.plain = stack.enter_context(next_hop())
        here.smtps = stack.enter_context(next_hop(named, smtps=True, login=True))
        here.starttls = stack.enter_context(next_hop(numeric, login=True))
        here.foreign = stack.enter_context(next_hop(stranger, smtps=True))
        strict = server_context(ours.issue("localhost", "127.0.0.1"), daemon.directory, "strict", clients=ours)
        here.strict = stack.enter_context(next_hop(strict))
        here.strict_smtps = stack.enter_context(next_hop(strict, smtps=True))
        here.dead = 1  # tcpmux: closed
        actions = {name: value.format(**vars(here)) for name, value in ACTIONS.items()}
        start_sink = stack.enter_context(smtp_sinks())
        with contextlib.suppress(FileNotFoundError):  # Postfix is not here
            for name, options in SINKS.items():
                protocol = "lmtp" if name == "lmtp" else "smtp"
                actions[name] = f"host {protocol}://127.0.0.1:{start_sink(*options)}"
        lines = [
            f"listen on 127.0.0.1 port {daemon.port}",
            f'ca ours cert "{daemon.directory}/ours.ca"',
            f'pki relay.here.test cert "{daemon.directory}/relay.crt" key "{daemon.directory}/relay.key"',
            f'table secrets {{ "provider" = "{USER}:{PASSWORD}", "stale" = "{USER}:of last year" }}',
            *(f'action "{name}" relay {value}' for name, value in actions.items()),
            *(f'match from local for domain "{name}.test" action "{name}"' for name in actions),
        ]
        daemon.conf.write_text("\n".join(lines) + "\n")
        here.daemon = stack.enter_context(started(daemon))
        yield here


def send(world, *recipients, body=b"x\r\n", subject="a mail", sender="amy@here.test"):
    content = COMPLETE + f"Subject: {subject}\r\n\r\n".encode() + body
    with world.daemon.client() as client:
        assert not client.sendmail(sender, recipients, content)


def deliveries(world, recipient, result):
    """Lines of the log about this recipient, as soon as there is one."""
    words = (" mta delivery ", f"to=<{recipient}>", f'result="{result}"')
    try:
        return until(lambda: logged(world.daemon, *words), 20, " ".join(words))
    except AssertionError as error:
        raise AssertionError(f"{error}:\n{world.daemon.log[-3000:]}") from None


def row_of(world, recipient):
    (row,) = [row for row in envelopes(world.daemon) if row[6] == recipient]
    return row


def told(world, recipient, *words):
    """The sender has been told that the mail for `recipient` has failed, and it is gone."""
    until(lambda: logged(world.daemon, "bounce: failed for ", f"rcpt=<{recipient}>", *words), what="a notice")
    assert not [row for row in envelopes(world.daemon) if row[6] == recipient]


# -- mail that arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", BODIES)
def test_a_mail_arrives_byte_for_byte(world, form):
    send(world, f"{form}@plain.test", body=BODIES[form])
    (mail,) = until(lambda: [mail for mail in world.plain.mails if mail.recipients == [f"{form}@plain.test"]])
    assert mail.content.endswith(b"\r\nSubject: a mail\r\n\r\n" + BODIES[form])
    assert (mail.sender, mail.encrypted) == ("amy@here.test", False)
    (line,) = deliveries(world, f"{form}@plain.test", "Ok")
    assert 'stat="250 2.0.0 kept as' in line and "from=<amy@here.test>" in line and "rcpt=<->" in line
    until(lambda: not [row for row in envelopes(world.daemon) if row[6] == f"{form}@plain.test"], what="an empty queue")


def test_several_recipients_share_a_transaction_and_have_their_own_results(world):
    names = ["first@plain.test", "nobody@plain.test", "second@plain.test", "full@plain.test"]
    send(world, *names, subject="several")
    mail = until(lambda: next((mail for mail in world.plain.mails if "first@plain.test" in mail.recipients), None))
    assert mail.recipients == ["first@plain.test", "second@plain.test"]
    for name in ("first", "second"):
        assert deliveries(world, f"{name}@plain.test", "Ok")
    (refused,) = deliveries(world, "nobody@plain.test", "PermFail")
    assert 'stat="550 5.1.1 no such user"' in refused
    (deferred,) = deliveries(world, "full@plain.test", "TempFail")
    assert 'stat="452 4.2.2 mailbox full"' in deferred
    told(world, "nobody@plain.test", "stat=5.1.1 550 5.1.1 no such user")
    deferred = row_of(world, "full@plain.test")
    assert deferred[2] == "mta" and deferred[-1] == "452 4.2.2 mailbox full"


def test_mails_of_a_moment_share_a_connection(world):
    with world.daemon.client() as client:
        for number in range(5):
            client.sendmail("amy@here.test", [f"kept-{number}@plain.test"], COMPLETE + b"Subject: kept\r\n\r\nx\r\n")
            deliveries(world, f"kept-{number}@plain.test", "Ok")
    mails = [mail for mail in world.plain.mails if mail.recipients[0].startswith("kept-")]
    assert len(mails) == 5 and len({mail.peer for mail in mails}) == 1


def test_where_the_first_host_is_not_there_the_next_one_gets_the_mail_at_once(world):
    send(world, "bob@failover.test")
    deliveries(world, "bob@failover.test", "Ok")
    assert world.plain.mails[-1].recipients == ["bob@failover.test"]


@pytest.mark.parametrize("name", ["smtps", "starttls"])
def test_a_password_goes_to_a_host_whose_certificate_is_verified(world, name):
    send(world, f"bob@{name}.test")
    (mail,) = until(lambda: getattr(world, name).mails)
    assert (mail.user, mail.encrypted) == (USER, True)
    (line,) = deliveries(world, f"bob@{name}.test", "Ok")
    session = line.split()[0]
    assert logged(world.daemon, f"{session} mta tls ciphers=", 'policy="', "requires verified TLS")
    assert logged(world.daemon, f"{session} mta cert-check ", 'result="valid" fingerprint="SHA256:')


def test_no_verify_takes_a_certificate_of_any_authority(world):
    send(world, "bob@trusting.test")
    (line,) = deliveries(world, "bob@trusting.test", "Ok")
    assert [mail.encrypted for mail in world.foreign.mails] == [True]
    assert logged(world.daemon, line.split()[0], 'cert-check result="unverified"')


def test_a_host_that_asks_for_our_certificate_gets_it(world):
    """RSA, and with that every signature by crypto."""
    for name, host in (("certified", world.strict), ("certified-smtps", world.strict_smtps)):
        send(world, f"bob@{name}.test")
        deliveries(world, f"bob@{name}.test", "Ok")
        assert [mail.serial for mail in host.mails if mail.recipients == [f"bob@{name}.test"]] == [world.shown.serial]


def test_a_new_certificate_is_shown_after_a_hangup_and_a_faulty_one_is_not(world):
    directory, loaded = world.daemon.directory, "certificates of 1 pki loaded"
    new = world.ours.issue("relay.here.test", client=True)
    new.write(directory, "relay")
    world.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: len(logged(world.daemon, loaded)) == 2, what="the new certificate")
    (directory / "relay.key").write_bytes(key_pem(world.shown.key))
    world.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: logged(world.daemon, "not the key of the certificate in"), what="the refusal")
    send(world, "bob@renewed.test")
    deliveries(world, "bob@renewed.test", "Ok")
    (mail,) = (mail for mail in world.strict_smtps.mails if mail.recipients == ["bob@renewed.test"])
    assert mail.serial == new.serial
    world.shown.write(directory, "relay")  # for the next start


# -- mail that does not ------------------------------------------------------------------------------------------------


def waits_for(world, recipient, *words):
    """The mail is neither lost nor held, and its row says why."""

    def found():
        row = row_of(world, recipient)
        return any(word in row[-1] for word in words) and row

    try:
        row = until(found, 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {row_of(world, recipient)}\n{world.daemon.log[-3000:]}") from None
    assert "held" not in row[3] and row[-1].startswith("destination delayed: "), row
    return row[-1]


def test_a_certificate_of_another_authority_gets_no_mail(world):
    before = len(world.foreign.mails)
    send(world, "bob@foreign.test")
    assert "unable to get local issuer" in waits_for(world, "bob@foreign.test", "certificate of the server")
    assert logged(world.daemon, " mta error reason=", "certificate of the server")
    assert len(world.foreign.mails) == before


def test_a_host_that_asks_for_a_certificate_gets_no_mail_without_one(world):
    send(world, "bob@anonymous.test")
    before = len(world.strict_smtps.mails)
    waits_for(world, "bob@anonymous.test", "certificate required", "connection closed by the server")
    assert len(world.strict_smtps.mails) == before


def test_a_refused_password_delays_the_destination_and_no_password_is_logged(world):
    send(world, "bob@wrong.test")
    assert "535 5.7.8" in waits_for(world, "bob@wrong.test", "535")
    (failed, *_) = logged(world.daemon, " mta error reason=", "535 5.7.8")
    assert logged(world.daemon, failed.split()[0], " mta tls ciphers=", 'policy="action requires verified TLS"')
    assert "of last year" not in world.daemon.log and PASSWORD not in world.daemon.log


def test_a_host_that_is_not_there_delays_the_destination(world):
    send(world, "bob@dead.test")
    assert "Connection refused" in waits_for(world, "bob@dead.test", "refused")
    assert logged(world.daemon, " mta error reason=", "Connection refused")


CONTENT_REFUSALS = [
    ("wait", "TempFail", "451 4.7.1 try again later"),
    ("spam", "PermFail", "554 5.7.1 not wanted here"),
]


@pytest.mark.parametrize("name, result, reply", CONTENT_REFUSALS, ids=["soft", "hard"])
def test_a_refused_content_is_the_result_of_each_recipient(world, name, result, reply):
    recipients = [f"{name}@plain.test", f"beside-{name}@plain.test"]
    send(world, *recipients)
    for recipient in recipients:
        assert f'stat="{reply}"' in deliveries(world, recipient, result)[0]
    for recipient in recipients:
        if result == "PermFail":
            told(world, recipient, reply)
        else:
            assert row_of(world, recipient)[-1].endswith(reply)


@needs_sink
@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("name", ["sink", "lmtp"])
def test_smtp_sink_takes_mail(world, name, form):
    send(world, f"{form}@{name}.test", f"{form}-too@{name}.test", body=BODIES[form])
    for recipient in (f"{form}@{name}.test", f"{form}-too@{name}.test"):
        deliveries(world, recipient, "Ok")


@needs_sink
@pytest.mark.parametrize("name", ["hard-mail", "soft-mail", "hard-data", "soft-data"])
def test_smtp_sink_refuses(world, name):
    """MAIL, or DATA."""
    hard = name.startswith("hard")
    send(world, f"bob@{name}.test", f"carol@{name}.test")
    for recipient in (f"bob@{name}.test", f"carol@{name}.test"):
        (line, *_) = deliveries(world, recipient, "PermFail" if hard else "TempFail")
        assert ('stat="500' if hard else 'stat="450') in line
        if hard:
            told(world, recipient, "500")
        else:
            assert "hold" not in row_of(world, recipient)[3]


@needs_sink
def test_a_connection_that_is_lost_after_the_final_dot_is_uncertain(world):
    send(world, "bob@cut-dot.test")
    (line, *_) = deliveries(world, "bob@cut-dot.test", "TempFail")
    assert "connection closed by the server" in line
    assert row_of(world, "bob@cut-dot.test")[-1].endswith("the mail had been sent and may arrive twice")


def test_without_a_descriptor_mail_waits_and_no_host_is_blamed(world):
    """The dispatcher has more descriptors than it may for a moment."""
    pid = world.daemon.pids()["dispatcher"]
    with world.daemon.client() as client:
        client.ehlo()
        limit = limit_descriptors("_smtpd", pid, 3)
        try:
            client.sendmail("amy@here.test", ["bob@scarce.test"], COMPLETE + b"\r\nx\r\n")
            until(lambda: logged(world.daemon, "relay: Too many open files: no new connection for 5 s"), 20)
            assert row_of(world, "bob@scarce.test")[-1] == ""
        finally:
            limit_descriptors("_smtpd", pid, limit)
    deliveries(world, "bob@scarce.test", "Ok")
    assert not logged(world.daemon, "relay: smarthosts of scarce delayed")


# -- the end -----------------------------------------------------------------------------------------------------------


def test_results_that_queue_has_not_read_when_the_dispatcher_ends_are_not_lost(world):
    """Queue stands still meanwhile.  No mail is sent twice."""
    wanted = [f"unread {number}" for number in range(5)]
    before = world.plain.waiting
    world.plain.gate.clear()
    with world.daemon.client() as client:
        for subject in wanted:
            content = COMPLETE + f"Subject: {subject}\r\n\r\nx\r\n".encode()
            client.sendmail("amy@here.test", ["unread@plain.test"], content)
    until(lambda: world.plain.waiting > before, what="a content that waits for its answer")
    pids = world.daemon.pids()
    os.kill(pids["queue"], signal.SIGSTOP)
    try:
        world.daemon.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(world.daemon.port), what="the begin of the stop")
        world.plain.gate.set()
        until(lambda: not os.path.exists(f"/proc/{pids['dispatcher']}"), what="the end of the dispatcher")
    finally:
        os.kill(pids["queue"], signal.SIGCONT)
    assert world.daemon.ended() == 0, world.daemon.log[-3000:]
    world.daemon.start()
    until(lambda: set(wanted) <= set(world.plain.subjects()), what="all mails")
    until(lambda: not [row for row in envelopes(world.daemon) if row[6] == "unread@plain.test"], what="an empty queue")
    assert sorted(subject for subject in world.plain.subjects() if subject in wanted) == wanted


def test_a_stop_under_load_ends_what_has_begun_and_keeps_the_rest(world):
    """The host has contents that it answers only after the stop has begun.  Each mail arrives once."""
    world.plain.gate.clear()
    wanted = [f"load {number}" for number in range(40)]
    with world.daemon.client() as client:
        for number, subject in enumerate(wanted):
            content = COMPLETE + f"Subject: {subject}\r\n\r\nx\r\n".encode()
            client.sendmail("amy@here.test", [f"load-{number}@plain.test"], content)
    until(lambda: world.plain.waiting, what="a content that waits for its answer")
    world.daemon.process.send_signal(signal.SIGTERM)
    until(lambda: not listens(world.daemon.port), what="the begin of the stop")
    world.plain.gate.set()
    assert world.daemon.ended() == 0, world.daemon.log[-3000:]
    world.daemon.start()
    until(lambda: set(wanted) <= set(world.plain.subjects()), what="all mails")
    until(lambda: not [row for row in envelopes(world.daemon) if row[6].startswith("load-")], what="an empty queue")
    assert sorted(subject for subject in world.plain.subjects() if subject in wanted) == sorted(wanted)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True
