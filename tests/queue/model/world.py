"""The model: everything around the queue and the scheduler, in steps that a name and a number describe.

    World(directory).step(name, number)      raises PromiseBroken when a promise is broken

The number chooses among what there is at that moment (which imsg, which agent, which users), so any list of steps can
be played, and any list that is left of one when steps are taken out of it.
"""

import os
import random
import shutil
from unittest.mock import patch

from smtpd.envelope import COUNTER_MAX, Kind
from smtpd.imsg import EnvelopesDue, ExpireEnvelopes, PauseDeliveries, Stop, SuspendEnvelopes
from smtpd.ipc.log import log
from smtpd.scheduler.state import ORDER_DELAY
from tests.queue.model.daemon_run import DaemonRun, Disk
from tests.queue.model.invariants import check_end, check_stopped, compare
from tests.queue.model.ledger import PromiseBroken
from tests.queue.model.peers import Peers
from tests.queue.model.runtime import Clock, Crashed

# How often each step is made, of about a thousand.
WEIGHTS = {
    "accept": 50,
    "imsg": 60,
    "turn": 60,
    "work": 50,
    "settle": 150,
    "serve": 130,
    "agent": 180,
    "relay": 60,
    "resume": 4,
    "hear": 40,
    "start": 30,
    "lock": 15,
    "expand": 25,
    "edit": 70,
    "ask": 15,
    "order": 50,
    "pause": 4,
    "time": 60,
    "clock": 5,
    "fill": 20,
    "fail": 2,
    "defect": 3,
    "crash": 5,
    "commit_crash": 4,
    "stop": 4,
    "check": 10,
    "heal": 3,
}
SECONDS = [0.005, 0.02, 0.3, 1.0, 1.0, 3.0, 6.0, 20.0, 20.0, 61.0, 61.0, 400.0, 400.0, 4000.0, 4000.0, 50_000.0]
SETTINGS = [30, 400, 4000, 100_000, 1_000_000, -30, -400, -4000, -100_000, -1_000_000]
WAIT_MAX = 3000  # rounds until what has to end has ended


class Defect(Exception):
    """An error of our own, which is to cost one envelope."""


