"""The parent when there are no descriptors, or no threads, to be had: what needs one comes later, and nothing ends."""

import errno
import os
import signal
import socket
import threading

import pytest

from smtpd.imsg import ForkTableProgram
from smtpd.ipc.selector_loop import SIGNALS, SelectorLoop
from smtpd.parent import late_listener, syslog
from smtpd.parent.blocking_call import BlockingCalls
from tests.parent.conftest import LOCAL
from tests.parent.test_late_listener import listener, make_place  # noqa: F401  (a fixture)
from tests.parent.test_table_program import REDIS


def scarce(*_arguments, **_named):
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_table_s_program_is_started_later(make_world, monkeypatch, capfd):
    world = make_world(LOCAL, programs=(REDIS,))
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", scarce)
        world.programs.begin()
    assert "table hosts: its program cannot be started: Too many open files" in capfd.readouterr().err
    assert world.hears("nursery") == []
    world.wait(1)
    assert world.hears("nursery") == [ForkTableProgram(1, "_smtpf", [*REDIS.arguments])]


@pytest.mark.parametrize("room, name", [(socket, "socket"), (os, "dup")])
def test_syslog_is_not_there(monkeypatch, tmp_path, room, name):
    monkeypatch.setattr(syslog, "SYSLOG", str(tmp_path / "log"))
    ours = syslog.Syslog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        with monkeypatch.context() as patched:
            patched.setattr(room, name, scarce)
            assert ours.connect() is None
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):  # syslogd was restarted
            descriptor = ours.connect()
            os.close(descriptor)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        ours._socket.close()


def test_interfaces_are_looked_for_again(make_place, monkeypatch, capfd):  # noqa: F811
    with monkeypatch.context() as patched:
        patched.setattr(late_listener, "interfaces", scarce)
        place = make_place(listener())
        place.again()
    assert capfd.readouterr().err.count("the interfaces cannot be listed: Too many open files") == 1
    place.again()
    assert len(place.heard()) == 1


def test_a_job_that_no_thread_can_be_had_for_has_an_error_and_the_next_one_a_thread(monkeypatch):
    loop, told = SelectorLoop(), []
    worker = BlockingCalls(loop)

    def none(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        worker.do(lambda: "one", told.append)
    assert not told and worker.waiting == 1
    while not told:
        loop.turn()
    assert isinstance(told.pop(), BlockingIOError)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & SIGNALS
    worker.do(lambda: "two", told.append)
    while not told:
        loop.turn()
    assert told == ["two"] and worker.waiting == 0
    worker.end(5)


def test_the_end_comes_right_after_a_job_that_no_thread_could_be_had_for(monkeypatch):
    loop, told = SelectorLoop(), []
    worker = BlockingCalls(loop)

    def none(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    worker.do(lambda: "one", lambda error: (told.append(error), worker.do(lambda: "two", told.append)))
    worker.end(5)
    assert isinstance(told[0], BlockingIOError) and told[1:] == ["two"] and worker.waiting == 0
    loop.call_later(0, lambda: None)
    loop.turn()  # nothing is left in it that needs what the worker had
