"""sendmail [options] [recipient ...]: hand in a mail from standard input, as programs of every Unix expect.

    -bm  hand in a mail: what is done without -b        -bs  SMTP on standard input and output: dialogue.py
    -bi  newaliases                                     -bp  mailq
    -q   smtpctl schedule all

    stdin --> RawMail --> sender, recipients --> Submission --> smtpd      raw_mail.py, addressing.py, submission.py
                 +------- not sent ----------> ~/dead.letter               dead_letter.py
                 +------- smtpd does not run > kept, and sent later        offline_folder.py

What is said to smtpd is made here of single words that have been looked at, never of a whole line of the input.

This runs once for each mail of a script that may send thousands, and most of its time is spent on loading modules: so
nothing is loaded here that a usual mail does not need (tests/smtpctl/test_start.py).

SECURITY
    Runs as whoever calls it, and is never set-uid: smtpd knows who that is by the kernel.  Called by root, what the
    server answers is read by a child that is not root any more.
"""

import os
import sys

from smtpctl.addressing import Caller, address_mail, from_field, read_recipients
from smtpctl.connection import Connection, ControlError, NotRunning
from smtpctl.raw_mail import RawMail, RawMailError
from smtpctl.sendmail_option import (
    DATAERR,
    HELP,
    IOERR,
    NOPERM,
    OK,
    SOFTWARE,
    TEMPFAIL,
    UNAVAILABLE,
    USAGE,
    SendmailError,
    SendmailOptions,
)
from smtpctl.session import open_session
from smtpctl.submission import ConnectionLost, Submission, SubmissionMail, SubmissionRefused
from smtpctl.visible import visible
from smtpd import PRODUCT, VERSION
from smtpd.paths import Paths

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SESSION_TIMEOUT = 60.0  # seconds for smtpd to open a session


def main(arguments: "Sequence[str]") -> int:
    try:
        options = SendmailOptions(arguments)
        if options.help or options.version:
            print(HELP if options.help else f"sendmail ({PRODUCT}) {VERSION}\n", end="")
            return OK
        connection = Connection(Paths(options.state).socket, SESSION_TIMEOUT)
        match options.mode:
            case "m":
                return submit(connection, options)
            case "s":
                _check_stdin()
                _check_stdout()
                from smtpctl import dialogue

                return dialogue.relay(open_session(connection))
            case "p":
                return list_queue(connection)
            case "i":
                return make_aliases(options)
            case "q":
                return try_queue(connection, options)
        raise SendmailError(USAGE, f"-b{visible(options.values['b'])} is not available")
    except SendmailError as failed:
        return _say(failed)
    except NotRunning as absent:
        return _say(SendmailError(TEMPFAIL, str(absent)))


def _say(failed: SendmailError) -> int:
    for text in failed.texts:
        print(f"sendmail: {text}", file=sys.stderr, flush=True)
    return failed.status


def _check_stdin() -> None:
    if sys.stdin is None:
        raise SendmailError(IOERR, "there is no standard input")


def _check_stdout() -> None:
    if sys.stdout is None:
        raise SendmailError(IOERR, "there is no standard output")


# -- other modes -------------------------------------------------------------------------------


def list_queue(connection: Connection) -> int:
    from smtpctl.show import show_queue

    try:
        return show_queue(connection, (), False)
    except ControlError as trouble:
        raise SendmailError(UNAVAILABLE, str(trouble)) from None


def make_aliases(options: SendmailOptions) -> int:
    from smtpctl import newaliases  # and the language of smtpd.conf

    if "O" in options.values or options.values.get("o", "").startswith("A"):
        raise SendmailError(USAGE, "the file of aliases is what smtpd.conf says: see newaliases(8)")
    return newaliases.main([] if options.state is None else ["--state", options.state])


