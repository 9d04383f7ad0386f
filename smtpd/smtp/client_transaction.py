"""The phase of a client's session that repeats: a mail, in one transaction or several.

MAIL, RCPT, RCPT, DATA      with PIPELINING in one group, at most GROUP_MAX commands; each reply is looked at
354, content, dot           or BDAT with CHUNKING, once a recipient has been accepted
250                         Ready
RSET                        only where MAIL was accepted and nothing came of it, or after a refused chunk

recipients beyond RCPTMAX (RFC 9422), or refused as too many (RFC 5321 4.5.3.1.10): a further transaction
"""

from collections import deque

from smtpd.envelope import Outcome
from smtpd.smtp.client_action import (
    ClientMail,
    ClientSettings,
    EndKind,
    ReadContent,
    RecipientResult,
)
from smtpd.smtp.client_content import CHUNKS_UNANSWERED_MAX, PIECE_SIZE, ChunkWriter, Converter, Inspector
from smtpd.smtp.client_greeting import GreetingPhase
from smtpd.smtp.client_mail import MailCommands, Refusal
from smtpd.smtp.client_state import ClientState
from smtpd.smtp.dot_stuffing import DotStuffer
from smtpd.smtp.line_ending import TextError
from smtpd.smtp.response import Response
from smtpd.tls.facts import TlsFacts

GROUP_MAX = 100  # commands that are sent without an answer in between; their replies fit into any buffer

_TOO_MANY_RECIPIENTS = (452, 552)  # RFC 5321 4.5.3.1.10
_OUTCOMES = {2: Outcome.DELIVERED, 5: Outcome.FAILED}  # by the first digit of the reply


class Transaction:
    """One MAIL, and what belongs to it.  Begun, never cleaned."""

    __slots__ = (
        "accepted", "answered_chunks", "begun", "chunks", "complete", "confused", "converter", "delivered", "expected",
        "ignored", "named", "sender", "too_many", "unsaid",
    )  # fmt: skip

    def __init__(self, named: list[int]):
        self.named = named  # recipients, in the order of RCPT
        self.unsaid: deque[tuple[str, int, bytes]] = deque()  # commands: verb, recipient, line
        self.expected: deque[tuple[str, int]] = deque()  # commands that were said and not answered
        self.begun = False  # MAIL was accepted
        self.confused = False  # the server accepted a recipient after it had refused MAIL
        self.accepted: list[int] = []  # recipients, without a result
        self.too_many: dict[int, Response] = {}
        self.delivered = False
        self.sender: DotStuffer | ChunkWriter | None = None  # while content is wanted
        self.complete = False  # all of the content has been said
        self.converter: Converter | None = None
        self.chunks = self.answered_chunks = 0
        self.ignored = 0  # replies to come that mean nothing any more

    @property
    def unanswered_chunks(self) -> int:
        return self.chunks - self.answered_chunks


