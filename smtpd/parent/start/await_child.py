"""The parent's receive loop during the start: answers that are waited for, and requests that come meanwhile.

    children --imsgs--> Answers --an answer that was expected--> next_of, with a deadline
                                --a request-----------------> requests, for the handlers of process.py

All children are read in each wait, not only those that owe an answer: a child may ask something at any time (control
asks for syslog as soon as it has a line of the log), and its death ends the start at once.
"""

import os
import select
import signal
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from smtpd.imsg import ConfigurationParsed, ConfigurationRefused, SandboxEntered
from smtpd.ipc.channel import ChannelClosed, Violation
from smtpd.parent.child import Child, describe_end

HANDOVER_TIMEOUT = 10.0  # seconds until a child has read what it is handed
EXIT_TIMEOUT = 2.0  # seconds between the end of a channel and that of its process
REQUESTS_MAX = 16  # of one child during the start
SIGNAL_INTERVAL = 0.2  # seconds between two looks for a signal that ends the start

Request = tuple[Any, int | None]  # an imsg and the descriptor that came with it

# Answers to what is no request: EnterSandbox, and the command line of config.
_ANSWERS = (SandboxEntered, ConfigurationParsed, ConfigurationRefused)


class CannotStart(Exception):
    """Why, in words for the administrator, a line each."""


class StartInterrupted(Exception):
    """SIGTERM or SIGINT came before the start was complete."""


class ChildAnswers:
    """`children` is the caller's list, which may grow.  Each `expect` allows one answer; another one is a violation."""

    def __init__(self, children: list[Child], kernel_log: int | None):
        self._children = children
        self._kernel_log = kernel_log
        self._expected: dict[Child, tuple[type, ...]] = {}
        self._given: dict[Child, Any] = {}
        self._requests: list[tuple[Child, Request]] = []

    def expect(self, child: Child, *kinds: type) -> None:
        """`child` owes one answer, of one of these kinds."""
        self._expected[child] = kinds

    def next_of(self, children: Iterable[Child], deadline: float) -> tuple[Child, Any]:
        """The next answer of any of `children`.  Raises CannotStart when a child breaks the rules or dies, or none of
        `children` answers in time; Interrupted."""
        wanted = list(children)
        while True:
            for child in wanted:
                if child in self._given:
                    return child, self._given.pop(child)
            if not self._receive({*self._children, *wanted}, deadline) and time.monotonic() >= deadline:
                raise CannotStart(f"{', '.join(child.title for child in wanted)} did not answer in time")

    def requests_of(self, child: Child) -> list[Request]:
        """What it asked meanwhile, in its order.  The caller answers, and owns the descriptors."""
        return [request for asker, request in self._requests if asker is child]

    def _receive(self, children: set[Child], deadline: float) -> bool:
        """Take what has come from `children`, after waiting a little for it.  False when there was nothing."""
        poll = select.poll()
        for child in children:
            poll.register(child.channel.fileno(), select.POLLIN)
        seconds = min(SIGNAL_INTERVAL, max(0.0, deadline - time.monotonic()))
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        if pending := signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
            raise StartInterrupted(min(pending).name)
        for child in children:
            if child.channel.fileno() in ready:
                self._receive_from(child)
        return bool(ready)

    def _receive_from(self, child: Child) -> None:
        try:
            for imsg, descriptor in child.channel.receive():
                self._sort(child, imsg, descriptor)
        except Violation as error:
            raise CannotStart(f"{child.title} broke the rules: {error}") from None
        except ChannelClosed:
            raise CannotStart(f"{child.title} {_end_of(child, self._kernel_log)}") from None

    def _sort(self, child: Child, imsg: Any, descriptor: int | None) -> None:
        if isinstance(imsg, self._expected.get(child, ())):
            del self._expected[child]
            self._given[child] = imsg
        elif isinstance(imsg, _ANSWERS) or child.channel.question_of(type(imsg)) is not None:
            raise Violation(f"answers {type(imsg).__name__} without a request")
        else:
            self._requests.append((child, (imsg, descriptor)))
            if Counter(asker for asker, _ in self._requests)[child] > REQUESTS_MAX:
                raise Violation(f"more than {REQUESTS_MAX} requests during the start")


def _end_of(child: Child, kernel_log: int | None) -> str:
    deadline = time.monotonic() + EXIT_TIMEOUT
    while not child.wait(os.WNOHANG):
        if time.monotonic() > deadline:
            return "closed its channel"
        time.sleep(0.01)
    return describe_end(child, kernel_log)


def flush(child: Child) -> None:
    """Hand over all that was sent to `child`.  If it is gone, that is found out when its answer is waited for."""
    try:
        if not child.channel.flush_within(HANDOVER_TIMEOUT):
            raise CannotStart(f"{child.title} does not take what it is handed")
    except ChannelClosed:
        pass
