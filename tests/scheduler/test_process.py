"""The scheduler as its peers see it: over real channels, on its real loop."""

import threading
import time

import pytest
from msgspec.structs import replace

from smtpd.envelope import Kind, Schedule, first_envelope, last_envelope
from smtpd.imsg import (
    Begin,
    DeleteEnvelopes,
    DeliveriesPaused,
    DestinationDelayed,
    DestinationResumed,
    EnvelopeReplaced,
    EnvelopesDue,
    EnvelopesRemoved,
    EnvelopesScanned,
    EnvelopesScheduled,
    EnvelopesSubmitted,
    EnvelopesSuspended,
    EnvelopesTried,
    ExpireEnvelopes,
    MarkSuspended,
    PauseDeliveries,
    PauseDestination,
    PostponeEnvelopes,
    RemoveEnvelopes,
    ReportStatistics,
    ScanEnvelopes,
    ScheduleEnvelopes,
    SchedulingStopped,
    SetVerbose,
    StatisticsReported,
    Stop,
    StopScheduling,
    SuspendEnvelopes,
    TryDestinations,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.queue.state import SUBMIT_DELAY
from smtpd.scheduler import admin_order, destinations, process, state
from smtpd.scheduler.clock import Clock
from smtpd.scheduler.policy import STEPS_PER_TURN, Policy
from smtpd.slice import SchedulerSlice

ALL = first_envelope(1), last_envelope(2**31 - 1)


def schedule(message, counter=1, **more):
    now = int(time.time())
    given = {"created": now, "expires": now + 345_600, "next_try": 0, "retries": 0, "held": False, "suspended": False}
    return Schedule(message << 32 | counter, Kind.MDA, **given | more)


def later(message):
    then = int(time.time()) + 3600
    return schedule(message, next_try=then, release=then)


def scanned(house, schedules=(), last=0):
    """Queue submits a page, the last one if `last` is 0."""
    house.queue.send(EnvelopesSubmitted(list(schedules)))
    house.queue.send(EnvelopesScanned(last))


def given(house, count):
    """What queue was given, one imsg after the other, once there are `count`."""

    def due():
        found = [imsg.envelopes for imsg in house.said["queue"] if isinstance(imsg, EnvelopesDue)]
        return len(found) >= count and found

    return house.until(due)


def test_what_comes_in_one_turn_is_due_in_one_imsg(house):
    for message in range(1, 51):
        house.queue.send(EnvelopesSubmitted([schedule(message)]))
    (due,) = house.until_told("queue", EnvelopesDue)
    assert due.envelopes == [first_envelope(message) + 1 for message in range(1, 51)]


def test_what_is_more_than_one_turn_may_start_follows_at_once(house):
    count = STEPS_PER_TURN + 100
    for start in range(1, count, STEPS_PER_TURN):
        house.queue.send(
            EnvelopesSubmitted(
                [schedule(message) for message in range(start, min(count, start + STEPS_PER_TURN - 1) + 1)]
            )
        )
    house.until(lambda: sum(len(imsg.envelopes) for imsg in house.said["queue"]) == count)


# -- destinations of relayed mail -------------------------------------------------------


def relayed(message, lane=5, **more):
    return replace(schedule(message, **more), kind=Kind.MTA, lane=lane)


def test_a_delayed_destination_is_given_nothing_until_queue_says_that_it_can_be_reached(house, monkeypatch):
    monkeypatch.setattr(destinations, "DELAY_MIN", 0)
    house.queue.send(DestinationDelayed(5, 600))
    house.queue.send(EnvelopesSubmitted([relayed(1), relayed(2, lane=6)]))
    (due,) = house.until_told("queue", EnvelopesDue)
    assert due.envelopes == [relayed(2).envelope]
    house.queue.send(DestinationResumed(5))
    due = house.until(lambda: [i for i in house.said["queue"] if isinstance(i, EnvelopesDue)][1:])
    assert due[0].envelopes == [relayed(1).envelope]


def test_what_was_returned_is_given_again_when_its_destination_is_resumed_by_the_clock(house, monkeypatch):
    monkeypatch.setattr(destinations, "DELAY_MIN", 1)
    house.queue.send(EnvelopesSubmitted([relayed(1)]))
    house.until_told("queue", EnvelopesDue)
    house.queue.send(DestinationDelayed(5, 1))
    house.queue.send(EnvelopesTried([], [], [], [relayed(1).envelope]))
    due = house.until(lambda: [i for i in house.said["queue"] if isinstance(i, EnvelopesDue)][1:])
    assert due[0].envelopes == [relayed(1).envelope]
    assert not [i for i in house.said["queue"] if isinstance(i, PostponeEnvelopes)]


def test_an_envelope_that_expires_while_its_destination_is_delayed_is_told_with_that(house, monkeypatch):
    monkeypatch.setattr(destinations, "EXPIRY_INTERVAL", 1)
    house.queue.send(DestinationDelayed(5, 600))
    house.queue.send(EnvelopesSubmitted([relayed(1, created=1000, expires=2000)]))
    (expired,) = house.until_told("queue", ExpireEnvelopes)
    assert expired == ExpireEnvelopes([relayed(1).envelope], 5)


def test_an_administrator_pauses_and_resumes_a_destination(house):
    house.queue.send(PauseDestination(5, True))
    house.queue.send(EnvelopesSubmitted([relayed(1), relayed(2, lane=6)]))
    assert house.until_told("queue", EnvelopesDue) == [EnvelopesDue([relayed(2).envelope])]
    house.queue.send(PauseDestination(5, False))
    due = house.until(lambda: [i for i in house.said["queue"] if isinstance(i, EnvelopesDue)][1:])
    assert due == [EnvelopesDue([relayed(1).envelope])]


def test_to_resume_a_destination_ends_its_delay(house):
    house.queue.send(EnvelopesSubmitted([relayed(1)]))
    house.until_told("queue", EnvelopesDue)
    house.queue.send(DestinationDelayed(5, 600))
    house.until(lambda: house.scheduler.policy.destinations.is_delayed(5))
    house.queue.send(PauseDestination(5, False))
    house.until(lambda: not house.scheduler.policy.destinations.is_delayed(5))


def test_a_delay_that_becomes_shorter_is_over_in_time(house):
    passed = 0
    house.scheduler.clock = Clock(lambda: time.time() + passed, lambda: time.monotonic() + passed)
    house.queue.send(DestinationDelayed(5, 600))
    house.queue.send(EnvelopesSubmitted([relayed(1), relayed(2, lane=6)]))
    assert given(house, 1) == [[relayed(2).envelope]]
    house.scheduler.take_delay(DestinationDelayed(5, 1))
    passed = 2
    assert given(house, 2)[1] == [relayed(1).envelope]


def test_destinations_are_in_the_statistics_while_there_are_any(house):
    house.queue.send(DestinationDelayed(5, 600))
    house.queue.send(EnvelopesSubmitted([relayed(1), relayed(2, lane=6)]))
    house.until_told("queue", EnvelopesDue)
    house.control.send(ReportStatistics(1))
    (reported,) = house.until_told("control", StatisticsReported)
    assert reported.counters["scheduler.destination"] == 2
    assert reported.counters["scheduler.destination.delayed"] == 1


def test_orders_for_destinations_are_for_what_is_relayed_there_only(house):
    then = int(time.time()) + 3600
    mine, others = [relayed(1, next_try=then), relayed(2, next_try=then)], [relayed(3, lane=6, next_try=then), later(4)]
    scanned(house, [*mine, *others])
    house.control.send(ScheduleEnvelopes(1, *ALL, [5, 7]))
    assert house.until_told("control", EnvelopesScheduled) == [EnvelopesScheduled(1, 2)]
    due = house.until_told("queue", EnvelopesDue)
    assert sorted(id for imsg in due for id in imsg.envelopes) == [one.envelope for one in mine]
    wanted = house.said["queue"].index(TryDestinations([mine[0].lane]))  # its dispatcher hears of it first
    assert wanted < house.said["queue"].index(due[0])
    house.control.send(RemoveEnvelopes(2, *ALL, [6]))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(2, 1)]
    (gone,) = house.until_told("queue", DeleteEnvelopes)
    assert gone.envelopes == [others[0].envelope]


