"""TLS options: the words of `protocols`, `ciphers` and `dhe`, as libtls has them.

secure  default                 TLS 1.2 and 1.3
all  legacy  tlsv1              1.0 to 1.3
tlsv1.2,tlsv1.3                 these; they have to be consecutive
all,!tlsv1.0  !tlsv1.0          all but these

secure  default                 those with forward secrecy and authenticated encryption; also the default
compat  legacy  insecure  all   progressively more
ECDHE+AESGCM:!SHA               an OpenSSL cipher list, see openssl-ciphers(1); for TLS up to 1.2
"""

import ssl

from smtpd.config.errors import ConfigValueError, alternatives, quoted, suggestion
from smtpd.slice import NEVER_CIPHERS

VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")  # in ascending order
SECURE = VERSIONS[2:]
PROTOCOLS = {
    "all": VERSIONS,
    "default": SECURE,
    "legacy": VERSIONS,
    "secure": SECURE,
    "tlsv1": VERSIONS,
    "tlsv1.0": VERSIONS[:1],
    "tlsv1.1": VERSIONS[1:2],
    "tlsv1.2": VERSIONS[2:3],
    "tlsv1.3": VERSIONS[3:],
}
# Words of tls_config_set_ciphers(3), which files of OpenSMTPD may have -> cipher list; empty: the default of tls/.
CIPHERS = {
    "secure": "",
    "default": "",
    "compat": "HIGH:!aNULL",
    "legacy": "HIGH:MEDIUM:!aNULL",
    "insecure": "ALL:!aNULL:!eNULL",
    "all": "ALL:!aNULL:!eNULL",
}
DHE = ("none", "auto", "legacy")


def protocols(text: str) -> str:
    """The same text, checked.  Raises ConfigValueError."""
    versions(text)
    return text


def ciphers(text: str) -> str:
    """The same text, checked.  Raises ConfigValueError."""
    try:
        if text.lower() not in CIPHERS:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(text + NEVER_CIPHERS)
    except (ssl.SSLError, ValueError):  # ValueError: a NUL
        expected = "expected secure or an OpenSSL cipher list, see openssl-ciphers(1)"
        raise ConfigValueError(f"no usable cipher in {quoted(text)}, {expected}") from None
    return text


def dhe(text: str) -> str:
    """The word in lower case.  Case is ignored.  Raises ConfigValueError."""
    if text.lower() not in DHE:
        raise ConfigValueError(
            f"unknown word {quoted(text)}, expected {alternatives(DHE)}{suggestion(text.lower(), DHE)}"
        )
    return text.lower()


def versions(text: str) -> tuple[str, ...]:
    """The TLS versions that `text` enables, ascending and consecutive.  Raises ConfigValueError."""
    spoken = set[str]()
    for word in text.lower().replace(":", ",").split(","):
        name = word.strip().removeprefix("!").strip()
        if name not in PROTOCOLS:
            expected = f"expected {alternatives(PROTOCOLS)}{suggestion(name, PROTOCOLS)}"
            raise ConfigValueError(f"unknown TLS version {quoted(word.strip())}, {expected}")
        if not word.strip().startswith("!"):
            spoken |= set(PROTOCOLS[name])
        else:
            spoken = (spoken or set(VERSIONS)) - set(PROTOCOLS[name])
    numbers = [number for number, version in enumerate(VERSIONS) if version in spoken]
    if not numbers:
        raise ConfigValueError(f"{quoted(text)} enables no TLS version")
    if numbers[-1] - numbers[0] >= len(numbers):
        raise ConfigValueError(f"{quoted(text)} has a gap, expected consecutive TLS versions")
    return tuple(VERSIONS[number] for number in numbers)


def cipher_string(text: str) -> str:
    """The OpenSSL cipher list for `text`; empty: the default of tls/."""
    return CIPHERS.get(text.lower(), text)
