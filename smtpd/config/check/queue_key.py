"""The file of `queue encryption`, checked by `smtpd -n` with the rights of its caller: as the daemon's start does."""

import os
import stat

from smtpd.config import trust
from smtpd.config.errors import Report, quoted
from smtpd.config.file_permission import fault_of_secret
from smtpd.config.parser import Parsed
from smtpd.ipc.os_error import error_text
from smtpd.tls.aes_gcm import self_test
from smtpd.tls.content_key import KEYS_TEXT_MAX, KeyFileError, parse_keys
from smtpd.tls.openssl_library import TlsUnusable


def check_queue_key(parsed: Parsed, report: Report, *, strict: bool) -> None:
    """`strict`: require a file that only root can have written."""
    path = parsed.config.queue_key
    if not path:
        return
    position = parsed.names.file_positions["queue", path]
    try:
        if strict:
            trust.check_path(path)
        if fault := _find_fault(path):
            report.add(position, f"{quoted(path)} {fault}")
    except PermissionError as error:
        report.warn(position, f"cannot read {quoted(path)}, not checked: {error.strerror}")
    except (OSError, trust.Untrusted) as error:
        report.add(position, f"cannot read {quoted(path)}: {error_text(error)}")
    except KeyFileError as error:
        report.add(position, f"{quoted(path)}: {error}")
    except TlsUnusable as error:
        report.add(position, f"queue encryption: {error}")


def _find_fault(path: str) -> str:
    """Raises OSError, KeyFileError, TlsUnusable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if fault := fault_of_secret(status, os.geteuid()):
            return fault
        self_test()
        parse_keys(os.read(descriptor, KEYS_TEXT_MAX + 1))
    finally:
        os.close(descriptor)
    return ""
