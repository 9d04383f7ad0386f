"""Sits in the place of a child: says on its channels, through its own ends of them, what it would say if taken over."""

import ctypes
import os
import select
import signal
import socket
import struct

from smtpd.imsg import TABLE, Begin
from smtpd.ipc.channel import Channel
from tests.live.descriptors import sockets

WAIT_MAX = 60  # seconds


class Impostor:
    """Of the process `role`.  It is stopped as soon as it could hear an answer that is ours."""

    def __init__(self, daemon, role):
        self.daemon, self.role, self.pid = daemon, role, daemon.pids()[role]
        self.descriptors = []
        self._channels = {}

    def channel_to(self, peer):
        if peer not in self._channels:
            number = find_descriptor(self.pid, self.daemon.pids()[peer])
            sock = socket.socket(fileno=take_descriptor(self.pid, number))
            self._channels[peer] = Channel(sock, TABLE, self.role, peer)
        return self._channels[peer]

    @property
    def channel(self):
        return self.channel_to("parent")

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)

    def say(self, peer, *imsgs):
        for imsg in imsgs:
            self.channel_to(peer).send(imsg)
        self.channel_to(peer).flush()

    def hear(self, peer):
        """The next imsg from that peer; a descriptor that comes with it is the last one of ours."""
        channel = self.channel_to(peer)
        while True:
            assert select.select([channel.fileno()], [], [], WAIT_MAX)[0], f"{peer} says nothing"
            heard = channel.receive()
            self.descriptors += [descriptor for _, descriptor in heard if descriptor is not None]
            imsgs = [imsg for imsg, _ in heard if not isinstance(imsg, Begin)]  # it may have been stopped before that
            if imsgs:
                assert len(imsgs) == 1, imsgs
                return imsgs[0]

    def ask(self, imsg):
        """The parent's answer, which the child itself is not to hear."""
        self.stop()
        self.say("parent", imsg)
        return self.hear("parent")

    def close(self):
        for channel in self._channels.values():
            channel.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.daemon.kill()


# -- sockets of other processes -------------------------------------------------------------


def take_descriptor(pid, number):
    """A descriptor of another process becomes ours as well."""
    PIDFD_GETFD = 438  # asm-generic/unistd.h
    process = os.pidfd_open(pid)
    taken = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, number, 0)
    os.close(process)
    if taken < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return taken


def find_descriptor(pid, other):
    """Under which number `pid` has the socket whose other end `other` has."""
    peers, theirs = peer_inodes(), sockets(other).values()
    (number,) = [number for number, inode in sockets(pid).items() if peers.get(inode) in theirs]
    return number


def peer_inodes():
    """Inode -> inode of the other end, of all Unix sockets that have one: sock_diag(7)."""
    NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP, SHOW_PEER, PEER = 4, 20, 0x301, 4, 2
    request = struct.pack("=IHHII", 16 + 24, SOCK_DIAG_BY_FAMILY, DUMP, 1, 0)
    request += struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, SHOW_PEER, 0, 0)
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.sendto(request, (0, 0))
        while True:
            data = netlink.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind != SOCK_DIAG_BY_FAMILY:
                    return found
                _, inode, *_, size, attribute, peer = struct.unpack_from("=IIIIHHI", data[:length].ljust(40), 16)
                if size == 8 and attribute == PEER:
                    found[inode] = peer
                data = data[(length + 3) & ~3 :]
