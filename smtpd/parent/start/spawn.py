"""Start a process of the daemon: posix_spawn of a fresh interpreter.

Nothing goes along: descriptor 3 is the channel to us, 2 the log, 0 and 1 are /dev/null, the environment is made anew.
Fresh memory also means that no two processes share a layout, a hash seed or a copy of the configuration.
"""

import os
import signal
import socket
import sys

from smtpd.boot import IGNORED, PARENT, command
from smtpd.imsg import TABLE
from smtpd.ipc.channel import Channel
from smtpd.parent.child import Child, title
from smtpd.parent.start.log_pipes import LogPipes, StderrLog

SOCKET_BUFFER = 1024 * 1024  # bytes, so that a burst does not wait for the reader's next turn
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h: beyond net.core.wmem_max, for root

_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
# For malloc(3) of glibc: what has been freed is overwritten.  OpenSSL leaves there what it has decoded of a key's file.
OVERWRITE_FREED_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.perturb=90:glibc.malloc.tcache_count=0"}
_ENVIRONMENTS = {"crypto": _ENVIRONMENT | OVERWRITE_FREED_MEMORY}  # others than the usual one
_POSITION_INDEPENDENT = 3  # ET_DYN of elf.h
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def start(role: str, number: int = 0, *, log: int = 2, arguments: tuple[str, ...] = ()) -> Child:
    """Start a process that logs to descriptor `log`."""
    ours, theirs = pair()
    with theirs:
        pid = os.posix_spawn(
            sys.executable,
            command(role, *arguments),
            {**_ENVIRONMENTS.get(role, _ENVIRONMENT), "TZ": os.environ.get("TZ", ":/etc/localtime")},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), PARENT),
            ],
            setsigdef=_SIGNALS,
            setsigmask=IGNORED,
        )
    return Child(role, number, pid, Channel(ours, TABLE, "parent", role, number))


def start_logged(logs: StderrLog | LogPipes, role: str, number: int = 0, *, arguments: tuple[str, ...] = ()) -> Child:
    """Start a process with a log of its own, which is named for it."""
    name = title(role, number)
    descriptor = logs.writing_end(name)
    child = start(role, number, log=descriptor, arguments=arguments)
    logs.set_pid(name, child.pid)
    if descriptor != 2:
        os.close(descriptor)
    return child


def pair() -> tuple[socket.socket, socket.socket]:
    """A socketpair with room for bursts."""
    ends = socket.socketpair()
    for end in ends:
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SOCKET_BUFFER)
        except OSError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return ends


def find_common_layout(interpreter: str) -> str | None:
    """Why two processes could share addresses, though each is executed afresh; None when they do not."""
    with open(interpreter, "rb") as file:
        header = file.read(18)
    if header[:4] == b"\x7fELF":
        kind = int.from_bytes(header[16:18], "little" if header[5] == 1 else "big")
        if kind != _POSITION_INDEPENDENT:
            return f"{interpreter} is not position independent"
    try:
        with open("/proc/sys/kernel/randomize_va_space") as file:
            return None if file.read().strip() == "2" else "kernel.randomize_va_space is not 2"
    except OSError:
        return None
