"""Tables that a program answers for: OpenSMTPD's table protocol 0.1, without I/O.

    config|tablename|NAME ... config|ready       ->
                                                 <-  register|SERVICE ... register|ready
    table|0.1|SEC.USEC|NAME|lookup|alias|ID|bob  ->
                                                 <-  lookup-result|ID|found|amy, joe

Likewise `check` (found or not-found, no value), `fetch` (no key) and `update` (no service, no key; ok).  Instead of a
result a program may answer `error` and a reason.

The owner of the socket (lookup/table_programs.py) calls:

    connect(send)     a program is connected; `send` writes to it
    received(data)    what it wrote; raises ProgramError for an invalid line: close the socket then
    lost(reason)      the socket has been closed
    tick(now)         about once a second, in seconds of a monotonic clock

Several questions may be open at once, and their answers may come in any order.  A slow program delays only those who
ask it, by at most ANSWER_TIMEOUT seconds; with QUESTIONS_MAX open questions it is asked nothing more.  The key is the
last field of its line, so it may contain `|`; a key with a line end is never sent.  Keys are sent in lower case, except
regular expressions and passwords; a domain beyond ASCII in its normal form, then as in DNS (xn--).  The text of an
error about a password is not logged.  Starting programs is the parent's part (parent/table_program.py).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from smtpd.slice import Service
from smtpd.tables.table import Answer, PendingAnswer, TableUnavailable, first_found, key_spellings

PROTOCOL = "0.1"
VERSION = "7.8.0-smtpd"  # programs ask whether it is 7 or newer
ANSWER_TIMEOUT = 10.0  # seconds
QUESTIONS_MAX = 256  # open questions, also those that timed out
KEY_MAX = 1023  # bytes
LINE_MAX = 64 * 1024  # bytes of an answer


class ProgramError(Exception):
    """The program violated the protocol; the text continues "its program"."""


class ServiceUnavailable(TableUnavailable):
    """The program runs and does not answer for this service."""


@dataclass(eq=False)
class ProgramQuestion:
    """A question to the program.  `answered` is None once it is no longer needed.  `deadline` is set by `tick`."""

    verb: str
    service: Service | None
    line: bytes = field(repr=False)
    answered: Callable[[Answer], None] | None
    deadline: float | None = None

    def answer(self, answer: Answer) -> None:
        answered, self.answered = self.answered, None
        if answered is not None:
            answered(answer)


class ProgramTable:
    """A table that a program answers for.  `clock`: the time of day, which the protocol carries."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time):
        self.name = name
        self._clock = clock
        self._send: Callable[[bytes], None] | None = None
        self._services: set[Service] = set()
        self._ready = False
        self._begun = b""  # an incomplete line
        self._last_id = 0
        self._asked: dict[str, ProgramQuestion] = {}
        self._unsent: list[ProgramQuestion] = []  # refused, to be answered by the next tick
        self._reason = "its program does not run"

    # -- the methods of a table -----------------------------------------------------------

    def check(self, service: Service, key: str) -> TableUnavailable | PendingAnswer:
        return self._ask("check", service, key)

    def find(self, service: Service, key: str) -> TableUnavailable | PendingAnswer:
        return self._ask("lookup", service, key)

    def fetch(self, service: Service) -> TableUnavailable | PendingAnswer:
        """The next value of a list."""
        return self._trouble(service) or self._awaited("fetch", service)

    def entries(self) -> TableUnavailable:
        """The protocol has only `fetch`, which gives one value, of which no host is known to be the last."""
        return self._unavailable("its program cannot list its entries")

    def update(self) -> TableUnavailable | PendingAnswer:
        return self._unavailable(self._reason) if self._send is None else self._awaited("update")

    def _ask(self, verb: str, service: Service, key: str) -> TableUnavailable | PendingAnswer:
        answer = first_found(lambda key: self._ask_for(verb, service, key), key_spellings(service, key))
        assert isinstance(answer, TableUnavailable | PendingAnswer)
        return answer

    def _ask_for(self, verb: str, service: Service, key: str) -> TableUnavailable | PendingAnswer:
        return self._trouble(service) or self._trouble_with(key) or self._awaited(verb, service, key)

    def _trouble(self, service: Service) -> TableUnavailable | None:
        if self._send is None:
            return self._unavailable(self._reason)
        if self._ready and service not in self._services:
            return self._unserved(service)
        return None

    def _unserved(self, service: Service) -> ServiceUnavailable:
        return ServiceUnavailable(f"table {self.name}: its program does not answer for {service}")

    def _trouble_with(self, key: str) -> TableUnavailable | None:
        if any(char in key for char in "\r\n\0"):
            return self._unavailable("a key with a line end in it")
        try:
            too_long = len(key.encode()) > KEY_MAX
        except UnicodeEncodeError:
            return self._unavailable("a key that is not valid Unicode")
        return self._unavailable(f"a key of more than {KEY_MAX} bytes") if too_long else None

    def _unavailable(self, reason: str) -> TableUnavailable:
        return TableUnavailable(f"table {self.name}: {reason}")

    def _awaited(self, verb: str, service: Service | None = None, key: str | None = None) -> PendingAnswer:
        return PendingAnswer(lambda answered: self._begin(verb, service, key, answered))

    # -- questions -------------------------------------------------------------------------

    def _begin(self, verb: str, service: Service | None, key: str | None, answered: Callable[[Answer], None]) -> None:
        if self._send is None or len(self._asked) >= QUESTIONS_MAX:
            self._unsent.append(ProgramQuestion(verb, service, b"", answered))
            return
        id = self._next_id()
        fields = ["table", PROTOCOL, f"{self._clock():.6f}", self.name, verb, service, id, key]
        line = "|".join(field for field in fields if field is not None).encode() + b"\n"
        self._asked[id] = ProgramQuestion(verb, service, line, answered)
        if self._ready:
            self._send(line)

    def _next_id(self) -> str:
        while True:
            self._last_id = (self._last_id + 1) & 0xFFFFFFFF
            id = f"{self._last_id:08x}"
            if id not in self._asked:
                return id

    # -- driven from outside --------------------------------------------------------------------

    def connect(self, send: Callable[[bytes], None]) -> None:
        """A new program is connected.  `send` must not call back, and must keep what cannot be written yet, at most
        QUESTIONS_MAX lines."""
        self.lost("its program is replaced")
        self._send = send
        told = {"smtpd-version": VERSION, "protocol": PROTOCOL, "tablename": self.name}
        send("".join(f"config|{key}|{value}\n" for key, value in told.items()).encode() + b"config|ready\n")

    def received(self, data: bytes) -> None:
        """Take bytes from the program.  Raises ProgramError, after calling lost()."""
        if self._send is None:
            return
        try:
            for line in self._lines(data):
                self._line(line)
        except ProgramError as broken:
            self.lost(f"its program {broken}")
            raise

    def lost(self, reason: str) -> None:
        """The program is gone: answer all open questions with TableUnavailable."""
        self._send = None
        self._ready = False
        self._services.clear()
        self._begun = b""
        self._reason = reason
        asked, self._asked = self._asked, {}
        for question in asked.values():
            question.answer(self._unavailable(reason))

    def tick(self, now: float) -> None:
        unsent, self._unsent = self._unsent, []
        for question in unsent:
            self._give_up(question, self._reason if self._send is None else "too many questions are under way")
        for question in list(self._asked.values()):
            if question.deadline is None:
                question.deadline = now + ANSWER_TIMEOUT
            elif question.deadline <= now:
                self._give_up(question, f"no answer within {ANSWER_TIMEOUT:.0f} seconds")

    def _give_up(self, question: ProgramQuestion, reason: str) -> None:
        question.answer(self._unavailable(reason))

    # -- lines from the program ------------------------------------------------------------------------

    def _lines(self, data: bytes) -> Iterator[str]:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            if len(line) > LINE_MAX:
                raise ProgramError("sent a line that is too long")
            try:
                yield line.decode()
            except UnicodeDecodeError:
                raise ProgramError("sent a line that is not UTF-8") from None
        if len(self._begun) > LINE_MAX:
            raise ProgramError("sent a line that is too long")

    def _line(self, line: str) -> None:
        word, _, rest = line.partition("|")
        if word == "register" and not self._ready:
            self._register(rest)
        elif self._ready:
            self._result(word, rest)
        else:
            raise ProgramError("sent something other than register")

    def _register(self, word: str) -> None:
        if word == "ready":
            self._begin_asking()
            return
        try:
            service = Service(word)
        except ValueError:
            raise ProgramError("registers an unknown service") from None
        if service in self._services:  # otherwise it could register for ever
            raise ProgramError(f"registers {service} twice")
        self._services.add(service)

    def _begin_asking(self) -> None:
        """The program is ready: send the questions that arrived meanwhile and are still open."""
        if not self._services:
            raise ProgramError("registers no service")
        assert self._send is not None
        self._ready = True
        held, self._asked = self._asked, {}
        for id, question in held.items():
            if question.service is not None and question.service not in self._services:
                question.answer(self._unserved(question.service))
            elif question.answered is not None:
                self._asked[id] = question
                self._send(question.line)

    def _result(self, word: str, rest: str) -> None:
        id, _, said = rest.partition("|")
        question = self._asked.get(id)
        if question is None or word != f"{question.verb}-result":
            raise ProgramError("sent an answer without a question")
        answer = self._understood(question, said)
        del self._asked[id]
        question.answer(answer)

    def _understood(self, question: ProgramQuestion, said: str) -> Answer:
        word, bar, value = said.partition("|")
        match question.verb, word, bool(bar):
            case _, "error", _:
                reason = value if value and question.service is not Service.AUTH else "error"
                return self._unavailable(f"its program says {reason}")
            case "update", "ok", False:
                return None
            case "check", "found", False:
                return True
            case "check", "not-found", False:
                return False
            case "lookup" | "fetch", "found", True:
                return value
            case "lookup" | "fetch", "not-found", False:
                return None
        raise ProgramError("sent an invalid answer")
