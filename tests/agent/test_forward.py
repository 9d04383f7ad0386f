"""Reading ~/.forward: whose it must be, and what must not be read."""

import os
import resource
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.agent.forward import ForwardAgent, ForwardTooLong, _content, read
from smtpd.errand import FORWARD_MAX, ReadForward
from tests.agent.conftest import UID, others, own

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: files of several users")


def write(home, content=b"amy@there.test\n", mode=0o644):
    path = home / ".forward"
    path.write_bytes(content)
    path.chmod(mode)
    own(path)
    return path


def ask(start):
    agent = start("forward", "")
    verdict, content = agent.forward()
    assert agent.end() == 0
    return verdict, content


def test_no_file_is_none(start):
    assert ask(start) == ("none", b"")


def test_the_content_is_passed_on_unchanged(start, home):
    content = b"\\bob, amy@there.test\n# \xff\0 without an end"
    write(home, content)
    assert ask(start) == ("text", content)


def test_an_empty_file_is_a_text(start, home):
    write(home, b"")
    assert ask(start) == ("text", b"")


def test_the_longest_file(start, home):
    write(home, b"x" * FORWARD_MAX)
    assert ask(start) == ("text", b"x" * FORWARD_MAX)


def test_a_longer_file_is_malformed(start, home):
    write(home, b"x" * (FORWARD_MAX + 1))
    assert ask(start) == ("malformed", f"{home}/.forward is longer than 4095 bytes".encode())


def test_a_home_whose_name_is_no_utf8_is_named_as_far_as_it_can_be(home):
    at = os.fsencode(home) + b"/b\xf6b"
    os.mkdir(at)
    os.chmod(at, 0o1700)
    verdict, reason = read(os.fsdecode(at), os.getuid())
    assert verdict == "later" and b"/b?b is sticky" in reason


def test_a_reason_is_no_longer_than_an_answer_may_be():
    verdict, reason = read("/" + "x" * 2 * FORWARD_MAX, os.getuid())
    assert verdict == "later" and len(reason) == FORWARD_MAX


def test_a_home_that_was_replaced_is_for_the_next_agent(home):
    """Of the new one this agent would see nothing: no .forward."""
    agent = ForwardAgent(str(home))
    home.rename(home.parent / "old")
    home.mkdir(0o700)
    write(home)
    (answer,) = agent.execute([(ReadForward(1), -1)])
    assert answer.verdict == "later" and agent.draining


def test_no_home_is_none(start, home):
    home.rmdir()
    assert ask(start) == ("none", b"")


@needs_root
def test_a_home_that_cannot_be_reached_is_for_later(start, home):
    write(home)
    home.parent.chmod(0o700)
    assert ask(start) == ("later", f"{home}/.forward: permission denied for uid {UID}".encode())


@needs_root
def test_a_home_that_the_user_may_search_and_not_read(start, home):
    os.chown(home, 0, 0)
    home.chmod(0o711)
    assert ask(start) == ("none", b"")
    write(home)
    assert ask(start)[0] == "text"


def test_a_home_that_is_no_directory_has_no_forward(start, home):
    """/dev/null, of users who are never at home."""
    home.rmdir()
    home.write_bytes(b"amy@there.test\n")
    assert ask(start) == ("none", b"")


def test_want_of_descriptors_is_for_later(home):
    write(home)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null") as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        verdict, reason = read(str(home), UID)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert verdict == "later" and b"Too many open files" in reason


def test_a_file_that_grows_while_it_is_read_is_too_long():
    reading, writing = os.pipe()
    os.write(writing, b"x" * (FORWARD_MAX + 1))
    os.close(writing)
    try:
        with pytest.raises(ForwardTooLong):
            _content(reading)
    finally:
        os.close(reading)


def test_a_sticky_home_stops_delivery_for_now(start, home):
    write(home)
    home.chmod(0o1700)
    reason = f"home directory {home} is sticky, which stops delivery: chmod -t {home}".encode()
    assert ask(start) == ("later", reason)
    (home / ".forward").unlink()
    assert ask(start) == ("later", reason)


WRITERS = {"g": "its group", "o": "everybody", "go": "everybody"}


