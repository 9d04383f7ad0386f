"""One process of the daemon, as the parent holds it: its channel, its pid, and how it ended."""

import os
import signal
from dataclasses import dataclass

from smtpd import sandbox
from smtpd.ipc.channel import Channel


@dataclass(eq=False)
class Child:
    role: str
    number: int  # tells several dispatchers apart; 0 where there is one
    pid: int
    channel: Channel
    status: int | None = None  # as waitpid gave it

    @property
    def title(self) -> str:
        return title(self.role, self.number)

    def kill(self) -> None:
        """It is our child and not yet waited for, so the pid is its own."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, flags: int = 0) -> bool:
        """True when it has ended; its status is kept."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.status = status
        return self.status is not None


def title(role: str, number: int) -> str:
    return f"{role} {number}" if number else role


def describe_end(child: Child, kernel_log: int | None) -> str:
    """What its status says, and the kernel's log where a filter killed it."""
    assert child.status is not None
    return describe_status(child.pid, child.status, kernel_log)


def describe_status(pid: int, status: int, kernel_log: int | None) -> str:
    """As describe_end, of any process; `status` as waitpid gave it."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    if -code == signal.SIGSYS:
        call = sandbox.describe_seccomp_kill(pid, kernel_log) or "the kernel's log does not tell which"
        return f"killed by SIGSYS, forbidden system call: {call}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
