"""What has to be true: every recipient that got its 250 is waiting, held, delivered, or removed by the administrator.

The ledger hears of every commit, and of everything that an agent has done, and raises PromiseBroken when

    a row goes whose mail was neither delivered nor removed by the administrator
    a row is replaced, and something that its user wants now is neither there nor delivered nor removed
    a mail is stored twice in a Maildir, or elsewhere without an agent that was lost or a crash in between
    an envelope is tried that was suspended or removed, or that took the place of one
    a recipient fails, its sender is to be told, and there is not exactly one notice of it in the end
    a notice leads to another one
"""

from collections import Counter

from smtpd.envelope import Duty, Notify, envelope_text, message_of
from smtpd.queue.store.store import (
    Add,
    Compound,
    CountAttempt,
    Hold,
    Owe,
    Postpone,
    Remove,
    Replace,
    Reschedule,
    StoreNotice,
    Suspend,
    Uncount,
    recipient_key,
)


class PromiseBroken(AssertionError):
    """A promise of the queue is broken.  The first one is kept: queue may catch it, as any error of one envelope."""

    first: "PromiseBroken | None" = None

    def __init__(self, text):
        super().__init__(text)
        PromiseBroken.first = PromiseBroken.first or self


class Row:
    __slots__ = ("recipient", "key", "held", "suspended", "error", "sender", "is_notice", "may_be_overdue")

    def __init__(self, envelope):
        self.recipient = envelope.recipient
        self.sender, self.is_notice = envelope.origin.sender, envelope.is_notice
        self.may_be_overdue = envelope.terms.by_mode == "R"
        self.key = message_of(envelope.id), recipient_key(envelope.recipient)
        self.held, self.suspended, self.error = envelope.held, envelope.suspended, envelope.error


