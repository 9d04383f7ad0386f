"""The clock of the scheduler cannot be set."""

from smtpd.scheduler.clock import Clock


class Machine:
    """Both clocks of a machine."""

    def __init__(self):
        self.wall, self.steady = 1_800_000_000.75, 12.5

    def passes(self, seconds):
        self.wall += seconds
        self.steady += seconds

    def clock(self):
        return Clock(lambda: self.wall, lambda: self.steady)


def test_it_begins_as_the_wall_clock_and_goes_on():
    machine = Machine()
    clock = machine.clock()
    assert (clock.now(), clock.ahead()) == (1_800_000_000, 0)
    machine.passes(10)
    assert (clock.now(), clock.ahead()) == (1_800_000_010, 0)


def test_a_step_is_told_and_not_followed():
    machine = Machine()
    clock = machine.clock()
    for step in (-86400 * 700, 86400 * 1400, 0.3):
        machine.wall += step
        machine.passes(1)
    assert (clock.now(), clock.ahead()) == (1_800_000_003, 86400 * 700)


def test_the_real_ones_agree():
    assert Clock().ahead() == 0
