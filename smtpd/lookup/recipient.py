"""Carries expansions: asks parent, queue and tables what they want to know, hands over what they come to.

    ExpandRecipient -> Expansion.steps() <-- users, forwards (each remembered for a while), includes, tables' programs
                         Expanded:  AddEnvelopes -> queue, then RecipientExpanded -> the dispatcher that asked
                         Refusal:   RecipientRefused

    ExpandEnvelope  -> Expansion.steps_from(user): a command or file is not in the user's .forward any more
                         EnvelopeExpanded | EnvelopeNotExpanded -> queue

An exception of ours costs the recipient that it happened to: 451, and a traceback in the log.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from smtpd import imsg
from smtpd.envelope import Duty, Recipient, message_text
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, quoted
from smtpd.ipc.question import Questions
from smtpd.lookup.expansion import Ending, Expanded, Expansion
from smtpd.lookup.include import Includes
from smtpd.lookup.memory import Memory
from smtpd.lookup.node import AskServer, FindUser, Forward, Question, ReadForward, ReadInclude, Server
from smtpd.lookup.person import whose_forward
from smtpd.lookup.plan import Plan
from smtpd.lookup.refusal import TEXT, Refusal
from smtpd.tables.expansion import Malformed, parse_forward, said
from smtpd.tables.table import Awaited

USER_SECONDS = 60  # that a user is known, or known not to be one
FORWARD_SECONDS = 5  # that a .forward is taken to be as it was: the time a change needs to be seen at the most
SERVER_SECONDS = 300  # that what an LMTP server takes is taken to be as it was,
TROUBLE_SECONDS = 5  # and that it cannot be asked
USERS, FORWARDS, SERVERS = 10_000, 1_000, 1_000  # remembered
USER_QUESTIONS = 32  # to the parent at a time: each is a process there
FORWARD_QUESTIONS = 256
PAGE = 256 * 1024  # bytes of recipients in an imsg

BROKEN = Refusal(451, "4.3.0", "Temporary failure")

Ended = Callable[[Expanded | Refusal], None]


@dataclass(eq=False)
class Task:
    """An expansion under way, and who is told how it ended."""

    about: str
    steps: Ending
    ended: Ended


class Recipients:
    def __init__(self, plan: Plan, parent: Channel, queue: Channel, now: Callable[[], float], statistics: Counter[str]):
        self._plan = plan
        self._queue = queue
        self._statistics = statistics
        self.to_parent = Questions(parent, USER_QUESTIONS)
        self.to_queue = Questions(queue, FORWARD_QUESTIONS)
        self._users: Memory[FindUser, str] = Memory(self._find_user, now, USERS)
        self._forwards: Memory[ReadForward, Forward] = Memory(self._read_forward, now, FORWARDS)
        self._servers: Memory[AskServer, Server] = Memory(self._ask_server, now, SERVERS)
        self._includes = Includes()

    def _go_on(self, task: Task, answer: Any) -> None:
        try:
            self._step(task, answer)
        except Exception as error:
            log.trouble(task.about, error)
            task.ended(BROKEN)

    def _step(self, task: Task, answer: Any) -> None:
        """Up to the first question whose answer is not known, or to the end."""
        try:
            question = task.steps.send(answer)
            while (known := self._find(question)) is not None:
                question = task.steps.send(known)
        except StopIteration as end:
            task.ended(end.value)
        else:
            self._ask(question, partial(self._go_on, task))

    def _find(self, question: Question | Awaited) -> Any:
        match question:
            case FindUser():
                return self._users.find(question)
            case ReadForward():
                return self._forwards.find(question)
            case AskServer():
                return self._servers.find(question)
            case ReadInclude():
                return self._includes.read(question.path)
            case Awaited():
                return None

    def _ask(self, question: Question | Awaited, answered: Callable[[Any], None]) -> None:
        match question:
            case FindUser():
                self._users.ask(question, answered)
            case ReadForward():
                self._forwards.ask(question, answered)
            case AskServer():
                self._servers.ask(question, answered)
            case Awaited():
                question.begin(answered)

    # -- a recipient, for a dispatcher ------------------------------------------------

    def expand(self, dispatcher: Channel, asked: imsg.ExpandRecipient) -> None:
        expansion = Expansion(
            self._plan,
            asked.origin,
            asked.recipient,
            notify=asked.notify,
            original=asked.original,
        )
        about = f"recipient of message {message_text(asked.message)}"
        self._go_on(Task(about, expansion.steps(), partial(self._recipient_ended, dispatcher, asked)), None)

    def _recipient_ended(self, dispatcher: Channel, asked: imsg.ExpandRecipient, end: Expanded | Refusal) -> None:
        if isinstance(end, Refusal):
            _say_why(asked.recipient, end)
            dispatcher.send(imsg.RecipientRefused(asked.request, end.code, end.enhanced, end.text))
            self._statistics["lookup.recipient.refused"] += 1
            return
        # First to queue: when the client has its 250 for this RCPT, the envelopes are on their way.
        for page in pages(end.recipients):
            self._queue.send(imsg.AddEnvelopes(asked.message, asked.origin, page, asked.terms))
        dispatcher.send(imsg.RecipientExpanded(asked.request, len(end.recipients)))
        self._statistics["lookup.recipient.expanded"] += 1

    # -- an envelope, for queue ----------------------------------------------------------

    def expand_again(self, queue: Channel, asked: imsg.ExpandEnvelope) -> None:
        was = asked.recipient
        action = self._plan.actions.get(was.action)
        if action is None or was.duty is not Duty.FORWARDED:
            # What an alias named was named together with others, who have their mail.
            reason = f"action {was.action} is gone" if action is None else "what its alias named is gone"
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, reason[:TEXT]))
            return
        self._forwards.forget(whose_forward(was.user, action))
        expansion = Expansion(self._plan, asked.origin, was.recipient, notify=was.notify, original=was.original)
        steps = expansion.steps_from(was.user, was.extension, action, was.destination)
        self._go_on(Task("envelope", steps, partial(self._envelope_ended, queue, asked)), None)

    def _envelope_ended(self, queue: Channel, asked: imsg.ExpandEnvelope, end: Expanded | Refusal) -> None:
        was = asked.recipient
        if isinstance(end, Refusal):
            _say_why(was.recipient, end)
            reason = f"{end.code} {end.enhanced} {end.text}"[:TEXT]
            queue.send(imsg.EnvelopeNotExpanded(asked.request, end.code >= 500, reason))
        elif was.digest in {to.digest for to in end.recipients}:
            reason = f".forward of {was.user} is read in two ways"
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, reason))
        elif len(list(pages(end.recipients))) > 1:
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, f".forward of {was.user} names too many"))
        else:
            queue.send(imsg.EnvelopeExpanded(asked.request, list(end.recipients)))
            self._statistics["lookup.envelope.expanded"] += 1

    # -- users, from the parent ------------------------------------------------------

    def _find_user(self, question: FindUser) -> None:
        def found(answer: imsg.UserFound) -> None:
            self._users.answer(question, answer.verdict, 0 if answer.verdict == "later" else USER_SECONDS)

        self.to_parent.ask(lambda request: imsg.FindUser(request, question.name), found)

    # -- .forward, from queue ----------------------------------------------------------

    def _read_forward(self, question: ReadForward) -> None:
        def read(answer: imsg.ForwardRead) -> None:
            forward = understand(answer)
            if forward.verdict == "text" and forward.reason:
                log.warn(f".forward of {question.user}: {forward.reason}")
            self._forwards.answer(question, forward, 0 if forward.verdict == "later" else FORWARD_SECONDS)

        self.to_queue.ask(lambda request: imsg.ReadForward(request, question.user, question.action), read)

    # -- LMTP servers, from queue --------------------------------------------------------

    def _ask_server(self, question: AskServer) -> None:
        def asked(answer: imsg.ServerAnswered) -> None:
            seconds = TROUBLE_SECONDS if answer.verdict == "later" else SERVER_SECONDS
            self._servers.answer(question, Server(answer.verdict, answer.reason), seconds)

        self.to_queue.ask(lambda request: imsg.AskServer(request, question.action), asked)


def pages(recipients: Sequence[Recipient]) -> Iterator[list[Recipient]]:
    """All of them, as many at a time as an imsg carries."""
    page: list[Recipient] = []
    left = PAGE
    for recipient in recipients:
        size = len(msgspec.msgpack.encode(recipient)) if len(recipients) > 1 else 0
        if page and size > left:
            yield page
            page, left = [], PAGE
        page.append(recipient)
        left -= size
    yield page


def _say_why(recipient: str, refusal: Refusal) -> None:
    if refusal.reason:
        log.info(f"recipient {quoted(recipient)} refused: {refusal.reason}")


def understand(answer: imsg.ForwardRead) -> Forward:
    """What the user wants; parsed once for as long as it is remembered."""
    if answer.verdict != "text":
        return Forward(answer.verdict, reason=answer.reason)
    try:
        targets, troubles = parse_forward(answer.content)
        return Forward("text", tuple(targets), f"skipped {'; '.join(said(troubles))}" if troubles else "")
    except Malformed as error:
        return Forward("malformed", reason=str(error))
    except Exception as error:
        log.trouble("the text of a .forward", error)
        return Forward("later", reason="its text cannot be read")
