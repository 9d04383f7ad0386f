"""show status: what is paused.  Monitoring calls it often, so it loads as little as possible."""

from smtpctl.command import DONE
from smtpctl.connection import Connection, ControlError
from smtpd.ipc import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def show_status(connection: Connection, parameters: "Sequence[str]", json: bool) -> int:
    if json:
        from smtpctl.output import as_json  # before root is given up: its files may be readable by root only
    answer = connection.ask_query(query.STATUS)
    if not answer.granted:
        raise ControlError(answer.text)
    paused = answer.text.split()
    words = {name: "paused" if name.lower() in paused else "running" for name in ("MDA", "MTA", "SMTP")}
    if json:
        print(as_json({name.lower(): word for name, word in words.items()}))
    else:
        print("\n".join(f"{name} {word}" for name, word in words.items()))
    return DONE
