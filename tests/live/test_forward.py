"""What users want done with their mail, and who is a user: .forward in all its forms, and userbases.

The users are those of a table, one for each form.  They share a uid, and each has a home.
"""

import os
import shutil

import pytest

from tests.live.conftest import Daemon, started, until
from tests.live.recipient import arrived, envelopes, explain, logged, rcpt, send, send_and_wait, write

CONF = """
listen on 127.0.0.1 port {port}
table people {{ {people} }}
table people-in-file file:{directory}/people
table people-in-passwd passwd:{directory}/passwd
table homes file:{directory}/homes

action "system" maildir
action "people" maildir userbase <people>
action "file" maildir userbase <people-in-file>
action "passwd" maildir userbase <people-in-passwd>
action "virtual" maildir userbase <homes> user {vmail}
action "one" maildir user {vmail}
action "forward" forward-only userbase <people>

match from any for domain "people.test" action "people"
match from any for domain "file.test" action "file"
match from any for domain "passwd.test" action "passwd"
match from any for domain "virtual.test" action "virtual"
match from any for domain "one.test" action "one"
match from any for domain "forward.test" action "forward"
match from any for domain "system.test" action "system"
"""

FORWARDS = {
    "plain": None,
    "empty": "# nothing but a comment\n\n",
    "away": "{alice}@system.test\n",
    "copies": "# both\n\\copies, {alice}@system.test\n",
    "split": "{alice}@system.test, \\\n  split\n",
    "said": ":error:550 5.1.6 no longer here\n",
    "soon": "error:450 4.2.1 come back\n",
    "nowhere": "/dev/null\n",
    "includes": ":include:/etc/passwd\n",
    "relays": "nobody@elsewhere.test\n",
    "unknown": "nobody-of-this-name\n",
    "root": "root@system.test\n",
    "garbage": "\0\n",
    "quoted": '"|/bin/cat\n',
    "circle": "ring@people.test\n",
    "ring": "circle@people.test\n",
    "hundred": "".join(f"a{count}@virtual.test\n" for count in range(101)),
    "runs": "|cat >ran\n",
    "sends": '"|cat >ran; exit 0", {alice}@system.test, ~/no\n',
    "writes": "{home}/archive\n",
    "several": '"|cat >first", "|cat >second", {home}/archive, \\several\n',
    "changes": "|cat >ran\n",
    "leaves": "|cat >ran\n",
    "closes": "|cat >ran\n",
    "foreign": "|cat >ran\n",
    "shared": "|cat >ran\n",
    "linked": None,
    "fifo": None,
    "directory": None,
    "long": "#" * 4096,
    "mostly": "@nowhere\nmo st ly\n{alice}@system.test  # a friend\no'brien@virtual.test, m\xfcller@virtual.test\n",
}

