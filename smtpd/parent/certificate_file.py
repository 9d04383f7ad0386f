"""Files of keys and certificates: opened here, and read by others.

open_files    of one `pki` or `ca`, after a look at whose they are
"""

import os
import stat

from smtpd.config import trust
from smtpd.slice import CaSlice, PkiSlice

FILE_MAX = 16 * 1024 * 1024  # bytes: the authorities of a whole system are half a megabyte
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

CertificateSlice = PkiSlice | CaSlice


class CertificateFileError(Exception):
    """Why a file is not taken."""


def open_key(path: str, strict: bool) -> int:
    """As open_certificate; others than the owner, and perhaps a group, may not read it either."""
    return _open(path, strict, stat.S_IRWXO)


def open_certificate(path: str, strict: bool) -> int:
    """A descriptor of the file that `path` leads to now; `strict`: only root may have made it so.  Raises
    CertificateFileError."""
    return _open(path, strict, 0)


def _open(path: str, strict: bool, forbidden: int) -> int:
    try:
        # The links on the way are followed here, and not by open: what is opened is what has been looked at.
        real = trust.check_path(path) if strict else os.path.realpath(path)
        descriptor = os.open(real, _OPEN)
    except trust.Untrusted as error:
        raise CertificateFileError(str(error)) from None
    except PermissionError:
        reason = "permission denied; a directory that was not there at the start needs a restart"
        raise CertificateFileError(f"{path}: {reason}") from None
    except OSError as error:
        raise CertificateFileError(f"{path}: {error.strerror}") from None
    try:
        _check(path, os.fstat(descriptor), strict, forbidden)
    except CertificateFileError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: str, status: os.stat_result, strict: bool, forbidden: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise CertificateFileError(f"{path} is not a regular file")
    if strict and (status.st_uid != 0 or mode & trust.OTHERS_WRITE):
        raise CertificateFileError(
            f"{path} belongs to uid {status.st_uid}, mode {mode:04o}: others than root could change it"
        )
    if mode & forbidden:
        raise CertificateFileError(f"{path} can be read by others (mode {mode:04o}): chmod o= {path}")
    if status.st_size > FILE_MAX:
        raise CertificateFileError(f"{path} is too large")


def open_files(subject: CertificateSlice, dispatchers: int, strict: bool) -> list[int]:
    """For a `pki` its key, then its certificates once for each dispatcher; for a `ca` likewise, without a key.  Each is
    an open file of its own, with its own offset.  Raises CertificateFileError."""
    opened: list[int] = []
    try:
        if isinstance(subject, PkiSlice):
            opened.append(open_key(subject.key, strict))
        opened += [open_certificate(subject.cert, strict) for _ in range(dispatchers)]
    except CertificateFileError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened
