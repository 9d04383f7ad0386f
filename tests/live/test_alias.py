"""Who a recipient turns out to be: aliases and virtual addresses, out of tables of all kinds, by SMTP and `smtpd -n`.

One daemon has a domain for each kind of table; the other one has one alias file, no commands, and another delimiter.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from smtpctl import makemap
from tests.live.conftest import PYTHON, Daemon, empty_maildir, pids_of, started, until
from tests.live.recipient import arrived, envelopes, explain, logged, rcpt, send, send_and_wait, write

CONF = """
listen on 127.0.0.1 port {port}
alias-commands user {runner}

table text file:{directory}/text
table made db:{directory}/made.db
table rows sqlite:{directory}/rows.conf
table asked {program}:{directory}/answers
table mapped file:{directory}/virtual
table strict {{ "info@strict.test" = "{alice}" }}

action "text" maildir alias <text>
action "made" maildir alias <made>
action "rows" maildir alias <rows>
action "asked" maildir alias <asked>
action "virtual" maildir virtual <mapped>
action "strict" maildir virtual <strict>
action "expand" expand-only alias <text>

match from any for domain {{ "virtual.test", "other.test" }} action "virtual"
match from any for domain "strict.test" action "strict"
match from any for domain "text.test" action "text"
match from any for domain "made.test" action "made"
match from any for domain "rows.test" action "rows"
match from any for domain "asked.test" action "asked"
match from any for domain "expand.test" action "expand"
"""

TEXT = """
# comments, and what is behind a blank and a hash, do not count
staff:     {alice}, {bob}   # both
{alice}:   {alice}          # names itself
Elsewhere  {bob}@made.test
tagged     {bob}
tagged+x   {alice}
root:      {alice}
nowhere:   /dev/null
members:   :include:{directory}/members
gone:      :error:550 5.1.6 moved to there.test
again:     error:450 come back
half:      {alice}, nobody-of-this-name
strange:   {alice}, nobody@elsewhere.test
one:       two
two:       one
deep0: deep1, {alice}
deep1: deep2
deep2: deep3
deep3: deep4
deep4: deep5
deep5: deep6
deep6: deep7
deep7: deep8
deep8: deep9
deep9: deep10
deep10: {alice}
broken:    "|unfinished
run:       |cat >{out}/ran
box:       {out}/box
swap:      |touch {out}/before
twice:     {alice}, root, staff, {bob}
both:      {alice}, "|cat >{out}/both"
"""
MEMBERS = "# comment\n{alice}\nnobody of this name, {bob}\n{bob}\n"
VIRTUAL = """
bob+lists@virtual.test   :error:550 user+tag@domain
bob@virtual.test         :error:550 user@domain
amy+lists                :error:550 user+tag
amy                      :error:550 user
joe@virtual.test         {alice}, sue
ghost@virtual.test       nobody-of-this-name
@virtual.test            :error:550 any at domain
@                        :error:550 any
sue                      {bob}
"""
ANSWERS = "staff {alice}\nquick {bob}\nslow {alice}\n"
ROWS = "dbpath {directory}/rows.sqlite\nquery_alias SELECT target FROM aliases WHERE name = ?\n"


@pytest.fixture(scope="module")
def runner(users):
    return users.make("smtpd-runner")


@pytest.fixture(scope="module")
def program():
    """Where programs of tables are looked for, under a name that nobody else has."""
    name = f"live{os.getpid()}"
    path = Path(f"/usr/local/libexec/smtpd/table-{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("table-live.sh"), path)
    path.chmod(0o755)
    yield name
    path.unlink()
    if not list(path.parent.iterdir()):
        path.parent.rmdir()


@pytest.fixture(scope="module")
def out(ground, runner):
    """Where commands of aliases leave something."""
    path = ground / "out"
    path.mkdir()
    shutil.chown(path, runner)
    return path


@pytest.fixture(scope="module")
def daemon(ground, users, alice, bob, runner, program, out):
    daemon = Daemon(ground, "")
    words = {"alice": alice, "bob": bob, "runner": runner, "program": program, "out": out, "port": daemon.port}
    words["directory"] = directory = daemon.directory
    for name, text in (("text", TEXT), ("members", MEMBERS), ("virtual", VIRTUAL), ("answers", ANSWERS)):
        write(directory / name, text.format(**words))
    write(directory / "rows.conf", ROWS.format(**words))
    write(directory / "made", f"staff {alice}, {bob}\n")
    assert makemap.main([str(directory / "made")]) == 0
    with sqlite3.connect(directory / "rows.sqlite") as rows:
        rows.execute("CREATE TABLE aliases (name, target)")
        rows.executemany("INSERT INTO aliases VALUES ('staff', ?)", [(alice,), (bob,)])
    rows.close()
    daemon.conf.write_text(CONF.format(**words))
    with started(daemon):
        yield daemon


@pytest.fixture(scope="module")
def plain(ground, users, alice):
    """The aliases that newaliases knows; a sub-address begins with _."""
    daemon = Daemon(ground, "")
    directory = daemon.directory
    write(directory / "aliases", f"first: {alice}\nrun: |touch {directory}/ran\nboth: {alice}, /tmp/file\n")
    daemon.configure(
        "listen on 127.0.0.1 port {port}\nsmtp sub-addr-delim _\ntable aliases file:{directory}/aliases\n"
        'action "in" maildir alias <aliases>\nmatch from any for any action "in"\n'
    )
    with started(daemon):
        yield daemon


@pytest.fixture
def boxes(users, alice, bob):
    """Alice's home and Bob's, without mail."""
    homes = users.home(alice), users.home(bob)
    for home in homes:
        empty_maildir(home)
    return homes


# -- aliases in a text file ------------------------------------------------------------

VERDICTS = {
    "staff@text.test": (2, ""),
    "STAFF+x@text.test": (2, ""),
    "{alice}@text.test": (1, ""),
    "root@text.test": (1, ""),
    "nowhere@text.test": (1, ""),
    "members@text.test": (2, ""),
    "run@text.test": (1, ""),
    "both@text.test": (2, ""),
    "elsewhere@text.test": (1, ""),
    "gone@text.test": (0, "550 5.1.6 moved to there.test"),
    "again@text.test": (0, "450 4.2.0 come back"),
    "half@text.test": (0, "550 5.1.1 Invalid recipient: <half@text.test>"),
    "strange@text.test": (0, "550 5.7.1 Invalid recipient: <strange@text.test>"),
    "one@text.test": (0, "524 5.2.4 Recipient leads to nobody: <one@text.test>"),
    "deep0@text.test": (0, "524 5.2.4 Recipient is forwarded too often: <deep0@text.test>"),
    "broken@text.test": (0, "424 4.2.4 Aliases of the recipient are not understood: <broken@text.test>"),
    "daemon@text.test": (0, "550 5.2.1 Invalid recipient: <daemon@text.test>"),
    "staff@expand.test": (0, "524 5.2.4 Recipient is forwarded to nobody: <staff@expand.test>"),
    "{alice}@expand.test": (0, "524 5.2.4 Recipient is forwarded to nobody: <{alice}@expand.test>"),
    "elsewhere@expand.test": (1, ""),
    "run@expand.test": (1, ""),
    "staff@made.test": (2, ""),
    "staff@rows.test": (2, ""),
    "'or'1'='1@rows.test": (0, "550 5.1.1 Invalid recipient: <'or'1'='1@rows.test>"),
    # each key of a virtual table before the next one
    "bob+lists@virtual.test": (0, "550 5.2.0 user+tag@domain"),
    "bob+x@virtual.test": (0, "550 5.2.0 user@domain"),
    "bob@virtual.test": (0, "550 5.2.0 user@domain"),
    "amy+lists@virtual.test": (0, "550 5.2.0 user+tag"),
    "amy+lists@other.test": (0, "550 5.2.0 user+tag"),
    "amy+x@other.test": (0, "550 5.2.0 user"),
    "zoe@virtual.test": (0, "550 5.2.0 any at domain"),
    "zoe@other.test": (0, "550 5.2.0 any"),
    "bob@other.test": (0, "550 5.2.0 any"),
    "joe@virtual.test": (2, ""),
    # a user that comes out of the table is none for its catch-alls
    "ghost@virtual.test": (0, "550 5.1.1 Invalid recipient: <ghost@virtual.test>"),
    "info@strict.test": (1, ""),
    "sales@strict.test": (0, "524 5.2.4 Invalid recipient: <sales@strict.test>"),
    "{alice}@strict.test": (0, "524 5.2.4 Invalid recipient: <{alice}@strict.test>"),
}


def test_every_alias_leads_where_its_table_says(daemon, alice):
    expected = {key.format(alice=alice): (count, said.format(alice=alice)) for key, (count, said) in VERDICTS.items()}
    replies = {recipient: rcpt(daemon, recipient)[0] for recipient in expected}
    right = {recipient: said or f"250 2.1.5 {recipient}" for recipient, (_, said) in expected.items()}
    assert {to: reply for to, reply in replies.items() if not agrees(reply, right[to])} == {}


def agrees(reply, expected):
    return reply.startswith("250 ") if expected.startswith("250 ") else reply == expected


EXPLAINED = [
    "staff@text.test",
    "members@text.test",
    "half@text.test",
    "one@text.test",
    "run@expand.test",
    "staff@made.test",
    "staff@rows.test",
    "bob+x@virtual.test",
    "joe@virtual.test",
    "ghost@virtual.test",
]


@pytest.mark.parametrize("recipient", EXPLAINED)
def test_explain_comes_to_the_same(daemon, recipient):
    count, said = VERDICTS[recipient]
    verdict = f"accepted: {count} envelope{'s' * (count != 1)}" if count else f"refused: {said}"
    assert explain(daemon, recipient)[-1] == verdict


def test_explain_tells_the_way(daemon, alice, bob):
    lines = [line.strip() for line in explain(daemon, "joe@virtual.test")]
    assert f"<mapped> has joe@virtual.test: {alice}, sue" in lines
    assert f"<mapped> has sue: {bob}" in lines
    assert f'= delivered to {alice} by action "virtual" (maildir)' in lines
    assert f'= delivered to {bob} by action "virtual" (maildir)' in lines


def test_explain_leaves_programs_to_the_daemon(daemon):
    assert explain(daemon, "staff@asked.test")[-1].startswith("refused: 424 4.2.4 ")


@pytest.mark.parametrize("domain", ["text.test", "made.test", "rows.test"])
def test_all_members_of_an_alias_get_the_mail(daemon, boxes, domain):
    subject = send(daemon, f"staff@{domain}")
    for home in boxes:
        (mail,) = until(lambda home=home: arrived(home, subject), what="delivery")
        assert f"\nDelivered-To: staff@{domain}\n".encode() in mail


def test_an_alias_with_a_sub_address_comes_before_that_without(daemon, boxes):
    tagged, other = send(daemon, "tagged+x@text.test"), send(daemon, "tagged+y@text.test")
    until(lambda: arrived(boxes[0], tagged) and arrived(boxes[1], other), what="delivery")
    assert not arrived(boxes[1], tagged) and not arrived(boxes[0], other)


def test_a_virtual_address_may_name_another_entry(daemon, boxes):
    subject = send(daemon, "joe@virtual.test")
    until(lambda: all(arrived(home, subject) for home in boxes), what="delivery")


def test_a_recipient_that_is_named_twice_gets_one_mail(daemon, boxes, alice):
    """One for each address that the client named, as that is told in the mail."""
    subject = send_and_wait(daemon, "twice@text.test")
    assert len(arrived(boxes[0], subject)) == 1
    with daemon.client() as client:
        client.sendmail("amy@there.test", [f"{alice}@text.test", "root@text.test"], "Subject: two names\r\n\r\n")
    until(lambda: len(arrived(boxes[0], "two names")) == 2, what="delivery")


def test_dev_null_takes_the_mail_and_says_so(daemon):
    send_and_wait(daemon, "nowhere@text.test")
    assert logged(daemon, " to=<nowhere@text.test>", "result=Ok stat=Discarded")


def test_an_include_file_counts_as_it_is_now(daemon, boxes, alice):
    assert rcpt(daemon, "members@text.test")[0].startswith("250")
    members = daemon.directory / "members"
    before = members.read_text()
    write(members, ":error:550 closed\n")
    assert rcpt(daemon, "members@text.test") == ["550 5.2.0 closed"]
    members.rename(daemon.directory / "away")
    assert rcpt(daemon, "members@text.test") == ["550 5.2.0 closed"]
    assert logged(daemon, f"include {members}: ", "its members stay as they were")
    write(members, before)
    subject = send(daemon, "members@text.test")
    until(lambda: all(arrived(home, subject) for home in boxes), what="delivery")
    assert logged(daemon, f"include {members}: line 3: ")


# -- commands that alias files name ---------------------------------------------------------


def test_commands_of_an_alias_file_run_as_the_user_who_is_there_for_them(daemon, out, runner, boxes):
    subject = send(daemon, "both@text.test")
    until(lambda: arrived(boxes[0], subject), what="delivery to the other member")
    for recipient, file in (("run@text.test", "ran"), ("box@text.test", "box"), ("run@expand.test", "ran")):
        path = out / file
        path.unlink(missing_ok=True)
        subject = send_and_wait(daemon, recipient)
        assert f"Subject: {subject}\n" in path.read_text()
        assert path.owner() == runner
    assert (out / "both").owner() == runner


def test_a_command_that_was_exchanged_while_its_mail_waited_does_not_run(daemon, out):
    daemon.smtpctl("pause", "mda")
    send(daemon, "swap@text.test")
    text = daemon.directory / "text"
    write(text, text.read_text().replace(f"touch {out}/before", f"touch {out}/after"))
    daemon.smtpctl("resume", "mda")
    until(lambda: logged(daemon, " to=<swap@text.test>", "result=PermFail"), what="a failure for good")
    (row,) = envelopes(daemon)
    assert "the alias file does not name this any more" in row[-1]
    assert not (out / "before").exists() and not (out / "after").exists()
    daemon.smtpctl("remove", row[0])
    until(lambda: not envelopes(daemon), what="an empty queue")


def test_an_include_file_names_no_commands(daemon, out):
    members = daemon.directory / "members"
    before = members.read_text()
    for line in (f"|touch {out}/included", f"{out}/included"):
        write(members, line + "\n")
        assert rcpt(daemon, "members@text.test")[0].startswith("424 4.2.4 ")
    write(members, before)


@pytest.mark.parametrize("recipient", ["run@here.test", "both@here.test"])
def test_no_alias_runs_a_command_unless_the_configuration_names_its_user(plain, recipient):
    (reply,) = rcpt(plain, recipient)
    assert reply.startswith("424 4.2.4 ")
    assert explain(plain, recipient)[-1] == f"refused: {reply}"
    assert not (plain.directory / "ran").exists()


def test_a_database_names_no_commands(daemon, out):
    made = daemon.directory / "made"
    before = made.read_text()
    write(made, before + f"run |touch {out}/made\n")
    assert makemap.main([str(made)]) == 0
    assert rcpt(daemon, "run@made.test")[0].startswith("424 4.2.4 ")


# -- changes ------------------------------------------------------------------------------------


def test_a_made_table_is_taken_as_soon_as_it_is_made(daemon, alice):
    made = daemon.directory / "made"
    assert rcpt(daemon, "fresh@made.test")[0].startswith("550")
    write(made, made.read_text() + f"fresh {alice}\n")
    assert rcpt(daemon, "fresh@made.test")[0].startswith("550")
    assert makemap.main([str(made)]) == 0
    assert rcpt(daemon, "fresh@made.test")[0].startswith("250")


def test_a_database_of_another_user_counts_as_it_is_now(daemon, alice):
    assert rcpt(daemon, "fresh@rows.test")[0].startswith("550")
    with sqlite3.connect(daemon.directory / "rows.sqlite") as rows:
        rows.execute("INSERT INTO aliases VALUES ('fresh', ?)", (alice,))
    rows.close()
    assert rcpt(daemon, "fresh@rows.test")[0].startswith("250")


@pytest.mark.parametrize("by_rename", [True, False], ids=["exchanged", "written"])
def test_an_alias_file_is_read_again_when_that_is_said(plain, alice, by_rename):
    aliases = plain.directory / "aliases"
    name = f"fresh{by_rename:d}"
    text = aliases.read_text() + f"{name}: {alice}\n"
    if by_rename:
        write(aliases, text)
    else:
        aliases.write_text(text)
    assert rcpt(plain, f"{name}@here.test")[0].startswith("550")
    plain.smtpctl("update", "table", "aliases")
    assert rcpt(plain, f"{name}@here.test")[0].startswith("250")


def newaliases(daemon):
    command = [PYTHON, "-m", "smtpctl", "newaliases", "-f", str(daemon.conf), "--state", str(daemon.state)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)


def test_newaliases_checks_the_file_and_has_it_read_again(plain, alice):
    aliases = plain.directory / "aliases"
    before = aliases.read_text()
    write(aliases, before + f"newest: {alice}\n")
    done = newaliases(plain)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert [f"{aliases}:{number}:" in line for number, line in zip((2, 3), warned, strict=True)] == [True, True]
    assert done.stdout.startswith(f"{aliases}: ")
    assert rcpt(plain, "newest@here.test")[0].startswith("250")
    write(aliases, "newest: /bin/sh -c, |\n")
    assert newaliases(plain).returncode == 1
    assert rcpt(plain, "newest@here.test", "first@here.test")[1].startswith("250")
    write(aliases, before)


def test_a_table_that_cannot_be_read_stays_as_it_was(plain, alice):
    aliases = plain.directory / "aliases"
    aliases.rename(plain.directory / "away")
    done = plain.smtpctl("update", "table", "aliases", check=False)
    assert done.returncode == 1 and str(aliases) in done.stdout + done.stderr
    assert rcpt(plain, "first@here.test")[0].startswith("250")
    (plain.directory / "away").rename(aliases)


def test_update_of_a_table_that_there_is_not_is_an_error(plain):
    assert plain.smtpctl("update", "table", "nonesuch", check=False).returncode == 1


# -- sub-addresses --------------------------------------------------------------------------------


def test_a_sub_address_begins_at_the_delimiter_that_is_configured(plain, boxes, alice):
    subject = send(plain, f"{alice}_lists@here.test")
    (mail,) = until(lambda: arrived(boxes[0], subject), what="delivery")
    assert f"\nDelivered-To: {alice}_lists@here.test\n".encode() in mail
    told = f'= delivered to {alice} (sub-address lists) by action "in" (maildir)'
    assert told in map(str.strip, explain(plain, f"{alice}_lists@here.test"))
    assert rcpt(plain, f"{alice}+lists@here.test")[0].startswith("550 5.1.1 ")


# -- programs -----------------------------------------------------------------------------------------


@pytest.fixture
def asked(daemon):
    """The daemon, once its program answers."""
    until(lambda: rcpt(daemon, "staff@asked.test")[0].startswith("250"), what="an answer of the program")
    return daemon


def test_a_program_answers_for_a_table(asked, boxes):
    assert rcpt(asked, "nobody-of-this-name@asked.test")[0].startswith("550 5.1.1 ")
    subject = send(asked, "quick@asked.test")
    until(lambda: arrived(boxes[1], subject), what="delivery")


def test_a_program_runs_as_a_user_for_programs_in_a_session_of_its_own(asked):
    program = set(pids_of("_smtpf")) & set(asked.descendants())
    assert program
    for pid in program:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "\nNoNewPrivs:\t1\n" in status and "\nCapBnd:\t0000000000000000\n" in status
        assert os.getsid(pid) not in {os.getsid(other) for other in asked.pids().values()}


def test_a_slow_program_delays_only_its_own_questions(asked, boxes):
    """Nobody else's mail waits, not even that of others in its domain once they are expanded."""
    gate = asked.directory / "answers.gate"
    with socket.create_connection(("127.0.0.1", asked.port), timeout=30) as sock:
        stream = sock.makefile("rb")
        sock.sendall(b"HELO client.test\r\nMAIL FROM:<amy@there.test>\r\nRCPT TO:<slow@asked.test>\r\n")
        assert [stream.readline()[:3] for _ in range(3)] == [b"220", b"250", b"250"]
        subject = send(asked, "staff@text.test")
        until(lambda: all(arrived(home, subject) for home in boxes), what="other mail")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1, socket.MSG_PEEK)
        sock.setblocking(True)
        gate.touch()
        assert stream.readline().startswith(b"250")
    gate.unlink()


def test_a_program_that_dies_is_started_again_and_mail_comes_later(asked, boxes):
    died, next_one, other = rcpt(asked, "die@asked.test", "staff@asked.test", "staff@text.test")
    assert died.startswith("424 4.2.4 ") and next_one.startswith("424 4.2.4 ")
    assert other.startswith("250")
    until(lambda: rcpt(asked, "staff@asked.test")[0].startswith("250"), what="a new program")
    assert logged(asked, "table asked: its program, pid ", "exited with status 3")


def test_a_program_that_is_killed_is_started_again(asked):
    killed = set(pids_of("_smtpf")) & set(asked.descendants())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: rcpt(asked, "staff@asked.test")[0].startswith("250"), what="a new program")
    assert killed.isdisjoint(pids_of("_smtpf"))
