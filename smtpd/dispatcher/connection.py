"""One client's connection: obeys what the session (smtp/server.py) decides.

    bytes --> wire --> session.receive --> actions     Say, Close       wire.py
                         ^                             Content          reception.py
                         |                             Ask              the same; lookup (question.py); TLS
                         +------ answer -------------  (their answer comes back here)

Before there is a session the bytes go to entrance.py, during a handshake to encryption.py.

A client that sends no more (wire.py) and still reads is answered to the end: the connection is over when all that came
has been obeyed, as it was before that client did so.

Dull on purpose.  It reads no further while the session waits, while spool writing lags behind, or while the client does
not read its answers; so a client costs at most what one read of the socket brings.  An exception costs this session.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from smtpd.config.slice import ListenerSlice, Tls
from smtpd.dispatcher.crowd import Crowd, Refusal
from smtpd.dispatcher.encryption import Encryption
from smtpd.dispatcher.entrance import Arrival, Entrance
from smtpd.dispatcher.office import Office
from smtpd.dispatcher.question import Inquiry
from smtpd.dispatcher.reception import Reception
from smtpd.dispatcher.wire import Wire
from smtpd.ipc.log import log, quoted
from smtpd.smtp import action
from smtpd.smtp.question import (
    Answer,
    BeginMessage,
    Encrypt,
    Encrypted,
    Question,
    Refused,
    StoreContent,
    Wait,
    Waited,
)
from smtpd.smtp.reply import Reply
from smtpd.smtp.server import Session
from smtpd.tls.facts import Facts
from smtpd.tls.link import Failed

TOO_MANY_MESSAGES = Refused(450, "4.7.1", "Too many messages, try again later")
CLOSING = 5.0  # seconds that a client has to take its last reply, once the socket has taken it from us


class Connection(asyncio.Protocol):
    def __init__(self, office: Office, crowd: Crowd, listener: ListenerSlice):
        self.office, self.crowd, self.listener = office, crowd, listener
        self.id = crowd.new_id()
        self.address = ""
        self.statistic = ""
        self.wire: Wire
        self.entrance: Entrance | None = None  # until there is a session
        self.session: Session | None = None
        self._inquiry = Inquiry(office.to_lookup, office.statistics, listener.number, self._answer)
        self._reception = Reception(office, self._answer, self._resume)
        self._finished = False
        self._stepping = False
        self._ready: Answer | None = None
        self._expelled = False
        self._encryption: Encryption | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None  # until a reply that is kept back

    # -- the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = Wire(cast(asyncio.Transport, transport))
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before we looked
            self._finished = True
            self.wire.transport.abort()
            return
        refusal = self.crowd.enter(self, transport.get_extra_info("socket").fileno())
        address = peer[0].partition("%")[0]
        if refusal is not None:
            self._turn_away(address, refusal)
            return
        local = transport.get_extra_info("sockname") if self.listener.welcome else None  # a system call
        ours = local[0].partition("%")[0] if local else ""
        self.entrance = Entrance(self.office, self.listener, self, (address, peer[1]), ours)
        self._guard(self.entrance.enter)

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
            assert self.entrance is not None
            self._guard(self.entrance.receive, data)
            return
        waiting = self.session.waiting
        self._step(self.session.receive, data, self.office.loop.time())
        if (waiting or not self._may_read()) and not self._is_shaking:
            self.wire.pause()

    def eof_received(self) -> bool:
        """True: the transport stays open for what is still to be said."""
        over, self.wire.eof = self._finished, True
        self._guard(self._end_input)
        return not over

    def _end_input(self) -> None:
        if self._encryption is not None and self._encryption.under_way:
            self._encryption.end()
        elif self.entrance is not None and self.entrance.needs_input:
            self._gone("disconnect")
        else:
            self._leave()

    def _leave(self) -> None:
        """Nothing more comes, and what came has been answered."""
        if self.session is not None and self.wire.ended and not self.session.waiting:
            self._gone("disconnect")

    def connection_lost(self, error: Exception | None) -> None:
        if self._encryption is not None:
            self._encryption.close()
        if self.session is not None and not self._finished:
            self._step(self.session.aborted)
        if self.entrance is not None:
            self.entrance.leave()
        self._finished = True
        for timer in filter(None, (self._patience, self._pause)):
            timer.cancel()
        self._reception.close()
        self._encryption = self.wire.link = None  # large, and we may wait long for the garbage collector
        self.crowd.leave(self)

    def pause_writing(self) -> None:
        self.wire.client_reads = False
        self.wire.pause()

    def resume_writing(self) -> None:
        self.wire.client_reads = True
        self._resume()

    def _may_read(self) -> bool:
        return self.wire.client_reads and not self._reception.full

    def _resume(self) -> None:
        if self.wire.reading or not self._may_read():
            return
        if self._is_shaking or (self.session is not None and not self.session.waiting):
            self.wire.resume()

    @property
    def _is_shaking(self) -> bool:
        """What comes belongs to a handshake."""
        return self._encryption is not None and self._encryption.under_way

    # -- until there is a session ------------------------------------------------------------

    def admit(self) -> bool:
        """Its address is known: may it come in?"""
        self.statistic = "smtp.session.inet6" if ":" in self.address else "smtp.session.inet4"
        refusal = self.crowd.identify(self, self.office.loop.time())
        if refusal is not None:
            self._turn_away(self.address, refusal)
        return refusal is None

    def _turn_away(self, address: str, refusal: Refusal) -> None:
        log.line(f'{self.id:016x} smtp refused address={address} reason="{refusal.value}"')
        self._finished = True
        if self.listener.tls is None or self.listener.tls.mode is not Tls.AT_ONCE:
            self.wire.say(Reply(421, "4.7.0", f"{refusal.value.capitalize()}, try again later").data)
        self.wire.close(all_read=True)

    def reject(self, event: str, address: str, reason: str) -> None:
        """Somebody we cannot even greet."""
        log.line(f"{self.id:016x} smtp {event} address={address} reason={quoted(reason)}")
        self._gone(event)

    def begin(self, arrival: Arrival) -> None:
        if not self._finished:
            self._guard(self._begin, arrival)

    def _begin(self, arrival: Arrival) -> None:
        self.entrance = None
        self.session = Session(
            self.id,
            self.listener,
            client=arrival.client,
            settings=self.office.settings,
            facts=arrival.facts,
            name=arrival.name,
            may_xclient=arrival.may_xclient,
        )
        self._step(self.session.greeting, self.office.loop.time(), arrival.hasty, self.office.now())
        if arrival.hasty:
            self.office.statistics["smtp.early-talker"] += 1
        elif arrival.early:
            self._take(arrival.early)
        self._resume()
        self._leave()

    # -- TLS ------------------------------------------------------------------------------------

    def encrypt(self, use: Callable[[Facts], None]) -> None:
        """From the next byte on everything is TLS."""
        self._encryption = Encryption(
            self.office,
            self.listener,
            self.wire,
            self.id,
            self.address,
            partial(self._guard, partial(self._encrypted, use)),
        )

    def _encrypted(self, use: Callable[[Facts], None], facts: Facts | None) -> None:
        if facts is None:
            if self.session is None:
                log.line(f"{self.id:016x} smtp disconnected reason=tls-accept-failed")
            self._gone("tls-accept-failed")
            return
        use(facts)
        if not self._finished:
            self._decrypt(b"")  # what came right behind

    def _decrypt(self, data: bytes) -> None:
        try:
            plaintext = self.wire.open(data)
        except Failed as failed:
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
        elif self.entrance is not None:
            self._guard(self.entrance.tick, now)

    def shutdown(self) -> None:
        """The daemon stops: 421 now, or when the answer that is under way has been given."""
        if self.session is None or self._is_shaking:
            self.wire.transport.abort()
        elif not self._finished:
            self._step(self.session.shutdown)
        elif self._patience is not None:  # it is not waited for as long as at other times
            self._patience.cancel()
            self._cut_later(self.office.loop.time())

    def _gone(self, reason: str) -> None:
        """Nothing more comes that counts, and nothing more can be said."""
        if self._finished:
            return
        if self.session is not None:
            self._step(self.session.aborted, reason)
        self._finish(reason)
        self._reception.close()

    def _finish(self, reason: str) -> None:
        """The last reply has been written.  A client that has said all it had to say may take as long to read as it may
        be silent: its mails may have been stored, and what is not yet in its socket says so."""
        if self._finished:
            return
        self._finished = True
        patience = self.office.settings.limits.timeout if reason in ("quit", "disconnect") else CLOSING
        self._cut_later(self.office.loop.time() + patience)
        self.wire.close(all_read=reason == "quit")

    def _cut_later(self, latest: float) -> None:
        self._patience = self.office.loop.call_later(CLOSING, self._cut, latest)

    def _cut(self, latest: float) -> None:
        if self.wire.transport.get_write_buffer_size() and self.office.loop.time() < latest:
            self._cut_later(latest)
        else:
            self.wire.transport.abort()

    # -- what the session wants ---------------------------------------------------------------

    def _guard(self, step, *arguments) -> None:
        """Our own fault in what comes before a session costs this client and nobody else."""
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001  (rule R8)
            log.trouble(f"{self.id:016x} smtp", error)
            self._gone("internal-error")

    def _step(self, step, *arguments) -> None:
        """Let the session take one step and obey it.  Our own fault in it costs this session and nobody else."""
        assert self.session is not None
        self._stepping = True
        try:
            self._obey(step(*arguments))
            while self._ready is not None:  # a question that was answered on the spot
                answer, self._ready = self._ready, None
                self._obey(self.session.answer(answer, self.office.loop.time()))
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
                        self.wire.say(what.data)
                case action.Content():
                    self._reception.add(what.data)
                case action.Ask():
                    self._ask(what.question)
                case action.Log():
                    log.line(f"{self.id:016x} smtp {what}")
                case action.Forget():
                    self._reception.forget(what.message, what.envelopes)
                case action.Blame():
                    self._blame(what)
                case action.Close():
                    self._finish(what.reason)

    def _blame(self, blame: action.Blame) -> None:
        """An address that has failed too often is not served any further, in no session."""
        now = self.office.loop.time()
        self.office.rates.count_failure(blame.address, now)
        if self.office.rates.has_failed(blame.address, now) and not self._expelled:
            self._expelled = True
            self.office.statistics["smtp.refused.failure-rate"] += 1

    def _ask(self, question: Question) -> None:
        match question:
            case BeginMessage():
                self._begin_message(question)
            case StoreContent():
                self._reception.store(question)
            case Encrypt():
                self.encrypt(lambda facts: self._answer(Encrypted(facts)))
            case Wait():
                self.office.statistics["smtp.tarpit"] += 1
                self._pause = self.office.loop.call_later(question.seconds, self._answer, Waited())
            case _:
                assert self.session is not None
                self._inquiry.ask(question, self.session.client.address)

    def _answer(self, answer: Answer) -> None:
        """The session goes on; the client may have left meanwhile, and the session knows what that means."""
        assert self.session is not None
        if self._stepping:
            self._ready = answer
            return
        self._step(self.session.answer, answer, self.office.loop.time())
        if not self._finished:
            self._resume()
            self._leave()

    def _begin_message(self, question: BeginMessage) -> None:
        office = self.office
        if office.rates.take_message(question.address, question.user, office.loop.time()):
            self._reception.begin()
        else:
            office.statistics["smtp.refused.message-rate"] += 1
            self._answer(TOO_MANY_MESSAGES)

    def _give_up(self) -> None:
        """After our own failure: 421 and the end, if the session is still able to say so."""
        self._ready, self._stepping = None, False
        try:
            assert self.session is not None
            self._obey(self.session.failed())
        except Exception as error:  # noqa: BLE001  (what it had begun stays with queue until the daemon ends)
            log.trouble(f"{self.id:016x} smtp", error)
        self._finish("internal-error")
        self._reception.close()