Y, NOBODY = "250 2.1.5", "550 5.1.1 Invalid recipient"
NOT_ACCEPTABLE = "524 5.2.4 Recipient's forwarding is not acceptable"
UNSAFE = "424 4.2.4 Recipient's forwarding is not acceptable"
NOT_UNDERSTOOD = "424 4.2.4 Recipient's forwarding is not understood"
VERDICTS = {
    "plain@people.test": Y,
    "PLAIN+x@people.test": Y,
    "empty@people.test": Y,
    "away@people.test": Y,
    "copies@people.test": Y,
    "split@people.test": Y,
    "said@people.test": "550 5.1.6 no longer here",
    "soon@people.test": "450 4.2.1 come back",
    "nowhere@people.test": Y,
    "includes@people.test": "424 4.2.4 Recipient is forwarded to an include file",
    "relays@people.test": "550 5.7.1 Invalid recipient",
    "unknown@people.test": NOBODY,
    "root@people.test": "550 5.2.1 Invalid recipient",
    "garbage@people.test": NOT_UNDERSTOOD,
    "quoted@people.test": NOT_UNDERSTOOD,
    "sends@people.test": NOT_UNDERSTOOD,
    "circle@people.test": "524 5.2.4 Recipient leads to nobody",
    "hundred@people.test": "424 4.2.4 Recipient is forwarded to too many",
    "runs@people.test": Y,
    "writes@people.test": Y,
    "several@people.test": Y,
    "foreign@people.test": "451 4.3.0 Temporary failure",
    "shared@people.test": UNSAFE,
    "linked@people.test": UNSAFE,
    "fifo@people.test": UNSAFE,
    "directory@people.test": UNSAFE,
    "mostly@people.test": Y,
    "long@people.test": NOT_UNDERSTOOD,
    "nobody-of-this-name@people.test": NOBODY,
    "plain@file.test": Y,
    "plain@passwd.test": Y,
    "daemon@passwd.test": "550 5.2.1 Invalid recipient",
    "nobody-of-this-name@virtual.test": NOBODY,
    # no mailbox of a forward-only action, and no command either
    "plain@forward.test": "424 4.2.4 Recipient is forwarded to nobody",
    "copies@forward.test": "424 4.2.4 Recipient is forwarded to nobody",
    "runs@forward.test": "451 4.3.0 Temporary failure",
    "nowhere@forward.test": "451 4.3.0 Temporary failure",
    "said@forward.test": "451 4.3.0 Temporary failure",
    "away@forward.test": Y,
}


@pytest.fixture(scope="module")
def vmail(users):
    return users.make("smtpd-vmail")


@pytest.fixture(scope="module")
def homes(ground, alice):
    """Those of the people in the table."""
    top = ground / "people"
    top.mkdir()
    for name, text in FORWARDS.items():
        home = top / name
        home.mkdir(mode=0o700)
        if text is not None:
            (home / ".forward").write_text(text.format(alice=alice, home=home))
            (home / ".forward").chmod(0o600)
    (top / "linked/.forward").symlink_to(top / "away/.forward")
    os.mkfifo(top / "fifo/.forward", 0o600)
    (top / "directory/.forward").mkdir()
    for path in [*top.iterdir(), *top.glob("*/.forward")]:
        os.chown(path, UID, UID, follow_symlinks=False)
    (top / "shared/.forward").chmod(0o660)
    os.chown(top / "foreign/.forward", UID + 1, UID)
    return top


UID = 40_000 + os.getpid() % 10_000  # nobody's


@pytest.fixture(scope="module")
def daemon(ground, users, homes, vmail):
    daemon = Daemon(ground, "")
    directory = daemon.directory
    people = ", ".join(f'"{name}" = "{UID}:{UID}:{homes / name}"' for name in FORWARDS)
    write(directory / "people", f"plain {UID}:{UID}:{homes}/plain\n")
    write(directory / "passwd", f"plain:x:{UID}:{UID}::{homes}/plain:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n")
    below = users.home(vmail)
    away = {"outside": homes / "plain", "above": f"{below}/zoe/../..", "beside": f"{below}-too"}
    odd = {"o'brien": below / "obrien", "müller": below / "mueller", "zoe": below / "zoe"}
    write(directory / "homes", "".join(f"{name} 0:0:{home}\n" for name, home in (odd | away).items()))
    daemon.conf.write_text(CONF.format(port=daemon.port, directory=directory, people=people, vmail=vmail))
    with started(daemon):
        yield daemon


# -- what is accepted, and what is said ------------------------------------------------


def test_every_forward_is_taken_or_refused_as_it_says(daemon):
    replies = {recipient: rcpt(daemon, recipient)[0] for recipient in VERDICTS}
    wrong = {to: reply for to, reply in replies.items() if not reply.startswith(VERDICTS[to][:9])}
    assert wrong == {}
    said = {to: reply for to, reply in replies.items() if not reply.startswith("250")}
    assert {to: reply for to, reply in said.items() if not reply.startswith(VERDICTS[to])} == {}


@pytest.mark.parametrize("recipient", ["nobody-of-this-name@people.test", "daemon@passwd.test"])
def test_explain_knows_the_users(daemon, recipient):
    assert explain(daemon, recipient)[-1] == f"refused: {VERDICTS[recipient]}: <{recipient}>"


