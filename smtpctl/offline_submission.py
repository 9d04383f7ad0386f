"""Hands in a mail that was kept while smtpd did not run: the same session and the same client as sendmail's.

    OfflineSubmission(socket)    as the owner of the file: a session, which control has opened for that user
    submit                       in a sandbox: the file is read, and sent

Called by a child of the nursery, which has opened the file.

SECURITY
    Reads a file that a user may have written in any way, and what the server answers.  It is that user (for root's
    mail, _smtpx), sees no file, and has one socket.
"""

from smtpctl.connection import Connection, NotRunning
from smtpctl.offline_file import OfflineFile, OfflineFileError
from smtpctl.sendmail_option import SendmailError
from smtpctl.session import open_session
from smtpctl.submission import ConnectionLost, Submission, SubmissionRefused

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from _socket import socket

SESSION_TIMEOUT = 60.0  # seconds for smtpd to open a session


class OfflineSubmission:
    """A session with the daemon, or the reason why there is none."""

    def __init__(self, socket_path: str):
        self._sock: socket | None = None
        self._trouble = ""
        try:
            self._sock = open_session(Connection(socket_path, SESSION_TIMEOUT))
        except NotRunning as absent:
            self._trouble = str(absent)
        except SendmailError as failed:
            self._trouble = "; ".join(failed.texts)

    def submit(self, descriptor: int) -> str:
        """The verdict: "sent" when the daemon has said 250; or "later" or "refused" with the reason behind it."""
        if self._sock is None:
            return f"later {self._trouble}"
        try:
            file = OfflineFile(descriptor)
            Submission(self._sock).send(file.mail, file.content())
        except OfflineFileError as error:
            return f"refused {error}"
        except SubmissionRefused as refused:
            return f"{'later' if refused.temporary else 'refused'} {'; '.join(refused.texts)}"
        except (ConnectionLost, OSError) as lost:
            return f"later {lost}"
        return "sent"