@pytest.mark.parametrize("mode, who", [(0o664, "g"), (0o620, "g"), (0o646, "o"), (0o666, "go")])
def test_a_file_that_others_may_write_is_unsafe(start, home, mode, who):
    path = write(home, mode=mode)
    who = others(who)
    said = f"{path} is writable by {WRITERS.get(who)}: chmod {who}-w {path}"
    assert ask(start) == (("unsafe", said.encode()) if who else ("text", b"amy@there.test\n"))


@pytest.mark.parametrize("mode, who", [(0o770, "g"), (0o2775, "g"), (0o707, "o"), (0o777, "go")])
def test_a_home_that_others_may_write_is_unsafe(start, home, mode, who):
    write(home)
    home.chmod(mode)
    who = others(who)
    said = f"home directory {home} is writable by {WRITERS.get(who)}: chmod {who}-w {home}"
    assert ask(start) == (("unsafe", said.encode()) if who else ("text", b"amy@there.test\n"))


@pytest.mark.parametrize("mode", [0o775, 0o770, 0o2775, 0o777, 0o711])
def test_the_modes_of_a_home_without_a_forward_do_not_matter(start, home, mode):
    home.chmod(mode)
    assert ask(start) == ("none", b"")


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o711])
def test_the_owner_of_a_home_without_a_forward_does_not_matter(start, home, mode):
    """A home that many share."""
    os.chown(home, UID + 1, UID + 1)
    home.chmod(mode)
    assert ask(start) == ("none", b"")


@needs_root
def test_a_home_that_cannot_be_searched_defers_mail(start, home):
    os.chown(home, UID + 1, UID + 1)
    home.chmod(0o700)
    assert ask(start) == ("later", f"{home}/.forward: permission denied for uid {UID}".encode())


PRIVATE = [(True, True, "text"), (True, False, "unsafe"), (False, True, "unsafe"), (False, False, "unsafe")]


@pytest.mark.parametrize("home_is, file_is, verdict", PRIVATE)
def test_a_group_that_is_the_users_own_may_write(home, home_is, file_is, verdict):
    write(home, mode=0o664)
    home.chmod(0o2775)
    assert read(str(home), UID, lambda where, _: home_is if where == str(home) else file_is)[0] == verdict


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_the_group_of_all_users_is_not_private(home, mode):
    write(home, mode=mode)
    assert read(str(home), UID, lambda *_: True)[0] == "unsafe"


def test_groups_are_looked_up_only_where_they_matter(home):
    """To ask may take long."""

    def is_private(*_):
        raise AssertionError("asked")

    home.chmod(0o770)
    assert read(str(home), UID, is_private) == ("none", b"")
    home.chmod(0o700)
    write(home)
    assert read(str(home), UID, is_private)[0] == "text"


def test_an_agent_looks_up_the_group_of_a_home_only_where_there_is_a_forward(home, monkeypatch):
    asked = []
    monkeypatch.setattr("pwd.getpwuid", lambda uid: asked.append(uid) or {}[uid])
    home.chmod(0o770)
    reader = ForwardAgent(str(home))
    assert asked == [] and reader.visible_paths == [(str(home), "r")]
    write(home)
    ForwardAgent(str(home))
    assert asked == [home.stat().st_uid]


def test_no_group_is_looked_up_for_a_link(home, monkeypatch):
    """Its mode says nothing, and it is refused."""
    monkeypatch.setattr("smtpd.agent.forward.has_private_group", lambda *_: pytest.fail("asked"))
    (home / ".forward").symlink_to("elsewhere")
    ForwardAgent(str(home))


def test_modes_that_change_under_an_agent_are_for_the_next_one_to_judge(start, home):
    """In a sandbox nobody knows who is in a group."""
    path = write(home)
    agent = start("forward", "")
    assert agent.forward()[0] == "text"
    path.chmod(0o664)
    assert agent.forward() == ("later", b"the permissions of .forward have just changed")
    assert agent.process.wait(30) == 0
    assert ask(start)[0] == ("unsafe" if others("g") else "text")


