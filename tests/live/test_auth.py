"""AUTH of the real daemon: against every kind of table, a program, and PAM; what users may do, and what no log says."""

import email
import pwd
import re
import subprocess
from pathlib import Path

import pytest

from tests.live import submission
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.login import NO, OK, all_at_once, attempt, connect, encode, login, plain
from tests.live.network import Network
from tests.live.recipient import logged
from tests.live.submission import assert_unsaid, hashed, smtpctl_encrypt
from tests.unique import MARK

PORTS = {name: 2501 + number for number, name in enumerate(("inline", "file", "rows", "program", "system"))}
CONF = """
smtp limit tarpit 0
table files file:{{directory}}/files
table rows sqlite:{{directory}}/rows.conf
table answers {answers}
table identities {{{{ "amy" = "amy@here.test, @amy.test" }}}}
listen on 127.0.0.1 port {inline} smtps pki mx.here.test auth {{{{ "amy" = "{amy}" }}}} \\
    senders <identities> masquerade received-auth
listen on 127.0.0.1 port {file} smtps pki mx.here.test auth <files>
listen on 127.0.0.1 port {rows} smtps pki mx.here.test auth <rows>
listen on 127.0.0.1 port {program} smtps pki mx.here.test auth <answers>
listen on 127.0.0.1 port {system} smtps pki mx.here.test auth
action "local" maildir
match from auth for domain "here.test" action "local"
"""
PASSWORD = "correct horse, Ünïcode"
ASCII = "correct-horse-battery"
OF_THE_PROGRAM = "s3cr3t|of:program"
PROGRAM = f"""#!/bin/sh
while IFS= read -r line; do
    case $line in
    'config|ready') printf 'register|auth\\nregister|ready\\n' ;;
    'table|'*'|check|auth|'*)
        rest=${{line#*|check|auth|}}
        [ "${{rest#*|}}" = 'paul:{OF_THE_PROGRAM}' ] && found=found || found=not-found
        printf 'check-result|%s|%s\\n' "${{rest%%|*}}" "$found"
        ;;
    esac
done
"""


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def program():
    """Where programs of tables are looked for, under a name that nobody else has."""
    name = f"logins{MARK}"
    path = Path(f"/usr/local/libexec/smtpd/table-{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM)
    path.chmod(0o755)
    yield name
    path.unlink()
    if not list(path.parent.iterdir()):
        path.parent.rmdir()


def hashes():
    return {
        "sha512": hashed(PASSWORD),
        "yescrypt": hashed(PASSWORD, "$y$", 1),
        "bcrypt": hashed(PASSWORD, "$2b$", 4),
        "argon": smtpctl_encrypt(PASSWORD),
        "scram": smtpctl_encrypt(ASCII, "--scram"),
        "fickle": hashed(PASSWORD),
        "locked": "!" + hashed(PASSWORD),
        "starred": "*" + hashed(PASSWORD),
        "plain": PASSWORD.partition(" ")[0],
        "md5": hashed(PASSWORD, "$1$", 0),
    }


@pytest.fixture(scope="module")
def daemon(ground, users, program):
    conf = CONF.format(amy=hashed(PASSWORD), answers=program, **PORTS)
    daemon = Daemon(ground, submission.PKI + conf, port=2500)
    submission.certify(daemon)
    submission.write_table(daemon, "files", hashes())
    submission.write_rows(daemon, {"rosa": hashed(PASSWORD)})
    with started(daemon, "-v"):
        yield daemon
        assert_unsaid(daemon.log, PASSWORD, ASCII, OF_THE_PROGRAM)


GOOD = [("inline", "amy", PASSWORD), ("rows", "rosa", PASSWORD), ("program", "paul", OF_THE_PROGRAM)]
GOOD += [("file", user, PASSWORD) for user in ("sha512", "yescrypt", "bcrypt", "argon")]
GOOD += [("file", "scram", ASCII)]


@pytest.mark.parametrize("mechanism", [plain, login])
@pytest.mark.parametrize("name, user, password", GOOD, ids=lambda value: value if value in PORTS else None)
def test_the_right_password_is_accepted(daemon, name, user, password, mechanism):
    assert attempt(PORTS[name], user, password, mechanism) == OK


WAYS = {
    "asked": ["AUTH PLAIN", encode("", "amy", PASSWORD)],
    "for herself": [f"AUTH PLAIN {encode('amy', 'amy', PASSWORD)}"],
    "in small letters": [f"auth plain {encode('', 'amy', PASSWORD)}"],
    "with her name at once": [f"AUTH LOGIN {encode('amy')}", encode(PASSWORD)],
}


@pytest.mark.parametrize("lines", WAYS.values(), ids=WAYS)
def test_programs_say_it_in_different_ways(daemon, lines):
    with connect(PORTS["inline"]) as client:
        client.ehlo()
        assert [client.docmd(line)[0] for line in lines] == [334] * (len(lines) - 1) + [235]


def test_no_user_logs_in_as_another(daemon):
    """RFC 4616 2: with the right password of one user as another one."""
    with connect(PORTS["inline"]) as client:
        client.ehlo()
        assert client.docmd("AUTH", f"PLAIN {encode('root', 'amy', PASSWORD)}")[0] == 535


def guess(attempts):
    """With the name of a listener each."""
    return all_at_once([(PORTS[name], user, password) for name, user, password in attempts])


def test_a_wrong_password_is_refused_after_a_delay(daemon):
    wrong = [(name, user, password + "x") for name, user, password in GOOD]
    wrong += [("file", user, PASSWORD) for user in ("locked", "starred", "plain", "md5", "unknown", "sha512 ")]
    wrong += [("rows", "rosa' OR '1", PASSWORD), ("file", "plain", PASSWORD.partition(" ")[0])]
    for one, (answer, seconds) in zip(wrong, guess(wrong), strict=True):
        assert answer == NO, one[:2]
        assert seconds >= 1, one[:2]


def test_another_password_counts_when_the_table_is_read_again(daemon):
    submission.write_table(daemon, "files", hashes() | {"fickle": smtpctl_encrypt(ASCII)})
    assert attempt(PORTS["file"], "fickle", PASSWORD) == OK
    daemon.smtpctl("update", "table", "files")
    assert attempt(PORTS["file"], "fickle", ASCII) == OK
    assert attempt(PORTS["file"], "fickle", PASSWORD) == NO


def test_what_is_malformed_is_an_error_and_no_guess(daemon):
    with connect(PORTS["inline"]) as client:
        client.ehlo()
        for line in ("PLAIN =", "PLAIN AGFteQ", "PLAIN ????", "LOGIN"):
            code, _ = client.docmd("AUTH", line)
            assert code == 501 or client.docmd("*")[0] == 501
        assert plain(client, "amy", PASSWORD) == OK


# -- the users of the system, by PAM -----------------------------------------------------


@pytest.fixture(scope="module")
def person(users):
    name = users.make("smtpd-pam")
    set_password(name)
    return name


@pytest.fixture(scope="module")
def worker():
    """With a uid as the daemons of an old system have one."""
    name = f"smtpd-worker-{MARK}"
    free = set(range(60, 100)) - {entry.pw_uid for entry in pwd.getpwall()}
    subprocess.run(["useradd", "--uid", str(max(free)), "--no-create-home", name], check=True)
    set_password(name)
    yield name
    subprocess.run(["userdel", name], check=True)


def set_password(name):
    subprocess.run(["chpasswd"], input=f"{name}:{ASCII}\n", text=True, check=True)


def test_a_user_of_the_system_gets_in(daemon, person):
    assert attempt(PORTS["system"], person, ASCII) == OK
    assert attempt(PORTS["system"], person, ASCII, login) == OK


def test_none_with_a_wrong_password_and_none_of_the_systems_own(daemon, person, worker):
    wrong = [("system", person, ASCII + "x"), ("system", worker, ASCII), ("system", "root", ASCII)]
    wrong += [("system", "_smtpq", "x"), ("system", "nobody-there", ASCII), ("system", "../etc/passwd", ASCII)]
    for one, (answer, seconds) in zip(wrong, guess(wrong), strict=True):
        assert answer == NO, one[:2]
        assert seconds >= 1, one[:2]
    assert logged(daemon, f"password of {person}: no, wrong password")
    assert not logged(daemon, "password of root")  # PAM was not even asked


# -- who has logged in, and as whom they may send --------------------------------------------


MAIL = "From: Amy <root@bank.test>\r\nTo: x\r\nSubject: hello\r\n\r\nx\r\n"


def test_users_send_as_themselves_only(daemon):
    with connect(PORTS["inline"]) as client:
        client.ehlo()
        assert client.docmd("MAIL", "FROM:<amy@here.test>") == (530, b"5.7.0 Authentication required")
        assert plain(client, "amy", PASSWORD) == OK
        for sender in ("root@here.test", "amy@bank.test", "amy@here.test.bank.test", ""):
            assert client.docmd("MAIL", f"FROM:<{sender}>") == (550, b"5.7.1 Sender rejected"), sender
        for sender in ("amy@here.test", "anything@amy.test"):
            assert client.docmd("MAIL", f"FROM:<{sender}>")[0] == 250
            client.rset()


def test_mail_of_a_logged_in_user_names_the_user(daemon, users, alice):
    """`masquerade`, `received-auth`; and what a submission lacks is added."""
    empty_maildir(users.home(alice))
    with connect(PORTS["inline"], "127.9.9.9") as client:
        client.ehlo()
        assert plain(client, "amy", PASSWORD) == OK
        client.sendmail("amy@here.test", f"{alice}@here.test", MAIL)
    (mail,) = until(lambda: mails(users.home(alice)), what="the mail")
    got = email.message_from_bytes(mail)
    received = " ".join(got["Received"].split())
    assert received.startswith("from client.test (")
    assert "[127.9.9.9])" in received and " with ESMTPSA id " in received
    assert re.search(r" \(TLSv1\.3:TLS_\w+:256:NO\) auth=yes user=amy ", received)
    assert got["From"] == "<amy@here.test>" or got["From"].endswith("<amy@here.test>")
    assert "bank.test" not in mail.decode()
    assert got["Date"] and got["Message-ID"]


# -- secrets --------------------------------------------------------------------------------------


def test_a_password_is_in_no_log_wherever_a_client_puts_it(daemon):
    """daemon's fixture looks for it in all that was logged by all tests, too."""
    secret = f"{ASCII}-{MARK}"
    misplaced = [f"AUTH PLAIN {encode('', 'eve', secret)}", f"auth  plain\t=\t{encode('', 'eve', secret)}"]
    misplaced += [f"AUTH {secret}", f"AUTH LOGIN {encode('eve')} {encode(secret)}", f"AUTH CRAM-MD5 {encode(secret)}"]
    with connect(PORTS["inline"]) as client:
        assert client.docmd(misplaced[0])[0] == 503  # before EHLO
        client.ehlo()
        for line in (*misplaced[1:], f"AUTH PLAIN {encode(secret)}"):
            assert client.docmd(line)[0] in (501, 504), line
        assert client.docmd("AUTH", "FOO")[0] == 504
        assert client.docmd(encode(secret))[0] == 500  # as a client says that does not wait for an answer
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd(secret)[0] == 501
    with connect(PORTS["inline"]) as client:
        client.ehlo()
        assert login(client, "eve", secret) == NO
        assert client.docmd(encode(secret))[0] == 500
    until(lambda: len(logged(daemon, "user=eve result=permfail")) == 1, what="the log")
    assert_unsaid(daemon.log, secret)
    assert len(logged(daemon, 'command="AUTH', "(...)")) > 3
