"""Words before a command that runs in namespaces of its own, and changes nothing of the system's."""

import subprocess

import pytest


def unshare(*more):
    """Mounts, and what else unshare(1) is told by `more`.  In a chroot whose / is no mount point it cannot be done."""
    command = ["unshare", "--mount", *more]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no mounts of our own can be made here: {tried.stderr.strip()}")
    return command
