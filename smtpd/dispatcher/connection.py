"""One client's connection: obeys what the session (smtp/server.py) decides.

    bytes --> session.receive --> actions        Say, Close     the transport
                    ^                            Content        content.py
                    |                            Ask            the ids, lookup, queue
                    +------ answer --------------  (their answer comes back here)

Dull on purpose.  It reads no further while the session waits, while spool writing lags behind, or while the client does
not read its answers; so a client costs at most what one read of the socket brings.  An exception costs this session.
"""

import asyncio
from typing import cast

from smtpd.config.slice import ListenerSlice
from smtpd.dispatcher.content import Content
from smtpd.dispatcher.crowd import Crowd
from smtpd.dispatcher.office import Office
from smtpd.imsg import (
    ExpandRecipient,
    ForgetMessage,
    MessageRefused,
    MessageStored,
    RecipientExpanded,
    RecipientRefused,
    StoreMessage,
)
from smtpd.ipc.log import log
from smtpd.smtp import action
from smtpd.smtp.question import (
    AcceptRecipient,
    Answer,
    BeginMessage,
    ContentStored,
    MessageBegun,
    Question,
    RecipientAccepted,
    Refused,
    StoreContent,
)
from smtpd.smtp.server import Client, Session

CROWDED = b"421 4.7.0 Too many connections, try again later\r\n"
CLOSING = 5.0  # seconds that a client has to take its last reply


