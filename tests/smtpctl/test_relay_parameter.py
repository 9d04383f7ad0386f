"""Addresses, routes and destinations as they are typed: anything is a question that control takes, or an error."""

import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpctl.__main__ import Options, Usage
from smtpctl.command import COMMANDS, DONE, FAILED
from smtpctl.command_parser import PARAMETERS, UnknownCommand, find_command
from smtpctl.connection import ControlError
from smtpd.config.check.relay_tables import canonical
from smtpd.envelope import Text
from smtpd.imsg import (
    TABLE,
    DestinationsFound,
    EnvelopesListed,
    EnvelopesRemoved,
    EnvelopesScheduled,
    FindDestinations,
    ListEnvelopes,
    ListRoutes,
    PauseRelaying,
    RelayingPaused,
    RemoveEnvelopes,
    ResumeRoute,
    RouteResumed,
    RoutesListed,
    ScheduleEnvelopes,
)
from smtpd.relay_entry import KEY_MAX

ADDRESSES = st.ip_addresses().flatmap(
    lambda address: st.sampled_from([str(address), address.exploded, str(address).upper()])
)
WRONG_ADDRESSES = ADDRESSES.flatmap(
    lambda text: st.sampled_from([f"[{text}]", f"{text}%lo", f"{text}.", f" {text}", f"{text}\n", f"IPv6:{text}"])
)
TYPED = st.text(max_size=300) | st.text(st.characters(codec="ascii"), max_size=50)
NAMES = TYPED | st.from_regex(r"[a-zA-Z0-9.-]{1,80}", fullmatch=True) | st.just("*")
NUMBERS = st.integers(-1, 2**70).map(str) | st.from_regex(r"\d{1,25}", fullmatch=True)
LINE = re.compile(r"[^\x00-\x1f\x7f]*\n")


class Control:
    """Takes what control takes, and answers it."""

    def __init__(self, changed=True, trouble="", dispatchers=2):
        self.changed, self.trouble, self.dispatchers = changed, trouble, dispatchers
        self.asked = []

    def ask(self, imsg):
        payload = msgspec.msgpack.encode(imsg)
        assert len(payload) <= TABLE.by_class[type(imsg)].limit
        assert msgspec.msgpack.decode(payload, type=type(imsg)) == imsg
        self.asked.append(imsg)
        match imsg:
            case PauseRelaying():
                return RelayingPaused(1, self.changed and not self.trouble, self.trouble)
            case ListRoutes():
                return RoutesListed(1, [], False, self.dispatchers)
            case ResumeRoute():
                assert 0 <= imsg.dispatcher < self.dispatchers
                return RouteResumed(1, self.changed)
            case FindDestinations():
                return DestinationsFound(1, [4] if self.changed else [])
            case ScheduleEnvelopes():
                return EnvelopesScheduled(1, 0)
            case RemoveEnvelopes():
                return EnvelopesRemoved(1, 3)
            case ListEnvelopes():
                return EnvelopesListed(1, [], 0)
        raise AssertionError(imsg)


@pytest.fixture(scope="module")
def typed():
    """Type words: None for no command; otherwise the exit status, as smtpctl/__main__.py has it."""

    def run(control, *words):
        try:
            options = Options(words)
            command, parameters = find_command(COMMANDS, options.words)
        except (UnknownCommand, Usage):
            return None
        try:
            return command.load()(control, parameters, options.json)
        except ControlError as error:
            assert LINE.fullmatch(f"{error}\n")
            return FAILED

    return run


def takes(name, word):
    return not word.startswith("-") and PARAMETERS[name](word)