class MailPhase(GreetingPhase):
    """`wants`: bytes of content that are taken now."""

    def __init__(self, settings: ClientSettings, now: float, facts: TlsFacts | None = None):
        super().__init__(settings, now, facts)
        self._commands: MailCommands | None = None
        self._inspector: Inspector | None = None
        self._transaction = Transaction([])

    @property
    def wants(self) -> int:
        if self.state is ClientState.INSPECT:
            return PIECE_SIZE
        if self.state not in (ClientState.CONTENT, ClientState.CHUNKS) or self._transaction.sender is None:
            return 0
        if self.state is ClientState.CONTENT:
            return PIECE_SIZE
        unanswered = CHUNKS_UNANSWERED_MAX if self._is_pipelining() else 1
        return PIECE_SIZE if self._transaction.unanswered_chunks < unanswered else 0

    def _make_inspector(self) -> Inspector:
        raise NotImplementedError  # where nothing is converted

    def _make_converter(self, parts: frozenset[int]) -> Converter:
        raise NotImplementedError

    def _unanswered(self) -> list[int]:
        return list(self._transaction.accepted) if self.state is ClientState.DOT else []

    # -- sender and recipients ----------------------------------------------------------------------

    def _begin_mail(self, commands: MailCommands, mail: ClientMail, refusal: Refusal | None) -> None:
        """`refusal`: of the whole mail."""
        for place in sorted(self._open):
            if found := refusal or commands.maybe_recipient_refusal(mail.recipients[place]):
                self._conclude(found.result(place))
        self._begin_transaction(commands, mail)

    def _begin_transaction(self, commands: MailCommands, mail: ClientMail) -> None:
        """For the recipients that are open, or as many as the server takes at once."""
        named = sorted(self._open)[: self.extensions.limits.get("RCPTMAX")]
        if not named:
            self._be_ready()
            return
        self._transactions += 1
        self._transaction = Transaction(named)
        utf8 = commands.uses_utf8([mail.recipients[place] for place in named])
        unsaid = self._transaction.unsaid
        unsaid.append(("MAIL", -1, commands.mail(utf8=utf8)))
        unsaid += [("RCPT", place, commands.rcpt(mail.recipients[place], utf8=utf8)) for place in named]
        if self._is_pipelining() and not self._is_chunking():
            unsaid.append(("DATA", -1, b"DATA\r\n"))  # RFC 2920 3.1: the last one of a group
        self.enter(ClientState.ENVELOPE)
        self._say_group()

    def _say_group(self) -> None:
        """The next commands of the transaction: as many as may be sent without an answer."""
        transaction = self._transaction
        group: list[bytes] = []
        while transaction.unsaid and len(group) < (GROUP_MAX if self._is_pipelining() else 1):
            verb, place, line = transaction.unsaid.popleft()
            transaction.expected.append((verb, place))
            group.append(line)
        self._command(b"".join(group))
        self._await_next()

    def _await_next(self) -> None:
        """DATA has less time than the commands before it."""
        if self._transaction.expected[0][0] == "DATA" and self.state is ClientState.ENVELOPE:
            self.enter(ClientState.DATA)

    def _envelope_answered(self, response: Response) -> None:
        transaction = self._transaction
        verb, place = transaction.expected.popleft()
        if response.kind == 3 and (verb != "DATA" or response.code != 354) or verb == "DATA" and response.kind == 2:
            self._fail(EndKind.PROTOCOL, f"unexpected {response}", response)
            return
        match verb:
            case "MAIL":
                self._mail_answered(response)
            case "RCPT":
                self._rcpt_answered(place, response)
            case "DATA":
                self._data_answered(response)
                return
        if transaction.expected:
            self._await_next()
        elif transaction.unsaid:
            self._say_group()
        else:
            self._envelope_ended()

    def _mail_answered(self, response: Response) -> None:
        transaction = self._transaction
        transaction.begun = response.kind == 2
        if not transaction.begun:  # what follows in the group only repeats it: RFC 2920 3.1
            transaction.unsaid.clear()
            self._conclude_all(response, "MAIL")

    def _rcpt_answered(self, place: int, response: Response) -> None:
        transaction = self._transaction
        if not transaction.begun:
            transaction.confused = transaction.confused or response.kind == 2
        elif response.kind == 2:
            transaction.accepted.append(place)
        elif self._is_too_many(response):
            transaction.too_many[place] = response
        else:
            self._conclude(_result(place, response, "RCPT"))

    def _is_too_many(self, response: Response) -> bool:
        """The recipient may be accepted in a further transaction.  Not where none was accepted before it: that would
        not end.  Not in LMTP: 452 is the answer to a mailbox that is full (RFC 2033 4.2)."""
        if self.settings.lmtp or not self._transaction.accepted or response.code not in _TOO_MANY_RECIPIENTS:
            return False
        return response.enhanced in ("", f"{response.kind}.5.3")

    def _envelope_ended(self) -> None:
        """Each command has its answer, and DATA has not been said."""
        transaction = self._transaction
        if not transaction.accepted:  # RFC 2033 4.2, RFC 3030 4.1: no DATA, no BDAT
            self._finish(needs_reset=transaction.begun or transaction.confused)
        elif self._is_chunking():  # not before a recipient is accepted: some servers would take a chunk for commands
            self.enter(ClientState.CHUNKS)
            self._begin_content(ChunkWriter())
        else:
            transaction.expected.append(("DATA", -1))
            self._command(b"DATA\r\n")
            self._await_next()

    def _data_answered(self, response: Response) -> None:
        transaction = self._transaction
        if response.code != 354:
            self._conclude_accepted(response, "DATA")
            self._finish(needs_reset=transaction.begun or transaction.confused)
        elif transaction.accepted:
            self.enter(ClientState.CONTENT)
            self._begin_content(DotStuffer())
        elif self.settings.lmtp:  # RFC 2033 4.2: it had to refuse, and will not answer the dot
            self._fail(EndKind.PROTOCOL, f"unexpected {response}", response)
        else:  # RFC 2920 3.1: a mail without recipients
            self.enter(ClientState.DOT)
            self._command(b".\r\n")

    # -- the content ----------------------------------------------------------------------------------

    def _begin_content(self, sender: DotStuffer | ChunkWriter) -> None:
        commands = self._commands
        assert commands is not None
        self._transaction.sender = sender
        if commands.wants_conversion and commands.content is not None:
            self._transaction.converter = self._make_converter(commands.content.parts)
        self._actions.append(ReadContent())

    def _send_content(self, sender: DotStuffer | ChunkWriter, piece: bytes, *, last: bool) -> None:
        transaction = self._transaction
        if transaction.converter is not None:
            try:
                piece = transaction.converter.end() if last else transaction.converter.take(piece)
            except TextError as error:  # it has been changed since it was looked at
                self._end(EndKind.GIVEN_UP, f"the content cannot be converted: {error}")
                return
        if piece:
            self._say_content(sender, sender.take(piece))
        if last:
            self._say_content(sender, sender.end())
            transaction.sender = transaction.converter = None
            transaction.complete = True

    def _say_content(self, sender: DotStuffer | ChunkWriter, data: bytes) -> None:
        if isinstance(sender, ChunkWriter):
            self._transaction.chunks = sender.chunks
        if data:
            self._say(data)

    def _expects_chunk_reply(self, response: Response) -> bool:
        """Only a refusal may answer the last chunk before that has been written."""
        unanswered = self._transaction.unanswered_chunks
        if self._transaction.complete and response.kind == 2:
            unanswered -= 1
        return unanswered > 0

    def _chunk_answered(self, response: Response) -> None:
        """To a chunk that is not the last one, or that is refused before it has been written."""
        transaction = self._transaction
        transaction.answered_chunks += 1
        if response.kind == 2:
            return
        transaction.ignored = transaction.unanswered_chunks
        transaction.sender = transaction.converter = None
        self._conclude_accepted(response, "BDAT")
        self._finish(needs_reset=True)  # RFC 3030 2: the state is indeterminate

    def _content_answered(self, response: Response) -> None:
        transaction = self._transaction
        if transaction.unanswered_chunks > 1:  # the replies to earlier chunks come first
            self._chunk_answered(response)
        elif self.settings.lmtp:  # RFC 2033 4.2: in the order of the RCPTs that were accepted
            self._conclude(self._mail_result(transaction.accepted.pop(0), response, "DATA"))
            if not transaction.accepted:
                self._finish(needs_reset=False)
        else:
            self._conclude_accepted(response, "BDAT" if transaction.chunks else "DATA")
            self._finish(needs_reset=bool(transaction.chunks) and response.kind != 2)

    # -- the end of a transaction -----------------------------------------------------------------------

    def _finish(self, *, needs_reset: bool) -> None:
        """Each recipient that the server was told of has its result, but for those that were too many."""
        transaction = self._transaction
        if not transaction.delivered:
            for place, response in transaction.too_many.items():
                self._conclude(_result(place, response, "RCPT", Outcome.DEFERRED))
        if needs_reset:
            self.enter(ClientState.RESET)
            if transaction.ignored:  # their replies may be here
                self._say(b"RSET\r\n")
            else:
                self._command(b"RSET\r\n")
        else:
            self._go_on()

    def _go_on(self) -> None:
        """No transaction is open: the next one of the mail, or the next mail."""
        if self._is_last_mail():
            self._defer_open("the server takes no further mail")
        if self._open and self._commands is not None and self._mail is not None:
            self._begin_transaction(self._commands, self._mail)
        else:
            self._be_ready()

    def _conclude_all(self, response: Response, command: str) -> None:
        for place in sorted(self._open):
            self._conclude(_result(place, response, command))

    def _conclude_accepted(self, response: Response, command: str) -> None:
        """One reply for all recipients that were accepted."""
        accepted, self._transaction.accepted = self._transaction.accepted, []
        for place in accepted:
            self._conclude(self._mail_result(place, response, command))

    def _mail_result(self, place: int, response: Response, command: str) -> RecipientResult:
        """The reply to the content.  Only 2xx to that means that the mail was taken."""
        self._transaction.delivered = self._transaction.delivered or response.kind == 2
        return _result(place, response, command, dsn=response.kind == 2 and self.extensions.has("DSN"))

    def _is_pipelining(self) -> bool:
        return self.extensions.has("PIPELINING")

    def _is_chunking(self) -> bool:
        """Not in LMTP: a chunk that is refused has one reply, the last one as many as there are recipients, so after a
        refusal it would be a guess what belongs to what."""
        return self.settings.chunking and not self.settings.lmtp and self.extensions.has("CHUNKING")


def _result(
    place: int, response: Response, command: str, outcome: Outcome | None = None, *, dsn: bool = False
) -> RecipientResult:
    if outcome is None:
        outcome = _OUTCOMES.get(response.kind, Outcome.DEFERRED)
    return RecipientResult(place, outcome, response.code, response.enhanced, str(response), command, dsn=dsn)
