"""What a dispatcher could still bring about of relayed mail if it were taken over: what the configuration gives to it.

We speak in its place, through its own ends of its channels, to lookup and to queue.
"""

import os
import re
import select
import time
from pathlib import Path

import pytest

from smtpd.envelope import Outcome, RelayResult
from smtpd.imsg import (
    Begin,
    ContentFileFetched,
    DelayDestination,
    FetchContent,
    FindRelayCredentials,
    FindRoute,
    MessageIdsReserved,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RelayMessage,
    RelayTried,
    ResumeDestination,
    ReturnRecipients,
    RouteFound,
    RouteNotFound,
)
from tests.live.conftest import until
from tests.live.recipient import envelopes

CONF = """
listen on 127.0.0.1 port {{port}}
table hosts {{{{ "smtp+tls://amy@127.0.0.1:{dead}", "smtp://127.0.0.2:{dead}" }}}}
table domains {{{{ "far.test" = "smtps://bob@127.0.0.3:{dead}", "near.test" = "smtp://127.0.0.4:{dead}" }}}}
table secrets {{{{ "amy" = "amy:secret-of-amy", "bob" = "bob:secret-of-bob", "eve" = "eve:secret-of-eve" }}}}
table others {{{{ "smtp://127.0.0.5:{dead}" }}}}
action "list" relay host <hosts> auth <secrets>
action "map" relay domain <domains> auth <secrets>
action "other" relay host <others>
action "many" relay host {{{{ {many} }}}}
action "mx" relay
match from any for domain "mx.test" action "mx"
match from any for any action "map"
"""
DEAD = 9  # nothing listens there
MANY = ", ".join(f'"{number}.{".".join(["long" * 15] * 3)}.test"' for number in range(34))  # a long answer
MEMORY = 48 * 1024 * 1024  # bytes that a process may take more, whatever it is asked
FLOOD = 12_000  # imsgs
SILENT = 1.0  # seconds in which a process has done nothing
GIVEN = 20  # messages
OURS = (Begin, MessageIdsReserved)  # that the dispatcher had still to read
LARGE = b"x" * 70 + b"\r\n"


@pytest.fixture
def dispatcher(impostor, make_daemon):
    """In the place of one that is stopped."""
    return impostor("dispatcher", daemon=make_daemon(CONF.format(dead=DEAD, many=MANY)))


def answers(dispatcher, peer, *questions):
    """The answer to each, in their order."""
    dispatcher.stop()
    dispatcher.say(peer, *questions)
    heard = receive(dispatcher, peer, len(questions))
    return [imsg for imsg, _ in sorted(heard, key=lambda one: one[0].request)]


def receive(dispatcher, peer, count):
    """So many imsgs, with their descriptors."""
    channel, heard = dispatcher.channel_to(peer), []
    while len(heard) < count:
        assert select.select([channel.fileno()], [], [], 60)[0], f"{peer} says nothing"
        heard += [one for one in channel.receive() if not isinstance(one[0], OURS)]
    assert len(heard) == count, heard
    return heard


