"""Commands of the administrator and of users: as whom, with what, and what becomes of the mail if they misbehave."""

import os
import pwd
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.live.conftest import empty_maildir, group_of, kill_all_of, mails, pids_of, running, until
from tests.live.recipient import envelopes, logged, send, send_and_wait

CONF = """
listen on 127.0.0.1 port {port}
mda limit max-session 30 max-session-per-user 7
mda wrapper tell "echo wrapped >> wrapped; %{{mda}}"

action "local" maildir
action "tell" mda "{TELL}"
action "wrap" mda "cat > inner" wrapper tell
action "words" mda "printf '%%s|' %{{sender}} '%{{sender}}' \\"%{{rcpt.user:raw}}\\" %{{dest}} > words"
action "killed" mda "kill -KILL $$"
action "behave" mda "{directory}/behave %{{rcpt.user}}"

match from any for domain "tell.test" action "tell"
match from any for domain "wrap.test" action "wrap"
match from any for domain "words.test" action "words"
match from any for domain "killed.test" action "killed"
match from any for domain "behave.test" action "behave"
match from any for domain "here.test" action "local"
"""
LIBRARYS_OWN = 3 << 31  # signals 32 and 33, which no program can set
TELL = "; ".join(
    [
        "cat /proc/$$/environ > environ",
        "(ls /proc/$$/fd > fds)",
        "cat /proc/$$/stat > stat",
        "cat /proc/self/status > status",
        "pwd > cwd",
        "cat > mail",
    ]
)

BEHAVE = """#!/bin/sh
# How a command ends: by the sub-address of its recipient.
case ${1#*+} in
later)      echo "the first line"; echo "come again" >&2; echo; exit 75 ;;
never)      echo "no such mailbox"; exit 67 ;;
odd)        exit 3 ;;
several)    echo "not this"; printf 'Traceback:\\n  line 1\\nValueError: x\\n' >&2; exit 75 ;;
early)      exit 0 ;;
forks)      (trap '' HUP; while :; do sleep 1; done) & exit 0 ;;
gigabyte)   cat > /dev/null; head -c 1000000000 /dev/zero; echo; echo "the end"; exit 75 ;;
stuck)      echo $$ >> stuck; while :; do sleep 1000; done ;;
*)          cat > "done-${1#*+}" ;;
esac
"""


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground, CONF.replace("{TELL}", TELL)) as made:
        behave = made.directory / "behave"
        behave.write_text(BEHAVE)
        behave.chmod(0o755)
        yield made


@pytest.fixture
def carol(users):
    """Somebody new, whose home is empty and whose processes all end with the test."""
    name = users.make("smtpd-carol")
    yield name
    until(lambda: not kill_all_of(name), what=f"the end of all processes of {name}")


def forward(users, name, text):
    path = users.home(name) / ".forward"
    path.write_text(text)
    shutil.chown(path, name, name)
    path.chmod(0o600)


def remove_all(daemon):
    for row in envelopes(daemon):
        daemon.smtpctl("remove", row[0])


# -- as whom, and with what -------------------------------------------------------------------------------------------


def environment(name, home, local, domain):
    told = {
        "PATH": os.confstr("CS_PATH"),
        "SHELL": "/bin/sh",
        "HOME": str(home),
        "USER": name,
        "LOGNAME": name,
        "SENDER": "amy@there.test",
        "RECIPIENT": f"{local}@{domain}",
        "ORIGINAL_RECIPIENT": f"{local}@{domain}",
        "LOCAL": local,
        "DOMAIN": domain,
    }
    if "+" in local:
        told["EXTENSION"] = local.partition("+")[2]
    return told


