"""The way of a mail, end to end."""

import itertools
import random
import re
import shutil
import smtplib
import socket
import struct
import subprocess
import threading
from email.message import EmailMessage

import pytest

from tests.live.conftest import COMPLETE, empty_maildir, mails, running, until


@pytest.fixture(scope="module")
def daemon(ground, users):
    """One for all who only send: they leave no trace in it."""
    with running(ground) as made:
        yield made


def test_a_mail_to_a_system_user_lies_in_that_users_maildir(daemon, users, alice, letterbox):
    daemon.send(f"{alice}@here.test", b"Subject: hello\r\n\r\nworld\r\n")
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    trace, _, content = mail.partition(b"Subject: ")
    assert content == b"hello\n\nworld\n"
    assert trace.startswith(
        b"Return-Path: <amy@there.test>\nDelivered-To: %s@here.test\nReceived: from client.test" % alice.encode()
    )
    (path,) = (letterbox / "Maildir/new").iterdir()
    assert path.owner() == alice and path.stat().st_mode & 0o777 == 0o600
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")


def awkward_body(size=200_000):
    """Long lines, dots, 8-bit text, everything that is awkward on the way; CRLF between lines."""
    source = random.Random(5)
    lines = [b".", b"..", b".hidden", b"", "Grüße aus Köln ✉".encode(), bytes(range(128, 256))]
    while sum(map(len, lines)) < size:
        length = source.choice([0, 1, 72, 998, 5000])
        first = source.choice([b"", b".", b"..", b"From "])
        lines.append(first + bytes(source.choice(b"abcdefgh .\t\xe4\xf6") for _ in range(length)))
    return b"\r\n".join(lines) + b"\r\n"


