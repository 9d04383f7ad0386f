"""Addresses, paths and domains: what is taken can be printed, and read again as the same.

data    UTF-8, read as a path, as a mailbox and as a domain
"""

import unicodedata

from smtpd.smtp.address import (
    MAX_DOMAIN,
    MAX_LOCAL,
    NULL,
    Address,
    AddressError,
    parse_domain,
    parse_mailbox,
    parse_path,
)


def fuzz(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    _check_path(text)
    _check_mailbox(text)
    _check_domain(text)


def _check_path(text: str) -> None:
    try:
        address, rest = parse_path(text)
    except AddressError as error:
        assert str(error).isascii()
        return
    assert text.endswith(rest)
    assert parse_path(f"<{address}>{rest}") == (address, rest)
    _check(address)


def _check_mailbox(text: str) -> None:
    try:
        address = parse_mailbox(text)
    except AddressError:
        return
    assert address != NULL
    _check(address)


def _check(address: Address) -> None:
    printed = str(address)
    if address != NULL:
        assert parse_mailbox(printed) == address
    assert len(address.local.encode()) <= MAX_LOCAL and len(address.domain.encode()) <= MAX_DOMAIN
    assert len(printed) <= 1024
    for char in printed:
        kind = unicodedata.category(char)
        assert kind not in ("Cc", "Co", "Cs", "Zl", "Zp"), printed
        assert kind != "Cf" or char in "\u200c\u200d", printed
        assert kind != "Zs" or char == " ", printed


def _check_domain(text: str) -> None:
    try:
        name = parse_domain(text)
    except AddressError:
        return
    assert parse_domain(name) == name
    assert parse_path(f"<bob@{name}>") == (Address("bob", name), "")
