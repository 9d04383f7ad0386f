"""Targets of a .forward or alias file: only what is named there now is run or written, as that user."""

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpd.agent import expansion_target, forward
from smtpd.agent.expansion_target import AliasFiles, TargetDeferred, alias_targets, forward_targets
from smtpd.config.trust import Untrusted
from smtpd.envelope import Outcome
from smtpd.tables.alias_syntax import Command, File, User, digest
from tests.agent.conftest import MAIL, UID, errand, others, own
from tests.unique import MARK

TRACE = b"Return-Path: <amy@there.test>\nDelivered-To: bob@here.test\n"
RUN = "cat > ~/mail"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of several users")


def write(home, text, name=".forward"):
    """As an editor does."""
    new = home / "new"
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.chmod(0o600)
    own(new)
    new.rename(home / name)


def told(target, **more):
    """A mail for this command, or, with a slash in front, this file."""
    named = File(target) if target.startswith("/") else Command(target)
    return replace(errand(**more), digest=digest(named))


def ask(start, target, **spec):
    return start("expansion-target", "", **spec).deliver(told(target))


# -- what stands there -----------------------------------------------------------------------------


def test_the_command_in_the_forward_is_run(start, home):
    write(home, f'amy@there.test, "|{RUN}"\n')
    assert ask(start, RUN).outcome is Outcome.DELIVERED
    assert (home / "mail").read_bytes() == TRACE + MAIL


def test_the_file_in_the_forward_is_written(start, home):
    write(home, f"# archive\n{home}/archive\n")
    result = ask(start, f"{home}/archive")
    assert result.outcome is Outcome.DELIVERED
    content = (home / "archive").read_bytes()
    assert content.startswith(b"From amy@there.test ") and content.endswith(TRACE + MAIL + b"\n")
    assert (home / "archive").stat().st_mode & 0o777 == 0o600


def test_of_two_commands_the_one_with_the_digest(start, home):
    write(home, f"|touch ~/other\n|{RUN}\n")
    assert ask(start, RUN).outcome is Outcome.DELIVERED
    assert not (home / "other").exists()


def test_of_two_files_the_one_with_the_digest(start, home):
    write(home, f"{home}/other\n{home}/archive\n")
    assert ask(start, f"{home}/archive").outcome is Outcome.DELIVERED
    assert (home / "archive").exists() and not (home / "other").exists()


def test_a_line_that_is_no_utf8_is_run_as_it_stands(start, home):
    write(home, b"|cat > ~/mail-\xe4\n")
    line = b"cat > ~/mail-\xe4".decode(errors="surrogateescape")
    assert ask(start, line).outcome is Outcome.DELIVERED
    assert b"mail-\xe4" in os.listdir(os.fsencode(home))


def test_the_wrapper_of_the_action_is_around_the_users_command(start, home):
    write(home, f'"|{RUN}"')
    assert ask(start, RUN, wrapper="%{mda}; exit 75").outcome is Outcome.DEFERRED
    assert (home / "mail").exists()


# -- what does not ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "# |cat > ~/mail", "amy@there.test", "|cat  > ~/mail", '"|cat > ~/mail2"'])
def test_a_target_that_is_not_in_the_file_is_stale_and_nothing_runs(start, home, text):
    if text is not None:
        write(home, text)
    assert ask(start, RUN).outcome is Outcome.STALE
    assert not (home / "mail").exists()


def test_a_malformed_digest_is_stale(start, home):
    write(home, f"|{RUN}")
    agent = start("expansion-target", "")
    for wrong in ("", "0" * 64, "|cat > ~/mail", "\0"):
        assert agent.deliver(replace(errand(), digest=wrong)).outcome is Outcome.STALE
    assert not (home / "mail").exists()


def test_a_file_and_a_command_of_the_same_words_are_two_things(start, home):
    write(home, "|/bin/true")
    assert ask(start, "/bin/true").outcome is Outcome.STALE


def test_a_forward_that_was_exchanged_between_check_and_run(start, home):
    write(home, f"|{RUN}")
    agent = start("expansion-target", "")
    assert agent.deliver(told(RUN)).outcome is Outcome.DELIVERED
    (home / "mail").unlink()
    write(home, "|touch ~/other")
    assert agent.deliver(told(RUN)).outcome is Outcome.STALE
    assert agent.deliver(told("touch ~/other")).outcome is Outcome.DELIVERED
    write(home, f"|{RUN}")
    assert agent.deliver(told(RUN)).outcome is Outcome.DELIVERED


# -- a file that is not the user's own, or not acceptable: later, and nothing runs ----------------------


def make_link(path):
    write(path.parent, f"|{RUN}", "elsewhere")
    path.symlink_to("elsewhere")


def make_fifo(path):
    os.mkfifo(path)


def make_directory(path):
    path.mkdir()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("make", [make_link, make_fifo, make_directory, make_socket])
def test_a_forward_that_is_no_file(start, home, make):
    make(home / ".forward")
    assert ask(start, RUN).outcome is Outcome.DEFERRED
    assert not (home / "mail").exists()


