"""The connection of one client: feeds its session (smtp/server.py), and obeys the session's actions.

    bytes --> stream --> session.receive --> actions     Say, Close       stream.py
                           ^                             AppendContent    incoming_message.py
                           |                             Ask              the same; lookup_questions.py; TLS
                           +------ answer -------------  (of what was asked)

Before there is a session the bytes go to preamble.py, during a handshake to encryption.py.

A client that sends no more and still reads (stream.py) is answered to the end: the connection is over when all that
came has been obeyed.

This file decides nothing.  It reads no further while the session waits, while spool writing lags behind, or while the
client does not read its answers; so a client costs at most what one read of the socket brings.  An exception costs this
session and no other.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from smtpd.dispatcher.inbound.connections import Connections, Refusal
from smtpd.dispatcher.inbound.encryption import Encryption
from smtpd.dispatcher.inbound.incoming_message import IncomingMessage
from smtpd.dispatcher.inbound.lookup_questions import LookupQuestions
from smtpd.dispatcher.inbound.preamble import Preamble, PreambleResult
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.ipc.log import log, quoted
from smtpd.slice import ListenerSlice, Tls
from smtpd.smtp import action
from smtpd.smtp.question import (
    Answer,
    MessageIdQuestion,
    PauseAnswer,
    PauseQuestion,
    Question,
    RefusedAnswer,
    StoreQuestion,
    TlsAnswer,
    TlsQuestion,
)
from smtpd.smtp.reply import Reply
from smtpd.smtp.server import ServerSession
from smtpd.tls.connection import TlsFailed
from smtpd.tls.facts import TlsFacts

TOO_MANY_MESSAGES = RefusedAnswer(450, "4.7.1", "Too many messages, try again later")
CLOSE_TIMEOUT = 5.0  # seconds that a client has to read its last reply, once it is in the socket


class Connection(asyncio.Protocol):
    def __init__(self, resources: Resources, connections: Connections, listener: ListenerSlice):
        self.resources, self.connections, self.listener = resources, connections, listener
        self.id = connections.new_id()
        self.address = ""
        self.statistic = ""
        self.stream: ClientStream
        self.preamble: Preamble | None = None  # until there is a session
        self.session: ServerSession | None = None
        self._lookup_questions = LookupQuestions(
            resources.to_lookup, resources.statistics, listener.number, self._answer
        )
        self._message = IncomingMessage(resources, self._answer, self._resume)
        self._finished = False
        self._stepping = False
        self._early_answer: Answer | None = None
        self._expelled = False
        self._encryption: Encryption | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None  # until a reply that is kept back

    # -- the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.stream = ClientStream(cast(asyncio.Transport, transport))
        peer = transport.get_extra_info("peername")
        if not peer:  # disconnected already
            self._finished = True
            self.stream.transport.abort()
            return
        refusal = self.connections.add(self, transport.get_extra_info("socket").fileno())
        address = peer[0].partition("%")[0]
        if refusal is not None:
            self._turn_away(address, refusal)
            return
        local = transport.get_extra_info("sockname") if self.listener.welcome else None  # a system call
        ours = local[0].partition("%")[0] if local else ""
        self.preamble = Preamble(self.resources, self.listener, self, (address, peer[1]), ours)
        self._guard(self.preamble.enter)

    def data_received(self, data: bytes) -> None:
        if self._finished:
            return
        if self._encryption is None:
            self._take(data)
        elif self._encryption.under_way:
            self._guard(self._encryption.receive, data)
        else:
            self._guard(self._decrypt, data)

    def _take(self, data: bytes) -> None:
        if self.session is None:
            assert self.preamble is not None
            self._guard(self.preamble.receive, data)
            return
        waiting = self.session.waiting
        self._step(self.session.receive, data, self.resources.loop.time())
        if (waiting or not self._may_read()) and not self._in_handshake:
            self.stream.pause()

    def eof_received(self) -> bool:
        """True: the transport stays open for replies that are still to come."""
        over, self.stream.eof = self._finished, True
        self._guard(self._end_input)
        return not over

    def _end_input(self) -> None:
        if self._encryption is not None and self._encryption.under_way:
            self._encryption.end()
        elif self.preamble is not None and self.preamble.needs_input:
            self._gone("disconnect")
        else:
            self._leave()

    def _leave(self) -> None:
        """End when nothing more comes and all that came has been answered."""
        if self.session is not None and self.stream.ended and not self.session.waiting:
            self._gone("disconnect")

    def connection_lost(self, error: Exception | None) -> None:
        if self._encryption is not None:
            self._encryption.close()
        if self.session is not None and not self._finished:
            self._step(self.session.aborted)
        if self.preamble is not None:
            self.preamble.leave()
        self._finished = True
        for timer in filter(None, (self._close_timer, self._pause)):
            timer.cancel()
        self._message.close()
        self._encryption = self.stream.tls = None  # large, and the garbage collector may come late
        self.connections.remove(self)

    def pause_writing(self) -> None:
        self.stream.client_reads = False
        self.stream.pause()

    def resume_writing(self) -> None:
        self.stream.client_reads = True
        self._resume()

    def _may_read(self) -> bool:
        return self.stream.client_reads and not self._message.full

    def _resume(self) -> None:
        if self.stream.reading or not self._may_read():
            return
        if self._in_handshake or (self.session is not None and not self.session.waiting):
            self.stream.resume()

    @property
    def _in_handshake(self) -> bool:
        """Bytes of the client belong to a handshake."""
        return self._encryption is not None and self._encryption.under_way

    # -- until there is a session ------------------------------------------------------------

    def admit(self) -> bool:
        """Its address is known: may it connect?"""
        self.statistic = "smtp.session.inet6" if ":" in self.address else "smtp.session.inet4"
        refusal = self.connections.identify(self, self.resources.loop.time())
        if refusal is not None:
            self._turn_away(self.address, refusal)
        return refusal is None

    def _turn_away(self, address: str, refusal: Refusal) -> None:
        log.line(f'{self.id:016x} smtp refused address={address} reason="{refusal.value}"')
        self._finished = True
        if self.listener.tls is None or self.listener.tls.mode is not Tls.AT_ONCE:
            self.stream.say(Reply(421, "4.7.0", f"{refusal.value.capitalize()}, try again later").data)
        self.stream.close(all_read=True)

    def reject(self, event: str, address: str, reason: str) -> None:
        """The client cannot even be greeted."""
        log.line(f"{self.id:016x} smtp {event} address={address} reason={quoted(reason)}")
        self._gone(event)

    def begin(self, result: PreambleResult) -> None:
        if not self._finished:
            self._guard(self._begin, result)

    def _begin(self, result: PreambleResult) -> None:
        self.preamble = None
        self.session = ServerSession(
            self.id,
            self.listener,
            client=result.client,
            settings=self.resources.settings,
            facts=result.facts,
            name=result.name,
            may_xclient=result.may_xclient,
        )
        self._step(self.session.greeting, self.resources.loop.time(), result.spoke_early, self.resources.now())
        if result.spoke_early:
            self.resources.statistics["smtp.early-talker"] += 1
        elif result.early:
            self._take(result.early)
        self._resume()
        self._leave()

    # -- TLS ------------------------------------------------------------------------------------

    def encrypt(self, use: Callable[[TlsFacts], None]) -> None:
        """From the next byte on everything is TLS."""
        self._encryption = Encryption(
            self.resources,
            self.listener,
            self.stream,
            self.id,
            self.address,
            partial(self._guard, partial(self._encrypted, use)),
        )

    def _encrypted(self, use: Callable[[TlsFacts], None], facts: TlsFacts | None) -> None:
        if facts is None:
            if self.session is None:
                log.line(f"{self.id:016x} smtp disconnected reason=tls-accept-failed")
            self._gone("tls-accept-failed")
            return
        use(facts)
        if not self._finished:
            self._decrypt(b"")  # bytes that came right behind the handshake

    def _decrypt(self, data: bytes) -> None:
        try:
            plaintext = self.stream.open(data)
        except TlsFailed as failed:
            self._gone(f"io-error: {failed}")
            return
        if plaintext:
            self._take(plaintext)
        self._leave()

    # -- time and the end ----------------------------------------------------------------

    def tick(self, now: float) -> None:
        if self._finished:
            return
        if self._encryption is not None and self._encryption.under_way:
            self._guard(self._encryption.tick, now)
        elif self.session is not None:
            self._step(self.session.tick, now)
        elif self.preamble is not None:
            self._guard(self.preamble.tick, now)

    def shutdown(self) -> None:
        """The daemon stops: 421 now, or after the answer that the session waits for."""
        if self.session is None or self._in_handshake:
            self.stream.transport.abort()
        elif not self._finished:
            self._step(self.session.shutdown)
        elif self._close_timer is not None:  # for the rest of the last reply, not as long as at other times
            self._close_timer.cancel()
            self._cut_later(self.resources.loop.time())

    def _gone(self, reason: str) -> None:
        """Nothing more is read, and nothing more can be said."""
        if self._finished:
            return
        if self.session is not None:
            self._step(self.session.aborted, reason)
        self._finish(reason)
        self._message.close()

    def _finish(self, reason: str) -> None:
        """The last reply has been written.  A client that ended by itself may take as long to read as it may be silent:
        its mails may have been stored, and the replies that are not yet in its socket say so."""
        if self._finished:
            return
        self._finished = True
        timeout = self.resources.settings.limits.timeout if reason in ("quit", "disconnect") else CLOSE_TIMEOUT
        self._cut_later(self.resources.loop.time() + timeout)
        self.stream.close(all_read=reason == "quit")

    def _cut_later(self, latest: float) -> None:
        self._close_timer = self.resources.loop.call_later(CLOSE_TIMEOUT, self._cut, latest)

    def _cut(self, latest: float) -> None:
        if self.stream.transport.get_write_buffer_size() and self.resources.loop.time() < latest:
            self._cut_later(latest)
        else:
            self.stream.transport.abort()

    # -- what the session wants ---------------------------------------------------------------

    def _guard(self, step: Callable[..., object], *arguments: object) -> None:
        """An error of our own before there is a session costs this client and no other."""
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001  (rule R8)
            log.trouble(f"{self.id:016x} smtp", error)
            self._gone("internal-error")

    def _step(self, step: Callable[..., list[action.Action]], *arguments: object) -> None:
        """Let the session take one step and obey it.  An error of our own in it costs this session and no other."""
        assert self.session is not None
        self._stepping = True
        try:
            self._obey(step(*arguments))
            while self._early_answer is not None:  # to a question that was answered at once
                answer, self._early_answer = self._early_answer, None
                self._obey(self.session.answer(answer, self.resources.loop.time()))
            if self._expelled and not self.session.closed:
                self._obey(self.session.expel())
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
                        self.stream.say(what.data)
                case action.AppendContent():
                    self._message.add(what.data)
                case action.Ask():
                    self._ask(what.question)
                case action.Log():
                    log.line(f"{self.id:016x} smtp {what}")
                case action.DropMessage():
                    self._message.forget(what.message, what.envelopes)
                case action.CountFailure():
                    self._count_failure(what)
                case action.Close():
                    self._finish(what.reason)

    def _count_failure(self, failure: action.CountFailure) -> None:
        """An address that has failed too often is not served any more, in any session."""
        now = self.resources.loop.time()
        self.resources.rates.count_failure(failure.address, now)
        if self.resources.rates.has_failed(failure.address, now) and not self._expelled:
            self._expelled = True
            self.resources.statistics["smtp.refused.failure-rate"] += 1

    def _ask(self, question: Question) -> None:
        match question:
            case MessageIdQuestion():
                self._begin_message(question)
            case StoreQuestion():
                self._message.store(question)
            case TlsQuestion():
                self.encrypt(lambda facts: self._answer(TlsAnswer(facts)))
            case PauseQuestion():
                self.resources.statistics["smtp.tarpit"] += 1
                self._pause = self.resources.loop.call_later(question.seconds, self._answer, PauseAnswer())
            case _:
                assert self.session is not None
                self._lookup_questions.ask(question, self.session.client.address)

    def _answer(self, answer: Answer) -> None:
        """The session goes on, also when the client has left meanwhile."""
        assert self.session is not None
        if self._stepping:
            self._early_answer = answer
            return
        self._step(self.session.answer, answer, self.resources.loop.time())
        if not self._finished:
            self._resume()
            self._leave()

    def _begin_message(self, question: MessageIdQuestion) -> None:
        resources = self.resources
        if resources.rates.take_message(question.address, question.user, resources.loop.time()):
            self._message.begin()
        else:
            resources.statistics["smtp.refused.message-rate"] += 1
            self._answer(TOO_MANY_MESSAGES)

    def _give_up(self) -> None:
        """After an error of our own: 421 and the end, if the session can still say so."""
        self._early_answer, self._stepping = None, False
        try:
            assert self.session is not None
            self._obey(self.session.failed())
        except Exception as error:  # noqa: BLE001  (a message that was begun stays with queue until the daemon ends)
            log.trouble(f"{self.id:016x} smtp", error)
        self._finish("internal-error")
        self._message.close()
