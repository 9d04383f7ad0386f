"""What must not outlive the daemon: its processes, its control socket, its pid file."""

import contextlib
import os
from dataclasses import dataclass, field

from smtpd.parent.child import Child


@dataclass(frozen=True)
class PidFile:
    """Locked for as long as `descriptor` is open."""

    path: str
    descriptor: int
    left_behind: bool  # there was one, of a daemon that did not stop in order

    def remove(self) -> None:
        """Unless it is another daemon's, which was started after our file had been removed."""
        with contextlib.suppress(OSError):
            if is_at(self.descriptor, self.path):
                os.unlink(self.path)
        os.close(self.descriptor)


def is_at(descriptor: int, path: str) -> bool:
    """Whether the file that is open is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


@dataclass
class Cleanup:
    """What there is so far.  The one way out, of a start that fails and of a daemon that ends."""

    children: list[Child] = field(default_factory=list)  # the nursery first
    control_socket: str | None = None
    pid_file: PidFile | None = None

    def run(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        if self.control_socket is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.control_socket)
        if self.pid_file is not None:
            self.pid_file.remove()
