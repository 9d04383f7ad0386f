"""AUTH of the real daemon: against every kind of table, a program, and PAM; by other people's mail programs.

Each login that fails comes from an address of its own, as the answers to one address come later and later.
"""

import base64
import email
import itertools
import os
import pwd
import re
import smtplib
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtpd.tables import credential
from tests.live import submission
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.encrypted import careless
from tests.live.network import Network
from tests.live.recipient import logged
from tests.live.submission import assert_unsaid, hashed

PORTS = {name: 2501 + number for number, name in enumerate(("inline", "file", "scram", "rows", "program", "system"))}
CONF = """
smtp limit tarpit 0
table files file:{{directory}}/files
table verifiers file:{{directory}}/verifiers
table rows sqlite:{{directory}}/rows.conf
table answers {answers}
table identities {{{{ "amy" = "amy@here.test, @amy.test" }}}}
listen on 0.0.0.0 port {inline} smtps pki mx.here.test auth {{{{ "amy" = "{amy}" }}}} \\
    senders <identities> masquerade received-auth
listen on 0.0.0.0 port {file} tls-require pki mx.here.test auth <files> hostname mx.here.test
listen on 0.0.0.0 port {scram} tls-require pki mx.here.test auth <verifiers> hostname mx.here.test
listen on 0.0.0.0 port {rows} smtps pki mx.here.test auth <rows>
listen on 0.0.0.0 port {program} smtps pki mx.here.test auth <answers>
listen on 0.0.0.0 port {system} smtps pki mx.here.test auth
action "local" maildir
match from auth for domain "here.test" action "local"
"""
STARTTLS = ("file", "scram")
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
        network.add("eth1", "198.51.100.1/24", "198.51.100.7/24", "198.51.100.8/24")
        yield network


@pytest.fixture(scope="module")
def program():
    """Where programs of tables are looked for, under a name that nobody else has."""
    name = f"logins{os.getpid()}"
    path = Path(f"/usr/local/libexec/smtpd/table-{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM)
    path.chmod(0o755)
    yield name
    path.unlink()
    if not list(path.parent.iterdir()):
        path.parent.rmdir()


@pytest.fixture(scope="module")
def daemon(ground, users, program):
    conf = CONF.format(amy=hashed(PASSWORD), answers=program, **PORTS)
    daemon = Daemon(ground, submission.PKI + conf, port=2500)
    submission.certify(daemon)
    submission.write_table(daemon, "files", HASHES)
    submission.write_table(daemon, "verifiers", {"sam": credential.make_verifier(ASCII.encode()), "eve": "!"})
    write_rows(daemon, {"rosa": hashed(PASSWORD)})
    with started(daemon, "-v"):
        yield daemon
        assert_unsaid(daemon.log, PASSWORD, ASCII, OF_THE_PROGRAM)


HASHES = {
    "sha512": hashed(PASSWORD),
    "yescrypt": hashed(PASSWORD, "$y$", 1),
    "bcrypt": hashed(PASSWORD, "$2b$", 4),
    "argon": credential.make_hash(PASSWORD.encode()),
    "scram": credential.make_verifier(ASCII.encode()),
    "swan": hashed(ASCII),
    "locked": "!" + hashed(PASSWORD),
    "starred": "*" + hashed(PASSWORD),
    "plain": PASSWORD.partition(" ")[0],
    "md5": hashed(PASSWORD, "$1$", 0),
}


def write_rows(daemon, hashes):
    """An SQLite database of users."""
    path = daemon.directory / "rows.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE users (name TEXT, hash TEXT)")
        database.executemany("INSERT INTO users VALUES (?, ?)", hashes.items())
    database.close()
    query = "SELECT name, hash FROM users WHERE name = ?"
    (daemon.directory / "rows.conf").write_text(f"dbpath {path}\nquery_credentials {query}\n")


# -- people who log in ----------------------------------------------------------------

_hosts = itertools.count(2)


def elsewhere():
    """An address that nobody has failed from."""
    number = next(_hosts)
    return f"127.1.{number >> 8}.{number & 255}"


def connect(port, source=None, address="127.0.0.1", smtps=True):
    where = {"local_hostname": "client.test", "timeout": 30, "source_address": (source or elsewhere(), 0)}
    if smtps:
        return smtplib.SMTP_SSL(address, port, context=careless(), **where)
    client = smtplib.SMTP(address, port, **where)
    client.starttls(context=careless())
    return client


def encode(*parts):
    return base64.b64encode("\0".join(parts).encode()).decode()


def plain(client, user, password):
    code, text = client.docmd("AUTH", f"PLAIN {encode('', user, password)}")
    return f"{code} {text.decode()}"


def login(client, user, password):
    client.docmd("AUTH", "LOGIN")
    client.docmd(encode(user))
    code, text = client.docmd(encode(password))
    return f"{code} {text.decode()}"


