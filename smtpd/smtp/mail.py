"""MAIL and RCPT: their parameters, what this client may ask for, and the questions to other processes.

    MAIL    parameters -> TLS -> AUTH -> mails of this session -> the user's senders -> a message id
    RCPT    parameters -> recipients of this message -> rules, aliases

A priority above 0, FUTURERELEASE, and the submitter in AUTH= are only for clients that have authenticated.
"""

from msgspec.structs import replace

from smtpd.envelope import MailParameters, Origin, message_text
from smtpd.header.editor import HeaderEditor
from smtpd.slice import Auth
from smtpd.smtp import command
from smtpd.smtp.address import Address
from smtpd.smtp.data import TOO_BIG
from smtpd.smtp.ip_address import is_loopback
from smtpd.smtp.question import (
    Answer,
    MessageIdAnswer,
    MessageIdQuestion,
    RecipientAnswer,
    RecipientQuestion,
    RefusedAnswer,
    SenderAnswer,
    SenderQuestion,
    Verdict,
)
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.session import Session
from smtpd.smtp.starttls import must_encrypt
from smtpd.smtp.state import State
from smtpd.smtp.transaction import Transaction

SUBMISSION_PORTS = (587, 465)  # RFC 6409 3.1, RFC 8314 3.3

OK = Reply(250, "2.0.0", "Ok")
PRIORITY_CHANGED = Reply(250, "2.3.6", "Ok, but with priority 0")  # RFC 6710 4.1
RECIPIENT_OK = Reply(250, "2.1.5", "Destination address valid: Recipient ok")
SENDER_REJECTED = Reply(550, "5.7.1", "Sender rejected")
SENDER_LATER = Reply(451, "4.3.0", "Sender cannot be checked now")


def mail(session: Session, argument: str) -> None:
    """RFC 5321 4.1.1.2"""
    asked = command.parse_mail(argument, session.offer, session.date)
    if asked.size > session.settings.max_message_size:
        session.refuse(TOO_BIG)
        return
    _check_allowed(session, asked.terms)
    if session.mails >= session.settings.limits.max_mails:
        raise CommandRefused(452, "4.5.3", "Too many messages in this session")
    if session.listener.senders and session.user:
        question = SenderQuestion(session.user, _complete(session, asked.sender))
        session.ask(question, lambda answer: _sender_checked(session, asked, answer))
    else:
        _ask_for_id(session, asked)


def rcpt(session: Session, argument: str) -> None:
    """RFC 5321 4.1.1.3"""
    transaction = session.get_transaction()
    asked = command.parse_rcpt(argument, session.offer, utf8=transaction.terms.utf8)
    if len(transaction.recipients) >= session.settings.limits.max_rcpt:
        raise CommandRefused(452, "4.5.3", "Too many recipients")  # RFC 5321 4.5.3.1.10
    recipient = _complete(session, asked.recipient)
    question = RecipientQuestion(
        transaction.message, transaction.origin, recipient, transaction.terms, asked.notify, asked.original
    )
    session.ask(question, lambda answer: _recipient_decided(session, transaction, recipient, answer))


def _check_allowed(session: Session, terms: MailParameters) -> None:
    if must_encrypt(session):  # RFC 3207 4
        raise CommandRefused(530, "5.7.0", "Must issue a STARTTLS command first")
    if session.user or session.client.local:
        return
    if session.listener.auth is Auth.REQUIRED or terms.release:  # RFC 4954 6
        raise CommandRefused(530, "5.7.0", "Authentication required")


def _sender_checked(session: Session, asked: command.MailCommand, answer: Answer) -> None:
    assert isinstance(answer, SenderAnswer)
    session.enter(State.READY)
    if answer.verdict is Verdict.YES:
        _ask_for_id(session, asked)
    else:
        session.refuse(SENDER_REJECTED if answer.verdict is Verdict.NO else SENDER_LATER)


def _ask_for_id(session: Session, asked: command.MailCommand) -> None:
    session.ask(MessageIdQuestion(session.address, session.user), lambda answer: _begun(session, asked, answer))


def _begun(session: Session, asked: command.MailCommand, answer: Answer) -> None:
    if isinstance(answer, RefusedAnswer):
        session.enter(State.READY)
        session.refuse(Reply(answer.code, answer.enhanced, answer.text))
        return
    assert isinstance(answer, MessageIdAnswer)
    origin = Origin(
        sender=_complete(session, asked.sender),
        address=session.address,
        client=session.client.name,
        helo=session.helo,
        hostname=session.name,
        tag=session.listener.tag,
        esmtp=session.esmtp,
        tls=session.facts is not None,
        user=session.user,
    )
    terms = _granted(session, asked.terms)
    editor = _editor(session, answer, origin.sender)
    session.transaction = Transaction(answer.message, answer.time, origin, terms, editor)
    session.enter(State.MAIL)
    session.reply(OK if terms.priority == asked.terms.priority else PRIORITY_CHANGED)


def _granted(session: Session, terms: MailParameters) -> MailParameters:
    if session.user or session.client.local:
        return terms
    if terms.submitter:  # RFC 4954 5: only trusted clients may say it
        terms = replace(terms, submitter="<>")
    if terms.priority > 0:
        terms = replace(terms, priority=0)
    return terms


def _editor(session: Session, begun: MessageIdAnswer, sender: str) -> HeaderEditor:
    """Date and Message-ID are added where a message is submitted, and nowhere else (RFC 6409 8)."""
    listener = session.listener
    masquerade = sender if listener.masquerade and session.user else ""
    if session.user or _is_of_this_host(session) or listener.port in SUBMISSION_PORTS:
        message_id = f"{message_text(begun.message)}{begun.time:08x}@{session.name}"
        return HeaderEditor(domain=session.name, masquerade=masquerade, date=begun.time, message_id=message_id)
    return HeaderEditor(domain=session.name, masquerade=masquerade)


def _is_of_this_host(session: Session) -> bool:
    """A program of this host, on a listener that only programs of this host can reach."""
    client = session.client
    return client.local or is_loopback(session.listener.address) and is_loopback(client.address)


def _recipient_decided(session: Session, transaction: Transaction, recipient: str, answer: Answer) -> None:
    if isinstance(answer, RefusedAnswer):
        session.enter(State.RCPT if transaction.recipients else State.MAIL)
        session.refuse(Reply(answer.code, answer.enhanced, answer.text))
        return
    assert isinstance(answer, RecipientAnswer)
    transaction.add_recipient(recipient, answer.envelopes)
    session.enter(State.RCPT)
    session.reply(RECIPIENT_OK)


def _complete(session: Session, address: Address) -> str:
    """An address without a domain gets the domain of this server."""
    if address.local and not address.domain:
        address = Address(address.local, session.name)
    return str(address)
