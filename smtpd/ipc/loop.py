"""The event loop of the six: uvloop, with channels on it.

    readable channel --> receive --> from_<peer>(state, channel, imsg, descriptor)
    end of the turn  --> flush every channel that was sent to, once

A channel that is closed at the other end, or a Violation, ends the process: the parent stops the daemon, and says why.
A control client and an agent may go without taking us along: their owners put them on the loop by themselves.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop

from smtpd.ipc.channel import Channel, ChannelClosed, Violation, unexpected
from smtpd.ipc.log import log

__all__ = ["ChannelSet", "connect", "die", "prepare", "unexpected"]

Handler = Callable[[Channel, Any, int | None], None]


def prepare() -> asyncio.AbstractEventLoop:
    """A loop that has opened everything it will ever open.  Call it before the sandbox is entered."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    one, other = socket.socketpair()
    with other:
        # libuv opens /dev/null at its first stream, which an empty root does not have.
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=one))
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
    return loop


class ChannelSet:
    """The channels of one process on its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self._touched: set[Channel] = set()
        self._writing: set[Channel] = set()  # wait for room
        self._pausing: set[Channel] = set()  # wait for a while
        log.attach(loop)

    def add(self, channel: Channel, handler: Handler, closed: Callable[[Channel, Exception], None]) -> None:
        """Dispatch what `channel` brings to `handler`; `closed` is told of its end or of a Violation."""
        channel.wake = self._touch
        self.loop.add_reader(channel.fileno(), self._readable, channel, handler, closed)
        if channel.bytes_waiting:
            self._touch(channel)

    def remove(self, channel: Channel) -> None:
        """Take it off the loop and close it."""
        self._touched.discard(channel)
        self._writing.discard(channel)
        self._pausing.discard(channel)
        if not channel.closed:
            self.loop.remove_reader(channel.fileno())
            self.loop.remove_writer(channel.fileno())
            channel.close()

    def _touch(self, channel: Channel) -> None:
        if not self._touched:
            self.loop.call_soon(self._flush)
        self._touched.add(channel)

    def _flush(self) -> None:
        touched, self._touched = self._touched, set()
        for channel in touched:
            if channel not in self._writing and channel not in self._pausing:
                self._write(channel)

    def _write(self, channel: Channel) -> None:
        try:
            done = channel.closed or channel.flush()
        except ChannelClosed:
            done = True  # its reader sees the end too, after what was still to be read
        wants_room = not done and not channel.pause
        if channel in self._writing and not wants_room:
            self._writing.discard(channel)
            if not channel.closed:
                self.loop.remove_writer(channel.fileno())
        elif wants_room and channel not in self._writing:
            self._writing.add(channel)
            self.loop.add_writer(channel.fileno(), self._write, channel)
        if not done and channel.pause:
            self._pausing.add(channel)
            self.loop.call_later(channel.pause, self._paused, channel)

    def _paused(self, channel: Channel) -> None:
        self._pausing.discard(channel)
        self._write(channel)

    def _readable(self, channel: Channel, handler: Handler, closed: Callable[[Channel, Exception], None]) -> None:
        try:
            for imsg, descriptor in channel.receive():
                handler(channel, imsg, descriptor)
                if channel.closed:
                    return
        except (ChannelClosed, Violation) as error:
            self._writing.discard(channel)
            closed(channel, error)


def die(channel: Channel, error: Exception) -> None:
    """The end of a channel between processes of the daemon is the end of this process, at once."""
    if isinstance(error, Violation):
        log.warn(f"fatal: {error}")
    log.flush()
    os._exit(1 if isinstance(error, Violation) else 0)


def connect(
    loop: asyncio.AbstractEventLoop, peers: list[Channel], handlers: dict[str, Callable], state: Any
) -> ChannelSet:
    """Put all peers of a process on its loop: `handlers[peer](state, channel, imsg, descriptor)`."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    loop.set_exception_handler(_crashed)
    board = ChannelSet(loop)
    for channel in peers:
        # The parent notices when a peer goes, and stops the daemon.  Only the end of the parent is our end at once.
        ended = die if channel.peer == "parent" else partial(_peer_gone, board)
        board.add(channel, partial(handlers[channel.peer], state), ended)
    return board


def _peer_gone(board: ChannelSet, channel: Channel, error: Exception) -> None:
    if isinstance(error, Violation):
        die(channel, error)
    board.remove(channel)


def _crashed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that no session, envelope or request was there to catch: we are broken, so we end."""
    error = context.get("exception")
    if isinstance(error, OSError) and context.get("transport") is not None:
        return  # a client's connection broke in an unusual way; its protocol hears of it by connection_lost
    log.later = None
    log.trouble("fatal", error or RuntimeError(context.get("message", "")))
    log.flush()
    os._exit(1)
