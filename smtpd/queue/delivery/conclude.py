"""The end of an envelope, or of an attempt: one change of the store, one line of the log, one word to the scheduler.

    what it came to                      the row                              the scheduler hears
    delivered, to /dev/null too          Remove                               DELIVERED, when that is durable
    failed, a loop, deliver-by time over Remove, and Owe where the sender     FAILED, when that is durable
                                         is to be told (notify.py)
      a notice                           Hold, with the reason                HELD, when that is durable
    damaged content, no agent,           Hold, with the reason                HELD, when that is durable
      our own code failed three times
    encrypted, and its key is not        as deferred, but "never" is          DEFERRED, at once
      configured                         Postpone, to the next start
    deferred                             nothing yet: `Deferred` is kept      DEFERRED, at once
      the scheduler says when            Postpone                             -
      the scheduler says never           as failed: "Expired: …"              EnvelopesEnded, when that is durable
      the daemon stops                   Postpone, to the next start          -
    expired without an attempt           as failed: "Expired"                 EnvelopesEnded, when that is durable
    removed by the administrator         Remove                               -; an attempt under way has its own end
    its row is gone before it is sent    -                                    DELIVERED, at once
    returned, not tried                  -, or Uncount                        RETURNED, when that is durable
    replaced by others (reexpansion.py)  Replace, or Remove if there are none EnvelopeReplaced, when that is durable
    a row that makes no sense            Quarantine                           HELD, if it was in flight, when durable

Nowhere else is a row removed, postponed, held, replaced or set aside.  Changes that belong to one end are one
transaction: there is no moment in which one of them has happened and another has not.

A notice that fails is held, as a double failure: there is no one left who could be told.  Other mail of the null sender
that fails, and mail whose sender does not want to know, goes with a line in the log.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import batched
from typing import NamedTuple

from smtpd.envelope import Outcome, envelope_text, message_of
from smtpd.ipc.log import log, visible
from smtpd.queue.delivery import delivery_log, expiry, notify
from smtpd.queue.delivery.in_flight import InFlight, Word
from smtpd.queue.delivery.result import ERROR_MAX, AttemptResult, bounded
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.recipient_status import ReportAction
from smtpd.queue.store.store import (
    PAGE,
    Compound,
    Envelope,
    Hold,
    OneChange,
    Owe,
    Postpone,
    Quarantine,
    Remove,
    Uncount,
    UnreadableRow,
)

TROUBLES_MAX = 3  # attempts that our own code did not bring to an end, after which an envelope is held

Rows = Sequence[Envelope | UnreadableRow]
Done = Callable[[Exception | None], None]
DOUBLE_FAILURE = "bounce.failed"  # counts notices that could not be delivered


class Deferred(NamedTuple):
    """An attempt whose next one the scheduler has still to say, or that there is none."""

    envelope: Envelope
    result: AttemptResult
    error: str
    perhaps_delivered: bool
    troubles: int
    waits_for_key: bool = False  # it is not given up, but tried at the next start, with other keys


class Conclusion(NamedTuple):
    """What an end comes to."""

    changes: tuple[OneChange, ...] = ()  # in one transaction
    word: Word | None = None  # to the scheduler
    line: str = ""  # of the log
    deferred: Deferred | None = None  # what is written when the scheduler has answered
    double: bool = False  # a notice fails: there is none about it


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
            return _deferred(envelope, result, text, perhaps_delivered, troubles, line)
    if result.ours:
        return Conclusion((Hold(envelope.id, result.at, text, perhaps_delivered),), Word.HELD, line)
    return _failed(envelope, result, text, notify.of_failure(result), perhaps_delivered, line)


def _failed(
    envelope: Envelope,
    result: AttemptResult | None,
    text: str,
    status: str,
    perhaps_delivered: bool,
    line: str = "",
) -> Conclusion:
    """There is no further attempt; `result`: of the last one."""
    if envelope.is_notice:
        last_try = result.at if result is not None else 0
        hold = Hold(envelope.id, last_try, text, perhaps_delivered)
        return Conclusion((hold,), Word.HELD, line, double=True)
    if not notify.is_owed(envelope, ReportAction.FAILED):
        return Conclusion((Remove(envelope.id),), Word.FAILED, line)
    owe = Owe(envelope.id, notify.status_row(envelope, ReportAction.FAILED, result, text, status))
    return Conclusion((owe, Remove(envelope.id)), Word.FAILED, line)


def of_fault(envelope: Envelope, error: BaseException, now: int) -> Conclusion:
    """Our own code raised: the envelope is tried again, but not for ever."""
    reason, troubles = f"internal error: {type(error).__name__}", envelope.troubles + 1
    if troubles >= TROUBLES_MAX:
        return Conclusion((Hold(envelope.id, now, reason, perhaps_delivered=True),), Word.HELD)
    return _deferred(envelope, AttemptResult(Outcome.DEFERRED, reason, now), reason, True, troubles)


def _deferred(
    envelope: Envelope, result: AttemptResult, error: str, perhaps_delivered: bool, troubles: int, line: str = ""
) -> Conclusion:
    return Conclusion((), Word.DEFERRED, line, Deferred(envelope, result, error, perhaps_delivered, troubles))


def of_expiry(envelope: Envelope, reason: str, deferred: Deferred | None = None) -> tuple[str, Conclusion]:
    """The text for the log, and what is done.  `deferred`: the last try, if it has just ended; `reason`: of the
    destination, if it was not tried."""
    expired = expiry.why_expired(envelope.terms, envelope.expires)
    last = deferred.error if deferred is not None else reason or envelope.error
    text = bounded(f"{expired}: {last}" if last else expired)
    result = deferred.result if deferred is not None else None
    if expired == expiry.OVERDUE:
        status = notify.DELIVER_BY_IS_OVER
    else:
        status = notify.of_expiry(result.enhanced if result is not None else "", last)
    perhaps_delivered = deferred.perhaps_delivered if deferred is not None else True
    return text, _failed(envelope, result, text, status, perhaps_delivered)


def of_overdue(envelope: Envelope, now: int) -> Conclusion:
    """It is due, and its sender does not want it delivered any more (RFC 2852)."""
    text = bounded(f"{expiry.OVERDUE}: {envelope.error}" if envelope.error else expiry.OVERDUE)
    result = AttemptResult(Outcome.FAILED, text, now, sent=False, answered=False)
    line = delivery_log.attempt_line(envelope, 0, Outcome.FAILED, f"Error ({text})", now)
    return _failed(envelope, result, text, notify.DELIVER_BY_IS_OVER, envelope.perhaps_delivered, line)


def of_missing_key(envelope: Envelope, reason: str, now: int, *, perhaps_delivered: bool) -> Conclusion:
    """The content cannot be read before the administrator has configured its key."""
    line = delivery_log.attempt_line(envelope, 0, Outcome.DEFERRED, f"Error ({reason})", now)
    result = AttemptResult(Outcome.DEFERRED, reason, now, sent=False)
    waiting = Deferred(envelope, result, reason, perhaps_delivered, envelope.troubles, waits_for_key=True)
    return Conclusion((), Word.DEFERRED, line, waiting)


def of_return(envelope: Envelope, *, counted: bool) -> Conclusion:
    """It was not tried after all; `counted`: on the disk."""
    return Conclusion((Uncount(envelope.id),) if counted else (), Word.RETURNED)


GONE = Conclusion((), Word.DELIVERED)  # its row was removed meanwhile


class Conclusions:
    """`owed(message)` is called when its sender is to be told something; `now` is the time of the wall clock."""

    def __init__(
        self,
        disk: Disk,
        in_flight: InFlight,
        owed: Callable[[int], None],
        statistics: Counter[str],
        now: Callable[[], float] = time.time,
    ):
        self._disk, self._in_flight, self._owed, self._now = disk, in_flight, owed, now
        self._statistics = statistics
        self._deferred: dict[int, Deferred] = {}
        self._stopping = False

    def now(self) -> int:
        return int(self._now())

    def conclude(self, id: int, conclusion: Conclusion, done: Done | None = None) -> None:
        """Carry out the one end of envelope `id`.  `done` when it is durable, or refused."""
        if conclusion.line:
            log.line(conclusion.line)
        if conclusion.double:
            self._statistics[DOUBLE_FAILURE] += 1
            log.warn(f"envelope {envelope_text(id)}: a notice that cannot be delivered is held")
        self._disk.cache.forget(id)
        if conclusion.deferred is not None:
            self._defer(id, conclusion.deferred)
        elif not conclusion.changes:
            self._concluded(id, conclusion.word, done, None)
        else:
            first, *more = conclusion.changes
            change = Compound(id, conclusion.changes) if more else first
            if any(isinstance(part, Owe) for part in conclusion.changes):
                done = partial(self._tell_of, id, done)
            concluded = partial(self._concluded, id, conclusion.word, done)
            self._disk.commits.submit(change, concluded, must_succeed=True)

    def _concluded(self, id: int, word: Word | None, done: Done | None, error: Exception | None) -> None:
        if done is not None:
            done(error)
        else:
            _log_error(id, error)
        if word is not None:
            self._in_flight.tell(id, word)

    def _tell_of(self, id: int, done: Done | None, error: Exception | None) -> None:
        if error is None:
            self._owed(message_of(id))
        if done is not None:
            done(error)
        else:
            _log_error(id, error)

    def _defer(self, id: int, deferred: Deferred) -> None:
        if self._stopping:
            self._postpone(id, deferred, deferred.result.at)
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
        _, result, error, perhaps_delivered, troubles, _ = deferred
        change = Postpone(id, next_try, result.at, error, perhaps_delivered, troubles)
        self.conclude(id, Conclusion((change,)))

    def expire(self, ids: Sequence[int], reason: str = "") -> None:
        """There is no further attempt of these, for that reason if for any."""
        known = [(id, deferred) for id in ids if (deferred := self._deferred.pop(id, None)) is not None]
        for _, deferred in known:  # at once: what is ordered after it comes after it
            if deferred.waits_for_key:
                self._postpone(deferred.envelope.id, deferred, deferred.result.at)
            else:
                self._expire(deferred.envelope, deferred, reason)
        unknown = {*ids}.difference(id for id, _ in known)
        for page in batched(unknown, PAGE):
            self._disk.load([*page], partial(self._expire_page, page, reason))

    def _expire_page(self, page: Sequence[int], reason: str, rows: Rows | None, error: BaseException | None) -> None:
        if rows is None:
            log.warn(f"{len(page)} envelopes that have expired cannot be read, and stay: {error}")
            return
        for row in rows:
            if isinstance(row, UnreadableRow):
                self.quarantine(row)
            elif row.id not in self._in_flight:  # an administrator has wanted it tried meanwhile
                self._expire(row, None, reason)

    def _expire(self, envelope: Envelope, deferred: Deferred | None, reason: str) -> None:
        text, conclusion = of_expiry(envelope, reason, deferred)
        line = self._line("Expire", text, envelope)
        done = None if conclusion.word is Word.HELD else partial(self._expired, envelope.id)
        self.conclude(envelope.id, conclusion._replace(word=None, line=line), done)

    def _expired(self, id: int, error: Exception | None) -> None:
        _log_error(id, error)
        if error is None:
            self._in_flight.tell_ended([id])

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
            self.postpone(id, self._deferred[id].result.at)


def _log_error(id: int, error: Exception | None) -> None:
    if error is not None:  # not of the disk: such a change is repeated until it works
        log.trouble(f"envelope {envelope_text(id)}", error)


def _by_id(rows: Rows | None, error: BaseException | None) -> dict[int, Envelope | UnreadableRow]:
    if rows is None:
        log.warn(f"envelopes cannot be read, for the log: {error}")
    return {row.id: row for row in rows or ()}