class World(Peers):
    def __init__(self, directory):
        super().__init__(Clock())
        self.disk = Disk()
        self._base, self._lives = directory, 0
        PromiseBroken.first = None
        self._without_file = set()  # messages that were refused, and had better not be there
        self.steps = 0
        self._trouble = []
        self._randbelow = patch("secrets.randbelow", random.Random(1).randrange)
        self._randbelow.start()
        log.line = lambda text: None
        log.trouble = self._note_trouble
        os.mkdir(self._directory)
        self._begin()

    def _begin(self):
        self.ledger.forget_life()
        self.disk.begin()
        self._forget()
        self._healthy = False
        self._defect_in = 0
        self.life = DaemonRun(self._directory, self.clock, self.disk, self.ledger, self._sent)
        self._listen()

    def _listen(self):
        """The ledger hears of what is ordered and wanted, and an envelope that is due may have our code raise."""
        policy, deliveries = self.life.scheduler.policy, self.life.queue.deliveries
        remove, suspend = policy.remove, policy.suspend

        def removing(ids):
            ids = [*ids]
            self.ledger.remove(id for id in ids if id in policy.table)
            return remove(ids)

        def suspending(ids, suspended):
            ids = [*ids]
            self.ledger.suspend([id for id in ids if id in policy.table], suspended)
            return suspend(ids, suspended)

        policy.remove, policy.suspend = removing, suspending
        replace = self.life.queue.reexpansions.replace

        def replacing(envelope, recipients, *more):
            self.ledger.wanted[envelope.id] = recipients
            return replace(envelope, recipients, *more)

        self.life.queue.reexpansions.replace = replacing
        self._let_fail(deliveries._carriers[Kind.MDA]._routing, "get_key")  # when it is due
        self._let_fail(deliveries._disk, "find_message")  # when an agent begins it

    def _let_fail(self, part, name):
        real = getattr(part, name)

        def call(*arguments):
            self._fail_now()
            return real(*arguments)

        setattr(part, name, call)

    @property
    def _directory(self):
        return f"{self._base}/{self._lives}"

    def step(self, name, number=0):
        self.steps += 1
        try:
            getattr(self, f"step_{name}")(number)
        except Crashed:
            self.step_crash(0)
        if PromiseBroken.first is not None:
            raise PromiseBroken.first
        if self._trouble:
            what, error = self._trouble[0]
            raise PromiseBroken(f"{what}: {error!r}") from error

    def close(self):
        self._part()
        self.life.close()
        self._randbelow.stop()
        del log.line, log.trouble

    def _note_trouble(self, what, error):
        if not isinstance(error, Defect):
            self._trouble.append((what, error))

    def _sent(self, imsg):
        if isinstance(imsg, EnvelopesDue):
            self.ledger.check_due(imsg.envelopes)
        elif isinstance(imsg, ExpireEnvelopes):
            self.ledger.failed.update(imsg.envelopes)

    # -- what is under way moves --------------------------------------------------------------------------------------

    def _pipes(self):
        return [arrow for arrow, pipe in self.life.pipes.items() if pipe.imsgs]

    def step_imsg(self, number):
        arrows = self._pipes()
        if arrows:
            number, at = divmod(number, len(arrows))
            for _ in range(1 + number % 3):
                if self.life.pipes[arrows[at]].imsgs:
                    self._take(*arrows[at])

    def _take(self, sender, receiver):
        if receiver in ("queue", "scheduler"):
            self.life.take(sender, receiver)
        else:
            imsg, descriptor = self.life.pipes[sender, receiver].imsgs.popleft()
            self._hear(imsg, descriptor)

    def step_turn(self, number):
        self.life.loops[number % 2].turn()

    def step_work(self, number):
        threads = [threads for threads in self.life.threads if threads.asked]
        if threads:
            number, at = divmod(number, len(threads))
            threads[at].work(number)

    def step_settle(self, number):
        """Everything goes on for a while, without agents and time."""
        self._settle(1 + number % 12)

    def step_serve(self, number):
        """Everything goes on for a while, and the parent and lookup do what is wanted."""
        for _ in range(1 + number % 4):
            self._settle(4)
            self._serve()

    def _settle(self, rounds):
        """False when there would be more."""
        life = self.life
        for _ in range(rounds):
            moved = False
            for arrow in self._pipes():
                moved = True
                for _ in range(len(life.pipes[arrow].imsgs)):
                    self._take(*arrow)
            for threads in life.threads:
                while threads.asked:
                    moved = True
                    threads.work()
            for agent in [*self.agents.values()]:
                self._let_read(agent)
            for loop in life.loops:
                if loop.ready:
                    moved = True
                    loop.turn()
            if self._healthy and self._help():
                moved = True
            if not moved:
                return True
        return False

    # -- the world ----------------------------------------------------------------------------------------------------

    def step_time(self, number):
        self.clock.advance(SECONDS[number % len(SECONDS)])

    def step_clock(self, number):
        self.clock.set(SETTINGS[number % len(SETTINGS)])

    def step_fill(self, number):
        """The disk is full for some changes, or there is room again."""
        self.disk.full = max(0, number % 16 - 8)

    def step_fail(self, number):
        """The disk fails once in this life; a second time is the end of it."""
        self.disk.breaks = 1 + number % 2

    def step_defect(self, number):
        """The next envelope but some has our own code raise."""
        self._defect_in = 1 + number % 4

    def _fail_now(self):
        self._defect_in -= 1
        if self._defect_in == 0:
            raise Defect

    def step_commit_crash(self, number):
        self.disk.crash_in = (number % 8 - 4) or 1

    def step_crash(self, _number):
        """Nothing is left but what is on the disk, and what agents have done."""
        before = self._directory
        self._lives += 1
        self._part()
        shutil.copytree(before, self._directory)  # as it is: closing would copy the log back
        self.life.close()
        shutil.rmtree(before)
        if self.disk.failures:  # nothing has taken back what was on the disk when that failed, but for its file
            self._without_file |= self.ledger.refused & self.ledger.stored
            self.ledger.refused -= self.ledger.stored
        self._begin()

    def _part(self):
        for agent in self.agents.values():
            agent.lose()

    def step_stop(self, number):
        """The administrator stops the daemon, in good order, and starts it again."""
        full = self.disk.full
        orders = {*self.ledger.removed} & self.ledger.rows.keys(), dict(self.ledger.suspended)
        self._say("parent", Stop())
        for _ in range(WAIT_MAX):
            self._settle(50)
            if self.life.loops[0].stopped:
                break
            if number % 3:
                self.step_start(0)
                self.step_lock(0)
                self.step_agent(number // 3)
            self.clock.advance(0.3)
        else:
            raise PromiseBroken("the daemon does not stop")
        if not full:
            check_stopped(self.ledger, *orders)
        self._part()
        self.life.close()
        self._begin()

    # -- what has to be true ------------------------------------------------------------------------------------------

    def step_check(self, _number):
        """When nothing moves, disk, ledger and scheduler tell the same."""
        if self._settle(100):
            compare(self.life, self.ledger, self.clock)

    def step_heal(self, _number):
        """The world is well again, and time passes: nothing waits any more."""
        self.disk.full = self.disk.breaks = self.disk.crash_in = self._defect_in = 0
        first, last = 1 << 32, (2**31 - 1) << 32 | COUNTER_MAX
        for kind in Kind:
            self._say("control", PauseDeliveries(1, kind, False))
        self._say("control", SuspendEnvelopes(1, first, last, False))
        self._settle(100)
        self.clock.advance(ORDER_DELAY)  # that one, and any other, is carried out
        self._healthy = True
        for _ in range(WAIT_MAX):
            if self._settle(100) and not self._pass_time():
                break
        else:
            raise PromiseBroken(
                f"these wait for ever: {[hex(id) for id, row in self.ledger.rows.items() if not row.held]}"
            )
        self._healthy = False
        if self._asked:
            raise PromiseBroken(f"questions {self._asked} have no answer")
        compare(self.life, self.ledger, self.clock)
        check_end(self.life, self.ledger, self._directory, self._without_file)

    def _pass_time(self):
        """To the next thing that is to happen.  False when there is none."""
        queue, policy = self.life.queue, self.life.scheduler.policy
        if (
            len(queue.in_flight)
            or len(queue.notices)
            or self._asked
            or not queue.disk.commits.idle
            or queue._submitted
            or self.life.scheduler.orders.scanned is not None
        ):
            self.clock.advance(max(0.001, min(loop.next_time or 1e9 for loop in self.life.loops) - self.clock.passed))
            return True
        when = policy.next_time()
        if when is None or all(row.held for row in self.ledger.rows.values()):
            return False
        self.clock.advance(max(1.0, when - self.life.scheduler.clock.now()))
        return True
