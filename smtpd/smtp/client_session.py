"""A client's session: its state, what it wants done, the results of its mail, and its end.

The phases are client_greeting.py and client_transaction.py; the input is client_input.py.
"""

import re

from smtpd.envelope import Outcome
from smtpd.smtp.action import Say
from smtpd.smtp.client_action import (
    ClientAction,
    ClientMail,
    ClientSettings,
    End,
    EndKind,
    Ready,
    RecipientResult,
)
from smtpd.smtp.client_extension import Extensions
from smtpd.smtp.client_state import TRANSITIONS, ClientState
from smtpd.smtp.response import Response, ResponseError, ResponseReader
from smtpd.tls.facts import TlsFacts

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?|\[[A-Za-z0-9:.]{1,253}\]", re.ASCII)
_TWICE = "the mail had been sent and may arrive twice"


class ClientSession:
    """What the phases share.

    deadline    when `tick` is to be called; None while nothing is waited for
    greeting    the server's, as text
    user        logged in as
    mails       begun
    """

    def __init__(self, settings: ClientSettings, now: float, facts: TlsFacts | None = None):
        self.settings = settings
        self.facts = facts
        self.state = ClientState.GREETING
        self.extensions = Extensions()
        self.greeting = ""
        self.user = ""
        self.mails = 0
        self.deadline: float | None = now + settings.timeouts[ClientState.GREETING]
        self._now = now
        self._name = settings.name if _HOST.fullmatch(settings.name) else "localhost"
        self._reader = ResponseReader()
        self._actions: list[ClientAction] = []
        self._transactions = 0
        self._mail: ClientMail | None = None
        self._open: set[int] = set()  # recipients of the mail without a result

    def enter(self, state: ClientState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state
        self._restart_timeout()

    def _be_ready(self) -> None:
        """Greeted, and no transaction is open."""
        self._mail = None
        if self.state is not ClientState.READY:
            self.enter(ClientState.READY)
        if self._is_last_mail():
            self._say_quit()
        else:
            self._actions.append(Ready())

    def _is_last_mail(self) -> bool:
        """The server takes no further transaction (RFC 9422 4.1)."""
        most = self.extensions.limits.get("MAILMAX")
        return most is not None and self._transactions >= most

    def _conclude(self, result: RecipientResult) -> None:
        self._open.remove(result.recipient)
        self._actions.append(result)

    def _defer_open(self, reason: str) -> None:
        """The rest of the mail is not given to this server now."""
        for place in sorted(self._open):
            self._conclude(RecipientResult(place, Outcome.DEFERRED, 0, "", reason, local=True))

    # -- the end ------------------------------------------------------------------------------------

    def _say_quit(self) -> None:
        self.enter(ClientState.QUIT)
        self._say(b"QUIT\r\n")

    def _refuse(self, kind: EndKind, text: str, response: Response | None = None) -> None:
        """This server is of no use; it is told so, and its answer not waited for (RFC 5321 3.1)."""
        self._say(b"QUIT\r\n")
        self._fail(kind, text, response)

    def _fail(self, kind: EndKind, reason: str, response: Response | None = None) -> None:
        self._end(kind, f"{self.state.value}: {reason}", response)

    def _end(self, kind: EndKind, text: str, response: Response | None = None) -> None:
        """All that is open is deferred."""
        if self.state is ClientState.OVER:
            return
        if self.state is ClientState.QUIT:  # all has been said, however the server answers it
            kind, text, response = EndKind.QUIT, "quit", None
        uncertain = self._perhaps_taken(response)
        if uncertain:
            text = f"{text}; {_TWICE}"
        code, enhanced = (response.code, response.enhanced) if response else (0, "")
        deferred = (code, enhanced) if code // 100 == 4 else (0, "")
        for place in sorted(self._open):
            self._conclude(RecipientResult(place, Outcome.DEFERRED, *deferred, text, uncertain=place in uncertain))
        self._actions.append(End(kind, self.state, text, code, enhanced))
        self.enter(ClientState.OVER)

    def _perhaps_taken(self, response: Response | None) -> list[int]:
        """The recipients for whom the mail has been sent to its end, and whose reply is missing.  A 421 in SMTP is that
        reply; in LMTP it may stand for any of several."""
        if response is not None and response.code == 421 and not self.settings.lmtp:
            return []
        return self._unanswered()

    def _unanswered(self) -> list[int]:
        """The recipients for whom the mail has been sent to its end, without an answer yet."""
        return []

    def _restart_timeout(self) -> None:
        timeout = self.settings.timeouts.get(self.state)
        self.deadline = None if timeout is None else self._now + timeout

    def _command(self, data: bytes) -> None:
        """Say what is to have a reply of its own.  A server that has said something already would answer it with that:
        the session ends, and nothing is said."""
        if self._reader.is_empty():
            self._say(data)
            return
        try:
            early = self._reader.maybe_response()
        except ResponseError:
            early = None
        if early is not None and early.code == 421:
            self._shut_down(early)
        else:
            self._fail(EndKind.PROTOCOL, "the server said more than it was asked")

    def _shut_down(self, response: Response) -> None:
        """421: RFC 5321 3.8, instead of any answer."""
        self._end(EndKind.SHUTDOWN, f"the server ends the session: {response}", response)

    def _say(self, data: bytes) -> None:
        self._actions.append(Say(data))

    def _take_actions(self) -> list[ClientAction]:
        actions, self._actions = self._actions, []
        return actions
