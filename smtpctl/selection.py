"""The words that select envelopes, for all commands that take some.

    from ADDRESS    the sender
    to ADDRESS      the recipient, as the client named it or after aliases
    action NAME     what smtpd.conf calls the action
    error TEXT      that of the last attempt; a part of it is enough
    older TIME      created before that
    newer TIME      created since
    is STATE        waiting, paused, held, tried, untried

An address may be that of a whole domain (@spam.test); <> is the null sender.  In addresses and errors `*` stands for
any text and `?` for one character, and upper and lower case are the same.  A TIME is 90s, 15m, 4h, 2d, 1w or several
of these.  The same word again is an alternative; different words have to hold together.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from smtpctl.command_parser import UnknownCommand
from smtpctl.visible import visible
from smtpd.selection import Selection

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
STATES: dict[str, dict[str, bool]] = {
    "waiting": {"suspended": False, "held": False},
    "paused": {"suspended": True},
    "held": {"held": True},
    "tried": {"tried": True},
    "untried": {"tried": False},
}


class SelectionError(UnknownCommand):
    """The words select nothing that there could be."""

    def __init__(self, reason: str):
        super().__init__(reason, ())


class _Contradiction(Exception):
    pass


def parse(words: Sequence[str], now: int) -> Selection:
    """`now`: seconds since 1970.  Raises SelectionError."""
    if len(words) % 2:
        raise SelectionError(f"a value is missing behind {visible(words[-1])}")
    fields: dict[str, Any] = {}
    for word, value in zip(words[::2], words[1::2], strict=True):
        if word not in WORDS:
            raise SelectionError(f"unknown word: {visible(word)} (a selection has {', '.join(WORDS)})")
        try:
            WORDS[word](fields, value, now)
        except _Contradiction:
            before = words[words.index(word) + 1]
            raise SelectionError(f"{word} {visible(before)} and {word} {visible(value)} cannot both be") from None
    try:
        return msgspec.convert(msgspec.to_builtins(Selection(**fields)), Selection)
    except msgspec.ValidationError as error:
        raise SelectionError(f"cannot be asked for: {error}") from None


def duration(text: str) -> int:
    """Seconds.  Raises SelectionError."""
    if not re.fullmatch(r"(?:[0-9]{1,9}[smhdw])+", text, re.ASCII):
        raise SelectionError(f"not a time: {visible(text)} (as 90s, 15m, 4h, 2d, 1w, 1d12h)")
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"([0-9]+)([smhdw])", text))


def _add(field: str, value: str, fields: dict[str, Any]) -> None:
    values = fields.setdefault(field, [])
    assert isinstance(values, list)
    values.append(value)


def _address(field: str) -> Callable[[dict[str, Any], str, int], None]:
    def take(fields: dict[str, Any], value: str, _now: int) -> None:
        if value == "<>":
            value = ""
        elif not value:
            raise SelectionError("an empty address; the null sender is <>")
        _add(field, f"*{value}" if value.startswith("@") else value, fields)

    return take


def _action(fields: dict[str, Any], value: str, _now: int) -> None:
    _add("actions", value, fields)


def _error(fields: dict[str, Any], value: str, _now: int) -> None:
    _add("errors", f"*{value}*", fields)


def _once(field: str, value: object, fields: dict[str, Any]) -> None:
    if fields.setdefault(field, value) != value:
        raise _Contradiction


def _older(fields: dict[str, Any], value: str, now: int) -> None:
    _once("created_until", max(0, now - duration(value)), fields)


def _newer(fields: dict[str, Any], value: str, now: int) -> None:
    _once("created_since", max(0, now - duration(value)), fields)


def _state(fields: dict[str, Any], value: str, _now: int) -> None:
    if value not in STATES:
        raise SelectionError(f"unknown state: {visible(value)} ({', '.join(STATES)})")
    for field, wanted in STATES[value].items():
        _once(field, wanted, fields)


WORDS: dict[str, Callable[[dict[str, Any], str, int], None]] = {
    "from": _address("senders"),
    "to": _address("recipients"),
    "action": _action,
    "error": _error,
    "older": _older,
    "newer": _newer,
    "is": _state,
}


def current(words: Sequence[str]) -> Selection:
    """As of now.  Raises SelectionError."""
    return parse(words, int(time.time()))
