"""The end of an envelope, or of an attempt: one change of the store, one line of the log, one word to the scheduler.

    what it came to                      the row                              the scheduler hears
    delivered, to /dev/null too          Remove                               DELIVERED, when that is durable
    failed, a loop, damaged content,     Hold, with the reason                HELD, when that is durable
      no agent, deliver-by time over,
      our own code failed three times
    encrypted, and its key is not        as deferred, but "never" is          DEFERRED, at once
      configured                         Postpone, to the next start
    deferred                             nothing yet: `Deferred` is kept      DEFERRED, at once
      the scheduler says when            Postpone                             -
      the scheduler says never           Hold: "Expired: …"                   -
      the daemon stops                   Postpone, to the next start          -
    expired without an attempt           Hold: "Expired"                      -
    removed by the administrator         Remove                               -; an attempt under way has its own end
    its row is gone before it is sent    -                                    DELIVERED, at once
    returned, not tried                  -, or Uncount                        RETURNED, when that is durable
    replaced by others (reexpansion.py)  Replace, or Remove if there are none EnvelopeReplaced, when that is durable
    a row that makes no sense            Quarantine                           HELD, if it was in flight, when durable

Nowhere else is a row removed, postponed, held, replaced or set aside.  Changes that belong to one end are one
transaction: there is no moment in which one of them has happened and another has not.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import batched
from typing import NamedTuple

from smtpd.envelope import Outcome, envelope_text
from smtpd.ipc.log import log, visible
from smtpd.queue.delivery import delivery_log, expiry
from smtpd.queue.delivery.in_flight import InFlight, Word
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import (
    PAGE,
    Compound,
    Envelope,
    Hold,
    OneChange,
    Postpone,
    Quarantine,
    Remove,
    Uncount,
    UnreadableRow,
)

TROUBLES_MAX = 3  # attempts that our own code did not bring to an end, after which an envelope is held
ERROR_MAX = 512  # characters of an error that are kept

Rows = Sequence[Envelope | UnreadableRow]
Done = Callable[[Exception | None], None]


class Deferred(NamedTuple):
    """An attempt whose next one the scheduler has still to say, or that there is none."""

    last_try: int
    error: str
    perhaps_delivered: bool
    troubles: int
    expired: str  # why it is held if there is none; empty: it is not, but tried at the next start, with other keys


class Conclusion(NamedTuple):
    """What an end comes to."""

    changes: tuple[OneChange, ...] = ()  # of the row first; in one transaction
    word: Word | None = None  # to the scheduler
    line: str = ""  # of the log
    deferred: Deferred | None = None  # what is written when the scheduler has answered


def of_attempt(envelope: Envelope, result: AttemptResult, log_id: int, *, perhaps_delivered: bool) -> Conclusion:
    """`log_id` is that of the agent or connection; `perhaps_delivered`: by an attempt before this one."""
    assert result.outcome is not Outcome.STALE, "no end: the envelope is expanded again"
    text = bounded(result.text)
    plain = result.outcome is Outcome.LOOP or result.outcome is Outcome.DELIVERED
    stat = text if plain else f"Error ({text})"
    line = "" if result.logged else delivery_log.attempt_line(envelope, log_id, result.outcome, stat, result.at)
    perhaps_delivered |= result.sent and not result.answered
    match result.outcome:
        case Outcome.DELIVERED:
            return Conclusion((Remove(envelope.id),), Word.DELIVERED, line)
        case Outcome.DEFERRED:
            troubles = 0 if result.sent else envelope.troubles
            return _deferred(envelope, result.at, text, perhaps_delivered, troubles, line)
    return Conclusion((Hold(envelope.id, result.at, text, perhaps_delivered),), Word.HELD, line)


def of_fault(envelope: Envelope, error: BaseException, now: int) -> Conclusion:
    """Our own code raised: the envelope is tried again, but not for ever."""
    reason, troubles = f"internal error: {type(error).__name__}", envelope.troubles + 1
    if troubles >= TROUBLES_MAX:
        return Conclusion((Hold(envelope.id, now, reason, perhaps_delivered=True),), Word.HELD)
    return _deferred(envelope, now, reason, True, troubles)


def _deferred(
    envelope: Envelope, at: int, error: str, perhaps_delivered: bool, troubles: int, line: str = ""
) -> Conclusion:
    expired = expiry.why_expired(envelope.terms, envelope.expires)
    return Conclusion((), Word.DEFERRED, line, Deferred(at, error, perhaps_delivered, troubles, expired))


def of_missing_key(envelope: Envelope, reason: str, now: int, *, perhaps_delivered: bool) -> Conclusion:
    """The content cannot be read before the administrator has configured its key."""
    line = delivery_log.attempt_line(envelope, 0, Outcome.DEFERRED, f"Error ({reason})", now)
    waiting = Deferred(now, reason, perhaps_delivered, envelope.troubles, "")
    return Conclusion((), Word.DEFERRED, line, waiting)


def of_return(envelope: Envelope, *, counted: bool) -> Conclusion:
    """It was not tried after all; `counted`: on the disk."""
    return Conclusion((Uncount(envelope.id),) if counted else (), Word.RETURNED)


GONE = Conclusion((), Word.DELIVERED)  # its row was removed meanwhile


def bounded(reason: str) -> str:
    """As much of `reason` as a row may hold, of characters that it may hold."""
    return visible(reason.encode(errors="backslashreplace").decode())[:ERROR_MAX]


class Conclusions:
    """`now` is the time of the wall clock."""

    def __init__(self, disk: Disk, in_flight: InFlight, now: Callable[[], float] = time.time):
        self._disk, self._in_flight, self._now = disk, in_flight, now
        self._deferred: dict[int, Deferred] = {}
        self._stopping = False

    def now(self) -> int:
        return int(self._now())

    def conclude(self, id: int, conclusion: Conclusion, done: Done | None = None) -> None:
        """Carry out the one end of envelope `id`.  `done` when it is durable, or refused."""
        if conclusion.line:
            log.line(conclusion.line)
        self._disk.cache.forget(id)
        if conclusion.deferred is not None:
            self._defer(id, conclusion.deferred)
        elif not conclusion.changes:
            self._concluded(id, conclusion.word, done, None)
        else:
            first, *more = conclusion.changes
            change = Compound(id, conclusion.changes) if more else first
            concluded = partial(self._concluded, id, conclusion.word, done)
            self._disk.commits.submit(change, concluded, must_succeed=True)

    def _concluded(self, id: int, word: Word | None, done: Done | None, error: Exception | None) -> None:
        if done is not None:
            done(error)
        elif error is not None:  # not of the disk: such a change is repeated until it works
            log.trouble(f"envelope {envelope_text(id)}", error)
        if word is not None:
            self._in_flight.tell(id, word)

    def _defer(self, id: int, deferred: Deferred) -> None:
        if self._stopping:
            self._postpone(id, deferred, deferred.last_try)
        else:
            self._deferred[id] = deferred
            self._in_flight.tell(id, Word.DEFERRED)

    # -- what the scheduler says of deferred envelopes ----------------------------------------------------------------

    def postpone(self, id: int, next_try: int) -> bool:
        """False when no attempt of it waits for this."""
        deferred = self._deferred.pop(id, None)
        if deferred is not None:
            self._postpone(id, deferred, next_try)
        return deferred is not None

    def _postpone(self, id: int, deferred: Deferred, next_try: int) -> None:
        last_try, error, perhaps_delivered, troubles, _ = deferred
        change = Postpone(id, next_try, last_try, error, perhaps_delivered, troubles)
        self.conclude(id, Conclusion((change,)))

    def expire(self, ids: Sequence[int], reason: str = "") -> None:
        """There is no further attempt of these, for that reason if for any.  Without bounces they are kept for the
        administrator."""
        for page in batched(ids, PAGE):
            holds = {id: self._hold_of_expired(id, reason) for id in page if not self._waits_for_key(id)}
            self._disk.load([*holds], partial(self._log_expired, holds))
            for id, hold in holds.items():  # at once: what is ordered after it comes after it
                self.conclude(id, Conclusion((hold,)))

    def _waits_for_key(self, id: int) -> bool:
        deferred = self._deferred.get(id)
        return deferred is not None and not deferred.expired and self.postpone(id, deferred.last_try)

    def _hold_of_expired(self, id: int, reason: str) -> Hold:
        deferred = self._deferred.pop(id, None)
        if deferred is None:
            why = f"{expiry.EXPIRED}: {reason}" if reason else expiry.EXPIRED
            return Hold(id, 0, bounded(why), True)
        why = f"{deferred.expired}: {deferred.error}"[:ERROR_MAX]
        return Hold(id, deferred.last_try, why, deferred.perhaps_delivered)

    def _log_expired(self, holds: dict[int, Hold], rows: Rows | None, error: BaseException | None) -> None:
        for id, row in _by_id(rows, error).items():
            if line := self._line("Expire", holds[id].error, row):
                log.line(line)

    # -- other ends ---------------------------------------------------------------------------------------------------

    def remove(self, ids: Sequence[int]) -> None:
        """The administrator has removed these."""
        for page in batched(ids, PAGE):
            self._disk.load([*page], partial(self._remove, page))

    def _remove(self, page: Sequence[int], rows: Rows | None, error: BaseException | None) -> None:
        known = _by_id(rows, error)
        for id in page:
            self._deferred.pop(id, None)
            attempt = self._in_flight.maybe_attempt(id)
            if attempt is not None:
                attempt.remove()
            line = self._line("Remove", "Removed by administrator", known.get(id))
            self.conclude(id, Conclusion((Remove(id),), line=line))

    def quarantine(self, row: UnreadableRow) -> None:
        """A row that makes no sense stops nothing; an administrator finds it in the quarantine."""
        log.warn(f"envelope {envelope_text(row.id)} cannot be read and is set aside: {row.reason}")
        change = Quarantine(row.id, self.now(), visible(row.reason)[:ERROR_MAX])
        self.conclude(row.id, Conclusion((change,)), partial(self._quarantined, row.id))

    def _quarantined(self, id: int, error: Exception | None) -> None:
        if error is not None:
            log.trouble(f"envelope {envelope_text(id)}", error)
        if id in self._in_flight:
            self._in_flight.tell(id, Word.HELD)

    def _line(self, what: str, stat: str, row: Envelope | UnreadableRow | None) -> str:
        """For the log; empty when nothing can be said."""
        if not isinstance(row, Envelope):
            return ""
        try:
            return delivery_log.end_line(row, what, stat, self.now())
        except Exception as error:  # noqa: BLE001  (one envelope, rule R8)
            log.trouble(f"envelope {envelope_text(row.id)}", error)
            return ""

    # -- the daemon stops ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """An attempt that is deferred from here on has been interrupted, and is made again at the next start."""
        self._stopping = True

    def write_deferred(self) -> None:
        """The scheduler will not say any more when to try these again: at the next start."""
        for id in [*self._deferred]:
            self.postpone(id, self._deferred[id].last_try)


def _by_id(rows: Rows | None, error: BaseException | None) -> dict[int, Envelope | UnreadableRow]:
    if rows is None:
        log.warn(f"envelopes cannot be read, for the log: {error}")
    return {row.id: row for row in rows or ()}
