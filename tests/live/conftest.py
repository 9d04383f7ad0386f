"""The real daemon, started as an administrator starts it, with real users and real clients, on 127.0.0.1.

Everything lies below a directory of its own (`--state`), so several daemons may run beside each other and beside the
system's MTA.  Needs root; the same daemon as an ordinary user is in test_ordinary.py.
"""

import collections
import contextlib
import grp
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

from tests.live.impostor import Impostor
from tests.live.loaded import load_programs
from tests.trusted import OPTIONS
from tests.unique import MARK, free_port

TOP = Path(__file__).parent.parent.parent
PYTHON = sys.executable
COMPLETE = b"Date: Sat, 21 Nov 2026 06:50:23 +0000\r\nMessage-ID: <1@there.test>\r\n"
ROLES = ("crypto", "control", "lookup", "dispatcher", "queue", "scheduler")
READY = 90.0  # seconds that a start may take on a busy machine

CONF = """
listen on 127.0.0.1 port {port}
action "local" maildir
match from any for domain "here.test" action "local"
match from any for local action "local"
"""


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name != "test_ordinary.py":
                item.add_marker(pytest.mark.skip(reason="needs root: processes get users of their own"))


@pytest.fixture(scope="session")
def ground():
    """A directory that belongs to root up to /, for states and homes."""
    path = Path(tempfile.mkdtemp(prefix="smtpd-live-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Users:
    """System users made for the tests, with homes on the test ground; gone at the end.  Another run of
    these tests may have users of its own at the same time."""

    def __init__(self, ground):
        self.ground = ground
        self.names = []

    def make(self, name):
        name = f"{name}-{MARK}-{len(self.names)}"
        home = self.ground / "home" / name
        home.parent.mkdir(exist_ok=True)
        home_option = ["--home-dir", str(home), "--create-home", "--skel", "/nonexistent"]
        subprocess.run(["useradd", *home_option, "--shell", "/bin/sh", name], check=True)
        home.chmod(0o700)
        self.names.append(name)
        return name

    def home(self, name):
        return Path(pwd.getpwnam(name).pw_dir)

    def remove(self):
        for name in self.names:
            until(lambda name=name: not kill_all_of(name), what=f"the end of all processes of {name}")
            until(lambda name=name: is_deleted(name), what=f"the end of {name}")


def is_deleted(name):
    """Not as long as another run has locked the user database."""
    gone = (0, 6)  # userdel(8): done; there is no such user
    return subprocess.run(["userdel", name], stderr=subprocess.DEVNULL).returncode in gone


def pids_of(name):
    """Every process of that user."""
    uid = pwd.getpwnam(name).pw_uid
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if f"\nUid:\t{uid}\t" in (process / "status").read_text():
                found.append(int(process.name))
    return found


def lives(pid):
    """Also when nobody has waited for it yet, a dead one is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_all_of(name):
    pids = pids_of(name)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


@pytest.fixture(scope="session")
def users(ground):
    made = Users(ground)
    subprocess.run(["sh", str(TOP / "etc/setup.sh"), "users"], check=True, stdout=subprocess.DEVNULL)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def alice(users):
    return users.make("smtpd-alice")


@pytest.fixture(scope="session")
def bob(users):
    return users.make("smtpd-bob")


class Daemon:
    """One smtpd with a state directory of its own."""

    def __init__(self, ground, conf=CONF, port=None):
        self.directory = Path(tempfile.mkdtemp(prefix="state-", dir=ground))
        self.directory.chmod(0o755)
        self.state = self.directory / "state"
        self.port = port or free_port()
        self.python = PYTHON
        self.conf = self.directory / "smtpd.conf"
        self.configure(conf)
        self.log_path = self.directory / "log"
        self.process = None

    def configure(self, conf):
        self.conf.write_text(conf.format(port=self.port, directory=self.directory))

    def start(self, *options, prefix=()):
        """Start and wait until it says it is ready, as a service manager would."""
        address = str(self.directory / "notify")
        Path(address).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log_path.open("ab") as log:
            notify.bind(address)
            notify.settimeout(0.2)
            command = [self.python, "-m", "smtpd", "-d", "--state", str(self.state), "-f", str(self.conf)]
            command += [*OPTIONS, *options]
            environment = {**os.environ, "NOTIFY_SOCKET": address}
            self.process = subprocess.Popen(
                [*prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/"
            )
            self._wait_for(notify)
        return self

    def _wait_for(self, notify):
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in notify.recv(4096):
                    return
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        self.kill()
        raise AssertionError(f"smtpd did not become ready:\n{self.log}")

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self):
        """An orderly stop; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self, seconds=60):
        """Wait for the end; the exit status.  A daemon that does not end shows how far it came."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            left = {title: Path(f"/proc/{pid}/wchan").read_text() for title, pid in self.pids().items()}
            raise AssertionError(f"smtpd did not end within {seconds} s; left: {left}\n{self.log}") from None

    def kill(self):
        """All of it at once, without a chance to say anything."""
        if not self.running():
            return  # its pid may be somebody else's by now
        for pid in [self.process.pid, *self.descendants()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(60)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def descendants(self):
        """Pids of everything below the parent, the nursery's children too."""
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        found, todo = [], [self.process.pid]
        while todo:
            below = children.get(todo.pop(), [])
            found += below
            todo += below
        return found

    def pids(self):
        """Title -> pid of the parent, the nursery, the six; agents under "agent NAME"."""
        titles = {}
        for pid in [self.process.pid, *self.descendants()]:
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith("smtpd: "):
                # What the nursery has just forked still goes by its name: the first one is the nursery itself.
                titles.setdefault(title.removeprefix("smtpd: "), pid)
        return titles

    def client(self, timeout=30):
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.test", timeout=timeout)

    def send(self, recipient, content, sender="amy@there.test"):
        """With all that would be added for a program of this host."""
        with self.client() as client:
            return client.sendmail(sender, [recipient], COMPLETE + content)

    def smtpctl(self, *words, check=True):
        command = [self.python, "-m", "smtpctl", "--state", str(self.state), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
        assert not check or done.returncode == 0, f"smtpctl {words}: {done.stdout}{done.stderr}{self.log[-3000:]}"
        return done

    def statistics(self):
        """All that is counted; what has not been is 0."""
        pairs = (line.split("=", 1) for line in self.smtpctl("show", "stats").stdout.splitlines())
        return collections.Counter({key: int(value) for key, value in pairs if value.isdecimal()})


@contextlib.contextmanager
def started(daemon, *options):
    """That daemon, which must stop in good order at the end, unless a test has ended it."""
    try:
        yield daemon.start(*options)
        if daemon.running():
            assert daemon.stop() == 0, daemon.log
    finally:
        if daemon.running():
            daemon.kill()
        shutil.rmtree(daemon.directory)


def running(ground, conf=CONF, *options):
    return started(Daemon(ground, conf), *options)


@pytest.fixture
def make_daemon(ground, users):
    made = []

    def make(conf=CONF, **more):
        made.append(Daemon(ground, conf, **more))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.running():
            daemon.kill()
        shutil.rmtree(daemon.directory, ignore_errors=True)


@pytest.fixture
def daemon(ground, users):
    """A daemon of this test's own."""
    with running(ground) as made:
        yield made


@pytest.fixture
def impostor(make_daemon):
    """`impostor(role)`: in a daemon of its own, or one that has been made for it."""
    made = []

    def make(role, conf=CONF, *, daemon=None, **start):
        daemon = (daemon or make_daemon(conf)).start(**start)
        made.append(Impostor(daemon, role))
        return made[-1]

    yield make
    for one in made:
        one.close()


@contextlib.contextmanager
def several(make, count):
    """So many sockets or clients, made by `make()`, that are closed however the test ends."""
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(make()) for _ in range(count)]


def until(condition, seconds=60.0, what="it"):
    """Wait for the outside world: poll, with a deadline.  A condition that takes long is asked less often: it would
    keep the machine from what it waits for."""
    deadline = time.monotonic() + seconds
    while (begun := time.monotonic()) < deadline:
        found = condition()
        if found:
            return found
        time.sleep(max(0.02, 2 * (time.monotonic() - begun)))
    raise AssertionError(f"{what} did not happen within {seconds} s")


def become(name, function):
    """The exit status that `function` returns, called in a child that is that user.  Forked and not executed: an
    ordinary user may not be able to reach this interpreter."""
    entry = pwd.getpwnam(name)
    load_programs()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(*[entry.pw_gid] * 3)
            os.setresuid(*[entry.pw_uid] * 3)
            os._exit(function())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def mails(home, folder="Maildir"):
    """The contents of all mails of a Maildir, new and seen."""
    found = []
    for place in ("new", "cur"):
        directory = Path(home) / folder / place
        if directory.is_dir():
            found += [path.read_bytes() for path in sorted(directory.iterdir())]
    return found


def empty_maildir(home):
    """No mail in it.  The directories stay: an agent that is still there holds them open."""
    for place in ("new", "cur", "tmp"):
        for path in (Path(home) / "Maildir").glob(f"{place}/*"):
            path.unlink(missing_ok=True)


@pytest.fixture
def letterbox(users, alice):
    """Alice's home, with an empty Maildir."""
    empty_maildir(users.home(alice))
    return users.home(alice)


def group_of(name):
    return grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
