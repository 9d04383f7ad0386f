"""The values of single words: text in, value out, or ConfigValueError with the reason.

4d 12h 30m 90s   interval, in seconds           35M 1.5G 500K 1024   size, in bytes
25 smtp          port
"""

import re

from smtpd.config.errors import ConfigValueError, alternatives, quoted, suggestion
from smtpd.config.host import is_host_name
from smtpd.domain_name import ascii_form
from smtpd.envelope import Path, Word
from smtpd.ipc.text_limit import text_error
from smtpd.slice import OUR_PREFIX

INTERVAL = re.compile(r"([0-9]{1,18})([smhd])")
SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}
INTERVAL_MAX = 2**31 - 1  # seconds; 68 years

SIZE = re.compile(r"\+?([0-9]{0,19})(?:\.([0-9]{0,19}))?([BKMGTPEbkmgtpe]?)")
BYTES_PER_UNIT = {unit: 1024**power for power, unit in enumerate("BKMGTPE")}
SIZE_MAX = 2**63 - 1

# Names of /etc/services for mail: fixed here, so that a configuration means the same on every machine.
PORT_NAMES = {
    "smtp": 25,
    "mail": 25,
    "smtps": 465,
    "ssmtp": 465,
    "submissions": 465,
    "urd": 465,
    "submission": 587,
    "msa": 587,
}

TAG_LENGTH_MAX = 32

LIMIT_MAX = 2**31 - 1
REPLY_DELAY_MAX = 300  # seconds; RFC 5321 4.5.3.2: no client waits longer for an answer
HOLD_MAX = 999_999_999  # seconds; RFC 4865 4: nine digits
RATE_LIMITS = (  # counted by the dispatchers
    "connection_rate",
    "connection_rate_per_network",
    "message_rate",
    "message_rate_per_network",
    "message_rate_per_user",
    "failure_rate",
    "failure_rate_per_network",
)
LIMIT_RANGES = dict.fromkeys((*RATE_LIMITS, "auth_failure_rate"), (0, LIMIT_MAX))  # 0: any number
LIMIT_RANGES |= {"greet_delay": (0, REPLY_DELAY_MAX), "tarpit_after": (0, LIMIT_MAX), "tarpit": (0, REPLY_DELAY_MAX)}
LIMIT_RANGES["max_hold"] = 0, HOLD_MAX
RELAY_DELAY_MAX = 3600  # seconds
RELAY_DELAYS = (
    *(f"conn_delay_{what}" for what in ("host", "route", "source", "connector", "relay", "domain")),
    *("reconn_delay_route", "session_transaction_delay", "session_keepalive"),
)
LIMIT_RANGES |= dict.fromkeys(RELAY_DELAYS, (0, RELAY_DELAY_MAX))
LIMIT_RANGES |= dict.fromkeys(("message_rate_per_host", "message_rate_per_source", "max_deferred"), (0, LIMIT_MAX))

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
BACKEND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def interval(text: str) -> int:
    """A time interval, in seconds.  Raises ConfigValueError, as all functions here."""
    found = INTERVAL.fullmatch(text)
    if not found:
        raise ConfigValueError(f"invalid interval {quoted(text)}, expected a number and s, m, h or d, such as 4d")
    seconds = int(found[1]) * SECONDS_PER_UNIT[found[2]]
    if not 1 <= seconds <= INTERVAL_MAX:
        raise ConfigValueError(f"interval {text} is out of range, expected 1s to {INTERVAL_MAX // 86400}d")
    return seconds


