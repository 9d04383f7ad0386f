"""Questions of dispatchers about relay actions: which smarthosts, which credentials (relay_route.py)."""

from collections.abc import Generator
from typing import Any

from smtpd.envelope import Path, Secret, Text
from smtpd.imsg import (
    FindRelayCredentials,
    FindRoute,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RouteFound,
    RouteNotFound,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.text_limit import fit_text, text_error
from smtpd.lookup.listener_tables import ListenerQuestions, wait_for_answer
from smtpd.lookup.relay_route import RelayRoutes, RouteUnavailable
from smtpd.next_hop import Smarthost
from smtpd.tables.table import Answer, PendingAnswer

DEFECT = "internal error"


class RouteQuestions:
    def __init__(self, routes: RelayRoutes, own_names: dict[str, str], questions: ListenerQuestions):
        """`own_names`: action -> our name among MX hosts."""
        self._routes, self._own_names, self._answer = routes, own_names, questions.answer

    def find(self, dispatcher: Channel, asked: FindRoute) -> None:
        self._answer(dispatcher, "route of a relay action", self._find(asked), RouteNotFound(asked.request, DEFECT))

    async def _find(self, asked: FindRoute) -> RouteFound | RouteNotFound:
        found = await _run(self._routes.smarthosts(asked.action, asked.domain))
        if isinstance(found, RouteUnavailable):
            return RouteNotFound(asked.request, fit_text(Text, found.reason))
        smarthosts = [Smarthost(one.protocol.value, one.host, one.port, bool(one.label)) for one in found or ()]
        return RouteFound(asked.request, smarthosts, self._own_names.get(asked.action, ""))

    def find_credentials(self, dispatcher: Channel, asked: FindRelayCredentials) -> None:
        otherwise = RelayCredentialsNotFound(asked.request, DEFECT)
        self._answer(dispatcher, "credentials of a relay action", self._find_credentials(asked), otherwise)

    async def _find_credentials(self, asked: FindRelayCredentials) -> RelayCredentialsFound | RelayCredentialsNotFound:
        found = await _run(self._routes.credentials(asked.action, asked.domain, asked.host, asked.port))
        if isinstance(found, RouteUnavailable):
            return RelayCredentialsNotFound(asked.request, fit_text(Text, found.reason))
        if text_error(Path, found.user) or text_error(Secret, found.password):
            return RelayCredentialsNotFound(asked.request, f"credentials for {asked.host} are too long")
        return RelayCredentialsFound(asked.request, found.user, found.password)


async def _run[Result](steps: Generator[PendingAnswer, Answer, Result]) -> Result:
    """What the generator returns; the answers that it waits for come from programs."""
    answer: Any = None
    while True:
        try:
            pending = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result
        answer = await wait_for_answer(pending)
