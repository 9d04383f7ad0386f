"""The packed records, beside a plain dictionary and a sorted list; and what a step of theirs costs."""

import random
import sys
from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Kind, Schedule
from smtpd.scheduler.packed_table import BLOCK_MAX, PackedTable
from smtpd.scheduler.policy import Policy
from smtpd.scheduler.timer_queue import TimerQueue
from smtpd.scheduler.timer_table import TimerTable
from smtpd.slice import SchedulerSlice

NOW = 1_800_000_000
SIZE = 3  # bytes
SMALL = 8  # records of a block
NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([2**63, 2**64 - 1]))
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "remove", "first"]), NUMBERS), max_size=120)


def blocks_are_sound(table):
    """Ascending, none too long, none empty but the last."""
    blocks = [[*block.numbers] for block in table._blocks]
    assert sum(blocks, []) == sorted(sum(blocks, []))
    assert sum(map(len, blocks)) == len(table)
    assert all(blocks[:-1]) and all(len(block) <= table._block_max for block in blocks)
    assert all(len(block.records) == len(block.numbers) * table._size for block in table._blocks)
    assert table._lowest[0] == 0 and len(table._lowest) == len(blocks)


@settings(max_examples=150)
@given(STEPS, NUMBERS, NUMBERS)
def test_what_was_put_is_found_as_it_was(steps, first, last):
    table, plain = PackedTable(SIZE, SMALL), {}
    for at, (step, number) in enumerate(steps):
        record = at.to_bytes(SIZE)
        if step == "put":
            table.put(number, record)
            plain[number] = record
        elif step == "remove" and number in plain:
            table.remove(number)
            del plain[number]
        elif step == "first" and plain:
            assert table.take_first() == plain.pop(min(plain))
        assert table.first() == min(plain, default=None) and len(table) == len(plain)
        blocks_are_sound(table)
    assert all(table.find(number) == plain.get(number) for number in {first, last, *range(42), *plain})
    assert all((number in table) is (number in plain) for number in range(42))
    found = [number for piece in table.numbers(first, last) for number in piece]
    assert found == sorted(number for number in plain if first <= number <= last)
    table.clear()
    assert len(table) == 0 and table.first() is None and not any(table.numbers())


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=150))
def test_timers_come_by_their_time_and_equals_in_the_order_they_were_set(steps):
    timers, plain = TimerQueue(), []
    timers._numbers = PackedTable(8, SMALL)
    for number, (time, takes) in enumerate(steps):
        if takes:
            expected = plain.pop(0) if plain and plain[0][0] <= time else None
            assert timers.take(time) == expected
        else:
            timers.set(time, number)
            plain.insert(bisect_right(plain, time, key=lambda timer: timer[0]), (time, number))
        assert timers.next_time() == (plain[0][0] if plain else None) and len(timers) == len(plain)
        blocks_are_sound(timers._numbers)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "take"]), st.integers(0, 12), st.integers(0, 9))))
def test_timers_that_are_taken_back_do_not_come(steps):
    timers, plain = TimerTable(), {}
    for step, time, number in steps:
        if step == "take":
            due = min(((time, number) for number, time in plain.items()), default=(99, 0))
            assert timers.take(time) == (due[1] if due[0] <= time else None)
            if due[0] <= time:
                del plain[due[1]]
        elif number in plain:
            timers.cancel(plain.pop(number), number)
        if step == "set":
            timers.set(time, number)
            plain[number] = time
        assert len(timers) == len(plain) and timers.next_time() == min(plain.values(), default=None)
        assert len(timers._numbers) == len({*plain.values()})


def test_ascending_numbers_fill_their_blocks():
    """Those of new mail do, and those of a scan, into the gaps between others."""
    table = PackedTable(SIZE, SMALL)
    for number in [*range(0, 4000, 100), *range(1, 90), *range(2001, 2090)]:
        table.put(number, b"abc")
    assert len(table._blocks) <= 1.5 * len(table) / table._block_max


