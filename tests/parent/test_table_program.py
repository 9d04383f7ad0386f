"""Programs that answer for tables: started again, later and later, and nobody's end but their own."""

import os
import signal
import socket

import pytest

from smtpd.imsg import ForkTableProgram, TableProgramEnded, TableProgramForked, TableProgramNotForked, TakeTableProgram
from smtpd.ipc.channel import Violation
from smtpd.parent import table_program
from smtpd.slice import ProgramSlice
from tests.parent.conftest import LOCAL

LDAP = ProgramSlice("people", ("/usr/libexec/smtpd/table-ldap", "/etc/ldap.conf"), "_smtpf")
REDIS = ProgramSlice("hosts", ("/usr/libexec/smtpd/table-redis",), "_smtpf")


@pytest.fixture
def world(make_world):
    world = make_world(LOCAL, programs=(LDAP, REDIS))
    world.programs.begin()
    return world


def a_socket():
    return socket.socket(socket.AF_UNIX).detach()


def forked(world, request, pid):
    world.say("nursery", TableProgramForked(request, pid), a_socket())


def test_each_is_started_and_its_socket_is_lookup_s(world):
    assert world.hears("nursery") == [
        ForkTableProgram(1, "_smtpf", ["/usr/libexec/smtpd/table-ldap", "/etc/ldap.conf"]),
        ForkTableProgram(2, "_smtpf", ["/usr/libexec/smtpd/table-redis"]),
    ]
    forked(world, 2, 4712)
    forked(world, 1, 4711)
    assert world.hears("lookup") == [TakeTableProgram("hosts"), TakeTableProgram("people")]


def test_none_can_speak_in_the_log_for_another_or_for_a_process_of_ours(make_world):
    pipes = {name: os.pipe() for name in ("people", "hosts")}
    world = make_world(LOCAL, programs=(LDAP, REDIS), logs={name: writing for name, (_, writing) in pipes.items()})
    world.programs.begin()
    world.ours["nursery"].flush()
    told = {}
    while received := world.theirs["nursery"].receive():
        told |= {imsg.arguments[0]: descriptor for imsg, descriptor in received}
    for configured, name in ((LDAP, "people"), (REDIS, "hosts")):
        descriptor, (reading, writing) = told[configured.arguments[0]], pipes[name]
        assert os.path.samestat(os.fstat(descriptor), os.fstat(writing))
        for number in (descriptor, reading, writing):
            os.close(number)


def test_one_that_dies_again_and_again_is_started_later_and_later(world):
    world.hears("nursery")
    pauses = []
    for request in range(2, 11):
        forked(world, request, 4711)
        world.say("nursery", TableProgramEnded(4711, signal.SIGKILL))
        pauses.append(pause_before_the_next(world))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def pause_before_the_next(world):
    for pause in (1, 2, 4, 8, 16, 32, 60):
        world.wait(pause - 0.5)
        assert world.hears("nursery") == []
        world.wait(0.5)
        if world.hears("nursery"):
            return pause
        world.wait(-pause)
    raise AssertionError("it is not started again")


def test_one_that_cannot_be_started_is_tried_again(world, capfd):
    world.hears("nursery")
    world.say("nursery", TableProgramNotForked(1, "no such file"))
    assert "table people: its program cannot be started: no such file" in capfd.readouterr().err
    world.wait(1)
    assert [imsg.arguments for imsg in world.hears("nursery")] == [list(LDAP.arguments)]


def test_one_that_has_lived_well_is_started_again_at_once(world, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(table_program.time, "monotonic", lambda: now)
    for request in (1, 3, 4):
        forked(world, request, 4711)
        world.say("nursery", TableProgramEnded(4711, 0))
        world.programs._programs[0].pause = 32
        world.programs._start(world.programs._programs[0])
    forked(world, 5, 4711)
    now += table_program.STABLE_AFTER
    world.say("nursery", TableProgramEnded(4711, 0))
    assert world.programs._programs[0].pause == 2 * table_program.FIRST_PAUSE


def test_its_death_is_logged_with_its_status(world, capfd):
    forked(world, 1, 4711)
    world.say("nursery", TableProgramEnded(4711, 3 << 8))
    forked(world, 2, 4712)
    world.say("nursery", TableProgramEnded(4712, signal.SIGSEGV))
    logged = capfd.readouterr().err
    assert "table people: its program, pid 4711, exited with status 3" in logged
    assert "table hosts: its program, pid 4712, killed by SIGSEGV" in logged


def test_when_the_daemon_stops_none_is_started_and_no_end_is_news(world, capfd):
    forked(world, 1, 4711)
    world.say("nursery", TableProgramNotForked(2, "why"))
    world.hears("nursery")
    capfd.readouterr()
    world.programs.stop()
    world.say("nursery", TableProgramEnded(4711, 0))
    world.wait(100)
    assert world.hears("nursery") == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "imsg", [TableProgramForked(99, 1), TableProgramNotForked(99, "why"), TableProgramEnded(99, 0)]
)
def test_an_answer_without_a_question_is_fatal(world, imsg):
    with pytest.raises(Violation):
        world.say("nursery", imsg, os.open("/dev/null", os.O_RDONLY) if isinstance(imsg, TableProgramForked) else None)
