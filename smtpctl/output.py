"""Output formats: the line of `show queue`, the fields of `show envelope`, JSON.

Nothing that came by mail can move the cursor, end a line or begin a field.

queue line     14 fields between |, as monitoring scripts know them
envelope       `key: value` lines
JSON           one object a line, ASCII only
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from smtpctl.visible import escape, visible
from smtpd.envelope import Body, Duty, Kind, MailParameters, Notify, QueueEntry, envelope_text, message_of, message_text


def for_terminal(text: str) -> str:
    """Content for a terminal: line ends and tabs stay, other characters that do not print are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else escape(char) for char in text)


# -- envelopes -------------------------------------------------------------------------------


def why_waiting(entry: QueueEntry, now: int, *, mda_paused: bool, mta_paused: bool = False) -> str:
    """Why no attempt is made until an administrator acts, until a time that the client has set, or until the
    destination can be reached; empty when the queue decides."""
    if entry.inflight:
        return ""
    if entry.schedule.suspended:
        return "paused by administrator"
    if entry.schedule.held:
        return "held until it is scheduled"
    if entry.schedule.kind is Kind.MDA and mda_paused:
        return "mda is paused"
    if entry.schedule.kind is Kind.MTA and mta_paused:
        return "mta is paused"
    if entry.terms.release > now:
        at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(entry.terms.release))
        return f"not before {at}, as the client wished"
    if entry.paused:
        return "destination paused by administrator"
    return f"destination delayed: {entry.delayed}" if entry.delayed else ""


def queue_line(entry: QueueEntry, now: int, reason: str = "") -> str:
    """
    evpid | inet4, inet6, local | mda, mta, bounce | flags | sender | rcpt | dest | created | expires | last try |
    retries | pending, inflight | seconds to the next try, or in flight | why it waits: error
    """
    schedule, recipient = entry.schedule, entry.recipient
    fields = [
        envelope_text(schedule.envelope),
        _family(entry.origin.address),
        _type(entry),
        ",".join(_flags(entry)),
        entry.origin.sender,
        recipient.recipient,
        recipient.destination,
        schedule.created,
        schedule.expires,
        entry.last_try,
        schedule.retries,
        _state(entry),
        _seconds(entry, now),
        ": ".join(filter(None, (reason, entry.error))),
    ]
    line = "|".join(map(str, fields))
    if line.isprintable() and "\\" not in line and line.count("|") == len(fields) - 1:  # most are, and quicker so
        return line
    return "|".join(visible(str(field), also="|") for field in fields)


def envelope_lines(entry: QueueEntry, reason: str = "") -> Iterator[str]:
    """All fields of an envelope that are not empty."""
    schedule, origin, recipient = entry.schedule, entry.origin, entry.recipient
    values = {
        "evpid": envelope_text(schedule.envelope),
        "dispatcher": recipient.action,
        "tag": origin.tag,
        "type": _type(entry),
        "smtpname": origin.hostname,
        "helo": origin.helo,
        "hostname": origin.client,
        "errorline": entry.error,
        "sockaddr": origin.address,
        "sender": origin.sender,
        "rcpt": recipient.recipient,
        "dest": recipient.destination,
        "ctime": schedule.created,
        "last-try": entry.last_try or "",
        "next-try": schedule.next_try or "",
        "expire": schedule.expires,
        "ttl": schedule.expires - schedule.created,
        "retry": schedule.retries or "",
        "flags": " ".join(_flags(entry)),
        "state": _state(entry),
        "reason": reason,
        "size": entry.size,
        "mda-user": recipient.user,
        "mda-subaddress": recipient.extension,
        "mda-home": recipient.home,
        "mda-duty": "" if recipient.duty == Duty.DELIVER else recipient.duty.name.lower(),
        "mda-digest": recipient.digest,
        "esmtp-tls": "yes" if origin.tls else "",
        "esmtp-user": origin.user,
        "dsn-notify": ",".join(_notify(recipient.notify)),
        "dsn-orcpt": recipient.original,
        **_terms(entry.terms),
    }
    return (f"{key}: {visible(str(value))}" for key, value in values.items() if value != "")


def _terms(terms: MailParameters) -> dict[str, Any]:
    """The parameters of MAIL FROM; empty if the client did not send them."""
    return {
        "dsn-ret": terms.ret,
        "dsn-envid": terms.envid,
        "body": "" if terms.body == Body.SEVEN_BIT else _name(terms.body),
        "smtputf8": "yes" if terms.utf8 else "",
        "require-tls": "yes" if terms.require_tls else "",
        "submitter": terms.submitter,
        "release": terms.release or "",
        "deliver-by": terms.deliver_by or "",
        "deliver-by-mode": terms.by_mode + "T" * terms.by_trace,
        "priority": terms.priority or "",
    }


def _notify(notify: Notify) -> list[str]:
    return [flag.name.lower() for flag in notify if flag.name]


def _name(body: Body) -> str:
    return body.name.lower().replace("_", "-")


def envelope_object(entry: QueueEntry, now: int, reason: str = "") -> dict[str, Any]:
    schedule, origin, recipient = entry.schedule, entry.origin, entry.recipient
    return {
        "envelope": envelope_text(schedule.envelope),
        "message": message_text(message_of(schedule.envelope)),
        "family": _family(origin.address),
        "type": _type(entry),
        "flags": _flags(entry),
        "state": _state(entry),
        "reason": reason,
        "seconds": _seconds(entry, now),
        "created": schedule.created,
        "expires": schedule.expires,
        "last_try": entry.last_try,
        "next_try": schedule.next_try,
        "retries": schedule.retries,
        "error": entry.error,
        "size": entry.size,
        **{name: getattr(origin, name) for name in origin.__struct_fields__},
        "login": origin.user,  # beside the recipient's user
        **{name: getattr(recipient, name) for name in recipient.__struct_fields__ if name != "kind"},
        "duty": recipient.duty.name.lower(),
        "notify": _notify(recipient.notify),
        **{name: getattr(entry.terms, name) for name in entry.terms.__struct_fields__},
        "body": _name(entry.terms.body),
    }


def as_json(value: Any) -> str:
    return json.dumps(value)  # escapes all that is not ASCII


def _family(address: str) -> str:
    if address == "local":
        return "local"
    return "inet6" if ":" in address else "inet4"


def _type(entry: QueueEntry) -> str:
    """`bounce`: a notice that has not been expanded yet."""
    return "bounce" if entry.recipient.duty == Duty.EXPAND else entry.schedule.kind.name.lower()


def _flags(entry: QueueEntry) -> list[str]:
    words = {"bounce": entry.is_notice, "suspend": entry.schedule.suspended, "hold": entry.schedule.held}
    return [word for word, is_set in words.items() if is_set]


def _state(entry: QueueEntry) -> str:
    return "inflight" if entry.inflight else "pending"


def _seconds(entry: QueueEntry, now: int) -> int:
    """To the next try; of one in flight, since that try was due."""
    due = max(entry.schedule.next_try, entry.schedule.created)
    return max(0, now - due if entry.inflight else due - now)
