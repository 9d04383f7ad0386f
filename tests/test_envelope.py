"""What an envelope may hold."""

import msgspec
import pytest

from smtpd.envelope import (
    Path,
    Text,
    Word,
    duration_text,
    envelope_id,
    envelope_text,
    first_envelope,
    last_envelope,
    message_of,
    message_text,
)


@pytest.mark.parametrize("kind", [Word, Path, Text])
@pytest.mark.parametrize("value", ["a\n", "\na", "a\rb", "a\0b", "\x7f", "x" * 1025])
def test_no_control_character_gets_into_an_envelope(kind, value):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def test_a_printable_value_passes():
    assert msgspec.msgpack.decode(msgspec.msgpack.encode("jürgen"), type=Word) == "jürgen"


def test_ids_nest_and_print_as_hex():
    first, last = first_envelope(0x7FFFFFFF), last_envelope(0x7FFFFFFF)
    assert message_of(first) == message_of(last) == 0x7FFFFFFF
    assert last < 2**63  # signed 64 bits hold it
    assert message_text(0x12AB) == "000012ab"
    assert envelope_text(envelope_id(0x12AB, 1)) == "000012ab00000001"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (39, "39s"),
        (357, "5m57s"),
        (3600, "1h"),
        (86400, "1d"),
        (86405, "1d5s"),
        (93784, "1d2h3m4s"),
        (-5, "0s"),
    ],
)
def test_a_duration_reads_as_in_opensmtpd(seconds, text):
    assert duration_text(seconds) == text