# -- results ------------------------------------------------------------------------------


def test_a_deferred_one_is_postponed_and_an_old_one_expires(house):
    young, old = schedule(1), schedule(2, created=1000, expires=2000)
    house.queue.send(EnvelopesSubmitted([young, old]))
    house.until_told("queue", EnvelopesDue)
    house.queue.send(EnvelopesTried([], [young.envelope, old.envelope], []))
    (expired,) = house.until_told("queue", ExpireEnvelopes)
    (postponed,) = house.until_told("queue", PostponeEnvelopes)
    assert expired.envelopes == [old.envelope]
    assert postponed.tries == [(young.envelope, young.created + 10)]


@pytest.mark.parametrize("end", ["delivered", "replaced by none"])
def test_the_end_of_one_lets_the_next_be_tried(house, end):
    house.scheduler.policy = Policy(SchedulerSlice(max_inflight=1))
    first, second = schedule(1).envelope, schedule(2).envelope
    house.queue.send(EnvelopesSubmitted([schedule(1), schedule(2)]))
    assert given(house, 1) == [[first]]
    house.queue.send(EnvelopesTried([first], [], []) if end == "delivered" else EnvelopeReplaced(first, []))
    assert given(house, 2) == [[first], [second]]
    assert {type(imsg) for imsg in house.said["queue"]} == {EnvelopesDue}


