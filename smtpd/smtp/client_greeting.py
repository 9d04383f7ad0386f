"""The first phase of a client's session: greeting, EHLO, STARTTLS, AUTH.

    220 --> EHLO --> STARTTLS --> handshake --> EHLO --> AUTH --> READY
             |  5xx: HELO, where neither TLS nor AUTH is required        (never with LMTP)
             +--> without STARTTLS, where it is not required, and it is not offered or refused

Nothing that was said before the handshake is remembered after it (RFC 3207 4.2).
"""

from smtpd.smtp.client_action import (
    AuthError,
    ClientSettings,
    EndKind,
    Exchange,
    StartTls,
    Starttls,
)
from smtpd.smtp.client_extension import Extensions
from smtpd.smtp.client_session import ClientSession
from smtpd.smtp.client_state import ClientState
from smtpd.smtp.response import Response, ResponseReader
from smtpd.tls.facts import TlsFacts

_EHLO_UNKNOWN = (500, 501, 502, 504, 550)  # RFC 5321 4.1.4; other codes refuse more than the command
_MECHANISM_UNKNOWN = 504  # RFC 4954 4


class GreetingPhase(ClientSession):
    def __init__(self, settings: ClientSettings, now: float, facts: TlsFacts | None = None):
        super().__init__(settings, now, facts)
        self._speaks_extended = True  # LHLO or EHLO, not HELO
        self._exchanges: list[Exchange] = []  # logins to be tried; the first is under way

    def _greeting_answered(self, response: Response) -> None:
        if response.code == 220:
            self.greeting = " ".join(filter(None, response.lines))
            self._say_hello()
        else:
            self._refuse(EndKind.REFUSED, f"unexpected {response}", response)

    def _start_encrypted(self, facts: TlsFacts) -> None:
        self.facts = facts
        self.extensions, self._reader = Extensions(), ResponseReader()
        self._say_hello()

    def _say_hello(self) -> None:
        verb = "LHLO" if self.settings.lmtp else "EHLO" if self._speaks_extended else "HELO"
        self.enter(ClientState.HELLO)
        self._command(f"{verb} {self._name}\r\n".encode())

    def _hello_answered(self, response: Response) -> None:
        if response.kind == 2:
            self.extensions = Extensions(response if self._speaks_extended else None)
            self._begin_tls()
        elif self._speaks_extended and response.code in _EHLO_UNKNOWN and not self._needs_extensions():
            self._speaks_extended = False  # RFC 5321 3.2
            self._say_hello()
        else:
            self._refuse(EndKind.REFUSED, f"unexpected {response}", response)

    def _needs_extensions(self) -> bool:
        """HELO offers neither TLS nor AUTH, and LMTP has no HELO."""
        needs_tls = self.facts is None and self.settings.starttls is Starttls.REQUIRED
        return needs_tls or self.settings.login is not None or self.settings.lmtp

    def _begin_tls(self) -> None:
        if self.facts is not None or self.settings.starttls is Starttls.NEVER:
            self._begin_auth()
        elif self.extensions.has("STARTTLS"):
            self.enter(ClientState.STARTTLS)
            self._command(b"STARTTLS\r\n")
        elif self.settings.starttls is Starttls.REQUIRED:
            self._refuse(EndKind.TLS, "the server does not offer STARTTLS")
        else:
            self._begin_auth()

    def _starttls_answered(self, response: Response) -> None:
        if response.code == 220:
            self.enter(ClientState.TLS)
            if self._reader.is_empty():
                self._actions.append(StartTls())
            else:  # RFC 3207 6: it would be taken for a reply that came encrypted
                self._end(EndKind.TLS, "the server sent more behind its answer to STARTTLS")
        elif self.settings.starttls is Starttls.REQUIRED:
            self._refuse(EndKind.TLS, f"the server refuses STARTTLS: {response}", response)
        else:
            self._begin_auth()

    def _begin_auth(self) -> None:
        login, facts = self.settings.login, self.facts
        if login is None:
            self._be_ready()
        elif facts is None or not facts.verified:
            self._refuse(EndKind.AUTH, "the connection is not verified by TLS, so the credentials are not used")
        else:
            self._exchanges = login.exchanges(self.extensions.words("AUTH"), facts)
            if self._exchanges:
                self.enter(ClientState.AUTH)
                self._say_auth()
            else:
                self._refuse(EndKind.AUTH, "the server offers no mechanism of AUTH that can be used")

    def _say_auth(self) -> None:
        try:
            self._command(self._exchanges[0].command())
        except AuthError as error:
            self._refuse(EndKind.AUTH, str(error))

    def _auth_answered(self, response: Response) -> None:
        try:
            if response.code == 334:
                self._command(self._exchanges[0].answer(response.lines[0]))
            elif response.code == 235:
                self._exchanges[0].check_success()
                assert self.settings.login is not None
                self.user, self._exchanges = self.settings.login.user, []
                self._be_ready()
            elif response.code == _MECHANISM_UNKNOWN and len(self._exchanges) > 1:
                del self._exchanges[0]
                self._say_auth()
            else:
                self._refuse(EndKind.AUTH, f"the server refuses the login: {response}", response)
        except AuthError as error:
            self._end(EndKind.AUTH, str(error))
