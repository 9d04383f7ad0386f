"""DATA and BDAT: the content of a message, until it is stored or refused.

    DATA    RCPT --354--> DATA --CRLF.CRLF--> stored?
    BDAT    RCPT --> CHUNK --its bytes--> CHUNKED --BDAT--> CHUNK --LAST, its bytes--> stored?

Content that cannot be taken is read to its end: only then are there commands again.  So is a chunk that is refused, in
any state (RFC 3030 2).
"""

import re

from smtpd.envelope import Body, message_text
from smtpd.header.received import received
from smtpd.smtp.chunk import Chunk, ChunkReader
from smtpd.smtp.data import TOO_BIG, DataReader
from smtpd.smtp.question import Answer, RefusedAnswer, StoreQuestion
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.session import Session
from smtpd.smtp.state import State
from smtpd.smtp.transaction import Transaction

GO_AHEAD = Reply(354, "", 'Enter mail, end with "." on a line by itself')
SMALL_CHUNK = 64  # bytes; a smaller chunk costs a client little to send and the session much to obey

NO_RECIPIENT = Reply(503, "5.5.4", "No recipient was accepted")

_CHUNK = re.compile(r"([0-9]{1,18})(?:[ \t]+(LAST))?", re.IGNORECASE | re.ASCII)  # RFC 3030 2


def data(session: Session, argument: str) -> None:
    """RFC 5321 4.1.1.4"""
    transaction = session.get_transaction()
    if session.state is State.MAIL:
        raise CommandRefused(503, "5.5.4", "DATA not allowed: no recipient was accepted")
    if transaction.terms.body is Body.BINARY:  # RFC 3030 3
        raise CommandRefused(503, "5.5.1", "DATA not allowed: BODY=BINARYMIME needs BDAT")
    transaction.begin_content(DataReader(session.settings.max_message_size), _trace(session, transaction))
    session.enter(State.DATA)
    session.reply(GO_AHEAD)


def read_data(session: Session) -> bool:
    """Whether there is more to do with what has been received."""
    transaction, taken = session.get_transaction(), session.lines.take_rest()
    if not taken:
        return False
    reader = transaction.reader
    assert isinstance(reader, DataReader)
    _give_out(session, transaction, reader.feed(taken), ended=reader.ended)
    if not reader.ended:
        return False
    session.lines.feed(reader.rest)
    fault = transaction.fault if transaction.forgotten else None
    if fault:
        _drop(session)
        session.refuse(fault)
    else:
        _store(session, transaction)
    return True


def bdat(session: Session, argument: str) -> None:
    """RFC 3030 2"""
    found = _CHUNK.fullmatch(argument)
    if not found:  # it is not known where the next command begins
        raise CommandRefused(501, "5.5.4", "Syntax: BDAT size [LAST]", close=True)
    size = int(found[1])
    if size < SMALL_CHUNK and not found[2]:
        session.count_unproductive()
    session.chunk = Chunk(size, size, bool(found[2]), session.state, _begin_chunk(session, size))
    session.enter(State.CHUNK)


def _begin_chunk(session: Session, size: int) -> Reply | None:
    """Why it is refused; None: it is taken."""
    if session.state is State.MAIL:
        return NO_RECIPIENT
    if session.state not in (State.RCPT, State.CHUNKED):
        return Reply(503, "5.5.1", f"BDAT not allowed: {session.state.value}")
    transaction = session.get_transaction()
    if transaction.announced + size > session.settings.max_message_size:
        session.forget(transaction)
        return TOO_BIG
    if transaction.reader is None:
        reader = ChunkReader(binary=transaction.terms.body is Body.BINARY)
        transaction.begin_content(reader, _trace(session, transaction))
    transaction.announced += size
    return None


def read_chunk(session: Session) -> bool:
    """Whether there is more to do with what has been received."""
    chunk = session.chunk
    assert chunk is not None
    taken = session.lines.take(chunk.left)
    chunk.left -= len(taken)
    if chunk.refusal is None and (taken or not chunk.left):
        _take_chunk(session, session.get_transaction(), chunk, taken)
    if chunk.left:
        return False
    session.chunk = None
    _end_chunk(session, chunk)
    return True


def _take_chunk(session: Session, transaction: Transaction, chunk: Chunk, taken: bytes) -> None:
    reader = transaction.reader
    assert isinstance(reader, ChunkReader)
    ended = chunk.last and not chunk.left
    content = reader.feed(taken)
    if ended:
        content += reader.end()
    _give_out(session, transaction, content, ended=ended)
    chunk.refusal = transaction.fault


def _end_chunk(session: Session, chunk: Chunk) -> None:
    if chunk.refusal:
        if chunk.before in (State.RCPT, State.CHUNKED):
            _drop(session)
        else:
            session.enter(chunk.before)
        session.refuse(chunk.refusal)
    elif chunk.last:
        _store(session, session.get_transaction())
    else:
        session.enter(State.CHUNKED)
        session.reply(Reply(250, "2.0.0", f"{chunk.size} octets received"))


def _give_out(session: Session, transaction: Transaction, content: bytes, *, ended: bool) -> None:
    content = transaction.take(content, ended=ended)
    if content:
        session.give_out(content)
    elif transaction.fault:
        session.forget(transaction)


def _store(session: Session, transaction: Transaction) -> None:
    question = StoreQuestion(transaction.message, transaction.envelopes, transaction.size)
    session.ask(question, lambda answer: _stored(session, transaction, answer))


def _stored(session: Session, transaction: Transaction, answer: Answer) -> None:
    """The only place that accepts a message: it is on the disk."""
    if isinstance(answer, RefusedAnswer):
        _drop(session)
        session.refuse(Reply(answer.code, answer.enhanced, answer.text))
        return
    session.finish()
    session.enter(State.READY)
    session.reply(Reply(250, "2.0.0", f"{message_text(transaction.message)} Message accepted for delivery"))


def _drop(session: Session) -> None:
    session.drop()
    session.enter(State.READY)


def _trace(session: Session, transaction: Transaction) -> bytes:
    origin, facts, listener = transaction.origin, session.facts, session.listener
    return received(
        helo=origin.helo,
        client=origin.client,
        address=origin.address,
        server=origin.hostname,
        product=session.settings.product,
        protocol=transaction.protocol,
        message=message_text(transaction.message),
        recipient=transaction.recipients[0][0] if len(transaction.recipients) == 1 else "",
        epoch=transaction.time,
        tls=f"{facts}:{'YES' if facts.verified else 'NO'}" if facts else "",
        user=origin.user,
        received_auth=listener.received_auth,
        mask_src=listener.mask_src,
    )
