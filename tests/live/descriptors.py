"""What another process has open."""

import contextlib
import os
import pwd
import subprocess


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


def limit_descriptors(user, pid, soft=None):
    """Change the limit of a running process of that user, whose own it has to be without CAP_SYS_RESOURCE.  What it
    was before."""
    entry = pwd.getpwnam(user)
    order = [
        "setpriv",
        f"--reuid={entry.pw_uid}",
        f"--regid={entry.pw_gid}",
        "--clear-groups",
        "prlimit",
        f"--pid={pid}",
    ]
    shown = subprocess.run(
        [*order, "--nofile", "--raw", "--noheadings", "--output=SOFT"], check=True, capture_output=True, text=True
    )
    if soft is not None:
        subprocess.run([*order, f"--nofile={soft}:"], check=True)
    return int(shown.stdout)