@given(verb=st.sampled_from(["pause", "resume"]), source=ADDRESSES | WRONG_ADDRESSES | NAMES, name=NAMES | ADDRESSES)
@example("pause", "*", "*")
@example("pause", "::ffff:192.0.2.1", "there.test")
@example("pause", "::192.0.2.1", "there.test")
@example("resume", "192.0.2.010", "there.test")
@example("pause", "\udcff", "caf\udce9")
@example("pause", "192.0.2.1\x00", "*")
@example("pause", "*", "ß" * 256)
@example("pause", "*", "\U0001f600" * 256)
@example("resume", "fe80::1%lo", "*")
def test_an_address_is_asked_for_as_the_configuration_has_it(typed, verb, source, name):
    control = Control()
    status = typed(control, verb, "mta", "from", source, "for", name)
    if takes("<address>", source) and takes("<destination>", name):
        address = "" if source == "*" else canonical(source)
        assert status == DONE and bool(address) == (source != "*")
        assert control.asked == [PauseRelaying(1, address, "" if name == "*" else name, verb == "pause")]
    else:
        assert status is None and not control.asked


@given(source=ADDRESSES)
def test_every_address_that_a_source_can_have_is_taken(typed, source):
    assert typed(Control(), "pause", "mta", "from", source, "for", "*") == DONE


@given(source=WRONG_ADDRESSES)
def test_what_is_no_bare_address_is_no_command(typed, source):
    control = Control()
    assert typed(control, "pause", "mta", "from", source, "for", "there.test") is None and not control.asked


@given(number=NUMBERS | TYPED, dispatchers=st.integers(1, 64), changed=st.booleans())
@example("0", 1, True)
@example(str(KEY_MAX), 1, True)
@example(str(KEY_MAX + 1), 1, True)
@example("9" * 20, 64, True)
@example("٣", 1, True)
@example("²", 1, True)
@example("+1", 1, True)
@example("1_0", 1, True)
@example("0x10", 1, True)
def test_a_route_is_one_of_one_dispatcher_or_there_is_none(typed, number, dispatchers, changed):
    control = Control(changed=changed, dispatchers=dispatchers)
    status = typed(control, "resume", "route", number)
    if not re.fullmatch("[0-9]{1,20}", number):
        assert status is None and not control.asked
        return
    route, dispatcher = int(number) // dispatchers, int(number) % dispatchers
    asked = [ResumeRoute(1, dispatcher, route)] if route <= KEY_MAX else []
    assert control.asked == [ListRoutes(1, 0, KEY_MAX), *asked]
    assert status == (DONE if asked and changed else FAILED)


@given(
    verb=st.sampled_from(["pause", "resume", "schedule", "remove"]),
    name=NAMES,
    changed=st.booleans(),
    trouble=st.just("") | st.text(max_size=1024).filter(lambda text: re.fullmatch(LINE, text + "\n") is not None),
)
@example("pause", "*", True, "")
@example("remove", ".", True, "")
@example("schedule", "-", True, "")
def test_a_destination_is_asked_for_by_the_name_that_was_typed(typed, verb, name, changed, trouble):
    control = Control(changed, msgspec.convert(trouble, Text))
    status = typed(control, verb, "destination", name)
    if not takes("<domain>", name):
        assert status is None and not control.asked
    elif verb in ("pause", "resume"):
        assert control.asked == [PauseRelaying(1, "", name, verb == "pause")]
        assert status == (DONE if changed and not trouble else FAILED)
    else:
        assert control.asked[0] == FindDestinations(1, name)
        assert status == (DONE if changed else FAILED)


@given(
    words=st.sampled_from(["relays", "routes", "hosts", "hoststats", "mta paused"]),
    more=TYPED | NAMES | ADDRESSES | NUMBERS,
)
def test_lists_of_relaying_take_no_parameter(typed, words, more):
    control = Control()
    if not more.startswith("-"):
        assert typed(control, "show", *words.split(), more) is None and not control.asked


@given(words=st.lists(NAMES | ADDRESSES | NUMBERS | st.sampled_from(["pause", "resume", "mta", "from", "for"])))
def test_the_wrong_word_is_said_in_one_line(words):
    try:
        find_command(COMMANDS, ["resume", "mta", *words])
    except UnknownCommand as unclear:
        assert LINE.fullmatch(f"{unclear}\n")