def test_the_scan_asks_for_a_page_after_the_other(house):
    pages = {0: [schedule(1), schedule(2)], schedule(2).envelope: [schedule(3)], schedule(3).envelope: []}

    def answer(imsg):
        if isinstance(imsg, ScanEnvelopes):
            page = pages[imsg.after]
            scanned(house, page, page[-1].envelope if page else 0)

    house.answer = answer
    house.scheduler.begin()
    house.until(lambda: house.scheduler.orders.scanned is None)
    house.until(lambda: sum(len(i.envelopes) for i in house.said["queue"] if isinstance(i, EnvelopesDue)) == 3)


SECOND, THIRD = first_envelope(2), first_envelope(3)


@pytest.mark.parametrize("page, then", [(0, 0), (0, THIRD), (SECOND, SECOND), (THIRD, SECOND)])
def test_a_page_without_a_question_is_fatal(house, page, then):
    house.scheduler.take_scanned(EnvelopesScanned(page))
    with pytest.raises(Violation):
        house.scheduler.take_scanned(EnvelopesScanned(then))


def recorded_timers(house):
    """Those that the scheduler sets from now on: seconds, timer."""
    set_timer, recorded = house.loop.call_later, []

    def call_later(seconds, callback, *arguments):
        timer = set_timer(seconds, callback, *arguments)
        if callback == house.scheduler._turn_soon:
            recorded.append((seconds, timer))
        return timer

    house.loop.call_later = call_later
    return recorded


def test_however_many_turns_there_are_one_timer_is_set(house):
    timers = recorded_timers(house)
    for message in range(1, 6):
        house.queue.send(EnvelopesSubmitted([later(message)]))
        house.until(lambda count=message: len(timers) == count)
    assert [timer.callback is not None for _, timer in timers] == 4 * [False] + [True]


def test_without_an_envelope_no_timer_is_set(house):
    timers = recorded_timers(house)
    house.control.send(PauseDeliveries(1, Kind.MDA, True))
    house.until_told("control", DeliveriesPaused)
    assert timers == []


