"""What control holds: its clients, its questions to the others, and what it knows by itself.

    client --imsg, its number--> RequestWindow of the process --our number--> queue, scheduler, lookup
    client <--its number-- answer                                             <--

What concerns every dispatcher, or every process, is asked of all of them and added up.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from smtpd.control.client import Client, Clients
from smtpd.control.log_forwarder import LogForwarder
from smtpd.envelope import Kind
from smtpd.imsg import (
    DeliveriesPaused,
    Denied,
    Done,
    EnvelopesListed,
    ListDomains,
    ListenersPaused,
    ListEnvelopes,
    ListHosts,
    ListRelays,
    ListRoutes,
    OpenSession,
    PauseDeliveries,
    PauseListeners,
    ReportStatistics,
    ResumeRoute,
    RouteResumed,
    SessionOpened,
    SessionRefused,
    SetVerbose,
    ShowStatistics,
    StatisticsShown,
)
from smtpd.ipc import query
from smtpd.ipc.channel import Channel
from smtpd.ipc.event_loop import EventLoop
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow


class Control:
    def __init__(
        self,
        loop: EventLoop,
        peers: Iterable[Channel],
        listener: socket.socket,
        privileged_uids: frozenset[int],
        asked: Callable[["Control", Client, Any, int | None], None],
        queried: Callable[["Control", Client, str], None],
        log_forwarder: LogForwarder,
        paused: Iterable[str] = (),
    ):
        self.loop = loop
        self.log_forwarder = log_forwarder
        self.clients = Clients(loop, listener, privileged_uids, partial(asked, self), partial(queried, self))
        self.paused = {kind: kind.name.lower() in paused for kind in Kind}
        self.smtp_paused = "smtp" in paused
        self._questions = {channel: RequestWindow(channel) for channel in peers}
        self._started = loop.time()

    def begin(self) -> None:
        self.clients.begin()

    def stop(self) -> None:
        """The last lines of the others are in the pipes; then nothing is left to do."""
        self.log_forwarder.finish()
        self.loop.call_soon(self.loop.stop)

    def answered(self, channel: Channel, imsg: Any, descriptor: int | None = None) -> None:
        """One of the others answers what was asked of it."""
        self._questions[channel].answer(imsg, descriptor)

    # -- for one of the others ------------------------------------------------------------

    def forward(self, client: Client, imsg: Any, role: str) -> None:
        """Ask the one that it concerns, and give the client the answer."""
        (questions,) = self._of(role)
        questions.ask(partial(_renumbered, imsg), partial(self._pass_back, client, imsg.request))

    def list_envelopes(self, client: Client, imsg: ListEnvelopes) -> None:
        """The queue does not know what the scheduler was told to pause."""

        def answered(answer: EnvelopesListed, _descriptor: None) -> None:
            paused = {"mda_paused": self.paused[Kind.MDA], "mta_paused": self.paused[Kind.MTA]}
            client.answer(_renumbered(answer, imsg.request, **paused))

        (questions,) = self._of("queue")
        questions.ask(partial(_renumbered, imsg), answered)

    def ask_dispatcher(
        self, client: Client, imsg: ListRelays | ListRoutes | ListHosts | ListDomains | ResumeRoute
    ) -> None:
        """Ask the dispatcher whose index is in the question."""
        dispatchers = sorted(self._of("dispatcher"), key=lambda questions: questions.channel.number)
        if imsg.dispatcher >= len(dispatchers):
            client.answer(Denied(imsg.request, "no such dispatcher"))
            return

        def answered(answer: Any, _descriptor: None) -> None:
            more = {} if isinstance(answer, RouteResumed) else {"dispatchers": len(dispatchers)}
            client.answer(_renumbered(answer, imsg.request, **more))

        dispatchers[imsg.dispatcher].ask(partial(_renumbered, imsg), answered)

    def open_session(self, client: Client) -> None:
        """Of several dispatchers the first has all sessions of this host's programs, so it can count them."""

        def answered(imsg: SessionOpened | SessionRefused, descriptor: int | None) -> None:
            if isinstance(imsg, SessionRefused):
                client.answer_query(query.Answer(False, imsg.reason))
            else:
                client.answer_query(query.Answer(True, "", descriptor))

        first = min(self._of("dispatcher"), key=lambda questions: questions.channel.number)
        first.ask(lambda number: OpenSession(number, client.uid), answered)

    def _pass_back(self, client: Client, request: int, imsg: Any, descriptor: int | None = None) -> None:
        client.answer(_renumbered(imsg, request), descriptor)

    def pause_deliveries(self, client: Client, imsg: PauseDeliveries) -> None:
        def answered(answer: DeliveriesPaused, _descriptor: None) -> None:
            self.paused[imsg.kind] = imsg.paused
            client.answer(_renumbered(answer, imsg.request))

        (questions,) = self._of("scheduler")
        questions.ask(partial(_renumbered, imsg), answered)

    # -- for several -------------------------------------------------------------------------

    def pause_listeners(self, client: Client, imsg: PauseListeners) -> None:
        def answered(answers: list[ListenersPaused]) -> None:
            self.smtp_paused = imsg.paused
            client.answer(ListenersPaused(imsg.request, any(answer.changed for answer in answers)))

        self._ask_all(self._of("dispatcher"), partial(_renumbered, imsg), answered)

    def show_statistics(self, client: Client, imsg: ShowStatistics) -> None:
        def answered(answers: list[Any]) -> None:
            sums = Counter({"control.session": self.clients.accepted, "uptime": int(self.loop.time() - self._started)})
            for answer in answers:
                sums.update(answer.counters)
            client.answer(StatisticsShown(imsg.request, dict(sums)))

        processes = [questions for questions in self._questions.values() if questions.channel.peer != "parent"]
        self._ask_all(processes, ReportStatistics, answered)

    def _ask_all(
        self, asked: list[RequestWindow], make: Callable[[int], Any], answered: Callable[[list[Any]], None]
    ) -> None:
        """`answered` gets all their answers, once they are there."""
        answers: list[Any] = []

        def one_more(imsg: Any, _descriptor: None) -> None:
            answers.append(imsg)
            if len(answers) == len(asked):
                answered(answers)

        for questions in asked:
            questions.ask(make, one_more)

    # -- for ourselves -----------------------------------------------------------------------

    def show_status(self, client: Client) -> None:
        paused = {kind.name.lower(): value for kind, value in self.paused.items()} | {"smtp": self.smtp_paused}
        client.answer_query(query.Answer(True, " ".join(name for name, value in paused.items() if value)))

    def refuse(self, client: Client, reason: str) -> None:
        client.answer_query(query.Answer(False, reason))

    def set_verbose(self, client: Client, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
        for channel in self._questions:
            channel.send(imsg)
        client.answer(Done(0))

    def _of(self, role: str) -> list[RequestWindow]:
        return [questions for channel, questions in self._questions.items() if channel.peer == role]


def _renumbered(imsg: Any, request: int, **more: Any) -> Any:
    return msgspec.structs.replace(imsg, request=request, **more)