@pytest.mark.parametrize("origin", ["configuration", "forward"])
def test_a_command_is_its_user_and_has_nothing_else(daemon, users, carol, origin):
    home, person = users.home(carol), pwd.getpwnam(carol)
    local, domain = (f"{carol}+tag", "tell.test") if origin == "configuration" else (carol, "here.test")
    if origin == "forward":
        forward(users, carol, f'"|{TELL}"\n')
    send_and_wait(daemon, f"{local}@{domain}")
    told = dict(line.split("=", 1) for line in (home / "environ").read_text().split("\0")[:-1])
    assert told == environment(carol, home, local, domain)
    assert (home / "cwd").read_text() == f"{home}\n"
    assert (home / "fds").read_text().split() == ["0", "1", "2"]
    pid, _, _, _, group, session = (home / "stat").read_text().split()[:6]
    assert pid == group == session
    status = dict(re.findall(r"^(\w+):\s*(.*)$", (home / "status").read_text(), re.MULTILINE))
    assert status["Uid"].split() == [str(person.pw_uid)] * 4 and status["Gid"].split() == [str(person.pw_gid)] * 4
    assert status["Groups"].split() in ([], [str(person.pw_gid)])
    assert status["Umask"] == "0077" and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert {int(status[name], 16) & ~LIBRARYS_OWN for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}
    for file in home.iterdir():
        assert file.owner() == carol and file.stat().st_mode & 0o077 == 0, file
    mail = (home / "mail").read_text()
    assert mail.startswith(f"Return-Path: <amy@there.test>\nDelivered-To: {local}@{domain}\nReceived: ")


def test_what_comes_by_mail_is_a_word_and_no_command(daemon, users, carol):
    """CVE-2020-7247 and its relatives, in each place that a shell knows."""
    home = users.home(carol)
    sender = "`touch${IFS}canary`|$HOME&*?"
    daemon.send(f"{carol}+$HOME@words.test", b"Subject: x\r\n\r\n", sender=f"{sender}@there.test")
    until(lambda: envelopes(daemon) == [], what="an empty queue")
    bare, quoted, raw, destination, end = (home / "words").read_text().split("|")
    assert bare == quoted and bare.endswith("@there.test") and not set(bare) & set("`$|&*?{}")
    assert raw == f"{carol}+$HOME" and destination.startswith(carol) and "$" not in destination and end == ""
    assert [path.name for path in home.iterdir()] == ["words"]


def test_a_wrapper_is_around_the_command(daemon, users, carol):
    send_and_wait(daemon, f"{carol}@wrap.test")
    assert (users.home(carol) / "wrapped").read_text() == "wrapped\n"
    assert b"Delivered-To" in (users.home(carol) / "inner").read_bytes()


