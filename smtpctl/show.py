"""Commands that show the queue, envelopes, messages, the quarantine and the counters."""

import codecs
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from smtpctl import output, selection
from smtpctl.command import DONE
from smtpctl.connection import Connection, ControlError
from smtpctl.operation import REQUEST, UnknownId, envelopes
from smtpd.envelope import QueueEntry, duration_text, message_of
from smtpd.imsg import ContentNotOpened, ListEnvelopes, ListQuarantine, OpenContent, ShowStatistics
from smtpd.selection import Selection


def show_queue(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = envelopes(parameters)
    empty = True
    for entry, now, reason in _entries(connection, first, last):
        empty = False
        _print_line(entry, now, reason, json)
    if parameters and empty:
        raise UnknownId(*parameters)
    return DONE


def show_selected(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    for entry, now, reason in _entries(connection, *envelopes(()), selection.current(parameters)):
        _print_line(entry, now, reason, json)
    return DONE


def _print_line(entry: QueueEntry, now: int, reason: str, json: bool) -> None:
    print(output.as_json(output.envelope_object(entry, now, reason)) if json else output.queue_line(entry, now, reason))


def show_envelope(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = envelopes(parameters)
    for entry, now, reason in _entries(connection, first, last):
        if json:
            print(output.as_json(output.envelope_object(entry, now, reason)))
        else:
            print("\n".join(output.envelope_lines(entry, reason)))
        return DONE
    raise UnknownId(*parameters)


def show_message(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, _ = envelopes(parameters)
    answer, descriptor = connection.ask_descriptor(OpenContent(REQUEST, message_of(first)))
    if isinstance(answer, ContentNotOpened):
        raise ControlError(answer.reason)
    assert descriptor is not None  # the channel has seen to it
    empty = True
    for piece in _visible(_pieces(descriptor)) if sys.stdout.isatty() else _pieces(descriptor):
        sys.stdout.buffer.write(piece)
        empty = False
    if empty:
        raise UnknownId(*parameters)
    return DONE


def _pieces(descriptor: int) -> Iterator[bytes]:
    while piece := os.read(descriptor, 65536):
        yield piece


def _visible(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content without control sequences, for a terminal."""
    for piece in codecs.iterdecode(pieces, "utf-8", "backslashreplace"):
        yield output.for_terminal(piece).encode()


def show_quarantine(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    listed = connection.ask(ListQuarantine(REQUEST))
    if listed.trouble:
        raise ControlError(listed.trouble)
    for id, when, reason in listed.rows:
        if json:
            print(output.as_json({"envelope": f"{id:016x}", "since": when, "reason": reason}))
        else:
            print(f"{id:016x}|{when}|{output.visible(reason, also='|')}")
    return DONE


def show_statistics(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    counters: dict[str, Any] = connection.ask(ShowStatistics(REQUEST)).counters
    counters["uptime.human"] = duration_text(counters["uptime"])
    if json:
        print(output.as_json(dict(sorted(counters.items()))))
    else:
        print("\n".join(f"{output.visible(key)}={counters[key]}" for key in sorted(counters)))
    return DONE


def _entries(
    connection: Connection, first: int, last: int, meant: Selection | None = None
) -> Iterator[tuple[QueueEntry, int, str]]:
    """Each with the time and the reason why it waits.  Page by page: the next one is made while this one is printed."""
    connection.send(ListEnvelopes(REQUEST, first, last, meant))
    while first:
        page, _ = connection.receive()
        if page.trouble:
            raise ControlError(page.trouble)
        first = page.next
        if first:
            connection.send(ListEnvelopes(REQUEST, first, last, meant))
        now = int(time.time())
        paused = {"mda_paused": page.mda_paused, "mta_paused": page.mta_paused}
        yield from ((row, now, output.why_waiting(row, now, **paused)) for row in page.rows)