class Connection(asyncio.Protocol):
    def __init__(self, office: Office, crowd: Crowd, listener: ListenerSlice):
        self.office, self.crowd, self.listener = office, crowd, listener
        self.id = crowd.new_id()
        self.address = ""
        self.statistic = ""
        self.session: Session | None = None
        self.transport: asyncio.Transport
        self.content: Content | None = None
        self._early: list[bytes] = []  # what came before the greeting
        self._reading = True
        self._client_reads = True
        self._finished = False
        self._stepping = False
        self._ready: Answer | None = None
        self._settled = 0  # the message that queue has decided on: it knows better than to be told to forget it
        self._patience: asyncio.TimerHandle | None = None

    # -- the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before we looked
            self._finished = True
            self.transport.abort()
            return
        address, port = peer[0].partition("%")[0], peer[1]
        self.address = address
        self.statistic = "smtp.session.inet6" if ":" in address else "smtp.session.inet4"
        reason = self.crowd.admit(self)
        if reason:
            log.line(f'{self.id:016x} smtp refused address={address} reason="{reason}"')
            self._finished = True
            self.transport.write(CROWDED)
            self.transport.close()
            return
        self.office.names.find(address, lambda name: self._resolved(port, name))
        if self.session is None:
            self._pause()

    def _resolved(self, port: int, name: str) -> None:
        if self._finished:
            return
        client = Client(address=self.address, port=port, name=name)
        self.session = Session(self.id, self.listener, client=client, settings=self.office.settings)
        self._step(self.session.greeting, self.office.loop.time())
        early, self._early = b"".join(self._early), []
        if early:
            self.data_received(early)
        self._resume()

    def data_received(self, data: bytes) -> None:
        if self._finished:
            return
        if self.session is None:
            self._early.append(data)
            self._pause()
            return
        waiting = self.session.waiting
        self._step(self.session.receive, data, self.office.loop.time())
        if waiting or not self._may_read():
            self._pause()

    def connection_lost(self, error: Exception | None) -> None:
        if self.session is not None and not self._finished:
            self._step(self.session.aborted)
        self._finished = True
        if self._patience is not None:
            self._patience.cancel()
        self._drop_content()
        self.crowd.leave(self)

    def pause_writing(self) -> None:
        self._client_reads = False
        self._pause()

    def resume_writing(self) -> None:
        self._client_reads = True
        self._resume()

    def _may_read(self) -> bool:
        return self._client_reads and not (self.content is not None and self.content.full)

    def _pause(self) -> None:
        if self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._reading or self.transport.is_closing() or not self._may_read():
            return
        if self.session is not None and not self.session.waiting:
            self._reading = True
            self.transport.resume_reading()

    # -- time and the end ----------------------------------------------------------------

    def tick(self, now: float) -> None:
        if self.session is not None and not self._finished:
            self._step(self.session.tick, now)

    def shutdown(self) -> None:
        """The daemon stops: 421 now, or when the answer that is under way has been given."""
        if self.session is None:
            self.transport.abort()
        elif not self._finished:
            self._step(self.session.shutdown)

    # -- what the session wants ---------------------------------------------------------------

    def _step(self, step, *arguments) -> None:
        """Let the session take one step and obey it.  Our own fault in it costs this session and nobody else."""
        assert self.session is not None
        self._stepping = True
        try:
            self._obey(step(*arguments))
            while self._ready is not None:  # a question that was answered on the spot
                answer, self._ready = self._ready, None
                self._obey(self.session.answer(answer, self.office.loop.time()))
        except Exception as error:  # noqa: BLE001  (rule R8: the one place around one session)
            log.trouble(f"{self.id:016x} smtp", error)
            self._give_up()
        finally:
            self._stepping = False

    def _obey(self, actions: list[action.Action]) -> None:
        for what in actions:
            match what:
                case action.Say():
                    if not self._finished:
                        self.transport.write(what.data)
                case action.Content():
                    assert self.content is not None
                    self.content.add(what.data)
                case action.Ask():
                    self._ask(what.question)
                case action.Forget():
                    self._forget(what.message, what.envelopes)
                case action.Log():
                    log.line(f"{self.id:016x} smtp {what}")
                case action.Close():
                    self._finish(what.reason)

    def _ask(self, question: Question) -> None:
        match question:
            case BeginMessage():
                self.office.numbers.take(self._begun)
            case AcceptRecipient():
                self.office.to_lookup.ask(
                    lambda request: ExpandRecipient(request, question.message, question.origin, question.recipient),
                    self._expanded,
                )
            case StoreContent():
                assert self.content is not None
                self.content.finish(lambda content: self._store(question, content))

    def _answer(self, answer: Answer) -> None:
        """The session goes on; the client may have left meanwhile, and the session knows what that means."""
        assert self.session is not None
        if self._stepping:
            self._ready = answer
            return
        self._step(self.session.answer, answer, self.office.loop.time())
        if not self._finished:
            self._resume()

    def _begun(self, message: int) -> None:
        office = self.office
        if not self._finished:
            self.content = Content(message, office.memory, office.to_queue, office.loop, office.writers, self._resume)
        self._answer(MessageBegun(message, office.now()))

    def _expanded(self, imsg: RecipientExpanded | RecipientRefused) -> None:
        if isinstance(imsg, RecipientExpanded):
            self._answer(RecipientAccepted(imsg.count))
        else:
            self._answer(Refused(imsg.code, imsg.enhanced, imsg.text))

    def _store(self, question: StoreContent, content: bytes | Refused) -> None:
        self._drop_content()
        if isinstance(content, Refused):
            self._answer(content)
            return
        self.office.to_queue.ask(
            lambda request: StoreMessage(request, question.message, question.envelopes, content, question.size),
            lambda imsg: self._stored(question.message, imsg),
            len(content),
        )

    def _stored(self, message: int, imsg: MessageStored | MessageRefused) -> None:
        self._settled = message
        if isinstance(imsg, MessageStored):
            self._answer(ContentStored())
        else:
            self._answer(Refused(imsg.code, imsg.enhanced, imsg.text))

    def _forget(self, message: int, envelopes: int) -> None:
        self._drop_content()
        if message != self._settled:
            self.office.queue.send(ForgetMessage(message, envelopes))

    def _drop_content(self) -> None:
        """If it was to be stored, the session hears that it will not be, and forgets the message."""
        content, self.content = self.content, None
        if content is not None:
            content.close()

    def _finish(self, reason: str) -> None:
        """The last reply has been written; a client that does not take it has a few seconds.

        After anything but QUIT more may be on its way to us, and a close with bytes unread is a reset, which can
        overtake the reply: then only our side is closed, and what still comes is thrown away.
        """
        if self._finished:
            return
        self._finished = True
        self._patience = self.office.loop.call_later(CLOSING, self.transport.abort)
        if reason == "quit" or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()

    def _give_up(self) -> None:
        """After our own failure: 421 and the end, if the session is still able to say so."""
        self._ready, self._stepping = None, False
        try:
            assert self.session is not None
            self._obey(self.session.failed())
        except Exception as error:  # noqa: BLE001  (what it had begun stays with queue until the daemon ends)
            log.trouble(f"{self.id:016x} smtp", error)
        self._finish("internal-error")
        self._drop_content()
