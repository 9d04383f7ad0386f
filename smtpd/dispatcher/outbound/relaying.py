"""Relayed mail of one dispatcher: what queue gives goes out over connections, as relay/ decides.

    queue --RelayMessage--> Destinations --Resolve--> NextHops (lookup)
                                         --Connect--> OutgoingConnection
                                         --Give-----> OutgoingConnection.send, after FetchContent for large content
                                         --Report, Return, Delay, Resume--> queue

The only clock, random numbers and log of the relay are here.
"""

import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.outbound.connection import OutgoingConnection
from smtpd.dispatcher.outbound.content import OutgoingContent
from smtpd.dispatcher.outbound.kept_tls import KeptTls
from smtpd.dispatcher.outbound.listing import Listing
from smtpd.dispatcher.outbound.next_hops import NextHops
from smtpd.dispatcher.outbound.policies import Policies
from smtpd.dispatcher.outbound.relay_session import Answered, RelaySession, log_deliveries
from smtpd.envelope import Outcome, RelayResult, Text
from smtpd.imsg import (
    ContentFetched,
    ContentFileFetched,
    DelayDestination,
    FetchContent,
    FindRelayCredentials,
    PauseSource,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RelayMessage,
    RelayTried,
    ResumeDestination,
    ResumeRoute,
    ReturnRecipients,
    RouteResumed,
    TryDestination,
    WithdrawRecipient,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, quoted
from smtpd.ipc.text_limit import fit_text
from smtpd.relay.action import (
    Abort,
    Connect,
    Delay,
    Give,
    Note,
    Quit,
    RelayAction,
    Report,
    Resolve,
    Resume,
    Return,
)
from smtpd.relay.connection import ConnectionFailure, Stage
from smtpd.relay.destination import NextHop
from smtpd.relay.destinations import Destinations
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import HostRefused
from smtpd.relay.tls_result import TlsResult, counter, policy_type
from smtpd.slice import DispatcherSlice, RelaySlice
from smtpd.smtp.client_action import ClientMail, ClientRecipient, RecipientResult
from smtpd.smtp.client_auth import ClientLogin, Credentials
from smtpd.smtp.mail_from import rewrite_sender
from smtpd.tls.client_context import ClientContext
from smtpd.tls.facts import TlsFacts

DESTINATIONS_MAX = 20_000  # whose action and domain are remembered
DELAY_MAX = 86_400  # seconds
STOP_QUIT_TIMEOUT = 2.0  # seconds that a stop waits for the answer to QUIT
# Goes on while the machine is suspended, where the system has such a clock.
STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
QUIT = "quit"  # how a connection ends that has said QUIT
STATISTICS = {
    Outcome.DELIVERED: "mta.delivery.ok",
    Outcome.DEFERRED: "mta.delivery.tempfail",
    Outcome.LOOP: "mta.delivery.loop",
}


class Relaying:
    def __init__(
        self,
        resources: Resources,
        configuration: DispatcherSlice,
        contexts: Callable[[RelaySlice], ClientContext],
        stopped: Callable[[], None],
    ):
        """`stopped` is called when a stop has ended the last connection."""
        self._resources, self._contexts, self._loop = resources, contexts, resources.loop
        self._relays = {relay.name: relay for relay in configuration.relays}
        self._started = time.time() - time.clock_gettime(STEADY_CLOCK)
        self._relay = Destinations(
            configuration.relay_limits, configuration.domain_limits, random.random, self._clock()
        )
        self.policies = Policies(
            self._loop,
            resources.relay_to_lookup,
            resources.certificates.get_policy_context,
            self._clock,
            resources.statistics,
        )
        self._kept_tls = KeptTls(self._loop, resources.to_queue, self._relay.tls_memory, self.policies.kept)
        self._next_hops = NextHops(resources.relay_to_lookup, self.policies)
        self.listing = Listing(self._relay.listing, self._clock)
        self._messages: dict[int, RelayMessage] = {}  # by attempt
        self._left: dict[int, set[int]] = {}  # of these, the envelopes that have not been answered
        self._known: OrderedDict[int, tuple[str, str]] = OrderedDict()  # destination -> action, domain
        self._sessions: dict[int, RelaySession] = {}
        self._fetching: dict[int, int] = {}  # attempt -> the connection that its content is for
        self._sending: set[int] = set()  # attempts whose recipients are being named to a host, or have been
        self._actions: deque[RelayAction] = deque()
        self._obeying = False
        self._timer_at: float | None = None
        self._stopping, self._stopped = False, stopped

    def _clock(self) -> float:
        """Seconds since 1970 as they were at the start, moved on by a clock that cannot be set: delays are right
        whatever the other one is set to meanwhile."""
        return self._started + time.clock_gettime(STEADY_CLOCK)

    # -- what queue says -------------------------------------------------------------------

    def take(self, imsg: RelayMessage) -> None:
        relay = self._relays.get(imsg.action)
        if relay is None:
            text = str(f"no relay action {imsg.action}")
            self._send_results(
                imsg.attempt, [RelayResult(to.envelope, Outcome.DEFERRED, text) for to in imsg.recipients]
            )
            return
        self._messages[imsg.attempt] = imsg
        self._left[imsg.attempt] = envelopes = {recipient.envelope for recipient in imsg.recipients}
        self._known[imsg.destination] = imsg.action, imsg.domain
        self._known.move_to_end(imsg.destination)
        if len(self._known) > DESTINATIONS_MAX:
            self._forget_unused()
        task = Task(imsg.attempt, imsg.destination, set(envelopes), imsg.terms.require_tls)
        self._obey(self._relay.add(task, relay, imsg.domain, self._clock()))

    def withdraw(self, imsg: WithdrawRecipient) -> None:
        """It is left out; where the message is being sent, from its next try, if there is one."""
        if imsg.attempt in self._sending:
            self._relay.withdraw_from_retry(imsg.attempt, imsg.envelope)
        else:
            self._obey(self._relay.withdraw(imsg.attempt, imsg.envelope, self._clock()))

    def _forget_unused(self) -> None:
        """A destination that has mail or connections may be the oldest, and is still asked for."""
        for _ in range(min(2, max(0, len(self._known) - DESTINATIONS_MAX))):
            destination, names = self._known.popitem(last=False)
            if self._relay.knows(destination):
                self._known[destination] = names

    def begin(self) -> None:
        if self._relays:
            self._kept_tls.begin()
            self.policies.begin()

    def stop(self) -> None:
        self._stopping = True
        self.policies.stop()
        quitting = [number for number, session in self._sessions.items() if session.task is None]
        self._obey(self._relay.stop(self._clock()))
        for number in quitting:
            self._loop.call_later(STOP_QUIT_TIMEOUT, self._give_up_quit, number)
        self._kept_tls.stop()

    def pause_source(self, imsg: PauseSource) -> None:
        self._obey(self._relay.pause_source(imsg.source, imsg.destination, imsg.paused, self._clock()))

    def try_destination(self, imsg: TryDestination) -> None:
        self._obey(self._relay.resume(imsg.destination, self._clock()))

    # -- what control asks -----------------------------------------------------------------

    def resume_route(self, channel: Channel, imsg: ResumeRoute) -> None:
        changed, actions = self._relay.resume_route(imsg.route, self._clock())
        self._obey(actions)
        channel.send(RouteResumed(imsg.request, changed))

    def gauges(self) -> dict[str, int]:
        """Gauges for the statistics; those that are zero are left out."""
        gauges = {
            **self._relay.listing.gauges(),
            "mta.envelope": sum(map(len, self._left.values())),
            "mta.task": len(self._messages),
        }
        return {name: count for name, count in gauges.items() if count}

    @property
    def is_idle(self) -> bool:
        return not self._sessions

    # -- what the relay wants ---------------------------------------------------------------------

    def _obey(self, actions: list[RelayAction]) -> None:
        """One after the other: what an action causes at once waits until those before it are done."""
        self._actions += actions
        if self._obeying:
            return
        self._obeying = True
        try:
            while self._actions:
                self._obey_one(self._actions.popleft())
        finally:
            self._obeying = False
        self._set_timer()

    def _obey_one(self, action: RelayAction) -> None:
        match action:
            case Resolve():
                self._resolve(action)
            case Connect():
                self._connect(action)
            case Abort():
                session = self._sessions.pop(action.connection)
                session.connection.abort()
                if self._stopping:
                    session.log("disconnected reason=stopped messages=0")
            case Give():
                self._give(action)
            case Quit():
                self._sessions[action.connection].connection.quit()
                if self._stopping:
                    self._loop.call_later(STOP_QUIT_TIMEOUT, self._give_up_quit, action.connection)
            case Report():
                self._report(action)
            case Return():
                self._resources.queue.send(ReturnRecipients(action.task, list(action.envelopes)))
                self._end_if_over(action.task, action.envelopes)
            case Delay():
                seconds = min(DELAY_MAX, max(1, round(action.until - self._clock())))
                self._resources.queue.send(DelayDestination(action.destination, seconds, fit_text(Text, action.reason)))
                if not action.repeated:
                    log.info(f"relay: {self._name_of(action.destination)} delayed for {seconds} s: {action.reason}")
                    self.listing.note_delay(self._name_of(action.destination), action.reason)
            case Resume():
                self._resources.queue.send(ResumeDestination(action.destination))
            case Note():
                log.info(f"relay: {action.text}")

    def _give_up_quit(self, number: int) -> None:
        """The other side has not answered QUIT, and the dispatcher stops."""
        session = self._sessions.get(number)
        if session is not None:
            session.connection.abort()
            self.ended(number, ConnectionFailure(Stage.SESSION, "no answer to QUIT"), [])

    # -- where to -------------------------------------------------------------------------------------

    def _resolve(self, order: Resolve) -> None:
        destination = order.destination
        action, domain = self._known[destination]
        relay = self._relays[action]

        def found(answer: Sequence[NextHop] | HostRefused, seconds: int) -> None:
            if isinstance(answer, HostRefused):
                self._obey(self._relay.hosts_not_found(destination, answer, seconds, self._clock()))
            else:
                self._obey(self._relay.hosts_found(destination, answer, seconds, self._clock()))

        self._kept_tls.when_read(lambda: self._next_hops.find(relay, domain, found, order.failed))

    def _name_of(self, destination: int) -> str:
        action, domain = self._known.get(destination, ("", ""))
        return domain or f"smarthosts of {action}"

    # -- connections ------------------------------------------------------------------------------------

    def _connect(self, order: Connect) -> None:
        action, domain = self._known[order.destination]
        relay = self._relays[action]
        name = relay.helo_names.get(order.path.source, relay.helo)
        connection = OutgoingConnection(
            order, name, partial(self._contexts, relay), self, self._resources.handshakes, self._loop
        )
        session = self._sessions[order.connection] = RelaySession(connection, order, relay)
        protocol = "lmtp" if order.hop.lmtp else "smtps" if order.policy.at_connect else "smtp"
        address = f"[{order.path.address}]" if ":" in order.path.address else order.path.address
        session.log(f"connecting address={protocol}://{address}:{order.hop.port} host={order.hop.name}")
        if not order.hop.password:
            connection.open(None)
            return
        self._resources.relay_to_lookup.ask(
            lambda request: FindRelayCredentials(request, action, domain, order.hop.domain, order.hop.port),
            lambda imsg: self._credentials_found(order.connection, imsg),
        )

    def _credentials_found(self, number: int, imsg: RelayCredentialsFound | RelayCredentialsNotFound) -> None:
        session = self._sessions.get(number)
        if session is None:
            return  # aborted meanwhile
        if isinstance(imsg, RelayCredentialsFound):
            session.connection.open(ClientLogin(Credentials(imsg.user, imsg.password)))
        else:
            self.ended(number, ConnectionFailure(Stage.AUTHENTICATION, imsg.reason), [])

    def connected(self, number: int) -> None:
        self._sessions[number].log("connected")
        self._obey(self._relay.connected(number, self._clock()))

    def encrypted(self, number: int, facts: TlsFacts) -> None:
        session = self._sessions[number]
        session.log(f"tls ciphers={facts} policy={quoted(session.order.policy.why)}")
        if facts.fingerprint:
            result = "valid" if facts.verified else "unverified"
            session.log(f'cert-check result="{result}" fingerprint="{facts.fingerprint}"')

    def ready(self, number: int, facts: TlsFacts | None) -> None:
        session = self._sessions[number]
        if facts is None:
            session.log(f"clear-text policy={quoted(session.order.policy.why)}")
        if session.order.policy.attempt:
            self._count_tls(session, TlsResult.STARTTLS_NOT_SUPPORTED if facts is None else TlsResult.SUCCESSFUL)
        self._obey(self._relay.ready(number, facts is not None, self._clock()))

    def _count_tls(self, session: RelaySession, result: TlsResult) -> None:
        kind = policy_type(session.order.hop, session.order.policy)
        self._resources.statistics[counter(kind, result)] += 1

    def tried(self, number: int, results: list[RecipientResult]) -> None:
        session = self._sessions[number]
        found, answered = self._results_of(session, results)
        actions = self._relay.tried(number, found, self._clock())
        log_deliveries(session, answered, actions)
        self._obey(actions)

    def ended(self, number: int, failure: ConnectionFailure, results: list[RecipientResult]) -> None:
        session = self._sessions.pop(number)
        found, answered = self._results_of(session, results)
        actions = self._relay.ended(number, failure, found, self._clock())
        log_deliveries(session, answered, actions)
        if failure.tls is not None:
            self._count_tls(session, failure.tls)
        if failure.stage is not Stage.SESSION:
            policy = f" policy={quoted(session.order.policy.why)}" if failure.stage is Stage.TLS else ""
            session.log(f"error reason={quoted(failure.text)}{policy}")
        reason = failure.text if failure.text == QUIT else quoted(failure.text)
        session.log(f"disconnected reason={reason} messages={session.messages}")
        self._obey(actions)
        if self._stopping and self.is_idle:
            self._stopped()

    # -- a message over a connection ---------------------------------------------------------------------------

    def _give(self, give: Give) -> None:
        session, attempt = self._sessions[give.connection], give.task.id
        session.task = give.task
        message = self._messages[attempt]
        if message.content:
            self._send(session, message, OutgoingContent(message.content))
            return
        fetching = attempt in self._fetching  # for a connection that has ended: what comes is for this one
        self._fetching[attempt] = give.connection
        if not fetching:
            self._resources.to_queue.ask(
                lambda request: FetchContent(request, attempt),
                lambda imsg, descriptor=None: self._fetched(attempt, imsg, descriptor),
            )

    def _fetched(self, attempt: int, imsg: object, descriptor: int | None) -> None:
        session = self._sessions.get(self._fetching.pop(attempt))
        message = self._messages.get(attempt)
        match imsg:
            case ContentFetched():
                content = OutgoingContent(imsg.content)
            case ContentFileFetched():
                content = OutgoingContent(b"", descriptor)
            case _:
                self._give_up(attempt, session)
                return
        task = session.task if session is not None else None
        if session is None or task is None or task.id != attempt:
            content.close()
        elif message is None:  # all its recipients have been withdrawn
            content.close()
            self._give_up(attempt, session)
        else:
            self._send(session, message, content)

    def _send(self, session: RelaySession, message: RelayMessage, content: OutgoingContent) -> None:
        assert session.task is not None
        self._sending.add(session.task.id)
        envelopes = session.task.envelopes
        session.recipients = tuple(to for to in message.recipients if to.envelope in envelopes)
        session.messages += 1
        mail = ClientMail(
            rewrite_sender(message.sender, session.relay.mail_from),
            tuple(ClientRecipient(to.address, to.notify, to.original) for to in session.recipients),
            message.size,
            message.terms,
        )
        session.connection.send(mail, content, int(self._clock()))

    def _give_up(self, attempt: int, session: RelaySession | None) -> None:
        """Queue has concluded the attempt: nothing of it is reported."""
        self._messages.pop(attempt, None)
        self._left.pop(attempt, None)
        actions = self._relay.forget(attempt, self._clock())
        if session is not None and session.task is not None and session.task.id == attempt:
            session.task = None
            actions += self._relay.tried(session.order.connection, [], self._clock())
        self._obey(actions)

    def _results_of(
        self, session: RelaySession, results: list[RecipientResult]
    ) -> tuple[list[RelayResult], list[Answered]]:
        """In queue's words, and what is for the log."""
        remote, found, answered = session.order.hop.name, [], []
        message = self._messages.get(session.task.id) if session.task is not None else None
        for result in results:
            to = session.recipients[result.recipient]
            text = str(result.text)
            found.append(
                RelayResult(to.envelope, result.outcome, text, result.code, result.enhanced, remote, result.uncertain)
            )
            if message is not None:
                answered.append((message, to, result))
        if session.task is not None:
            self._sending.discard(session.task.id)
        session.task, session.recipients = None, ()
        return found, answered

    def _report(self, report: Report) -> None:
        self._send_results(report.task, list(report.results))
        self._end_if_over(report.task, [result.envelope for result in report.results])

    def _send_results(self, attempt: int, results: list[RelayResult]) -> None:
        fitting = [_fitting(result) for result in results]
        self._resources.queue.send(RelayTried(attempt, fitting))
        for result in fitting:
            self._resources.statistics[STATISTICS.get(result.outcome, "mta.delivery.permfail")] += 1
        if (message := self._messages.get(attempt)) is not None:
            self.listing.note_results(message, fitting)

    def _end_if_over(self, attempt: int, envelopes: Iterable[int]) -> None:
        """Forget the message when its last envelope has been answered."""
        left = self._left.get(attempt)
        if left is not None:
            left.difference_update(envelopes)
            if not left:
                del self._messages[attempt], self._left[attempt]

    # -- time ----------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        time_due = self._relay.next_time()
        if time_due is None or (self._timer_at is not None and self._timer_at <= time_due):
            return
        self._timer_at = time_due
        self._loop.call_later(max(0.0, time_due - self._clock()), self._tick, time_due)

    def _tick(self, time_due: float) -> None:
        if self._timer_at == time_due:
            self._timer_at = None
        self._obey(self._relay.tick(self._clock()))


def _fitting(result: RelayResult) -> RelayResult:
    """With a text that an imsg carries: so it is already, but for what lookup or this system say."""
    text = fit_text(Text, result.text)
    return result if text == result.text else msgspec.structs.replace(result, text=text)
