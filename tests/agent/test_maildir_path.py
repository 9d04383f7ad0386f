"""Which Maildir a mail goes to; and agents that have many of them."""

import os

import pytest
from msgspec.structs import replace

from smtpd.agent.maildir import OPEN_MAX
from smtpd.agent.maildir_path import HomeError, MaildirPath
from smtpd.config.specifier import TemplateError
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec
from tests.agent.conftest import MAIL, errand, files, own


def to(user, number=1, home="", **more):
    return replace(errand(number, **more), user=user, home=home)


def destination(target, shared=False, home="/home/vmail"):
    return MaildirPath.of(AgentSpec("maildir", target, shared=shared), "vmail", home)


@pytest.mark.parametrize(
    "target, shared, fixed, top, path",
    [
        ("~/Maildir", False, True, "/home/vmail/Maildir", "/home/vmail/Maildir"),
        ("%{user.directory}/M", False, True, "/home/vmail/M", "/home/vmail/M"),
        ("%{USER.DIRECTORY}/M", True, False, "/home/vmail", "/home/vmail/M"),
        ("/mail/%{user.username}/in", False, True, "/mail/vmail/in", "/mail/vmail/in"),
        ("/mail/%{dest.domain}/%{user.username}", False, False, "/mail", "/mail/here.test/vmail"),
        ("/mail/all", False, True, "/mail/all", "/mail/all"),
        ("/mail/all", True, True, "/mail/all", "/mail/all"),
        ("/mail/%{user.username}/in", True, False, "/mail", "/mail/bob/in"),
        ("~/Maildir", True, False, "/home/vmail", "/home/vmail/Maildir"),
        ("/mail/%{rcpt.domain:uppercase}/%{rcpt.user:strip}", True, False, "/mail", "/mail/HERE.TEST/bob"),
    ],
)
def test_what_is_seen_is_no_more_than_the_path_needs(target, shared, fixed, top, path):
    found = destination(target, shared)
    assert (found.is_fixed, found.top) == (fixed, top)
    assert found.path(to("bob", recipient="bob+x@here.test")) == path
    assert path == top or path.startswith(f"{top}/")


def test_a_home_of_a_table_is_used_when_it_is_below_the_users_own():
    assert destination("~/Maildir", True).path(to("bob", home="/home/vmail/bob")) == "/home/vmail/bob/Maildir"


def test_a_mail_that_names_no_user_is_the_agents_own():
    found = destination("~/%{user.username}", True)
    assert found.path(to("")) == "/home/vmail/vmail"
    assert found.path(to("", home="/home/vmail/bob")) == "/home/vmail/bob/vmail"


@pytest.mark.parametrize(
    "home",
    ["/home/vmail", "/home/vmail2", "/home/vmail/../root", "/", "/root", "bob", "/home/vmail/a/./b", "/home//vmail/x"],
)
def test_a_home_of_a_table_outside_of_the_homes_is_refused(home):
    with pytest.raises(HomeError):
        destination("~/Maildir", True).path(to("bob", home=home))


def test_a_home_of_a_table_is_ignored_for_users_of_the_system():
    assert destination("~/Maildir").path(to("bob", home="/root")) == "/home/vmail/Maildir"


@pytest.mark.parametrize("user", ["..", ".", ""])
def test_a_value_that_would_climb_makes_no_path(user):
    with pytest.raises(TemplateError):
        destination("/mail/%{rcpt.user}", True).path(to("bob", recipient=f"{user}@here.test"))


def test_a_slash_in_an_address_makes_no_directory():
    path = destination("/mail/%{rcpt.user}", True).path(to("bob", recipient="a/../../b@here.test"))
    assert path == "/mail/a:..:..:b"


@pytest.mark.parametrize("target", ["~/Maildir", "%{user.directory}/Maildir"])
def test_there_is_no_path_without_the_home_that_it_needs(target):
    with pytest.raises(TemplateError, match="no"):
        destination(target, home="")


def test_a_user_without_a_home_has_a_maildir_elsewhere():
    assert destination("/mail/%{user.username}", home="").top == "/mail/vmail"


# -- an agent of many users --------------------------------------------------------------------------


def stored(path):
    return [found.read_bytes().rpartition(b"\n\n")[2] for found in (path / "new").iterdir()]


def test_each_user_has_a_maildir(start, home):
    agent = start(target="~/%{user.username}/in", shared=True)
    for number, user in enumerate(["bob", "carol", "bob"], 1):
        assert agent.deliver(to(user, number)).outcome is Outcome.DELIVERED
    assert (len(stored(home / "bob/in")), len(stored(home / "carol/in"))) == (2, 1)
    assert (home / "carol").stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(home)) == ["bob", "carol"]
    assert agent.end() == 0


def test_many_users_at_once_get_their_own_mail_only(start, home):
    agent = start(target="~/%{user.username}", shared=True)
    users = [f"user{number}" for number in range(3 * OPEN_MAX)]
    for number in range(3 * len(users)):
        user = users[number % len(users)]
        agent.send(to(user, number + 1, content=MAIL.replace(b"Good morning.", user.encode())))
    assert {agent.receive().outcome for _ in range(3 * len(users))} == {Outcome.DELIVERED}
    for user in users:
        assert stored(home / user) == [user.encode() + b"\n"] * 3
    if os.geteuid() == 0:
        assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) < 4 * (OPEN_MAX * 4 + 2)


def test_a_maildir_that_fails_delays_no_other_user(start, home):
    (home / "carol").write_bytes(b"not a directory")
    own(home / "carol")
    agent = start(target="~/%{user.username}", shared=True)
    for number, user in enumerate(["bob", "carol", "dave"], 1):
        agent.send(to(user, number))
    results = {result.envelope & 0xF: result.outcome for result in (agent.receive() for _ in range(3))}
    assert results == {1: Outcome.DELIVERED, 2: Outcome.DEFERRED, 3: Outcome.DELIVERED}
    assert agent.deliver(to("eve", 4)).outcome is Outcome.DELIVERED


def test_a_link_out_of_the_homes_leads_nowhere(start, home):
    outside = home.parent / "outside"
    outside.mkdir()
    own(outside)
    (home / "carol").symlink_to(outside)
    agent = start(target="~/%{user.username}", shared=True)
    assert agent.deliver(to("carol")).outcome is Outcome.DEFERRED
    assert os.listdir(outside) == []


def test_a_home_outside_of_the_homes_is_reported_and_defers(start, home):
    agent = start(shared=True)
    result = agent.deliver(to("carol", home="/etc"))
    assert result.outcome is Outcome.DEFERRED and "is not below" in result.text
    result = agent.deliver(to("dave", home=f"{home}/dave"))
    assert result.outcome is Outcome.DELIVERED
    assert len(stored(home / "dave/Maildir")) == 1


def test_a_mail_without_a_path_fails_alone(start, home):
    agent = start(target="~/%{rcpt.domain}/in")
    assert agent.deliver(errand(1, recipient="bob")).outcome is Outcome.FAILED
    assert agent.deliver(errand(2)).outcome is Outcome.DELIVERED
    assert len(stored(home / "here.test/in")) == 1


def test_all_users_may_have_one_maildir(start, home):
    agent = start(shared=True, target=f"{home}/Maildir")
    for number, user in enumerate(["bob", "carol"], 1):
        assert agent.deliver(to(user, number)).outcome is Outcome.DELIVERED
    assert len(files(home)[0]) == 2
