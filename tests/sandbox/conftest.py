"""A sandbox cannot be left, so what enters one is a fresh interpreter."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def fresh_python():
    """Runs code in a fresh interpreter and returns its lines; a signal or an exception of it is the test's failure."""

    def run(code: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-I", "-P", "-c", textwrap.dedent(code), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run
