"""The file of `queue encryption`: opened here, as only root can read it, and read by queue.

Its keys are those of all mail in the queue: nobody but root may read the file, no group either.
"""

import os
import stat

from smtpd.config import trust
from smtpd.config.file_permission import fault_of_secret
from smtpd.ipc.os_error import describe_error
from smtpd.parent.start.await_child import CannotStart

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_queue_key(path: str, strict: bool) -> int:
    """`strict`: only root may have made it.  Raises CannotStart."""
    try:
        # The links on the way are followed here, and not by open: what is opened is what has been looked at.
        real = trust.check_path(path) if strict else os.path.realpath(path)
        descriptor = os.open(real, _OPEN)
    except trust.Untrusted as error:
        raise CannotStart(f"queue encryption: {error}") from None
    except OSError as error:
        raise CannotStart(f"queue encryption: {path}: {describe_error(error)}") from None
    status = os.fstat(descriptor)
    fault = fault_of_secret(status, os.geteuid()) if stat.S_ISREG(status.st_mode) else "is not a regular file"
    if fault:
        os.close(descriptor)
        raise CannotStart(f"queue encryption: {path} {fault}")
    return descriptor
