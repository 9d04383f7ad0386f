"""What the system says of a failure, in words for the log: which path, what is wrong, and which uid was refused.

    /home/bob/Maildir/new: permission denied for uid 1001
    /home/bob/Maildir/tmp/1700000000.E4d00000001.mx: No space left on device

What is done by the descriptor of a directory fails with the name in it, or with none: `at` adds the way there.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_REFUSED = {errno.EACCES: "permission denied", errno.EPERM: "operation not permitted"}


def error_text(error: Exception) -> str:
    """What is wrong, without a path: in the words of the system where it is an error of the system.

    `sendmail` and `smtpctl show status` do without this module, as it loads more than they may.
    """
    return getattr(error, "strerror", None) or str(error)


def describe_error(error: Exception) -> str:
    """With the path, and with our uid where permission is denied."""
    reason = error_text(error)
    if not isinstance(error, OSError):
        return reason
    if error.errno in _REFUSED and reason == os.strerror(error.errno):  # and not what one of us says instead
        reason = f"{_REFUSED[error.errno]} for uid {os.geteuid()}"
    return f"{error.filename}: {reason}" if isinstance(error.filename, str) else reason


@contextmanager
def error_path(path: str) -> Iterator[None]:
    """What raises OSError in here was done to `path`, or to what it names below it."""
    try:
        yield
    except OSError as error:
        below = error.filename if isinstance(error.filename, str) else ""
        error.filename = os.path.join(path, below) if below else path
        raise
