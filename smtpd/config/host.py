"""The machine: its name, interfaces and their addresses, resolver, programs, users and files.

`this_host` gathers it once; slicing reads the Host, and nothing else of the machine.
"""

import ctypes
import ipaddress
import os
import pwd
import re
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass

from smtpd.domain_name import ascii_form

MAILNAME = "/etc/mailname"
LIBEXEC = (
    "/usr/local/libexec/smtpd",
    "/usr/libexec/smtpd",
    "/usr/local/libexec/opensmtpd",
    "/usr/libexec/opensmtpd",
    "/usr/lib/opensmtpd",
)
# Of Debian and Alpine, OpenBSD and FreeBSD, Fedora, openSUSE.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")

# A socket address of the BSDs begins with its length, one byte, and the family has the second one.
SHORT_FAMILY = "bsd" in sys.platform or sys.platform == "darwin"


@dataclass(frozen=True)
class Host:
    """`interfaces`: name -> numeric addresses; an interface may have none.  A link-local one ends in `%interface`.
    `resolve`: name -> numeric addresses; none if there is no such name.
    `find_uid`: by name; None if there is no such user.  `has_file`: by path.
    `is_public`: whether everybody may read a file, by path.
    `libexec`: the directories of table programs.
    `authorities`: the file with the certificates of all authorities that this machine trusts; empty: none was found."""

    server_name: str
    interfaces: dict[str, tuple[str, ...]]
    resolve: Callable[[str], tuple[str, ...]]
    find_uid: Callable[[str], int | None]
    has_file: Callable[[str], bool]
    is_public: Callable[[str], bool]
    libexec: tuple[str, ...] = LIBEXEC
    authorities: str = ""

    def find_program(self, name: str) -> str | None:
        """The path of the first executable of that name in `libexec`; None if there is none."""
        paths = (os.path.join(directory, name) for directory in self.libexec)
        return next((path for path in paths if is_program(path)), None)


def this_host(mailname: str = MAILNAME) -> Host:
    return Host(
        server_name=choose_server_name(read_first_line(mailname), socket.gethostname(), canonical_name),
        interfaces=interfaces(),
        resolve=resolve,
        find_uid=find_uid,
        has_file=has_file,
        is_public=is_public,
        authorities=next(filter(has_content, AUTHORITIES), ""),
    )


def find_uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def has_file(path: str) -> bool:
    """Whether the file exists; True also if that may not be known: reading it gives a better error."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def is_public(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def choose_server_name(mailname: str, hostname: str, canonical: Callable[[str], str]) -> str:
    """The first line of the mailname file, a host name with a dot, its canonical name, or the host name itself."""
    if is_host_name(mailname):
        return mailname
    if "." in hostname and is_host_name(hostname):
        return hostname
    full = canonical(hostname)
    candidates = (full, hostname, "localhost")
    return next(name for name in candidates if is_host_name(name))


def is_host_name(name: str) -> bool:
    """Whether a configuration may name a host so (RFC 1123 2.1, with underscores); an IPv4 address fits too.

    That of lookup is another one: of names that DNS has for an address, where hyphens may stand at the end of a label,
    and a name that looks like an address is refused."""
    return len(name) <= 255 and HOST_NAME.fullmatch(name) is not None


def numeric(operand: str) -> str | None:
    """The canonical text of an IP address, which may be in brackets; None for anything else."""
    bare = operand[1:-1] if operand.startswith("[") and operand.endswith("]") else operand
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None


def read_first_line(path: str) -> str:
    """The first line of a file, stripped; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return _in_dns(file.readline(1024).strip())
    except OSError:
        return ""


def _in_dns(name: str) -> str:
    return name if name.isascii() else ascii_form(name)


def canonical_name(hostname: str) -> str:
    """The canonical name from the resolver; empty if it does not know the host."""
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return ""
    return found[0][3]


def resolve(name: str) -> tuple[str, ...]:
    """The addresses of a host, in the resolver's order, each once; a numeric address itself, its scope by name."""
    try:
        found = socket.getaddrinfo(_in_dns(name), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    internet = (socket.AF_INET, socket.AF_INET6)
    return tuple(dict.fromkeys(address_of(address) for family, _, _, _, address in found if family in internet))


def address_of(socket_address: tuple) -> str:
    """The numeric address of a socket address of getaddrinfo or getsockname, with %interface if it has a scope."""
    address, scope = str(socket_address[0]).partition("%")[0], socket_address[3] if len(socket_address) > 3 else 0
    if not scope:
        return address
    try:
        return f"{address}%{socket.if_indextoname(scope)}"
    except OSError:
        return f"{address}%{scope}"  # no such interface


class _Interface(ctypes.Structure):
    """struct ifaddrs of getifaddrs(3), the fields that all systems share."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def interfaces() -> dict[str, tuple[str, ...]]:
    """The addresses of each interface, by getifaddrs(3), which needs no privilege.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    found: dict[str, list[str]] = {}
    try:
        entry = first
        while entry:
            name = (entry.contents.name or b"").decode(errors="replace")
            addresses = found.setdefault(name, [])
            address = _address(entry.contents.address, name)
            if address and address not in addresses:
                addresses.append(address)
            entry = entry.contents.next
    finally:
        libc.freeifaddrs(first)
    return {name: tuple(addresses) for name, addresses in found.items()}


def _address(pointer: int | None, interface: str) -> str | None:
    """The text of a struct sockaddr; None if it is neither IPv4 nor IPv6."""
    if not pointer:
        return None
    start = ctypes.string_at(pointer, 2)
    family = start[1] if SHORT_FAMILY else int.from_bytes(start, sys.byteorder)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, ctypes.string_at(pointer + 4, 4))
    if family != socket.AF_INET6:
        return None
    packed = ctypes.string_at(pointer + 8, 16)
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
        # the BSDs keep the number of the interface in the second word of a link-local address
        packed = packed[:2] + b"\0\0" + packed[4:]
        return f"{socket.inet_ntop(family, packed)}%{interface}"
    return socket.inet_ntop(family, packed)
