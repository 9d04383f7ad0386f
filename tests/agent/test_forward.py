"""Reading ~/.forward: whose it must be, and what must not be read."""

import os
import resource
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.agent.forward import TooLong, _content, read
from smtpd.ipc.errand import FORWARD_MAX
from tests.agent.conftest import UID, own

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


def test_the_text_is_handed_on_as_it_is(start, home):
    content = b"\\bob, amy@there.test\n# \xff\0 without an end"
    write(home, content)
    assert ask(start) == ("text", content)


def test_an_empty_file_is_a_text(start, home):
    write(home, b"")
    assert ask(start) == ("text", b"")


def test_the_longest_file(start, home):
    write(home, b"x" * FORWARD_MAX)
    assert ask(start) == ("text", b"x" * FORWARD_MAX)


def test_a_longer_file_is_none_that_can_be_understood(start, home):
    write(home, b"x" * (FORWARD_MAX + 1))
    assert ask(start) == ("malformed", b".forward is longer than 4095 bytes")


def test_no_home_is_none(start, home):
    home.rmdir()
    assert ask(start) == ("none", b"")


@needs_root
def test_a_home_that_cannot_be_reached_is_refused(start, home):
    write(home)
    home.parent.chmod(0o700)
    verdict, reason = ask(start)
    assert verdict == "refused" and b"Permission denied" in reason


def test_a_home_that_is_no_directory_is_refused(start, home):
    home.rmdir()
    home.write_bytes(b"amy@there.test\n")
    assert ask(start)[0] == "refused"


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
        with pytest.raises(TooLong):
            _content(reading)
    finally:
        os.close(reading)


def test_a_sticky_home_stops_delivery_for_now(start, home):
    write(home)
    home.chmod(0o1700)
    assert ask(start) == ("later", b"home directory is sticky")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(start, home, mode):
    write(home, mode=mode)
    assert ask(start) == ("refused", b".forward can be written by others")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_home_that_others_may_write_is_refused(start, home, mode):
    write(home)
    home.chmod(mode)
    assert ask(start) == ("refused", b"home directory can be written by others")


def test_a_link_is_refused_and_not_followed(start, home):
    (home / "secret").write_bytes(b"secret")
    own(home / "secret")
    (home / ".forward").symlink_to(home / "secret")
    verdict, reason = ask(start)
    assert verdict == "refused" and b"secret" not in reason


@pytest.mark.parametrize("what", ["directory", "socket"])
def test_what_is_no_file_is_refused(start, home, what):
    if what == "directory":
        (home / ".forward").mkdir()
        own(home / ".forward")
        assert ask(start)[0] == "refused"
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(home / ".forward"))
            own(home / ".forward")
            assert ask(start)[0] == "refused"


def test_a_fifo_is_refused_without_waiting_for_a_writer(start, home):
    os.mkfifo(home / ".forward")
    own(home / ".forward")
    assert ask(start) == ("refused", b".forward is not a regular file")


@needs_root
def test_a_device_is_refused(start, home):
    os.mknod(home / ".forward", 0o20666, os.makedev(1, 5))  # /dev/zero
    own(home / ".forward")
    assert ask(start) == ("refused", b".forward is not a regular file")


@needs_root
def test_a_hard_link_to_a_file_of_roots_is_refused_and_nothing_of_it_told(start, home):
    secret = home.parent / "secret"
    secret.write_bytes(b"root:secret")
    secret.chmod(0o644)
    os.link(secret, home / ".forward")
    assert ask(start) == ("refused", b".forward belongs to somebody else")


@needs_root
def test_a_file_of_somebody_elses_is_refused(start, home):
    os.chown(write(home), UID + 1, UID + 1)
    assert ask(start) == ("refused", b".forward belongs to somebody else")


@needs_root
def test_a_home_of_somebody_elses_is_refused(start, home):
    write(home)
    os.chown(home, UID + 1, UID + 1)
    home.chmod(0o755)
    assert ask(start) == ("refused", b"home directory belongs to somebody else")


@needs_root
def test_a_home_of_roots_is_fine(start, home):
    write(home)
    os.chown(home, 0, 0)
    home.chmod(0o755)
    assert ask(start)[0] == "text"


def test_a_file_that_cannot_be_read_is_refused(start, home):
    write(home, mode=0o200)
    assert ask(start)[0] == "refused"


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
def test_any_bytes_are_handed_on_or_too_many(tmp_path_factory, content):
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(0o700, exist_ok=True)
    file = home / ".forward"
    file.write_bytes(content)
    file.chmod(0o600)
    verdict, found = read(str(home), os.getuid())
    assert (verdict, found) == ("text", content) if len(content) <= FORWARD_MAX else verdict == "malformed"