class Ledger:
    def __init__(self):
        self.rows = {}  # envelope -> Row, as on the disk
        self.known = {}  # the same of all that ever was there
        self.refused = set()  # messages whose client was told so
        self.stored = set()  # messages that the disk has had
        self.settled = set()  # keys of recipients that were delivered or removed
        self.count = Counter()  # key -> how often an agent delivered it
        self.owed = set()  # envelopes whose sender is to be told, as on the disk
        self.told = Counter()  # envelope -> notices that tell of it
        self.notices = {}  # message -> content
        self.doubles = 0  # the excused ones
        self._excused = set()  # keys that may be delivered once more
        self.forget_life()

    def forget_life(self):
        """The daemon has ended: what was not on the disk is not known any more."""
        self.removed = set()  # envelopes
        self.suspended = {id: row.suspended for id, row in self.rows.items() if row.suspended}
        self.answered = set()  # envelopes that an agent said are delivered
        self.failed = set()  # envelopes that an agent, a host or the scheduler said have failed
        self.deferred = {}  # envelope -> what its agent said
        self.wanted = {}  # envelope -> recipients that lookup named last
        self.successors = {}
        self._excused |= {row.key for row in self.rows.values() if self.count[row.key]}

    # -- what agents do -------------------------------------------------------------------------------------------

    def deliver(self, envelope, row, once):
        """An agent delivers it; `once`: it has to see that there is no second one."""
        self.count[row.key] += 1
        if self.count[row.key] > 1:
            if once or row.key not in self._excused:
                raise PromiseBroken(
                    f"{envelope_text(envelope)} is delivered {self.count[row.key]} times: {row.recipient}"
                )
            self.doubles += 1
        self._excused.discard(row.key)

    def excuse(self, row):
        """Nobody can know whether it was delivered."""
        if self.count[row.key]:
            self._excused.add(row.key)

    def fail(self, is_meant):
        """These may have failed for good."""
        self.failed |= {id for id, row in self.rows.items() if is_meant(row.recipient)}

    # -- what the administrator wants -----------------------------------------------------------------------------

    def remove(self, envelopes):
        for id in envelopes:
            for one in self._heirs(id):
                self.removed.add(one)

    def suspend(self, envelopes, suspended):
        for id in envelopes:
            for one in self._heirs(id):
                # Two orders, one for an envelope and one for what it was replaced by: either may be the later one.
                doubtful = one != id and self.suspended.get(one, suspended) is not suspended
                self.suspended[one] = None if doubtful else suspended

    def _heirs(self, id):
        if id not in self.successors:
            return [id]
        return [heir for successor in self.successors[id] for heir in self._heirs(successor)]

    def check_due(self, envelopes):
        for id in envelopes:
            self.deferred.pop(id, None)
            if id in self.removed:
                raise PromiseBroken(f"{envelope_text(id)} is tried, and was removed")
            if self.suspended.get(id):
                raise PromiseBroken(f"{envelope_text(id)} is tried, and is suspended")

    # -- what the disk has ----------------------------------------------------------------------------------------

    def committed(self, changes):
        for change in changes:
            match change:
                case Add(message, envelopes):
                    self.stored.add(message.id)
                    for envelope in envelopes:
                        self._add(envelope)
                case StoreNotice():
                    self._store_notice(change)
                case Compound():
                    if change.envelope in self.rows:
                        self.committed(change.changes)
                case Owe():
                    self._owe(change.envelope, change.status)
                case Replace() | Remove() if change.envelope not in self.rows:
                    pass
                case Replace():
                    self._replace(change)
                case Remove():
                    self._remove(change)
                case CountAttempt() | Uncount() | Postpone() | Reschedule() | Hold() | Suspend():
                    self._change(change)
                case _:
                    raise PromiseBroken(f"nothing is damaged, and there is a {type(change).__name__}")

    def _owe(self, id, status):
        row = self.rows[id]
        if row.is_notice or not row.sender or row.recipient.notify is Notify.NEVER:
            raise PromiseBroken(f"{envelope_text(id)} leads to a notice: {status}")
        self.owed.add(id)

    def _store_notice(self, change):
        if change.add.message.id in self.stored:
            return  # it is repeated
        told = {id for id, _ in change.told} & self.owed
        if not told:
            return
        if len(told) < len(change.told):
            raise PromiseBroken(f"a notice tells {change.told}, of which only {told} are owed")
        self.owed -= told
        self.told.update(told)
        for id in told:
            if self.told[id] > 1:
                raise PromiseBroken(f"{self.told[id]} notices tell of {envelope_text(id)}")
        self.notices[change.add.message.id] = change.add.message.content
        self.committed([change.add])

    def _add(self, envelope, suspended=False):
        if envelope.id in self.rows:
            raise PromiseBroken(f"{envelope_text(envelope.id)} is there twice")
        row = self.rows[envelope.id] = self.known[envelope.id] = Row(envelope)
        row.suspended = suspended

    def _change(self, change):
        row = self.rows.get(change.envelope)
        if row is None:
            return
        match change:
            case Postpone():
                row.held, row.error = False, change.error
            case Reschedule():
                row.held = False
            case Hold():
                row.held, row.error = True, change.error
            case Suspend():
                row.suspended = change.suspended

    def _remove(self, change):
        id = change.envelope
        row = self.rows.pop(id)
        if id in self.removed or row.recipient.duty is Duty.DISCARD:
            self.settled.add(row.key)
        elif change.undelivered:
            self._check_wanted(id, row, [])
        elif id in self.answered:
            self.settled.add(row.key)
        elif (id in self.failed or row.may_be_overdue) and not row.is_notice:
            self.settled.add(row.key)
            if id not in self.owed and row.sender and row.recipient.notify is not Notify.NEVER:
                raise PromiseBroken(f"{envelope_text(id)} has failed, and its sender is not told: {row.recipient}")
        elif message_of(id) not in self.refused:
            raise PromiseBroken(f"{envelope_text(id)} is lost: {row.recipient}")

    def _replace(self, change):
        id = change.envelope
        row = self.rows.pop(id)
        for envelope in change.envelopes:
            self._add(envelope, row.suspended)
        ids = self.successors[id] = [envelope.id for envelope in change.envelopes]
        if id in self.removed:
            self.removed.update(ids)
        if self.suspended.get(id):
            self.suspended.update(dict.fromkeys(ids, True))
        self._check_wanted(id, row, [envelope.recipient for envelope in change.envelopes])

    def _check_wanted(self, id, row, successors):
        """Nothing of what the user wants now is forgotten, and nothing is made a second time."""
        message = message_of(id)
        waiting = [other.key for other in self._rows_of(message) if other is not row]
        if len(set(waiting)) < len(waiting):
            raise PromiseBroken(f"{envelope_text(id)} is replaced by what is there already: {successors}")
        for recipient in self.wanted[id]:
            key = message, recipient_key(recipient)
            if key not in self.settled and key not in waiting:
                raise PromiseBroken(f"{envelope_text(id)} goes, and {recipient} is forgotten")
        for recipient in successors:
            if (message, recipient_key(recipient)) in self.settled:
                raise PromiseBroken(f"{envelope_text(id)} is replaced by {recipient}, which was delivered or removed")

    def _rows_of(self, message):
        return [row for id, row in self.rows.items() if message_of(id) == message]

    def drop(self, message):
        """The disk failed while it was stored, and it was taken back."""
        for id in [id for id in self.rows if message_of(id) == message]:
            del self.rows[id]
