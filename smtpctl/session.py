"""Opens an SMTP session with smtpd, for sendmail and for mail that was kept while smtpd did not run."""

import _socket  # see smtpd/ipc/query.py

from smtpctl.connection import Connection, ControlError, NotRunning
from smtpctl.sendmail_option import TEMPFAIL, UNAVAILABLE, SendmailError
from smtpctl.visible import visible
from smtpd.ipc import query


def open_session(connection: Connection) -> _socket.socket:
    """A socket that speaks SMTP.  Raises NotRunning, SendmailError."""
    try:
        answer = connection.ask_query(query.SESSION)
    except NotRunning:
        raise
    except ControlError as trouble:
        raise SendmailError(TEMPFAIL, str(trouble)) from None
    if not answer.granted:
        raise SendmailError(UNAVAILABLE, visible(answer.text))
    try:
        if answer.descriptor is not None:
            return _socket.socket(fileno=answer.descriptor)
    except OSError:
        pass  # no socket
    raise SendmailError(TEMPFAIL, "invalid answer from smtpd: no session")
