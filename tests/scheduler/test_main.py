"""The process itself, started as the parent starts it and in its real sandbox; the test is all its peers."""

import os
import select
import subprocess
import sys
import time

import msgspec
import pytest

from smtpd.envelope import Kind, Schedule
from smtpd.imsg import (
    TABLE,
    Begin,
    Configure,
    EnterSandbox,
    EnvelopesDue,
    EnvelopesScanned,
    EnvelopesSubmitted,
    SandboxEntered,
    ScanEnvelopes,
    Stop,
    TakePeer,
)
from smtpd.ipc.channel import Channel
from smtpd.parent.start import spawn
from smtpd.slice import SchedulerSlice

# 65534 is nobody: the users of an installation need not exist here.
PROGRAM = """
import os, sys
from smtpd import sandbox
from smtpd.scheduler import process
os.dup2(int(sys.argv[1]), 3)
process.USER = sandbox.Ids(65534, 65534) if os.geteuid() == 0 else process.USER
sandbox.deny()  # as the parent does before it starts any process
process.main()
"""
DEADLINE = 10.0


class Process:
    def __init__(self, folder, paused):
        ours, theirs = spawn.pair()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-P", "-c", PROGRAM, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.parent = Channel(ours, TABLE, "parent", "scheduler")
        sliced = msgspec.msgpack.encode(SchedulerSlice())
        self.send(self.parent, Configure(0, sliced, str(folder), "", False, False, paused))
        self.peers = {}
        for peer in ("queue", "control"):
            ours, theirs = spawn.pair()
            self.peers[peer] = Channel(ours, TABLE, peer, "scheduler")
            self.send(self.parent, TakePeer(peer, 0), theirs.detach())
        self.send(self.parent, EnterSandbox())

    def send(self, channel, imsg, descriptor=None):
        channel.send(imsg, descriptor)
        assert channel.flush()

    def next_imsg(self, channel):
        assert select.select([channel.fileno()], [], [], DEADLINE)[0]
        ((imsg, _),) = channel.receive()
        return imsg


@pytest.mark.parametrize("paused, given", [([], [1, 2]), (["mta"], [1]), (["mda"], [2])])
def test_it_is_confined_scans_the_queue_and_gives_nothing_of_a_kind_that_begins_paused(tmp_path, paused, given):
    os.chmod(tmp_path, 0o755)
    scheduler = Process(tmp_path, paused)
    queue = scheduler.peers["queue"]
    try:
        assert isinstance(scheduler.next_imsg(scheduler.parent), SandboxEntered)
        scheduler.send(scheduler.parent, Begin())
        assert scheduler.next_imsg(queue) == ScanEnvelopes(0)
        now = int(time.time())
        terms = dict(created=now, expires=now + 3600, next_try=0, retries=0, held=False, suspended=False, lane=5)
        page = [Schedule(message << 32 | 1, kind, **terms) for message, kind in ((1, Kind.MDA), (2, Kind.MTA))]
        queue.send(EnvelopesSubmitted(page))
        scheduler.send(queue, EnvelopesScanned(0))
        assert scheduler.next_imsg(queue) == EnvelopesDue([message << 32 | 1 for message in given])
        scheduler.send(scheduler.parent, Stop())
        assert scheduler.process.wait(DEADLINE) == 0
    finally:
        scheduler.process.kill()
        scheduler.process.wait()
        for channel in (scheduler.parent, *scheduler.peers.values()):
            channel.close()
