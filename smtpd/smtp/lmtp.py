"""The client's side of LMTP (RFC 2033), without I/O: one connection, mails one after the other.

    receive(b"220 …")                                               Say(b"LHLO …")
    receive(b"250-…")              READY
    begin(LmtpMail(amy, (bob, carol)))                              Say(b"MAIL …RCPT …RCPT …")
    receive(b"250 …250 …550 …")                                     LmtpVerdict(1, FAILED), Say(b"DATA")
    receive(b"354 …")                                               SendContent()
    sent()                         content, by `dot_stuffed`, is out
    receive(b"250 …")              READY                            LmtpVerdict(0, DELIVERED)

Unlike SMTP, LMTP has one reply for each accepted recipient after the final dot, in their order.  So the server answers
for each mailbox, and needs no queue.

Each recipient gets exactly one LmtpVerdict.  A server that refuses the sender or the mail refuses all recipients.  When
it falls silent, breaks the protocol or disconnects, the recipients are deferred.  After the final dot that may make a
second copy, as it is unknown whether the mail was taken; losing it would be worse.
"""

import re
from dataclasses import dataclass
from enum import Enum

from smtpd.envelope import Outcome
from smtpd.smtp.action import Close, Say
from smtpd.smtp.idna import ascii_address
from smtpd.smtp.response import Response, ResponseError, ResponseReader

# An address between angle brackets: no control character, blank or bracket outside of quotes, which could end the path,
# or the line.
_BAD = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_PATH = re.compile(rf'(?:"(?:[^"\\{_BAD}]|\\[ -~])*"|[^{_BAD} @<>"\\]+)(?:@[^{_BAD} @<>"\\]+)?')
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?|\[[A-Za-z0-9:.]{1,253}\]", re.ASCII)


class LmtpState(Enum):
    GREETING = "waiting for the greeting"
    HELLO = "waiting for the answer to LHLO"
    READY = "greeted, no mail begun"
    ENVELOPE = "telling sender and recipients"
    DATA = "waiting for the answer to DATA"
    CONTENT = "sending the mail"
    DOT = "waiting for the answer to the mail"
    RESET = "waiting for the answer to RSET"
    OVER = "the session is over"


TRANSITIONS = {
    LmtpState.GREETING: (LmtpState.HELLO, LmtpState.OVER),
    LmtpState.HELLO: (LmtpState.READY, LmtpState.OVER),
    LmtpState.READY: (LmtpState.ENVELOPE, LmtpState.OVER),
    LmtpState.ENVELOPE: (LmtpState.DATA, LmtpState.RESET, LmtpState.OVER),
    LmtpState.DATA: (LmtpState.CONTENT, LmtpState.RESET, LmtpState.OVER),
    LmtpState.CONTENT: (LmtpState.DOT, LmtpState.OVER),
    LmtpState.DOT: (LmtpState.READY, LmtpState.OVER),
    LmtpState.RESET: (LmtpState.READY, LmtpState.OVER),
    LmtpState.OVER: (),
}

# Seconds for a reply in each state, and for each piece of content: those of RFC 5321 4.5.3.2, except in DOT, where the
# RFC has 600: a delivery has no more time than a command.
REPLY_TIMEOUT = dict.fromkeys(LmtpState, 300.0) | {LmtpState.DATA: 120.0, LmtpState.CONTENT: 180.0}


@dataclass(frozen=True, slots=True)
class LmtpMail:
    """`sender` is empty for the null sender.  `size` in bytes, about: without the CRs."""

    sender: str
    recipients: tuple[str, ...]
    size: int
    utf8: bool = False  # there is UTF-8 in the header: MAIL says SMTPUTF8, if the server knows it


@dataclass(frozen=True, slots=True)
class SendContent:
    """Send the content by `dot_stuffed`, then call `sent`."""


@dataclass(frozen=True, slots=True)
class LmtpVerdict:
    """For the recipient of this index of the mail: DELIVERED, DEFERRED or FAILED."""

    recipient: int
    outcome: Outcome
    text: str


LmtpAction = Say | SendContent | LmtpVerdict | Close


