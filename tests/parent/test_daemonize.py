"""Directories, pid file, service manager, log pipes: what the parent provides before others need it."""

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys

import pytest

from smtpd.imsg import TABLE, TakeSyslog
from smtpd.ipc.channel import Channel
from smtpd.parent import syslog
from smtpd.parent.notify import ServiceManager
from smtpd.parent.start.directory import DirectoryError, check_empty, make_directory
from smtpd.parent.start.log_pipes import LogPipes
from smtpd.parent.start.pidfile import AlreadyRunning, lock_pid_file
from smtpd.sandbox import Ids
from tests.unique import MARK

ME = Ids(os.geteuid(), os.getegid())
STRANGER = Ids(12345, 12345)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_made_for_its_owner(tmp_path):
    owner = STRANGER if os.geteuid() == 0 else ME
    make_directory(str(tmp_path / "spool"), owner, 0o700)
    status = (tmp_path / "spool").stat()
    assert (status.st_uid, status.st_gid, mode(tmp_path / "spool")) == (*owner, 0o700)


def test_one_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "spool").mkdir(mode=0o750)
    make_directory(str(tmp_path / "spool"), ME, 0o700)
    assert mode(tmp_path / "spool") == 0o750


def test_a_directory_of_another_user_is_not_taken_over(tmp_path):
    (tmp_path / "spool").mkdir()
    with pytest.raises(DirectoryError, match="should belong to uid 12345"):
        make_directory(str(tmp_path / "spool"), STRANGER, 0o700)
    assert (tmp_path / "spool").stat().st_uid == ME.uid


def test_a_directory_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o757)
    with pytest.raises(DirectoryError, match=r"writable by others than its owner \(mode 0757\): chmod o-w /.*/spool$"):
        make_directory(str(tmp_path / "spool"), ME, 0o700)


def test_a_link_where_a_directory_belongs_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool").symlink_to("elsewhere")
    with pytest.raises(OSError):
        make_directory(str(tmp_path / "spool"), ME, 0o700)


def test_only_one_step_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_directory(str(tmp_path / "a" / "b"), ME, 0o700)


def test_an_empty_directory_is_empty(tmp_path):
    check_empty(str(tmp_path))
    (tmp_path / "left").write_text("")
    with pytest.raises(DirectoryError, match='holds "left"'):
        check_empty(str(tmp_path))


