"""Each process of the daemon dies at each of its durable steps: what was accepted is delivered, into a Maildir once.

In the suite some points of each process.  All of them, some hundred:

    SMTPD_CRASH_POINTS=all pytest -s tests/live/test_crash_points.py        "queue 7": of queue, from the seventh on
"""

import os

import pytest

from tests.live.crashes import ROLES, Trial

WANTED = os.environ.get("SMTPD_CRASH_POINTS", "").split()
ALL = [] if not WANTED else [role for role in ROLES if WANTED[0] in ("all", role)]
FIRST = int(WANTED[1]) if WANTED[1:] else 1
SAMPLE = [("queue", 3), ("queue", 14), ("agent", 16), ("agent", 40), ("dispatcher", 8)]


@pytest.fixture(scope="module")
def trial(ground, users):
    amy, bob = users.make("smtpd-amy"), users.make("smtpd-bob")
    made = Trial(ground, bob, amy, users.home(bob), users.home(amy))
    yield made
    made.close()


@pytest.mark.skipif(ALL, reason="all points are tried")
@pytest.mark.parametrize("role, number", SAMPLE)
def test_a_process_that_dies_at_a_step_loses_nothing(trial, role, number):
    assert trial.crash(role, number)


@pytest.mark.skipif(not ALL, reason="takes half an hour: SMTPD_CRASH_POINTS=all")
@pytest.mark.parametrize("role", ALL or ROLES)
def test_a_process_that_dies_at_any_step_loses_nothing(trial, role):
    number, passed = FIRST, 0
    while passed < 3:  # the number of steps differs a little
        name = trial.crash(role, number)
        passed = 0 if name else passed + 1
        print(f"{role} {number}: {name or 'no such step'}", flush=True)
        number += 1
    print(f"{role}: {number - FIRST} points, {trial.lives} starts, doubles {dict(trial.doubles)}", flush=True)