def test_nothing_but_parent_and_nursery_is_root_while_commands_run(daemon, users, carol):
    """Neither what a command starts, nor what stands between it and the nursery."""
    forward(users, carol, '"|cat > /dev/null; sleep 1000"\n')
    send(daemon, f"{carol}@here.test")
    send(daemon, f"{carol}+stuck@behave.test")

    def running_for_carol():
        pids = set(pids_of(carol)) & set(daemon.descendants())
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in pids]
        return names.count("sleep\n") == 2 and pids

    until(running_for_carol, what="both commands")
    root = set()
    for pid in [daemon.process.pid, *daemon.descendants()]:
        uids = re.search(r"^Uid:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1].split()
        if "0" in uids:
            root.add(pid)
    assert root == {daemon.process.pid, daemon.pids()["nursery"]}
    remove_all(daemon)
    assert group_of(carol) == carol


# -- what becomes of the mail -----------------------------------------------------------------------------------------

ENDS = {
    "later": ("TempFail", "temporary failure: come again"),
    "never": ("PermFail", "user unknown: no such mailbox"),
    "odd": ("PermFail", "exited abnormally"),
    "several": ("TempFail", "temporary failure: Traceback: / line 1 / ValueError: x"),
    "gigabyte": ("TempFail", "temporary failure: the end"),
}


@pytest.mark.parametrize("way", ENDS)
def test_the_exit_status_is_the_result_and_the_last_lines_are_its_reason(daemon, carol, way):
    result, reason = ENDS[way]
    send(daemon, f"{carol}+{way}@behave.test")
    (line,) = until(lambda: logged(daemon, f"<{carol}+{way}@", "result="), what="a result")
    assert f"result={result}" in line and f"({reason})" in line
    if result == "TempFail":
        (row,) = envelopes(daemon)
        assert row[3] == "" and row[-1].endswith(reason)
    else:  # the sender is told, whom no rule is for
        (row,) = until(lambda: [row for row in envelopes(daemon) if row[3] == "bounce,hold"], what="a notice")
        (told,) = logged(daemon, "bounce: failed for ", f"<{carol}+{way}@")
        assert told.endswith(reason) and row[2] == "bounce"
    remove_all(daemon)


def test_a_command_that_a_signal_ends_is_tried_again(daemon, carol):
    send(daemon, f"{carol}@killed.test")
    (line,) = until(lambda: logged(daemon, f"<{carol}@killed", "result="), what="a result")
    assert "result=TempFail" in line and "(terminated; signal 9)" in line
    remove_all(daemon)


@pytest.mark.parametrize("size, result", [(1000, "Ok"), (3_000_000, "TempFail")])
def test_a_command_that_ends_before_it_has_read_its_mail(daemon, carol, size, result):
    """A small one it has all the same: who writes into a pipe cannot know more."""
    daemon.send(f"{carol}+early@behave.test", b"Subject: x\r\n\r\n" + b"line\r\n" * (size // 6))
    (line,) = until(lambda: logged(daemon, f"<{carol}+early@", "result="), what="a result")
    assert f"result={result}" in line
    assert result == "Ok" or "mda exited prematurely" in line
    remove_all(daemon)


def test_a_command_that_forks_away_is_done_and_delays_no_other_mail(daemon, users, carol):
    """What it left has its output still open, and a session that is not the agent's."""
    send_and_wait(daemon, f"{carol}+forks@behave.test")
    assert logged(daemon, f"<{carol}+forks@", "result=Ok")
    send_and_wait(daemon, f"{carol}+next@behave.test")
    assert (users.home(carol) / "done-next").exists()


LONG = float(os.environ.get("SMTPD_LONG_COMMAND", "1"))  # seconds that a command runs before another mail comes


def test_a_command_that_runs_for_long_keeps_no_other_mail_of_its_user_waiting(daemon, users, carol):
    """SMTPD_LONG_COMMAND=70 lets it run for longer than an agent may say nothing."""
    stuck = users.home(carol) / "stuck"
    send(daemon, f"{carol}+stuck@behave.test")
    until(lambda: stuck.exists(), what="the command")
    time.sleep(LONG)
    send(daemon, f"{carol}+other@behave.test")
    until(lambda: (users.home(carol) / "done-other").exists(), what="the other command")
    assert len(stuck.read_text().split()) == 1
    assert not logged(daemon, carol, "result=TempFail")
    remove_all(daemon)


def test_stuck_commands_delay_no_other_mail_and_end_with_the_daemon(make_daemon, users, alice, carol):
    """Seven of a user at a time, and the eighth waits; not so that user's Maildir, and everybody else's command."""
    daemon = make_daemon(CONF.replace("{TELL}", "true")).start()
    behave = daemon.directory / "behave"
    behave.write_text(BEHAVE)
    behave.chmod(0o755)
    stuck = users.home(carol) / "stuck"
    for _ in range(10):
        send(daemon, f"{carol}+stuck@behave.test")
    until(lambda: stuck.exists() and len(stuck.read_text().split()) == 7, what="seven of them")
    empty_maildir(users.home(alice))
    send(daemon, f"{carol}@here.test")
    send(daemon, f"{alice}@here.test")
    send(daemon, f"{alice}+quick@behave.test")
    until(lambda: mails(users.home(carol)), what="her own Maildir")
    until(lambda: mails(users.home(alice)), what="somebody else's Maildir")
    until(lambda: (users.home(alice) / "done-quick").exists(), what="somebody else's command")
    assert not logged(daemon, f"<{carol}@here.test>", "result=TempFail")  # none of them was a second attempt
    assert not logged(daemon, alice, "result=TempFail")
    assert len(stuck.read_text().split()) == 7
    until(lambda: len(envelopes(daemon)) == 10, what="the results of the others")
    assert daemon.stop() == 0
    until(lambda: not pids_of(carol), what="the end of the commands")
    stuck.unlink()
    behave.write_text('#!/bin/sh\ncat >> "$HOME/all"\n')
    daemon.start()

    def all_there():
        daemon.smtpctl("schedule", "all")
        return envelopes(daemon) == []

    until(all_there, what="an empty queue")
    assert (users.home(carol) / "all").read_text().count("Delivered-To: ") == 10
    assert daemon.stop() == 0
