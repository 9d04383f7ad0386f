"""The files that aliases include: `:include:/etc/mail/staff`.

Read by lookup with its own rights, and cached until the file changes.  A file that cannot be read, or is larger than
SIZE_MAX, keeps its previous members, if any; an invalid line is skipped.  Both are logged when first seen.  An include
file cannot include another one, so there are no loops.
"""

import os
import stat

from smtpd.ipc.log import log
from smtpd.ipc.os_error import error_text
from smtpd.tables.alias_syntax import Include, Target, describe_faults, parse_include

SIZE_MAX = 256 * 1024  # bytes
FILES_CACHED = 256  # files

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO is opened without a writer

FileStamp = tuple[int, int, int, int] | None  # None: it cannot be read


class IncludeFiles:
    def __init__(self) -> None:
        self._known: dict[str, tuple[FileStamp, tuple[Target, ...]]] = {}

    def read(self, path: str) -> tuple[Target, ...]:
        """The members of the file; none if it never could be read."""
        try:
            file = os.open(path, _FLAGS)
        except (OSError, ValueError) as error:
            return self._unreadable(path, error)
        try:
            return self._read(path, file)
        except OSError as error:
            return self._unreadable(path, error)
        finally:
            os.close(file)

    def _read(self, path: str, file: int) -> tuple[Target, ...]:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        if status.st_size > SIZE_MAX:
            raise OSError(0, f"larger than {SIZE_MAX} bytes")
        return self._remember(path, stamp, _members(path, _content(file)))

    def _unreadable(self, path: str, error: OSError | ValueError) -> tuple[Target, ...]:
        stamp, members = self._known.get(path, (None, None))
        if members is None or stamp is not None:
            stay = "its members stay as they were" if members else "it has no members"
            log.warn(f"include {path}: {error_text(error)}: {stay}")
        return self._remember(path, None, members or ())

    def _remember(self, path: str, stamp: FileStamp, members: tuple[Target, ...]) -> tuple[Target, ...]:
        self._known.pop(path, None)
        if len(self._known) >= FILES_CACHED:
            del self._known[next(iter(self._known))]
        self._known[path] = stamp, members
        return members


def _content(file: int) -> bytes:
    content = b""
    while len(content) <= SIZE_MAX:  # the file may grow meanwhile
        piece = os.read(file, SIZE_MAX + 1 - len(content))
        if not piece:
            return content
        content += piece
    raise OSError(0, f"larger than {SIZE_MAX} bytes")


def _members(path: str, content: bytes) -> tuple[Target, ...]:
    targets, troubles = parse_include(content)
    members = tuple(target for target in targets if not isinstance(target, Include))
    for trouble in describe_faults(troubles):
        log.warn(f"include {path}: {trouble}")
    if len(members) < len(targets):
        log.warn(f"include {path}: an include file cannot include others")
    return members
