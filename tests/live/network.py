"""A network of our own: what has addresses that are not loopback, interfaces that come and go, nobody else's ports.

    with Network() as network:            everything in this thread is in there: sockets, daemons, other programs
        network.add("eth1", "198.51.100.1/24", "198.51.100.7/24")

A client binds one of the addresses, and is then somebody else than a client with another one.

        network.connect("eth0", "192.0.2.1/24", "192.0.2.25/24")    the second one is no address of this host
        with network.elsewhere():                                   what is made in here is at the other end
"""

import contextlib
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
        self.far = f"{self.name}-far"
        self._is_connected = False

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
        if self._is_connected:
            ip("netns", "delete", self.far)

    def add(self, interface, *addresses):
        """An interface with them, which is up.  Nobody is at the other end of its cable."""
        end = f"{interface}-end"
        ip("link", "add", interface, "type", "veth", "peer", "name", end)
        for name in (interface, end):
            ip("link", "set", name, "up")
        for address in addresses:
            self.give(interface, address)

    def connect(self, interface, address, *others):
        """An interface with that address, and other hosts with theirs at the other end of its cable."""
        ip("netns", "add", self.far)
        self._is_connected = True
        ip("link", "add", interface, "type", "veth", "peer", "name", interface, "netns", self.far)
        ip("link", "set", interface, "up")
        self.give(interface, address)
        with self.elsewhere():
            for name in ("lo", interface):
                ip("link", "set", name, "up")
            for other in others:
                self.give(interface, other)

    @contextlib.contextmanager
    def elsewhere(self):
        """This thread, and threads and programs that it starts, are at the other hosts."""
        here = os.open(HERE, os.O_RDONLY)
        _enter(f"/run/netns/{self.far}")
        try:
            yield
        finally:
            os.setns(here, os.CLONE_NEWNET)
            os.close(here)

    def give(self, interface, address):
        """Of IPv6 at once, without looking for others who have it."""
        ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))


def _enter(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.setns(descriptor, os.CLONE_NEWNET)
    finally:
        os.close(descriptor)
