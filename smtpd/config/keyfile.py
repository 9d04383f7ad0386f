"""The files of pki and ca, looked at before anything is started: for `smtpd -n`, by whoever types it.

    not there, no certificate, a key that is encrypted, or another's       the daemon would not start: an error
    expired, for other names than the pki's, not to be read by this user   a warning

The daemon itself never has a key and its certificate in one process.
"""

import os
import ssl
import stat
import time
from collections.abc import Callable

from smtpd.config import trust
from smtpd.config.error import Place, Report, alternatives, quoted
from smtpd.config.model import Pki
from smtpd.config.parser import Parsed
from smtpd.tls.certificate import Authorities, Certificate
from smtpd.tls.library import Unusable

# What OpenSSL says of a key that is another's, and of one of another kind.
MISFITS = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")

LARGEST = 16 * 1024 * 1024  # bytes


class Encrypted(Exception):
    """Nobody is there to type a passphrase when a server starts."""


class KeyFiles:
    def __init__(self, parsed: Parsed, report: Report, *, strict: bool, now: float) -> None:
        """`strict`: only root may have written them, as the daemon will have it.  `now` in seconds since 1970."""
        self._parsed = parsed
        self._report = report
        self._strict = strict
        self._now = now

    def check(self) -> None:
        for pki in self._parsed.config.pki:
            certificate = self._maybe_read(pki.name, pki.cert, Certificate.read)
            if certificate:
                self._check_certificate(pki, certificate)
            if self._maybe_read(pki.name, pki.key, bytes) is not None and certificate:
                self._check_pair(pki)
            self._check_mode(pki)
        for ca in self._parsed.config.ca:
            self._maybe_read(ca.name, ca.cert, Authorities.read)

    def _place(self, owner: str, path: str) -> Place:
        return self._parsed.names.file_places[owner, path]

    def _maybe_read[T](self, owner: str, path: str, understand: Callable[[bytes], T]) -> T | None:
        try:
            if self._strict:
                trust.check_path(path)
            return understand(read(path))
        except PermissionError as error:
            text = f"cannot read {quoted(path)}, so it is not checked: {error.strerror}"
            self._report.warn(self._place(owner, path), text)
        except (OSError, trust.Untrusted) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._report.add(self._place(owner, path), f"cannot read {quoted(path)}: {reason}")
        except Unusable as error:
            self._report.add(self._place(owner, path), f"{quoted(path)}: {error}")
        return None

    def _check_certificate(self, pki: Pki, certificate: Certificate) -> None:
        if certificate.not_after < self._now:
            day = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
            self._report.warn(
                self._place(pki.name, pki.cert), f"the certificate in {quoted(pki.cert)} has expired on {day}"
            )
        if pki.name != "*" and not any(covers(name, pki.name) for name in certificate.names):
            names = alternatives(map(quoted, certificate.names[:5])) if certificate.names else "no host"
            text = f"the certificate in {quoted(pki.cert)} is for {names}, and not for {quoted(pki.name)}"
            self._report.warn(self._place(pki.name, pki.cert), text)

    def _check_pair(self, pki: Pki) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pki.cert, pki.key, _refuse_to_say)
        except Encrypted:
            text = f"the key in {quoted(pki.key)} is encrypted, expected one that can be read without a passphrase"
            self._report.add(self._place(pki.name, pki.key), text)
        except ssl.SSLError as error:
            mismatch = error.reason in MISFITS
            text = f"not the key of the certificate in {quoted(pki.cert)}" if mismatch else "no private key in PEM"
            self._report.add(self._place(pki.name, pki.key), f"{quoted(pki.key)} has {text}")

    def _check_mode(self, pki: Pki) -> None:
        try:
            mode = stat.S_IMODE(os.stat(pki.key).st_mode)
        except OSError:
            return
        if mode & stat.S_IRWXO:
            text = f"{quoted(pki.key)} can be read by everybody (mode {mode:04o}), expected a secret: chmod o= it"
            self._report.add(self._place(pki.name, pki.key), text)


def read(path: str) -> bytes:
    """Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise OSError("not a regular file, or too large")
        return file.read()


def covers(name: str, host: str) -> bool:
    """`name` of a certificate, which may stand for one label more: RFC 6125 6.4.3."""
    return name == host or (name.startswith("*.") and name[2:] == host.partition(".")[2])


def _refuse_to_say() -> str:
    raise Encrypted
