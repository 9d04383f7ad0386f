"""The system call that a process was killed for, from the kernel's log.

    6,1287,93510,-;audit: type=1326 audit(…): … pid=812 comm="python" … sig=31 arch=c000003e syscall=59 …

The kernel writes it just after the process is dead, and only while no auditd takes such lines.
"""

import os
import re
import select
import time

from smtpd.sandbox.seccomp import name_of

# A process chooses its own comm, but the kernel writes it in hex where it holds a blank or a quote.
_KILLED = re.compile(
    r"audit: type=1326 audit\([^)]*\):.* pid=(?P<pid>\d+) comm=\S+ exe=\S+ "
    r"sig=(?P<signal>\d+) arch=(?P<arch>[0-9a-f]+) syscall=(?P<number>\d+) "
)
_RECORD = 8192  # bytes; the kernel's records are shorter
_FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in linux/proc_ns.h: the pids that the kernel's log has


def open_kernel_log() -> int | None:
    """A descriptor for describe_seccomp_kill, at the present end of the log; None where it is not readable, and in a
    container, where the same pid is another process than in the log."""
    try:
        if os.readlink("/proc/self/ns/pid") != _FIRST_NAMESPACE:
            return None
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(descriptor, 0, os.SEEK_END)
    except OSError:
        return None
    return descriptor


def parse_seccomp_kill(line: str) -> tuple[int, int, int] | None:
    """(pid, architecture, number of the system call), when the line is about a process that a filter killed."""
    match = _KILLED.search(line)
    if match is None or match["signal"] != "31":
        return None
    return int(match["pid"]), int(match["arch"], 16), int(match["number"])


def describe_seccomp_kill(pid: int, log: int | None, patience: float = 0.2) -> str | None:
    """The name of the system call that process `pid` was killed for, from a log opened before it died; None when the
    log does not tell within `patience` seconds."""
    if log is None:
        return None
    deadline = time.monotonic() + patience
    while True:
        found = _search(pid, log)
        remaining = deadline - time.monotonic()
        if found or remaining <= 0:
            return found
        poll = select.poll()
        poll.register(log, select.POLLIN)
        poll.poll(remaining * 1000)


def _search(pid: int, log: int) -> str | None:
    while True:
        try:
            record = os.read(log, _RECORD)
        except BlockingIOError:
            return None
        except BrokenPipeError:
            continue  # older records were overwritten before we came to read them
        violation = parse_seccomp_kill(record.decode(errors="replace"))
        if violation and violation[0] == pid:
            return name_of(violation[2], violation[1])
