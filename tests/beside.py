"""Run a command while other commands run: python tests/beside.py COMMAND [ARGUMENT...]

It gets a session of its own, so that a signal to its process group ends all of it; a lower priority, so that tests with
time limits in the foreground are not disturbed; and SIGINT and SIGQUIT with their default actions, as a shell starts
its background commands with both ignored, and everything below would inherit that.
"""

import os
import signal
import sys

NICE = 5  # a third of the share of a process in the foreground: with less, tests of 30 seconds' patience would starve

for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
if os.getpid() != os.getpgrp():
    os.setsid()
os.nice(NICE)
os.execvp(sys.argv[1], sys.argv[1:])
