"""CheckPassword: who is asked, how many at once, and that guessing is slow.  The test is lookup, nursery and PAM."""

import os
import resource
import socket
from contextlib import contextmanager

import pytest

from smtpd.imsg import (
    TABLE,
    CheckPassword,
    ForkPassword,
    LookUpUser,
    PasswordChecked,
    PasswordTried,
    TryPassword,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.parent.password import KNOWN_ADDRESSES_MAX, PROCESS_TIMEOUT, WAITING_OF_USER
from tests.parent.conftest import LOCAL


class Desk:
    """A parent that is asked for passwords; `processes` are those that it had forked and not yet heard from."""

    def __init__(self, world):
        self.world = world
        self.processes = {}
        self.verdicts = {}
        self.asked = []

    def ask(self, request, user="alice", password="secret", judged="user", address="192.0.2.1"):
        self.world.say("lookup", CheckPassword(request, user, password, address))
        self.work(judged)

    def work(self, judged="user"):
        for imsg, descriptor in self.world.hears_all("nursery"):
            if isinstance(imsg, LookUpUser):
                self.world.say("nursery", UserLookedUp(imsg.request, judged))
                self.work(judged)
            elif isinstance(imsg, ForkPassword):
                self.take_process(descriptor)
        for imsg in self.world.hears("lookup"):
            assert isinstance(imsg, PasswordChecked)
            self.verdicts[imsg.request] = imsg.verdict

    def take_process(self, descriptor):
        self.world.channels._flush()
        process = Channel(socket.socket(fileno=descriptor), TABLE, "password", "parent")
        ((asked, _),) = process.receive()
        assert isinstance(asked, TryPassword)
        self.asked.append(asked)
        self.processes[asked.user] = process

    def says(self, user, verdict, reason=""):
        process = self.processes.pop(user)
        process.send(PasswordTried(verdict, reason))
        process.flush()
        self.world.loop.turn()
        process.close()
        self.work()

    def wait(self, seconds):
        self.world.wait(seconds)
        self.work()

    def close(self):
        for check in self.world.passwords._checks:
            if check.process is not None:
                check.process.close()
        for process in self.processes.values():
            process.close()


@pytest.fixture
def desk(make_world):
    made = Desk(make_world(LOCAL, passwords=True))
    yield made
    made.close()


@pytest.mark.parametrize("verdict", ["yes", "no", "later"])
def test_what_PAM_says_is_answered(desk, verdict):
    desk.ask(1)
    assert desk.asked == [TryPassword("alice", "secret", "192.0.2.1")]
    desk.says("alice", verdict)
    assert desk.verdicts == {1: verdict}


def test_a_right_password_is_asked_for_again_the_next_time(desk):
    for request in (1, 2):
        desk.ask(request)
        desk.says("alice", "yes")
    assert len(desk.asked) == 2


@pytest.mark.parametrize("judged, verdict", [("root", "no"), ("daemon", "no"), ("later", "later")])
def test_passwords_of_root_and_of_system_accounts_are_not_checked(desk, judged, verdict):
    desk.ask(1, "root", judged=judged)
    assert (desk.verdicts, desk.asked) == ({1: verdict}, [])


def test_an_unknown_user_costs_a_process_like_any_other(desk):
    desk.ask(1, "nobody-here", judged="unknown")
    assert len(desk.asked) == 1


@pytest.mark.parametrize("user", ["", "-rf", "../root", "a b", "a:b", "ü", "a" * 64])
def test_what_is_no_name_is_refused_without_a_look(desk, user):
    desk.ask(1, user)
    assert (desk.verdicts, desk.asked) == ({1: "no"}, [])


def test_one_process_of_a_user_and_four_together(desk):
    for request, user in enumerate(["a", "a", "b", "c", "d", "e"]):
        desk.ask(request, user)
    assert [asked.user for asked in desk.asked] == ["a", "b", "c", "d"]
    desk.says("c", "yes")
    assert [asked.user for asked in desk.asked] == ["a", "b", "c", "d", "e"]
    desk.says("a", "yes")
    assert [asked.user for asked in desk.asked] == ["a", "b", "c", "d", "e", "a"]


def test_a_user_who_is_guessed_at_leaves_room_for_others(desk):
    for request in range(WAITING_OF_USER + 1):
        desk.ask(request)
    assert desk.verdicts == {WAITING_OF_USER: "later"}
    desk.ask(100, "bob")
    assert desk.asked[-1].user == "bob"


def test_guessing_does_not_lock_a_user_out_of_a_known_address(desk):
    desk.ask(1)
    desk.says("alice", "yes")
    for request in range(2, 2 + 2 * WAITING_OF_USER):
        desk.ask(request, address=f"198.51.100.{request}")
    desk.says("alice", "no")
    assert "alice" not in desk.processes
    desk.ask(100)
    desk.says("alice", "yes")
    assert desk.verdicts[100] == "yes"


def test_guessing_from_an_address_where_the_user_was_let_in_is_slow_too(desk):
    desk.ask(1)
    desk.says("alice", "yes")
    desk.ask(2)
    desk.says("alice", "no")
    desk.ask(3)
    assert "alice" not in desk.processes
    desk.wait(1)
    assert "alice" in desk.processes


def test_only_the_last_addresses_of_a_user_have_lines_of_their_own(desk):
    """Or a lookup that was taken over would make as many as it needs, one for each guess."""
    for number in range(KNOWN_ADDRESSES_MAX + 1):
        desk.ask(number, address=f"192.0.2.{number}")
        desk.says("alice", "yes")
    desk.ask(100, address="192.0.2.0")
    desk.says("alice", "no")
    desk.ask(101, address="198.51.100.1")
    assert "alice" not in desk.processes
    desk.ask(102, address="192.0.2.1")
    assert "alice" in desk.processes


def test_guessing_is_slower_each_time(desk):
    for request, pause in enumerate([1, 2, 4, 8, 16, 16]):
        desk.ask(request)
        desk.says("alice", "no")
        desk.ask(100 + request)
        desk.wait(pause - 0.5)
        assert "alice" not in desk.processes
        desk.wait(0.5)
        desk.says("alice", "later")


def test_a_right_password_does_not_wait_for_earlier_failures(desk):
    for request in range(3):
        desk.ask(request)
        desk.says("alice", "no")
        desk.wait(16)
    desk.ask(10)
    desk.says("alice", "yes")
    desk.ask(11)
    desk.says("alice", "no")
    desk.ask(12)
    desk.wait(1)
    assert "alice" in desk.processes


def test_the_pause_after_a_failure_delays_no_other_client(desk):
    desk.ask(1)
    desk.says("alice", "no")
    desk.ask(2, "bob")
    assert "bob" in desk.processes


def test_a_login_that_waits_too_long_in_line_is_a_temporary_failure(desk):
    for request, user in enumerate("abcdefghi"):
        desk.ask(request, user)
    for process in desk.processes.values():
        process.close()
    desk.wait(PROCESS_TIMEOUT)
    assert [asked.user for asked in desk.asked] == list("abcdefgh") and 8 not in desk.verdicts
    desk.wait(20 - PROCESS_TIMEOUT)
    assert desk.verdicts[8] == "later"


@pytest.mark.parametrize("trouble", ["silence", "death", "nonsense", "no verdict"])
def test_a_password_process_that_does_not_answer_delays_no_other_login(desk, trouble, capfd):
    desk.ask(1)
    process = desk.processes["alice"]
    if trouble == "silence":
        desk.wait(PROCESS_TIMEOUT)
    elif trouble == "death":
        process.close()
        desk.world.loop.turn()
    elif trouble == "nonsense":
        process.sock.send(b"\xff" * 64)
        desk.world.loop.turn()
    else:
        process.send(PasswordTried("perhaps", ""))
        process.flush()
        desk.world.loop.turn()
    desk.work()
    assert desk.verdicts == {1: "later"}
    assert "gave no answer" in capfd.readouterr().err
    if trouble != "death":
        with pytest.raises(ChannelClosed):
            while process.receive():
                pass
        process.close()
    del desk.processes["alice"]
    desk.ask(2)
    desk.says("alice", "yes")
    assert desk.verdicts[2] == "yes"


@contextmanager
def no_descriptors():
    """None can be opened, but in the place of one that is closed meanwhile."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_logins_in_line_when_descriptors_have_run_out_are_temporary_failures(desk, capfd):
    for request, user in enumerate("abcdef"):
        desk.ask(request, user)
    with no_descriptors():
        desk.says("a", "yes")
    assert desk.verdicts == {0: "yes", 4: "later", 5: "later"}
    said = capfd.readouterr().err
    assert [said.count(f"password of {user}: Too many open files") for user in "ef"] == [1, 1]


def test_it_is_asked_only_where_the_configuration_wants_it(make_world):
    world = make_world(LOCAL)
    with pytest.raises(Violation, match="does not enable"):
        world.say("lookup", CheckPassword(1, "alice", "secret", "192.0.2.1"))


def test_no_password_stands_in_the_log_or_a_repr(desk, capfd):
    desk.ask(1, password="correct horse")
    assert "correct horse" not in repr(desk.world.passwords._checks)
    desk.says("alice", "no", "wrong password")
    assert "correct horse" not in capfd.readouterr().err
