"""sendmail [options] [recipient ...]: hand in a mail from standard input, as programs of every Unix expect.

    -bm  hand in a mail: what is done without -b        -bs  SMTP on standard input and output
    -bi  newaliases                                     -bp  mailq

    stdin --> Letter --> sender, recipients --> Submission --> smtpd       letter.py, submission.py
                 +------- not sent ----------> ~/dead.letter               deadletter.py

What is said to smtpd is made here of single words that have been looked at, never of a line that somebody wrote.

SECURITY
    Runs as whoever calls it, and is never set-uid: smtpd knows who that is by the kernel.  Called by root, what the
    server answers is read by a child that is not root any more.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from smtpctl import deadletter
from smtpctl.connection import Connection, Trouble
from smtpctl.envelope import Person, address, from_field, read_recipients
from smtpctl.letter import Letter, Unfit
from smtpctl.option import DATAERR, IOERR, OK, SOFTWARE, TEMPFAIL, UNAVAILABLE, USAGE, Failed, Options
from smtpctl.submission import Lost, Mail, Refused, Submission
from smtpctl.text import visible
from smtpd.config.place import Places
from smtpd.imsg import OpenSession, SessionOpened, SessionRefused
from smtpd.smtp.address import Address

PATIENCE = 60.0  # seconds for smtpd to open a session


def main(arguments: Sequence[str]) -> int:
    try:
        options = Options(arguments)
        connection = Connection(Places(options.state).socket, PATIENCE)
        if "q" in options.flags:
            raise Failed(SOFTWARE, "-q is not available: smtpd tries what waits by itself")
        match options.mode:
            case "m":
                return submit(connection, options)
            case "s":
                return speak(connection)
            case "p":
                return list_queue(connection)
            case "i":
                return make_aliases(options)
        raise Failed(USAGE, f"-b{visible(options.values['b'])} is not available")
    except Failed as failed:
        return _say(failed)


def _say(failed: Failed) -> int:
    for text in failed.texts:
        print(f"sendmail: {text}", file=sys.stderr, flush=True)
    return failed.status


# -- other modes -------------------------------------------------------------------------------


def speak(connection: Connection) -> int:
    """-bs: between standard input and output and the server, until it closes."""
    with _open_session(connection) as sock:
        threading.Thread(target=_pass_on, args=(sock,), daemon=True).start()
        while data := _receive(sock):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    return OK


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError as error:
        raise Failed(TEMPFAIL, f"the connection to smtpd is lost: {error.strerror}") from None


def _pass_on(sock: socket.socket) -> None:
    try:
        while data := os.read(0, 65536):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the server has closed


def list_queue(connection: Connection) -> int:
    from smtpctl.command import show_queue

    try:
        return show_queue(connection, (), False)
    except Trouble as trouble:
        raise Failed(UNAVAILABLE, str(trouble)) from None


def make_aliases(options: Options) -> int:
    from smtpctl import newaliases  # and the language of smtpd.conf

    if "O" in options.values or options.values.get("o", "").startswith("A"):
        raise Failed(USAGE, "the file of aliases is what smtpd.conf says: see newaliases(8)")
    return newaliases.main([] if options.state is None else ["--state", options.state])


# -- a mail ------------------------------------------------------------------------------------


def submit(connection: Connection, options: Options) -> int:
    recipients = read_recipients(options)
    if sys.stdin is None:
        raise Failed(IOERR, "there is no standard input")
    try:
        letter = Letter(sys.stdin.buffer)
    except (Unfit, OSError) as error:
        raise Failed(DATAERR if isinstance(error, Unfit) else IOERR, f"cannot read the mail: {error}") from None
    with letter:
        try:
            status = _send(connection, letter, options, recipients)
        except Failed as failed:
            status = _say(failed)
        if status != OK:
            _keep(letter)
    return status


def _send(connection: Connection, letter: Letter, options: Options, recipients: list[Address]) -> int:
    """Raises Failed, or it has been said already."""
    person = Person()
    mail = address(letter, options, recipients, person)
    more = () if letter.values(b"from") else (from_field(mail.sender, options, person),)
    return _in_child(partial(_hand_in, connection, mail, letter.pieces(*more), "v" in options.flags))


# -- handing it in -------------------------------------------------------------------------------


def _hand_in(connection: Connection, mail: Mail, content: Iterable[bytes], verbose: bool) -> None:
    """Raises Failed."""
    show = partial(print, flush=True) if verbose else lambda line: None
    with _open_session(connection) as sock:
        try:
            Submission(sock, show).send(mail, content)
        except Refused as refused:
            raise Failed(TEMPFAIL if refused.temporary else SOFTWARE, *refused.texts) from None
        except Lost as lost:
            raise Failed(TEMPFAIL, str(lost)) from None


def _open_session(connection: Connection) -> socket.socket:
    try:
        answer, descriptor = connection.ask_descriptor(OpenSession(1))
    except Trouble as trouble:
        raise Failed(TEMPFAIL, str(trouble)) from None
    if isinstance(answer, SessionRefused):
        raise Failed(UNAVAILABLE, answer.reason)
    try:
        if isinstance(answer, SessionOpened):
            return socket.socket(fileno=descriptor)
    except OSError:
        pass  # no socket
    raise Failed(TEMPFAIL, f"smtpd answers nonsense: {type(answer).__name__}")


def _in_child(work: Callable[[], None]) -> int:
    """The exit status of `work`, done by a child: it gives up root on its way."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status if status >= 0 else TEMPFAIL
    status = SOFTWARE
    try:
        work()
        status = OK
    except Failed as failed:
        status = _say(failed)
    except KeyboardInterrupt:
        status = TEMPFAIL
    except Exception as error:  # noqa: BLE001  (the one around one mail)
        print(f"sendmail: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _keep(letter: Letter) -> None:
    try:
        saved = deadletter.save(os.path.expanduser("~"), letter.original())
    except OSError as error:
        print(f"sendmail: the mail is not sent, and not saved: {error.strerror or error}", file=sys.stderr)
    else:
        print(f"sendmail: the mail is not sent; it is in {saved}", file=sys.stderr)