def size(text: str) -> int:
    """Bytes, as scan_scaled(3) reads them: an optional fraction, an optional unit in either case.  May be 0."""
    found = SIZE.fullmatch(text)
    if not found or not (found[1] or found[2]):
        raise ConfigValueError(f"invalid size {quoted(text)}, expected a number with or without K, M or G, such as 35M")
    whole, fraction, unit = found[1] or "0", found[2] or "", found[3].upper() or "B"
    number = int(whole) * BYTES_PER_UNIT[unit]
    if unit != "B":
        number += int(fraction or 0) * BYTES_PER_UNIT[unit] // 10 ** len(fraction)
    if number > SIZE_MAX or (not number and (whole + fraction).strip("0")):
        raise ConfigValueError(f"size {text} is out of range, expected 0, or 1 byte to less than 8E")
    return number


def port(text: str) -> int:
    if not re.fullmatch("-?[0-9]+", text):
        if text not in PORT_NAMES:
            names = alternatives(["a number", *PORT_NAMES])
            raise ConfigValueError(f"unknown port {quoted(text)}, expected {names}{suggestion(text, PORT_NAMES)}")
        return PORT_NAMES[text]
    return number(text, "port", 1, 65535)


def limit(text: str, key: str) -> int:
    """The value of the limit `key`, within its range: most cannot be 0, as nothing would be accepted then."""
    least, most = LIMIT_RANGES.get(key, (1, LIMIT_MAX))
    return number(text, "value", least, most)


def dispatchers(text: str) -> int:
    return number(text, "number of dispatchers", 1, 64)


def number(text: str, what: str, least: int, most: int) -> int:
    value = int(text[:20])
    if not least <= value <= most:
        raise ConfigValueError(f"{what} {text[:20]} is out of range, expected {least} to {most}")
    return value


def name(text: str) -> str:
    if not text:
        raise ConfigValueError("empty name")
    return _fitting(Word, text)


def tag(text: str) -> str:
    if not 1 <= len(text) <= TAG_LENGTH_MAX:
        raise ConfigValueError(f"invalid tag of {len(text)} characters, expected 1 to {TAG_LENGTH_MAX}")
    return _fitting(Word, text)


def _fitting(kind: object, text: str) -> str:
    """The same text, if it fits the imsg type `kind`."""
    if wrong := text_error(kind, text):
        raise ConfigValueError(f"invalid value {quoted(text)}: {wrong}")
    return text


def host_name(text: str) -> str:
    """A host name for the banner and trace headers: one printable word of ASCII."""
    text = text.removesuffix(".") if text.isascii() else ascii_form(text)
    if not 1 <= len(text) <= 255 or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigValueError(f"invalid host name {quoted(text)}")
    return text


def pki_name(text: str) -> str:
    """The name of a pki or a ca: a host name as in DNS and TLS, in lower case; `*.` and such a name; or `*`."""
    name = ascii_form(text)
    if name != "*" and (len(name) > 255 or not is_host_name(name.removeprefix("*."))):
        raise ConfigValueError(f'invalid name {quoted(text)} of a pki or ca, expected a host name or "*"')
    return name


def sub_addr_delim(text: str) -> str:
    if len(text) != 1 or not text.isascii() or not text.isprintable() or text in " @":
        raise ConfigValueError(f'invalid delimiter {quoted(text)}, expected one printable character other than "@"')
    return text


def absolute_path(text: str) -> str:
    if not text.startswith("/"):
        raise ConfigValueError(f"path {quoted(text)} is not absolute, expected / at its beginning")
    return _fitting(Path, text)


def backend(text: str) -> str:
    """The backend of a table, which may become part of a program's name."""
    if not BACKEND.fullmatch(text):
        raise ConfigValueError(
            f"invalid table backend {quoted(text)}, expected file, db, passwd, sqlite or the name of a program"
        )
    return text


def user(text: str) -> str:
    """The user that an action or a command runs as: neither root nor one of smtpd's own."""
    if not USER.fullmatch(text):
        raise ConfigValueError(f"invalid user name {quoted(text)}")
    if text == "root":
        raise ConfigValueError("root receives no mail and runs no command, expected another user")
    if text.startswith(OUR_PREFIX):
        raise ConfigValueError(f"{quoted(text)} is one of smtpd's own users, expected another user")
    return text
