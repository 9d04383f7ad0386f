"""Relay actions are checked completely, and refused as long as nothing carries them out."""

import pytest

from smtpd.config.errors import ConfigErrors
from smtpd.config.process import configure


def errors_of(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as refused:
        configure("f", text, {}, read=lambda path: "")
    return list(map(str, refused.value.errors))


def test_a_relay_action_is_refused_at_its_method():
    assert errors_of('action "out" relay\nmatch for any action "out"') == [
        'f:1:14: "action … relay" is not available yet'
    ]


def test_what_else_is_wrong_with_it_is_reported_as_well():
    assert errors_of('action "out" relay host lmtp://x\naction "in" relay srs\nmatch for any action "in"') == [
        'f:1:14: "action … relay" is not available yet',
        'f:1:25: invalid host "lmtp://x": lmtp requires a port, as in lmtp://localhost:24',
        'f:2:13: "action … relay" is not available yet',
        'f:2:19: "srs" requires a key, as in: srs key "a long secret"',
    ]


def test_limits_and_srs_are_no_relay_actions():
    made = configure("f", 'mta limit inet4\nsrs key "k"\nmatch reject', {}, read=lambda path: "")
    assert made.slices.dispatcher.relays == ()
    assert made.slices.lookup.srs is not None
