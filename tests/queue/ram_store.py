"""The store in memory, for tests: the same behaviour, gone with the process."""

import threading
from collections.abc import Iterable, Sequence

from smtpd.envelope import Schedule, message_of
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store.recipient_status import RecipientStatus
from smtpd.queue.store.store import (
    Add,
    Change,
    Compound,
    Envelope,
    LaneOf,
    Message,
    OneChange,
    Owe,
    Quarantine,
    Recode,
    RememberTls,
    Remove,
    Replace,
    StoreNotice,
    changed,
    expanded_keys,
    recipient_key,
    successors,
)
from smtpd.selection import Selection


class RAMStore:
    def __init__(self) -> None:
        self.run = 1
        self.unsettled = False
        self._lock = threading.Lock()
        self._envelopes: dict[int, Envelope] = {}
        self._messages: dict[int, Message] = {}
        self._quarantine: list[tuple[int, int, str]] = []
        self._expanded: dict[int, dict[bytes, str]] = {}
        self._owed: dict[tuple[int, int], RecipientStatus] = {}
        self._tls_hosts: dict[str, TlsHost] = {}
        self._sts_policies: dict[str, StsRow] = {}

    def apply(self, changes: Sequence[Change]) -> list[int]:
        with self._lock:
            expanded = {message: dict(renewers) for message, renewers in self._expanded.items()}
            before = dict(self._envelopes), dict(self._messages), list(self._quarantine), expanded, dict(self._owed)
            try:
                return [message for change in changes for one in self._parts(change) for message in self._change(one)]
            except BaseException:
                self._envelopes, self._messages, self._quarantine, self._expanded, self._owed = before
                raise

    def _parts(self, change: Change) -> list[OneChange | StoreNotice]:
        if isinstance(change, RememberTls):
            self._tls_hosts |= {host.service: host for host in change.hosts}
            self._sts_policies |= {row.domain: row for row in change.policies}
            return []
        if isinstance(change, Recode):
            return []
        if not isinstance(change, Compound):
            return [change]
        there = any(isinstance(part, Add) and part.message.id in self._messages for part in change.changes)
        return [*change.changes] if change.envelope in self._envelopes and not there else []

    def _change(self, change: OneChange | StoreNotice) -> list[int]:
        if isinstance(change, StoreNotice):
            return self._store_notice(change)
        if isinstance(change, Add):
            self._add(change)
            return []
        if isinstance(change, Owe):
            self._owed[change.status.envelope, change.status.action] = change.status
            return []
        before = self._envelopes.get(change.envelope)
        if isinstance(change, Quarantine):
            self._quarantine.append((change.envelope, change.when, change.reason))
            self._envelopes.pop(change.envelope, None)
        elif before is not None and isinstance(change, Replace):
            self._replace(change)
        elif before is not None and isinstance(change, Remove):
            self._expanded.get(message_of(before.id), {}).pop(change.undelivered, None)
            return self._remove(before)
        elif before is not None:
            self._envelopes[before.id] = changed(before, change, self.run)
        return []

    def _add(self, add: Add) -> None:
        ids = [envelope.id for envelope in add.envelopes]
        if add.message.id in self._messages or self._envelopes.keys() & set(ids) or len(set(ids)) < len(ids):
            raise ValueError(f"message {add.message.id:08x} is there already")
        self._messages[add.message.id] = add.message
        self._envelopes.update(zip(ids, add.envelopes, strict=True))
        self._expanded[add.message.id] = dict.fromkeys(expanded_keys(add), "")

    def _replace(self, change: Replace) -> None:
        ids = [envelope.id for envelope in change.envelopes]
        if self._envelopes.keys() & set(ids) or len(set(ids)) < len(ids):
            raise ValueError(f"envelope {change.envelope:016x} cannot become {ids}")
        before = self._envelopes.pop(change.envelope)
        self._envelopes.update(zip(ids, successors(change, suspended=before.suspended), strict=True))
        expanded = self._expanded.setdefault(message_of(change.envelope), {})
        expanded.pop(change.undelivered, None)
        expanded.update((recipient_key(new.recipient), change.renewer) for new in change.envelopes)

    def _remove(self, envelope: Envelope) -> list[int]:
        del self._envelopes[envelope.id]
        return self._forget_unused(message_of(envelope.id))

    def _store_notice(self, change: StoreNotice) -> list[int]:
        told = self._owed.keys() & set(change.told)
        if change.add.message.id in self._messages or not told:
            return []
        for key in told:
            del self._owed[key]
        self._add(change.add)
        return self._forget_unused(message_of(change.envelope))

    def _forget_unused(self, message: int) -> list[int]:
        aside = (id for id, *_ in self._quarantine)
        owed = (id for id, _ in self._owed)
        if any(message_of(id) == message for id in (*self._envelopes, *aside, *owed)):
            return []
        self._expanded.pop(message, None)
        gone = self._messages.pop(message, None)
        return [message] if gone is not None and gone.content is None else []

    def settle(self) -> None:
        pass

    def shrink(self) -> bool:
        return False

    def repair(self, doubtful: Sequence[int]) -> None:
        self.apply([Remove(id) for id in self._envelopes if message_of(id) in doubtful])

    def close(self) -> None:
        pass

    def load(self, envelopes: Sequence[int]) -> list[Envelope]:
        with self._lock:
            return [self._envelopes[id] for id in envelopes if id in self._envelopes]

    def envelopes(self, first: int, last: int, limit: int) -> list[Envelope]:
        with self._lock:
            return [self._envelopes[id] for id in sorted(self._envelopes) if first <= id <= last][:limit]

    def select(self, selection: Selection, first: int, last: int, limit: int) -> tuple[list[int], int]:
        """Like SQLiteStore, but all of them are looked at; and without wildcards."""
        ids = [row.id for row in self.envelopes(first, last, len(self._envelopes)) if _is_meant(selection, row)]
        return ids[:limit], ids[limit] if len(ids) > limit else 0

    def schedules(self, after: int, limit: int, lane_of: LaneOf) -> list[Schedule]:
        with self._lock:
            rows = [self._envelopes[id] for id in sorted(self._envelopes) if id > after]
        others = [(row, row.recipient, row.origin) for row in rows if row.run != self.run][:limit]
        return [
            row.schedule(*lane_of(r.kind, r.action, r.user, r.duty, r.destination, origin.user or origin.sender))
            for row, r, origin in others
        ]

    def find_message(self, message: int) -> Message | None:
        return self._messages.get(message)

    def expanded(self, message: int) -> dict[bytes, str]:
        with self._lock:
            return dict(self._expanded.get(message, {}))

    def sizes(self, messages: Iterable[int]) -> dict[int, int]:
        return {id: self._messages[id].size for id in messages if id in self._messages}

    def messages(self, first: int, last: int) -> set[int]:
        with self._lock:
            return {id for id in self._messages if first <= id <= last}

    def spooled(self, after: int, limit: int) -> list[tuple[int, int]]:
        with self._lock:
            rows = ((id, m.coding) for id, m in self._messages.items() if id > after and m.content is None)
            return sorted(rows)[:limit]

    def codings(self, after: int, limit: int) -> list[tuple[int, int]]:
        return sorted((id, m.coding) for id, m in self._messages.items() if id > after)[:limit]

    def quarantine(self, limit: int) -> list[tuple[int, int, str]]:
        return self._quarantine[::-1][:limit]

    def owed(self, after: int, limit: int) -> list[int]:
        with self._lock:
            return sorted({message_of(id) for id, _ in self._owed if message_of(id) > after})[:limit]

    def statuses(self, message: int, limit: int) -> list[RecipientStatus]:
        with self._lock:
            return [self._owed[key] for key in sorted(self._owed) if message_of(key[0]) == message][:limit]

    def tls_hosts(self, after: int, limit: int) -> tuple[list[TlsHost], int]:
        return self._page(self._tls_hosts, after, limit)

    def sts_policies(self, after: int, limit: int) -> tuple[list[StsRow], int]:
        return self._page(self._sts_policies, after, limit)

    def _page(self, rows, after, limit):
        found = list(rows.values())[after : after + limit]
        return found, after + limit if len(found) == limit else 0


def _is_meant(selection: Selection, row: Envelope) -> bool:
    here, there = row.recipient.recipient, row.recipient.destination
    return (
        (not selection.senders or row.origin.sender in selection.senders)
        and (not selection.recipients or here in selection.recipients or there in selection.recipients)
        and (not selection.actions or row.recipient.action in selection.actions)
        and (not selection.errors or row.error in selection.errors)
        and selection.created_since <= row.created <= selection.created_until
        and selection.suspended in (None, row.suspended)
        and selection.held in (None, row.held)
        and selection.tried in (None, row.retries > 0)
    )
