"""What another process has open."""

import contextlib
import os


def descriptors(pid):
    """Number -> what it leads to, as `ls -l /proc/PID/fd` shows it; without those that are closed meanwhile."""
    held = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            held[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return held


def sockets(pid):
    """Number -> inode of each socket."""
    return {number: int(link[8:-1]) for number, link in descriptors(pid).items() if link.startswith("socket:[")}
