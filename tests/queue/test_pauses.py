"""What administrators have paused of relaying: who is told, and what is listed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import PAUSES_MAX, Word
from smtpd.imsg import ListPaused, PauseDestination, PauseRelaying, PauseSource, RelayingPaused, TryDestination
from smtpd.queue.delivery.destination import Delays, Numbers
from smtpd.queue.delivery.pauses import Pauses
from smtpd.slice import DeliverySlice, Method, QueueSlice

OURS = "192.0.2.1"
ACTIONS = (
    DeliverySlice("local", Method.MAILDIR, "", 3600),
    DeliverySlice("out", Method.RELAY, "", 3600, sources=(OURS,)),
    DeliverySlice("provider", Method.RELAY, "", 3600, one_destination=True),
)


class Peer:
    def __init__(self):
        self.sent = []

    def send(self, imsg):
        self.sent.append(imsg)


class Room:
    def __init__(self):
        configuration = QueueSlice(ACTIONS)
        self.numbers = Numbers(configuration)
        self.delays = Delays(lambda: 0.0)
        self.scheduler, self.control, self.dispatchers = Peer(), Peer(), [Peer(), Peer()]
        self.pauses = Pauses(configuration, self.numbers, self.delays, self.scheduler, self.dispatchers)

    def pause(self, source, name, paused=True):
        self.pauses.pause(self.control, PauseRelaying(1, source, name, paused))
        return self.control.sent.pop()

    def listed(self):
        self.pauses.list(self.control, ListPaused(1))
        return self.control.sent.pop().rows

    def number(self, action, domain):
        return self.numbers.destination(action, f"x@{domain}").number


@pytest.fixture
def room():
    return Room()


def test_a_destination_is_paused_at_the_scheduler_by_any_spelling_of_its_name(room):
    far = room.number("out", "far.test")
    assert room.pause("", "far.test") == RelayingPaused(1, True)
    assert room.pause("", "FAR.test.") == RelayingPaused(1, False)
    assert room.scheduler.sent == [PauseDestination(far, True)] and room.pauses.is_paused(far)
    assert room.listed() == [("", "far.test")]
    assert room.pause("", "Far.Test", False) == RelayingPaused(1, True)
    assert room.scheduler.sent[1:] == [PauseDestination(far, False)] and not room.pauses.is_paused(far)
    assert room.pause("", "far.test", False) == RelayingPaused(1, False) and room.listed() == []
    assert room.scheduler.sent[2:] == [PauseDestination(far, False)]  # the scheduler may have a delay of its own


def test_an_action_with_smarthosts_is_a_destination_and_its_name_may_be_a_domain_too(room):
    room.pause("", "provider")
    assert room.scheduler.sent == [
        PauseDestination(room.number("out", "provider"), True),
        PauseDestination(room.number("provider", "any.test"), True),
    ]


def test_a_delayed_destination_can_be_resumed(room):
    far = room.number("out", "far.test")
    room.delays.delay(far, 60, "no")
    assert room.pause("", "far.test", False) == RelayingPaused(1, True)
    assert room.scheduler.sent == [PauseDestination(far, False)] and not room.delays.find_reason(far)
    assert room.dispatchers[far % 2].sent == [TryDestination(far)]


def test_a_source_address_is_paused_at_the_dispatcher_that_has_the_destination(room):
    far = room.number("out", "far.test")
    assert room.pause(OURS, "far.test") == RelayingPaused(1, True)
    assert room.pause(OURS, "far.test") == RelayingPaused(1, False)
    assert room.dispatchers[far % 2].sent == [PauseSource(OURS, far, True)]
    assert not room.dispatchers[1 - far % 2].sent and not room.scheduler.sent and not room.pauses.is_paused(far)
    room.pause(OURS, "far.test", False)
    assert room.dispatchers[far % 2].sent[1:] == [PauseSource(OURS, far, False)]


def test_a_source_address_is_paused_for_any_destination_in_every_dispatcher(room):
    room.pause(OURS, "")
    assert [peer.sent for peer in room.dispatchers] == [[PauseSource(OURS, 0, True)]] * 2
    assert room.listed() == [(OURS, "")]


@pytest.mark.parametrize(
    "source, name, reason",
    [
        ("192.0.2.2", "far.test", "source address 192.0.2.2"),
        ("", "x@far.test", "no action relays to x@far.test"),
        ("", "", "neither"),
    ],
)
def test_what_cannot_be_paused_is_refused(room, source, name, reason):
    answer = room.pause(source, name)
    assert not answer.changed and reason in answer.trouble and room.listed() == []


def test_pauses_are_bounded(room):
    for number in range(PAUSES_MAX):
        assert room.pause("", f"d{number}.test").changed
    assert "already" in room.pause("", "more.test").trouble
    assert room.pause("", "d1.test") == RelayingPaused(1, False)
    assert room.pause("", "d0.test", False).changed and room.pause("", "more.test").changed


@pytest.mark.parametrize("name", ["\u337f" * 256, "a" * 256])
def test_a_name_that_is_longer_in_its_normal_form_can_be_paused_and_listed(room, name):
    assert room.pause("", name).changed
    (row,) = msgspec.convert(room.listed(), list[tuple[Word, Word]])
    assert room.pause("", name, False).changed and len(row[1]) == 256


ORDERS = st.tuples(st.sampled_from(["", OURS]), st.sampled_from(["a.test", "A.test", "provider", ""]), st.booleans())


@given(st.lists(ORDERS, max_size=30))
def test_what_is_listed_is_what_was_told(orders):
    """A destination is paused at the scheduler if, and only if, a listed name without a source has it."""
    room = Room()
    for order in orders:
        room.pause(*order)
    told = {imsg.destination: imsg.paused for imsg in room.scheduler.sent}
    names = {name for source, name in room.listed() if not source}
    wanted = {number for name in names for number in room.numbers.find(name)}
    assert {number for number, paused in told.items() if paused} == wanted
    for peer in room.dispatchers:
        of_source = {imsg.destination: imsg.paused for imsg in peer.sent if isinstance(imsg, PauseSource)}
        assert of_source.get(0, False) is ((OURS, "") in room.listed())
