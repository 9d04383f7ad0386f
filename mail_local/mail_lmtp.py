"""The program mail.lmtp: sends the mail on standard input to an LMTP server.

    mail.lmtp -d destination [-l name] [-f from] -r|-u

    0 taken · 64 wrong arguments · 69 refused for good · 71 no room for a copy · 75 try later, or started as root

Return-Path fields are removed from the header: the server adds its own (trace.py).

The exit status is that of the reply to the mail.  A failed QUIT afterwards does not matter: a mail that the server has
taken would only be sent a second time.
"""

import os
import sys
from argparse import Namespace
from typing import NoReturn

from mail_local import lmtp, trace
from mail_local.program import EX_OSERR, EX_TEMPFAIL, EX_USAGE, Arguments, copy, pieces
from smtpd.envelope import Outcome
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.signal_disposition import reset_signals
from smtpd.smtp.client_action import ClientMail, ClientRecipient

EX_UNAVAILABLE = 69
_STATUS = {Outcome.DELIVERED: 0, Outcome.FAILED: EX_UNAVAILABLE}


def mail_lmtp() -> None:
    """`mail.lmtp`: hand the mail on standard input to an LMTP server."""
    arguments, recipient = _arguments()
    if os.geteuid() == 0:
        _end(EX_TEMPFAIL, "not for root")
    sender = arguments.sender if arguments.sender is not None else os.environ.get("SENDER", "")
    try:
        content = copy()
    except OSError as error:
        _end(EX_OSERR, describe_error(error))
    try:
        connection = lmtp.connect(lmtp.resolve(arguments.destination), arguments.name)
    except (OSError, lmtp.Unreachable) as trouble:
        _end(EX_TEMPFAIL, describe_error(trouble))
    except ValueError as error:
        _end(EX_USAGE, str(error))
    told = ClientMail(sender, (ClientRecipient(recipient),), content.tell())
    (result,) = connection.deliver(told, lambda: trace.delivered(b"", pieces(content)))
    connection.close()
    _end(_STATUS.get(result.outcome, EX_TEMPFAIL), "" if result.outcome is Outcome.DELIVERED else result.text)


def _arguments() -> tuple[Namespace, str]:
    parser = Arguments(
        prog="mail.lmtp",
        description="Hand the mail on standard input to an LMTP server.",
        epilog="Exit status: 0 the server has taken it, 64 wrong arguments, 69 the server refuses it for good, 71 the "
        "mail could not be read, 75 try again later, or started as root.",
    )
    parser.add_argument(
        "-d", dest="destination", metavar="destination", required=True, help="host, host:port (25), or a socket's path"
    )
    parser.add_argument("-l", dest="name", metavar="name", default=os.uname().nodename, help="how we greet (the host)")
    parser.add_argument("-f", dest="sender", metavar="from", help="the envelope's sender (default: $SENDER)")
    recipient = parser.add_mutually_exclusive_group(required=True)
    recipient.add_argument("-r", dest="variable", action="store_const", const="RECIPIENT", help="for $RECIPIENT")
    recipient.add_argument("-u", dest="variable", action="store_const", const="USER", help="for $USER")
    arguments = parser.parse_args()
    reset_signals()
    if not os.environ.get(arguments.variable):
        parser.error(f"no recipient: {arguments.variable} is not set")
    return arguments, os.environ[arguments.variable]


def _end(status: int, reason: str) -> NoReturn:
    if reason:
        print(f"mail.lmtp: {reason}", file=sys.stderr)
    sys.exit(status)
