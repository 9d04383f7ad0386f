"""What the loop sees of the disk: rows as they will be, and content only as it was stored."""

import pytest

from smtpd.queue.store import disk
from smtpd.queue.store.store import Compound, ContentDamaged, Message, Remove, Suspend, UnreadableRow, changes_of
from tests.queue.conftest import add
from tests.queue.ram_store import RAMStore

ONE, TWO = 1 << 32 | 1, 1 << 32 | 2


class Rows:
    """A store with one message, and rows as they are."""

    def __init__(self, message=None, rows=()):
        self.message, self.rows, self.run = message, rows, 1

    def load(self, envelopes):
        return [row for row in self.rows if row.id in envelopes]

    def find_message(self, message):
        return self.message


def test_a_row_that_cannot_be_read_is_that_also_with_a_change_on_its_way():
    odd = UnreadableRow(ONE, "odd")
    assert disk._load(Rows(rows=[odd]), [ONE], {ONE: [Suspend(ONE, True)]}) == [odd]
    assert disk._load(Rows(rows=[odd]), [ONE], {ONE: [Suspend(ONE, True), Remove(ONE)]}) == []


def test_only_the_changes_of_its_own_row_make_an_envelope_what_it_will_be():
    whole = Compound(ONE, (Suspend(ONE, True), add(9), Remove(TWO)))
    assert changes_of(whole, ONE) == [Suspend(ONE, True)]
    assert changes_of(whole, TWO) == [Remove(TWO)]
    store = RAMStore()
    store.apply([add(1, 2)])
    (one,) = disk._load(store, [ONE], {ONE: [whole]})
    assert one.suspended


@pytest.mark.parametrize("size", [0, -1, "1", None])
def test_a_message_without_content_needs_the_size_of_its_file(size):
    with pytest.raises(ContentDamaged):
        disk._read_message(Rows(Message(1, size, b"", None)), 1)
    assert disk._read_message(Rows(Message(1, 1, b"", None)), 1)
    assert disk._read_message(Rows(), 1) is None
