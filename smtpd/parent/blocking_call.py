"""A thread for system calls that may take long: one job after the other, the outcomes back in the loop.

    loop --job--> thread                      may hang in the kernel, for as long as a file system does
    loop <--what it returned or raised--

It is begun with the first job, when the parent has confined itself, and so is as confined.
"""

import errno
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from smtpd.ipc.selector_loop import SIGNALS, SelectorLoop

Job = Callable[[], Any]
Then = Callable[[Any], None]  # with what the job returned, or the exception that it raised


class BlockingCalls:
    def __init__(self, loop: SelectorLoop):
        self.waiting = 0  # jobs that have not come back
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Job, Then] | None] = SimpleQueue()
        self._done: deque[tuple[Then, Any]] = deque()
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._woken, self._deliver)
        self._thread: threading.Thread | None = None
        self._ended = False

    def do(self, job: Job, then: Then) -> None:
        self.waiting += 1
        if self._ended:
            self._done.append((then, _outcome_of(job)))
            return
        if self._thread is None and (error := self._begin()) is not None:
            self._hand_back(then, error)
        else:
            self._jobs.put((job, then))

    def _begin(self) -> OSError | None:
        """Why there can be no thread now."""
        thread = threading.Thread(target=self._work, daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are the loop's
        try:
            thread.start()
        except RuntimeError:  # the limit of processes
            return OSError(errno.EAGAIN, "no thread can be made")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread
        return None

    def end(self, patience: float) -> None:
        """Wait so many seconds for what is left; the calls that follow from it are made too."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(patience)
        self._ended = self._thread is None or not self._thread.is_alive()
        self._loop.remove_reader(self._woken)
        self._deliver()
        if self._ended:
            os.close(self._woken)
            os.close(self._wake)

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, then = work
            self._hand_back(then, _outcome_of(job))

    def _hand_back(self, then: Then, outcome: Any) -> None:
        """To the loop, from any thread."""
        self._done.append((then, outcome))
        with suppress(BlockingIOError):  # it is full of wake-ups already
            os.write(self._wake, b"\0")

    def _deliver(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        while self._done:
            then, outcome = self._done.popleft()
            self.waiting -= 1
            then(outcome)


def _outcome_of(job: Job) -> Any:
    try:
        return job()
    except Exception as error:  # one request's trouble
        return error
