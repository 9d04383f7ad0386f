"""Is this the password of that user?  PAM is asked, by python-pam, under the service "smtpd", or "other" where there is
no such service.

    yes      it is theirs, and their account is in order
    no       it is not, or something else that another try would not change; and without asking PAM: to root, to users
             of the system itself, to an empty password
    later    a module, a server or a file is not as it should be

It opens no session and sets no credentials: nothing logs in.
"""

import ctypes
import ipaddress
import os
import pwd
from typing import Protocol

from smtpd.imsg import PasswordTried, TryPassword
from smtpd.ipc.log import visible
from smtpd.slice import LOWEST_ID, NOBODY, OUR_PREFIX, USER_NAME

SERVICE = "smtpd"
REASON_MAX = 200  # characters

# security/_pam_types.h
_RHOST, _FAIL_DELAY = 4, 10
_DISALLOW_NULL_AUTHTOK = 1
_REFUSALS = {
    6: "permission denied",
    7: "wrong password",
    8: "not allowed to authenticate",
    10: "no such user",
    11: "too many tries",
    12: "the password has to be changed",
    13: "the account has expired",
    16: "the credentials have expired",
    27: "the password has expired",
}

_NO_DELAY = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)(lambda *_: None)


class Authenticator(Protocol):
    """What is used of pam.PamAuthenticator; it has its calls of the library as attributes, to be replaced."""

    code: int
    reason: object
    pam_authenticate: object

    def authenticate(self, username: str, password: str, *, service: str, resetcreds: bool) -> bool: ...


def make_authenticator() -> Authenticator:
    """Loads the library; what it does for that is not possible later.  Raises ImportError, OSError, AttributeError."""
    import pam  # type: ignore[import-untyped]

    return pam.PamAuthenticator()


def try_password(asked: TryPassword, authenticator: Authenticator) -> PasswordTried:
    """A user who does not exist costs what others cost, and is refused even if a module knows a password for it."""
    if not asked.password:
        return PasswordTried("no", "empty password")
    try:
        entry = pwd.getpwnam(asked.user) if USER_NAME.fullmatch(asked.user) else None
    except KeyError:
        entry = None
    objection = "no such user" if entry is None else find_objection(asked.user, entry)
    if entry is not None and objection:
        return PasswordTried("no", objection)
    tried = _ask(asked, authenticator)
    return PasswordTried("no", objection) if objection and tried.verdict == "yes" else tried


def find_objection(name: str, entry: pwd.struct_passwd) -> str | None:
    """Why this user never logs in here, whatever the password."""
    if entry.pw_name != name:
        return "a database that folds case would make one user out of two names"
    if entry.pw_uid == 0:
        return "uid 0"
    if entry.pw_uid < LOWEST_ID or entry.pw_uid in NOBODY or name.startswith(OUR_PREFIX):
        return "a user of the system itself"
    return None


def _ask(asked: TryPassword, authenticator: Authenticator) -> PasswordTried:
    _prepare(authenticator, asked.address)
    if authenticator.authenticate(asked.user, asked.password, service=SERVICE, resetcreds=False):
        return PasswordTried("yes", "")
    # Not started as root, PAM says "wrong" of passwords that it is not able to check.
    if authenticator.code in _REFUSALS and os.geteuid() == 0:
        return PasswordTried("no", _REFUSALS[authenticator.code])
    return PasswordTried("later", visible(f"PAM: {authenticator.reason}")[:REASON_MAX])


def _prepare(authenticator: Authenticator, address: str) -> None:
    """What python-pam has no words for, said in the moment when there is a handle."""
    library: ctypes.CDLL = authenticator  # type: ignore[assignment]
    authenticate, set_item = library.pam_authenticate, library.pam_set_item

    def authenticate_client(handle: object, _flags: int) -> int:
        set_item(handle, _RHOST, _numeric(address).encode())
        set_item(handle, _FAIL_DELAY, ctypes.cast(_NO_DELAY, ctypes.c_void_p))  # the parent delays the next try instead
        # Otherwise, where the system's list of modules says `nullok`, any password is right for a user who has none.
        return authenticate(handle, _DISALLOW_NULL_AUTHTOK)

    authenticator.pam_authenticate = authenticate_client


def _numeric(address: str) -> str:
    """Empty for what is no address: lookup could have been taken over, and modules write it into a log of root's
    and look names up by it."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""