def attempt(name, user, password, mechanism=plain, source=None, address="127.0.0.1"):
    with connect(PORTS[name], source, address, smtps=name not in STARTTLS) as client:
        client.ehlo()
        return mechanism(client, user, password)


def all_at_once(attempts):
    """Their answers, and how many seconds each took."""

    def timed(arguments):
        begun = time.monotonic()
        return attempt(*arguments), time.monotonic() - begun

    with ThreadPoolExecutor(len(attempts)) as pool:
        return list(pool.map(timed, attempts))


OK = "235 2.7.0 Authentication succeeded"
NO = "535 5.7.8 Authentication failed"
LATER = "454 4.7.0 Temporary authentication failure"
GOOD = [("inline", "amy", PASSWORD), ("rows", "rosa", PASSWORD), ("program", "paul", OF_THE_PROGRAM)]
GOOD += [("file", user, PASSWORD) for user in ("sha512", "yescrypt", "bcrypt", "argon")]
GOOD += [("file", "scram", ASCII), ("scram", "sam", ASCII)]


@pytest.mark.parametrize("mechanism", [plain, login])
@pytest.mark.parametrize("name, user, password", GOOD, ids=lambda value: value if value in PORTS else None)
def test_who_knows_the_password_gets_in(daemon, name, user, password, mechanism):
    assert attempt(name, user, password, mechanism) == OK


def test_who_does_not_is_told_so_and_not_at_once(daemon):
    wrong = [(name, user, password + "x") for name, user, password in GOOD]
    wrong += [("file", user, PASSWORD) for user in ("locked", "starred", "plain", "md5", "unknown", "sha512 ")]
    wrong += [("rows", "rosa' OR '1", PASSWORD), ("file", "plain", PASSWORD.partition(" ")[0])]
    for one, (answer, seconds) in zip(wrong, all_at_once(wrong), strict=True):
        assert answer == NO, one[:2]
        assert seconds >= 1, one[:2]


def test_a_user_has_one_chance_after_the_other_and_each_takes_longer(daemon):
    source = elsewhere()
    with connect(PORTS["inline"], source) as client:
        client.ehlo()
        for least in (1, 2):
            begun = time.monotonic()
            assert plain(client, "nobody-at-all", PASSWORD) == NO
            assert time.monotonic() - begun >= least


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
    name = f"smtpd-worker-{os.getpid()}"
    free = set(range(60, 100)) - {entry.pw_uid for entry in pwd.getpwall()}
    subprocess.run(["useradd", "--uid", str(max(free)), "--no-create-home", name], check=True)
    set_password(name)
    yield name
    subprocess.run(["userdel", name], check=True)


def set_password(name):
    subprocess.run(["chpasswd"], input=f"{name}:{ASCII}\n", text=True, check=True)


def test_a_user_of_the_system_gets_in(daemon, person):
    assert attempt("system", person, ASCII) == OK
    assert attempt("system", person, ASCII, login) == OK


def test_none_with_a_wrong_password_and_none_of_the_systems_own(daemon, person, worker):
    wrong = [("system", person, ASCII + "x"), ("system", worker, ASCII), ("system", "root", ASCII)]
    wrong += [("system", "_smtpq", "x"), ("system", "nobody-there", ASCII), ("system", "../etc/passwd", ASCII)]
    for one, (answer, seconds) in zip(wrong, all_at_once(wrong), strict=True):
        assert answer == NO, one[:2]
        assert seconds >= 1, one[:2]
    assert logged(daemon, f"password of {person}: no, wrong password")
    assert not logged(daemon, "password of root")  # PAM was not even asked


# -- what others have -----------------------------------------------------------------------


def swaks(port, *words):
    command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--tls", "--from", "amy@there.test"]
    command += ["--to", "bob@here.test", "--quit-after", "AUTH", "--local-interface", elsewhere()]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


KNOWN = ["PLAIN", "LOGIN"]
UNKNOWN = ["CRAM-MD5", "CRAM-SHA1", "DIGEST-MD5", "NTLM"]


@pytest.mark.parametrize("mechanism", KNOWN)
def test_swaks_logs_in(daemon, mechanism):
    code, text = swaks(PORTS["file"], "--auth", mechanism, "--auth-user", "swan", "--auth-password", ASCII)
    assert code == 0 and OK in text, text


@pytest.mark.parametrize("mechanism", UNKNOWN)
def test_swaks_is_not_offered_what_there_is_not(daemon, mechanism):
    code, text = swaks(PORTS["file"], "--auth", mechanism, "--auth-user", "swan", "--auth-password", ASCII)
    assert code == 28, text
    assert "Auth not attempted, requested type not available" in text, text


