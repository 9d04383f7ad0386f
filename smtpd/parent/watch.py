"""Supervision of the children: which one died and why, and the order of stopping.

    TERM, INT          every stage in turn is told Stop and waited for; a second signal waits no longer
    a child dies, or
    breaks the rules   the reason is logged; all channels but control's close, which ends all of them at once
    none is left       run() returns the exit status

There is no restart: what has been broken into or is broken starts again in fresh memory, by the service manager.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from smtpd.imsg import Stop
from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.parent.child import Child, describe_end

# In this order: first no client is accepted, then what was accepted is made safe, and the log is passed on to the end.
STAGES = (("dispatcher",), ("queue",), ("lookup", "scheduler", "crypto"), ("nursery",), ("control",))
STOP_TIMEOUTS = {"dispatcher": 15.0, "queue": 30.0}  # seconds to end what is under way, then SIGKILL
STOP_TIMEOUT = 5.0
EXIT_TIMEOUT = 1.0  # seconds between the end of a channel and the end of its process
EX_FAILED = 1


@dataclass(frozen=True)
class Stage:
    """Children that end at the same time."""

    roles: tuple[str, ...]
    politely: bool  # by Stop; otherwise by closing their channels
    patience: float  # seconds


ORDERLY = [Stage(roles, True, max(STOP_TIMEOUTS.get(role, STOP_TIMEOUT) for role in roles)) for roles in STAGES]
AT_ONCE = [
    Stage(("dispatcher", "queue", "lookup", "scheduler", "crypto", "nursery"), False, 1.0),
    Stage(("control",), True, 2.0),
]


class Watch:
    """`log_directly` gets the reason of a failure too, for a log that works without control."""

    def __init__(
        self,
        loop: SelectorLoop,
        channels: ChannelSet,
        children: list[Child],
        kernel_log: int | None,
        log_directly: Callable[[str], None],
        stopping: Callable[[], None],
    ):
        self._loop, self._channels = loop, channels
        self._children = children
        self._kernel_log = kernel_log
        self._last_word = log_directly
        self._stopping = stopping  # told once, when the end begins
        self._stages: list[Stage] | None = None  # still to come; None while all run
        self._stage: Stage | None = None
        self._timer: Timer | None = None
        self._hurry = False
        self.status = 0

    @property
    def ending(self) -> bool:
        return self._stages is not None

    def begin(self) -> None:
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.on_signal(signal.SIGTERM, self.stop)
        self._loop.on_signal(signal.SIGINT, self.stop)
        self._reap()  # children that died before there was a handler

    # -- a child ended --------------------------------------------------------------

    def channel_ended(self, child: Child, channel: Channel, error: Exception) -> None:
        """The channel of `child` is at its end, or brought what our own code would not have sent."""
        self._channels.remove(channel)
        if isinstance(error, Violation):
            self.fail(f"{child.title} broke the rules: {error}")
        elif isinstance(error, ChannelClosed) and not self._expected(child):
            # It is dying, or it has closed its channel and lives on.
            self._loop.call_later(EXIT_TIMEOUT, partial(self._closed, child))

    def _closed(self, child: Child) -> None:
        if child.status is None and not self._expected(child):
            child.kill()
            self.fail(f"{child.title} closed its channel")

    def _reap(self) -> None:
        for child in self._children:
            if child.status is None and child.wait(os.WNOHANG):
                self._ended(child)
        self._proceed()

    def _ended(self, child: Child) -> None:
        expected = self._expected(child)
        if child.status and not (expected and self._hurry):
            # During an orderly stop too: what was under way there may not have been finished.
            self.fail(f"lost child: {child.title}, pid {child.pid}, {describe_end(child, self._kernel_log)}")
        elif not expected:
            self.fail(f"lost child: {child.title}, pid {child.pid}, exited")

    def _expected(self, child: Child) -> bool:
        return self._stage is not None and child.role in self._stage.roles

    def fail(self, reason: str) -> None:
        """Something is broken: say what, once, and stop all."""
        if self.status and self.ending:
            log.debug(reason)
            return
        log.warn(f"fatal: {reason}")
        log.flush()
        self._last_word(f"warn: fatal: {reason}")
        self.status = EX_FAILED
        self._end(AT_ONCE)

    # -- the end, stage by stage --------------------------------------------------------

    def stop(self) -> None:
        """A signal asks for the end; the second time, without waiting."""
        if not self.ending:
            log.info("stopping")
            self._end(ORDERLY)
            return
        self._hurry = True
        self._kill_stage()

    def _end(self, stages: list[Stage]) -> None:
        if not self.ending:
            self._stopping()
        self._stages = list(stages)
        self._next_stage()

    def _next_stage(self) -> None:
        assert self._stages is not None
        if self._timer is not None:
            self._timer.cancel()
        self._stage = self._stages.pop(0) if self._stages else None
        if self._stage is None:
            self._loop.stop()
            return
        if "control" in self._stage.roles:
            log.info("exiting")  # while control still passes it on
        for child in self._living():
            self._tell_to_end(child, self._stage)
        self._timer = self._loop.call_later(0 if self._hurry else self._stage.patience, self._kill_stage)
        self._proceed()

    def _tell_to_end(self, child: Child, stage: Stage) -> None:
        if child.channel.closed:
            return
        if stage.politely:
            child.channel.send(Stop())
        else:
            self._channels.remove(child.channel)

    def _living(self) -> list[Child]:
        return [child for child in self._children if child.status is None and self._expected(child)]

    def _kill_stage(self) -> None:
        for child in self._living():
            if not self._hurry and not self.status:
                log.warn(f"{child.title} does not end, and is killed")
            child.kill()

    def _proceed(self) -> None:
        if self._stage is not None and not self._living():
            self._next_stage()
