"""Mail that was kept while the daemon did not run: the child that hands it in, and which files it takes."""

import os
import signal
import socket
import time

import pytest

from smtpd import sandbox
from smtpd.errand import OFFLINE, OFFLINE_PROMISES
from smtpd.imsg import OfflineSubmitted, SubmitOffline, TakeOfflineDirectory, TakeSeccompFilter
from smtpd.nursery import offline
from tests.nursery.test_children import RESERVED_UIDS, World

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: becomes another user")
SERVICE = 4712  # the uid that a process of root gives itself for its session
OWNER = 54321
NAME = "0" * 32


class Session:
    """Says what the process is that hands in the mail."""

    becomes_another = True

    def __init__(self, path):
        if self.becomes_another and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(SERVICE, SERVICE, SERVICE)
            os.setresuid(SERVICE, SERVICE, SERVICE)
        # it may look at itself no more once it is confined
        self._status = open("/proc/self/status")  # noqa: SIM115
        self._path = path

    def submit(self, descriptor):
        content = os.read(descriptor, 100)
        self._status.seek(0)
        status = dict(line.split(":\t", 1) for line in self._status.read().splitlines() if ":\t" in line)
        wanted = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
        facts = ",".join(f"{name}={'/'.join(status[name].split())}" for name in wanted)
        return f"sent {self._path} {content.decode()} {facts}"


class StaysRoot(Session):
    becomes_another = False


class Dies(Session):
    def submit(self, descriptor):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Session):
    def submit(self, descriptor):
        time.sleep(100)


class Fails(Session):
    def submit(self, descriptor):
        raise KeyError("a mistake of ours")


class Tries(Session):
    """What one that is taken over would do."""

    def submit(self, descriptor):
        refused = []
        for attempt in (lambda: os.open("/etc/passwd", os.O_RDONLY), lambda: os.listdir("/")):
            try:
                attempt()
            except OSError as error:
                refused.append(error.strerror)
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # it dies of this
        return f"sent {refused}"


@pytest.fixture
def make_world(tmp_path):
    made = []

    def make(prepare=Session):
        world = World(offline=prepare)
        made.append(world)
        descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        world.children.take_seccomp_filter(TakeSeccompFilter(OFFLINE, sandbox.compile(OFFLINE_PROMISES)))
        world.children.offline.take_directory(TakeOfflineDirectory("/run/socket"), descriptor)
        return world

    yield make
    for world in made:
        os.close(world.children.offline._folder)
        world.close()


@pytest.fixture
def put(tmp_path):
    def put(owner=OWNER, mode=0o600, content="hello"):
        path = tmp_path / NAME
        path.write_text(content)
        if ROOT:
            os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    return put


def submit(world):
    return world.ask(SubmitOffline(1, NAME))


def test_a_mail_is_handed_in_by_its_owner_without_rights(make_world, put):
    put()
    done = submit(make_world())
    path, content, facts = done.reason.split(" ")
    assert (done.request, done.verdict, path, content) == (1, "sent", "/run/socket", "hello")
    found = dict(fact.split("=") for fact in facts.split(","))
    owner = OWNER if ROOT else os.geteuid()
    assert found["Uid"] == "/".join([str(owner)] * 4)
    if ROOT:
        assert (found["Gid"], found["Groups"]) == ("65534/65534/65534/65534", "65534")
        assert int(found["CapBnd"], 16) == 0
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


@needs_root
def test_root_s_mail_is_read_by_a_process_that_is_not_root(make_world, put):
    put(owner=0)
    done = submit(make_world())
    found = dict(fact.split("=") for fact in done.reason.split(" ")[2].split(","))
    assert done.verdict == "sent" and found["Uid"] == "/".join([str(SERVICE)] * 4)
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


@needs_root
def test_root_itself_reads_no_mail(make_world, put):
    put(owner=0)
    assert submit(make_world(StaysRoot)) == OfflineSubmitted(1, "later", "no session")


def test_one_that_is_taken_over_sees_no_file_and_makes_no_socket(make_world, put):
    put()
    assert submit(make_world(Tries)) == OfflineSubmitted(1, "refused", offline.DIED)


def make_link(path):
    os.rename(path, path.parent / "other")
    os.symlink(path.parent / "other", path)


def make_hard_link(path):
    os.link(path, path.parent / "other")


def make_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def make_directory(path):
    path.unlink()
    path.mkdir(0o700)


def make_socket(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "attack, reason",
    [
        (make_link, "not a regular file"),
        (make_hard_link, "more than one link"),
        (make_fifo, "not a regular file"),
        (make_directory, "not a regular file"),
        (make_socket, "not a regular file"),
    ],
)
def test_what_sendmail_cannot_have_made_is_refused(make_world, put, attack, reason):
    attack(put())
    assert submit(make_world()) == OfflineSubmitted(1, "refused", reason)


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o4600, 0o700])
def test_another_mode_is_refused(make_world, put, mode):
    put(mode=mode)
    assert submit(make_world()) == OfflineSubmitted(1, "refused", "its mode is not 0600")


@needs_root
def test_a_process_of_the_daemon_hands_in_no_mail(make_world, put):
    put(owner=next(iter(RESERVED_UIDS)))
    assert submit(make_world()) == OfflineSubmitted(1, "refused", "it belongs to a process of the daemon")


def test_a_file_that_is_gone_is_that(make_world):
    assert submit(make_world()) == OfflineSubmitted(1, "gone", "")


@pytest.mark.parametrize("name", ["../etc", "/etc/passwd", "", ".."])
def test_a_name_is_one_of_the_directory(make_world, name):
    assert make_world().ask(SubmitOffline(1, name)) == OfflineSubmitted(1, "refused", "not a name")


@pytest.mark.parametrize(
    "prepare, reason", [(Dies, offline.DIED), (Fails, "KeyError: 'a mistake of ours'")], ids=["dies", "fails"]
)
def test_a_mail_that_breaks_its_process_is_refused(make_world, put, prepare, reason):
    put()
    assert submit(make_world(prepare)) == OfflineSubmitted(1, "refused", reason)


def test_one_that_takes_too_long_is_killed_and_tried_later(make_world, put, monkeypatch):
    monkeypatch.setattr(offline, "SUBMIT_TIMEOUT", 1.0)
    put()
    assert submit(make_world(Hangs)) == OfflineSubmitted(1, "later", "no answer in time")


def test_without_a_directory_it_is_later():
    world = World(offline=Session)
    try:
        assert world.ask(SubmitOffline(1, NAME)).verdict == "later"
    finally:
        world.close()


def test_a_file_of_which_no_process_can_be_made_is_tried_later(make_world, put, monkeypatch):
    put()
    world = make_world()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", lambda: (_ for _ in ()).throw(OSError(11, "Resource temporarily unavailable")))
        assert submit(world) == OfflineSubmitted(1, "later", "no further process can be made")