def test_an_envelope_is_tried_when_its_time_comes(house):
    now = time.time()
    house.queue.send(EnvelopesSubmitted([schedule(1, next_try=int(now) + 1)]))
    house.until_told("queue", EnvelopesDue)
    assert int(now) + 1 <= time.time() < now + 1.5


YEAR = 365 * 86400


@pytest.mark.parametrize("step", [-YEAR, YEAR])
def test_a_stepped_clock_disturbs_no_wait_and_is_what_is_written(house, step):
    """In a run.  What is there waits as long as it was to wait, what is new is tried at once, and all that queue is to
    keep is in the time of the clock as it is now."""
    now, stepped = int(time.time()), 0
    house.scheduler.clock = Clock(lambda: time.time() + stepped)
    house.queue.send(EnvelopesSubmitted([schedule(1), schedule(2, next_try=now + 1), later(3)]))
    assert house.until_told("queue", EnvelopesDue)[0].envelopes == [schedule(1).envelope]
    stepped = step
    new = schedule(4, created=now + step, expires=now + step + 345_600)
    house.queue.send(EnvelopesTried([], [schedule(1).envelope], []))
    house.queue.send(EnvelopesSubmitted([new]))
    (postponed,) = house.until_told("queue", PostponeEnvelopes)
    ((id, when),) = postponed.tries
    assert id == schedule(1).envelope and abs(when - (now + step + 10)) <= 1
    house.until(lambda: [new.envelope] in [i.envelopes for i in house.said["queue"] if isinstance(i, EnvelopesDue)])
    house.until(
        lambda: [schedule(2).envelope] in [i.envelopes for i in house.said["queue"] if isinstance(i, EnvelopesDue)]
    )
    assert not any(isinstance(imsg, ExpireEnvelopes) for imsg in house.said["queue"])


@pytest.mark.parametrize("step", [-YEAR, YEAR])
def test_a_try_by_hand_is_written_in_the_time_of_the_clock_as_it_is_now(house, step):
    now, stepped = int(time.time()), 0
    house.scheduler.clock = Clock(lambda: time.time() + stepped)
    scanned(house, [later(1)])
    house.until(lambda: house.scheduler.orders.scanned is None)
    stepped = step
    house.control.send(ScheduleEnvelopes(7, *ALL))
    ((_, when),) = house.until_told("queue", PostponeEnvelopes)[0].tries
    assert now + step - 1 <= when <= time.time() + step + 1


@pytest.mark.parametrize("step", [0, -YEAR])
def test_what_stands_in_the_place_of_another_has_all_the_time_of_a_new_one(house, step):
    """Also when the clock was set back in this run: it does not count as old, and does not expire at its first try."""
    now, stepped = int(time.time()), 0
    house.scheduler.clock = Clock(lambda: time.time() + stepped)
    house.queue.send(EnvelopesSubmitted([schedule(1)]))
    house.until_told("queue", EnvelopesDue)
    stepped = step
    new = schedule(1, 2, created=now + step, expires=now + step + 345_600)
    house.queue.send(EnvelopeReplaced(schedule(1).envelope, [new]))
    house.until(lambda: EnvelopesDue([new.envelope]) in house.said["queue"])
    house.queue.send(EnvelopesTried([], [new.envelope], []))
    (postponed,) = house.until_told("queue", PostponeEnvelopes)
    ((id, when),) = postponed.tries
    assert id == new.envelope and abs(when - (now + step + 10)) <= 1


def test_remove_all_means_all_even_while_the_scan_goes_on(house):
    scanned(house, [later(1), later(2)], last=later(2).envelope)
    house.control.send(RemoveEnvelopes(7, *ALL))
    house.until_told("queue", ScanEnvelopes)
    assert house.said["control"] == []
    scanned(house, [later(3)], last=later(3).envelope)
    scanned(house)
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 3)]
    (deleted,) = house.until_told("queue", DeleteEnvelopes)
    assert sorted(deleted.envelopes) == [later(message).envelope for message in (1, 2, 3)]


