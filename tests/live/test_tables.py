"""Tables that go wrong while the daemon runs, and domains that are written in all ways."""

import subprocess

import pytest

from smtpctl import makemap
from tests.live.conftest import PYTHON, Daemon, started
from tests.live.recipient import explain, logged, rcpt, send_and_wait, write
from tests.trusted import OPTIONS

CONF = """
listen on 127.0.0.1 port {port}

table aliases file:{directory}/aliases
table domains file:{directory}/domains
table networks file:{directory}/networks
table made db:{directory}/made.db
table people passwd:{directory}/people

action "in" maildir alias <aliases>
action "virtual" maildir virtual <made>
action "people" maildir "{directory}/mail/%{{dest.user}}" userbase <people> user {alice}

match from any for domain "münchen.test" action "virtual"
match from any for domain regex "^xn--kln-" action "in"
match from any for domain "people.test" action "people"
match from src <networks> for domain <domains> action "in"
"""
LATIN = b"# M\xfcller\n"
GOOD = {
    "aliases": b"\xef\xbb\xbfstaff:\n  {alice},\n  {bob}\n" + LATIN,
    "domains": "here.test # M\udcfcller\nxn--mller-kva.test\n".encode(errors="surrogateescape"),
    "networks": b"127.0.0.0/8\n",
    "people": b"amy:*:1001:1001:M\xfcller:{home}::quota=1G\neve:*::::{home}\n",
}
BAD = {
    "aliases": (b"staff: {bob}\nabuse:\n", "line 2: key without a value"),
    "domains": (b"there.test\nm\xfcller.test\n", "line 2: not UTF-8"),
    "networks": (b"127.0.0.0/8\n\n127.0.0.1/33\n", "line 3: "),
    "people": (b"amy\n", "line 1: expected name:password"),
}


def put(daemon, name, content, words):
    text = content.decode(errors="surrogateescape")
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    path = daemon.directory / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o644)


@pytest.fixture(scope="module")
def words(users, alice, bob):
    return {"alice": alice, "bob": bob, "home": str(users.home(alice))}


@pytest.fixture
def daemon(ground, words):
    made = Daemon(ground, "")
    made.conf.write_text(CONF.format(port=made.port, directory=made.directory, **words), encoding="utf-8")
    for name, content in GOOD.items():
        put(made, name, content, words)
    write(made.directory / "made", f"amy@xn--mnchen-3ya.test: {words['alice']}\n@MÜNCHEN.test.: {words['bob']}\n")
    assert makemap.main([str(made.directory / "made")]) == 0
    return made


def test_what_goes_wrong_while_it_runs_leaves_the_old_tables_in_force(daemon, words):
    with started(daemon):
        for name, (content, reason) in BAD.items():
            put(daemon, name, content, words)
            updated = daemon.smtpctl("update", "table", name, check=False)
            assert updated.returncode == 1
            assert f"{daemon.directory}/{name}: {reason}" in updated.stderr
            assert logged(daemon, f"table {name} stays as it was: ", f"{daemon.directory}/{name}: {reason}")
        (daemon.directory / "made.db").write_bytes(b"nonsense")
        assert [reply[:3] for reply in rcpt(daemon, *RECIPIENTS)] == ["250"] * len(RECIPIENTS)
        assert logged(daemon, "table made: ", "not made by makemap: the table stays as it was")
        send_and_wait(daemon, "staff@here.test")
        put(daemon, "domains", b"there.test\n", words)
        assert daemon.smtpctl("update", "table", "domains").returncode == 0
        assert [reply[:3] for reply in rcpt(daemon, "staff@there.test", "staff@here.test")] == ["250", "550"]


RECIPIENTS = [
    "staff@here.test",
    "staff@HERE.test.",
    "staff@xn--mller-kva.test",
    "amy@xn--mnchen-3ya.test",
    "anybody@XN--MNCHEN-3YA.Test.",
    "staff@xn--kln-sna.test",
    "amy@people.test",
    "eve@people.test",
]


def test_a_domain_is_one_however_a_client_writes_it(daemon, words):
    with started(daemon), daemon.client() as client:
        client.ehlo()
        client.sock.sendall("MAIL FROM:<eva@müller.test> SMTPUTF8\r\n".encode())
        assert client.getreply()[0] == 250
        for recipient in ("staff@MÜLLER.test", "amy@münchen.test", "anybody@München.test", "staff@köln.test"):
            client.sock.sendall(f"RCPT TO:<{recipient}>\r\n".encode())
            assert client.getreply()[0] == 250, recipient
        assert [reply[:3] for reply in rcpt(daemon, *RECIPIENTS)] == ["250"] * len(RECIPIENTS)
        assert explain(daemon, "amy@münchen.test")[-1] == explain(daemon, "amy@xn--mnchen-3ya.test")[-1]


@pytest.mark.parametrize("name", BAD)
def test_a_table_that_is_wrong_at_the_start_is_an_error_with_its_line(daemon, words, name):
    content, reason = BAD[name]
    put(daemon, name, content, words)
    line = reason.removeprefix("line ").partition(":")[0]
    command = [PYTHON, "-m", "smtpd", *OPTIONS, "-f", str(daemon.conf)]
    checked = subprocess.run([*command, "-n"], capture_output=True, text=True, cwd="/", timeout=60)
    assert checked.returncode == 1
    assert f"{daemon.directory}/{name}:{line}:1: " in checked.stderr
    start = [*command, "-d", "--state", str(daemon.state)]
    refused = subprocess.run(start, capture_output=True, text=True, cwd="/", timeout=60)
    assert refused.returncode == 1
    assert f"{daemon.directory}/{name}:{line}:1: " in refused.stderr
