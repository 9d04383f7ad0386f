"""The client's side of an SMTP or LMTP session, without I/O: bytes and "now" go in, actions come out.

    receive(b"220 …")                                               Say(b"EHLO …")
    receive(b"250-…")              READY                            Ready()
    begin(ClientMail(amy, (bob, carol), …))                         Say(b"MAIL …RCPT …RCPT …DATA…")
    receive(b"250 …250 …550 …354 …")                                RecipientResult(1, FAILED), ReadContent()
    content(…) …, content_end()                                     Say(…)
    written()                      DOT
    receive(b"250 …")              READY                            RecipientResult(0, DELIVERED), Ready()

The driver obeys the actions in their order, calls `tick` at `deadline`, and feeds content while `wants` is not 0 and
its own buffer is low.  It feeds all that it has read before it says that the connection is lost: a reply counts
although the server has closed behind it.  It calls `written` before it feeds a reply, if all that the client has said
is with the kernel: what the server says while the end of the mail has not left answers something else.

Each recipient of a mail gets exactly one RecipientResult.  Recipients that an SMTP server refuses as too many get a
further transaction of the same mail (RFC 5321 4.5.3.1.10).  A server that has said something when a command is to be
said, or that answers more than was asked, cannot be understood any more: the session ends, and what is open is
deferred.

    client_state         states, transitions, timeouts          client_session      what the phases share
    client_action        what goes in and comes out             client_greeting     EHLO, STARTTLS, AUTH; client_auth
    client_extension     what the server offers                 client_transaction  mails; client_mail, client_content
    client_lmtp          a client for LMTP alone                client_input        the methods that a driver calls

LMTP (RFC 2033) differs in LHLO, and in a reply for each accepted recipient after the content.
"""

from smtpd.smtp.client_content import Converter, Inspector
from smtpd.smtp.client_input import ClientInput
from smtpd.smtp.content_facts import ContentInspector
from smtpd.smtp.seven_bit import SevenBitConverter


class SmtpClient(ClientInput):
    """A client for SMTP and LMTP, with all that a mail may need on its way to another host."""

    def _make_inspector(self) -> Inspector:
        return ContentInspector()

    def _make_converter(self, parts: frozenset[int]) -> Converter:
        return SevenBitConverter(parts)
