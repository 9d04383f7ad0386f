"""What a listener's words about TLS mean: `protocols`, `ciphers` and `dhe`, as libtls has them.

secure  default                 TLS 1.2 and 1.3
all  legacy  tlsv1              1.0 to 1.3
tlsv1.2,tlsv1.3                 these; only those that follow each other can be had
all,!tlsv1.0  !tlsv1.0          all but these

secure  default                 the ciphers that are good today, which is what nothing said means too
compat  legacy  insecure  all   ever more of them
ECDHE+AESGCM:!SHA               OpenSSL's own words, see openssl-ciphers(1); for TLS up to 1.2
"""

import ssl

from smtpd.config.errors import ConfigValueError, alternatives, quoted, suggestion
from smtpd.slice import NEVER_CIPHERS

VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")  # in a row
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
# Words of tls_config_set_ciphers(3), which OpenSMTPD's configurations may have -> ciphers; empty: our own choice.
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
    """The same text, or Wrong."""
    versions(text)
    return text


def ciphers(text: str) -> str:
    """The same text, or Wrong."""
    try:
        if text.lower() not in CIPHERS:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(text + NEVER_CIPHERS)
    except (ssl.SSLError, ValueError):  # ValueError: a NUL
        expected = "expected secure, or what openssl-ciphers(1) says"
        raise ConfigValueError(f"{quoted(text)} means no cipher that can be had, {expected}") from None
    return text


def dhe(text: str) -> str:
    """The word in lower case, or Wrong.  Case does not count in it."""
    if text.lower() not in DHE:
        raise ConfigValueError(
            f"{quoted(text)} is not known here, expected {alternatives(DHE)}{suggestion(text.lower(), DHE)}"
        )
    return text.lower()


def versions(text: str) -> tuple[str, ...]:
    """Those that are spoken, in a row.  Raises Wrong."""
    spoken = set[str]()
    for word in text.lower().replace(":", ",").split(","):
        name = word.strip().removeprefix("!").strip()
        if name not in PROTOCOLS:
            expected = f"expected {alternatives(PROTOCOLS)}{suggestion(name, PROTOCOLS)}"
            raise ConfigValueError(f"{quoted(word.strip())} is no protocol, {expected}")
        if not word.strip().startswith("!"):
            spoken |= set(PROTOCOLS[name])
        else:
            spoken = (spoken or set(VERSIONS)) - set(PROTOCOLS[name])
    numbers = [number for number, version in enumerate(VERSIONS) if version in spoken]
    if not numbers:
        raise ConfigValueError(f"{quoted(text)} leaves no protocol to be spoken")
    if numbers[-1] - numbers[0] >= len(numbers):
        raise ConfigValueError(f"{quoted(text)} has a gap, expected versions that follow each other")
    return tuple(VERSIONS[number] for number in numbers)


def cipher_string(text: str) -> str:
    """In OpenSSL's words; empty: our own choice."""
    return CIPHERS.get(text.lower(), text)
