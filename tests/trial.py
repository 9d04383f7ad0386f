"""`make run` at a terminal, as a newcomer types it: what it says is done, and it must be so.

    python3 tests/trial.py        in a checkout; any Python, before there is a virtual environment

Two at once: one on the usual port if that is free, and one on a port of its own beside it.  To each a mail is sent by
the command that it prints, the queue is looked at, and the mail is read.  Then ^C must end it in order.
"""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

USUAL = 2525
SETTING_UP = 600.0  # seconds until it says how to send a mail; a virtual environment may have to be made
STARTING = 60.0  # seconds from then on until it takes mail
ENDING = 60.0  # seconds
INVITATION = b"^C stops it"


class Trial:
    def __init__(self, *arguments: str):
        self.said = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvp("make", ["make", "run", *arguments])

    def hear(self, enough, seconds):
        """Read what it prints until `enough()`, or its end.  True when that came in time."""
        deadline = time.monotonic() + seconds
        while not enough():
            ready, _, _ = select.select([self.terminal], [], [], min(0.2, max(0.0, deadline - time.monotonic())))
            piece = b""
            with contextlib.suppress(OSError):  # EIO: nobody has it open any more
                piece = os.read(self.terminal, 65536) if ready else b""
            if ready and not piece:
                return enough()
            self.said += piece
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            if time.monotonic() > deadline:
                return False
        return True

    def expect(self, condition, what):
        if not condition:
            raise SystemExit(f"\ntrial: {what}")

    def commands(self):
        """What it says to type."""
        invitation = self.said.replace(b"\r", b"").decode()
        return re.findall(r"^  (/.*|cat .*)$", invitation[invitation.index("Send a mail") :], re.MULTILINE)

    def use(self):
        """Do what it says."""
        self.expect(self.hear(lambda: INVITATION in self.said, SETTING_UP), "it does not say how to send a mail")
        send, show_queue, read = self.commands()
        self.expect(self.succeeds(send, STARTING), "no mail can be sent")
        self.expect(self.succeeds(show_queue, 0), "the queue cannot be seen")
        self.expect(self.succeeds(read, STARTING, b"\nIt works.\n"), "the mail does not arrive")

    def succeeds(self, command, seconds, expected=b""):
        """Type `command` in another window until it prints `expected`, for some seconds at most."""
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode == 0 and expected in done.stdout:
                return True
            if time.monotonic() > deadline:
                sys.stdout.buffer.write(done.stdout)
                return False
            self.hear(lambda: False, 0.5)

    def stop(self):
        os.write(self.terminal, b"\x03")
        self.hear(lambda: False, ENDING)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.expect(status == -signal.SIGINT, f"after ^C, make ends with status {status}")
        self.expect(self.said.endswith(b"\ninfo: exiting\r\n"), "it does not end in order")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    first = Trial() if is_free(USUAL) else Trial(f"PORT={free_port()}")
    first.use()
    second = Trial(f"PORT={free_port()}")
    second.use()
    second.stop()
    first.stop()
    print("trial: both did what they say")


if __name__ == "__main__":
    main()
