"""Ends a process of a test's daemon at its n-th durable step.  Knows nothing of smtpd, which knows nothing of it.

A test that wants it makes an interpreter of its own (crashes.py): this file is copied to where that one looks for
modules, with a line that imports it at each start, and a program that does so for the children of the parent.  So it is
there before any code of smtpd, and all that it will ever need is in memory that the test shares: it opens no file and
asks the kernel for nothing, whatever a sandbox forbids.

    what counts    fsync, rename, link, unlink, truncate, COMMIT, what goes to another process, and, of an agent, each
                   write and what comes: the process ends before it does that, so the one before has just happened.
                   Of a dispatcher what comes, too, and behind that: the client hears of it next
    whose          of one role; "agent" is all that the nursery has forked, counted together
    shared page    u64 n at which to end (0: none) | u64 steps so far | name of the step that was the end

A process that ends like this loses what a SIGKILL would take from it.  What the kernel has not written to the disk yet
is not lost: whether everything is synced in time is asked in tests/queue/test_order.py.
"""

import mmap
import os
import socket
import struct
import sys

SIZE = 4096
HEAD = struct.Struct("=QQ")
STATUS = 137
CHILD = "child"  # the program beside the interpreter that the parent is to start its processes by


class Page:
    """The shared page of one role."""

    def __init__(self, path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._memory = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)

    def arm(self, number):
        """To end at step `number` from now; 0: at none."""
        self._memory[:] = HEAD.pack(number, 0).ljust(SIZE, b"\0")

    def read(self):
        """How many steps there were, and the name of the one that was the end."""
        _, count = HEAD.unpack_from(self._memory)
        return count, self._memory[HEAD.size :].rstrip(b"\0").decode()

    def step(self, name):
        number, count = HEAD.unpack_from(self._memory)
        if not number:
            return
        HEAD.pack_into(self._memory, 0, number, count + 1)
        if count + 1 == number:
            self._memory[HEAD.size : HEAD.size + len(name)] = name.encode()
            os._exit(STATUS)


def main():
    words = sys.orig_argv
    role = words[words.index("-x") + 1] if "-x" in words else "parent"
    directory = os.path.dirname(__file__)
    paths = {name: os.path.join(directory, f"steps-{name}") for name in (role, "agent")}
    if not os.path.exists(paths[role]) or not ("-x" in words or "-d" in words):
        return
    if role == "parent":
        sys.executable = os.path.join(os.path.dirname(sys.executable), CHILD)
    page, agents, pid = Page(paths[role]), Page(paths["agent"]), os.getpid()
    counts_agents = role == "nursery"

    def is_agent():
        return counts_agents and os.getpid() != pid

    def counted(function, name, *, of_agents=False):
        def call(*arguments, **named):
            if of_agents and not is_agent():
                return function(*arguments, **named)
            (agents if is_agent() else page).step(name)
            return function(*arguments, **named)

        return call

    for name in ("fsync", "fdatasync", "rename", "replace", "link", "unlink", "ftruncate", "mkdir"):
        setattr(os, name, counted(getattr(os, name), name))
    for name in ("write", "pwrite", "writev", "sendfile", "copy_file_range"):
        if hasattr(os, name):
            setattr(os, name, counted(getattr(os, name), name, of_agents=True))
    for name in ("sendmsg", "send", "sendall", "recv", "recvmsg"):
        real = getattr(socket.socket, name)
        setattr(socket.socket, name, counted(real, name, of_agents=name != "sendmsg"))
    if role == "dispatcher":
        receive = socket.socket.recvmsg_into

        def received(*arguments):
            result = receive(*arguments)
            page.step("behind recvmsg_into")
            return result

        socket.socket.recvmsg_into = received
    if role == "queue":
        count_commits(counted)


def count_commits(counted):
    import sqlite3

    class Connection(sqlite3.Connection):
        def execute(self, sql, *more):
            if sql != "COMMIT":
                return super().execute(sql, *more)
            return counted(super().execute, "COMMIT")(sql)

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **named: connect(*arguments, factory=Connection, **named)


if __name__ != "__main__" and os.path.basename(os.path.dirname(__file__)) == "site-packages":
    main()
