"""A network of our own: what has addresses that are not loopback, interfaces that come and go, nobody else's ports.

    with Network() as network:            everything in this thread is in there: sockets, daemons, other programs
        network.add("eth1", "198.51.100.1/24", "198.51.100.7/24")

A client binds one of the addresses, and is then somebody else than a client with another one.
"""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from tests.live import peer
from tests.unique import MARK

HERE = Path("/proc/thread-self/ns/net")
_numbers = itertools.count(1)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Network:
    def __init__(self):
        self.name = f"smtpd-{MARK}-{next(_numbers)}"

    def __enter__(self):
        peer.skip_without("ip")
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"no network of our own can be made here: {made.stderr.strip()}")
        self._outside = os.open(HERE, os.O_RDONLY)
        _enter(f"/run/netns/{self.name}")
        ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        os.setns(self._outside, os.CLONE_NEWNET)
        os.close(self._outside)
        ip("netns", "delete", self.name)

    def add(self, interface, *addresses):
        """An interface with them, which is up.  Nobody is at the other end of its cable."""
        end = f"{interface}-end"
        ip("link", "add", interface, "type", "veth", "peer", "name", end)
        for name in (interface, end):
            ip("link", "set", name, "up")
        for address in addresses:
            self.give(interface, address)

    def give(self, interface, address):
        """Of IPv6 at once, without looking for others who have it."""
        ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))


def _enter(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.setns(descriptor, os.CLONE_NEWNET)
    finally:
        os.close(descriptor)
