"""Commands that have the daemon do something, and what names the envelopes that are meant."""

import sys
from collections.abc import Sequence

from smtpctl import text
from smtpctl.command import DONE, FAILED
from smtpctl.connection import Connection, Trouble
from smtpctl.word import is_message_id
from smtpd.envelope import MESSAGE_ID_MAX, Kind, first_envelope, last_envelope
from smtpd.imsg import (
    PauseDeliveries,
    PauseListeners,
    RemoveEnvelopes,
    ScheduleEnvelopes,
    SetVerbose,
    SuspendEnvelopes,
    UpdateTable,
)

REQUEST = 1  # there is never more than one


def envelopes(parameters: Sequence[str]) -> tuple[int, int]:
    """The envelopes meant by an envelope id, a message id, or neither, which means all: first and last."""
    if not parameters:
        return first_envelope(1), last_envelope(MESSAGE_ID_MAX)
    id = int(parameters[0], 16)
    return (first_envelope(id), last_envelope(id)) if is_message_id(parameters[0]) else (id, id)


def schedule(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(ScheduleEnvelopes(REQUEST, *envelopes(parameters)))
    return _say_count(answer.count, "scheduled", json)


def remove(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(RemoveEnvelopes(REQUEST, *envelopes(parameters)))
    return _say_count(answer.count, "removed", json)


def suspend(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(SuspendEnvelopes(REQUEST, *envelopes(parameters), True))
    return _say_count(answer.count, "paused", json)


def resume(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    answer = connection.ask(SuspendEnvelopes(REQUEST, *envelopes(parameters), False))
    return _say_count(answer.count, "resumed", json)


def _say_count(count: int, done: str, json: bool) -> int:
    print(text.as_json({"count": count}) if json else f"{count} envelope{'s' if count != 1 else ''} {done}")
    return DONE


def pause_deliveries(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _say_success(connection.ask(PauseDeliveries(REQUEST, Kind.MDA, True)).changed, json)


def resume_deliveries(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _say_success(connection.ask(PauseDeliveries(REQUEST, Kind.MDA, False)).changed, json)


def pause_listeners(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _say_success(connection.ask(PauseListeners(REQUEST, True)).changed, json)


def resume_listeners(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _say_success(connection.ask(PauseListeners(REQUEST, False)).changed, json)


def log_brief(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    connection.ask(SetVerbose(False))
    return _say_success(True, json)


def log_verbose(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    connection.ask(SetVerbose(True))
    return _say_success(True, json)


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


def try_all(connection: Connection) -> int:
    """How many envelopes are tried now.  Raises Trouble."""
    count: int = connection.ask(ScheduleEnvelopes(REQUEST, *envelopes(()))).count
    return count
