"""All commands: their words, what they ask control, what they print.

A command is a function of the connection, its parameters, and whether JSON is wanted; it returns the exit status.  What
the grammar has and this daemon has not is named too, so that a script is told so and not "possibilities are".
"""

import codecs
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smtpctl import text
from smtpctl.connection import Connection, Trouble
from smtpctl.word import is_message_id
from smtpd.envelope import MESSAGE_ID_MAX, Entry, Kind, first_envelope, last_envelope, message_of
from smtpd.imsg import (
    ListEnvelopes,
    ListQuarantine,
    OpenContent,
    PauseDeliveries,
    PauseListeners,
    RemoveEnvelopes,
    ScheduleEnvelopes,
    SetVerbose,
    ShowStatistics,
    ShowStatus,
    SuspendEnvelopes,
    UpdateTable,
)

DONE, FAILED = 0, 1

Run = Callable[[Connection, Sequence[str], bool], int]
REQUEST = 1  # there is never more than one


@dataclass(frozen=True)
class Command:
    pattern: str
    run: Run | None  # None: not available yet
    help: str
    fails: str = ""  # when the exit status is 1, beside the reasons that all commands have


# -- looking ---------------------------------------------------------------------------------------


def show_queue(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = _range(parameters)
    for entry in _entries(connection, first, last):
        now = int(time.time())
        print(text.as_json(text.envelope_object(entry, now)) if json else text.queue_line(entry, now))
    return DONE


def show_envelope(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, last = _range(parameters)
    for entry in _entries(connection, first, last):
        if json:
            print(text.as_json(text.envelope_object(entry, int(time.time()))))
        else:
            print("\n".join(text.envelope_lines(entry)))
        return DONE
    raise Trouble(f"no envelope {parameters[0]}")


def show_message(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    first, _ = _range(parameters)
    _, descriptor = connection.ask_descriptor(OpenContent(REQUEST, message_of(first)))
    assert descriptor is not None  # the channel has seen to it
    empty = True
    for piece in _visible(_pieces(descriptor)) if sys.stdout.isatty() else _pieces(descriptor):
        sys.stdout.buffer.write(piece)
        empty = False
    if empty:
        raise Trouble(f"no message {parameters[0]}")
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


def show_status(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    status = connection.ask(ShowStatus(REQUEST))
    states = {"MDA": status.mda_paused, "SMTP": status.smtp_paused}
    words = {name: "paused" if paused else "running" for name, paused in states.items()}
    if json:
        print(text.as_json({name.lower(): word for name, word in words.items()}))
    else:
        print("\n".join(f"{name} {word}" for name, word in words.items()))
    return DONE


def show_statistics(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    counters: dict[str, Any] = connection.ask(ShowStatistics(REQUEST)).counters
    counters["uptime.human"] = text.duration(counters["uptime"])
    if json:
        print(text.as_json(dict(sorted(counters.items()))))
    else:
        print("\n".join(f"{text.visible(key)}={counters[key]}" for key in sorted(counters)))
    return DONE


# -- passwords -------------------------------------------------------------------------------------


def _encrypting(scram: bool) -> Run:
    def run(connection: Connection, parameters: Sequence[str], json: bool) -> int:
        from smtpctl.encrypt import encrypt  # and what hashes

        for made in encrypt(parameters, scram):
            print(text.as_json({"credential": made}) if json else made)
        return DONE

    return run


# -- ordering ------------------------------------------------------------------------------------------


def schedule(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(ScheduleEnvelopes(REQUEST, *_range(parameters)))
    return _say_count(answer.count, "scheduled", json)


def remove(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(RemoveEnvelopes(REQUEST, *_range(parameters)))
    return _say_count(answer.count, "removed", json)


def suspend(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(SuspendEnvelopes(REQUEST, *_range(parameters), True))
    return _say_count(answer.count, "paused", json)


def resume(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(SuspendEnvelopes(REQUEST, *_range(parameters), False))
    return _say_count(answer.count, "resumed", json)


def _say_count(count: int, done: str, json: bool) -> int:
    print(text.as_json({"count": count}) if json else f"{count} envelope{'s' if count != 1 else ''} {done}")
    return DONE


def _pausing(make: Callable[[bool], Any], paused: bool) -> Run:
    def run(connection: Connection, parameters: Sequence[str], json: bool) -> int:
        return _say_success(connection.ask(make(paused)).changed, json)

    return run


def _logging(verbose: bool) -> Run:
    def run(connection: Connection, parameters: Sequence[str], json: bool) -> int:
        connection.ask(SetVerbose(verbose))
        return _say_success(True, json)

    return run


def _say_success(succeeded: bool, json: bool) -> int:
    if json:
        print(text.as_json({"succeeded": succeeded}))
    elif succeeded:
        print("command succeeded")
    else:
        print("command failed", file=sys.stderr)
    return DONE if succeeded else FAILED


def update_table(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    (name,) = parameters
    if trouble := connection.ask(UpdateTable(REQUEST, name)).trouble:
        raise Trouble(trouble)
    return _say_success(True, json)


def _deliveries(paused: bool) -> Any:
    return PauseDeliveries(REQUEST, Kind.MDA, paused)


def _listeners(paused: bool) -> Any:
    return PauseListeners(REQUEST, paused)


# -- envelopes --------------------------------------------------------------------------------------------


def _range(parameters: Sequence[str]) -> tuple[int, int]:
    """The envelopes meant by an envelope id, a message id, or neither, which means all: first and last."""
    if not parameters:
        return first_envelope(1), last_envelope(MESSAGE_ID_MAX)
    id = int(parameters[0], 16)
    return (first_envelope(id), last_envelope(id)) if is_message_id(parameters[0]) else (id, id)


def _entries(connection: Connection, first: int, last: int) -> Iterator[Entry]:
    """Page by page: neither side ever holds more than one."""
    while first:
        page = connection.ask(ListEnvelopes(REQUEST, first, last))
        if page.trouble:
            raise Trouble(page.trouble)
        yield from page.rows
        first = page.next


# -- the table ------------------------------------------------------------------------------------------------

ANY_PAUSED = "it was so already"
NO_ENVELOPE, NO_MESSAGE = "there is no such envelope", "there is no such message"
NO_UPDATE = "there is no such table, or it cannot be read and stays as it was"

COMMANDS = [
    Command("discover <evpid>", None, "load an envelope that lies in the spool"),
    Command("discover <msgid>", None, "load the envelopes of a message that lie in the spool"),
    Command("encrypt", _encrypting(scram=False), "what a table keeps of a password, which is read from stdin"),
    Command("encrypt <string>", _encrypting(scram=False), "the same of a password that others see meanwhile"),
    Command("encrypt --scram", _encrypting(scram=True), "what SCRAM-SHA-256 needs of a password from stdin"),
    Command("encrypt --scram <string>", _encrypting(scram=True), "the same of a password that others see meanwhile"),
    Command("log brief", _logging(False), "log as usual"),
    Command("log verbose", _logging(True), "log details too"),
    Command("monitor", None, "a line of numbers every second"),
    *[
        Command(f"pause envelope {which}", suspend, f"start no try of {what}, until it is resumed")
        for which, what in (("<evpid>", "an envelope"), ("<msgid>", "a message"), ("all", "anything in the queue"))
    ],
    Command("pause mda", _pausing(_deliveries, True), "start no local delivery", ANY_PAUSED),
    Command("pause mta", None, "start no relaying"),
    Command("pause mta from <string> for <string>", None, "start no relaying from an address to a domain"),
    Command("pause smtp", _pausing(_listeners, True), "take no new clients", ANY_PAUSED),
    Command("profile <string>", None, "measure"),
    *[
        Command(f"remove {which}", remove, f"remove {what}, without telling anybody")
        for which, what in (("<evpid>", "an envelope"), ("<msgid>", "a message"), ("all", "everything in the queue"))
    ],
    *[
        Command(f"resume envelope {which}", resume, f"try {what} again that was paused")
        for which, what in (("<evpid>", "an envelope"), ("<msgid>", "a message"), ("all", "everything"))
    ],
    Command("resume mda", _pausing(_deliveries, False), "deliver locally again", ANY_PAUSED),
    Command("resume mta", None, "relay again"),
    Command("resume mta from <string> for <string>", None, "relay from an address to a domain again"),
    Command("resume route <string>", None, "use a route again that was disabled"),
    Command("resume smtp", _pausing(_listeners, False), "take clients again", ANY_PAUSED),
    *[
        Command(f"schedule {which}", schedule, f"try {what} now; what is held is released")
        for which, what in (("<evpid>", "an envelope"), ("<msgid>", "a message"), ("all", "everything in the queue"))
    ],
    Command("show envelope <evpid>", show_envelope, "all that is known of an envelope", NO_ENVELOPE),
    Command("show hosts", None, "hosts that were relayed to"),
    Command("show hoststats", None, "what became of relaying to each domain"),
    Command("show message <evpid>", show_message, "the content of an envelope's message", NO_MESSAGE),
    Command("show message <msgid>", show_message, "the content of a message", NO_MESSAGE),
    Command("show mta paused", None, "what is not relayed"),
    Command("show quarantine", show_quarantine, "envelopes that could not be read: id, since when, why"),
    Command("show queue", show_queue, "a line for each envelope"),
    Command("show queue <msgid>", show_queue, "a line for each envelope of a message"),
    Command("show relays", None, "relays in use"),
    Command("show routes", None, "routes in use"),
    Command("show stats", show_statistics, "all counters"),
    Command("show status", show_status, "what is running and what is paused"),
    Command("spf walk", None, "the addresses in the SPF records of domains"),
    Command("trace <string>", None, "log a subject in detail"),
    Command("unprofile <string>", None, "stop measuring"),
    Command("untrace <string>", None, "log a subject as usual"),
    Command("update table <table>", update_table, "read a table again", NO_UPDATE),
]
