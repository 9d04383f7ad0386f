"""Commands that change something: schedule, remove, pause, resume, log, update; and the range of envelope ids."""

import sys
from collections.abc import Sequence

from smtpctl import output
from smtpctl.command import DONE, FAILED
from smtpctl.command_parser import ANY, canonical_address, is_message_id
from smtpctl.connection import Connection, ControlError
from smtpd.envelope import MESSAGE_ID_MAX, Kind, first_envelope, last_envelope, message_of
from smtpd.imsg import (
    FindDestinations,
    ListEnvelopes,
    ListRoutes,
    PauseDeliveries,
    PauseListeners,
    PauseRelaying,
    RemoveEnvelopes,
    ResumeRoute,
    ScheduleEnvelopes,
    SetVerbose,
    SuspendEnvelopes,
    UpdateTable,
)
from smtpd.relay_entry import KEY_MAX

REQUEST = 1  # there is never more than one


class UnknownId(ControlError):
    """No envelope or message has this id."""

    def __init__(self, id: str):
        super().__init__(f"no {'message' if is_message_id(id) else 'envelope'} {id}")


def envelopes(parameters: Sequence[str]) -> tuple[int, int]:
    """The envelopes meant by an envelope id, a message id, or neither (all): first and last.  Raises UnknownId
    for an id that none can have."""
    if not parameters:
        return first_envelope(1), last_envelope(MESSAGE_ID_MAX)
    (word,) = parameters
    id = int(word, 16)
    first, last = (first_envelope(id), last_envelope(id)) if is_message_id(word) else (id, id)
    if not 0 < message_of(first) <= MESSAGE_ID_MAX:
        raise UnknownId(word)
    return first, last


