"""A host that is the same everywhere, and files that are nowhere but here."""

from collections.abc import Container, Mapping
from pathlib import Path

from smtpd.config.errors import ConfigErrors
from smtpd.config.host import Host
from smtpd.config.parser import parse
from smtpd.config.resolve.slicing import Sliced, slice_config
from smtpd.slice import Slices

RULES = "\naction a maildir\nmatch reject"
AUTHORITIES = "/etc/ssl/all"
RESOLVED = {"mail.example.org": ("192.0.2.1", "2001:db8::1"), "four.example.org": ("192.0.2.2",)}
USERS = {"lists": 1001, "vmail": 1002, "mail": 8, "nobody": 65534}
INTERFACES = {
    "lo": ("127.0.0.1", "::1"),
    "eth0": ("192.0.2.1", "2001:db8::1", "fe80::1%eth0"),
    "eth1": (),
    "eth2": ("192.0.2.9",),
}


def sliced(
    text: str,
    *,
    libexec: tuple[str, ...] = ("/nowhere", "/else"),
    public: tuple[str, ...] = (),
    real: tuple[Path, ...] = (),
    authorities: str = AUTHORITIES,
    texts: Mapping[str, str] = {},  # noqa: B006  (never changed)
    **files: str,
) -> Sliced:
    """`files`: their texts by path, with _ for /; `texts`: by path; `real` are those that are there, too.
    `public`: the paths of those that everybody may read."""
    there = {name.replace("_", "/"): content for name, content in files.items()}
    there |= texts
    there |= {str(path): path.read_text() for path in real}

    def read(path: str) -> str:
        if path not in there:
            raise FileNotFoundError(2, "No such file or directory")
        return there[path]

    return slice_config(
        parse("f", text=text + RULES, read=read), this_machine(there, public, libexec, authorities), read
    )


def this_machine(
    there: Container[str],
    public: Container[str] = (),
    libexec: tuple[str, ...] = ("/nowhere", "/else"),
    authorities: str = AUTHORITIES,
) -> Host:
    """`there`: the paths of all files."""

    def resolve(name: str) -> tuple[str, ...]:
        return RESOLVED.get(name, ())

    has_file, is_public = there.__contains__, public.__contains__
    return Host("MX.example.org", INTERFACES, resolve, USERS.get, has_file, is_public, libexec, authorities)


def slices(text: str, **more) -> Slices:
    return sliced(text, **more).slices


def errors_of(text: str, **more) -> list[str]:
    try:
        sliced(text, **more)
    except ConfigErrors as errors:
        return [str(error) for error in errors.errors]
    return []