def test_the_end_of_the_scan_alone_lets_an_order_be_carried_out(house):
    scanned(house, [later(1)], last=later(1).envelope)
    house.control.send(RemoveEnvelopes(7, *ALL))
    house.control.send(ReportStatistics(8))
    house.until_told("control", StatisticsReported)
    house.queue.send(EnvelopesScanned(0))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 1)]


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_order_for_what_the_scan_has_passed_does_not_wait_for_the_rest(house, beyond):
    scanned(house, [later(1), later(2)], last=later(2).envelope + beyond)
    house.control.send(RemoveEnvelopes(7, later(1).envelope, later(2).envelope))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 2)]


def test_an_order_for_one_known_envelope_does_not_wait_for_the_scan(house):
    scanned(house, [later(5)], last=later(1).envelope)
    id = later(5).envelope
    house.control.send(ScheduleEnvelopes(7, id, id))
    assert house.until_told("control", EnvelopesScheduled) == [EnvelopesScheduled(7, 1)]


def test_the_end_comes_behind_what_queue_is_to_write_and_nothing_behind_it(house):
    house.queue.send(EnvelopesSubmitted([schedule(1)]))
    house.until_told("queue", EnvelopesDue)
    del house.said["queue"][:]
    house.queue.send(EnvelopesTried([], [schedule(1).envelope], []))
    house.queue.send(StopScheduling())
    house.queue.send(EnvelopesSubmitted([schedule(2)]))
    house.queue.send(EnvelopesScanned(schedule(2).envelope))
    house.control.send(RemoveEnvelopes(7, *ALL))
    house.control.send(PauseDeliveries(1, Kind.MDA, True))
    house.until_told("control", DeliveriesPaused)
    house.until_told("queue", SchedulingStopped)
    assert [type(imsg) for imsg in house.said["queue"]] == [PostponeEnvelopes, SchedulingStopped]


def test_no_order_is_said_to_be_done_that_queue_does_not_hear_of_any_more(house):
    scanned(house, [later(1)])
    house.until(lambda: house.scheduler.orders.scanned is None)
    house.queue.send(StopScheduling())
    house.until_told("queue", SchedulingStopped)
    house.control.send(RemoveEnvelopes(7, *ALL))
    for count in (1, 2):  # the second one comes after the turn in which the order came
        house.control.send(ReportStatistics(count))
        house.until(lambda count=count: len(house.said["control"]) == count)
    assert {type(imsg) for imsg in house.said["control"]} == {StatisticsReported}


def successors(count):
    return [schedule(1, 1 << 31 | number) for number in range(count)]


@pytest.mark.parametrize("wish", ["remove", "suspend", "resume"])
def test_what_is_wanted_of_one_in_flight_reaches_those_in_its_place(house, wish):
    house.queue.send(EnvelopesSubmitted([schedule(1)]))
    house.until_told("queue", EnvelopesDue)
    id = schedule(1).envelope
    order = RemoveEnvelopes(7, id, id) if wish == "remove" else SuspendEnvelopes(7, id, id, True)
    house.control.send(order)
    if wish == "resume":
        house.control.send(SuspendEnvelopes(8, id, id, False))
    house.until(lambda: house.said["control"][1 if wish == "resume" else 0 :])
    house.queue.send(EnvelopeReplaced(id, [replace(new, suspended=wish == "resume") for new in successors(2)]))
    ids = [new.envelope for new in successors(2)]
    told = {"remove": DeleteEnvelopes(ids), "suspend": MarkSuspended(ids, True), "resume": MarkSuspended(ids, False)}
    house.until(lambda: told[wish] in house.said["queue"])
    if wish == "resume":
        house.until(lambda: EnvelopesDue(ids) in house.said["queue"])
    assert (EnvelopesDue(ids) in house.said["queue"]) is (wish == "resume")