@pytest.mark.parametrize("mode, who", [(0o620, "g"), (0o602, "o"), (0o666, "go")])
def test_a_forward_that_others_may_write(start, home, mode, who):
    write(home, f"|{RUN}")
    (home / ".forward").chmod(mode)
    assert ask(start, RUN).outcome is (Outcome.DEFERRED if others(who) else Outcome.DELIVERED)
    assert (home / "mail").exists() != bool(others(who))


@pytest.mark.parametrize("mode, why", [(0o1700, "t"), (0o770, "g"), (0o707, "o")])
def test_a_home_that_is_sticky_or_that_others_may_write(start, home, mode, why):
    write(home, f"|{RUN}")
    home.chmod(mode)
    assert ask(start, RUN).outcome is (Outcome.DEFERRED if others(why) else Outcome.DELIVERED)
    home.chmod(0o700)
    assert (home / "mail").exists() != bool(others(why))


@needs_root
def test_a_device_as_forward(start, home):
    os.mknod(home / ".forward", 0o20666, os.makedev(1, 5))  # /dev/zero
    own(home / ".forward")
    assert ask(start, RUN).outcome is Outcome.DEFERRED


@needs_root
@pytest.mark.parametrize("owner", [0, UID + 1])
def test_a_forward_of_another_user_also_by_a_hard_link(start, home, owner):
    other = home.parent / "other"
    other.write_text(f"|{RUN}")
    other.chmod(0o644)
    os.chown(other, owner, owner)
    os.link(other, home / ".forward")
    assert ask(start, RUN).outcome is Outcome.DEFERRED
    assert not (home / "mail").exists()


@pytest.mark.parametrize("text", ["|cat > ~/mail\n|'", "bob@\n|cat > ~/mail", b"|cat > ~/mail\n|a\0b"])
def test_a_malformed_line_of_the_forward_does_not_affect_other_lines(start, home, text):
    write(home, text)
    assert ask(start, RUN).outcome is Outcome.DELIVERED
    assert (home / "mail").read_bytes() == TRACE + MAIL


@pytest.mark.parametrize("text", ["|cat > ~/mail'", "|cat > ~/mail, bob@", b"|cat > ~/mail\0", "x" * 4096])
def test_a_malformed_forward(start, home, text):
    write(home, text)
    result = ask(start, RUN)
    assert result.outcome is Outcome.DEFERRED and "xxxx" not in result.text
    assert result.text.startswith(f"{home}/.forward")
    assert not (home / "mail").exists()


def test_a_reason_that_was_cut_within_a_character_is_a_reason(monkeypatch):
    monkeypatch.setattr(forward, "read", lambda *_: ("later", b"/home/b\xc3"))
    with pytest.raises(TargetDeferred, match="/home/b\ufffd"):
        forward_targets("/home/b", UID)


# -- very long ones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["a %{" + "x" * 200 + "}", "%{sender}" * 400, "a %{sender[9999]}", "a %{nosuch}"])
def test_specifiers_that_fail_the_mail(start, home, line):
    write(home, f'"|{line}"')
    assert ask(start, line).outcome is Outcome.FAILED


def test_a_path_that_grows_too_long_fails_the_mail(start, home):
    path = f"{home}/%{{sender}}%{{sender}}"
    write(home, path)
    mail = replace(told(path), sender="x" * 600)
    assert start("expansion-target", "").deliver(mail).outcome is Outcome.FAILED


# -- files to write to ----------------------------------------------------------------------------------------


def test_a_path_with_an_address_in_it_stays_where_it_is(start, home):
    path = f"{home}/%{{sender.user}}"
    write(home, path)
    agent = start("expansion-target", "")
    result = agent.deliver(told(path, sender="../../../tmp/x@there.test"))
    assert result.outcome is Outcome.DELIVERED
    assert (home / "..:..:..:tmp:x").exists()
    assert agent.deliver(told(path, sender="..@there.test")).outcome is Outcome.FAILED


@pytest.mark.parametrize("what", ["link", "fifo", "directory", "hard link"])
def test_a_target_that_is_no_regular_file_of_the_user_is_not_touched(start, home, what):
    victim = home / "victim"
    victim.write_bytes(b"precious")
    own(victim)
    target = home / "archive"
    makes = {"link": lambda: target.symlink_to(victim), "fifo": lambda: os.mkfifo(target), "directory": target.mkdir}
    makes.get(what, lambda: os.link(victim, target))()
    if what != "link":
        own(target)
    write(home, str(target))
    result = ask(start, str(target))
    assert result.outcome is Outcome.DEFERRED and result.text.startswith(f"{target}: ")
    assert victim.read_bytes() == b"precious"


def test_a_target_in_a_world_writable_directory(start, home):
    target = f"/var/tmp/smtpd-archive-{MARK}"
    write(home, target)
    assert ask(start, target).outcome is Outcome.DEFERRED
    assert not os.path.exists(target)


