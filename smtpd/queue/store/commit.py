"""Group commit: everything that arrived while the last commit ran goes into the next one.

    submit, submit, … --> one transaction in the writing thread --> done, done, …

    a transaction fails        each change is tried alone (a compound one as a whole); only the one at fault is refused
    a delivery result          waits up to BATCH_DELAY for others, to share their fsync: no client waits for it
    the disk is full           a new mail is refused; a change that must succeed (a delivery result) waits here and is
                               tried again until it works, before anything that was submitted later for its envelope
    the disk fails             all that wait are refused, the store is closed, checked and opened again;
                               the second time is the end of the daemon

Does not know what the changes mean, only whether they may be refused.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from smtpd.ipc.log import log
from smtpd.queue.store.disk_threads import DiskThreads
from smtpd.queue.store.disk_threads import Done as Asked
from smtpd.queue.store.store import Add, Change, Recode, RememberTls, Store, StoreBroken, StoreFull

BATCH_MAX = 2048  # changes of one transaction at the most
BATCH_DELAY = 0.01  # seconds that a change that must succeed waits for others, to share their fsync
BATCH_FULL = 64  # changes that wait, with which a commit is made at once
RETRY_DELAY = 1.0  # seconds between attempts at changes that must succeed
SHRINK_DELAY = 1.0  # seconds without a commit after which unused space is given back
SHRINK_INTERVAL = 0.02  # seconds between two steps of that

Done = Callable[[Exception | None], None]


class PendingChange(NamedTuple):
    number: int  # counts what was submitted
    change: Change
    done: Done
    must_succeed: bool  # may not be refused for want of space


class BatchResult(NamedTuple):
    errors: list[Exception | None]  # of each change
    gone: list[int]  # messages that leave a spool file


class Commits:
    """The one way to change `store`.  `gone(messages)` is told which left a spool file; `give_up` ends the process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        gone: Callable[[list[int]], None],
        give_up: Callable[[], None],
    ):
        self._loop, self._store, self._gone, self._give_up = loop, store, gone, give_up
        self._writer = DiskThreads(loop, "commit")
        self._numbers = itertools.count()
        self._pending: list[PendingChange] = []
        self._later: list[PendingChange] = []
        self._uncommitted: defaultdict[int, list[Change]] = defaultdict(list)
        self._doubtful: list[int] = []  # messages refused while the store may have them
        self._busy = False
        self._asked = False
        self._urgent = False  # a client waits for an answer
        self._moment: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self._failures = 0
        self.repairing = False

    def submit(self, change: Change, done: Done, *, must_succeed: bool = False, urgent: bool = True) -> None:
        """`done(None)` when `change` is durable, `done(error)` when it is refused.  One that must succeed is refused
        only when it is itself at fault, and is a change of one envelope.  One that is not urgent waits for others too,
        BATCH_DELAY at the most."""
        waiting = PendingChange(next(self._numbers), change, done, must_succeed)
        if must_succeed:
            self._uncommitted[_envelope_of(change)].append(change)
        if must_succeed and (self._later or self.repairing):
            self._later.append(waiting)
            self._wait_for_room()
        elif self.repairing:
            self._loop.call_soon(done, StoreBroken("the store is being repaired"))
        else:
            self._pending.append(waiting)
            self._urgent = self._urgent or (urgent and not must_succeed) or len(self._pending) >= BATCH_FULL
            self._soon()

    def uncommitted(self, envelope: int) -> list[Change]:
        """Changes of that envelope that must succeed and that are not durable yet, in order."""
        return [*self._uncommitted[envelope]] if envelope in self._uncommitted else []

    @property
    def waits_for_room(self) -> bool:
        """All that is left are changes that a full disk does not take."""
        return bool(self._later) and not (self._pending or self._busy)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not (self._pending or self._later or self._busy)

    def close(self, closed: Asked) -> None:
        """Close the store, by the thread that has worked with it."""
        self._writer.ask(self._store.close, closed)

    # -- one transaction after the other --------------------------------------------------------------------------

    def _soon(self) -> None:
        """At the end of this turn of the loop, so that the whole turn is one transaction; or after a moment."""
        if self._busy or not self._pending:
            return
        if self._urgent and not self._asked:
            self._asked = True
            self._loop.call_soon(self._commit)
        elif not self._urgent and self._moment is None:
            self._moment = self._loop.call_later(BATCH_DELAY, self._commit)

    def _commit(self) -> None:
        self._asked = False
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        if self._busy or self.repairing or not self._pending:
            return
        self._busy = True
        self._urgent = len(self._pending) > BATCH_MAX
        batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
        changes = [waiting.change for waiting in batch]
        self._writer.ask(partial(_apply, self._store, changes), partial(self._committed, batch))

    def _committed(self, batch: list[PendingChange], outcome: BatchResult | None, error: BaseException | None) -> None:
        self._busy = False
        if outcome is None:
            self.failed(error, batch)
            return
        if outcome.gone:
            self._gone(outcome.gone)
        self._put_off(
            [w for w, e in zip(batch, outcome.errors, strict=True) if w.must_succeed and isinstance(e, StoreFull)]
        )
        if self._store.unsettled:
            self._writer.ask(self._store.settle, self._settled)
        for waiting, error in zip(batch, outcome.errors, strict=True):
            if not (waiting.must_succeed and isinstance(error, StoreFull)):
                self._end(waiting, error)
        if self._pending:
            self._soon()
        else:
            self._rest(SHRINK_DELAY)

    def _end(self, waiting: PendingChange, error: Exception | None) -> None:
        """It is durable, or refused for good."""
        if waiting.must_succeed:
            envelope = _envelope_of(waiting.change)
            changes = self._uncommitted[envelope]
            changes.remove(waiting.change)
            if not changes:
                del self._uncommitted[envelope]
        waiting.done(error)

    def _settled(self, _nothing: None, error: BaseException | None) -> None:
        if isinstance(error, StoreBroken):
            self.failed(error)
        elif error is not None:
            log.warn(f"store: {error}")

    # -- changes that must succeed --------------------------------------------------------------------------------

    def _put_off(self, waiting: list[PendingChange]) -> None:
        """With those that were submitted while the writer had them, and would be done before them."""
        if not waiting:
            return
        behind = [w for w in self._pending if w.must_succeed]
        self._pending = [w for w in self._pending if not w.must_succeed]
        self._later = sorted(self._later + waiting + behind, key=attrgetter("number"))
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        if self._again is None:
            self._again = self._loop.call_later(RETRY_DELAY, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        later, self._later = self._later, []
        self._pending = later + self._pending
        self._urgent = True
        self._soon()

    # -- a failing disk -------------------------------------------------------------------------------------------

    def failed(self, error: BaseException | None, batch: list[PendingChange] | None = None) -> None:
        """The disk failed, here or under a spool file: nothing that is under way can be trusted."""
        if self.repairing:
            self._refuse(batch or [], error)
            return
        log.warn(f"the disk of the spool fails: {error}")
        self._failures += 1
        if self._failures > 1:
            log.warn("fatal: the disk of the spool failed again")
            self._give_up()
            return
        self.repairing = True
        waiting, self._pending = [*(batch or []), *self._pending], []
        self._refuse(waiting, error)
        self._repair()

    def _repair(self) -> None:
        doubtful, self._doubtful = self._doubtful, []
        self._writer.ask(partial(self._store.repair, doubtful), self._repaired)

    def _refuse(self, waiting: list[PendingChange], error: BaseException | None) -> None:
        self._put_off([w for w in waiting if w.must_succeed])
        for w in waiting:
            if not w.must_succeed:
                if isinstance(w.change, Add):
                    self._doubtful.append(w.change.message.id)
                w.done(error if isinstance(error, Exception) else StoreBroken(str(error)))

    def _repaired(self, _nothing: None, error: BaseException | None) -> None:
        if error is not None:
            log.warn(f"fatal: the store cannot be repaired: {error}")
            self._give_up()
        elif self._doubtful:  # of a transaction that was still under way
            self._repair()
        else:
            self.repairing = False
            log.info("the store was closed, checked and opened again")
            self._soon()

    # -- with nothing else to do ----------------------------------------------------------------------------------

    def _rest(self, seconds: float) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = self._loop.call_later(seconds, self._shrink)

    def _shrink(self) -> None:
        self._quiet = None
        if self.idle:
            self._busy = True
            self._writer.ask(self._store.shrink, self._shrunk)

    def _shrunk(self, more: bool | None, error: BaseException | None) -> None:
        self._busy = False
        self._settled(None, error)
        if self._pending:
            self._soon()
        elif more:
            self._rest(SHRINK_INTERVAL)


def _apply(store: Store, changes: list[Change]) -> BatchResult:
    """In the writing thread.  Raises StoreBroken when it is not a matter of any one change."""
    try:
        return BatchResult([None] * len(changes), store.apply(changes))
    except StoreBroken:
        raise
    except Exception as error:
        if len(changes) == 1:
            return BatchResult([error], [])
    outcome = BatchResult([], [])
    without_room: set[int] = set()
    for change in changes:
        envelope = _envelope_of(change)
        if envelope in without_room:
            outcome.errors.append(StoreFull("an earlier change of this envelope found no room"))
            continue
        errors, gone = _apply(store, [change])
        outcome.errors.extend(errors)
        outcome.gone.extend(gone)
        if envelope and isinstance(errors[0], StoreFull):
            without_room.add(envelope)
    return outcome


def _envelope_of(change: Change) -> int:
    """0 for what is not a change of an envelope."""
    return 0 if isinstance(change, Add | RememberTls | Recode) else change.envelope
