"""States of a client's session, SMTP or LMTP: the table of transitions, and how long a reply is waited for.

    GREETING -> HELLO -> (STARTTLS -> TLS -> HELLO) -> (AUTH) -> READY
    READY -> (INSPECT) -> ENVELOPE -> DATA -> CONTENT -> DOT -> READY          with DATA
                             |-> CHUNKS ---------------> DOT -> READY          with BDAT
                             +-> RESET ------------------------> READY         no mail came of it
    READY -> QUIT -> OVER

The sentence of a state stands in front of the reason why a session ended in it.  Only ClientSession.enter changes
the state.
"""

from enum import Enum


class ClientState(Enum):
    __hash__ = object.__hash__  # that of Enum is a function in Python, and states are looked up for each reply

    GREETING = "waiting for the greeting"
    HELLO = "waiting for the answer to EHLO, HELO or LHLO"
    STARTTLS = "waiting for the answer to STARTTLS"
    TLS = "waiting for the TLS handshake"
    AUTH = "logging in"
    READY = "greeted, no mail begun"
    INSPECT = "looking for 8-bit content"
    ENVELOPE = "telling sender and recipients"
    DATA = "waiting for the answer to DATA"
    CONTENT = "sending the mail"
    CHUNKS = "sending the mail in chunks"
    DOT = "waiting for the answer to the mail"
    RESET = "waiting for the answer to RSET"
    QUIT = "waiting for the answer to QUIT"
    OVER = "the session is over"


_S = ClientState

TRANSITIONS = {
    _S.GREETING: (_S.HELLO, _S.OVER),
    _S.HELLO: (_S.HELLO, _S.STARTTLS, _S.AUTH, _S.READY, _S.OVER),  # HELO after EHLO
    _S.STARTTLS: (_S.TLS, _S.READY, _S.OVER),  # AUTH comes after TLS only
    _S.TLS: (_S.HELLO, _S.OVER),
    _S.AUTH: (_S.READY, _S.OVER),
    _S.READY: (_S.INSPECT, _S.ENVELOPE, _S.QUIT, _S.OVER),
    _S.INSPECT: (_S.ENVELOPE, _S.READY, _S.OVER),
    _S.ENVELOPE: (_S.DATA, _S.CHUNKS, _S.RESET, _S.READY, _S.OVER),
    _S.DATA: (_S.CONTENT, _S.DOT, _S.RESET, _S.READY, _S.OVER),
    _S.CONTENT: (_S.DOT, _S.OVER),
    _S.CHUNKS: (_S.DOT, _S.RESET, _S.OVER),
    _S.DOT: (_S.ENVELOPE, _S.RESET, _S.READY, _S.OVER),  # ENVELOPE: of a further transaction
    _S.RESET: (_S.ENVELOPE, _S.READY, _S.OVER),
    _S.QUIT: (_S.OVER,),
    _S.OVER: (),
}

# Seconds for each reply, and for each piece of content: RFC 5321 4.5.3.2 where it names the command.  A mail has its
# results when QUIT is said, so that is waited for only to be polite.
REPLY_TIMEOUT = {
    _S.GREETING: 300.0,  # 4.5.3.2.1
    _S.HELLO: 300.0,
    _S.STARTTLS: 300.0,
    _S.TLS: 60.0,
    _S.AUTH: 180.0,  # RFC 4954 4: at least three minutes
    _S.ENVELOPE: 300.0,  # 4.5.3.2.2, 4.5.3.2.3: MAIL, RCPT
    _S.DATA: 120.0,  # 4.5.3.2.4
    _S.CONTENT: 180.0,  # 4.5.3.2.5: until the next piece can be written
    _S.CHUNKS: 180.0,
    _S.DOT: 600.0,  # 4.5.3.2.6: a shorter one sends many mails twice
    _S.RESET: 60.0,
    _S.QUIT: 10.0,
}
