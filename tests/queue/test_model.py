"""Accepted mail is waiting, held, delivered or removed, whatever happens in whatever order: the model in model/.

A million steps:   nice python -m tests.queue.model.driver --steps 1000000 --seed 1
"""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.queue.model.driver import NUMBER, RUN, play, steps_of
from tests.queue.model.world import WEIGHTS, World

FOUND = json.loads((Path(__file__).parent / "model/found.json").read_text())
RUNS = 8


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses the steps, and shortens what breaks a promise."""

    def __init__(self):
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="smtpd-model-")
        self._world = World(self._directory.name)

    def teardown(self):
        try:
            self._world.step("heal")
        finally:
            self._world.close()
            self._directory.cleanup()


def _rule(name):
    def step(self, number):
        self._world.step(name, number)

    step.__name__ = name
    return rule(number=st.integers(0, NUMBER - 1))(step)


for _name in WEIGHTS:
    setattr(Machine, _name, _rule(_name))

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_steps_break_no_promise(seed):
    error, _ = play(steps_of(seed, RUN))
    assert error is None


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_not_found_again(name):
    error, _ = play(FOUND[name])
    assert error is None
