"""XCLIENT: a trusted proxy says which client it speaks for; the session goes on with that one.

After it the session knows nothing of what was said before.
"""

from smtpd.smtp.hello import introduce
from smtpd.smtp.ip_address import is_loopback
from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.session import Client, Session
from smtpd.smtp.starttls import must_encrypt
from smtpd.smtp.state import State
from smtpd.smtp.xclient_attributes import XclientOverrides, parse_xclient


def xclient(session: Session, argument: str) -> None:
    """A proxy may send the attributes in several commands."""
    if not session.may_xclient:
        raise CommandRefused(550, "5.7.0", "XCLIENT is not for you")
    if must_encrypt(session):  # otherwise any host on the way could send it
        raise CommandRefused(530, "5.7.0", "Must issue a STARTTLS command first")
    said = parse_xclient(argument)
    if said.address and is_loopback(said.address) and not is_loopback(session.client.address):
        raise CommandRefused(501, "5.5.4", "Bad value of ADDR: that is another host's loopback address, not ours")
    session.drop()
    session.client = _other_client(session, said)
    if said.login is not None or said.address is not None:  # another client has not authenticated, unless LOGIN says so
        session.user = said.login or ""
    session.log("xclient", address=session.address, host=session.client.name, user=session.user)
    session.helo = ""
    session.enter(State.FRESH)
    if said.helo:
        introduce(session, said.helo, esmtp=said.protocol != "SMTP")
    session.say_banner()


def _other_client(session: Session, said: XclientOverrides) -> Client:
    client = session.client
    return client._replace(
        address=client.address if said.address is None else said.address,
        port=client.port if said.port is None else said.port,
        name=client.name if said.name is None else said.name,
        local=client.local and said.address is None,
    )
