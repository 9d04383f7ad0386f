"""Delivery targets of actions, checked: the text itself, or ConfigValueError with the reason.

"~/Mail/%{user.username}"                          the path of a Maildir
mx:24  192.0.2.1  "[::1]:24"  "/run/lmtp"          an LMTP destination
"procmail -a %{rcpt.user}"  "/bin/nice %{mda}"     a command; a wrapper of another command
"""

import ipaddress
import re

from smtpd.config import specifier
from smtpd.config.build.value import number
from smtpd.config.errors import ConfigValueError, escaped, quoted, suggestion
from smtpd.config.host import is_host_name
from smtpd.domain_name import ascii_form
from smtpd.envelope import CommandLine, Path
from smtpd.ipc.text_limit import text_error

MAILDIR = "~/Maildir"
HOME_PREFIXES = ("~/", "%{user.directory}")
SOCKET_PATH_MAX = 107  # bytes; sun_path of unix(7) without its NUL
SPECIFIER_START = re.compile(r"%\{([a-z.]+)")
# Specifiers of other programs: %u and %d of Dovecot, $user of Postfix and of shells.
_FOREIGN_SPECIFIER = re.compile(r"%%|(%[A-Za-z](?![A-Za-z])|\$\{?[A-Za-z_]+\}?)")
_REPLACEMENT = {"%d": "%{dest.domain}", "%a": "%{dest}", "%h": "%{user.directory}"}
_SHORT_NAME = {"user": "user.username", "username": "user.username", "home": "user.directory", "domain": "dest.domain"}
_SCHEME = re.compile(r"^(?:unix|lmtp|inet)6?:(?://)?")  # of Postfix and others
DESTINATION = re.compile(r"(?:(?P<host>[^:\[\]]+)|\[(?P<address>[^\[\]]+)\])(?::(?P<port>[0-9]{1,5}))?")


def maildir_path(text: str) -> str:
    template(text)
    if not text.lower().startswith(("/", *HOME_PREFIXES)):
        raise ConfigValueError(f"path {quoted(text)} is not absolute, expected / or ~/ at its beginning")
    if wrong := text_error(Path, text):
        raise ConfigValueError(f"invalid path {quoted(text)}: {wrong}")
    return text


def foreign_specifier_warning(path: str) -> str:
    """A warning about a specifier of another program in a path; empty if there is none."""
    found = next((found[1] for found in _FOREIGN_SPECIFIER.finditer(path) if found[1]), None)
    if not found:
        return ""
    instead = _REPLACEMENT.get(found, "%{user.username}")
    return f"{quoted(found)} is not a format specifier and is taken literally, expected one such as {instead}"


def lmtp_destination(text: str) -> str:
    """host, host:port, [address]:port or the path of a socket.  Raises ConfigValueError."""
    if "%" in text:
        raise ConfigValueError(f"format specifiers are not allowed in an LMTP destination: {quoted(text)}")
    if text.startswith("/"):
        if len(text.encode()) > SOCKET_PATH_MAX:
            raise ConfigValueError(f"socket path is too long, expected at most {SOCKET_PATH_MAX} bytes")
        if wrong := text_error(Path, text):
            raise ConfigValueError(f"invalid path {quoted(text)}: {wrong}")
        return text
    if not text.isascii():
        host, colon, port = text.partition(":")
        text = ascii_form(host) + colon + port
    found = DESTINATION.fullmatch(text)
    if not found or not (is_host_name(found["host"]) if found["host"] else is_ipv6(found["address"])):
        meant = f"[{text}]" if is_ipv6(text) else _SCHEME.sub("", text)
        hint = f" (did you mean {escaped(meant)}?)" if meant not in ("", text) else ""
        raise ConfigValueError(
            f"invalid LMTP destination {quoted(text)}, expected host, host:port, [address]:port or a path{hint}"
        )
    if found["port"] is not None:
        number(found["port"], "port", 1, 65535)
    return text


def is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def command(text: str) -> str:
    _command(text)
    try:
        template(text).check_command()
    except specifier.TemplateError as malformed:
        raise ConfigValueError(escaped(str(malformed))) from None
    return text


def wrapper(text: str) -> str:
    _command(text)
    template(text, wrapper=True)
    return text


def wrapped(wrapper: str, text: str) -> str:
    """`text`, a command, checked within `wrapper`; each of them is valid by itself.  Raises ConfigValueError."""
    try:
        specifier.wrap(specifier.parse(wrapper, wrapper=True), specifier.parse(text)).check_command()
    except specifier.TemplateError as malformed:
        raise ConfigValueError(f"the command within its wrapper is {malformed}") from None
    return text


def _command(text: str) -> None:
    if not text.strip():
        raise ConfigValueError("empty command")
    if wrong := text_error(CommandLine, text):
        raise ConfigValueError(f"invalid command: {wrong}")


def template(text: str, *, wrapper: bool = False) -> specifier.Template:
    try:
        return specifier.parse(text, wrapper=wrapper)
    except specifier.TemplateError as malformed:
        known = sorted(specifier.NAMES)
        strange = [name for name in SPECIFIER_START.findall(text.lower()) if name not in known]
        hint = suggestion(_SHORT_NAME.get(strange[0], strange[0]), known) if strange else ""
        raise ConfigValueError(escaped(str(malformed)) + hint) from None