def test_an_order_under_way_does_not_miss_those_in_the_place_of_one_that_it_has_not_come_to(house, monkeypatch):
    monkeypatch.setattr(admin_order, "SLICE_SIZE", 1)
    waiting, inflight = later(1), schedule(1, 2)
    scanned(house, [waiting, inflight, later(2)])
    house.until_told("queue", EnvelopesDue)
    scheduler = house.scheduler
    scheduler.orders.add(RemoveEnvelopes(7, *ALL))
    scheduler.orders.turn(0)  # the first slice: not yet the envelope in flight
    scheduler.take_replaced(EnvelopeReplaced(inflight.envelope, successors(2)))
    (answer,) = house.until_told("control", EnvelopesRemoved)
    assert answer.count == 4
    deleted = {id for imsg in house.said["queue"] if isinstance(imsg, DeleteEnvelopes) for id in imsg.envelopes}
    assert deleted == {waiting.envelope, later(2).envelope, *(new.envelope for new in successors(2))}


def test_an_order_under_way_reaches_to_both_ends_of_its_range_and_not_beyond(house, monkeypatch):
    monkeypatch.setattr(admin_order, "SLICE_SIZE", 1)
    below, first, waiting, last, above = (schedule(1, 1 << 31 | number) for number in range(5))
    inflight = schedule(2)
    scanned(house, [replace(waiting, held=True), inflight])
    house.until_told("queue", EnvelopesDue)
    scheduler = house.scheduler
    scheduler.orders.add(RemoveEnvelopes(7, first.envelope, last.envelope))
    scheduler.orders.turn(0)  # so that it is under way
    scheduler.take_replaced(EnvelopeReplaced(inflight.envelope, [below, first, last, above]))
    (answer,) = house.until_told("control", EnvelopesRemoved)
    assert answer.count == 3
    assert below.envelope in scheduler.policy.table and above.envelope in scheduler.policy.table


def test_an_order_under_way_needs_no_more_stack_however_many_envelopes_are_replaced_meanwhile():
    """A stack overflow ends the process, and with it the daemon."""
    known = Policy(SchedulerSlice())
    for message in range(1, admin_order.SLICE_SIZE + 2):
        known.submit(later(message), int(time.time()))
    answers = []
    orders = admin_order.AdminOrders(known, lambda imsg: None, answers.append)
    orders.scanned = None
    orders.add(RemoveEnvelopes(7, *ALL))
    orders.turn(0)  # so that it is under way
    for _ in range(30_000):
        orders.replaced([])
    size_before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=orders.turn, args=(0,))
        thread.start()
    finally:
        threading.stack_size(size_before)
    thread.join()
    assert answers == [EnvelopesRemoved(7, admin_order.SLICE_SIZE + 1)]


def test_schedule_is_kept_over_a_restart_and_tried_now(house):
    scanned(house, [later(1)])
    house.control.send(ScheduleEnvelopes(7, *ALL))
    (due,) = house.until_told("queue", EnvelopesDue)
    ((id, when),) = house.until_told("queue", PostponeEnvelopes)[0].tries
    assert [id] == due.envelopes and when <= time.time()
    told = [type(imsg) for imsg in house.said["queue"]]
    assert told.index(PostponeEnvelopes) < told.index(EnvelopesDue)


def test_suspension_is_marked_and_counted(house):
    scanned(house, [later(1), later(2)])
    house.control.send(SuspendEnvelopes(1, first_envelope(2), last_envelope(2), True))
    house.control.send(SuspendEnvelopes(2, *ALL, True))
    house.control.send(SuspendEnvelopes(3, *ALL, False))
    house.until(lambda: len(house.said["control"]) == 3)
    assert house.said["control"] == [EnvelopesSuspended(n, count) for n, count in ((1, 1), (2, 1), (3, 2))]
    marked = [imsg for imsg in house.said["queue"] if isinstance(imsg, MarkSuspended)]
    assert [(len(imsg.envelopes), imsg.suspended) for imsg in marked] == [(1, True), (1, True), (2, False)]


