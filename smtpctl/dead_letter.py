"""Saves a mail that could not be sent: ~/dead.letter, or ~/dead.letter.1, and so on up to 99.

Each mail gets a new file: no link is followed, nothing is overwritten or appended to.  The home directory has to belong
to the user: another user's could hold anything.
"""

import os
import stat

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "dead.letter"
NUMBERS = 100


def save(home: str, pieces: "Iterable[bytes]") -> str:
    """The path of the new file.  Raises OSError."""
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise PermissionError(1, "not the user's own directory")
        name, descriptor = _make(folder)
        with open(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(folder)
    return os.path.join(home, name)


def _make(folder: int) -> tuple[str, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for number in range(NUMBERS):
        name = f"{NAME}.{number}" if number else NAME
        try:
            return name, os.open(name, flags, stat.S_IRUSR | stat.S_IWUSR, dir_fd=folder)
        except FileExistsError:
            pass
    raise FileExistsError(17, f"there are {NUMBERS} of {NAME} already")