def schedule(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    count = connection.ask(ScheduleEnvelopes(REQUEST, *envelopes(parameters))).count
    return _say_count(connection, parameters, json, count, "scheduled", "paused, or being tried")


def remove(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    count = connection.ask(RemoveEnvelopes(REQUEST, *envelopes(parameters))).count
    return _say_count(connection, parameters, json, count, "removed", "already removed when the attempt under way ends")


def suspend(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    count = connection.ask(SuspendEnvelopes(REQUEST, *envelopes(parameters), True)).count
    return _say_count(connection, parameters, json, count, "paused", "already paused")


def resume(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    count = connection.ask(SuspendEnvelopes(REQUEST, *envelopes(parameters), False)).count
    return _say_count(connection, parameters, json, count, "resumed", "not paused")


def release(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    meant = envelopes(parameters)
    connection.ask(SuspendEnvelopes(REQUEST, *meant, False))
    count = connection.ask(ScheduleEnvelopes(REQUEST, *meant)).count
    return _say_count(connection, parameters, json, count, "released", "being tried")


def _find_destinations(connection: Connection, name: str) -> list[int]:
    """Raises ControlError when there can be none of this name."""
    found: list[int] = connection.ask(FindDestinations(REQUEST, name)).destinations
    if not found:
        raise ControlError(f"no action relays to {name}")
    return found


def schedule_destination(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    destinations = _find_destinations(connection, *parameters)
    count = connection.ask(ScheduleEnvelopes(REQUEST, *envelopes(()), destinations)).count
    return _say_count(connection, (), json, count, "scheduled", "none for it, or paused, or being tried")


def remove_destination(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    destinations = _find_destinations(connection, *parameters)
    count = connection.ask(RemoveEnvelopes(REQUEST, *envelopes(()), destinations)).count
    return _say_count(connection, (), json, count, "removed", "none for it")


def pause_destination(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    (name,) = parameters
    return _pause_relaying(connection, ANY, name, True, f"{name} is already paused", json)


def resume_destination(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    (name,) = parameters
    return _pause_relaying(connection, ANY, name, False, f"{name} is neither paused nor delayed", json)


def pause_source(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    source, name = parameters
    return _pause_relaying(connection, source, name, True, f"{source} for {name} is already paused", json)


def resume_source(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    source, name = parameters
    return _pause_relaying(connection, source, name, False, f"{source} for {name} is not paused", json)


def _pause_relaying(connection: Connection, source: str, name: str, paused: bool, unchanged: str, json: bool) -> int:
    """`unchanged`: what is said when it is so already."""
    source, name = ("" if word == ANY else word for word in (source, name))
    answer = connection.ask(PauseRelaying(REQUEST, canonical_address(source) if source else "", name, paused))
    if answer.trouble:
        raise ControlError(answer.trouble)
    return _say_success("" if answer.changed else unchanged, json)


def resume_route(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    (word,) = parameters
    dispatchers = connection.ask(ListRoutes(REQUEST, 0, KEY_MAX)).dispatchers
    key, dispatcher = divmod(int(word), dispatchers)
    changed = key <= KEY_MAX and connection.ask(ResumeRoute(REQUEST, dispatcher, key)).changed
    return _say_success("" if changed else f"route {word} is not disabled", json)


def _say_count(
    connection: Connection, parameters: Sequence[str], json: bool, count: int, done: str, otherwise: str
) -> int:
    """`otherwise`: the reason why no envelope was changed although some exist."""
    exist = count > 0 or _exist(connection, parameters)
    if parameters and not exist:
        raise UnknownId(*parameters)
    return say_count(json, count, done, otherwise if exist and not count else "")


def say_count(json: bool, count: int, done: str, reason: str) -> int:
    """`reason`: why there are none."""
    if json:
        print(output.as_json({"count": count, "reason": reason}))
    else:
        print(f"{count} envelope{'s' if count != 1 else ''} {done}")
        if reason:
            print(f"smtpctl: {reason}", file=sys.stderr)
    return DONE


def _exist(connection: Connection, parameters: Sequence[str]) -> bool:
    page = connection.ask(ListEnvelopes(REQUEST, *envelopes(parameters)))
    if page.trouble:
        raise ControlError(page.trouble)
    return bool(page.rows or page.next)


def pause_deliveries(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseDeliveries(REQUEST, Kind.MDA, True)).changed
    return _say_success("" if changed else "mda is already paused", json)


def resume_deliveries(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseDeliveries(REQUEST, Kind.MDA, False)).changed
    return _say_success("" if changed else "mda is not paused", json)


def pause_relaying(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseDeliveries(REQUEST, Kind.MTA, True)).changed
    return _say_success("" if changed else "mta is already paused", json)


def resume_relaying(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseDeliveries(REQUEST, Kind.MTA, False)).changed
    return _say_success("" if changed else "mta is not paused", json)


def pause_listeners(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseListeners(REQUEST, True)).changed
    return _say_success("" if changed else "smtp is already paused", json)


def resume_listeners(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    changed = connection.ask(PauseListeners(REQUEST, False)).changed
    return _say_success("" if changed else "smtp is not paused", json)


def log_brief(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    connection.ask(SetVerbose(False))
    return _say_success("", json)


def log_verbose(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    connection.ask(SetVerbose(True))
    return _say_success("", json)


def _say_success(failure: str, json: bool) -> int:
    """`failure`: why it did not succeed."""
    if json:
        print(output.as_json({"succeeded": False, "reason": failure} if failure else {"succeeded": True}))
    elif failure:
        print(f"smtpctl: command failed: {failure}", file=sys.stderr)
    else:
        print("command succeeded")
    return FAILED if failure else DONE


def update_table(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    (name,) = parameters
    if trouble := connection.ask(UpdateTable(REQUEST, name)).trouble:
        raise ControlError(trouble)
    return _say_success("", json)


def try_all(connection: Connection) -> None:
    """Schedule everything in the queue now.  Raises ControlError."""
    connection.ask(ScheduleEnvelopes(REQUEST, *envelopes(())))