@pytest.mark.parametrize("far", [False, True])
def test_an_order_for_listed_envelopes_is_for_these_only(house, far):
    """Also when the list names some that are not there."""
    schedules = [later(number) for number in range(1, 6)]
    scanned(house, schedules)
    ids = [each.envelope for each in schedules]
    listed = [ids[1], ids[3], first_envelope(1000)]
    house.control.send(RemoveEnvelopes(7, listed[0], listed[-1] if far else ids[4], envelopes=listed))
    house.until(lambda: house.said["control"])
    assert house.said["control"] == [EnvelopesRemoved(7, 2)]
    assert [id for id in ids if id not in house.scheduler.policy.table] == [ids[1], ids[3]]


def test_an_order_for_nothing_is_answered(house):
    scanned(house)
    house.control.send(RemoveEnvelopes(7, *ALL))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 0)]
    house.queue.send(EnvelopesSubmitted([schedule(1)]))
    house.until_told("queue", EnvelopesDue)
    assert [type(imsg) for imsg in house.said["queue"]] == [EnvelopesDue]


def test_a_removed_one_in_flight_is_deleted_when_it_comes_back(house):
    scanned(house, [schedule(1)])
    house.until_told("queue", EnvelopesDue)
    house.control.send(RemoveEnvelopes(7, *ALL))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 1)]
    assert house.until_told("queue", DeleteEnvelopes) == [DeleteEnvelopes([schedule(1).envelope])]
    del house.said["queue"][:]
    house.queue.send(EnvelopesTried([], [schedule(1).envelope], []))
    assert house.until_told("queue", DeleteEnvelopes) == [DeleteEnvelopes([schedule(1).envelope])]


def test_a_large_order_leaves_room_for_others_between_its_slices(house):
    count = 20_000
    for start in range(1, count, 1000):
        house.queue.send(EnvelopesSubmitted([later(message) for message in range(start, start + 1000)]))
    scanned(house)
    house.until(lambda: house.scheduler.orders.scanned is None)
    house.control.send(RemoveEnvelopes(7, *ALL))
    house.until_told("queue", DeleteEnvelopes)
    house.control.send(ReportStatistics(8))
    house.until_told("control", EnvelopesRemoved)
    assert [type(imsg) for imsg in house.said["control"]] == [StatisticsReported, EnvelopesRemoved]
    assert house.said["control"][-1].count == count
    assert sum(len(imsg.envelopes) for imsg in house.until_told("queue", DeleteEnvelopes)) == count


def test_an_order_waits_until_queue_has_read_what_it_was_told(house, monkeypatch):
    timers = recorded_timers(house)
    scanned(house, [later(1)])
    house.until(lambda: house.scheduler.orders.scanned is None)
    monkeypatch.setattr(state, "UNREAD_BYTES_MAX", 0)  # as if it had not
    house.control.send(RemoveEnvelopes(7, *ALL))
    house.queue.send(EnvelopesSubmitted([schedule(2)]))
    house.until_told("queue", EnvelopesDue)
    house.until(lambda: house.scheduler.orders.ready)
    house.control.send(ReportStatistics(8))
    house.until_told("control", StatisticsReported)
    assert not [imsg for imsg in house.said["control"] if isinstance(imsg, EnvelopesRemoved)]
    assert state.CATCH_UP_DELAY in [seconds for seconds, _ in timers]  # and is not looked after all the time
    monkeypatch.setattr(state, "UNREAD_BYTES_MAX", 1)
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 2)]


