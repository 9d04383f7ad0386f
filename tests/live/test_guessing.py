"""Who guesses at passwords waits, and is not listened to any more; who does not is let in all the same."""

import time

import pytest

from tests.live import submission
from tests.live.conftest import Daemon, started
from tests.live.login import LATER, NO, OK, all_at_once, attempt, connect, elsewhere, plain
from tests.live.network import Network
from tests.live.recipient import logged
from tests.live.submission import assert_unsaid, hashed

PORT = 2500
US, KNOWN, OTHER, *GUESSERS = (f"198.51.100.{number}" for number in range(1, 7))
ASCII = "correct-horse-battery"
CONF = """
smtp limit auth-failure-rate 2
listen on 0.0.0.0 port {port} smtps pki mx.here.test auth {{{{ {entries} }}}}
action "local" maildir
match from auth for any action "local"
"""


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        network.add("eth1", *(f"{address}/24" for address in (US, KNOWN, OTHER, *GUESSERS)))
        yield network


@pytest.fixture(scope="module")
def daemon(ground, users):
    entries = ", ".join(f'"{user}" = "{hashed(ASCII)}"' for user in ("amy", "bob", "carol"))
    daemon = Daemon(ground, submission.PKI + CONF.format(port=PORT, entries=entries), port=PORT)
    submission.certify(daemon)
    with started(daemon):
        yield daemon
        assert_unsaid(daemon.log, ASCII)


def test_an_address_that_has_failed_too_often_is_not_listened_to(daemon):
    """With no password, of nobody; others are."""
    guesses = [(PORT, f"guess{number}", "x", plain, GUESSERS[0], US) for number in (1, 2)]
    answers = all_at_once(guesses)
    assert [answer for answer, _ in answers] == [NO, NO]
    assert max(seconds for _, seconds in answers) >= 2  # the second one later
    assert attempt(PORT, "amy", ASCII, plain, GUESSERS[0], US) == LATER
    assert attempt(PORT, "amy", ASCII, plain, OTHER, US) == OK
    assert daemon.statistics()["lookup.login.counted-out"] == 1
    assert logged(daemon, f"login from {GUESSERS[0]} not checked: too many failures")


def test_a_user_under_guessing_may_log_in_from_a_known_address(daemon):
    """And by way of programs of this host, where they are somebody else to us."""
    assert attempt(PORT, "bob", ASCII, plain, KNOWN, US) == OK
    guesses = [(PORT, name, "x", plain, source, US) for name, source in (("bob", GUESSERS[1]), ("BOB", GUESSERS[2]))]
    assert [answer for answer, _ in all_at_once(guesses)] == [NO, NO]
    assert attempt(PORT, "bob", ASCII, plain, OTHER, US) == LATER
    assert attempt(PORT, "bob", ASCII, plain, KNOWN, US) == OK
    assert attempt(PORT, "bob", ASCII) == OK
    assert attempt(PORT, "carol", ASCII, plain, OTHER, US) == OK


def test_a_user_has_one_chance_after_the_other_and_each_takes_longer(daemon):
    source = elsewhere()
    with connect(PORT, source) as client:
        client.ehlo()
        for least in (1, 2):
            begun = time.monotonic()
            assert plain(client, "nobody-at-all", ASCII) == NO
            assert time.monotonic() - begun >= least
