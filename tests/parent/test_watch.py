"""Who died and why, and the order of stopping; on processes forked for it, that obey or do not."""

import os
import signal
import socket

import pytest

from smtpd import sandbox
from smtpd.imsg import TABLE, ReopenSyslog, Stop
from smtpd.ipc.channel import Channel, ChannelClosed
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.selector_loop import SelectorLoop, forget_signals
from smtpd.parent import watch as watch_module
from smtpd.parent.child import Child
from smtpd.parent.watch import STAGES, Watch

ROLES = ["nursery", "crypto", "control", "lookup", "dispatcher", "queue", "scheduler"]


def obey(channel, tell):
    """A process that ends when it is told to, or when its parent goes."""
    channel.sock.setblocking(True)
    while True:
        try:
            received = channel.receive()
        except ChannelClosed:
            tell("closed")
            os._exit(0)
        if any(isinstance(imsg, Stop) for imsg, _ in received):
            tell("stop")
            os._exit(0)


def ignore(channel, tell):
    while True:
        signal.pause()


def fail_to_stop(channel, tell):
    channel.sock.setblocking(True)
    channel.receive()
    os._exit(3)


def die(channel, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def exit_well(channel, tell):
    os._exit(0)


def close_and_stay(channel, tell):
    channel.close()
    while True:
        signal.pause()


def break_the_rules(channel, tell):
    channel.sock.send(b"\0\xff\0\0" + (16).to_bytes(4, "big") + bytes(8))
    obey(channel, tell)


def call_what_is_forbidden(channel, tell):
    sandbox.enter(None, None, "stdio")
    os.fork()


class World:
    """A parent over a few processes; `said` is who ended, in order."""

    def __init__(self, behaviour):
        self.loop = SelectorLoop()
        self.channels = ChannelSet(self.loop)
        self.reading, self.writing = os.pipe()
        self.kernel_log = sandbox.open_kernel_log()
        self.last_words, self.told_that_it_stops = [], 0
        self.children = []
        for role in ROLES:
            self.children.append(self.make(role, behaviour.get(role, obey)))
        self.watch = Watch(
            self.loop, self.channels, self.children, self.kernel_log, self.last_words.append, self.stopping
        )
        for child in self.children:
            self.channels.add(
                child.channel, self.unexpected, lambda *end, child=child: self.watch.channel_ended(child, *end)
            )

    def make(self, role, act):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            return Child(role, 0, pid, Channel(ours, TABLE, "parent", role))
        try:
            forget_signals()
            ours.close()
            for other in self.children:
                other.channel.close()
            act(
                Channel(theirs, TABLE, role, "parent"), lambda word: os.write(self.writing, f"{role} {word}\n".encode())
            )
        finally:
            os._exit(1)

    def unexpected(self, channel, imsg, descriptor):
        assert isinstance(imsg, ReopenSyslog)

    def stopping(self):
        self.told_that_it_stops += 1

    def run(self):
        self.loop.call_later(15, lambda: pytest.fail("it does not end"))
        self.loop.run_forever()
        assert all(child.status is not None for child in self.children)
        return self.watch.status

    @property
    def said(self):
        os.close(self.writing)
        with open(self.reading) as file:
            return file.read().split("\n")[:-1]

    def close(self):
        for child in self.children:
            child.kill()
            child.wait()
            if not child.channel.closed:
                child.channel.close()
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


@pytest.fixture
def make_world(monkeypatch):
    monkeypatch.setattr(watch_module, "EXIT_TIMEOUT", 0.2)
    made = []

    def make(**behaviour):
        made.append(World(behaviour))
        made[-1].watch.begin()
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_dispatchers_end_first_queue_next_and_the_log_last(make_world):
    world = make_world()
    world.watch.stop()
    assert world.run() == 0
    ends = [word.split() for word in world.said]
    assert all(how == "stop" for _, how in ends)
    order = [next(number for number, stage in enumerate(STAGES) if role in stage) for role, _ in ends]
    assert order == sorted(order) and len(ends) == len(ROLES)
    assert world.told_that_it_stops == 1


def test_TERM_is_an_orderly_stop(make_world):
    world = make_world()
    os.kill(os.getpid(), signal.SIGTERM)
    assert world.run() == 0


def test_a_second_signal_ends_the_daemon_at_once(make_world):
    world = make_world(dispatcher=ignore, queue=ignore, lookup=ignore, control=ignore)
    world.watch.stop()
    world.watch.stop()
    assert world.run() == 0


def test_a_process_that_does_not_end_in_time_is_killed_and_the_stop_was_not_in_order(make_world, monkeypatch, capfd):
    stages = [watch_module.Stage(stage.roles, True, 0.2) for stage in watch_module.ORDERLY]
    monkeypatch.setattr(watch_module, "ORDERLY", stages)
    world = make_world(dispatcher=ignore)
    world.watch.stop()
    assert world.run() == watch_module.EX_FAILED
    assert "dispatcher does not end, and is killed" in capfd.readouterr().err


def test_a_process_that_fails_while_it_stops_is_in_the_log(make_world, capfd):
    world = make_world(queue=fail_to_stop)
    world.watch.stop()
    assert world.run() == watch_module.EX_FAILED
    assert "queue" in capfd.readouterr().err


@pytest.mark.parametrize(
    "act, reason",
    [
        (die, "killed by SIGKILL"),
        (exit_well, "exited"),
        (close_and_stay, "closed its channel"),
        (break_the_rules, "broke the rules: crypto may not send imsg 255 to parent"),
    ],
)
def test_one_that_ends_ends_all_and_the_reason_is_said(make_world, capfd, act, reason):
    world = make_world(crypto=act)
    assert world.run() == watch_module.EX_FAILED
    text = capfd.readouterr().err
    assert "fatal: " in text and "crypto" in text and reason in text
    assert len(world.last_words) == 1 and "crypto" in world.last_words[0]
    assert all(word in ("control stop", *(f"{role} closed" for role in ROLES)) for word in world.said)


def test_a_forbidden_system_call_is_named(make_world, capfd):
    world = make_world(scheduler=call_what_is_forbidden)
    assert world.run() == watch_module.EX_FAILED
    text = capfd.readouterr().err
    assert "lost child: scheduler" in text and "SIGSYS" in text
    if world.kernel_log is not None:
        assert "clone" in text or "fork" in text


def test_several_deaths_at_once_are_one_failure(make_world):
    world = make_world(**{role: die for role in ROLES})
    assert world.run() == watch_module.EX_FAILED
    assert len(world.last_words) == 1


def test_a_death_before_the_watch_begins_is_noticed(make_world):
    world = World({"lookup": die})
    try:
        os.waitid(os.P_PID, world.children[ROLES.index("lookup")].pid, os.WEXITED | os.WNOWAIT)
        world.watch.begin()
        assert world.run() == watch_module.EX_FAILED
    finally:
        world.close()