def test_an_order_concerns_mail_that_queue_has_kept_to_itself_for_a_moment(house):
    """As mail is accepted before the scheduler hears of it."""
    assert state.ORDER_DELAY > 2 * SUBMIT_DELAY
    scanned(house, [later(1)])
    house.until(lambda: house.scheduler.orders.scanned is None)
    house.scheduler.order(RemoveEnvelopes(7, *ALL))
    house.loop.call_later(SUBMIT_DELAY, house.queue.send, EnvelopesSubmitted([later(2)]))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 2)]


def test_an_order_does_not_pause_between_its_slices(house, monkeypatch):
    monkeypatch.setattr(admin_order, "SLICE_SIZE", 1)
    timers = recorded_timers(house)
    scanned(house, [later(message) for message in range(1, 6)])
    house.control.send(RemoveEnvelopes(7, *ALL))
    assert house.until_told("control", EnvelopesRemoved) == [EnvelopesRemoved(7, 5)]
    assert state.CATCH_UP_DELAY not in [seconds for seconds, _ in timers]


def test_a_paused_kind_is_tried_after_it_is_resumed(house):
    house.control.send(PauseDeliveries(1, Kind.MDA, True))
    house.control.send(PauseDeliveries(2, Kind.MDA, True))
    house.until(lambda: len(house.said["control"]) == 2)
    assert house.said["control"] == [DeliveriesPaused(1, True), DeliveriesPaused(2, False)]
    scanned(house, [schedule(1)])
    house.control.send(ReportStatistics(3))
    house.until_told("control", StatisticsReported)
    assert not [imsg for imsg in house.said["queue"] if isinstance(imsg, EnvelopesDue)]
    house.control.send(PauseDeliveries(4, Kind.MDA, False))
    house.until_told("queue", EnvelopesDue)


def test_a_pause_is_in_the_log(house, capfd):
    for request, paused in enumerate([True, True, False, False], 1):
        house.control.send(PauseDeliveries(request, Kind.MDA, paused))
    house.until(lambda: len(house.said["control"]) == 4)
    log.flush()
    assert capfd.readouterr().err.splitlines() == ["info: mda paused", "info: mda resumed"]


def test_statistics_have_the_known_names(house):
    scanned(house, [schedule(1), later(2), schedule(3, held=True)])
    house.until_told("queue", EnvelopesDue)
    house.queue.send(EnvelopesTried([schedule(1).envelope], [], []))
    house.control.send(RemoveEnvelopes(1, *ALL))
    house.until_told("control", EnvelopesRemoved)
    house.control.send(ReportStatistics(2))
    (reported,) = house.until_told("control", StatisticsReported)
    assert reported.counters == {
        "scheduler.delivery.ok": 1,
        "scheduler.envelope": 0,
        "scheduler.envelope.held": 0,
        "scheduler.envelope.inflight": 0,
        "scheduler.envelope.removed": 2,
    }


def test_debug_lines_are_logged_as_control_says(house, monkeypatch):
    monkeypatch.setattr(log, "verbose", False)
    for verbose in (True, False):
        house.control.send(SetVerbose(verbose))
        house.until(lambda verbose=verbose: log.verbose is verbose)


def test_it_scans_when_the_parent_says_so_and_ends_likewise(house):
    process.from_parent(house.scheduler, house.queue, Begin(), None)
    assert house.until_told("queue", ScanEnvelopes) == [ScanEnvelopes(0)]
    process.from_parent(house.scheduler, house.queue, Stop(), None)
    late = house.loop.call_later(20, pytest.fail, "it does not end")
    house.loop.run_forever()
    late.cancel()


@pytest.mark.parametrize("peer", ["parent", "queue", "control"])
def test_any_other_imsg_is_fatal(house, peer):
    with pytest.raises(Violation, match=f"unexpected EnvelopesDue from {peer}"):
        getattr(process, f"from_{peer}")(house.scheduler, house.queue, EnvelopesDue([1 << 32]), None)
