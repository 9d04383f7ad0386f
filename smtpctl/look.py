"""Commands that show what the daemon holds."""

import codecs
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from smtpctl import text
from smtpctl.command import DONE
from smtpctl.connection import Connection, Trouble
from smtpctl.order import REQUEST, NoSuch, envelopes
from smtpd.envelope import Entry, message_of
from smtpd.imsg import ContentNotOpened, ListEnvelopes, ListQuarantine, OpenContent, ShowStatistics


def show_queue(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = envelopes(parameters)
    empty = True
    for entry, now, reason in _entries(connection, first, last):
        empty = False
        print(text.as_json(text.envelope_object(entry, now, reason)) if json else text.queue_line(entry, now, reason))
    if parameters and empty:
        raise NoSuch(*parameters)
    return DONE


def show_envelope(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = envelopes(parameters)
    for entry, now, reason in _entries(connection, first, last):
        if json:
            print(text.as_json(text.envelope_object(entry, now, reason)))
        else:
            print("\n".join(text.envelope_lines(entry, reason)))
        return DONE
    raise NoSuch(*parameters)


def show_message(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, _ = envelopes(parameters)
    answer, descriptor = connection.ask_descriptor(OpenContent(REQUEST, message_of(first)))
    if isinstance(answer, ContentNotOpened):
        raise Trouble(answer.reason)
    assert descriptor is not None  # the channel has seen to it
    empty = True
    for piece in _visible(_pieces(descriptor)) if sys.stdout.isatty() else _pieces(descriptor):
        sys.stdout.buffer.write(piece)
        empty = False
    if empty:
        raise NoSuch(*parameters)
    return DONE


def _pieces(descriptor: int) -> Iterator[bytes]:
    while piece := os.read(descriptor, 65536):
        yield piece


def _visible(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """For a terminal: a mail must not command it."""
    for piece in codecs.iterdecode(pieces, "utf-8", "backslashreplace"):
        yield text.for_terminal(piece).encode()


def show_quarantine(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    listed = connection.ask(ListQuarantine(REQUEST))
    if listed.trouble:
        raise Trouble(listed.trouble)
    for id, when, reason in listed.rows:
        if json:
            print(text.as_json({"envelope": f"{id:016x}", "since": when, "reason": reason}))
        else:
            print(f"{id:016x}|{when}|{text.visible(reason, also='|')}")
    return DONE


def show_statistics(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    counters: dict[str, Any] = connection.ask(ShowStatistics(REQUEST)).counters
    counters["uptime.human"] = text.duration(counters["uptime"])
    if json:
        print(text.as_json(dict(sorted(counters.items()))))
    else:
        print("\n".join(f"{text.visible(key)}={counters[key]}" for key in sorted(counters)))
    return DONE


def _entries(connection: Connection, first: int, last: int) -> Iterator[tuple[Entry, int, str]]:
    """Each with the time and the reason why it waits.  Page by page: neither side ever holds more than one."""
    while first:
        page = connection.ask(ListEnvelopes(REQUEST, first, last))
        if page.trouble:
            raise Trouble(page.trouble)
        now = int(time.time())
        yield from ((row, now, text.why_waiting(row, now, mda_paused=page.mda_paused)) for row in page.rows)
        first = page.next
