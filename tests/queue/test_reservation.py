"""Message ids: none is handed out twice, and no process uses one of another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import MESSAGE_ID_MAX
from smtpd.imsg import Begin
from smtpd.ipc.channel import Violation
from smtpd.queue import reservation
from smtpd.queue.message_ids import OWN_MIN, OwnIds
from smtpd.queue.reservation import BLOCK_SIZE, QUEUE, Reservations


def reserve(reservations, dispatcher=0, taken=()):
    return reservations.reserve(dispatcher, *reservations.advance(), set(taken))


def test_ids_ascend_from_the_start():
    reservations = Reservations(1000)
    assert reserve(reservations) == [*range(1000, 1000 + BLOCK_SIZE)]
    assert reserve(reservations) == [*range(1000 + BLOCK_SIZE, 1000 + 2 * BLOCK_SIZE)]


def test_ids_wrap_to_one_and_a_block_never_does():
    reservations = Reservations(MESSAGE_ID_MAX - 9)
    assert reserve(reservations) == [*range(MESSAGE_ID_MAX - 9, MESSAGE_ID_MAX + 1)]
    assert reserve(reservations)[:3] == [1, 2, 3]


def test_what_the_store_has_is_left_out():
    assert reserve(Reservations(1), taken=[2, 4])[:4] == [1, 3, 5, 6]


def test_what_is_still_reserved_is_left_out_after_a_wrap():
    reservations = Reservations(1)
    first = reserve(reservations)
    for id in first[:10]:
        reservations.spend(id)
    assert reservations.reserve(1, 1, BLOCK_SIZE, set()) == first[:10]


def test_an_id_of_another_dispatcher_is_fatal():
    reservations = Reservations(1)
    reserve(reservations, dispatcher=0)
    reservations.check(0, 5)
    with pytest.raises(Violation):
        reservations.check(1, 5)


def test_an_id_that_was_not_reserved_is_fatal():
    reservations = Reservations(1)
    reserve(reservations)
    for id in (BLOCK_SIZE + 1, MESSAGE_ID_MAX):
        with pytest.raises(Violation):
            reservations.check(0, id)
        with pytest.raises(Violation):
            reservations.check_any(id)


def test_a_spent_id_is_fatal():
    reservations = Reservations(1)
    reserve(reservations)
    reservations.spend(5)
    with pytest.raises(Violation):
        reservations.check(0, 5)
    with pytest.raises(Violation):
        reservations.check_any(5)


def test_a_dispatcher_that_hoards_ids_is_fatal(monkeypatch):
    monkeypatch.setattr(reservation, "RESERVED_MAX", 3 * BLOCK_SIZE)
    reservations = Reservations(1)
    for _ in range(3):
        reserve(reservations)
    with pytest.raises(Violation):
        reserve(reservations)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=30), st.integers(1, MESSAGE_ID_MAX))
def test_no_id_belongs_to_two(steps, start):
    reservations, out = Reservations(start), {}
    for dispatcher, spend in steps:
        for id in [*out][:spend]:
            reservations.spend(id)
            del out[id]
        for id in reserve(reservations, dispatcher):
            assert 1 <= id <= MESSAGE_ID_MAX
            assert id not in out
            out[id] = dispatcher
    for id, owner in out.items():
        reservations.check(owner, id)


# -- the queue's own ids -----------------------------------------------------------------------------------------------


def test_no_other_process_can_name_an_id_of_the_queues_own():
    reservations = Reservations(1)
    reserve(reservations, dispatcher=QUEUE)
    with pytest.raises(Violation):
        reservations.check_any(5)
    with pytest.raises(Violation):
        reservations.check(0, 5)


def test_ids_of_messages_that_have_ended_count_no_more(monkeypatch):
    """Or a dispatcher would be taken for a hoarder when it has received enough mail."""
    monkeypatch.setattr(reservation, "RESERVED_MAX", 2 * BLOCK_SIZE)
    reservations = Reservations(1)
    for _ in range(10):
        for id in reserve(reservations):
            reservations.spend(id)
    assert reservations._held[0] == 0


def test_own_ids_are_asked_for_once_and_until_there_are_enough():
    class Few:
        """Blocks of which most ids are taken."""

        asked = 0

        def reserve(self, owner, reserved):
            self.asked, self.reserved = self.asked + 1, reserved

    blocks = Few()
    own = OwnIds(blocks, Reservations(1))
    for _ in range(3):
        own.refill()
    assert blocks.asked == 1
    blocks.reserved([1, 2])
    assert blocks.asked == 2
    blocks.reserved([*range(3, 3 + OWN_MIN)])
    assert blocks.asked == 2 and own.maybe_take() == 1


def test_own_ids_are_at_hand_and_no_dispatcher_gets_them(house):
    own = house.queue.own_ids
    assert own.maybe_take() is None  # which fetches the first block
    house.until(lambda: len(own._ids) == BLOCK_SIZE)
    taken = [own.maybe_take() for _ in range(2 * BLOCK_SIZE - OWN_MIN) if house.until(lambda: own._ids) is None]
    assert len({*taken}) == len(taken) and None not in taken
    assert not {*taken} & {*house.reserve(), *house.reserve()}


def test_the_first_own_ids_are_fetched_when_the_daemon_begins(house):
    house.say("parent", Begin())
    house.until(lambda: house.queue.own_ids._ids)


def test_an_own_id_is_left_out_until_it_is_spent(house):
    own, reservations = house.queue.own_ids, house.queue.incoming._reservations
    house.say("parent", Begin())
    house.until(lambda: own._ids)
    id = own.maybe_take()
    assert reservations.reserve(0, id, id, set()) == []
    own.spend(id)
    assert reservations.reserve(0, id, id, set()) == [id]
