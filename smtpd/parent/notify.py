"""What the service manager is told: sd_notify(3), without its library.

The socket is connected at the start, as later nothing can be opened.  No service manager, no word.
"""

import contextlib
import os
import socket
import time


class ServiceManager:
    def __init__(self, address: str | None):
        self._socket: socket.socket | None = None
        if not address or address[0] not in "/@":
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            self.close()

    def ready(self) -> None:
        self.tell("READY=1", "STATUS=taking mail")

    def reloading(self) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading keys and certificates")

    def tell(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(lines).encode())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def find_service_manager() -> ServiceManager:
    """The one that started us; taken out of the environment, as no child of ours has anything to tell it."""
    return ServiceManager(os.environ.pop("NOTIFY_SOCKET", None))
