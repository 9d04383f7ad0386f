"""Programs that answer for tables: started once all processes run, and again when they end.

    begin --ForkTableProgram--> nursery --TableProgramForked + socket--> TakeTableProgram --> lookup
      ^                       |
      +-- pause 1, 2, 4 … 60 s +-- TableProgramEnded, TableProgramNotForked

The pause is short again for one that has lived for a minute.  A program's end is logged, and ends nothing else: until
the next one stands, lookup answers "later".
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from smtpd.imsg import ForkTableProgram, TableProgramEnded, TableProgramForked, TableProgramNotForked, TakeTableProgram
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.child import describe_status
from smtpd.slice import ProgramSlice

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
STABLE_AFTER = 60.0  # seconds of life after which an end is the first one again


@dataclass(eq=False)
class TableProgram:
    configured: ProgramSlice
    pause: float = FIRST_PAUSE  # before the next start
    since: float = 0.0  # when it was started, by the monotonic clock


class TablePrograms:
    """`logs`: by table, what its program has for standard error; each start gets a copy."""

    def __init__(
        self,
        loop: SelectorLoop,
        nursery: Channel,
        lookup: Channel,
        programs: tuple[ProgramSlice, ...],
        logs: Mapping[str, int],
    ):
        self._loop = loop
        self._nursery = nursery
        self._lookup = lookup
        self._programs = [TableProgram(configured) for configured in programs]
        self._logs = logs
        self._asked: dict[int, TableProgram] = {}
        self._pids: dict[int, TableProgram] = {}
        self._last = 0
        self._stopping = False

    def begin(self) -> None:
        for program in self._programs:
            self._start(program)

    def stop(self) -> None:
        """Those that live end with lookup; none is started any more."""
        self._stopping = True

    def _start(self, program: TableProgram) -> None:
        if self._stopping:
            return
        configured = program.configured
        try:
            stderr = os.dup(self._logs[configured.table])
        except OSError as error:
            log.warn(f"table {configured.table}: its program cannot be started: {error.strerror}")
            self._start_later(program)
            return
        self._last += 1
        self._asked[self._last] = program
        self._nursery.send(ForkTableProgram(self._last, configured.user, list(configured.arguments)), stderr)

    def program_forked(self, imsg: TableProgramForked, descriptor: int) -> None:
        program = self._get_asked(imsg)
        program.since = time.monotonic()
        self._pids[imsg.pid] = program
        if self._lookup.closed:
            os.close(descriptor)
        else:
            self._lookup.send(TakeTableProgram(program.configured.table), descriptor)

    def program_not_forked(self, imsg: TableProgramNotForked) -> None:
        program = self._get_asked(imsg)
        log.warn(f"table {program.configured.table}: its program cannot be started: {imsg.reason}")
        self._start_later(program)

    def program_ended(self, imsg: TableProgramEnded) -> None:
        program = self._pids.pop(imsg.pid, None)
        if program is None:
            raise Violation(f"TableProgramEnded for unknown program {imsg.pid}")
        if self._stopping:
            return
        end = describe_status(imsg.pid, imsg.status, None)
        log.warn(f"table {program.configured.table}: its program, pid {imsg.pid}, {end}")
        if time.monotonic() - program.since >= STABLE_AFTER:
            program.pause = FIRST_PAUSE
        self._start_later(program)

    def _start_later(self, program: TableProgram) -> None:
        self._loop.call_later(program.pause, partial(self._start, program))
        program.pause = min(2 * program.pause, LONGEST_PAUSE)

    def _get_asked(self, imsg: TableProgramForked | TableProgramNotForked) -> TableProgram:
        program = self._asked.pop(imsg.request, None)
        if program is None:
            raise Violation(f"nursery answers {type(imsg).__name__} without a request")
        return program
