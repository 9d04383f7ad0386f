"""What has to be true of a world at rest: disk, ledger and scheduler tell the same, and nothing waits for nothing."""

import os

from smtpd.envelope import message_of
from smtpd.scheduler.envelope_table import EnvelopeState
from tests.queue.model.ledger import PromiseBroken


def check_stopped(ledger, removed, suspended):
    """After an orderly stop: what agents said is on the disk, and what was ordered before it began."""
    for id, text in ledger.deferred.items():
        row = ledger.rows.get(id)
        if row is not None and text not in row.error:
            raise PromiseBroken(f"{id:016x} was deferred with {text!r}, the queue has {row.error!r}")
    for id in removed:
        if id in ledger.rows:
            raise PromiseBroken(f"{id:016x} was removed before a stop, and is there")
    for id, wanted in suspended.items():
        row = ledger.rows.get(id)
        is_last = ledger.suspended.get(id) is wanted is not None  # no order has come meanwhile
        if row is not None and is_last and row.suspended is not wanted:
            raise PromiseBroken(f"{id:016x} was suspended before a stop, {wanted}, and the disk has it as before")


def compare(life, ledger, clock):
    """Nothing is under way between them."""
    policy = life.scheduler.policy
    queue = life.queue
    if life.scheduler.orders.scanned is not None or not queue.disk.commits.idle or queue._submitted:
        return
    rows = {row.id: row for row in life.rows}
    if rows.keys() != ledger.rows.keys():
        raise PromiseBroken(f"the disk has {[*rows]}, the ledger {[*ledger.rows]}")
    known = {id for id in policy.table.ids(0, 2**63 - 1) if not policy.table.find(id).removed}
    if rows.keys() != known:
        raise PromiseBroken(f"the disk has {[*map(hex, rows)]}, the scheduler knows {[*map(hex, known)]}")
    for id, row in rows.items():
        envelope = policy.table.find(id)
        if row.held is not (envelope.state is EnvelopeState.HELD) and envelope.state is not EnvelopeState.INFLIGHT:
            raise PromiseBroken(f"{id:016x} is {envelope.state.name}, and the disk has held {row.held}")
        if row.suspended is not envelope.suspended:
            raise PromiseBroken(f"{id:016x} is suspended on one side only: {row.suspended} on the disk")
        if (wanted := ledger.suspended.get(id, False)) not in (None, row.suspended):
            raise PromiseBroken(f"{id:016x} is to be suspended: {wanted}, and is {row.suspended}")
        if id in ledger.removed:
            raise PromiseBroken(f"{id:016x} was removed, and is there")
        # Before it is released, a start counts from then again, as if it had not been tried.
        waits = envelope.state is EnvelopeState.WAITING and not clock.was_set and envelope.created <= clock.wall
        if waits and max(row.next_try, envelope.created) != envelope.next_try:
            raise PromiseBroken(f"{id:016x} is next tried at {row.next_try}, or {envelope.next_try}")


def check_end(life, ledger, directory, without_file):
    """All has been delivered that was to be; `without_file`: messages that may have lost their spool file."""
    queue, store = life.queue, life.store
    waiting = [hex(id) for id, row in ledger.rows.items() if not row.held]
    if waiting:
        raise PromiseBroken(f"{waiting} wait for nothing")
    refused = [hex(id) for id in ledger.rows if message_of(id) in ledger.refused]
    if refused:
        raise PromiseBroken(f"{refused} were refused, and are there")
    left = len(queue.in_flight), queue.agents.waiting(), queue.agents.under_way(), len(queue.incoming)
    relays = len(queue.relays), len(queue.relays._of_destination), len(queue.relays._collected)
    if (
        any(left)
        or any(relays)
        or queue.disk.commits._uncommitted
        or queue.conclusions._deferred
        or queue.disk.cache.weight < 0
    ):
        raise PromiseBroken(f"queue is not at rest: {left} {relays}")
    if ledger.owed or store.owed(0, 10) or len(queue.notices):
        raise PromiseBroken(f"senders are not told of {[*map(hex, ledger.owed)]}, {store.owed(0, 10)}")
    messages = {message_of(id) for id in ledger.rows}
    files = {int(name, 16) for name in os.listdir(f"{directory}/content")}
    spooled = {message for message, _ in store.spooled(0, 10_000)} - without_file
    # A disk that failed may leave a file without its row: until the next start.
    if not spooled <= messages or (files != spooled and not (store.failures and files > spooled)):
        raise PromiseBroken(f"spool files of {files}, messages {messages}")
    if store.messages(1, 2**31 - 1) != messages:
        raise PromiseBroken(f"messages without envelopes, or envelopes without a message: {messages}")
