"""Names and ports that no other process of the tests has, of this run or of any other.

MARK is part of the names of users, namespaces and sockets.  It is not the pid: runs in two containers have the same
ones, and so has a run after one that was killed and left its users.
"""

import contextlib
import itertools
import random
import secrets
import socket

MARK = secrets.token_hex(3)

# Ports of 127.0.0.1 below those that the kernel gives to clients: one of these could be a client's by the time that a
# server asks for it.  Each process takes a block for itself, and holds a name that says so for as long as it lives: a
# machine with 100 processors runs 200 at a time.
FIRST, BLOCK, BLOCKS = 10_000, 40, 550


def _take_block():
    for number in random.sample(range(BLOCKS), BLOCKS):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            name.bind(f"\0smtpd-tests-ports-{number}")
            return name, itertools.cycle(range(FIRST + number * BLOCK, FIRST + (number + 1) * BLOCK))
        name.close()
    raise RuntimeError("all ports for tests are taken")


_block = None


def free_port():
    """A port that nothing on this machine listens on."""
    global _block
    _block = _block or _take_block()
    while True:
        port = next(_block[1])
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