def try_queue(connection: Connection, options: SendmailOptions) -> int:
    """-q.  Behind an interval or a selection nothing is done: smtpd tries everything by itself, in its time."""
    if options.values["q"]:
        return OK
    if os.geteuid() != 0:
        raise SendmailError(NOPERM, "only root can run the queue now; smtpd tries everything in it by itself")
    from smtpctl.operation import try_all

    try:
        try_all(connection)
    except ControlError as trouble:
        raise SendmailError(UNAVAILABLE, str(trouble)) from None
    return OK


# -- a mail ------------------------------------------------------------------------------------


def submit(connection: Connection, options: SendmailOptions) -> int:
    recipients = read_recipients(options)
    _check_stdin()
    try:
        letter = RawMail(sys.stdin.buffer)
    except RawMailError as unfit:
        status = _say(SendmailError(DATAERR, f"cannot read the mail: {unfit}"))
        _keep(unfit.pieces)
        return status
    except OSError as error:
        raise SendmailError(IOERR, f"cannot read the mail: {error}") from None
    with letter:
        try:
            status = _send(connection, letter, options, recipients)
        except SendmailError as failed:
            status = _say(failed)
        if status != OK:
            _keep(letter.original())
    return status


def _send(connection: Connection, letter: RawMail, options: SendmailOptions, recipients: list[str]) -> int:
    """Raises SendmailError, or it has been said already."""
    person = Caller()
    mail = address_mail(letter, options, recipients, person)
    more = () if letter.values(b"from") else (from_field(mail.sender, options, person),)
    content = letter.pieces(*more)
    has_date = bool(letter.values(b"date"))

    def hand_in() -> None:
        try:
            _hand_in(connection, mail, content, "v" in options.flags)
        except NotRunning as absent:
            _keep_offline(absent, options, mail, content, has_date=has_date)

    return _in_child(hand_in)


# -- handing it in -------------------------------------------------------------------------------


def _hand_in(connection: Connection, mail: SubmissionMail, content: "Iterable[bytes]", verbose: bool) -> None:
    """Raises NotRunning, SendmailError."""
    sock = open_session(connection)
    try:
        Submission(sock, _show if verbose else lambda line: None).send(mail, content)
    except SubmissionRefused as refused:
        raise SendmailError(TEMPFAIL if refused.temporary else SOFTWARE, *refused.texts) from None
    except ConnectionLost as lost:
        raise SendmailError(TEMPFAIL, str(lost)) from None
    finally:
        sock.close()


def _keep_offline(
    absent: NotRunning, options: SendmailOptions, mail: SubmissionMail, content: "Iterable[bytes]", *, has_date: bool
) -> None:
    """Raises SendmailError."""
    if options.online:
        raise SendmailError(TEMPFAIL, str(absent))
    from smtpctl import offline_file, offline_folder  # as the caller: without smtpd, root has not been given up

    directory = Paths(options.state).offline
    try:
        offline_folder.keep(directory, mail, content, has_date=has_date)
    except (OSError, offline_file.OfflineFileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SendmailError(TEMPFAIL, str(absent), f"the mail cannot be kept in {directory}: {reason}") from None
    print(f"sendmail: {absent}: the mail is kept, and sent when it runs", file=sys.stderr, flush=True)


def _show(line: str) -> None:
    print(line, flush=True)


def _in_child(work: "Callable[[], None]") -> int:
    """The exit status of `work`, done by a child: it gives up root on its way."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status if status >= 0 else TEMPFAIL
    status = SOFTWARE
    try:
        work()
        status = OK
    except SendmailError as failed:
        status = _say(failed)
    except KeyboardInterrupt:
        status = TEMPFAIL
    except Exception as error:  # noqa: BLE001  (the one around one mail)
        print(f"sendmail: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _keep(pieces: "Iterable[bytes]") -> None:
    from smtpctl import dead_letter

    try:
        saved = dead_letter.save(os.path.expanduser("~"), pieces)
    except OSError as error:
        print(f"sendmail: the mail is not sent, and not saved: {error.strerror or error}", file=sys.stderr)
    else:
        print(f"sendmail: the mail is not sent; it is in {saved}", file=sys.stderr)
