"""A .forward for a command that somebody types."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from smtpd.agent import explain_forward
from smtpd.agent.explain_forward import read_forward
from smtpd.errand import VERDICTS
from tests.agent.conftest import others


def myself():
    return pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Whoever runs the tests, at home in a directory of this test."""
    found = pwd.getpwnam(myself())
    moved = pwd.struct_passwd((*found[:5], str(tmp_path), found[6]))
    monkeypatch.setattr(pwd, "getpwnam", {myself(): moved}.__getitem__)
    return tmp_path


@pytest.fixture
def open_ground():
    """A directory that others can pass through."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_a_user_may_read_their_own_forward(home):
    (home / ".forward").write_text("amy@there.test\n")
    (home / ".forward").chmod(0o600)
    assert read_forward(myself()) == ("text", b"amy@there.test\n", "")


def test_a_missing_forward(home):
    assert read_forward(myself()) == ("none", b"", "")


def test_an_unsafe_forward_is_explained_too(home):
    (home / ".forward").write_text("amy@there.test\n")
    (home / ".forward").chmod(0o666)
    verdict, content, reason = read_forward(myself())
    assert (verdict, content) == ("unsafe", b"")
    assert reason == f"{home}/.forward is writable by everybody: chmod {others('go')}-w {home}/.forward"


def test_only_root_may_read_the_forward_of_another_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert read_forward("root") == ("later", b"", "only root and root may read it")


def test_a_child_that_ends_without_an_answer_is_reported(home, monkeypatch):
    monkeypatch.setattr(explain_forward, "_read_as_user", lambda _entry: 1 / 0)
    assert read_forward(myself()) == ("later", b"", "the process that reads it has ended")


def test_a_reason_that_was_cut_within_a_character_is_a_reason(home, monkeypatch):
    monkeypatch.setattr(explain_forward, "_read_as_user", lambda _: bytes([VERDICTS.index("later")]) + b"/home/b\xc3")
    assert read_forward(myself()) == ("later", b"", "/home/b\ufffd")


def test_no_child_is_left(home, monkeypatch):
    fork, children = os.fork, []
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    assert read_forward(myself())[0] == "none"
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)


def test_a_user_who_is_not_root_becomes_no_other_user(home, monkeypatch):
    """It would be refused."""
    found = pwd.getpwnam(myself())
    user = pwd.struct_passwd((*found[:2], 54321, 54321, *found[4:]))
    monkeypatch.setattr(pwd, "getpwnam", {"bob": user}.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(explain_forward.privilege, "become", lambda _ids: 1 / 0)
    assert read_forward("bob") == ("none", b"", "")


def test_an_unknown_user_is_reported(home):
    assert read_forward("no-such-user")[0] == "later"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a child becomes another user")
def test_root_follows_no_link_of_a_user_with_its_own_rights(open_ground, monkeypatch):
    """A .forward that only root could read stays unread."""
    nobody = pwd.getpwnam("nobody")
    home = open_ground / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    (open_ground / "secret").write_text("amy@there.test\n")
    (open_ground / "secret").chmod(0o600)
    (home / ".forward").symlink_to(open_ground / "secret")
    os.link(open_ground / "secret", home / "hard")
    moved = pwd.struct_passwd((*nobody[:5], str(home), nobody[6]))
    monkeypatch.setattr(pwd, "getpwnam", {"nobody": moved}.__getitem__)
    assert read_forward("nobody")[:2] == ("unsafe", b"")
    os.rename(home / "hard", home / ".forward")
    assert read_forward("nobody")[:2] == ("later", b"")