def test_a_link_is_unsafe_and_not_followed(start, home):
    (home / "secret").write_bytes(b"secret")
    own(home / "secret")
    (home / ".forward").symlink_to(home / "secret")
    assert ask(start) == ("unsafe", f"{home}/.forward is a symbolic link, expected a file".encode())


@pytest.mark.parametrize("what", ["directory", "socket"])
def test_what_is_no_file_is_unsafe(start, home, what):
    if what == "directory":
        (home / ".forward").mkdir()
        own(home / ".forward")
        assert ask(start)[0] == "unsafe"
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(home / ".forward"))
            own(home / ".forward")
            assert ask(start)[0] == "unsafe"


def test_a_fifo_is_unsafe_without_waiting_for_a_writer(start, home):
    os.mkfifo(home / ".forward")
    own(home / ".forward")
    assert ask(start) == ("unsafe", f"{home}/.forward is not a regular file".encode())


@needs_root
def test_a_device_is_unsafe(start, home):
    os.mknod(home / ".forward", 0o20666, os.makedev(1, 5))  # /dev/zero
    own(home / ".forward")
    assert ask(start) == ("unsafe", f"{home}/.forward is not a regular file".encode())


@needs_root
def test_a_hard_link_to_a_file_of_root_is_unsafe_and_its_content_is_not_sent(start, home):
    secret = home.parent / "secret"
    secret.write_bytes(b"root:secret")
    secret.chmod(0o644)
    os.link(secret, home / ".forward")
    verdict, reason = ask(start)
    assert (verdict, reason.partition(b",")[0]) == ("unsafe", f"{home}/.forward belongs to uid 0".encode())
    assert b"secret" not in reason and b"chown" not in reason  # whose would it be then?


@needs_root
def test_a_file_of_another_user_is_unsafe(start, home):
    os.chown(write(home), UID + 1, UID + 1)
    assert ask(start)[0] == "unsafe"


@needs_root
def test_a_home_of_another_user_with_a_forward_is_unsafe(start, home):
    write(home)
    os.chown(home, UID + 1, UID + 1)
    home.chmod(0o755)
    said = f"home directory {home} belongs to uid {UID + 1}, expected uid {UID} or root: chown it, or remove .forward"
    assert ask(start) == ("unsafe", said.encode())


@needs_root
def test_a_home_of_roots_is_fine(start, home):
    write(home)
    os.chown(home, 0, 0)
    home.chmod(0o755)
    assert ask(start)[0] == "text"


def test_a_file_that_cannot_be_read_is_for_later(start, home):
    path = write(home, mode=0o200)
    assert ask(start) == ("later", f"{path}: permission denied for uid {UID}".encode())


def test_nothing_stays_open(home):
    before = os.listdir("/dev/fd")
    assert read(str(home), UID)[0] == "none"
    for mode in (0o600, 0o666):
        write(home, mode=mode)
        read(str(home), UID)
    assert os.listdir("/dev/fd") == before


def test_a_change_is_seen_at_once(start, home):
    agent = start("forward", "")
    assert agent.forward() == ("none", b"")
    write(home, b"one\n")
    assert agent.forward() == ("text", b"one\n")
    (home / "new").write_bytes(b"two\n")
    (home / "new").chmod(0o644)
    own(home / "new")
    os.rename(home / "new", home / ".forward")
    assert agent.forward() == ("text", b"two\n")


def test_a_home_that_appears_later_is_for_the_next_agent(start, home):
    home.rmdir()
    agent = start("forward", "")
    assert agent.forward() == ("none", b"")
    home.mkdir(0o700)
    own(home)
    write(home)
    assert agent.forward()[0] == "later"
    assert agent.process.wait(30) == 0
    assert ask(start)[0] == "text"


@given(st.binary(max_size=FORWARD_MAX + 10))
@settings(max_examples=100)
def test_any_content_is_passed_on_or_too_long(tmp_path_factory, content):
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(0o700, exist_ok=True)
    file = home / ".forward"
    file.write_bytes(content)
    file.chmod(0o600)
    verdict, found = read(str(home), os.getuid())
    assert (verdict, found) == ("text", content) if len(content) <= FORWARD_MAX else verdict == "malformed"