def test_one_daemon_holds_the_pid_file_and_the_next_is_told_which(tmp_path):
    path = tmp_path / "smtpd.pid"
    held = lock_pid_file(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        lock_pid_file(str(path))
    held.remove()
    assert not path.exists()


def test_a_pid_file_that_a_crash_left_does_not_prevent_a_start(tmp_path):
    path = tmp_path / "smtpd.pid"
    path.write_text("999999999\n")
    lock_pid_file(str(path)).remove()


def test_two_daemons_cannot_both_lock_a_pid_file_that_is_being_removed(tmp_path, monkeypatch):
    """The second one opens it, the first one stops, the third one makes another: the second one's lock is of a file
    that no name leads to."""
    path = tmp_path / "smtpd.pid"
    first, lock, others = lock_pid_file(str(path)), fcntl.flock, []

    def flock(descriptor, operation):
        if first:
            first.pop().remove()
            others.append(lock_pid_file(str(path)))
        lock(descriptor, operation)

    first = [first]
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        lock_pid_file(str(path))
    (other,) = others
    assert path.read_text() == f"{os.getpid()}\n"
    other.remove()
    assert not path.exists()


def test_a_pid_file_of_another_daemon_is_not_removed(tmp_path):
    """Somebody has removed ours, and another one was started."""
    path = tmp_path / "smtpd.pid"
    ours = lock_pid_file(str(path))
    path.unlink()
    other = lock_pid_file(str(path))
    ours.remove()
    assert path.exists()
    other.remove()


def test_a_pid_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "smtpd.pid").symlink_to("victim")
    with pytest.raises(OSError):
        lock_pid_file(str(tmp_path / "smtpd.pid"))
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_service_manager_is_told(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        manager = ServiceManager(address)
        manager.tell("READY=1", "STATUS=x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"
        manager.close()


def test_the_service_manager_may_be_at_an_abstract_address():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0smtpd-test-{MARK}")
        manager = ServiceManager(f"@smtpd-test-{MARK}")
        manager.tell("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"
        manager.close()


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket"])
def test_without_a_service_manager_nothing_happens(address):
    ServiceManager(address).tell("READY=1")


@contextlib.contextmanager
def stderr_in(path):
    """Descriptor 2 of this process is a file meanwhile."""
    kept = os.dup(2)
    with open(path, "w+b") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def test_a_start_that_fails_tells_its_reason_where_it_was_typed(tmp_path):
    with stderr_in(tmp_path / "stderr"):
        record = LogPipes()
        queue = record.writing_end("queue")
        os.write(2, b"info: starting\nwarn: fatal: it cannot\n")
        os.write(queue, b"debug: a detail\nwarn: no spool\nTraceback\n")
        os.close(queue)
        record.give_up()
        record.started()
    assert (tmp_path / "stderr").read_bytes() == (
        b"smtpd: warn: fatal: it cannot\nsmtpd: warn: queue: no spool\nsmtpd: queue: Traceback\n"
    )


def test_a_start_that_fails_tells_its_reason_to_syslog_too(tmp_path, monkeypatch):
    monkeypatch.setattr(syslog, "SYSLOG", str(tmp_path / "log"))
    with stderr_in(tmp_path / "stderr"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        record = LogPipes()
        os.write(2, b"info: starting\nwarn: fatal: it cannot\n")
        record.give_up()
        assert syslogd.recv(100) == f"<18>smtpd[{os.getpid()}]: warn: fatal: it cannot".encode()
        record.started()
        record.syslog._socket.close()


def test_a_stderr_that_cannot_be_written_to_is_no_second_failure(tmp_path, monkeypatch):
    """As of a shell by ssh that has ended: the start succeeds, or is cleared away."""
    monkeypatch.setattr(syslog, "SYSLOG", str(tmp_path / "log"))
    ours, theirs = (Channel(end, TABLE, "parent", "control") for end in socket.socketpair())
    reading, writing = os.pipe()
    os.close(reading)
    before = os.dup(2)
    os.dup2(writing, 2)
    try:
        record = LogPipes()
        record.hand_to(ours)
        os.write(2, b"warn: fatal: it cannot\n")
        record.give_up()
        record.started()
    finally:
        os.dup2(before, 2)
    ours.close()
    theirs.close()
    for descriptor in (before, writing):
        os.close(descriptor)


def test_control_is_handed_every_log_by_name_and_syslog(tmp_path, monkeypatch):
    monkeypatch.setattr(syslog, "SYSLOG", str(tmp_path / "log"))
    ours, theirs = socket.socketpair()
    parent, control = Channel(ours, TABLE, "parent", "control"), Channel(theirs, TABLE, "control", "parent")
    with stderr_in(tmp_path / "stderr"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        record = LogPipes()
        writing, program = record.writing_end("lookup"), record.writing_end("table t")
        record.set_pid("lookup", 4711)
        record.hand_to(parent)
        parent.flush()
        record.started()
        os.write(writing, b"a line\n")
        received, pids = {}, {}
        while len(received) < 4:
            for imsg, descriptor in control.receive():
                received[getattr(imsg, "name", type(imsg))] = descriptor
                pids[getattr(imsg, "name", type(imsg))] = getattr(imsg, "pid", None)
        assert pids == {"parent": os.getpid(), "lookup": 4711, "table t": 0, TakeSyslog: None}
        assert os.read(received["lookup"], 100) == b"a line\n"
        os.write(received[TakeSyslog], b"<22>x")
        assert syslogd.recv(100) == b"<22>x"
        record.syslog.log_directly("fatal: control died")
        assert syslogd.recv(100) == f"<18>smtpd[{os.getpid()}]: fatal: control died".encode()
    for descriptor in [*received.values(), writing, program]:
        os.close(descriptor)
    record.syslog._socket.close()
    parent.close()
    control.close()


def test_a_full_log_pipe_blocks_no_process(tmp_path):
    with stderr_in(tmp_path / "stderr"):
        record = LogPipes()
        writing = record.writing_end("queue")
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.close(writing)
        record.started()


def test_nothing_is_inherited_from_the_caller():
    reading, writing = os.pipe()
    program = (
        "import os, signal, sys; from smtpd.parent.start.daemonize import DEFERRED_SIGNALS, daemonize\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "daemonize(True)\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:3], os.getcwd(), oct(os.umask(0)),"
        " os.readlink('/proc/self/fd/0'))\n"
        "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        f"print(os.path.exists('/proc/self/fd/{writing}'), blocked == {{*DEFERRED_SIGNALS}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=reading, capture_output=True, text=True, pass_fds=[writing], check=True
    )
    os.close(reading)
    os.close(writing)
    assert done.stdout == "[0, 1, 2] / 0o22 /dev/null\nFalse True\n"


def test_stdout_is_dev_null_in_the_background():
    program = (
        "import os, sys; from smtpd.parent.start.daemonize import daemonize\n"
        "started = daemonize(False)\n"
        "os.write(2, os.readlink('/proc/self/fd/1').encode())\n"
        "started()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b"/dev/null"


def test_in_the_background_the_first_process_tells_how_the_start_went():
    program = (
        "import os, sys; from smtpd.parent.start.daemonize import daemonize\n"
        "started = daemonize(False)\n"
        "if sys.argv[1] == 'well': started()\n"
        "os._exit(0)"
    )
    well = subprocess.run([sys.executable, "-c", program, "well"])
    badly = subprocess.run([sys.executable, "-c", program, "badly"])
    assert (well.returncode, badly.returncode) == (0, 1)