class LmtpSession:
    """`name`: of this host, for LHLO.  `reason`: why the session is over."""

    def __init__(self, name: str):
        self.state = LmtpState.GREETING
        self.reason = ""
        self.replies = 0  # received
        self._name = name if _HOST.fullmatch(name) else "localhost"
        self._reader = ResponseReader()
        self._extensions: frozenset[str] = frozenset()
        self._unsaid: list[bytes] = []  # commands of the envelope, for a server without PIPELINING
        self._heard: list[Response] = []  # responses to them
        self._named: list[int] = []  # recipients in the order of RCPT
        self._open: list[int] = []  # recipients without a verdict

    def enter(self, state: LmtpState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state

    def begin(self, mail: LmtpMail) -> list[LmtpAction]:
        """Only in READY, and `mail` has recipients."""
        self._open = list(range(len(mail.recipients)))
        actions: list[LmtpAction] = []
        for place in tuple(self._open):
            if reason := self._fault_of_mail(mail) or self._fault(mail.recipients[place]):
                actions.append(self._judge(place, Outcome.FAILED, reason))
        if not self._open:
            return actions
        self.enter(LmtpState.ENVELOPE)
        self._named, self._heard = list(self._open), []
        told = [self._told(mail.recipients[place]) for place in self._named]
        commands = [self._mail_command(mail), *(f"RCPT TO:<{address}>\r\n" for address in told)]
        self._unsaid = [command.encode() for command in commands]
        return [*actions, self._say_on()]

    def receive(self, data: bytes) -> list[LmtpAction]:
        actions: list[LmtpAction] = []
        try:
            self._reader.feed(data)
            while self.state is not LmtpState.OVER and (response := self._reader.maybe_response()):
                self.replies += 1
                actions += self._obey(response)
        except ResponseError as malformed:
            actions += self.lost(f"the answer is not a reply: {malformed}")
        return actions

    def sent(self) -> list[LmtpAction]:
        """Content and final dot have been handed to the network."""
        if self.state is LmtpState.CONTENT:
            self.enter(LmtpState.DOT)
        return []

    def lost(self, reason: str) -> list[LmtpAction]:
        """The connection ended, timed out, or broke the protocol."""
        if self.state is LmtpState.OVER:
            return []
        if self.state is LmtpState.DOT:
            reason = f"{reason}; the mail had been sent and may arrive twice"
        self.reason = reason
        self.enter(LmtpState.OVER)
        return [*self._judge_all(Outcome.DEFERRED, reason), Close(reason)]

    def end(self) -> list[LmtpAction]:
        """QUIT.  Its answer is not waited for: each mail has had its verdicts."""
        if self.state is not LmtpState.READY:
            return self.lost("given up")
        self.reason = "quit"
        self.enter(LmtpState.OVER)
        return [Say(b"QUIT\r\n"), Close("quit")]

    def _obey(self, response: Response) -> list[LmtpAction]:
        if response.code == 421:  # RFC 5321 3.8: may come instead of any answer
            return self.lost(f"the server ends the session: {response}")
        match self.state:
            case LmtpState.GREETING if response.code == 220:
                self.enter(LmtpState.HELLO)
                return [Say(f"LHLO {self._name}\r\n".encode())]  # RFC 2033 4.1
            case LmtpState.HELLO if response.kind == 2:
                self._extensions = frozenset(line.upper().partition(" ")[0] for line in response.lines[1:])
                self.enter(LmtpState.READY)
                return []
            case LmtpState.ENVELOPE if response.kind != 3:
                return self._envelope_answered(response)
            case LmtpState.DATA if response.code == 354 or response.kind in (4, 5):
                return self._data_answered(response)
            case LmtpState.DOT if response.kind != 3:
                return self._mail_answered(response)
            case LmtpState.RESET if response.kind == 2:
                self.enter(LmtpState.READY)
                return []
        return self.lost(f"{self.state.value}: unexpected {response}")

    def _envelope_answered(self, response: Response) -> list[LmtpAction]:
        """To MAIL first, then to each RCPT; where MAIL was refused, the others only repeat that (RFC 2920 3.1)."""
        self._heard.append(response)
        actions: list[LmtpAction] = []
        if len(self._heard) > 1 and self._heard[0].kind == 2 and response.kind != 2:
            actions.append(self._judge(self._named[len(self._heard) - 2], _outcome(response), str(response)))
        if self._heard[0].kind != 2:
            actions += self._judge_all(_outcome(self._heard[0]), str(self._heard[0]))
            self._unsaid = []
        if self._unsaid:
            return [*actions, self._say_on()]
        if len(self._heard) == 1 + len(self._named) or not (self._open or self._is_pipelining()):
            actions.append(self._envelope_ended())
        return actions

    def _envelope_ended(self) -> LmtpAction:
        """RFC 2033 4.2: without a recipient DATA would fail; RSET is sent instead."""
        if self._open:
            self.enter(LmtpState.DATA)
            return Say(b"DATA\r\n")
        self.enter(LmtpState.RESET)
        return Say(b"RSET\r\n")

    def _data_answered(self, response: Response) -> list[LmtpAction]:
        if response.code == 354:
            self.enter(LmtpState.CONTENT)
            return [SendContent()]
        self.enter(LmtpState.RESET)
        return [*self._judge_all(_outcome(response), str(response)), Say(b"RSET\r\n")]

    def _mail_answered(self, response: Response) -> list[LmtpAction]:
        """RFC 2033 4.2: in the order of the RCPTs that were accepted."""
        verdict = self._judge(self._open[0], _outcome(response), str(response))
        if not self._open:
            self.enter(LmtpState.READY)
        return [verdict]

    def _say_on(self) -> Say:
        """The commands of the envelope: all at once, or the next one."""
        number = len(self._unsaid) if self._is_pipelining() else 1
        said, self._unsaid = self._unsaid[:number], self._unsaid[number:]
        return Say(b"".join(said))

    @property
    def takes_utf8(self) -> bool:
        """The server has SMTPUTF8 (RFC 6531).  Known after LHLO."""
        return "SMTPUTF8" in self._extensions

    def _is_pipelining(self) -> bool:
        return "PIPELINING" in self._extensions

    def _mail_command(self, mail: LmtpMail) -> str:
        words = [f"MAIL FROM:<{self._told(mail.sender)}>"]
        if "SIZE" in self._extensions:
            words.append(f"SIZE={mail.size}")  # RFC 1870 6: an estimate is allowed
        if "8BITMIME" in self._extensions:
            words.append("BODY=8BITMIME")
        is_ascii = "".join((mail.sender, *mail.recipients)).isascii()
        if self.takes_utf8 and (mail.utf8 or not is_ascii):
            words.append("SMTPUTF8")  # RFC 6531 3.4
        return " ".join(words) + "\r\n"

    def _fault_of_mail(self, mail: LmtpMail) -> str:
        """Why this mail cannot be sent to this server.  UTF-8 in its header is no reason: a server without SMTPUTF8
        stores such a header as any other 8-bit one, and the addresses in the envelope are ASCII."""
        return self._fault(mail.sender) if mail.sender else ""

    def _told(self, address: str) -> str:
        """The address in the form for this server."""
        return address if self.takes_utf8 else ascii_address(address) or ""

    def _fault(self, address: str) -> str:
        """Why this address cannot be sent to this server; empty if it can."""
        if not _PATH.fullmatch(address):
            return f"cannot be written as an address: {address!a}"
        if ascii_address(address) is None and not self.takes_utf8:
            return f"5.6.7 the server takes no address that is not ASCII: {address!a}"
        return ""

    def _judge(self, place: int, outcome: Outcome, text: str) -> LmtpVerdict:
        self._open.remove(place)
        return LmtpVerdict(place, outcome, text)

    def _judge_all(self, outcome: Outcome, text: str) -> list[LmtpAction]:
        return [self._judge(place, outcome, text) for place in tuple(self._open)]


def _outcome(response: Response) -> Outcome:
    return {2: Outcome.DELIVERED, 5: Outcome.FAILED}.get(response.kind, Outcome.DEFERRED)