def test_explain_reads_the_forward_of_a_user_of_the_system(daemon, users, alice):
    name = users.make("smtpd-told")
    forward = users.home(name) / ".forward"
    write(forward, f"\\{name}, |cat, {alice}@system.test\n", name)
    lines = [line.strip() for line in explain(daemon, f"{name}@system.test")]
    assert lines[-1] == "accepted: 3 envelopes"
    assert f"= |cat, run as {name}" in lines


# -- where it goes ------------------------------------------------------------------------


def test_mail_goes_where_the_forward_says(daemon, homes, letterbox):
    subject = send_and_wait(daemon, "away@people.test")
    assert arrived(letterbox, subject)
    assert not (homes / "away/Maildir").exists()


def test_a_wrong_line_costs_that_line_and_the_others_are_delivered(daemon, letterbox, users, vmail):
    for name in ("obrien", "mueller"):
        (users.home(vmail) / name).mkdir()
        shutil.chown(users.home(vmail) / name, vmail, vmail)
    subject = send_and_wait(daemon, "mostly@people.test")
    assert arrived(letterbox, subject)
    assert arrived(users.home(vmail) / "obrien", subject) and arrived(users.home(vmail) / "mueller", subject)
    assert logged(daemon, "warn: .forward of mostly: skipped line 1: not an address: ", "; line 2: neither an address")


@pytest.mark.parametrize("name", ["copies", "split"])
def test_a_user_who_names_himself_keeps_a_copy(daemon, homes, letterbox, name):
    subject = send_and_wait(daemon, f"{name}@people.test")
    assert arrived(letterbox, subject) and arrived(homes / name, subject)


def test_a_mail_for_nowhere_is_discarded(daemon, homes):
    send_and_wait(daemon, "nowhere@people.test")
    assert logged(daemon, " to=<nowhere@people.test>", "stat=Discarded")
    assert not (homes / "nowhere/Maildir").exists()


def test_a_forward_without_content_is_none(daemon, homes):
    for name in ("plain", "empty"):
        subject = send_and_wait(daemon, f"{name}@people.test")
        assert arrived(homes / name, subject)
        assert {path.stat().st_uid for path in (homes / name).rglob("*")} == {UID}


def test_commands_and_files_are_the_users_own(daemon, homes):
    subject = send_and_wait(daemon, "several@people.test")
    home = homes / "several"
    for file in ("first", "second", "archive"):
        assert f"\nSubject: {subject}\n" in (home / file).read_text()
        assert (home / file).stat().st_uid == UID
    assert arrived(home, subject)
    assert (home / "archive").read_text().startswith("From amy@there.test ")


def test_a_table_of_the_form_of_passwd_is_a_userbase(daemon, homes):
    subject = send_and_wait(daemon, "plain@passwd.test")
    assert arrived(homes / "plain", subject)


def test_the_users_that_root_becomes_are_fixed_at_the_start(daemon, homes):
    """What somebody adds later makes nobody a user, let alone root."""
    people = daemon.directory / "people"
    before = people.read_text()
    later = f"late {UID}:{UID}:{homes}/plain\nlow 99:99:{homes}/plain\nwheel {UID}:0:{homes}/plain\n"
    write(people, f"plain 0:0:{homes}/empty\nadmin 0:0:/root\n{later}")
    daemon.smtpctl("update", "table", "people-in-file")
    replies = rcpt(daemon, *(f"{name}@file.test" for name in ("plain", "admin", "low", "wheel")))
    assert [reply[:9] for reply in replies] == ["550 5.2.1"] * 4
    assert rcpt(daemon, "late@file.test")[0].startswith(NOT_ACCEPTABLE)
    write(people, before)
    daemon.smtpctl("update", "table", "people-in-file")


