"""The files of pki and ca, checked by `smtpd -n` with the rights of its caller.

    missing, no certificate, an encrypted key, a key of another certificate,   the daemon would not start: an error
    a certificate that is too weak for a listener that shows it
    expired, for other names than the pki's, not readable by this user         a warning

Keys are read as crypto reads them, and certificates are loaded into the same contexts as in a dispatcher: what is
refused here would be refused there.  The daemon itself never has a key and its certificate in one process.
The files of a pki or ca that no listener names are not checked, as the daemon does not open them: implausible.py
warns of it.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping
from functools import partial

from smtpd.config import trust
from smtpd.config.errors import Report, SourcePosition, alternatives, quoted
from smtpd.config.model import Listen, Pki
from smtpd.config.parser import Parsed
from smtpd.config.resolve.listener_slices import slice_tls
from smtpd.ipc.os_error import error_text
from smtpd.tls.certificate import CERTIFICATE_FILE_MAX, Authorities, Certificate
from smtpd.tls.context import ContextError, make_context
from smtpd.tls.openssl_library import TlsUnusable
from smtpd.tls.private_key import PrivateKey
from smtpd.tls.signing import Signer


class KeyFiles:
    def __init__(self, parsed: Parsed, report: Report, *, strict: bool, now: float) -> None:
        """`strict`: require files that only root can have written, as the daemon does.  `now`: seconds since 1970."""
        self._parsed = parsed
        self._report = report
        self._strict = strict
        self._now = now

    def check(self) -> None:
        config = self._parsed.config
        certificates: dict[str, Certificate] = {}
        authorities: dict[str, Authorities] = {}
        used = self._parsed.names.used
        for pki in (pki for pki in config.pki if ("pki", pki.name) in used):
            certificate = self._maybe_read(pki.name, pki.cert, partial(_read, Certificate.read))
            if certificate:
                certificates[pki.name] = certificate
                self._check_certificate(pki, certificate)
            key = self._maybe_read(pki.name, pki.key, PrivateKey.read)
            if key and certificate and key.public.hex() != certificate.public:
                text = f"{quoted(pki.key)} is not the key of the certificate in {quoted(pki.cert)}"
                self._report.add(self._position(pki.name, pki.key), text)
            self._check_mode(pki)
        for ca in (ca for ca in config.ca if ("ca", ca.name) in used):
            found = self._maybe_read(ca.name, ca.cert, partial(_read, Authorities.read))
            if found:
                authorities[ca.name] = found
        for listen, position in zip(config.listeners, self._parsed.listener_positions, strict=False):
            self._check_listener(listen, position, certificates, authorities)

    def _position(self, owner: str, path: str) -> SourcePosition:
        return self._parsed.names.file_positions[owner, path]

    def _maybe_read[T](self, owner: str, path: str, parse: Callable[[int], T]) -> T | None:
        """What `parse` makes of the open file; None, and a report, if it cannot be read."""
        try:
            if self._strict:
                trust.check_path(path)
            descriptor = _open(path)
            try:
                return parse(descriptor)
            finally:
                os.close(descriptor)
        except PermissionError as error:
            text = f"cannot read {quoted(path)}, not checked: {error.strerror}"
            self._report.warn(self._position(owner, path), text)
        except (OSError, trust.Untrusted) as error:
            self._report.add(self._position(owner, path), f"cannot read {quoted(path)}: {error_text(error)}")
        except TlsUnusable as error:
            self._report.add(self._position(owner, path), f"{quoted(path)}: {error}")
        return None

    def _check_certificate(self, pki: Pki, certificate: Certificate) -> None:
        if certificate.not_after < self._now:
            day = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
            self._report.warn(
                self._position(pki.name, pki.cert), f"the certificate in {quoted(pki.cert)} expired on {day}"
            )
        if pki.name != "*" and not any(covers(name, pki.name) for name in certificate.names):
            names = alternatives(map(quoted, certificate.names[:5])) if certificate.names else "no host"
            text = f"the certificate in {quoted(pki.cert)} is for {names}, not for {quoted(pki.name)}"
            self._report.warn(self._position(pki.name, pki.cert), text)

    def _check_listener(
        self,
        listen: Listen,
        position: SourcePosition,
        certificates: Mapping[str, Certificate],
        authorities: Mapping[str, Authorities],
    ) -> None:
        """Make the TLS context of a listener, unless one of its files had an error, which has been reported."""
        if listen.tls is None or not listen.pki or not certificates.keys() >= {*listen.pki}:
            return
        if listen.ca not in (None, *authorities) or (listen.verify and not listen.ca):
            return
        pki = {pki.name: pki for pki in self._parsed.config.pki}
        tls = slice_tls(listen, listen.tls, self._parsed.config)
        dhe = {name: pki[name].dhe for name in listen.pki}
        try:
            make_context(tls, certificates, authorities.get(tls.ca), dhe, Signer([]))
        except ContextError as error:
            if error.pki:
                position = self._position(error.pki, pki[error.pki].cert)
            self._report.add(position, f"{quoted(pki[error.pki].cert)}: {error}" if error.pki else str(error))
        except TlsUnusable as error:
            self._report.add(position, str(error))

    def _check_mode(self, pki: Pki) -> None:
        try:
            mode = stat.S_IMODE(os.stat(pki.key).st_mode)
        except OSError:
            return
        if mode & stat.S_IRWXO:
            text = f"private key {quoted(pki.key)} can be read by everybody (mode {mode:04o}): chmod o= it"
            self._report.add(self._position(pki.name, pki.key), text)


def _open(path: str) -> int:
    """Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


def _read[T](parse: Callable[[bytes], T], descriptor: int) -> T:
    """Raises OSError, TlsUnusable."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(CERTIFICATE_FILE_MAX + 1)
    if len(content) > CERTIFICATE_FILE_MAX:
        raise TlsUnusable("is too large for certificates")
    return parse(content)


def covers(name: str, host: str) -> bool:
    """Whether `name` of a certificate is `host`, or a wildcard for its leftmost label: RFC 6125 6.4.3."""
    return name == host or (name.startswith("*.") and name[2:] == host.partition(".")[2])