def test_a_file_limit_leaves_nothing_of_a_mail(start, home):
    write(home, f"{home}/archive")
    agent = start("expansion-target", "", limits=["RLIMIT_FSIZE=8192"])
    assert agent.deliver(told(f"{home}/archive", content=MAIL + b"x" * 20000)).outcome is Outcome.DEFERRED
    assert agent.deliver(told(f"{home}/archive")).outcome is Outcome.DELIVERED
    assert (home / "archive").read_bytes().count(b"From amy") == 1


# -- alias files of root's -----------------------------------------------------------------------------------------


@pytest.fixture
def etc():
    """A directory of root's."""
    path = Path(tempfile.mkdtemp(prefix="smtpd-etc-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def aliases(etc, text, mode=0o644):
    path = etc / "aliases"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@needs_root
def test_the_command_of_an_alias_runs(start, home, etc):
    path = aliases(etc, f'# lists\nroot: bob\nlist: amy, "|{RUN}"\n')
    assert ask(start, RUN, files=[path]).outcome is Outcome.DELIVERED
    assert (home / "mail").read_bytes() == TRACE + MAIL


@needs_root
def test_a_command_that_left_the_aliases_is_stale(start, home, etc):
    path = aliases(etc, f'list: "|{RUN}"')
    agent = start("expansion-target", "", files=[path])
    assert agent.deliver(told(RUN)).outcome is Outcome.DELIVERED
    (home / "mail").unlink()
    aliases(etc, "list: amy")
    assert agent.deliver(told(RUN)).outcome is Outcome.STALE
    assert not (home / "mail").exists()


@needs_root
def test_a_forward_is_no_alias_file(start, home, etc):
    write(home, f"|{RUN}")
    path = aliases(etc, "root: bob")
    assert ask(start, RUN, files=[path]).outcome is Outcome.STALE


@needs_root
def test_a_malformed_alias_value_does_not_affect_other_aliases(start, home, etc):
    path = aliases(etc, f'bad: "|x\nlist: "|{RUN}"')
    assert ask(start, RUN, files=[path]).outcome is Outcome.DELIVERED


@needs_root
def test_a_malformed_alias_line_does_not_affect_other_aliases(start, home, etc):
    """Lookup serves what the file said before."""
    path = aliases(etc, f'root:\nlist: bob,\n  "|{RUN}"\nx:')
    assert ask(start, RUN, files=[path]).outcome is Outcome.DELIVERED


def test_the_alias_file_of_an_ordinary_user_who_started_the_daemon(start, home):
    """Nobody is root there, and all processes are that user's."""
    path = str(home / "aliases")
    write(home, f'list: "|{RUN}"', "aliases")
    assert ask(start, RUN, files=[path], owner=UID).outcome is Outcome.DELIVERED
    assert ask(start, RUN, files=[path], owner=UID + 1).text == f"{path} belongs to uid {UID}, expected uid {UID + 1}"
    os.chmod(path, 0o646)
    said = f"{path} is writable by others than its owner: chmod o-w {path}"
    assert ask(start, RUN, files=[path], owner=UID).text == said


@needs_root
@pytest.mark.parametrize("what", ["writable", "his", "in his directory", "fifo", "gone"])
def test_an_alias_file_that_others_than_root_may_write(start, home, etc, what):
    path = aliases(etc, f'list: "|{RUN}"')
    match what:
        case "writable":
            os.chmod(path, 0o666)
        case "his":
            own(path)
        case "in his directory":
            own(etc)
        case "fifo":
            os.unlink(path)
            os.mkfifo(path)
        case "gone":
            os.unlink(path)
    assert ask(start, RUN, files=[path]).outcome is Outcome.DEFERRED
    assert not (home / "mail").exists()


def test_an_alias_file_is_as_large_as_a_table_may_be(tmp_path, monkeypatch):
    text = "list: amy\n"
    path = aliases(tmp_path, text)
    monkeypatch.setattr(expansion_target, "FILE_SIZE_MAX", len(text))
    assert alias_targets(path, os.getuid() or 1) == [User("amy")]
    aliases(tmp_path, text + "\n")
    with pytest.raises(Untrusted, match="is too large"):
        alias_targets(path, os.getuid() or 1)


def test_an_alias_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def broken(_path, _owner):
        raise OSError(errno.EIO, "Input/output error")

    path = aliases(tmp_path, "list: amy\n")
    monkeypatch.setattr(expansion_target, "alias_targets", broken)
    with pytest.raises(TargetDeferred, match=f"^{path}: Input/output error$"):
        AliasFiles((path,), os.getuid()).targets()


def test_an_alias_file_is_read_again_when_it_has_changed_and_only_then(tmp_path, monkeypatch):
    reads, read = [], expansion_target.alias_targets
    monkeypatch.setattr(expansion_target, "alias_targets", lambda *of: reads.append(of) or read(*of))
    files = AliasFiles((aliases(tmp_path, "list: amy\n"),), os.getuid() or 1)
    assert files.targets() == files.targets() == [User("amy")] and len(reads) == 1
    aliases(tmp_path, "list: amy, bob\n")
    assert files.targets() == [User("amy"), User("bob")] and len(reads) == 2
