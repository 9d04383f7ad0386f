"""Words before a command that runs in namespaces of its own, and changes nothing of the system's."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "unshare.sh"


def unshare(*more):
    """Mounts, and what else unshare(1) is told by `more`."""
    command = ["sh", str(SCRIPT), *more]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no mounts of our own can be made here: {tried.stderr.strip()}")
    return command