@pytest.mark.parametrize("ids", ["0:0", "99:99", f"{UID}:0"], ids=["root", "a user below 100", "group root"])
def test_a_userbase_with_a_user_who_may_not_receive_is_refused(make_daemon, ids):
    daemon = make_daemon(
        f'listen on 127.0.0.1 port {{port}}\ntable people {{{{ "low" = "{ids}:/" }}}}\n'
        'action "in" maildir userbase <people>\nmatch from any for any action "in"\n'
    )
    with pytest.raises(AssertionError, match='user "low"'):
        daemon.start()


def test_homes_of_a_table_lie_below_that_of_the_user_who_is_named(daemon, users, vmail):
    home = users.home(vmail) / "zoe"
    home.mkdir()
    write(home / ".forward", "nobody@elsewhere.test\n", vmail)  # which is not read
    shutil.chown(home, vmail, vmail)
    subject = send_and_wait(daemon, "zoe@virtual.test")
    assert arrived(home, subject)
    assert {path.owner() for path in (home / "Maildir").rglob("*")} == {vmail}


def test_a_home_elsewhere_gets_nothing(daemon, homes, users, vmail):
    assert rcpt(daemon, "above@virtual.test")[0].startswith("451 4.3.0 ")
    for name in ("outside", "beside"):
        send(daemon, f"{name}@virtual.test")
        until(lambda name=name: logged(daemon, f" to=<{name}@virtual.test>", "result=TempFail"), what="a reason")
    assert not (homes.parent / "Maildir").exists()
    assert not users.home(vmail).with_name(f"{vmail}-too").exists()
    for row in envelopes(daemon):
        daemon.smtpctl("remove", row[0])
    until(lambda: not envelopes(daemon), what="an empty queue")


def test_an_action_that_names_its_user_takes_mail_of_others_as_that_user(daemon, users, vmail, alice, letterbox):
    """Their own .forward is not read."""
    write(letterbox / ".forward", "nobody@elsewhere.test\n", alice)
    try:
        subject = send_and_wait(daemon, f"{alice}@one.test")
    finally:
        (letterbox / ".forward").unlink()
    assert arrived(users.home(vmail), subject)
    assert not arrived(letterbox, subject)


# -- what has changed since RCPT TO ------------------------------------------------------------


@pytest.fixture
def paused(daemon):
    daemon.smtpctl("pause", "mda")
    yield daemon
    daemon.smtpctl("resume", "mda", check=False)


def change(homes, name, text):
    """By the user."""
    (homes / name / ".forward").write_text(text)


def test_a_command_that_is_gone_does_not_run_and_its_mail_goes_where_the_user_wants_it_now(
    paused, homes, alice, letterbox
):
    subject = send(paused, "changes@people.test")
    change(homes, "changes", f"|cat >other\n{alice}@system.test\n\\changes\n")
    paused.smtpctl("resume", "mda")
    until(lambda: not envelopes(paused), what="an empty queue")
    assert logged(paused, "expanded again: 3 in its place")
    assert not (homes / "changes/ran").exists()
    assert len(arrived(letterbox, subject)) == 1 and len(arrived(homes / "changes", subject)) == 1
    assert (homes / "changes/other").read_text().count(f"Subject: {subject}\n") == 1


def test_a_forward_that_is_gone_leaves_the_mailbox(paused, homes):
    subject = send(paused, "leaves@people.test")
    (homes / "leaves/.forward").unlink()
    paused.smtpctl("resume", "mda")
    until(lambda: not envelopes(paused), what="an empty queue")
    assert not (homes / "leaves/ran").exists()
    assert len(arrived(homes / "leaves", subject)) == 1


def test_a_forward_that_others_may_write_meanwhile_runs_nothing(paused, homes):
    send(paused, "closes@people.test")
    (homes / "closes/.forward").chmod(0o666)
    paused.smtpctl("resume", "mda")
    until(lambda: logged(paused, " to=<closes@people.test>", "result=TempFail"), what="a reason to wait")
    assert not (homes / "closes/ran").exists()
    (homes / "closes/.forward").chmod(0o600)
    paused.smtpctl("schedule", "all")
    until(lambda: not envelopes(paused), what="an empty queue")
    assert (homes / "closes/ran").exists()