def test_a_large_awkward_mail_arrives_byte_for_byte(daemon, alice, letterbox):
    if not shutil.which("swaks"):
        pytest.skip("swaks is not installed")
    content = COMPLETE + b"Subject: awkward\r\nFrom: amy@there.test\r\n\r\n" + awkward_body()
    message = daemon.directory / "message"
    message.write_bytes(content.replace(b"\r\n", b"\n"))
    command = ["swaks", "--server", "127.0.0.1", "--port", str(daemon.port), "--from", "amy@there.test"]
    command += ["--to", f"{alice}@here.test", "--helo", "client.test", "--data", f"@{message}", "--suppress-data"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    arrived = mail[mail.index(b"Subject: awkward") :]
    sent = content.removeprefix(COMPLETE).replace(b"\r\n", b"\n")
    assert arrived in (sent, sent + b"\n")  # some versions of swaks end what they send with an empty line of their own


@pytest.mark.parametrize("size", [0, 1, 15_000, 16_384 - 500, 16_384 - 100, 16_384, 70_000, 1_000_000])
def test_a_mail_of_any_size_arrives_byte_for_byte(daemon, alice, letterbox, size):
    """Small ones stay in the database, larger ones become files: on both sides of that, and near it."""
    content = b"Subject: any\r\n\r\n" + awkward_body(size)[:size].rstrip(b"\r\n") + b"\r\n"
    daemon.send(f"{alice}@here.test", content)
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert mail[mail.index(b"Subject: any") :] == content.replace(b"\r\n", b"\n")


def test_several_recipients_get_a_mail_each(daemon, users, alice, bob):
    for name in (alice, bob):
        empty_maildir(users.home(name))
    with daemon.client() as client:
        client.sendmail("amy@there.test", [f"{alice}@here.test", f"{bob}@here.test"], b"Subject: both\r\n\r\nx\r\n")
    for name in (alice, bob):
        (mail,) = until(lambda name=name: mails(users.home(name)), what=f"delivery to {name}")
        assert f"Delivered-To: {name}@here.test".encode() in mail


def test_the_log_joins_a_session_to_the_deliveries_of_its_mail(daemon, users, alice, bob):
    before = len(daemon.log)
    with daemon.client() as client:
        recipients = [f"{alice}@here.test", f"{bob}@here.test"]
        client.sendmail("amy@there.test", recipients, b"Subject: both\r\n\r\nx\r\n")
    line = re.compile(r"smtp envelope evpid=(\w+) from=<amy@there.test> to=<(\S+)>")
    taken = until(lambda: len(found := line.findall(daemon.log[before:])) == 2 and found, what="lines")
    assert [recipient for _, recipient in taken] == recipients
    for envelope, recipient in taken:
        delivery = f"mda delivery evpid={envelope} from=<amy@there.test> to=<{recipient}>"
        until(lambda delivery=delivery: delivery in daemon.log, what="delivery")


@pytest.mark.parametrize(
    "recipient, code",
    [
        ("nobody-of-this-name@here.test", 550),
        ("root@here.test", 550),
        ("daemon@here.test", 550),
        ("_smtpq@here.test", 550),
        ("somebody@elsewhere.test", 550),
        ('"../{alice}"@here.test', 550),
        ('"|/bin/sh"@here.test', 550),
        ("../{alice}@here.test", 501),
    ],
)
def test_a_user_who_may_not_receive_is_refused_at_rcpt(daemon, alice, recipient, code):
    with daemon.client() as client:
        client.ehlo()
        client.mail("amy@there.test")
        assert client.docmd("RCPT", f"TO:<{recipient.format(alice=alice)}>")[0] == code


def test_mail_to_postmaster_needs_no_domain(daemon):
    with daemon.client() as client:
        client.ehlo()
        client.mail("amy@there.test")
        # there is no such user here; what matters is that the address is understood
        assert client.docmd("RCPT", "TO:<postmaster>")[0] == 550


def write_forward(users, name, text):
    forward = users.home(name) / ".forward"
    forward.write_text(text)
    shutil.chown(forward, name, name)
    forward.chmod(0o600)


def test_a_forward_file_redirects(daemon, users, alice, letterbox):
    name = users.make("smtpd-moved")
    write_forward(users, name, f"{alice}@here.test\n")
    daemon.send(f"{name}@here.test", b"Subject: on to alice\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(letterbox), what="delivery to alice")
    assert b"on to alice" in mail
    assert not (users.home(name) / "Maildir").exists()


def test_a_forward_file_that_names_its_own_user_keeps_a_copy(daemon, users, alice, letterbox):
    name = users.make("smtpd-copied")
    write_forward(users, name, f"# both\n\\{name}, {alice}@here.test\n")
    daemon.send(f"{name}@here.test", b"Subject: two of them\r\n\r\nx\r\n")
    until(lambda: mails(letterbox), what="delivery to alice")
    until(lambda: mails(users.home(name)), what="the copy")


@pytest.mark.parametrize("text", [":include:/etc/passwd\n", "root\n", "nobody@elsewhere.test\n", "\0\n"])
def test_a_forward_file_gives_its_user_no_rights(daemon, users, text):
    """Other files are not read, root never receives, and nothing is relayed."""
    name = users.make("smtpd-bold")
    write_forward(users, name, text)
    with daemon.client() as client:
        client.ehlo()
        client.mail("amy@there.test")
        code, reply = client.docmd("RCPT", f"TO:<{name}@here.test>")
    assert code // 100 in (4, 5), reply


@pytest.mark.parametrize("text", ["|cat >{place}\n", "{place}\n"], ids=["command", "file"])
def test_what_a_forward_file_names_has_the_rights_of_its_user_and_no_more(daemon, users, text):
    name = users.make("smtpd-busy")
    own, roots = users.home(name) / "place", daemon.directory / f"place-of-{name}"
    write_forward(users, name, text.format(place=own) + text.format(place=roots))
    daemon.send(f"{name}@here.test", b"Subject: placed\r\n\r\nx\r\n")
    (row,) = until(lambda: rows_with_errors(daemon), what="a failure and a success")
    daemon.smtpctl("remove", row.partition("|")[0])
    assert "Subject: placed\n" in own.read_text() and own.owner() == name
    assert not roots.exists()


def rows_with_errors(daemon):
    """When nothing else is left in the queue."""
    rows = daemon.smtpctl("show", "queue").stdout.splitlines()
    return rows if all(row.rpartition("|")[2] for row in rows) else []


def test_a_sub_address_reaches_its_user(daemon, alice, letterbox):
    daemon.send(f"{alice}+lists@here.test", b"Subject: tagged\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert b"+lists@here.test" in mail


def test_an_action_has_its_own_place_folders_and_junk(make_daemon, users, alice):
    """Sub-addresses go to the folder that the user has made for them, spam to .Junk, which is made."""
    daemon = make_daemon(
        'listen on 127.0.0.1 port {port}\naction "local" maildir "%{{user.directory}}/deep/er" junk\n'
        'match from any for any action "local"\n'
    ).start()
    home = users.home(alice)
    daemon.send(f"{alice}@here.test", b"Subject: plain\r\n\r\n")
    until(lambda: mails(home, "deep/er"), what="delivery")
    for name in (".lists", ".lists/tmp", ".lists/new", ".lists/cur"):
        (home / "deep/er" / name).mkdir(mode=0o700)
        shutil.chown(home / "deep/er" / name, alice, alice)
    daemon.send(f"{alice}+lists@here.test", b"Subject: tagged\r\n\r\n")
    daemon.send(f"{alice}+lists@here.test", b"X-Spam: Yes\r\nSubject: junk\r\n\r\n")
    daemon.send(f"{alice}+/tmp/evil@here.test", b"Subject: evil\r\n\r\n")
    until(lambda: len(mails(home, "deep/er")) == 2, what="the odd one, in the inbox")
    assert b"Subject: tagged" in until(lambda: mails(home, "deep/er/.lists"), what="the tagged one")[0]
    assert b"Subject: junk" in until(lambda: mails(home, "deep/er/.Junk"), what="the junk")[0]
    assert daemon.stop() == 0


def has_inet6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_inet6(), reason="this machine has no ::1")
def test_rules_tell_listeners_apart_by_their_tags(make_daemon, alice):
    daemon = make_daemon(
        "listen on 127.0.0.1 port {port}\nlisten on ::1 port {port} tag six\n"
        'action "local" maildir\nmatch tag six from any for domain "six.test" action "local"\n'
    ).start("-P", "mda")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        daemon.send(f"{alice}@six.test", b"x: y\r\n\r\n")
    with smtplib.SMTP("::1", daemon.port, local_hostname="client.test") as client:
        client.sendmail("amy@there.test", f"{alice}@six.test", b"x: y\r\n\r\n")
    (line,) = daemon.smtpctl("show", "queue").stdout.splitlines()
    assert line.split("|")[1:3] == ["inet6", "mda"]
    assert daemon.smtpctl("show", "message", line[:8]).stdout.startswith("Received: from client.test (")
    assert daemon.stop() == 0


def test_a_mail_over_the_limit_is_refused_early(make_daemon, alice):
    daemon = make_daemon(
        "smtp max-message-size 10K\n" + "listen on 127.0.0.1 port {port}\n"
        'action "local" maildir\nmatch from any for any action "local"\n'
    ).start()
    with daemon.client() as client, pytest.raises(smtplib.SMTPSenderRefused) as refused:
        client.sendmail("amy@there.test", [f"{alice}@here.test"], b"x: y\r\n\r\n" + b"z" * 20_000)
    assert refused.value.smtp_code == 552
    assert daemon.stop() == 0


def test_an_independent_client_library_gets_along(daemon, alice, letterbox):
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["From"], message["To"] = "amy@there.test", f"{alice}@here.test"
    message.set_content("Ein schöner Gruß\n")
    message.add_attachment(bytes(range(256)), maintype="application", subtype="octet-stream", filename="ä.bin")
    with daemon.client() as client:
        client.send_message(message)
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert b"application/octet-stream" in mail


LARGE = b"Subject: never ended\r\n\r\n" + b"line\r\n" * 20_000
STEPS = [
    b"EHLO client.test\r\n",
    b"MAIL FROM:<amy@there.test>\r\n",
    b"RCPT TO:<%s@here.test>\r\n",
    b"RCPT TO:<nobody-of-this-name@here.test>\r\n",
    b"DATA\r\n",
    LARGE,
]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_in_the_middle_leaves_nothing(daemon, alice, letterbox, reset):
    """After each step, without waiting for its answer or with it: as a group, and one by one."""
    spooled = daemon.state / "spool/content"
    for count in range(len(STEPS) + 1):
        for patient in (False, True):
            with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                for step in STEPS[:count]:
                    if patient:
                        sock.recv(1000)
                    sock.sendall(step.replace(b"%s", alice.encode()))
    until(lambda: not list(spooled.iterdir()), what="an empty spool")
    assert daemon.smtpctl("show", "queue").stdout == ""
    daemon.send(f"{alice}@here.test", b"Subject: after\r\n\r\nx\r\n")
    until(lambda: mails(letterbox), what="the next mail")
    assert len(mails(letterbox)) == 1


SMUGGLED = (
    b"Subject: outer\r\n\r\nbody%sMAIL FROM:<evil@there.test>\r\nRCPT TO:<%s@here.test>\r\nDATA\r\ninner\r\n.\r\n"
)


@pytest.mark.parametrize("ending", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n"])
def test_smuggling_leaves_one_message_or_none(daemon, alice, letterbox, ending):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
        stream = sock.makefile("rb")
        assert stream.readline().startswith(b"220")
        for line in (b"HELO client.test", b"MAIL FROM:<amy@there.test>", b"RCPT TO:<%s@here.test>" % alice.encode()):
            sock.sendall(line + b"\r\n")
            assert stream.readline().startswith(b"250")
        sock.sendall(b"DATA\r\n")
        assert stream.readline().startswith(b"354")
        sock.sendall(SMUGGLED % (ending, alice.encode()) + b"\r\n.\r\nQUIT\r\n")
        sock.shutdown(socket.SHUT_WR)
        stream.read()
    daemon.send(f"{alice}@here.test", b"Subject: after\r\n\r\nx\r\n")
    until(lambda: any(b"Subject: after" in mail for mail in mails(letterbox)), what="the next mail")
    assert sum(b"inner" in mail and b"Subject: outer" not in mail for mail in mails(letterbox)) == 0


def test_the_queue_survives_a_stop(make_daemon, alice, letterbox):
    daemon = make_daemon().start()
    daemon.smtpctl("pause", "mda")
    daemon.send(f"{alice}@here.test", b"Subject: wait\r\n\r\nx\r\n")
    assert len(daemon.smtpctl("show", "queue").stdout.splitlines()) == 1
    assert daemon.stop() == 0
    assert mails(letterbox) == []
    daemon.start()
    until(lambda: mails(letterbox), what="delivery after the restart")
    assert daemon.stop() == 0


def keep_sending(daemon, recipient, number, accepted, ends):
    """Mail after mail until the daemon says 421, or nobody is there any more; how that was goes to `ends`."""
    try:
        with daemon.client() as client:
            for count in itertools.count():
                subject = f"{number}-{count}"
                client.sendmail("amy@there.test", recipient, f"Subject: {subject}\r\n\r\nx\r\n".encode())
                accepted.append(subject)
    except smtplib.SMTPResponseException as error:
        ends.append(error.smtp_code)
    except smtplib.SMTPRecipientsRefused as error:
        ends.append(error.recipients[recipient][0])
    except (smtplib.SMTPServerDisconnected, ConnectionError):
        ends.append(0)


def test_a_stop_in_the_midst_of_mail_is_in_order(make_daemon, alice, letterbox):
    """Every session hears 421, every mail that was accepted arrives once, and the exit status is 0."""
    daemon = make_daemon().start()
    accepted, ends = [], []
    threads = [
        threading.Thread(target=keep_sending, args=(daemon, f"{alice}@here.test", number, accepted, ends))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(accepted) > 100, what="mail under way")
    assert daemon.stop() == 0, daemon.log
    for thread in threads:
        thread.join()
    assert set(ends) == {421}
    daemon.start()
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    found = [mail.partition(b"Subject: ")[2].partition(b"\n")[0].decode() for mail in mails(letterbox)]
    assert sorted(found) == sorted(accepted)
    assert daemon.stop() == 0


def test_a_second_daemon_on_the_same_spool_is_refused_and_names_the_first(make_daemon, daemon):
    second = make_daemon()
    second.state = daemon.state
    with pytest.raises(AssertionError) as refused:
        second.start()
    assert str(daemon.process.pid) in str(refused.value) or str(daemon.pids()["queue"]) in str(refused.value)
    assert daemon.running()
