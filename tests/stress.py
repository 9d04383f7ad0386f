"""Stress for what one thread hands to another: threads change places as often as the interpreter can manage.

A short form is part of each run of the tests.  SMTPD_STRESS=600 makes each of them go on for ten minutes:

    SMTPD_STRESS=600 python -m pytest tests -k hand_over
"""

import contextlib
import os
import sys
import threading
import time

SECONDS = float(os.environ.get("SMTPD_STRESS", "0"))
WAIT_MAX = 20.0 if not SECONDS else 120.0  # seconds without an answer that count as stuck; long runs are not alone
SWITCH_INTERVAL = 1e-6  # seconds
MOMENT = 0.1  # seconds for a thread to come to its end or to a lock


@contextlib.contextmanager
def hasty_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def rounds(count):
    """So many of them, or as many as there is time for."""
    number, end = 0, time.monotonic() + SECONDS
    while number < count or time.monotonic() < end:
        yield number
        number += 1
    if SECONDS:
        print(f"{number} rounds")


def run_until_stopped(loop):
    """Run until somebody stops the loop.  Raises TimeoutError when nothing does."""
    late = []
    watch = loop.call_later(WAIT_MAX, lambda: (late.append(True), loop.stop()))
    loop.run_forever()
    watch.cancel()
    if late:
        raise TimeoutError(f"nothing has come back for {WAIT_MAX} s")


class Meanwhile:
    """When called for the first time, calls `function` in another thread, for a moment: then that has come to its end,
    or waits for a lock."""

    def __init__(self, function):
        self._thread = threading.Thread(target=function, daemon=True)

    def __call__(self):
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(MOMENT)

    def end(self):
        join([self._thread])


def join(threads):
    for thread in threads:
        thread.join(WAIT_MAX)
        assert not thread.is_alive(), "stuck"
