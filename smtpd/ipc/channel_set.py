"""The channels of one process on its event loop.

    readable channel --> receive --> its handler(channel, imsg, descriptor)
    end of the turn  --> flush every channel that was sent to, once
    UNREAD_MAX       --> a peer that asks and does not read the answers is not read either, until it has read them

`connect` is for the six processes between which the daemon is divided: a Violation of a peer, or the end of the parent,
ends this process; the end of another peer is the parent's to notice, which stops the daemon and says why.  Whoever adds
other channels, such as those of control's clients, decides what their end means.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.event_loop import EventLoop
from smtpd.ipc.log import log

UNREAD_MAX = 16 * 1024 * 1024  # bytes that wait for a peer to read them, while its questions are read

Handler = Callable[[Channel, Any, int | None], None]
Received = Iterable[tuple[Any, int | None]]


class ChannelSet:
    def __init__(self, loop: EventLoop):
        self.loop = loop
        self._touched: set[Channel] = set()
        self._writing: set[Channel] = set()  # wait for room
        self._pausing: set[Channel] = set()  # wait for a while
        self._bounded: set[Channel] = set()
        self._unread: dict[Channel, Callable[[], None]] = {}  # bounded ones that are not read: how to go on

    def add(
        self,
        channel: Channel,
        handler: Handler,
        closed: Callable[[Channel, Exception], None],
        received: Received = (),
        *,
        bounded: bool = False,
    ) -> None:
        """Dispatch what `channel` brings to `handler`, after what it has brought already; `closed` is told of its end
        or of a Violation, and takes it off.

        `bounded`: nothing is read while UNREAD_MAX waits to be sent.  Only where the peer always reads, or both would
        wait for each other."""
        channel.wake = self._touch
        if bounded:
            self._bounded.add(channel)
        if channel.bytes_waiting:
            self._touch(channel)
        if received:
            self.loop.call_soon(self._begin, channel, handler, closed, received)
        else:
            self.loop.add_reader(channel.fileno(), self._dispatch, channel, handler, closed, channel.receive)

    def remove(self, channel: Channel) -> None:
        """Take it off the loop and close it."""
        self._touched.discard(channel)
        self._writing.discard(channel)
        self._pausing.discard(channel)
        self._bounded.discard(channel)
        self._unread.pop(channel, None)
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
            done = channel.flush()
        except ChannelClosed:
            done = True  # its reader sees the end too, after what was still to be read
            self._bounded.discard(channel)  # what waits to be sent is never read any more
        wants_room = not done and not channel.pause
        if channel in self._writing and not wants_room:
            self._writing.discard(channel)
            self.loop.remove_writer(channel.fileno())
        elif wants_room and channel not in self._writing:
            self._writing.add(channel)
            self.loop.add_writer(channel.fileno(), self._write, channel)
        if not done and channel.pause:
            self._pausing.add(channel)
            self.loop.call_later(channel.pause, self._paused, channel)
        if channel in self._unread and (done or channel.bytes_waiting <= UNREAD_MAX):
            self._unread.pop(channel)()

    def _paused(self, channel: Channel) -> None:
        self._pausing.discard(channel)
        self._write(channel)

    def _begin(
        self, channel: Channel, handler: Handler, closed: Callable[[Channel, Exception], None], received: Received
    ) -> None:
        self._dispatch(channel, handler, closed, lambda: received)
        if not channel.closed and channel not in self._unread:
            self.loop.add_reader(channel.fileno(), self._dispatch, channel, handler, closed, channel.receive)

    def _dispatch(
        self,
        channel: Channel,
        handler: Handler,
        closed: Callable[[Channel, Exception], None],
        receive: Callable[[], Received],
    ) -> None:
        if channel.closed:
            return
        try:
            left = iter(receive())
            for imsg, descriptor in left:
                handler(channel, imsg, descriptor)
                if channel.closed:
                    return
                if channel.bytes_waiting > UNREAD_MAX and channel in self._bounded:
                    self.loop.remove_reader(channel.fileno())
                    self._unread[channel] = partial(self._begin, channel, handler, closed, left)
                    return
        except (ChannelClosed, Violation) as error:
            self._writing.discard(channel)
            closed(channel, error)


def connect(
    loop: EventLoop, peers: list[Channel], handlers: dict[str, Callable], state: Any, bounded: Collection[str] = ()
) -> ChannelSet:
    """Put all peers of one of the six on its loop: `handlers[peer](state, channel, imsg, descriptor)`; those named in
    `bounded` as in `ChannelSet.add`.  Its log lines gather for a turn."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    log.attach(loop)
    channels = ChannelSet(loop)
    for channel in peers:
        # The parent notices when a peer goes, and stops the daemon.  Only the end of the parent is our end at once.
        ended = die if channel.peer == "parent" else partial(_peer_gone, channels)
        channels.add(channel, partial(handlers[channel.peer], state), ended, bounded=channel.peer in bounded)
    return channels


def _peer_gone(channels: ChannelSet, channel: Channel, error: Exception) -> None:
    if isinstance(error, Violation):
        die(channel, error)
    channels.remove(channel)


def die(channel: Channel, error: Exception) -> None:
    """The end of a channel between processes of the daemon is the end of this process, at once."""
    if isinstance(error, Violation):
        log.warn(f"fatal: {error}")
    log.flush()
    os._exit(1 if isinstance(error, Violation) else 0)
