"""Random steps of the model, many of them: `python -m tests.queue.model.driver --steps 1000000 [--seed N]`.

What breaks is shortened, and printed as a list of steps for tests/queue/model/found.json.
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time

from tests.queue.model.world import WEIGHTS, World

RUN = 600  # steps of one world
NUMBER = 1 << 20
MEMORY = "/dev/shm"


def steps_of(seed, count):
    source = random.Random(seed)
    names = source.choices([*WEIGHTS], [*WEIGHTS.values()], k=count)
    return [(name, source.randrange(NUMBER)) for name in names] + [("heal", 0)]


def play(steps):
    """What was wrong with it, or None; and the world."""
    with tempfile.TemporaryDirectory(prefix="smtpd-model-", dir=MEMORY if os.path.isdir(MEMORY) else None) as base:
        world = World(base)
        try:
            for name, number in steps:
                world.step(name, number)
        except Exception as error:
            return error, world
        finally:
            world.close()
    return None, world


def kind_of(error):
    """What is wrong, without the numbers."""
    return None if error is None else (type(error), re.sub(r"[0-9a-fx]{6,}|\d+|\[.*", "", str(error)))


def shorten(steps):
    """Take out what is not needed for the same fault, and make numbers smaller."""
    fault, before = kind_of(play(steps)[0]), None

    def fails(fewer):
        return kind_of(play(fewer)[0]) == fault

    while steps != before:
        before, size = steps, len(steps) // 2
        while size:
            at = 0
            while at < len(steps):
                fewer = steps[:at] + steps[at + size :]
                if fails(fewer):
                    steps = fewer
                else:
                    at += size
            size //= 2
    for at, (name, number) in enumerate(steps):
        for smaller in (*range(8), number % 24, number % 256):
            other = [*steps[:at], (name, smaller), *steps[at + 1 :]]
            if smaller < number and fails(other):
                steps = other
                break
    return steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    began, done, doubles, delivered, lives, seed = time.monotonic(), 0, 0, 0, 0, options.seed
    while done < options.steps and time.monotonic() - began < options.seconds:
        steps = steps_of(seed, RUN)
        error, world = play(steps)
        if error is not None:
            steps = shorten(steps[: world.steps])
            print(f"seed {seed}: {type(error).__name__}: {error}")
            print(json.dumps(steps))
            raise error
        done, seed = done + world.steps, seed + 1
        doubles, lives = doubles + world.ledger.doubles, lives + world._lives
        delivered += world.ledger.count.total()
    took = time.monotonic() - began
    print(f"{done} steps, seeds {options.seed} to {seed - 1}, {done / took:.0f} a second")
    print(f"{delivered} deliveries, {doubles} excused doubles, {lives} crashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