@pytest.mark.parametrize("mechanism", [*UNKNOWN, "SCRAM-SHA-1", "SCRAM-SHA-256", "GSSAPI", "EXTERNAL", "ANONYMOUS"])
def test_who_tries_it_all_the_same_is_refused_in_order(daemon, mechanism):
    with connect(PORTS["file"], smtps=False) as client:
        client.ehlo()
        assert client.docmd("AUTH", mechanism) == (504, b"5.5.4 Unknown authentication mechanism")  # RFC 4954 4
        assert plain(client, "swan", ASCII) == OK


def test_scram_is_offered_where_it_is_good_for_all(daemon):
    for name, expected in (("file", "PLAIN LOGIN"), ("scram", "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN")):
        with connect(PORTS[name], smtps=False) as client:
            client.ehlo()
            assert client.esmtp_features["auth"].split() == expected.split()


def msmtp(daemon, user, password):
    rc = daemon.directory / "msmtprc"
    rc.touch(mode=0o600)
    rc.write_text(
        f"account default\nhost 127.0.0.1\nport {PORTS['scram']}\nsource_ip {elsewhere()}\ndomain client.test\n"
        f"tls on\ntls_trust_file {daemon.ca}\nauth scram-sha-256\nuser {user}\npassword {password}\n"
    )
    command = ["msmtp", "-C", rc, "--debug", "-f", f"{user}@there.test", "bob@here.test"]
    done = subprocess.run(command, input="Subject: x\n\nx\n", capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def gsasl(daemon, mechanism, user, password):
    command = [
        "gsasl",
        "--smtp",
        "--connect",
        f"localhost:{PORTS['scram']}",
        "-m",
        mechanism,
        "-a",
        user,
        "-p",
        password,
    ]
    command += [f"--x509-ca-file={daemon.ca}", "--verbose"]
    command += [] if mechanism.endswith("PLUS") else ["--no-cb"]  # or it would not do with less than it could
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_msmtp_logs_in_by_scram(daemon):
    text = msmtp(daemon, "sam", ASCII)
    assert "--> AUTH SCRAM-SHA-256" in text and OK in text, text
    assert NO in msmtp(daemon, "sam", ASCII + "x")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_gsasl_logs_in_by_scram(daemon, mechanism):
    text = gsasl(daemon, mechanism, "sam", ASCII)
    assert f"AUTH {mechanism}" in text and OK in text, text
    assert NO in gsasl(daemon, mechanism, f"no-{mechanism}", ASCII)


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


def test_their_mail_says_who_they_are(daemon, users, alice):
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
    secret = f"{ASCII}-{os.getpid()}"
    misplaced = [f"AUTH PLAIN {encode('', 'eve', secret)}", f"auth  plain\t{encode('', 'eve', secret)}"]
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


# -- who guesses ------------------------------------------------------------------------------------

COUNTING = """
smtp limit auth-failure-rate 2
listen on 0.0.0.0 port {port} smtps pki mx.here.test auth {{{{ {entries} }}}}
action "local" maildir
match from auth for any action "local"
"""


@pytest.fixture(scope="module")
def counting(ground, users):
    entries = ", ".join(f'"{user}" = "{hashed(ASCII)}"' for user in ("amy", "bob", "carol"))
    daemon = Daemon(ground, submission.PKI + COUNTING.format(port=2600, entries=entries), port=2600)
    submission.certify(daemon)
    with started(daemon):
        yield daemon
        assert_unsaid(daemon.log, ASCII)


PORTS["counting"] = 2600


def counted_out(daemon):
    stats = dict(line.split("=") for line in daemon.smtpctl("show", "stats").stdout.split())
    return int(stats.get("lookup.login.counted-out", 0))


def test_an_address_that_has_failed_too_often_is_not_listened_to(counting):
    """With no password, of nobody; others are."""
    before = counted_out(counting)
    guesses = [("counting", f"guess{number}", "x", plain, "198.51.100.7", "198.51.100.1") for number in (1, 2)]
    answers = all_at_once(guesses)
    assert [answer for answer, _ in answers] == [NO, NO]
    assert max(seconds for _, seconds in answers) >= 2  # the second one later
    assert attempt("counting", "amy", ASCII, plain, "198.51.100.7", "198.51.100.1") == LATER
    assert attempt("counting", "amy", ASCII, plain, "198.51.100.8", "198.51.100.1") == OK
    assert counted_out(counting) == before + 1
    assert logged(counting, "login from 198.51.100.7 not looked at")


def test_a_user_whom_others_guess_at_gets_in_from_where_they_are_known(counting):
    known = elsewhere()
    assert attempt("counting", "bob", ASCII, source=known) == OK
    answers = all_at_once([("counting", "bob", "x"), ("counting", "BOB", "x")])
    assert [answer for answer, _ in answers] == [NO, NO]
    assert attempt("counting", "bob", ASCII) == LATER
    assert attempt("counting", "bob", ASCII, source=known) == OK
    assert attempt("counting", "carol", ASCII) == OK
