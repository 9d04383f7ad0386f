"""Options of relay actions without effect."""

import pytest

from tests.config.machine import sliced

ONE_HOST = '"failover" is without effect: there is one host'
NO_SRC = '"helo-src" is without effect: there is no src, whose addresses it has names for'
OTHER_SRC = '"helo-src" is without effect: it has no address of src'
CIPHERS = '"ciphers" is without effect: it is for TLS 1.2 and earlier, and protocols allows TLS 1.3 only'


@pytest.mark.parametrize(
    "options, warned",
    [
        ("host { a.example.org } failover", [ONE_HOST]),
        ("host { a.example.org, b.example.org } failover", []),
        ("host { a.example.org }", []),
        ('helo-src { "192.0.2.1" = a.example.org }', [NO_SRC]),
        ('helo-src { "192.0.2.9" = a.example.org } src "192.0.2.1"', [OTHER_SRC]),
        ('helo-src { "192.0.2.1" = a.example.org, "192.0.2.9" = b.example.org } src "192.0.2.1"', []),
        ('helo-src { "2001:DB8::1" = a.example.org } src "2001:db8::1"', []),
        ('src "192.0.2.1"', []),
        ('tls ciphers "HIGH" protocols "tlsv1.3"', [CIPHERS]),
        ('tls ciphers "HIGH" protocols "tlsv1.2,tlsv1.3"', []),
        ('tls ciphers "HIGH"', []),
        ('tls protocols "tlsv1.3"', []),
    ],
)
def test_what_has_no_effect_is_warned_of(options, warned):
    assert [text.split(": ", 1)[1] for text in sliced(f'action "x" relay {options}').warnings] == warned
