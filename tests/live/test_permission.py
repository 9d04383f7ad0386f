"""Homes and .forward files with the modes that useradd, a umask of 0002 and shared homes leave them, for users of the
system: what nobody else may write is used, what is not there needs no guard, and the rest waits, with the cure."""

import grp
import os
import pwd
import shutil
import subprocess

import pytest

from tests.live.conftest import running, until
from tests.live.recipient import arrived, explain, logged, rcpt, send, send_and_wait

UNSAFE = "424 4.2.4 Recipient's forwarding is not acceptable"


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground) as made:
        yield made


@pytest.fixture
def bob(users):
    """A new user, whose group is the user's own."""
    name = users.make("smtpd-bob")
    assert grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name == name
    return name


def forward(users, name, text, mode):
    path = users.home(name) / ".forward"
    path.write_text(text)
    shutil.chown(path, name, name)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o775, 0o770, 0o2775, 0o777])
def test_a_home_of_any_mode_without_a_forward_gets_its_mail(daemon, users, bob, mode):
    users.home(bob).chmod(mode)
    subject = send_and_wait(daemon, f"{bob}@here.test")
    assert arrived(users.home(bob), subject)


def test_a_home_that_many_share_gets_mail(daemon, users, bob, alice):
    home = users.home(bob)
    shutil.chown(home, alice, bob)
    home.chmod(0o770)
    subject = send_and_wait(daemon, f"{bob}@here.test")
    assert arrived(home, subject)


def test_a_home_that_a_user_may_search_and_not_read_gets_mail(daemon, users, bob):
    home = users.home(bob)
    (home / "Maildir").mkdir(mode=0o700)
    shutil.chown(home / "Maildir", bob, bob)
    shutil.chown(home, "root", "root")
    home.chmod(0o711)
    subject = send_and_wait(daemon, f"{bob}@here.test")
    assert arrived(home, subject)


def test_a_forward_that_the_users_own_group_may_write_is_used(daemon, users, bob, alice):
    """As a umask of 0002 makes it."""
    users.home(bob).chmod(0o2775)
    forward(users, bob, f'"|cat >ran", {alice}@here.test\n', 0o664)
    assert explain(daemon, f"{bob}@here.test")[-1] == "accepted: 2 envelopes"
    subject = send_and_wait(daemon, f"{bob}@here.test")
    assert arrived(users.home(alice), subject)
    assert f"\nSubject: {subject}\n" in (users.home(bob) / "ran").read_text()


def test_modes_that_are_mended_are_seen_by_the_next_mail(daemon, users, bob, alice):
    path = forward(users, bob, f"{alice}@here.test\n", 0o664)
    subprocess.run(["usermod", "--append", "--groups", bob, alice], check=True)
    try:
        assert rcpt(daemon, f"{bob}@here.test")[0].startswith(UNSAFE)
        assert logged(daemon, "refused", f".forward of {bob}: {path} is writable by its group: chmod g-w {path}")
    finally:
        subprocess.run(["gpasswd", "--delete", alice, bob], check=True, stdout=subprocess.DEVNULL)
    until(lambda: rcpt(daemon, f"{bob}@here.test")[0].startswith("250"), seconds=90, what="its own group again")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda home: (home / ".forward").chmod(0o666), "{home}/.forward is writable by everybody: chmod o-w {home}"),
        (lambda home: home.chmod(0o777), "home directory {home} is writable by everybody: chmod o-w {home}"),
        (lambda home: shutil.chown(home / ".forward", "root", "root"), "{home}/.forward belongs to uid 0, expected"),
        (lambda home: shutil.chown(home, "daemon"), "home directory {home} belongs to uid 1, expected uid"),
        (lambda home: os.chown(home / ".forward", -1, 100) or (home / ".forward").chmod(0o664), "chmod g-w {home}"),
    ],
    ids=["file", "home", "owner", "owner of the home", "another group"],
)
def test_what_is_there_and_unsafe_makes_mail_wait_and_the_cure_is_in_the_log(daemon, users, bob, alice, change, said):
    home = users.home(bob)
    home.chmod(0o755)
    forward(users, bob, f"{alice}@here.test\n", 0o644)
    change(home)
    assert rcpt(daemon, f"{bob}@here.test")[0].startswith(UNSAFE)
    assert logged(daemon, f".forward of {bob}: ", said.format(home=home))


def test_a_command_waits_while_others_may_write_its_file(daemon, users, bob):
    path = forward(users, bob, "|cat >ran\n", 0o664)
    daemon.smtpctl("pause", "mda")
    subject = send(daemon, f"{bob}@here.test")
    path.chmod(0o666)
    daemon.smtpctl("resume", "mda")
    until(lambda: logged(daemon, "result=TempFail", f"chmod o-w {path}"), what="a reason to wait")
    assert not (users.home(bob) / "ran").exists()
    path.chmod(0o664)
    daemon.smtpctl("schedule", "all")
    until(lambda: (users.home(bob) / "ran").exists(), what="the command")
    until(lambda: f"Subject: {subject}" in (users.home(bob) / "ran").read_text(), what="the mail")