def test_to_find_the_numbers_of_a_range_the_others_are_not_looked_at():
    """A million, for each order that an administrator gives for one."""
    table = PackedTable(SIZE, SMALL)
    for number in range(1000):
        table.put(number, b"abc")
    assert [len(piece) for piece in table.numbers(500, 500)] == [1]


def test_a_table_that_is_nearly_emptied_has_few_blocks():
    """There are more envelopes each day, and some of each day stay."""
    table = PackedTable(SIZE, SMALL)
    for number in range(10_000):
        table.put(number, b"abc")
        if number % 100 and number >= 50:
            table.remove(number - 49)
    blocks_are_sound(table)
    assert len(table._blocks) <= 8 * len(table) / table._block_max


# -- what a step costs: counted ---------------------------------------------------------------------------------------


def lines_of(function):
    """How many lines of Python run."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def test_a_step_takes_as_many_lines_in_a_large_table_as_in_a_small_one():
    """The rest of a step is two binary searches and the move of a part of one block, in C."""
    costs = []
    for count in (1000, 20_000):
        table, random_numbers = PackedTable(30), random.Random(1)
        for _ in range(count):
            table.put(random_numbers.getrandbits(60), bytes(30))
        steps = random.Random(2)
        numbers = [steps.getrandbits(60) for _ in range(200)]

        def use(table=table, numbers=numbers):
            for number in numbers:
                table.put(number, bytes(30))
                table.find(number)
            for number in numbers:
                table.remove(number)

        costs.append(lines_of(use))
        assert max(len(block.numbers) for block in table._blocks) <= BLOCK_MAX
    assert costs[1] <= 1.1 * costs[0]


@pytest.mark.parametrize("destinations", [1, 100, 10**9])
def test_a_turn_takes_as_many_lines_with_many_waiting_envelopes_as_with_few(destinations):
    """Mail comes, is tried, finds its destination dead; another is tried, delivered and forgotten."""
    costs = []
    for count in (600, 6000):
        policy = Policy(SchedulerSlice())
        for message in range(1, count + 1):
            policy.submit(relayed(message, 1 + message % destinations), NOW)
        for destination in range(1, 1 + min(destinations, 20)):
            policy.destinations.delay(destination, NOW, NOW + 900)

        def use(policy=policy, first=count + 1):
            for message in range(first, first + 50):
                policy.submit(relayed(message, 10**12), NOW)
            (*dead, alive) = policy.turn(NOW, 50)
            policy.tried([alive], dead[:10], [], NOW, dead[10:])
            policy.destinations.delay_reported(10**12, NOW, 30)
            policy.next_time()

        costs.append(lines_of(use))
    assert costs[1] <= 1.1 * costs[0]


def test_no_delay_takes_more_lines_beside_many_others_than_beside_few(monkeypatch):
    """Of a dispatcher in the hands of an attacker: shorter ones, and more without mail than are kept."""
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 5)
    worst = []
    for count in (300, 3000):
        destinations = Policy(SchedulerSlice()).destinations
        for number in range(1, count + 1):
            destinations.add(number, 7, number << 32 | 1)
            destinations.delay_reported(number, NOW, 900)

        def delay(number, destinations=destinations):
            destinations.delay_reported(1 + number % 10, NOW, 600 - number // 13)
            destinations.delay_reported(10**12 + number % 6, NOW, 600)

        worst.append(max(lines_of(lambda number=number: delay(number)) for number in range(7000)))
    assert worst[1] <= 1.1 * worst[0]


def relayed(message, destination):
    times = {"created": NOW, "expires": NOW + 345_600, "next_try": 0}
    flags = {"retries": 0, "held": False, "suspended": False}
    return Schedule(message << 32 | 1, Kind.MTA, **times, **flags, lane=destination, sender=1 + message % 7)
