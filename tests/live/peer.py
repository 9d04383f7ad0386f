"""Mail programs of others, run once, to their end (tests/peers.sh installs them)."""

import shutil
import subprocess

import pytest


def skip_without(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not here (tests/peers.sh)")


def run(*words, **options):
    """Exit status, and all that it said."""
    skip_without(words[0])
    options = {"input": b"", "timeout": 60} | options
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    return done.returncode, done.stdout.decode(errors="replace")
