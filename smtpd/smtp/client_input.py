"""The input of a client's session: bytes, time, mails and their content; which reply goes to which phase.

client.py says what a driver has to do.
"""

from smtpd.smtp.client_action import ClientAction, ClientMail, EndKind, ReadContent
from smtpd.smtp.client_mail import MailCommands
from smtpd.smtp.client_state import ClientState
from smtpd.smtp.client_transaction import MailPhase
from smtpd.smtp.response import Response, ResponseError
from smtpd.tls.facts import TlsFacts

_IN_CONTENT = (ClientState.CONTENT, ClientState.CHUNKS)


class ClientInput(MailPhase):
    """The connection is there; `facts`: TLS too, where it comes before the greeting."""

    def receive(self, data: bytes, now: float) -> list[ClientAction]:
        """Any bytes that were read, decrypted."""
        self._now = now
        if self.state is ClientState.OVER:
            return []
        if self.state is ClientState.TLS:  # RFC 3207 4.2, 6: nothing in the clear behind the reply to STARTTLS
            self._end(EndKind.TLS, "the server sent more behind its answer to STARTTLS")
            return self._take_actions()
        try:
            self._reader.feed(data)
            while self.state is not ClientState.OVER and (response := self._reader.maybe_response()):
                self._obey(response)
                self._restart_timeout()
        except ResponseError as malformed:
            self._end(EndKind.PROTOCOL, f"the answer is not a reply: {malformed}")
        return self._take_actions()

    def tls_started(self, facts: TlsFacts, now: float) -> list[ClientAction]:
        """The handshake that StartTls asked for is done.  If it failed: `lost`."""
        self._now = now
        if self.state is ClientState.TLS:
            self._start_encrypted(facts)
        return self._take_actions()

    def begin(self, mail: ClientMail, now: float, date: int) -> list[ClientAction]:
        """Only in READY.  `date`: seconds since 1970."""
        assert self.state is ClientState.READY and mail.recipients, self.state
        self._now = now
        self.mails += 1
        self._mail, self._open = mail, set(range(len(mail.recipients)))
        self._commands = MailCommands(mail, self.extensions, self.facts, date, user=self.user, lmtp=self.settings.lmtp)
        refusal = self._commands.maybe_refusal()
        if refusal is None and self._commands.wants_facts:
            self._inspector = self._make_inspector()
            self.enter(ClientState.INSPECT)
            self._actions.append(ReadContent())
        else:
            self._begin_mail(self._commands, mail, refusal)
        return self._take_actions()

    def content(self, piece: bytes, now: float) -> list[ClientAction]:
        """The next piece of the content, as it is stored; not taken where none is wanted any more."""
        self._now = now
        if self.state is ClientState.INSPECT and self._inspector is not None:
            self._inspector.look(piece)
        elif self.state in _IN_CONTENT and self._transaction.sender is not None:
            self._restart_timeout()
            self._send_content(self._transaction.sender, piece, last=False)
        return self._take_actions()

    def content_end(self, now: float) -> list[ClientAction]:
        """The content is complete."""
        self._now = now
        if self.state is ClientState.INSPECT and self._inspector is not None:
            assert self._commands is not None and self._mail is not None
            self._commands.content = self._inspector.facts()
            self._begin_mail(self._commands, self._mail, self._commands.maybe_refusal())
        elif self.state in _IN_CONTENT and self._transaction.sender is not None:
            self._restart_timeout()
            self._send_content(self._transaction.sender, b"", last=True)
        return self._take_actions()

    @property
    def awaits_written(self) -> bool:
        """All of the content has been said, and `written` not called since."""
        return self.state in _IN_CONTENT and self._transaction.complete

    def written(self, now: float) -> list[ClientAction]:
        """All that was said has been written to the connection.  After `content_end` only this lets a reply be the
        answer to the mail, and its time begin.  At any other time it has no effect."""
        self._now = now
        if self.awaits_written:
            self.enter(ClientState.DOT)
        return self._take_actions()

    def content_failed(self, reason: str, now: float) -> list[ClientAction]:
        """The content cannot be read.  A mail that was begun must not be completed, so the session ends."""
        self._now = now
        if self.state is ClientState.INSPECT:
            self._defer_open(reason)
            self._be_ready()
        elif self.state in _IN_CONTENT:
            self._fail(EndKind.GIVEN_UP, reason)
        return self._take_actions()

    def quit(self, now: float) -> list[ClientAction]:
        """QUIT.  In the middle of a mail, or before READY, the session is given up."""
        self._now = now
        if self.state is ClientState.READY:
            self._say_quit()
        elif self.state is not ClientState.QUIT:
            self._end(EndKind.GIVEN_UP, "given up")
        return self._take_actions()

    def lost(self, reason: str, now: float) -> list[ClientAction]:
        """The connection has ended, by whichever side, or the handshake has failed."""
        self._now = now
        self._fail(EndKind.LOST, reason)
        return self._take_actions()

    def tick(self, now: float) -> list[ClientAction]:
        """Does nothing before the deadline."""
        self._now = now
        if self.deadline is not None and now >= self.deadline:
            self._fail(EndKind.TIMEOUT, f"no answer in {self.settings.timeouts[self.state]:.0f} seconds")
        return self._take_actions()

    @property
    def uncertain(self) -> bool:
        """The mail has been sent completely, and not been answered for each recipient."""
        return bool(self._unanswered())

    def _obey(self, response: Response) -> None:
        if response.code == 421:
            self._shut_down(response)
            return
        match self.state:
            case ClientState.ENVELOPE | ClientState.DATA if self._transaction.expected:
                self._envelope_answered(response)
            case ClientState.DOT if response.kind != 3:
                self._content_answered(response)
            case ClientState.GREETING if response.code == 220 or response.kind in (4, 5):
                self._greeting_answered(response)
            case ClientState.HELLO if response.kind in (2, 4, 5):
                self._hello_answered(response)
            case ClientState.STARTTLS if response.code == 220 or response.kind in (4, 5):
                self._starttls_answered(response)
            case ClientState.AUTH if response.code in (235, 334) or response.kind in (4, 5):
                self._auth_answered(response)
            case ClientState.CONTENT if response.kind in (4, 5) and not self.settings.lmtp:
                # Before the final dot; RFC 5321 has no such reply, and the server takes no more.
                self._conclude_accepted(response, "DATA")
                self._fail(EndKind.PROTOCOL, f"unexpected {response}", response)
            case ClientState.CHUNKS if response.kind != 3 and self._expects_chunk_reply(response):
                self._chunk_answered(response)
            case ClientState.RESET if self._transaction.ignored:
                self._transaction.ignored -= 1
            case ClientState.RESET if response.kind == 2:
                self._go_on()
            case _:
                self._fail(EndKind.PROTOCOL, f"unexpected {response}", response)