def memory(daemon, role):
    """Bytes."""
    status = Path(f"/proc/{daemon.pids()[role]}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def ticks(daemon, role):
    """Of processor time that a process has used."""
    return Path(f"/proc/{daemon.pids()[role]}/stat").read_text().rpartition(")")[2].split()[11:13]


# -- lookup: credentials and routes ----------------------------------------------------------------------------

RIGHT = [
    (("list", "", "127.0.0.1", DEAD), ("amy", "secret-of-amy")),
    (("list", "any.test", "127.0.0.1", DEAD), ("amy", "secret-of-amy")),
    (("map", "far.test", "127.0.0.3", DEAD), ("bob", "secret-of-bob")),
    (("map", "FAR.test.", "127.0.0.3", DEAD), ("bob", "secret-of-bob")),
]
WRONG = [
    ("list", "", "127.0.0.2", DEAD),  # a smarthost without a login
    ("list", "", "127.0.0.1", 25),
    ("list", "", "127.0.0.1", 465),
    ("list", "", "127.0.0.3", DEAD),  # of another action
    ("list", "", "evil.test", DEAD),
    ("list", "", "amy@127.0.0.1", DEAD),
    ("list", "", "[127.0.0.1]", DEAD),
    ("list", "", "", DEAD),
    ("list", "", "amy", DEAD),  # a label is no host
    ("list", "", "eve", DEAD),
    ("map", "near.test", "127.0.0.3", DEAD),  # the host of another domain
    ("map", "near.test", "127.0.0.4", DEAD),
    ("map", "", "127.0.0.3", DEAD),
    ("map", "evil.test", "127.0.0.3", DEAD),
    ("map", "far.test", "127.0.0.1", DEAD),
    ("map", "eve", "127.0.0.3", DEAD),
    ("other", "", "127.0.0.1", DEAD),
    ("other", "", "127.0.0.5", DEAD),
    ("mx", "far.test", "127.0.0.3", DEAD),
    ("secrets", "eve", "127.0.0.1", DEAD),
    ("LIST", "", "127.0.0.1", DEAD),
    ("", "", "127.0.0.1", DEAD),
    ("gone", "", "127.0.0.1", DEAD),
]


def test_credentials_only_for_smarthosts_that_the_configuration_names_and_as_it_names_them(dispatcher):
    asked = [words for words, _ in RIGHT]
    given = answers(dispatcher, "lookup", *(FindRelayCredentials(n, *words) for n, words in enumerate(asked, 1)))
    assert given == [RelayCredentialsFound(n, *secret) for n, (_, secret) in enumerate(RIGHT, 1)]
    refused = answers(dispatcher, "lookup", *(FindRelayCredentials(n, *words) for n, words in enumerate(WRONG, 1)))
    for words, answer in zip(WRONG, refused, strict=True):
        assert isinstance(answer, RelayCredentialsNotFound) and "secret-of" not in answer.reason, (words, answer)
    assert dispatcher.daemon.running() and "secret-of" not in dispatcher.daemon.log


def test_a_route_has_no_labels(dispatcher):
    actions = ("list", "map", "other", "gone", "secrets")
    found = answers(dispatcher, "lookup", *(FindRoute(n, action, "far.test") for n, action in enumerate(actions, 1)))
    assert [type(answer) for answer in found] == [RouteFound] * 3 + [RouteNotFound] * 2
    assert all(label not in str(answer) for answer in found for label in ("amy", "bob", "eve"))


def test_questions_whose_answers_are_not_read_fill_no_memory(dispatcher):
    """lookup reads no more of them, and works for the others; when the answers are read, it goes on."""
    dispatcher.stop()
    daemon, channel = dispatcher.daemon, dispatcher.channel_to("lookup")
    before = memory(daemon, "lookup")
    for number in range(1, FLOOD + 1):
        channel.send(FindRoute(number, "many", "x" * 250))
    used, idle_since = None, time.monotonic()
    while time.monotonic() < idle_since + SILENT:
        select.select([], [channel.fileno()], [], 0.1)
        channel.flush()
        if used != (used := (channel.bytes_waiting, ticks(daemon, "lookup"))):
            idle_since = time.monotonic()
    assert memory(daemon, "lookup") - before < MEMORY
    assert daemon.smtpctl("update", "table", "hosts") and daemon.running()
    heard = []
    while len(heard) < FLOOD:
        channel.flush()
        select.select([channel.fileno()], [], [], 0.2)
        heard += [answer.request for answer, _ in channel.receive()]
    assert sorted(heard) == list(range(1, FLOOD + 1)) and daemon.running()


# -- queue: messages that were given to it, and others -------------------------------------------------------------


def given(dispatcher, count=GIVEN, content=b"Subject: x\r\n\r\nx\r\n"):
    """So many messages, which the dispatcher has been told of."""
    daemon = dispatcher.daemon
    daemon.smtpctl("pause", "mta")
    for number in range(count):
        daemon.send(f"bob{number}@domain{number % 4}.test", content)
    dispatcher.stop()
    daemon.smtpctl("resume", "mta")
    told = [imsg for imsg, _ in receive(dispatcher, "queue", count)]
    assert all(isinstance(imsg, RelayMessage) for imsg in told)
    return told


def envelope_of(told):
    return told.recipients[0].envelope


def ok(told):
    return RelayTried(told.attempt, [RelayResult(envelope_of(told), Outcome.DELIVERED, "250 ok", 250)])


IMPOSSIBLE = {
    "results of an attempt that there is not": lambda a, b: RelayTried(99, ok(a).results),
    "results of another attempt's envelope": lambda a, b: RelayTried(a.attempt, ok(b).results),
    "results of an envelope that there is not": lambda a, b: RelayTried(
        a.attempt, [RelayResult(1 << 32 | 1, Outcome.DELIVERED, "250 ok", 250)]
    ),
    "content of an attempt that there is not": lambda a, b: FetchContent(1, 99),
    "an outcome that is no result": lambda a, b: RelayTried(
        a.attempt, [RelayResult(envelope_of(a), Outcome.STALE, "", 0)]
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_was_not_given_is_the_end(dispatcher, what):
    """Nothing of it has an effect: the mail is there after the next start."""
    one, other = given(dispatcher, 2)
    dispatcher.say("queue", IMPOSSIBLE[what](one, other))
    daemon = dispatcher.daemon
    assert daemon.ended() == 1
    assert re.search(r"^warn: fatal: dispatcher 0 ", daemon.log, re.MULTILINE), daemon.log
    assert not re.search(r"result=.Ok", daemon.log)


def test_what_is_said_after_the_result_is_the_end(dispatcher):
    """Results, returns and content that come twice: tests/queue/test_relay_carrier.py."""
    (told,) = given(dispatcher, 1)
    dispatcher.say("queue", ok(told), FetchContent(1, told.attempt))
    assert dispatcher.daemon.ended() == 1
    assert "fatal: dispatcher 0 speaks of attempt" in dispatcher.daemon.log


def test_what_it_may_say_however_often_fills_no_memory_and_costs_no_mail(dispatcher):
    told = given(dispatcher, content=b"Subject: large\r\n\r\n" + LARGE * 500)
    daemon = dispatcher.daemon
    before = {role: memory(daemon, role) for role in ("queue", "scheduler")}
    mine = [imsg.destination for imsg in told]
    for number in range(FLOOD):
        destination = mine[number % len(mine)] if number % 3 else number + 1
        dispatcher.channel_to("queue").send(DelayDestination(destination, 86_400 - number % 80_000, "x" * 200))
        dispatcher.channel_to("queue").send(ResumeDestination(destination))
    assert dispatcher.channel_to("queue").flush_within(60)
    for imsg in told:  # as often as it likes, one after the other
        for _ in range(20):
            dispatcher.say("queue", FetchContent(1, imsg.attempt))
            ((answer, descriptor),) = receive(dispatcher, "queue", 1)
            assert isinstance(answer, ContentFileFetched)
            assert os.fstat(descriptor).st_size == imsg.size
            with pytest.raises(OSError):
                os.write(descriptor, b"x")
            os.close(descriptor)
    grown = {role: memory(daemon, role) - before[role] for role in before}
    assert max(grown.values()) < MEMORY, grown
    half = len(told) // 2
    dispatcher.say("queue", *map(ok, told[:half]))
    dispatcher.say("queue", *(ReturnRecipients(imsg.attempt, [envelope_of(imsg)]) for imsg in told[half:]))
    again = [imsg for imsg, _ in receive(dispatcher, "queue", len(told) - half)]
    assert sorted(map(envelope_of, again)) == sorted(map(envelope_of, told[half:]))
    dispatcher.say("queue", *map(ok, again))
    until(lambda: not envelopes(daemon), what="an empty queue")
    assert daemon.running()
