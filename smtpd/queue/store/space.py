"""Is there room on the disk?  A reserve is kept, so that the end of a delivery can always be written.

    free - wanted < min(64 MiB, half of the disk)    no new mail: 452 4.3.1

The disk is asked at most once a second; what was let in since counts as used.
"""

import os
from collections.abc import Callable

from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error

MIB = 1024 * 1024
RESERVE_BYTES = 64 * MIB
RESERVE_DIVISOR = 2  # on a small disk the reserve is this part of it
INODES_RESERVE = 64  # left for the database
MEASURE_INTERVAL = 1.0  # seconds


class Space:
    """Of the file system that holds `directory`; `clock` counts seconds."""

    def __init__(
        self, directory: str, clock: Callable[[], float], statvfs: Callable[[str], os.statvfs_result] = os.statvfs
    ):
        self._directory, self._clock, self._statvfs = directory, clock, statvfs
        self._left = 0
        self._inodes = True
        self._until = float("-inf")

    def take(self, size: int) -> bool:
        """False when there is no room for a new mail of `size` bytes."""
        if self._clock() >= self._until:
            self._measure()
        if size > self._left or not self._inodes:
            return False
        self._left -= size
        return True

    def _measure(self) -> None:
        self._until = self._clock() + MEASURE_INTERVAL
        try:
            space = self._statvfs(self._directory)
        except OSError as error:
            log.warn(f"the space on the spool's disk is not known: {describe_error(error)}")
            self._left = 0
            return
        reserve = min(RESERVE_BYTES, space.f_blocks * space.f_frsize // RESERVE_DIVISOR)
        self._left = space.f_bavail * space.f_frsize - reserve
        self._inodes = not space.f_files or space.f_favail >= INODES_RESERVE  # no limit on some file systems
